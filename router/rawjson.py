"""Read raw JSON in part: a long string's ends, an object's keys; nothing is parsed that nobody reads."""

from __future__ import annotations

import re

import msgspec
from msgspec import Raw

from router.errors import BadRequest

# The head and the tail of a long text that are read; the rest is never decoded.
TEXT_HEAD_BYTES = 4_000
TEXT_TAIL_BYTES = 4_000
# A cut can break an escaped surrogate pair, which is 12 bytes long; nothing a cut breaks is longer.
_LONGEST_CHARACTER_BYTES = 12
_FRAME_BYTES = 4  # of a member: two quotes, a colon, a comma or the brace that ends all
_COMPARED_BYTES = 64
_KEY = re.compile(rb'[ \t\r\n]*("(?:[^"\\]|\\.)*")[ \t\r\n]*:[ \t\r\n]*')
_END = re.compile(rb"[ \t\r\n]*[,}]")

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

    A body without a space between its members, as SDKs write it, is as long as its members say, or one of
    them stands twice. Any other is walked from value to value; each must be the one that decoding kept.
    """
    size = 1
    for name, raw in members.items():
        size += len(name) + len(memoryview(raw)) + _FRAME_BYTES
    if size == len(body) and "".join(members).isascii():
        return
    seen: set[str] = set()
    at = body.index(b"{") + 1
    while key := _KEY.match(body, at):
        name = _string.decode(key[1])
        value = members[name]
        after = _END.match(body, key.end() + len(memoryview(value)))
        if name in seen or after is None or not _stands_at(body, key.end(), value):
            raise BadRequest(f"The field {name} stands twice.", param=name, name="duplicate_field")
        seen.add(name)
        at = after.end()


def _stands_at(body: bytes, at: int, value: Raw) -> bool:
    """Tell whether a value stands there, by both its ends: a long one is not compared whole."""
    view = memoryview(value)
    if len(view) <= 2 * _COMPARED_BYTES:
        return body.startswith(bytes(view), at)
    head, tail = bytes(view[:_COMPARED_BYTES]), bytes(view[-_COMPARED_BYTES:])
    return body.startswith(head, at) and body.startswith(tail, at + len(view) - _COMPARED_BYTES)
