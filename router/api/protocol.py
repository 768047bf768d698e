"""uvicorn's HTTP/1.1 protocol with what it lacks: bounds on head and connections, deadlines to send them.

A client that sends its head or its body a byte at a time, or never reads its answer, would hold a connection
for ever. The timers are started only when a head or a body is not whole after a read, or when a client falls
behind with reading, and the one for idle connections is left alone while requests come: an ordinary request
sets none.
"""

from __future__ import annotations

import asyncio
import logging
import re
import uuid
from collections import deque
from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import unquote

import httptools
from uvicorn._types import ASGI3Application, ASGIReceiveCallable, ASGISendCallable, Scope
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from router.api.cycle import Cycle, note_failure
from router.api.ids import shown_request_id
from router.errors import BadRequest, RouterError, Unavailable

_log = logging.getLogger("router.api")
# RFC 9110, section 7.2; percent-encoded names are none of ours.
_HOST = re.compile(rb"(?:[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_VERSIONS = frozenset(("1.1", "1.0"))
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
    cycle: Cycle | None  # type: ignore[assignment]  # uvicorn's own class there
    pipeline: deque[tuple[Cycle, ASGI3Application]]  # type: ignore[assignment]

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
        self._idle: asyncio.TimerHandle | None = None
        self._idle_since_s = 0.0
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
        """Forget the deadlines; whoever works on an answer for this client is told."""
        self._clear_deadline()
        for timer in (self._stall, self._idle):
            if timer is not None:
                timer.cancel()
        self._stall = self._idle = None
        cycles = [cycle for cycle, _ in self.pipeline]
        for cycle in (self.cycle, *cycles):
            if cycle is not None:
                cycle.leave()
        super().connection_lost(exc)
        self.cycle = None  # they refer to each other

    def data_received(self, data: bytes) -> None:
        """Take what came; a head that stays open is counted, and a deadline set for what is missing."""
        if self._refused or self.transport.is_closing():
            return
        was_in_head = self._in_head
        self._read_bytes = len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")
        except httptools.HttpParserUpgrade:
            pass  # the request is served as if it had not asked for another protocol
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

    def on_headers_complete(self) -> None:
        """Begin the body; refuses what no honest client sends: old versions, a proxy's target, odd hosts."""
        version = self._check_head()
        self._in_head, self._in_body = False, True
        self._clear_deadline()
        url = httptools.parse_url(self.url)
        path = url.path.decode("ascii")
        scope = self.scope
        scope["http_version"] = version
        scope["method"] = self.parser.get_method().decode("ascii")
        scope["path"] = unquote(path) if "%" in path else path
        scope["raw_path"] = url.path
        scope["query_string"] = url.query or b""
        cycle = Cycle(
            scope,
            self,
            self.server_state.default_headers,
            wants_continue=self.expect_100_continue,
            keep_alive=version != "1.0" and self.parser.should_keep_alive() and not self._stopping,
        )
        behind, self.cycle = self.cycle, cycle
        if behind is None or behind.response_complete:
            self._begin(cycle)
        else:  # a pipelined request waits for the answers before it
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, self.app))

    def _check_head(self) -> str:
        """Return the HTTP version. Raises ValueError, which comes out of the parser as its own fault."""
        version: str = self.parser.get_http_version()
        if len(self.headers) > self.bounds.headers:
            raise ValueError("too many headers")
        hosts = [value for name, value in self.headers if name == b"host"]
        if version not in _VERSIONS or len(hosts) > 1 or (version == "1.1" and not hosts):
            raise ValueError("not HTTP/1.1 with one host")
        if hosts and hosts[0] and not _HOST.fullmatch(hosts[0]):
            raise ValueError("not the name of a host")
        if not self.url.startswith(b"/"):
            raise ValueError("the target is not a path")
        if self._head_bytes + self._read_bytes > self.bounds.head_bytes:  # it may have come in one read
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if size > self.bounds.head_bytes:
                raise ValueError("the head is too large")
        return version

    def _begin(self, cycle: Cycle) -> None:
        """Let the application answer; uvicorn waits for the tasks of its set when it stops."""
        cycle.task = task = self.loop.create_task(cycle.run(self.app))
        self.tasks.add(task)
        task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        note_failure(task)

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body; reads no further than one high-water mark ahead of the application."""
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            return
        cycle.body.append(body)
        cycle.size += len(body)
        if cycle.size > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.message_event.set()

    def on_message_complete(self) -> None:
        """End the body; until the next head begins, the answer and a pause may take their time."""
        self._in_body = False
        self._clear_deadline()
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            cycle.more_body = False
            cycle.message_event.set()

    def on_response_complete(self) -> None:
        """Go on after an answer; a closing connection must not wait for ever until the answer is read."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            self._watch_unsent()
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, _ = self.pipeline.pop()
            self._begin(cycle)
            return
        self._idle_since_s = self.loop.time()
        if self._idle is None:
            self._idle = self.loop.call_later(self.timeout_keep_alive, self._look_at_idle)

    def _look_at_idle(self) -> None:
        """Close a connection that was idle for long; one timer moves on from request to request."""
        self._idle = None
        busy = not self._is_idle() or self._deadline is not None
        left_s = self._idle_since_s + self.timeout_keep_alive - self.loop.time()
        if left_s <= 0 and not busy:
            self._give_up()
        else:
            self._idle = self.loop.call_later(self.timeout_keep_alive if busy else left_s, self._look_at_idle)

    def send_400_response(self, msg: str) -> None:
        """Refuse bytes that are no request; while an earlier request's answer is due, by closing alone."""
        running = self._running()
        if running is None or (self._in_body and not self.pipeline and not running.response_started):
            self._refuse(BadRequest(msg, name="invalid_http"))
        else:
            self._refused = True
            self._clear_deadline()
            self.transport.abort()

    def pause_writing(self) -> None:
        """Watch a client that does not read as fast as we write."""
        super().pause_writing()
        self._watch_unsent()

    def shutdown(self) -> None:
        """Let a running answer end; an idle connection stays open meanwhile, so that it can be told."""
        self._stopping = True
        self.app = _while_stopping(self.app)
        running = self._running()
        if running is None:
            self._leave_last()
        else:
            running.keep_alive = False

    def _leave_last(self) -> None:
        """Close an idle connection once no request runs in the process."""
        if self.transport.is_closing():
            return
        if self.tasks:
            self.loop.call_later(_STOPPING_LOOK_S, self._leave_last)
        elif self._is_idle():
            self.transport.close()

    def _running(self) -> Cycle | None:
        """Return the request whose answer is due, None when nothing is."""
        return None if self.cycle is None or self.cycle.response_complete else self.cycle

    def _is_idle(self) -> bool:
        return self._running() is None

    def _refuse(self, error: RouterError) -> None:
        """Answer in the form of all our errors, take nothing more, and close."""
        self._refused = True
        self._clear_deadline()
        self.connections.discard(self)
        running = self._running()
        if running is not None:
            running.leave()
        body = error.body()
        head = [
            b"HTTP/1.1 %d %s" % (error.status, _REASONS[error.status].encode()),
            b"content-type: application/json",
            b"content-length: %d" % len(body),
            b"connection: close",
            b"x-request-id: " + _new_id().encode(),
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
            (b"x-request-id", shown_request_id(scope["headers"], _new_id()).encode()),
            *error.headers(),
        ]
        await send({"type": "http.response.start", "status": error.status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    return stopping


def _new_id() -> str:
    return f"req_{uuid.uuid4().hex}"


def bounded(bounds: Bounds) -> type[BoundedProtocol]:
    """Return the protocol class with these bounds, as uvicorn's `http` setting takes one."""
    return type("BoundedProtocol", (BoundedProtocol,), {"bounds": bounds})
