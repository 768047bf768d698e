"""Put the mixed load on a service, in the driver's own loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator

from benchmarks.faults.book import Entry, Plan
from benchmarks.faults.client import ask
from benchmarks.faults.service import Service

PATIENCE_S = 600.0
TRIES = 200
PAUSE_S = 0.05
PROBE = Plan(stream=False, tokens=4)


async def until(holds: Callable[[], Awaitable[bool]], within_s: float, look_s: float = 0.01) -> float:
    """Look until something holds, or for so many seconds; returns how long that took."""
    began_s = time.monotonic()
    while True:
        if await holds() or time.monotonic() - began_s >= within_s:
            return time.monotonic() - began_s
        await asyncio.sleep(look_s)


class Load:
    """Send requests, so many at once, each with a plan of its own; nothing is sent while nobody is ready."""

    def __init__(self, service: Service, book: dict[str, Entry], plan: Callable[[], Plan], name: str) -> None:
        self._service = service
        self._book = book
        self._plan = plan
        self._name = name
        self.started = 0
        self.refused = 0
        self._probes = 0
        self._over = False

    async def send(self, requests: int, at_once: int) -> None:
        """Send so many requests and wait for their ends."""
        numbers = iter(range(requests))
        await asyncio.gather(*(self._worker(numbers) for _ in range(at_once)))

    async def _worker(self, numbers: Iterator[int]) -> None:
        for number in numbers:
            await self._service.ready.wait()
            if self._over:
                return
            self.started += 1
            entry = await self._one(f"{self._name}-{number}")
            if entry.status == 503:
                self.refused += 1
                await asyncio.sleep(PAUSE_S)

    def over(self) -> None:
        """Begin no more."""
        self._over = True

    async def served(self) -> bool:
        """Send one request more and say whether it was let in."""
        self._probes += 1
        name = f"{self._name}-probe-{self._probes}"
        entry = self._book[name] = Entry(name, PROBE)
        await ask(entry, self._service.port, self._service.authorization)
        return entry.status == 200

    async def _one(self, name: str) -> Entry:
        entry = self._book[name] = Entry(name, self._plan())
        await ask(entry, self._service.port, self._service.authorization)
        return entry

    async def passed(self, count: int) -> None:
        """Wait until so many requests were begun."""

        async def begun() -> bool:
            return self.started >= count

        await until(begun, PATIENCE_S, 0.001)


class KeyedLoad(Load):
    """Clients that send each request with a key of its own, and again with it until they have its answer."""

    def __init__(self, service: Service, book: dict[str, Entry], plan: Callable[[], Plan], name: str) -> None:
        super().__init__(service, book, plan, name)
        self.asked: dict[str, list[Entry]] = {}

    async def _one(self, name: str) -> Entry:
        plan = self._plan()
        for _ in range(TRIES):
            await self._service.ready.wait()
            entry = await self._try(name, plan)
            if entry.outcome == "whole":
                break
            if entry.outcome == "refused":  # 409 while the one before runs, 503 while storage is away
                await asyncio.sleep(PAUSE_S)
        return entry

    async def _try(self, key: str, plan: Plan) -> Entry:
        tries = self.asked.setdefault(key, [])
        entry = Entry(f"{key}.{len(tries) + 1}", plan)
        self._book[entry.id] = entry
        tries.append(entry)
        await ask(entry, self._service.port, self._service.authorization, key)
        return entry

    async def replay(self, at_once: int) -> int:
        """Ask for every key once more; return how many were not given what they had been given."""
        keys = iter(list(self.asked))
        other = 0

        async def work() -> None:
            nonlocal other
            for key in keys:
                before = self.asked[key][-1]
                again = await self._try(key, before.plan)
                other += not (again.replayed and again.outcome == "whole" and again.body == before.body)

        await asyncio.gather(*(work() for _ in range(at_once)))
        return other
