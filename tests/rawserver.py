"""An upstream that says exactly the bytes a test wants, on a free loopback port, in the test's own loop.

    async with RawServer(answering(b"HTTP/1.1 200 OK\\r\\ncontent-length: 2\\r\\n\\r\\nhi")) as server:
        ... server.url ...

A script is an async function of one `Peer`; the connection is closed when it returns.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

Script = Callable[["Peer"], Awaitable[None]]


@dataclass
class Peer:
    """One connection, as the server sees it; `number` counts from 0."""

    number: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    requests: list[tuple[bytes, bytes]] = field(default_factory=list)
    sent: int = 0

    async def request(self) -> tuple[bytes, bytes] | None:
        """Return the next request as (head, body), None when the client has closed."""
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
            length = next(
                (
                    int(line[15:])
                    for line in head.lower().split(b"\r\n")
                    if line.startswith(b"content-length:")
                ),
                0,
            )
            request = (head, await self.reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        self.requests.append(request)
        return request

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()
        self.sent += len(data)

    async def closed(self) -> None:
        """Wait until the client has closed."""
        try:
            while await self.reader.read(65_536):
                pass
        except ConnectionError:
            pass

    def reset(self) -> None:
        """Drop what is not sent yet and close at once."""
        self.writer.transport.abort()


class RawServer:
    """Serve a script; `peers` are all connections so far, `open` how many of them are still open."""

    def __init__(
        self, script: Script, *, host: str = "127.0.0.1", ssl_context: ssl.SSLContext | None = None
    ) -> None:
        self.peers: list[Peer] = []
        self.open = 0
        self._script = script
        self._host = host
        self._ssl = ssl_context
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()

    @property
    def url(self) -> str:
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{'https' if self._ssl else 'http'}://{host}:{self.port}/v1/chat/completions"

    @property
    def requests(self) -> list[tuple[bytes, bytes]]:
        return [request for peer in self.peers for request in peer.requests]

    async def until(self, condition: Callable[[RawServer], bool]) -> None:
        """Wait until a connection's opening or closing makes the condition true; 10 s at most."""
        async with asyncio.timeout(10):
            while not condition(self):
                self._changed.clear()
                await self._changed.wait()

    async def __aenter__(self) -> RawServer:
        self._server = await asyncio.start_server(self._serve, self._host, 0, ssl=self._ssl, limit=2**20)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        peer = Peer(len(self.peers), reader, writer)
        self.peers.append(peer)
        self.open += 1
        self._changed.set()
        try:
            await self._script(peer)
            writer.close()
        except (ConnectionError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            self.open -= 1
            self._changed.set()
            self._tasks.discard(task)


def answering(*answers: bytes) -> Script:
    """Answer the first request of a connection with the first bytes, ..., all later ones with the last."""

    async def script(peer: Peer) -> None:
        left = list(answers)
        while await peer.request() is not None:
            await peer.send(left.pop(0) if len(left) > 1 else left[0])

    return script


def once(answer: bytes) -> Script:
    """Answer one request and close."""

    async def script(peer: Peer) -> None:
        if await peer.request() is not None:
            await peer.send(answer)

    return script


async def silent(peer: Peer) -> None:
    """Read everything, say nothing."""
    await peer.closed()


def ok(body: bytes, *headers: bytes) -> bytes:
    """Return a 200 with content-length."""
    lines = [b"HTTP/1.1 200 OK", b"content-length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def chunked(*pieces: bytes) -> bytes:
    """Return a 200 in chunks."""
    body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + body + b"0\r\n\r\n"
