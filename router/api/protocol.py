"""uvicorn's HTTP/1.1 protocol with what it lacks: bounds on the head, deadlines for head and body.

A client that sends its head or its body a byte at a time would hold a connection for ever. The timers are
started only when a head or a body is not whole after a read, so an ordinary request costs nothing.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from router.errors import BadRequest

MAX_HEAD_BYTES = 64 * 1024
MAX_HEADERS = 200
HEAD_S = 20.0
BODY_S = 120.0


class BoundedProtocol(HttpToolsProtocol):
    """Serve one connection; closes it when a bound or a deadline is passed."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_bytes = 0
        self._in_head = True
        self._in_body = False
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first head."""
        super().connection_made(transport)
        self._deadline = self.loop.call_later(HEAD_S, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the deadline."""
        self._clear_deadline()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what came; a head that stays open is counted, and a deadline set for what is missing."""
        was_in_head = self._in_head
        super().data_received(data)
        if self.transport.is_closing():
            self._clear_deadline()
        elif self._in_head:
            # A read that began inside the body before says nothing of this head's size.
            self._head_bytes += len(data) if was_in_head else 0
            if self._head_bytes > MAX_HEAD_BYTES:
                self.send_400_response("The request's head is too large.")
            elif self._deadline is None:
                self._deadline = self.loop.call_later(HEAD_S, self._give_up)
        elif self._in_body and self._deadline is None:
            self._deadline = self.loop.call_later(BODY_S, self._give_up)

    def on_message_begin(self) -> None:
        """Begin a head."""
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take one header line, up to a bound."""
        super().on_header(name, value)
        if len(self.headers) > MAX_HEADERS:
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
        """Refuse bytes that are no request, in the form of all our errors, and close."""
        body = BadRequest(msg, name="invalid_http").body()
        head = (
            "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()

    def _give_up(self) -> None:
        self._deadline = None
        if not self.transport.is_closing():
            self.transport.close()

    def _clear_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
