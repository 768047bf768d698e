"""Whoever keeps the counts, the answers are the same: this process, a supervisor, Redis."""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from router.catalog.snapshot import Limits
from router.gate import Gate, Listing, LocalGate, Place
from router.limits import Admission, Full, Standing, Subject
from router.shared.gate import SharedGate
from router.workers.desk import Desk
from router.workers.link import Link, LinkedGate
from router.workers.messages import Begin, FromWorker, Line
from tests.redis_server import RedisServer, needs_redis

SUBJECTS: dict[Subject, Limits] = {
    ("offer", "a", "one"): Limits(concurrency=3),
    ("offer", "a", "two"): Limits(rpm=25),
    ("offer", "b", "three"): Limits(tpm=9_000),
    ("provider", "a"): Limits(concurrency=6, rpm=60),
    ("key", "k"): Limits(concurrency=4, rpm=80, tpm=30_000),
}
STEPS = 600


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    needs_redis()
    with RedisServer() as server:
        yield server


@asynccontextmanager
async def supervised() -> AsyncIterator[Gate]:
    """Give a worker's gate to a desk in the same loop."""
    ours, theirs = socket.socketpair()
    loop, admission = asyncio.get_running_loop(), Admission(time.monotonic)
    line: Line[FromWorker] = Line(FromWorker, lambda said: desk.hear(said), lambda: None)  # type: ignore[arg-type]
    desk = Desk(admission, time.monotonic, line.say)
    await loop.create_unix_connection(lambda: line, sock=ours)
    line.say(Begin({}, 1))
    link, _ = await Link.open(theirs, lambda: None)
    try:
        yield LinkedGate(link)
    finally:
        line.close()
        link.close()
        await asyncio.sleep(0)


@asynccontextmanager
async def shared(redis: RedisServer) -> AsyncIterator[SharedGate]:
    gate = SharedGate(redis.url, time.monotonic)
    running = asyncio.create_task(gate.run())
    await gate.tried()
    assert gate.shared
    try:
        yield gate
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def rounded(standing: Standing) -> tuple[tuple[int, int] | None, ...]:
    return tuple(
        None if window is None else (window.limit, window.left)
        for window in (standing.requests, standing.tokens)
    )


async def same_answers(gate: Gate, seed: int) -> None:
    """Do the same things at both; no time passes that a window would notice."""
    local = LocalGate(Admission(time.monotonic), time.monotonic)
    chance = random.Random(seed)
    listing = Listing(tuple(SUBJECTS.items()))
    held: list[tuple[Place, Place]] = []
    for _ in range(STEPS):
        tokens = chance.choice((1, 50, 400, 12_000))
        step = chance.random()
        if step < 0.2:
            mine, theirs = await local.full(listing, tokens), await gate.full(listing, tokens)
            assert {name: why.word for name, why in mine.items()} == {
                name: why.word for name, why in theirs.items()
            }
            assert all(abs(mine[name].wait_s - theirs[name].wait_s) <= 1 for name in mine)
        elif step < 0.5 and held:
            pair = held.pop(chance.randrange(len(held)))
            used = chance.choice((None, 0, 30, 700))
            for place in pair:
                place.leave(used)
                place.leave(used)  # may be repeated
        elif step < 0.6 and held:
            for place in held.pop(chance.randrange(len(held))):
                place.withdraw()
        elif step < 0.75:
            both = [
                await each.enter_told(("key", "k"), SUBJECTS["key", "k"], tokens) for each in (local, gate)
            ]
            looks = [await each.standing(("key", "k"), SUBJECTS["key", "k"]) for each in (local, gate)]
            assert rounded(both[0][1]) == rounded(both[1][1]) == rounded(looks[0]) == rounded(looks[1])
            keep(both[0][0], both[1][0], held)
        else:
            way = chance.sample(list(SUBJECTS.items()), chance.choice((1, 2)))
            keep(await local.enter(way, tokens), await gate.enter(way, tokens), held)


def keep(mine: Place | Full, theirs: Place | Full, held: list[tuple[Place, Place]]) -> None:
    if isinstance(mine, Full) or isinstance(theirs, Full):
        assert isinstance(mine, Full)
        assert isinstance(theirs, Full)
        assert (mine.word, abs(mine.wait_s - theirs.wait_s) <= 1) == (theirs.word, True)
    else:
        held.append((mine, theirs))


@pytest.mark.parametrize("seed", range(3))
def test_a_supervisor_answers_as_the_process_itself(seed: int) -> None:
    async def steps() -> None:
        async with supervised() as gate:
            await same_answers(gate, seed)

    asyncio.run(steps())


@pytest.mark.parametrize("seed", range(3))
def test_redis_answers_as_the_process_itself(redis: RedisServer, seed: int) -> None:
    with redis.client() as client:
        client.flushdb()

    async def steps() -> None:
        async with shared(redis) as gate:
            await same_answers(gate, seed)

    asyncio.run(steps())


def test_who_leaves_while_redis_is_asked_leaves_no_place_behind(redis: RedisServer) -> None:
    with redis.client() as client:
        client.flushdb()
    one = [(("offer", "a", "one"), Limits(concurrency=1, rpm=1))]

    async def steps() -> None:
        async with shared(redis) as gate:
            for turns in range(6):  # of the loop before the client leaves
                asking = asyncio.ensure_future(gate.enter(one, 1))
                for _ in range(turns):
                    await asyncio.sleep(0)
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)
                if not asking.cancelled() and not isinstance(entered := asking.result(), Full):
                    entered.withdraw()
            # What a client left is given back when its answer has come, which the next question may overtake.
            turns = [await gate.enter(one, 1) for _ in range(3)]
            assert [isinstance(entered, Full) for entered in turns].count(False) == 1

    asyncio.run(steps())


def test_who_leaves_while_a_supervisor_is_asked_leaves_no_place_behind() -> None:
    one = [(("offer", "a", "one"), Limits(concurrency=1, rpm=1))]

    async def steps() -> None:
        async with supervised() as gate:
            for turns in range(6):
                asking = asyncio.ensure_future(gate.enter(one, 1))
                for _ in range(turns):
                    await asyncio.sleep(0)
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)
                if not asking.cancelled() and not isinstance(entered := asking.result(), Full):
                    entered.withdraw()
            assert not isinstance(await gate.enter(one, 1), Full)

    asyncio.run(steps())


def test_redis_says_when_a_window_opens(redis: RedisServer) -> None:
    with redis.client() as client:
        client.flushdb()
    limits = Limits(rpm=2, tpm=1_000)
    key: Subject = ("key", "windows")

    async def steps() -> None:
        async with shared(redis) as gate:
            await gate.enter([(key, limits)], 400)
            with redis.client() as client:  # 20 s later
                client.hincrby("llmrouter:clock", "steady", 20_000_000)
                client.zadd("llmrouter:replicas", {gate.replica: 10**18})
            await gate.enter([(key, limits)], 500)
            entered, standing = await gate.enter_told(key, limits, 50)
            assert entered == Full("rpm", 40)
            assert standing.tokens is not None
            assert (standing.tokens.left, round(standing.tokens.reset_s)) == (100, 60)
            full = await gate.full(Listing(((key, Limits(tpm=1_000)),)), 700)
            assert full == {key: Full("tpm", 60)}  # only when both have left is there room for 700
            with redis.client() as client:  # 40 s later the first has left the window
                client.hincrby("llmrouter:clock", "steady", 40_000_000)
            assert not isinstance(await gate.enter([(key, limits)], 500), Full)
            with redis.client() as client:
                assert client.zcard("llmrouter:w:key:windows") == 2
                assert client.hget("llmrouter:t:key:windows", "sum") == b"1000"

    asyncio.run(steps())
