"""The queue of requests that wait for places, in a loop whose time jumps to what comes next."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import pytest

from router.catalog.snapshot import Limits, Model, Provider, Snapshot, Timeouts
from router.gate import LocalGate
from router.limits import MAX_WAITING, RECHECK_S, Admission, Place, Queue, Subject, Ticket
from router.places import Places
from router.routing.decide import Blocked, Live
from tests.unit.parts import catalog, choose, model, need

T = TypeVar("T")
ONE = Limits(concurrency=1)
Way = Sequence[tuple[Subject, Limits]]


class _Selector(selectors.SelectSelector):
    """Instead of waiting for a timer, let its moment come."""

    now_s = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "nothing is left that could wake anyone"
        self.now_s += max(0.0, timeout)
        return super().select(0)


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = _Selector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now_s


def run(steps: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=_Loop) as runner:
        return runner.run(steps)


class Room:
    """An admission and requests that wait for it; `served` holds their names in the order of their turns."""

    def __init__(self) -> None:
        self.clock = asyncio.get_running_loop().time
        self.admission = Admission(self.clock)
        self.queue = self.admission.queue
        self.served: list[str] = []
        self.places: dict[str, Place] = {}

    def enter(self, way: Way, tokens: int = 1) -> Place:
        place = self.admission.enter(way, tokens)
        assert place
        return place

    async def request(self, name: str, *ways: Way, seconds: float = 1_000, tokens: int = 1) -> bool:
        """Wait in turn as a request does: ask again when woken, wait again when another came before."""
        ticket = self.queue.line_up(seconds)
        assert ticket
        try:
            while await self.queue.wait(ticket, ways, tokens):
                for way in ways:
                    place = self.admission.enter(way, tokens)
                    if place is not None:
                        self.served.append(name)
                        self.places[name] = place
                        self.queue.wake([])
                        return True
            return False
        finally:
            self.queue.wake([])

    async def settle(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)


def served(*models: Model) -> Snapshot:
    """Return a catalog of these models, with their provider."""
    timeouts, base_url = Timeouts(), "http://127.0.0.1:9/v1"
    acme = Provider("acme", "Acme", base_url, None, timeouts, Limits(), "none", None, ())
    return replace(catalog(*models), providers={"acme": acme})


def start(tasks: asyncio.TaskGroup, waiting: Coroutine[Any, Any, bool]) -> asyncio.Task[bool]:
    return tasks.create_task(waiting)


def test_each_place_that_is_given_back_serves_the_next_in_the_order_they_came() -> None:
    async def steps() -> None:
        room, way = Room(), [("offer", ONE)]
        first = room.enter(way)
        async with asyncio.TaskGroup() as tasks:
            for name in "abc":
                start(tasks, room.request(name, way))
            await room.settle()
            assert room.served == []
            first.leave()
            for so_far in ("a", "ab", "abc"):
                await room.settle()
                assert "".join(room.served) == so_far
                room.places[so_far[-1]].leave()
        assert room.clock() == 1000.0
        assert (room.queue.waiting, room.queue.handed) == ([], set())

    run(steps())


def test_a_place_elsewhere_wakes_nobody_who_cannot_use_it() -> None:
    async def steps() -> None:
        room = Room()
        x, y = room.enter([("x", ONE)]), room.enter([("y", ONE)])
        async with asyncio.TaskGroup() as tasks:
            start(tasks, room.request("for x", [("x", ONE)]))
            start(tasks, room.request("for y", [("y", ONE)]))
            await room.settle()
            y.leave()
            await room.settle()
            assert room.served == ["for y"]
            x.leave()

    run(steps())


def test_what_opens_with_the_minute_is_taken_at_that_moment_and_in_order() -> None:
    async def steps() -> None:
        room, way = Room(), [("offer", Limits(rpm=2))]
        for _ in range(2):
            room.enter(way).leave()
            await asyncio.sleep(10)
        moments: dict[str, float] = {}

        async def noted(name: str) -> None:
            assert await room.request(name, way)
            moments[name] = room.clock() - 1000.0

        async with asyncio.TaskGroup() as tasks:
            for name in "abcd":
                tasks.create_task(noted(name))
        assert room.served == list("abcd")
        due_s = {"a": 60, "b": 70, "c": 120, "d": 130}
        assert all(due_s[name] <= moment <= due_s[name] + RECHECK_S for name, moment in moments.items())

    run(steps())


def test_all_that_opens_at_one_moment_is_taken_at_once() -> None:
    async def steps() -> None:
        room, way = Room(), [("offer", Limits(rpm=5))]
        for _ in range(5):
            room.enter(way).leave()
        async with asyncio.TaskGroup() as tasks:
            for name in "abcde":
                start(tasks, room.request(name, way))
        assert room.served == list("abcde")
        assert room.clock() - 1000.0 == pytest.approx(60, abs=RECHECK_S)

    run(steps())


def test_a_turn_ends_when_its_time_is_up() -> None:
    async def steps() -> None:
        room, way = Room(), [("offer", ONE)]
        room.enter(way)
        assert await room.request("a", way, seconds=2.5) is False
        assert room.clock() == pytest.approx(1002.5, abs=0.01)
        assert room.queue.waiting == []

    run(steps())


def test_the_time_of_a_turn_counts_in_all_however_often_it_waits() -> None:
    async def steps() -> None:
        room, way = Room(), [("offer", ONE)]
        ticket = room.queue.line_up(10)
        assert ticket
        for _ in range(3):
            place = room.enter(way)
            asyncio.get_running_loop().call_later(3, place.leave)
            assert await room.queue.wait(ticket, [way], 1)
        room.enter(way)
        assert await room.queue.wait(ticket, [way], 1) is False
        assert room.clock() == pytest.approx(1010, abs=0.01)

    run(steps())


@pytest.mark.parametrize("woken", [False, True])
def test_who_leaves_the_queue_gives_its_turn_to_the_next(woken: bool) -> None:
    async def steps() -> None:
        room, way = Room(), [("offer", ONE)]
        place = room.enter(way)
        async with asyncio.TaskGroup() as tasks:
            gone = start(tasks, room.request("gone", way))
            start(tasks, room.request("next", way))
            await room.settle()
            if woken:
                place.leave()  # its turn has come, but it has not run yet
            gone.cancel()
            await room.settle()
            place.leave()
        assert room.served == ["next"]
        assert room.queue.waiting == []

    run(steps())


def test_who_lost_its_place_to_another_keeps_its_turn() -> None:
    async def steps() -> None:
        room, way = Room(), [("offer", ONE)]
        place = room.enter(way)
        async with asyncio.TaskGroup() as tasks:
            start(tasks, room.request("a", way))
            start(tasks, room.request("b", way))
            await room.settle()
            place.leave()
            faster = room.enter(way)
            await room.settle()
            assert room.served == []
            faster.leave()
            await room.settle()
            assert room.served == ["a"]
            room.places["a"].leave()

    run(steps())


def test_places_that_come_free_together_serve_as_many() -> None:
    async def steps() -> None:
        room = Room()
        x, y = room.enter([("x", ONE)]), room.enter([("y", ONE)])
        async with asyncio.TaskGroup() as tasks:
            start(tasks, room.request("any", [("y", ONE)], [("x", ONE)]))
            start(tasks, room.request("for x", [("x", ONE)]))
            await room.settle()
            x.leave()
            y.leave()
        assert room.served == ["any", "for x"]

    run(steps())


def test_a_small_request_goes_before_one_that_the_tokens_of_the_minute_still_stop() -> None:
    async def steps() -> None:
        room, way = Room(), [("offer", Limits(concurrency=1, tpm=1_000))]
        place = room.enter(way, 600)
        async with asyncio.TaskGroup() as tasks:
            start(tasks, room.request("large", way, tokens=900))
            start(tasks, room.request("small", way, tokens=100))
            await room.settle()
            place.leave(600)
            await room.settle()
            assert room.served == ["small"]
            room.places["small"].leave(100)
        assert room.clock() == pytest.approx(1060, abs=RECHECK_S)

    run(steps())


def test_a_place_that_is_free_already_is_asked_for_again_soon() -> None:
    async def steps() -> None:
        room = Room()
        assert await room.request("a", [("offer", ONE)])
        assert room.clock() == pytest.approx(1000 + RECHECK_S, abs=0.01)

    run(steps())


@pytest.mark.parametrize(("resting", "woken_after_s"), [(False, RECHECK_S), (True, None)])
def test_free_places_at_an_offer_that_rests_wake_nobody(resting: bool, woken_after_s: float | None) -> None:
    snapshot = served(model("a/full", limits=ONE), model("b/free", limits=ONE))
    full, free = (snapshot.models[name].offers[0] for name in ("a/full", "b/free"))
    blocked = {full.key: Blocked("at_limit", 1, "full")}
    if resting:
        blocked[free.key] = Blocked("cooling", 600, "resting")

    async def steps() -> None:
        room = Room()
        places = Places(LocalGate(room.admission, room.clock))
        assert isinstance(await places.at_offer(snapshot, full, need()), Place)
        ticket = places.line_up(5)
        assert ticket
        decision = choose(snapshot, live=Live(blocked=blocked))
        assert await places.wait(ticket, snapshot, decision) is not resting
        assert room.clock() - 1000.0 == pytest.approx(woken_after_s or 5, abs=0.01)

    run(steps())


def test_without_a_limit_in_the_way_there_is_nothing_to_wait_for() -> None:
    snapshot = served(model("a/one"))

    async def steps() -> None:
        room = Room()
        ticket = room.queue.line_up(5)
        assert ticket
        assert (
            await Places(LocalGate(room.admission, room.clock)).wait(ticket, snapshot, choose(snapshot))
            is False
        )
        assert room.clock() == 1000.0

    run(steps())


def test_of_too_many_the_last_may_not_wait() -> None:
    async def steps() -> None:
        clock = asyncio.get_running_loop().time
        admission = Admission(clock)
        queue = Queue(admission, clock, most=2)
        way: Way = [("offer", ONE)]
        assert admission.enter(way, 1)
        tickets = [queue.line_up(5) for _ in range(2)]
        waits = [asyncio.create_task(queue.wait(each, [way], 1)) for each in tickets if each]
        await asyncio.sleep(0)
        assert queue.line_up(5) is None
        assert await asyncio.gather(*waits) == [False, False]
        assert isinstance(queue.line_up(5), Ticket)

    assert MAX_WAITING == 1_000
    run(steps())


def test_a_withdrawn_place_was_never_taken() -> None:
    async def steps() -> None:
        room, way = Room(), [("key", Limits(concurrency=1, rpm=1, tpm=100))]
        for _ in range(3):
            place = room.enter(way, 100)
            place.withdraw()
            place.leave(50)
        assert room.admission.active("key") == 0
        assert room.admission.blocked("key", way[0][1], 100, room.clock()) is None

    run(steps())
