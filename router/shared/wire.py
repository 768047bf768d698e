"""One connection to Redis: what is asked in one turn of the loop leaves together, answered in order.

Nobody ever waits for a connection, and a request whose client leaves harms none: requests only wait for the
answer, the connection belongs to the task that runs `Wire.run`.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable
from importlib import resources
from types import TracebackType
from typing import Any

from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError, ResponseError

TICK_S = 0.05
PATIENCE_TICKS = 10
MOST_AT_ONCE = 256
MOST_WAITING = 20_000
_log = logging.getLogger("router.shared")

Command = tuple[str | bytes | int, ...]


class Away(Exception):
    """Redis did not answer."""


class _Asked:
    __slots__ = ("apply", "command", "future")

    def __init__(self, command: Command, apply: Callable[[Any], Any], future: asyncio.Future[Any]) -> None:
        self.command = command
        self.apply = apply
        self.future = future


class Wire:
    """Ask Redis, one round trip at a time; `lost` is called when it does not answer, before who asked knows.

    Raises ValueError for a URL that cannot be used.
    """

    def __init__(self, url: str, lost: Callable[[], None]) -> None:
        self._lost = lost
        self._pool: ConnectionPool = ConnectionPool.from_url(
            url,
            max_connections=1,
            socket_timeout=None,
            socket_connect_timeout=None,
            retry=Retry(NoBackoff(), 0),
            health_check_interval=0,
            protocol=2,
        )
        script = (resources.files("router.shared") / "limits.lua").read_bytes()
        self._script = script
        self._sha = hashlib.sha1(script, usedforsecurity=False).hexdigest()
        self._connection: AbstractConnection | None = None
        self._waiting: list[_Asked] = []
        self._wanted = asyncio.Event()

    def submit(
        self, command: Command, apply: Callable[[Any], Any] = lambda reply: reply
    ) -> asyncio.Future[Any]:
        """Ask; the future gets what `apply` makes of the answer, which is called whoever still waits.

        The future's exception is `Away` when Redis does not answer; `apply` is not called then.
        """
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        future.add_done_callback(_heard)
        if len(self._waiting) >= MOST_WAITING:
            future.set_exception(Away("too much waits for Redis"))
        else:
            self._waiting.append(_Asked(command, apply, future))
            self._wanted.set()
        return future

    def deed(
        self, *arguments: str | bytes | int, apply: Callable[[Any], Any] = lambda reply: reply
    ) -> asyncio.Future[Any]:
        """Ask for one of the deeds of limits.lua."""
        return self.submit(("EVALSHA", self._sha, 0, *arguments), apply)

    async def run(self) -> None:
        """Carry questions until cancelled."""
        try:
            while True:
                await self._wanted.wait()
                batch = self._waiting[:MOST_AT_ONCE]
                del self._waiting[:MOST_AT_ONCE]
                if not self._waiting:
                    self._wanted.clear()
                try:
                    async with _Patience():
                        replies = await self._carry([asked.command for asked in batch])
                except (RedisError, OSError, TimeoutError) as fault:
                    await self._fail(batch, fault)
                else:
                    for asked, reply in zip(batch, replies, strict=True):
                        _answer(asked, reply)
        finally:
            if self._connection is not None:
                await self._connection.disconnect(nowait=True)

    async def _carry(self, commands: list[Command]) -> list[Any]:
        """Send commands and return their answers. Raises RedisError, OSError and TimeoutError."""
        connection = self._connection
        if connection is None:
            connection = self._connection = self._pool.make_connection()  # type: ignore[no-untyped-call]
        await connection.connect()
        replies = await _exchange(connection, commands)
        unknown = [i for i, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if unknown:  # Redis was started anew, so all of them
            again = await _exchange(
                connection, [("SCRIPT", "LOAD", self._script), *(commands[i] for i in unknown)]
            )
            for i, reply in zip(unknown, again[1:], strict=True):
                replies[i] = reply
        for reply in replies:
            if isinstance(reply, ResponseError):  # out of memory, a replica that only reads, no such right
                raise reply
        return replies

    async def _fail(self, batch: list[_Asked], fault: BaseException) -> None:
        """Let everybody who waits know, and begin with a new connection."""
        connection, self._connection = self._connection, None
        self._lost()
        batch += self._waiting
        self._waiting.clear()
        self._wanted.clear()
        for asked in batch:
            if not asked.future.done():
                asked.future.set_exception(Away(str(fault)))
        if connection is not None:
            await connection.disconnect(nowait=True)


class _Patience:
    """Raise TimeoutError in a block that takes longer than PATIENCE_TICKS turns of the loop, TICK_S apart.

    A clock would blame Redis for a stall of this process, while the answer lies unread in the socket.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._limit = asyncio.timeout(None)
        self._ticks = 0
        self._timer = self._loop.call_later(TICK_S, self._tick)

    async def __aenter__(self) -> None:
        await self._limit.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        await self._limit.__aexit__(kind, fault, trace)

    def _tick(self) -> None:
        self._ticks += 1
        if self._ticks < PATIENCE_TICKS:
            self._timer = self._loop.call_later(TICK_S, self._tick)
        else:
            self._limit.reschedule(self._loop.time())


async def _exchange(connection: AbstractConnection, commands: list[Command]) -> list[Any]:
    await connection.send_packed_command(connection.pack_commands(commands))
    replies: list[Any] = []
    for _ in commands:
        try:
            replies.append(await connection.read_response())
        except ResponseError as fault:
            replies.append(fault)
    return replies


def _answer(asked: _Asked, reply: Any) -> None:
    result = asked.apply(reply)
    if not asked.future.done():
        asked.future.set_result(result)


def _heard(future: asyncio.Future[Any]) -> None:
    """Take note of an exception, so that a question without a listener is no fault."""
    if not future.cancelled():
        future.exception()
