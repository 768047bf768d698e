"""Decode parts of a request that were left raw; what is wrong is told with the place where it stands."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from msgspec import Raw

from router.errors import BadRequest
from router.rawjson import first_byte
from router.wire import schema_fault

T = TypeVar("T")
NULL = Raw(b"null")
_string = msgspec.json.Decoder(str)


def decoded(decoder: msgspec.json.Decoder[T], raw: Raw, path: str) -> T:
    """Decode a raw value that stands at `path`. Raises `BadRequest` with `param` naming the place."""
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as fault:
        text = str(fault)
        if " - at `$" not in text:  # the value itself
            text += " - at `$`"
        raise schema_fault(text.replace("at `$", f"at `$.{path}")) from None
    except RecursionError:
        raise BadRequest("The body is nested too deeply.", name="invalid_json") from None


def text_at(raw: Raw, path: str) -> str:
    """Return a string. Raises `BadRequest`."""
    if first_byte(raw) != b'"':
        raise BadRequest(f"{path} must be a string.", param=path)
    return decoded(_string, raw, path)


def is_null(raw: Raw) -> bool:
    """Tell whether a member is absent or null."""
    return bytes(memoryview(raw)[:4]) == b"null"


def refuse(path: str, text: str) -> BadRequest:
    """Return the error for something that this router cannot do for the Responses API."""
    return BadRequest(f"{path} {text}", param=path, name="unsupported_by_responses")


Said = dict[str, Any]
