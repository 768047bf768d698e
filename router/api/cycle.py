"""One request and its answer on a connection: ASGI's `receive` and `send`, written for what is served here.

uvicorn's own cycle looks at every header of an answer with two regular expressions, writes the head by itself
and tells the application of a leaving client only through `receive`, which needs a task that waits there.
This one checks the head once, writes it with what follows in one system call, and calls back through the ASGI
extension `router.departure`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Any, Protocol

from uvicorn._types import ASGI3Application, ASGIReceiveEvent, ASGISendEvent, HTTPScope
from uvicorn.protocols.http.flow_control import FlowControl

_log = logging.getLogger("router.api")
_STATUS_LINES = {s.value: b"HTTP/1.1 %d %b\r\n" % (s.value, s.phrase.encode()) for s in HTTPStatus}
_FRAMING = frozenset((b"content-length", b"transfer-encoding", b"connection"))
_BODYLESS = frozenset((204, 304))
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_LAST_CHUNK = b"0\r\n\r\n"
_JOIN_BYTES = 64 * 1024
_BROKEN = (
    b"HTTP/1.1 500 Internal Server Error\r\ncontent-type: text/plain\r\n"
    b"content-length: 21\r\nconnection: close\r\n\r\nInternal Server Error"
)
DEPARTURE = "router.departure"


class Line(Protocol):
    """What a cycle needs of its connection."""

    transport: asyncio.Transport
    flow: FlowControl

    def on_response_complete(self) -> None:
        """Go on with the connection."""
        ...


class Cycle:
    """Carry one request to the application and its answer back.

    `body` holds the pieces that nobody has received yet; `size` counts their bytes. The attributes that have
    no underscore are read and written by the connection.
    """

    __slots__ = (
        "_chunked",
        "_default_headers",
        "_head",
        "_left",
        "_line",
        "_on_departure",
        "_scope",
        "_wants_continue",
        "body",
        "disconnected",
        "keep_alive",
        "message_event",
        "more_body",
        "response_complete",
        "response_started",
        "size",
        "task",
    )

    def __init__(
        self,
        scope: HTTPScope,
        line: Line,
        default_headers: Sequence[tuple[bytes, bytes]],
        *,
        wants_continue: bool,
        keep_alive: bool,
    ) -> None:
        self.body: list[bytes] = []
        self.size = 0
        self.more_body = True
        self.disconnected = False
        self.keep_alive = keep_alive
        self.message_event = asyncio.Event()
        self.response_started = False
        self.response_complete = False
        self._scope = scope
        self._line = line
        self._default_headers = default_headers
        self._wants_continue = wants_continue
        self._head = b""
        self._chunked = False
        self._left = 0
        self._on_departure: Callable[[], bool] | None = None
        self.task: asyncio.Task[None] | None = None
        scope["extensions"] = {DEPARTURE: {"watch": self.watch_departure}}

    def watch_departure(self, callback: Callable[[], bool] | None) -> None:
        """Ask this when the client leaves before its answer is whole, and cancel the request if it says so.

        None takes it back.
        """
        self._on_departure = callback
        if self.disconnected:
            self._tell()

    def leave(self) -> None:
        """Note that the client has gone, and tell who asked to know."""
        if self.response_complete or self.disconnected:
            return
        self.disconnected = True
        self.message_event.set()
        self._tell()

    def _tell(self) -> None:
        if self._on_departure is not None and self._on_departure() and self.task is not None:
            self.task.cancel()

    async def run(self, app: ASGI3Application) -> None:
        """Let the application answer; the connection ends with an answer that is not whole."""
        try:
            await app(self._scope, self.receive, self.send)
        finally:
            self._scope.pop("extensions", None)  # they refer back to this object
            self.task = None
            self._give_up()

    def _give_up(self) -> None:
        if self.response_complete or self.disconnected:
            return
        transport = self._line.transport
        if self._head or not self.response_started:
            transport.write(_BROKEN)
        transport.close()

    async def receive(self) -> ASGIReceiveEvent:
        """Return what came of the body, waiting for more; or that the client has gone."""
        if self._wants_continue and not self._line.transport.is_closing():
            self._line.transport.write(_CONTINUE)
            self._wants_continue = False
        if not self.disconnected and not self.response_complete:
            self._line.flow.resume_reading()
            await self.message_event.wait()
            self.message_event.clear()
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        pieces, self.body, self.size = self.body, [], 0
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        return {"type": "http.request", "body": body, "more_body": self.more_body}

    async def send(self, message: ASGISendEvent) -> None:
        """Keep the head, or write a part of the body; waits while the client does not read.

        The head goes out with the first part, as ASGI wants it.
        Raises RuntimeError for what would break the framing of the connection.
        """
        if self._line.flow.write_paused and not self.disconnected:
            await self._line.flow.drain()
        if self.disconnected:
            return
        if message["type"] == "http.response.start" and not self.response_started:
            self._start(message["status"], list(message.get("headers", ())))
        elif message["type"] == "http.response.body" and self.response_started and not self.response_complete:
            self._write(message.get("body", b""), more=message.get("more_body", False))
        else:
            raise RuntimeError(f"{message['type']} is out of order")

    def _start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.response_started = True
        self._wants_continue = False
        length, closing = self._framing(headers)
        lines = [b"%b: %b\r\n" % header for header in self._default_headers]
        lines += [b"%b: %b\r\n" % header for header in headers]
        if not self.keep_alive and not closing:
            lines.append(b"connection: close\r\n")
        if length is not None:
            self._left = length
        elif not self._chunked and self._scope["method"] != "HEAD" and status not in _BODYLESS:
            self._chunked = True
            lines.append(b"transfer-encoding: chunked\r\n")
        head = b"".join(lines)
        if head.count(b"\n") != len(lines) or head.count(b"\r") != len(lines) or b"\0" in head:
            raise RuntimeError("a header of the answer would begin another one")
        line = _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
        self._head = b"%b%b\r\n" % (line, head)

    def _framing(self, headers: list[tuple[bytes, bytes]]) -> tuple[int | None, bool]:
        """Return (the declared length, whether the answer closes the connection)."""
        length, closing = None, False
        for name, value in headers:
            if name not in _FRAMING:
                continue
            if name == b"content-length":
                length = int(value)
            elif name == b"connection":
                closing = b"close" in value.lower()
                self.keep_alive = self.keep_alive and not closing
            else:
                self._chunked = True
        return length, closing

    def _write(self, body: bytes, *, more: bool) -> None:
        head, self._head = self._head, b""
        if self._scope["method"] == "HEAD":
            self._left = 0
            body = b""
        elif self._chunked:
            body = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            if not more:
                body += _LAST_CHUNK
        else:
            self._left -= len(body)
            if self._left < 0:
                raise RuntimeError("the answer is longer than its content-length")
        if len(body) > _JOIN_BYTES and head:
            self._line.transport.writelines((head, body))
        elif head or body:
            self._line.transport.write(head + body)
        if not more:
            self._end()

    def _end(self) -> None:
        if self._left:
            raise RuntimeError("the answer is shorter than its content-length")
        self.response_complete = True
        self._on_departure = None
        self.message_event.set()
        if not self.keep_alive:
            self._line.transport.close()
        self._line.on_response_complete()


def note_failure(task: asyncio.Task[None]) -> None:
    """Log what a request's task ended with: an answer that broke in its middle, or a defect.

    The chat routes answer every failure themselves and so does Litestar, so a defect is rare here.
    """
    fault = None if task.cancelled() else task.exception()
    if fault is None:
        return
    cause = fault.__cause__ or fault
    if isinstance(cause, ConnectionAbortedError):
        _log.warning("%s", cause)
    else:
        _log.error("the application failed", exc_info=fault)


def departure_of(scope: Any) -> Callable[[Callable[[], bool] | None], None] | None:
    """Return `Cycle.watch_departure` of a request, where the server offers it."""
    offered = scope.get("extensions", {}).get(DEPARTURE)
    return offered["watch"] if offered is not None else None
