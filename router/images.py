"""Check what a request offers as an image: its address, or a data URI's type and magic bytes.

The router fetches no address; it looks at the scheme and passes the part on.
"""

from __future__ import annotations

import binascii
import re

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from router.errors import BadRequest
from router.rawjson import decode_prefix, first_byte

_HEAD_BYTES = 512


class _ImageUrl(Struct):
    url: Raw


_image_url = msgspec.json.Decoder(_ImageUrl)
_MAGIC = {
    "image/jpeg": (b"\xff\xd8\xff",),
    "image/jpg": (b"\xff\xd8\xff",),
    "image/png": (b"\x89PNG\r\n\x1a\n",),
    "image/gif": (b"GIF87a", b"GIF89a"),
    "image/webp": (b"RIFF",),
}
_DATA_URI = re.compile(r"data:([a-z]+/[a-z0-9.+-]+)(?:;[a-z]+=[^;,]*)*;base64,", re.IGNORECASE)


def check_image(image: Raw | UnsetType, path: str) -> int:
    """Check an image's address and, of a data URI, type and magic bytes; return the data URI's size."""
    if image is UNSET:
        raise BadRequest(f"{path} is missing.", param=path, name="missing_field")
    view = memoryview(image)
    if first_byte(image) == b'"':  # some clients send the URL itself in place of {"url": ...}
        url = view
    else:
        try:
            url = memoryview(_image_url.decode(view).url)
        except msgspec.ValidationError:
            raise BadRequest(f"{path}.url is missing.", param=f"{path}.url", name="missing_field") from None
        path = f"{path}.url"
    if bytes(url[:1]) != b'"':
        raise BadRequest(f"{path} must be a string.", param=path)
    head = decode_prefix(bytes(url[1 : min(len(url) - 1, _HEAD_BYTES)]))
    scheme = head.partition(":")[0].lower()
    if scheme in ("http", "https"):
        if not re.match(r"https?://[^/\s?#]", head, re.IGNORECASE) or not head.isprintable():
            raise BadRequest(f"{path} is not a usable http(s) address.", param=path, name="invalid_image_url")
        return 0
    if scheme != "data":
        raise BadRequest(
            f"{path} must start with https:, http: or data:.", param=path, name="invalid_image_url"
        )
    _check_data_uri(head, path)
    return len(url)


def _check_data_uri(head: str, path: str) -> None:
    match = _DATA_URI.match(head)
    media = match[1].lower() if match else ""
    if match is None or media not in _MAGIC:
        raise BadRequest(
            f"{path} must be base64 data of type image/jpeg, image/png, image/webp or image/gif.",
            param=path,
            name="invalid_image_data",
        )
    start = _decode_base64_head(head[match.end() : match.end() + 24])
    fits = any(start.startswith(magic) for magic in _MAGIC[media])
    if not fits or (media == "image/webp" and start[8:12] != b"WEBP"):
        raise BadRequest(
            f"{path} does not hold a file of type {media}.", param=path, name="invalid_image_data"
        )


def _decode_base64_head(text: str) -> bytes:
    try:
        return binascii.a2b_base64(text[: len(text) // 4 * 4], strict_mode=True)
    except ValueError:  # binascii.Error is one; text that is not ASCII raises another
        return b""
