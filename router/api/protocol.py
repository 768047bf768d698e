"""uvicorn's HTTP/1.1 protocol with what it lacks: bounds on head and connections, deadlines to send them.

A client that sends its head or its body a byte at a time, or never reads its answer, would hold a connection
for ever. The timers are started only when a head or a body is not whole after a read, or when a client falls
behind with reading, so an ordinary request costs nothing.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Any, ClassVar

from uvicorn._types import ASGI3Application, ASGIReceiveCallable, ASGISendCallable, Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from router.errors import BadRequest, RouterError, Unavailable

_log = logging.getLogger("router.api")
_REASONS = {400: "Bad Request", 503: "Service Unavailable"}
_LINGER_S = 1.0  # that a refused client has to read why; closing at once would reset what it has not read
_STOPPING_LOOK_S = 0.2


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one connection may take; times in seconds, `connections` is for the whole process."""

    head_bytes: int = 64 * 1024
    headers: int = 200
    head_s: float = 20.0
    body_s: float = 120.0
    client_stall_s: float = 60.0  # without a byte taken of an answer that waits
    connections: int = 10_000


class BoundedProtocol(HttpToolsProtocol):
    """Serve one connection; closes it when a bound or a deadline is passed."""

    bounds: ClassVar[Bounds] = Bounds()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_bytes = 0
        self._read_bytes = 0
        self._in_head = True
        self._in_body = False
        self._refused = False
        self._stopping = False
        self._deadline: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None
        self._unsent_bytes = 0
        self._unsent_since_s = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first head; over the bound of connections, refuse."""
        super().connection_made(transport)
        if len(self.connections) > self.bounds.connections:
            self._refuse(Unavailable("The router has too many connections; try again soon.", retry_after_s=1))
        else:
            self._deadline = self.loop.call_later(self.bounds.head_s, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the deadlines."""
        self._clear_deadline()
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what came; a head that stays open is counted, and a deadline set for what is missing."""
        if self._refused or self.transport.is_closing():
            return
        was_in_head = self._in_head
        self._read_bytes = len(data)
        super().data_received(data)
        if self._refused or self.transport.is_closing():
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
            elif self._in_head or self._is_idle():
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
        version = self.parser.get_http_version()
        hosts = sum(name == b"host" for name, _ in self.headers)
        if version not in ("1.1", "1.0") or hosts > 1 or (version == "1.1" and not hosts):
            raise ValueError("not HTTP/1.1 with one host")
        if not self.url.startswith(b"/"):
            raise ValueError("the target is not a path")
        if self._head_bytes + self._read_bytes > self.bounds.head_bytes:  # it may have come in one read
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if size > self.bounds.head_bytes:
                raise ValueError("the head is too large")
        super().on_headers_complete()
        self._in_head, self._in_body = False, True
        self._clear_deadline()
        if self._stopping:
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        """End the body; until the next head begins, the answer and a pause may take their time."""
        self._in_body = False
        self._clear_deadline()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Go on after an answer; a closing connection must not wait for ever until the answer is read."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._watch_unsent()

    def send_400_response(self, msg: str) -> None:
        """Refuse bytes that are no request; while an earlier request's answer is due, by closing alone."""
        if self._is_idle() or (self._in_body and not self.pipeline and not self.cycle.response_started):
            self._refuse(BadRequest(msg, name="invalid_http"))
        else:
            self._refused = True
            self._clear_deadline()
            self.transport.abort()

    def pause_writing(self) -> None:
        """Watch a client that does not read as fast as we write."""
        super().pause_writing()
        self._watch_unsent()

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection that was idle for long; what was not read by now never will be."""
        self._give_up()

    def shutdown(self) -> None:
        """Let a running answer end; an idle connection stays open meanwhile, so that it can be told."""
        self._stopping = True
        self.app = _while_stopping(self.app)
        if self._is_idle():
            self._leave_last()
        else:
            self.cycle.keep_alive = False

    def _leave_last(self) -> None:
        """Close an idle connection once no request runs in the process."""
        if self.transport.is_closing():
            return
        if self.tasks:
            self.loop.call_later(_STOPPING_LOOK_S, self._leave_last)
        elif self._is_idle():
            self.transport.close()

    def _unsupported_upgrade_warning(self) -> None:
        """Stay silent: the request is served, and a client could fill the log."""

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _refuse(self, error: RouterError) -> None:
        """Answer in the form of all our errors, take nothing more, and close."""
        self._refused = True
        self._clear_deadline()
        self.connections.discard(self)
        if not self._is_idle():
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        body = error.body()
        head = [
            b"HTTP/1.1 %d %s" % (error.status, _REASONS[error.status].encode()),
            b"content-type: application/json",
            b"content-length: %d" % len(body),
            b"connection: close",
            *(name + b": " + value for name, value in error.headers()),
        ]
        self.transport.write(b"\r\n".join(head) + b"\r\n\r\n" + body)
        self.transport.write_eof()
        self.flow.resume_reading()
        self._deadline = self.loop.call_later(_LINGER_S, self.transport.abort)

    def _give_up(self) -> None:
        """Close; but not while the answer to an earlier request is on its way."""
        self._deadline = None
        if self.transport.is_closing():
            return
        if self.pipeline or not (self._in_body or self._is_idle()):
            self._deadline = self.loop.call_later(self.bounds.head_s, self._give_up)
        elif self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self.transport.close()

    def _watch_unsent(self) -> None:
        self._unsent_since_s = self.loop.time()
        self._unsent_bytes = self.transport.get_write_buffer_size()
        if self._stall is None:
            self._stall = self.loop.call_later(self.bounds.client_stall_s, self._look_at_unsent)

    def _look_at_unsent(self) -> None:
        """Cut a client that has taken nothing for too long; one that reads slowly may go on."""
        self._stall = None
        if not (self.flow.write_paused or self.transport.is_closing()):
            return
        now_s, unsent_bytes = self.loop.time(), self.transport.get_write_buffer_size()
        if unsent_bytes < self._unsent_bytes:
            self._unsent_since_s, self._unsent_bytes = now_s, unsent_bytes
        left_s = self._unsent_since_s + self.bounds.client_stall_s - now_s
        if left_s <= 0:
            _log.info("a client took nothing of its answer for %g s", self.bounds.client_stall_s)
            self.transport.abort()
        else:
            self._stall = self.loop.call_later(left_s, self._look_at_unsent)

    def _clear_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def _while_stopping(app: ASGI3Application) -> ASGI3Application:
    """Return the app of a service that was told to stop: it takes no new work and is not ready."""

    async def stopping(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        if scope["type"] != "http" or (scope["method"] != "POST" and scope["path"] != "/health/ready"):
            await app(scope, receive, send)
            return
        error = Unavailable("The router is stopping; send the request again.", retry_after_s=1)
        body = error.body()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            *error.headers(),
        ]
        await send({"type": "http.response.start", "status": error.status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    return stopping


def bounded(bounds: Bounds) -> type[BoundedProtocol]:
    """Return the protocol class with these bounds, as uvicorn's `http` setting takes one."""
    return type("BoundedProtocol", (BoundedProtocol,), {"bounds": bounds})
