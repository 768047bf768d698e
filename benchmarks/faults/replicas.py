"""`replicas`: credit for exactly N requests, five times as many sent to processes that share the books.

Two routers on one PostgreSQL, and four workers on one SQLite: exactly N are served, the rest get 402, and the
balance is never below zero. The upstream reports more tokens than were held, so that each request costs all
of its hold: what is left never depends on who came first.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

from benchmarks.faults.book import KINDS, Entry, Plan, Verdict
from benchmarks.faults.client import ask, asked
from benchmarks.faults.kill import ended
from benchmarks.faults.service import Service
from benchmarks.faults.stores import environ_of
from benchmarks.faults.upstream import Upstream
from router.ledger.rows import Row

SENT_FOR_ONE = 5
WORKERS = 4
PLAN = Plan(stream=False, tokens=8, first_ms=1, reported=4_000)
NAMES = ("not served", "served too much", "another refusal than 402", "below zero", "idle replica")


def run(served: int, at_once: int) -> tuple[list[Verdict], list[dict[str, Any]]]:
    """Run both, one after another."""
    found = [asyncio.run(one(postgres, served, at_once, environ)) for postgres, environ in _both()]
    return [verdict for verdict, _ in found], [about for _, about in found]


def _both() -> Iterator[tuple[bool, dict[str, str]]]:
    for postgres in (True, False):
        with environ_of(postgres=postgres) as environ:
            yield postgres, environ


async def one(
    postgres: bool, served: int, at_once: int, environ: dict[str, str]
) -> tuple[Verdict, dict[str, Any]]:
    """Send what the credit pays for, five times; returns what was found."""
    upstream = Upstream({})
    with tempfile.TemporaryDirectory() as made:
        async with upstream.serving() as port:
            with _services(Path(made), port, environ, postgres=postgres) as services:
                await asyncio.gather(*(service.start() for service in services))
                first = services[0]
                credit_usd = served * await _quote_usd(first)
                authorization = first.make_key(f"{credit_usd:f}")
                before = await first.rows()
                await _send(services, upstream.book, authorization, SENT_FOR_ONE * served, at_once)
                await ended(first)
                rows = (await first.rows())[len(before) :]
                differences = len(await first.differences())
                first.run("ledger", "check")
                await asyncio.gather(*(service.end(signal.SIGTERM) for service in services))
                seen = _decided_by(services)
    verdict = _verdict(upstream.book, rows, differences, served)
    verdict.faults["idle replica"] = (2 if postgres else WORKERS) - sum(count > 0 for count in seen)
    about = {
        "books": "PostgreSQL, two routers" if postgres else f"SQLite, {WORKERS} workers",
        "credit_for": served,
        "statuses": dict(Counter(entry.status for entry in upstream.book.values())),
        "upstream_calls": sum(entry.calls for entry in upstream.book.values()),
        "lowest_balance_nusd": min((row.balance_after_nusd for row in rows), default=None),
        "decided_by": seen,
    }
    return verdict, about


@contextmanager
def _services(folder: Path, port: int, environ: dict[str, str], *, postgres: bool) -> Iterator[list[Service]]:
    services: list[Service] = []
    environ = environ | {"ROUTER_DECISION_LOG_MIB": "1024"}  # it tells which process served
    try:
        for name in ("one", "two") if postgres else ("one",):
            (folder / name).mkdir()
            services.append(Service(folder / name, port, environ, 1 if postgres else WORKERS))
        yield services
    finally:
        for service in services:
            service.close()


async def _quote_usd(service: Service) -> Decimal:
    """Return what is held for one of the requests."""
    status, body = await service.fetch("/v1/route", asked(PLAN))
    if status != 200:
        raise RuntimeError(f"/v1/route answered {status}: {body[:300]!r}")
    return Decimal(str(json.loads(body)["quote"]["max_usd"]))


async def _send(
    services: Sequence[Service], book: dict[str, Entry], authorization: str, requests: int, at_once: int
) -> None:
    numbers = iter(range(requests))

    async def work(service: Service) -> None:
        for number in numbers:
            entry = book[f"n-{number}"] = Entry(f"n-{number}", PLAN)
            await ask(entry, service.port, authorization)

    await asyncio.gather(*map(work, itertools.islice(itertools.cycle(services), at_once)))


def _decided_by(services: Sequence[Service]) -> list[int]:
    """Return how many requests each process decided; its file is whole when it has ended."""
    counts: Counter[str] = Counter()
    for number, service in enumerate(services):
        for file in (service.data / "decisions").glob("*.jsonl"):
            counts[f"{number} {file.stem.rpartition('-')[2]}"] += len(file.read_bytes().splitlines())
    return sorted(counts.values())


def _verdict(book: dict[str, Entry], rows: Sequence[Row], differences: int, served: int) -> Verdict:
    verdict = Verdict(Counter(dict.fromkeys((*KINDS, *NAMES), 0)))
    verdict.faults["unbalanced"] = differences
    kinds = Counter(row.kind for row in rows)
    charged = Counter(row.client_request_id for row in rows if row.kind == "settle")
    verdict.settled, verdict.released = kinds["settle"], kinds["release"]
    verdict.faults["open"] = kinds["hold"] - kinds["settle"] - kinds["release"]
    verdict.faults["doubled"] = sum(count > 1 for count in charged.values())
    verdict.faults["below zero"] = sum(row.balance_after_nusd < 0 for row in rows)
    for entry in book.values():
        verdict.outcomes[entry.outcome] += 1
        verdict.tokens_received += entry.tokens
        verdict.tokens_sent += entry.sent
        if entry.outcome == "whole" and entry.id not in charged:
            verdict.fault("unbilled", entry, "an answer without a charge")
        elif entry.outcome != "whole" and entry.id in charged:
            verdict.fault("phantom", entry, "charged without an answer")
        if entry.outcome != "whole" and (entry.status != 402 or entry.calls):
            verdict.fault("another refusal than 402", entry, "neither served nor refused for its credit")
    verdict.tokens_billed = sum(row.completion_tokens or 0 for row in rows)
    verdict.faults["not served"] = max(0, served - verdict.outcomes["whole"])
    verdict.faults["served too much"] = max(0, verdict.outcomes["whole"] - served)
    return verdict
