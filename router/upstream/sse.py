"""Cut a server-sent-event stream into its events, whatever the reads and line ends are.

Source of the format: WHATWG HTML, section 9.2. Events keep their bytes as they came.
"""

from __future__ import annotations

import re

from msgspec import Struct

MAX_EVENT_BYTES = 8 * 1024 * 1024
# Two line ends in a row, of any kind; "\r\n" is one line end, not two.
_BLANK_LINE = re.compile(rb"\r?\n(?:\r\n|\n|\r(?!\Z))|\r\r")
_LINE_END = re.compile(rb"\r\n|\n|\r")
_BOM = b"\xef\xbb\xbf"


class EventTooLargeError(Exception):
    """An event has grown over `MAX_EVENT_BYTES` without an end."""


class Event(Struct, frozen=True, gc=False):
    """One event: its bytes with the blank line, and its data; None for comments and other fields alone."""

    raw: bytes
    data: bytes | None


class EventReader:
    """Collect bytes and give whole events."""

    def __init__(self) -> None:
        self._buffer = b""
        self._started = False

    def feed(self, data: bytes) -> list[Event]:
        """Return the events that these bytes complete.

        Raises `EventTooLargeError` when an event does not end.
        """
        buffer = self._buffer + data if self._buffer else data
        if not self._started:
            if len(buffer) < len(_BOM) and _BOM.startswith(buffer):
                self._buffer = buffer
                return []
            buffer = buffer.removeprefix(_BOM)
            self._started = True
        # A blank line may have begun in the bytes that were here before; no further back than three bytes.
        search_from = max(0, len(self._buffer) - 3)
        if b"\r" in buffer:
            events, start = _cut_any(buffer, search_from)
        else:
            events, start = _cut_plain(buffer, search_from)
        self._buffer = buffer[start:]
        if len(self._buffer) > MAX_EVENT_BYTES:
            raise EventTooLargeError
        return events

    def finish(self) -> list[Event]:
        """Return what is left when the stream ends without a blank line."""
        rest, self._buffer = self._buffer, b""
        return [_event(rest.rstrip(b"\r\n") + b"\n\n")] if rest.strip() else []


def _cut_plain(buffer: bytes, search_from: int) -> tuple[list[Event], int]:
    """Return the whole events of a buffer without carriage returns, as nearly all are, and what was taken."""
    events: list[Event] = []
    start = 0
    while (end := buffer.find(b"\n\n", max(start, search_from))) >= 0:
        events.append(_event(buffer[start : end + 2]))
        start = end + 2
    return events, start


def _cut_any(buffer: bytes, search_from: int) -> tuple[list[Event], int]:
    """Return the whole events of any buffer; the pattern costs four times what `find` does."""
    events: list[Event] = []
    start = 0
    while match := _BLANK_LINE.search(buffer, max(start, search_from)):
        events.append(_event(buffer[start : match.end()]))
        start = match.end()
    return events, start


def _event(raw: bytes) -> Event:
    stripped = raw.strip(b"\r\n")
    if stripped.startswith(b"data:") and b"\n" not in stripped and b"\r" not in stripped:
        return Event(raw, stripped[5:].removeprefix(b" "))
    lines = [line for line in _LINE_END.split(stripped) if line.startswith(b"data:") or line == b"data"]
    if not lines:
        return Event(raw, None)
    return Event(raw, b"\n".join(line[5:].removeprefix(b" ") for line in lines))


def event_bytes(data: bytes) -> bytes:
    """Write one event; data of several lines keeps them."""
    return b"data: " + data.replace(b"\n", b"\ndata: ") + b"\n\n"


DONE = event_bytes(b"[DONE]")
