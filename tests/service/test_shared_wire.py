"""The connection to a Redis: who is blamed for an answer that is late."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest

from router.shared.wire import PATIENCE_TICKS, TICK_S, Away, Wire
from tests.redis_server import RedisServer, needs_redis

PATIENCE_S = PATIENCE_TICKS * TICK_S


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    needs_redis()
    with RedisServer() as server:
        yield server


def carried(asks: Coroutine[Any, Any, Any], wire: Wire) -> Any:
    """Run `asks` while the wire carries, and return what it returns."""

    async def both() -> Any:
        carrying = asyncio.create_task(wire.run())
        try:
            return await asks
        finally:
            carrying.cancel()
            await asyncio.gather(carrying, return_exceptions=True)

    return asyncio.run(both())


def test_a_stall_of_this_process_is_not_blamed_on_redis(redis: RedisServer) -> None:
    lost: list[None] = []
    wire = Wire(redis.url, lambda: lost.append(None))

    async def asks() -> Any:
        await wire.submit(("PING",))  # connected
        asked = [wire.submit(("ECHO", str(number))) for number in range(3)]
        # Right after the wire has sent them the loop does not turn for longer than Redis is waited for.
        asyncio.get_running_loop().call_soon(time.sleep, PATIENCE_S * 2)
        return [await each for each in asked]

    assert carried(asks(), wire) == [b"0", b"1", b"2"]
    assert not lost


def test_a_redis_that_hangs_is_away(redis: RedisServer) -> None:
    lost: list[None] = []
    wire = Wire(redis.url, lambda: lost.append(None))

    async def asks() -> Any:
        await wire.submit(("PING",))
        redis.freeze()
        try:
            with pytest.raises(Away):
                await wire.submit(("PING",))
            with pytest.raises(Away):  # a new connection is not answered either
                await wire.submit(("PING",))
        finally:
            redis.thaw()
        return await wire.submit(("PING",))

    assert carried(asks(), wire) == b"PONG"
    assert len(lost) == 2
