"""Read raw JSON in part: a long string's ends, an object's keys; nothing is parsed that nobody reads."""

from __future__ import annotations

import msgspec
from msgspec import Raw

from router.errors import BadRequest

# The head and the tail of a long text that are read; the rest is never decoded.
TEXT_HEAD_BYTES = 4_000
TEXT_TAIL_BYTES = 4_000
# A cut can break an escaped surrogate pair, which is 12 bytes long; nothing a cut breaks is longer.
_LONGEST_CHARACTER_BYTES = 12
_WHITESPACE = b" \t\r\n"

_string = msgspec.json.Decoder(str)


def first_byte(raw: Raw) -> bytes:
    """Return the byte that tells a raw value's type: a quote, a bracket, n of null, ..."""
    return bytes(memoryview(raw)[:1])


def cut_text(raw: Raw) -> str:
    """Decode a raw JSON string; of a long one only head and tail, so that its middle costs nothing."""
    view = memoryview(raw)
    if len(view) <= TEXT_HEAD_BYTES + TEXT_TAIL_BYTES:
        return _string.decode(view)
    tail = bytes(view[-TEXT_TAIL_BYTES:-1])
    if tail.startswith(b"\\") and _ends_in_open_escape(bytes(view[:-TEXT_TAIL_BYTES])):
        tail = tail[1:]
    return decode_prefix(bytes(view[1:TEXT_HEAD_BYTES])) + "\n" + _decode_suffix(tail)


def _ends_in_open_escape(piece: bytes) -> bool:
    """Tell whether the last backslash begins an escape; in a row of them every second one does not."""
    return (len(piece) - len(piece.rstrip(b"\\"))) % 2 == 1


def decode_prefix(piece: bytes) -> str:
    """Decode the inside of a JSON string that was cut at its end."""
    for cut in range(_LONGEST_CHARACTER_BYTES + 1):
        text = _try_decode(piece[: len(piece) - cut])
        if text is not None:
            return text
    return ""


def _decode_suffix(piece: bytes) -> str:
    """Decode the inside of a JSON string that was cut at its start; a cut escape may leave its letters."""
    for cut in range(_LONGEST_CHARACTER_BYTES + 1):
        text = _try_decode(piece[cut:])
        if text is not None:
            return text
    return ""


def _try_decode(inside: bytes) -> str | None:
    try:
        return _string.decode(b'"' + inside + b'"')
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def refuse_duplicates(body: bytes, members: dict[str, Raw]) -> None:
    """Raise `BadRequest` when a top-level key stands twice: which one counts would be anyone's guess.

    Walks from value to value; each must be the one that decoding kept, so no value is parsed again.
    """
    seen: set[str] = set()
    at = _skip(body, body.index(b"{") + 1)
    while body[at : at + 1] == b'"':
        end = at + 1
        while body[end : end + 1] != b'"':
            end += 2 if body[end : end + 1] == b"\\" else 1
        name = _string.decode(body[at : end + 1])
        value = bytes(members[name])
        at = _skip(body, _skip(body, end + 1) + 1)
        after = _skip(body, at + len(value))
        whole = body.startswith(value, at) and body[after : after + 1] in (b",", b"}")
        if name in seen or not whole:
            raise BadRequest(f"The field {name} stands twice.", param=name, name="duplicate_field")
        seen.add(name)
        at = _skip(body, after + 1)


def _skip(body: bytes, at: int) -> int:
    while body[at : at + 1] and body[at] in _WHITESPACE:
        at += 1
    return at
