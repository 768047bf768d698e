"""An answer that is being read from one of our own connections."""

from __future__ import annotations

import asyncio
from typing import Protocol

import httpx2 as httpx

from router.upstream.inflate import Inflater, read_inflated, without_coding


class Line(Protocol):
    """What an answer needs of the connection that it comes from."""

    loop: asyncio.AbstractEventLoop

    def expect_within(self, seconds: float) -> None:
        """Set the deadline of the present wait."""
        ...

    def expect_nothing(self) -> None:
        """Set no deadline."""
        ...

    def resume(self) -> None:
        """Read on."""
        ...

    def abort(self) -> None:
        """Close at once."""
        ...


class FastExchange:
    """An answer of a `Connection`; see `router.upstream.exchange.Exchange`.

    `idle_s` is the longest silence that `read` endures; `size` counts the bytes that nobody has read yet;
    `stale` marks a failure before any byte of an answer came. `ended` means that the body arrived whole,
    not that it was read.
    """

    __slots__ = (
        "_connection",
        "_error",
        "_inflater",
        "_pieces",
        "_waiter",
        "ended",
        "headers",
        "idle_s",
        "size",
        "stale",
        "status",
    )

    def __init__(self, connection: Line, idle_s: float) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.ended = False
        self.size = 0
        self.stale = False
        self._connection: Line | None = connection
        self.idle_s = idle_s
        self._pieces: list[bytes] = []
        self._error: httpx.TransportError | None = None
        self._inflater: Inflater | None = None
        self._waiter: asyncio.Future[None] | None = None

    async def read(self) -> bytes:
        """Return what has arrived, waiting for at least one byte; b"" once the body has ended whole."""
        inflater = self._inflater
        if inflater is None:
            return await self._take()
        try:
            return await read_inflated(inflater, self._take)
        except httpx.RemoteProtocolError as fault:
            self.fail(fault)
            self._inflater = None
            self._pieces.clear()
            raise

    async def aclose(self) -> None:
        """Close the connection unless the whole answer has arrived; may be repeated."""
        if self._connection is not None:
            self.fail(httpx.ReadError("the answer was closed before its end"))
        self._pieces.clear()

    async def head(self) -> None:
        """Wait for the head of the final answer; the connection's deadline is set already."""
        while not self.status:
            if self._error is not None:
                raise self._error
            await self._wait()

    async def _take(self) -> bytes:
        while not self._pieces:
            if self._error is not None:
                raise self._error
            connection = self._connection
            if connection is None:
                return b""
            connection.expect_within(self.idle_s)
            await self._wait()
        pieces = self._pieces
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        self._pieces = []
        self.size = 0
        if self._connection is not None:
            self._connection.resume()
        return data

    async def _wait(self) -> None:
        connection = self._connection
        if connection is None:
            return
        self._waiter = waiter = connection.loop.create_future()
        try:
            await waiter
        except asyncio.CancelledError:
            self.fail(httpx.ReadError("the wait for this answer was cancelled"))
            raise
        if self._connection is not None:
            self._connection.expect_nothing()

    # What the connection tells.

    def begin(self, status: int, headers: list[tuple[bytes, bytes]], encoding: bytes) -> None:
        """Take the head; a content coding is undone here and its headers are dropped."""
        self._inflater = Inflater.undoing(encoding)
        self.headers = without_coding(headers) if self._inflater else headers
        self.status = status
        self.wake()

    def feed(self, piece: bytes) -> None:
        """Add a piece of the body."""
        self._pieces.append(piece)
        self.size += len(piece)
        if self._waiter is not None:
            self.wake()

    def finish(self) -> None:
        """Let go of the connection: the body has arrived whole."""
        self.ended = True
        self._connection = None
        self.wake()

    def fail(self, fault: httpx.TransportError) -> None:
        """Keep the fault for the reader and close the connection, unless the answer has arrived."""
        if self._error is None:
            self._error = fault
        connection = self._connection
        if connection is not None:
            self._connection = None
            connection.abort()
            self.wake()

    def lose(self, fault: httpx.TransportError, *, stale: bool) -> None:
        """Fail because the connection is gone; a fault of our own making came first and stays."""
        if self._error is None:
            self.stale = stale and not self.status
        self.fail(fault)

    def wake(self) -> None:
        """Let the reader look again."""
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)
