"""What the measured costs make of more requests: the table of growth on paper."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

RATES = (100, 1_000, 10_000)  # requests/s: 1 x, 10 x, 100 x
BUSY = 0.6  # of a core, at which a process still answers quickly
BASIS = "PostgreSQL, 2 replicas + Redis"
DAY_S = 86_400
SPARE = 13  # connections for the superuser and for commands


def table(result: Mapping[str, Any]) -> list[str]:
    """Return the table's lines; none where a figure that it needs was not measured."""
    basis, engines = result["setups"].get(BASIS, {}), result["ledger"]
    if "cpu_us" not in basis or any(
        "growth" not in engines.get(name, {}) for name in ("sqlite", "postgresql")
    ):
        return []
    cost = {name: found["median"] / 1e6 for name, found in basis["cpu_us"].items()}
    each = basis["connections"]["median"] / 2
    written = {
        name: {count: found["requests_per_s"]["median"] for count, found in engines[name]["writers"].items()}
        for name in engines
    }
    hot = min(found for count, found in written["postgresql"].items() if "one account" in count)
    one_writer = list(written["sqlite"].values())[-1]
    growth, limit = engines["postgresql"]["growth"], engines["postgresql"]["max_connections"]
    rows: dict[str, list[str]] = {}

    def row(name: str, cells: list[str]) -> None:
        rows[name] = cells

    processes = [math.ceil(rate * cost["router"] / BUSY) for rate in RATES]
    row(f"router processes, each {BUSY:.0%} busy", [f"{count:,}" for count in processes])
    row(
        f"PostgreSQL connections ({each:.0f} a process), of {limit:,} less {SPARE}",
        [_against(each * count, limit - SPARE) for count in processes],
    )
    row("PostgreSQL, cores", [f"{rate * cost['database']:.2g}" for rate in RATES])
    row("one account for all: of its row's requests/s", [_against(rate, hot) for rate in RATES])
    row("SQLite instead: of its one writer's requests/s", [_against(rate, one_writer) for rate in RATES])
    row("WAL, MB/s", [f"{rate * basis['wal_bytes']['median'] / 1e6:.2g}" for rate in RATES])
    row(
        "ledger in PostgreSQL, GB a day before the roll-up",
        [f"{rate * DAY_S * growth['bytes_a_request'] / 1e9:,.0f}" for rate in RATES],
    )
    row(
        "... in SQLite",
        [f"{rate * DAY_S * engines['sqlite']['growth']['bytes_a_request'] / 1e9:,.0f}" for rate in RATES],
    )
    row(
        "rolling a day up, minutes",
        [f"{rate * DAY_S * growth['rollup_us_a_request'] / 60e6:,.0f}" for rate in RATES],
    )
    row("Redis calls/s", [f"{rate * basis['redis_calls']['median']:,.0f}" for rate in RATES])
    row("Redis, of its one core", [_against(rate * cost["redis"], 1.0, "core") for rate in RATES])
    reload_s = result["catalog_reload_ms"]["median"] / 1e3
    row(
        "catalog edited once a second: cores of all processes",
        [f"{count * reload_s:.2g}" for count in processes],
    )
    heads = " | ".join(f"{rate:,} requests/s" for rate in RATES)
    return [f"| | {heads} |", "|---|" + "--:|" * len(RATES)] + [
        f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items()
    ]


def _against(needed: float, there: float, unit: str = "") -> str:
    share = needed / there
    text = f"{needed:.2g} {unit}".strip() if unit else f"{needed:,.0f} of {there:,.0f}"
    return f"**{text}**" if share > 1 else text
