"""uvicorn's HTTP/1.1 protocol with what it lacks: bounds on head and connections, deadlines to send them.

A client that sends its head or its body a byte at a time would hold a connection for ever. The timers are
started only when a head or a body is not whole after a read, so an ordinary request costs nothing.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from router.errors import BadRequest, RouterError, Unavailable

_REASONS = {400: "Bad Request", 503: "Service Unavailable"}


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one connection may take; times in seconds, `connections` is for the whole process."""

    head_bytes: int = 64 * 1024
    headers: int = 200
    head_s: float = 20.0
    body_s: float = 120.0
    connections: int = 10_000


class BoundedProtocol(HttpToolsProtocol):
    """Serve one connection; closes it when a bound or a deadline is passed."""

    bounds: ClassVar[Bounds] = Bounds()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_bytes = 0
        self._in_head = True
        self._in_body = False
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first head; over the bound of connections, refuse."""
        super().connection_made(transport)
        if len(self.connections) > self.bounds.connections:
            self._refuse(Unavailable("The router has too many connections; try again soon.", retry_after_s=1))
        else:
            self._deadline = self.loop.call_later(self.bounds.head_s, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the deadline."""
        self._clear_deadline()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what came; a head that stays open is counted, and a deadline set for what is missing."""
        if self.transport.is_closing():
            return
        was_in_head = self._in_head
        super().data_received(data)
        if self.transport.is_closing():
            self._clear_deadline()
            return
        if self._in_head:
            # A read that began inside the body before says nothing of this head's size.
            self._head_bytes += len(data) if was_in_head else 0
            if self._head_bytes > self.bounds.head_bytes:
                self._refuse(BadRequest("The request's head is too large.", name="invalid_http"))
                return
        if self._deadline is None:
            if self._in_body:
                self._deadline = self.loop.call_later(self.bounds.body_s, self._give_up)
            elif self._in_head or self.cycle is None or self.cycle.response_complete:
                # An open head, or bytes between requests that begin none.
                self._deadline = self.loop.call_later(self.bounds.head_s, self._give_up)

    def on_message_begin(self) -> None:
        """Begin a head."""
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take one header line, up to a bound."""
        super().on_header(name, value)
        if len(self.headers) > self.bounds.headers:
            raise ValueError("too many headers")

    def on_headers_complete(self) -> None:
        """Begin the body; refuses what no honest client sends: old versions, a proxy's target, odd hosts."""
        self._in_head, self._in_body = False, True
        self._clear_deadline()
        version = self.parser.get_http_version()
        hosts = sum(name == b"host" for name, _ in self.headers)
        if version not in ("1.1", "1.0") or hosts > 1 or (version == "1.1" and not hosts):
            raise ValueError("not HTTP/1.1 with one host")
        if not self.url.startswith(b"/"):
            raise ValueError("the target is not a path")
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """End the body; until the next head begins, the answer and a pause may take their time."""
        self._in_body = False
        self._clear_deadline()
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse bytes that are no request."""
        self._refuse(BadRequest(msg, name="invalid_http"))

    def _refuse(self, error: RouterError) -> None:
        """Answer in the form of all our errors and close."""
        self._clear_deadline()
        body = error.body()
        head = [
            b"HTTP/1.1 %d %s" % (error.status, _REASONS[error.status].encode()),
            b"content-type: application/json",
            b"content-length: %d" % len(body),
            b"connection: close",
            *(name + b": " + value for name, value in error.headers()),
        ]
        self.transport.write(b"\r\n".join(head) + b"\r\n\r\n" + body)
        self.transport.close()

    def _give_up(self) -> None:
        self._deadline = None
        if not self.transport.is_closing():
            self.transport.close()

    def _clear_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def bounded(bounds: Bounds) -> type[BoundedProtocol]:
    """Return the protocol class with these bounds, as uvicorn's `http` setting takes one."""
    return type("BoundedProtocol", (BoundedProtocol,), {"bounds": bounds})
