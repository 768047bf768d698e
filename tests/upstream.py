"""A scripted OpenAI-compatible upstream over real loopback sockets, which misbehaves on demand.

    with ScriptedUpstream() as up:
        up.on("some-model", status(500), stream("all is well", usage="never"))
        ...  # let the code under test call up.base_url
        up.wait_requests(2, timeout_s=5)
        assert up.requests[0].model == "some-model"

Behaviours are taken in turn for the calls of one upstream model id; the last one repeats. Without a script
the answer is a correct OpenAI one that echoes the last user text. The server has a thread and an event loop
of its own and writes HTTP/1.1 itself. The `wait_*` methods block: in a coroutine use `asyncio.to_thread`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self

from tests.upstream_behaviours import (
    Gate,
    Stream,
    answer,
    cut_body,
    echo,
    empty,
    error_event_after,
    error_in_200,
    hang,
    html,
    informational,
    raw,
    redirect,
    reset,
    slow,
    status,
    stream,
    wrong_length,
)
from tests.upstream_bodies import COUNTED, MISSING

__all__ = [
    "COUNTED",
    "MISSING",
    "Behaviour",
    "Gate",
    "Received",
    "ScriptedUpstream",
    "Stream",
    "Turn",
    "answer",
    "cut_body",
    "echo",
    "empty",
    "error_event_after",
    "error_in_200",
    "hang",
    "html",
    "informational",
    "raw",
    "redirect",
    "refused_base_url",
    "reset",
    "slow",
    "status",
    "stream",
    "wrong_length",
]

MAX_HEAD_BYTES = 1 << 20
READ_LIMIT_BYTES = 64 << 20  # above it asyncio stops reading and would miss the client's leaving


@dataclass
class Received:
    """One request as it arrived; `outcome` and `events_sent` grow while it is answered.

    `outcome` is "ended" when the upstream did all it meant to do (breaking the connection included) and
    "abandoned" when the client closed first.
    """

    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes
    json: Any
    model: str | None
    events_sent: int = 0
    outcome: Literal["running", "ended", "abandoned"] = "running"

    def header(self, name: str) -> str | None:
        """Return the first value of a header, or None."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)


class Turn:
    """A request and the connection it came on; a behaviour answers through it.

    `ended` is set just before the last write, so that a client that leaves right after it is not taken for
    one that left early. `keep` says that the connection may carry another request.
    """

    def __init__(self, request: Received, writer: asyncio.StreamWriter) -> None:
        self.request = request
        self.ended = False
        self.keep = False
        self._writer = writer

    async def write(self, data: bytes) -> None:
        """Send bytes; waits while the client does not read."""
        self._writer.write(data)
        await self._writer.drain()

    async def reply(
        self, code: int, headers: list[tuple[str, str]], body: bytes, *, length: int | None = None
    ) -> None:
        """Send a whole answer; `length` announces something other than the truth and then closes."""
        self.ended = True
        self.keep = length is None
        announced = len(body) if length is None else length
        await self.write(head(code, [*headers, ("content-length", str(announced))]) + body)

    def reset(self) -> None:
        """Close with a TCP reset instead of an orderly end."""
        self.ended = True
        connection = self._writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()


Behaviour = Callable[[Turn], Awaitable[None]]


def head(code: int, headers: list[tuple[str, str]]) -> bytes:
    """Return the head of an HTTP/1.1 answer."""
    lines = [f"HTTP/1.1 {code} Scripted", *(f"{name}: {value}" for name, value in headers)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


class ScriptedUpstream:
    """The server: script it with `on`, read what it saw, wait for what must happen."""

    def __init__(self) -> None:
        self.default: Behaviour = echo
        self.total_connections = 0
        self._changed = threading.Condition()
        self._scripts: dict[str, list[Behaviour]] = {}
        self._requests: list[Received] = []
        self._probes: list[Received] = []
        self._faults: list[BaseException] = []
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        # With the protocol named, asyncio sets TCP_NODELAY on what it accepts; else small writes wait 40 ms.
        self._listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._listening.bind(("127.0.0.1", 0))
        self._listening.listen(512)
        self._thread = threading.Thread(target=self._run, name="scripted-upstream", daemon=True)
        self.port: int = self._listening.getsockname()[1]
        self.base_url = f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(timeout=10)
        assert not self._thread.is_alive(), "the scripted upstream did not stop"
        if exc is None and self._faults:
            raise self._faults[0]

    def on(self, model: str, *behaviours: Behaviour) -> Self:
        """Script the calls of an upstream model id; replaces an earlier script of that id."""
        assert behaviours, "on() needs at least one behaviour"
        with self._changed:
            self._scripts[model] = list(behaviours)
        return self

    @property
    def requests(self) -> list[Received]:
        """Return the POSTs in the order of their arrival."""
        with self._changed:
            return list(self._requests)

    @property
    def probes(self) -> list[Received]:
        """Return everything that was not a POST (GET /v1/models and the like)."""
        with self._changed:
            return list(self._probes)

    @property
    def open_connections(self) -> int:
        """Return how many connections are open now, idle ones included."""
        with self._changed:
            return len(self._connections)

    def wait_requests(self, n: int, timeout_s: float = 5.0) -> list[Received]:
        """Wait until n calls have arrived; raises TimeoutError."""
        self._wait(lambda: len(self._requests) >= n, timeout_s, f"{n} requests")
        return self.requests

    def wait_abandoned(self, n: int = 1, timeout_s: float = 5.0) -> list[Received]:
        """Wait until n clients have closed before their answer's end; raises TimeoutError."""
        self._wait(lambda: len(self._with("abandoned")) >= n, timeout_s, f"{n} abandoned calls")
        return self._with("abandoned")

    def wait_idle(self, timeout_s: float = 5.0) -> bool:
        """Wait until no call is being answered (connections may stay open); True, or raises TimeoutError."""
        self._wait(lambda: not self._with("running"), timeout_s, "no running call")
        return True

    def wait_closed(self, timeout_s: float = 5.0) -> bool:
        """Wait until no connection is open; True, or raises TimeoutError."""
        self._wait(lambda: not self._connections, timeout_s, "no open connection")
        return True

    def _with(self, outcome: str) -> list[Received]:
        return [request for request in list(self._requests) if request.outcome == outcome]

    def _wait(self, condition: Callable[[], bool], timeout_s: float, what: str) -> None:
        with self._changed:
            if not self._changed.wait_for(condition, timeout_s):
                raise TimeoutError(
                    f"waited {timeout_s} s for {what}; now {len(self._requests)} requests"
                    f" ({len(self._with('running'))} running, {len(self._with('abandoned'))} abandoned),"
                    f" {len(self._connections)} open connections"
                )

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            asyncio.set_event_loop(None)
            self._loop.close()

    async def _serve(self) -> None:
        server = await self._loop.create_server(self._protocol, sock=self._listening)
        await self._stop.wait()
        server.close()
        for task, writer in list(self._connections.items()):
            writer.transport.abort()
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await server.wait_closed()

    def _protocol(self) -> asyncio.StreamReaderProtocol:
        return asyncio.StreamReaderProtocol(_Reader(), self._connected, loop=self._loop)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert isinstance(reader, _Reader)
        task = self._loop.create_task(self._converse(reader, writer))
        with self._changed:
            self.total_connections += 1
            self._connections[task] = writer
            self._changed.notify_all()
        task.add_done_callback(self._disconnected)

    def _disconnected(self, task: asyncio.Task[None]) -> None:
        with self._changed:
            del self._connections[task]
            if not task.cancelled() and (fault := task.exception()) is not None:
                self._faults.append(fault)
            self._changed.notify_all()

    async def _converse(self, reader: _Reader, writer: asyncio.StreamWriter) -> None:
        try:
            while (request := await _read_request(reader)) is not None:
                turn = Turn(request, writer)
                await self._answer(turn, reader)
                if not turn.keep:
                    break
        finally:
            if reader.gone.is_set():
                writer.transport.abort()
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _answer(self, turn: Turn, reader: _Reader) -> None:
        """Run the behaviour until it is done or the client is gone."""
        behaviour = asyncio.ensure_future(self._next_behaviour(turn.request)(turn))
        gone = asyncio.ensure_future(reader.gone.wait())
        try:
            await asyncio.wait({behaviour, gone}, return_when=asyncio.FIRST_COMPLETED)
            fault = behaviour.exception() if behaviour.done() else None
        finally:
            behaviour.cancel()
            gone.cancel()
        left = (not behaviour.done() or isinstance(fault, ConnectionError)) and not turn.ended
        turn.keep = turn.keep and not reader.gone.is_set()
        with self._changed:
            turn.request.outcome = "abandoned" if left else "ended"
            if fault is not None and not isinstance(fault, ConnectionError):
                turn.keep = False
                self._faults.append(fault)
            self._changed.notify_all()

    def _next_behaviour(self, request: Received) -> Behaviour:
        with self._changed:
            if request.method != "POST":
                self._probes.append(request)
                return self._list_models
            self._requests.append(request)
            self._changed.notify_all()
            script = self._scripts.get(request.model or "")
            if script is None:
                return self.default
            return script.pop(0) if len(script) > 1 else script[0]

    async def _list_models(self, turn: Turn) -> None:
        models = [{"id": model, "object": "model", "owned_by": "scripted"} for model in self._scripts]
        known = turn.request.path.endswith("/models")
        body = {"object": "list", "data": models} if known else {"error": {"message": "no such route"}}
        headers = [("content-type", "application/json")]
        await turn.reply(200 if known else 404, headers, json.dumps(body).encode())


class _Reader(asyncio.StreamReader):
    """A reader that tells at once when the client has closed its side."""

    def __init__(self) -> None:
        super().__init__(limit=READ_LIMIT_BYTES)
        self.gone = asyncio.Event()

    def feed_eof(self) -> None:
        super().feed_eof()
        self.gone.set()

    def set_exception(self, exc: Exception) -> None:
        super().set_exception(exc)
        self.gone.set()


async def _read_request(reader: _Reader) -> Received | None:
    """Return the next request, or None when the client closed or reset between or inside requests."""
    try:
        block = await reader.readuntil(b"\r\n\r\n")
        lines = block.decode("latin-1").split("\r\n")
        method, path, _ = lines[0].split(" ", 2)
        headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines[1:-2])]
        lowered = {name.lower(): value for name, value in headers}
        if lowered.get("transfer-encoding", "").lower() == "chunked":
            body = b"".join([chunk async for chunk in _chunks(reader)])
        else:
            body = await reader.readexactly(int(lowered.get("content-length", "0")))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    parsed = None
    with contextlib.suppress(ValueError):
        parsed = json.loads(body)
    model = parsed.get("model") if isinstance(parsed, dict) else None
    return Received(method, path, headers, body, parsed, model if isinstance(model, str) else None)


async def _chunks(reader: _Reader) -> Any:
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        yield await reader.readexactly(size)
        await reader.readexactly(2)
    await reader.readuntil(b"\r\n")


@contextlib.contextmanager
def refused_base_url() -> Iterator[str]:
    """Give an address that refuses connections: its port is taken by a socket that never listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
