"""The connections to one origin: idle ones for reuse, a bound on all, and who waits in line."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable

import httpx2 as httpx

from router.upstream.connection import Connection
from router.upstream.dial import dial

_TLS_GOODBYE_S = 2.0


class Pool:
    """Keep the connections to one origin; `idle` is ordered, the last one used is reused first.

    Invariant: `count` is the number of connections that are idle, busy or being made, plus the places
    already promised to a waiter. A place that becomes free goes to the first waiter, so nobody overtakes.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        tls: Callable[[], ssl.SSLContext] | None,
        idle_expiry_s: float,
        max_idle: int,
        max_connections: int | None,
    ) -> None:
        self.name = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self.idle: dict[Connection, None] = {}
        self.count = 0
        self._host = host
        self._port = port
        self._tls = tls
        self._idle_expiry_s = idle_expiry_s
        self._max_idle = max_idle
        self._max_connections = max_connections
        self._waiters: deque[asyncio.Future[Connection | None]] = deque()
        self._all: set[Connection] = set()
        self._closed = False
        self._emptied: asyncio.Future[None] | None = None

    def take_idle(self) -> Connection | None:
        """Return the idle connection that was used last."""
        return self.idle.popitem()[0] if self.idle else None

    async def acquire(self, *, connect_s: float, pool_s: float, fresh: bool) -> tuple[Connection, bool]:
        """Return a connection and whether it was used before; `fresh` asks for a new one.

        Raises httpx's `ConnectError`, `ConnectTimeout` and `PoolTimeout`.
        """
        if self._closed:
            raise httpx.ConnectError("this transport is closed; open a new one")
        if self._max_connections is not None and self.count >= self._max_connections:
            if fresh and self.idle:
                oldest = next(iter(self.idle))
                self.retire(oldest)
                oldest.abort()
            connection = await self._stand_in_line(pool_s)
            if connection is not None:
                return connection, True
        else:
            self.count += 1
        try:
            return await self._connect(connect_s), False
        except BaseException:  # cancelled included: the place must not be lost
            self._free_place()
            raise

    async def aclose(self) -> None:
        """Close every connection, wait until they are gone, turn away whoever waits in line."""
        self._closed = True
        self.idle.clear()
        for connection in tuple(self._all):
            connection.fail(httpx.ReadError("the transport was closed"))
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(httpx.PoolTimeout("the transport was closed"))
        self._waiters.clear()
        if self._all:
            self._emptied = asyncio.get_running_loop().create_future()
            await self._emptied

    # What a connection reports.

    def release(self, connection: Connection) -> None:
        """Hand the connection to the first waiter, else keep it for reuse."""
        if self._closed:
            connection.close()
            return
        connection.rest(self._idle_expiry_s)
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return
        if len(self.idle) >= self._max_idle:
            connection.close()
        else:
            self.idle[connection] = None

    def retire(self, connection: Connection) -> None:
        """Hand this connection out no more."""
        self.idle.pop(connection, None)

    def lost(self, connection: Connection) -> None:
        """Count a connection that has closed."""
        self.idle.pop(connection, None)
        self._all.discard(connection)
        self._free_place()
        if self._emptied is not None and not self._all and not self._emptied.done():
            self._emptied.set_result(None)

    # Places.

    def _free_place(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self.count -= 1

    async def _stand_in_line(self, pool_s: float) -> Connection | None:
        """Wait for a connection, or (None) for the place to make one."""
        waiter: asyncio.Future[Connection | None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(_finite(pool_s)):
                return await waiter
        except BaseException as fault:  # cancelled included: what was promised to us goes to the next
            self._pass_on(waiter)
            if isinstance(fault, TimeoutError):
                raise httpx.PoolTimeout(
                    f"no connection to {self.name} became free within {pool_s:g} s; "
                    f"all {self._max_connections} are busy"
                ) from fault
            raise

    def _pass_on(self, waiter: asyncio.Future[Connection | None]) -> None:
        if not waiter.done():
            waiter.cancel()
        if waiter.cancelled():
            if waiter in self._waiters:
                self._waiters.remove(waiter)
        elif waiter.exception() is None:
            connection = waiter.result()
            if connection is None:
                self._free_place()
            elif not connection.closed:
                self.release(connection)

    async def _connect(self, connect_s: float) -> Connection:
        try:
            async with asyncio.timeout(_finite(connect_s)):
                connection = await self._open()
        except TimeoutError as fault:
            raise httpx.ConnectTimeout(
                f"{self.name} accepted no connection within {connect_s:g} s"
            ) from fault
        except (OSError, UnicodeError) as fault:  # TLS faults are OSErrors too
            raise httpx.ConnectError(f"cannot connect to {self.name}: {fault}") from fault
        if connection.closed:
            raise httpx.RemoteProtocolError(f"{self.name} closed the connection without an answer")
        if self._closed:
            connection.abort()
            raise httpx.ConnectError("the transport was closed")
        connection.adopt(self)
        self._all.add(connection)
        return connection

    async def _open(self) -> Connection:
        loop = asyncio.get_running_loop()
        sock = await dial(self._host, self._port)
        try:
            if self._tls is None:
                _, connection = await loop.create_connection(lambda: Connection(loop), sock=sock)
            else:
                _, connection = await loop.create_connection(
                    lambda: Connection(loop),
                    sock=sock,
                    ssl=self._tls(),
                    server_hostname=self._host,
                    ssl_shutdown_timeout=_TLS_GOODBYE_S,
                )
        except BaseException:  # cancelled included: nobody else knows this socket
            sock.close()
            raise
        return connection


def _finite(seconds: float) -> float | None:
    return None if seconds == float("inf") else seconds
