"""`kill`: SIGKILL at random moments under mixed load; nothing lost, unbilled, doubled, wrong or invented."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from benchmarks.faults.book import Entry, Plan, Route, Verdict, audit, audit_keys, mixed_plan
from benchmarks.faults.load import KeyedLoad, Load, until
from benchmarks.faults.service import Service, open_holds
from benchmarks.faults.stores import environ_of
from benchmarks.faults.upstream import Upstream

ENDED_S = 5.0
REPLACED_S = 20.0
WITHIN_MS = 30.0


@dataclass(frozen=True, slots=True)
class How:
    """What is killed: with `keys` clients retry, with `workers` every second kill hits one of them alone."""

    keys: bool = False
    workers: int = 1
    postgres: bool = False
    route: Route = "chat"


async def one_seed(
    seed: int, requests: int, at_once: int, kills: int, how: How, environ: dict[str, str]
) -> tuple[Verdict, dict[str, Any]]:
    """Run one seed; returns what the audit found and how the restarts went."""
    random_ = random.Random(seed)
    upstream = Upstream({})
    recovered_s: list[float] = []
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory() as made:
        async with upstream.serving() as port:
            service = Service(Path(made), port, environ, how.workers)
            try:
                await service.start()
                load = _load(service, upstream.book, random_, f"s{seed}", how)
                sending = asyncio.create_task(load.send(requests, at_once))
                for number, moment in enumerate(
                    sorted(random_.sample(range(requests // 50, requests - at_once), kills))
                ):
                    await load.passed(moment)
                    await asyncio.sleep(random_.uniform(0, WITHIN_MS) / 1e3)
                    if number % 2 and how.workers > 1:
                        await kill_worker(service, random_)
                    else:
                        await service.kill()
                        recovered_s.append(await restart(service))
                await sending
                verdict = await _audited(service, upstream.book, load, at_once)
                service.run("ledger", "check")
            finally:
                service.close()
    about = {
        "seed": seed,
        "seconds": time.monotonic() - began_s,
        "ready_s": service.starts_s[1:],
        "holds_ended_s": recovered_s,
        "broken_by_a_kill": sum(entry.outcome in ("cut", "failed") for entry in upstream.book.values()),
    }
    if isinstance(load, KeyedLoad):
        about |= _tries(load)
    return verdict, about


def _load(service: Service, book: dict[str, Entry], random_: random.Random, name: str, how: How) -> Load:
    def kept() -> Plan:
        """Return a request that its client does not give up and its upstream answers to the end."""
        return replace(mixed_plan(random_, leaving=0, route=how.route), stop=None)

    return (
        KeyedLoad(service, book, kept, name)
        if how.keys
        else Load(service, book, lambda: mixed_plan(random_, route=how.route), name)
    )


async def _audited(service: Service, book: dict[str, Entry], load: Load, at_once: int) -> Verdict:
    await ended(service)
    other = await load.replay(at_once) if isinstance(load, KeyedLoad) else 0
    rows, differences = await service.rows(), len(await service.differences())
    if not isinstance(load, KeyedLoad):
        return audit(book, rows, differences)
    verdict = audit_keys(load.asked, rows, differences)
    verdict.faults["unequal"] += other
    verdict.faults["no answer"] = sum(tries[-1].outcome != "whole" for tries in load.asked.values())
    return verdict


def _tries(load: KeyedLoad) -> dict[str, int]:
    """Return how often keys were used: the last use of each is the one that must be a replay."""
    uses = [tries[:-1] for tries in load.asked.values()]
    return {
        "tries": sum(map(len, uses)),
        "answered_anew": sum(max(0, sum(entry.calls > 0 for entry in tries) - 1) for tries in uses),
        "replayed_after_a_kill": sum(entry.replayed for tries in uses for entry in tries),
        "refused_while_running": sum(entry.status == 409 for tries in uses for entry in tries),
    }


async def kill_worker(service: Service, random_: random.Random) -> None:
    """End one worker by SIGKILL while the others serve, and wait until another one is in its place."""
    os.kill(random_.choice(service.worker_pids()), signal.SIGKILL)

    async def fewer() -> bool:
        return not await service.is_ready()

    await until(fewer, REPLACED_S, 0.001)
    await until(service.is_ready, REPLACED_S)


async def restart(service: Service) -> float:
    """Start again and return the seconds from readiness until the dead process's holds had ended.

    The clients wait for that: whatever is open is the dead process's.
    """
    await service.start(open_at_once=False)
    took_s = await ended(service)
    service.ready.set()
    return took_s


async def ended(service: Service) -> float:
    """Wait until no hold is open and return the seconds that took, at most ENDED_S."""

    async def none_open() -> bool:
        return not open_holds(await service.rows())

    return await until(none_open, ENDED_S)


def run(
    requests: int, at_once: int, kills: int, seeds: int, how: How | None = None
) -> tuple[list[Verdict], list[dict[str, Any]]]:
    """Run every seed, one after another."""
    how = how or How()
    found = []
    for seed in range(1, seeds + 1):
        with environ_of(postgres=how.postgres) as environ:
            found.append(asyncio.run(one_seed(seed, requests, at_once, kills, how, environ)))
    return [verdict for verdict, _ in found], [about for _, about in found]
