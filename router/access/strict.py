"""Read what strangers send in a header: strict base64 of strict JSON, bounded in size and depth."""

from __future__ import annotations

import base64
import binascii
from typing import Any

import msgspec

from router.access.terms import HEADER_BYTES

MAX_DEPTH = 16


def decode_header(name: str, value: str) -> Any:
    """Return the JSON in a header's base64 (standard alphabet, padded). Raises ValueError."""
    if len(value) > HEADER_BYTES:
        raise ValueError(f"{name} is over {HEADER_BYTES} bytes")
    try:
        raw = base64.b64decode(value, validate=True)
    except (ValueError, binascii.Error):
        raise ValueError(f"{name} is not base64 (standard alphabet, padded)") from None
    if base64.b64encode(raw) != value.encode():
        raise ValueError(f"{name} is not canonical base64")
    try:
        tree = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ValueError(f"{name} is not base64 of JSON") from None
    if not _within(tree, MAX_DEPTH):
        raise ValueError(f"{name} is nested deeper than {MAX_DEPTH}")
    return tree


def encode_header(tree: Any) -> bytes:
    """Return base64 of the JSON of something."""
    return base64.b64encode(msgspec.json.encode(tree))


def _within(tree: Any, depth: int) -> bool:
    if isinstance(tree, dict):
        tree = tree.values()
    elif not isinstance(tree, list):
        return True
    return depth > 0 and all(_within(member, depth - 1) for member in tree)
