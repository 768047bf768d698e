"""`storage`: PostgreSQL stopped hard and standing still, Redis killed, under load; nothing unaccounted.

PostgreSQL: by SIGKILL of all its processes and by its immediate shutdown in turn, and once paused (SIGSTOP).
Meanwhile there is only 503, and after it the service is back within two seconds with the connections it had.
Redis: two routers share a limit of the first model. While it is gone each keeps to its half, says so, and
charges as ever; what finds the first model full is served by the second.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from benchmarks.faults.book import Plan, Verdict, audit, mixed_plan
from benchmarks.faults.kill import ended
from benchmarks.faults.load import Load, until
from benchmarks.faults.service import Service
from benchmarks.faults.stores import cluster
from benchmarks.faults.upstream import Upstream
from tests.postgres import Cluster, fetch
from tests.redis_server import RedisServer

NAME = "storage_unavailable"
CONNECTIONS = 4  # of one process
SPARE_FILES = 8
BACK_S = 2.0
WAIT_S = 20.0
PLACES = 8
REFUSED = 10  # requests that come while storage is away, at least
MORE = 100  # requests before, while and after Redis is away


def run(
    stops: int, pause_s: float, redis_kills: int, at_once: int
) -> tuple[list[Verdict], list[dict[str, Any]]]:
    """Run all of it, one after another."""
    with cluster() as running:
        found = [asyncio.run(database(running, stops, pause_s, at_once))]
        found.append(asyncio.run(shared_limits(running, redis_kills, at_once)))
    return [verdict for verdict, _ in found], [about for _, about in found]


async def database(
    running: Cluster, stops: int, pause_s: float, at_once: int
) -> tuple[Verdict, dict[str, Any]]:
    """Take PostgreSQL away so many times and once for a pause; returns the audit and the times."""
    upstream, random_ = Upstream({}), random.Random(1)
    environ = {"ROUTER_DATABASE_URL": await asyncio.to_thread(running.make_database)}
    with tempfile.TemporaryDirectory() as made:
        async with upstream.serving() as port:
            service = Service(Path(made), port, environ)
            try:
                await service.start()
                files = [_open_files(service)]
                away = _Away(
                    running, service, Load(service, upstream.book, lambda: mixed_plan(random_), "pg")
                )
                sending = asyncio.create_task(away.load.send(10**9, at_once))
                for number in range(stops):
                    await away.stop(running.kill if number % 2 else running.stop, running.start, 0)
                await away.stop(running.pause, running.resume, pause_s)
                await away.load.passed(away.load.started + MORE)
                away.load.over()
                await sending
                await ended(service)
                files.append(_open_files(service))
                left = await asyncio.to_thread(fetch, running.url(), _CONNECTED)
                rows, differences = await service.rows(), len(await service.differences())
                service.run("ledger", "check")
            finally:
                service.close()
    verdict = audit(upstream.book, rows, differences)
    refused = [entry for entry in upstream.book.values() if entry.status not in (200, None)]
    verdict.faults["another refusal than 503"] = sum(
        (entry.status, entry.detail) != (503, NAME) for entry in refused
    )
    verdict.faults["no answer"] = sum(
        entry.outcome in ("failed", "cut") and entry.plan.stop is None for entry in upstream.book.values()
    )
    verdict.faults["ready in trouble"] = away.ready_away
    verdict.faults["not back"] = sum(second > BACK_S for second in away.back_s)
    verdict.faults["connection leak"] = max(0, len(left) - CONNECTIONS)
    verdict.faults["file leak"] = max(0, files[1] - files[0] - at_once - SPARE_FILES)  # to upstreams
    about = {"postgresql": f"{stops} hard stops, a pause of {pause_s} s", "connections": len(left)}
    return verdict, about | away.about() | {"refusals": len(refused), "open_files": files}


def _open_files(service: Service) -> int:
    return len(list(Path(f"/proc/{service.pid}/fd").iterdir()))


class _Away:
    """Take the database away from a service that is asked all the time."""

    def __init__(self, running: Cluster, service: Service, load: Load) -> None:
        self.load = load
        self._running = running
        self._service = service
        self.back_s: list[float] = []
        self.ready_away = 0

    async def stop(self, go: Callable[[], None], come: Callable[[], None], pause_s: float) -> None:
        """Stop it, see that nobody is served, start it, and note how long the service needed."""
        began = self.load.started
        await self.load.passed(began + random.Random(began).randint(20, 120))
        await asyncio.to_thread(go)
        await until(self._refused(REFUSED), WAIT_S)
        await asyncio.sleep(pause_s)
        self.ready_away += await self._service.get("/health/ready") != 503
        await asyncio.to_thread(come)  # returns when the server answers
        self.back_s.append(await until(self.load.served, WAIT_S))
        await until(self._service.is_ready, WAIT_S)

    def _refused(self, count: int) -> Callable[[], Any]:
        before = self.load.refused

        async def enough() -> bool:
            return self.load.refused >= before + count

        return enough

    def about(self) -> dict[str, Any]:
        """Return the figures."""
        ordered = sorted(self.back_s)
        return {
            "back_p50_s": round(ordered[len(ordered) // 2], 3),
            "back_max_s": round(ordered[-1], 3),
        }


_CONNECTED = "SELECT pid FROM pg_stat_activity WHERE application_name = 'llm-router'"


async def shared_limits(running: Cluster, kills: int, at_once: int) -> tuple[Verdict, dict[str, Any]]:
    """Kill Redis so many times beside two routers; returns the audit and the most that ran at once."""
    upstream = Upstream({})
    url = await asyncio.to_thread(running.make_database)
    with tempfile.TemporaryDirectory() as made, RedisServer() as redis:
        environ = {"ROUTER_DATABASE_URL": url, "ROUTER_SHARED_URL": redis.url}
        async with upstream.serving() as port:
            with _pair(Path(made), port, environ) as services:
                await asyncio.gather(*(service.start() for service in services))
                loads = [_load(service, upstream, f"r{number}") for number, service in enumerate(services)]
                pair = _Pair(services, loads, upstream)
                await pair.told("shared")
                sending = [asyncio.create_task(load.send(10**9, at_once // 2)) for load in loads]
                await pair.steady("shared")
                for _ in range(kills):
                    await asyncio.to_thread(redis.kill)
                    await pair.told("local")
                    await pair.steady("local")
                    await asyncio.to_thread(redis.start)
                    await pair.told("shared")
                    await pair.steady("shared")
                for load in loads:
                    load.over()
                await asyncio.gather(*sending)
                await ended(services[0])
                rows, differences = await services[0].rows(), len(await services[0].differences())
                services[0].run("ledger", "check")
    verdict = audit(upstream.book, rows, differences)
    verdict.faults["refused"] = sum(entry.status != 200 for entry in upstream.book.values())
    verdict.faults["over the limit"] = sum(most > PLACES for most in pair.most["shared"])
    verdict.faults["over the limit alone"] = sum(most > PLACES // 2 for most in pair.most["local"])
    verdict.faults["unsaid"] = pair.unsaid
    most = {f"most_at_once_{state}": sorted(set(found)) for state, found in pair.most.items()}
    return verdict, {"redis": f"{kills} kills, two routers, {PLACES} places"} | most | {
        "told_s": pair.told_s()
    }


def _load(service: Service, upstream: Upstream, name: str) -> Load:
    random_ = random.Random(name)

    def stays() -> Plan:
        """Return a request whose client stays: the upstream then knows exactly what runs."""
        return replace(mixed_plan(random_, leaving=0), first_ms=random_.uniform(10, 40))

    return Load(service, upstream.book, stays, name)


@contextmanager
def _pair(folder: Path, port: int, environ: dict[str, str]) -> Iterator[list[Service]]:
    services: list[Service] = []
    try:
        for name in ("one", "two"):
            (folder / name).mkdir()
            key = services[0].authorization if services else ""
            services.append(
                Service(folder / name, port, environ, authorization=key, limits=f"concurrency = {PLACES}")
            )
        yield services
    finally:
        for service in services:
            service.close()


class _Pair:
    """Two routers under load; `most` is what ran at once at the first model while limits were in a state.

    In all while they are shared, at each of the two while they are local.
    """

    def __init__(self, services: Sequence[Service], loads: Sequence[Load], upstream: Upstream) -> None:
        self._services = services
        self._loads = loads
        self._upstream = upstream
        self._told_s: dict[str, list[float]] = {"shared": [], "local": []}
        self.most: dict[str, list[int]] = {"shared": [], "local": []}
        self.unsaid = 0

    async def told(self, state: str) -> None:
        """Wait until readiness and metrics of both say how limits are kept."""
        began_s = time.monotonic()
        await until(lambda: self._says(state), WAIT_S)
        self._told_s[state].append(time.monotonic() - began_s)
        self.unsaid += not await self._says(state)

    async def _says(self, state: str) -> bool:
        gauge = re.compile(rb"^router_limits_shared %d\.0$" % (state == "shared"), re.MULTILINE)
        for service in self._services:
            status, body = await service.fetch("/health/ready")
            if status != 200 or (told := json.loads(body))["limits"] != state or told["replicas"] != 2:
                return False
            if not gauge.search((await service.fetch("/metrics"))[1]):
                return False
        return True

    async def steady(self, state: str) -> None:
        """Look for a while at what runs, once all has ended that was admitted before."""
        before = set(self._upstream.running)

        async def over() -> bool:
            return before.isdisjoint(self._upstream.running)

        await until(over, WAIT_S)
        self._upstream.peaks.clear()
        await asyncio.gather(*(load.passed(load.started + MORE) for load in self._loads))
        peaks = dict(self._upstream.peaks)
        whole = peaks.pop("")
        self.most[state] += [whole] if state == "shared" else list(peaks.values())

    def told_s(self) -> dict[str, float]:
        """Return the longest time until a change was said."""
        return {state: round(max(found), 2) for state, found in self._told_s.items() if found}
