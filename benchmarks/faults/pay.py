"""`pay`: SIGKILL around verify, serve and settle of wallets' payments; nothing twice, nothing for nothing."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import tempfile
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.faults.book import Route
from benchmarks.faults.buy import Buyers
from benchmarks.faults.kill import ended, kill_worker
from benchmarks.faults.load import until
from benchmarks.faults.oracle import MOMENTS, PAY_TO, Oracle, Trap, on_chain, scripted
from benchmarks.faults.paid import Books, Paid, audit
from benchmarks.faults.service import Service
from benchmarks.faults.stores import environ_of
from benchmarks.faults.upstream import Upstream
from router.ledger.payments import Payment

MPP_SECRET = "the secret of a proof, of 32 bytes or more"
PRICE = (333, 1_777)  # nano-USD a token: what is used is no multiple of a unit
SPRUNG_S = 20.0
RECOVERED_S = 60.0
LATE_S = 2.5
FEW = "concurrency = 3"  # of the twelve who come at once
CHANCE = "chance"


@dataclass(frozen=True, slots=True)
class How:
    """What is killed, and at which moments in turn.

    `remembers` is a facilitator that tells again of what it has settled. `first` lets every wallet pay before
    the upstream is asked, for places that are few.
    """

    workers: int = 1
    postgres: bool = False
    chain: bool = False
    remembers: bool = True
    route: Route = "chat"
    moments: tuple[str, ...] = (*MOMENTS, CHANCE)
    first: bool = False

    def oracle(self) -> AbstractContextManager[Oracle]:
        """Return who settles."""
        return on_chain() if self.chain else scripted(remembers=self.remembers)


def selling(oracle: Oracle) -> dict[str, str]:
    """Return the settings that sell by x402 and MPP."""
    return {
        "ROUTER_X402_PAY_TO": PAY_TO,
        "ROUTER_X402_FACILITATOR": oracle.url,
        "ROUTER_X402_NETWORK": "eip155:84532",
        "ROUTER_MPP_SECRET": MPP_SECRET,
        "ROUTER_MPP_METHODS": "evm",
    }


class Killer:
    """End the service at chosen moments and by chance, and start it again."""

    def __init__(self, service: Service, buyers: Buyers, trap: Trap, random_: random.Random) -> None:
        self._service = service
        self._buyers = buyers
        self._trap = trap
        trap.spring = self.spring
        self._random = random_
        self._dead = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self.by_chance = 0
        self.workers_killed = 0
        self.ended_s: list[float] = []

    def spring(self) -> None:
        """Kill at once, from whichever thread."""
        os.killpg(self._service.pid, signal.SIGKILL)
        self._loop.call_soon_threadsafe(self._dead.set)

    async def run(self, kills: int, purchases: int, moments: Sequence[str]) -> None:
        """Kill so often while so much is bought."""
        for number in range(kills):
            await self._passed(purchases * (number + 1) // (kills + 2))
            if number % 2 and self._service.workers > 1:
                await asyncio.sleep(self._random.uniform(0, 0.03))
                await kill_worker(self._service, self._random)
                self.workers_killed += 1
                continue
            await self._kill(moments[number % len(moments)])
            await self._service.start(open_at_once=False)
            self.ended_s.append(await ended(self._service))
            self._service.ready.set()
            self._loop.call_later(self._random.uniform(0, LATE_S), self._trap.back.set)

    async def _kill(self, moment: str) -> None:
        self._dead.clear()
        if moment == CHANCE:
            await asyncio.sleep(self._random.uniform(0, 0.05))
        else:
            self._trap.arm(moment)
            await until(self._sprung, SPRUNG_S, 0.001)
        if not self._dead.is_set() and (moment == CHANCE or self._trap.disarm()):
            self.by_chance += 1
            self.spring()
        await self._dead.wait()
        self._service.ready.clear()
        await self._service.gone()

    async def _sprung(self) -> bool:
        return self._dead.is_set() or self._buyers.over

    async def _passed(self, count: int) -> None:
        async def begun() -> bool:
            return self._buyers.started >= count or self._buyers.over

        await until(begun, 600, 0.001)


async def one_seed(
    seed: int, purchases: int, at_once: int, kills: int, how: How, oracle: Oracle, environ: dict[str, str]
) -> tuple[Paid, dict[str, Any]]:
    """Run one seed; returns what the audit found and what was done."""
    random_, began_s = random.Random(seed), time.monotonic()
    trap = oracle.trap = Trap(random.Random(seed + 1))
    upstream = Upstream({}, trap.at)
    with tempfile.TemporaryDirectory() as made:
        async with upstream.serving() as port:
            sells = environ | selling(oracle)
            service = Service(
                Path(made),
                port,
                sells,
                how.workers,
                authorization="nobody",
                price=PRICE,
                limits_of_all=FEW if how.first else "",
            )
            try:
                await service.start()
                buyers = Buyers(service, oracle, upstream.book, random_, how.route, first=how.first)
                killer = Killer(service, buyers, trap, random_)
                buying = asyncio.create_task(buyers.buy(purchases, at_once))
                await killer.run(kills, purchases, how.moments)
                await buying
                await ended(service)
                recovered_s = await until(lambda: _settled(service, oracle), RECOVERED_S, 0.2)
                verdict = await _audited(service, oracle, buyers)
            finally:
                service.close()
    return verdict, {
        "seed": seed,
        "seconds": round(time.monotonic() - began_s, 1),
        "kills": len(killer.ended_s) + killer.workers_killed,
        "at": dict(trap.sprung) | {CHANCE: killer.by_chance, "one worker": killer.workers_killed},
        "requests": len(upstream.book),
        "found_full": sum(entry.status == 429 for entry in upstream.book.values()),
        "ready_s": round(max(service.starts_s), 2),
        "holds_ended_s": round(max(killer.ended_s, default=0.0), 2),
        "recovered_s": round(recovered_s, 1),
        "settled": sum(map(len, oracle.moved(set()).values())),
    }


async def _settled(service: Service, oracle: Oracle) -> bool:
    """Say whether nothing is left to be settled or learnt but what its facilitator does not tell."""
    moved = await asyncio.to_thread(oracle.moved, set())
    return not any(_is_left(one, bool(moved.get(one.claim.payer))) for one in await service.payments())


def _is_left(payment: Payment, moved: bool) -> bool:
    return payment.state in ("claimed", "settling") and (moved or payment.served_nusd is not None)


async def _audited(service: Service, oracle: Oracle, buyers: Buyers) -> Paid:
    listed = service.run("ledger", "payments", "--json").stdout
    books = Books.of(
        await service.payments(), await service.rows(), [json.loads(line) for line in listed.splitlines()]
    )
    service.run("ledger", "check")
    moved = await asyncio.to_thread(oracle.moved, {purchase.payer for purchase in buyers.purchases})
    return audit(buyers.purchases, moved, oracle.refused, books, len(await service.differences()))


def run(
    purchases: int, at_once: int, kills: int, seeds: int, how: How
) -> tuple[list[Paid], list[dict[str, Any]]]:
    """Run every seed, one after another."""
    found = []
    for seed in range(1, seeds + 1):
        with environ_of(postgres=how.postgres) as environ, how.oracle() as oracle:
            found.append(asyncio.run(one_seed(seed, purchases, at_once, kills, how, oracle, environ)))
    return [verdict for verdict, _ in found], [about for _, about in found]
