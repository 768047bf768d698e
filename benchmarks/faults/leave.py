"""`leave`: clients go away at random chunks; billed is between what each got and what the upstream sent."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.faults.book import Plan, Route, Verdict, audit
from benchmarks.faults.kill import ended
from benchmarks.faults.load import Load
from benchmarks.faults.service import Service
from benchmarks.faults.upstream import Upstream


def plans(seed: int, route: Route = "chat") -> Callable[[], Plan]:
    """Return a maker of requests whose clients leave: before the first token, at any of them, or too late."""
    random_ = random.Random(seed)

    def plan() -> Plan:
        stream, tokens = random_.random() < 0.85, random_.randint(4, 60)
        return Plan(
            stream=stream,
            tokens=tokens,
            first_ms=random_.uniform(0, 40),
            gap_ms=random_.choice((0.0, 0.5, 2.0, 5.0)),
            usage=random_.random() >= 0.2,
            leave=random_.randint(0, tokens) if stream else 0,
            route=route,
        )

    return plan


async def run(
    requests: int, at_once: int, seed: int, route: Route = "chat"
) -> tuple[Verdict, dict[str, Any]]:
    """Let every client leave; returns what the audit found and how many left where."""
    upstream = Upstream({})
    with tempfile.TemporaryDirectory() as made:
        async with upstream.serving() as port:
            service = Service(Path(made), port)
            try:
                await service.start()
                await Load(service, upstream.book, plans(seed, route), "leave").send(requests, at_once)
                await ended(service)
                book, differences = upstream.book, await service.differences()
                rows = await service.rows()
                verdict = audit(book, rows, len(differences))
            finally:
                service.close()
    charged = {row.client_request_id for row in rows if row.kind == "settle"}
    untouched = [entry for entry in book.values() if not entry.tokens]
    return verdict, {
        "left_before_a_token": len(untouched),
        "of_these_charged": sum(entry.id in charged for entry in untouched),
        "left_in_the_middle": sum(entry.outcome == "left" and entry.tokens > 0 for entry in book.values()),
    }
