"""The page of a result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.scaling import paper, service

PARTS = ("router", "database", "redis", "load", "upstream")
MILLION = 1_000_000


def markdown(result: Mapping[str, Any]) -> str:
    """Return the whole page."""
    machine, load = result["machine"], result["load"]
    foreign = ", ".join(f"{share:.1%}" for share in result["foreign_cpu_share"])
    direct = result["setups"]["direct"]
    load_us, upstream_us = (_figure(direct["cpu_us"][name]) for name in ("load", "upstream"))
    lines = [
        f"# Scaling, version {result['version']}, commit {result['commit']}",
        f"Measured {result['measured_at']} on {machine['cpu']}, {machine['cores']} cores,"
        f" {machine['system']}, ledger on {machine['ledger_filesystem']}; Python {result['python']}."
        f" Rounds: {load['rounds']}, {load['seconds']} s a load; {load['connections']} connections, requests"
        f" of 1 kB from {load['accounts']} accounts, each with a limit. Median (least-most) of the rounds."
        f" Other programs took {foreign} of the cores.",
        "",
        "All processes share these cores, those of the load generator and the upstream too. Without a router"
        f" the two do {_figure(direct['rps'])} requests/s and take {load_us} + {upstream_us} us of CPU a"
        ' request. "Had it all cores" is computed: the cores by the CPU that a request takes of all of them,'
        " what the measured figure would be on this machine if nothing else ran and nobody ever waited.",
        "",
        "## The service",
        "| | requests/s | on paper | p50 ms | p99 ms | p50 / p99 ms at one connection |"
        f" CPU us a request: {PARTS[0]} |"
        f" {' | '.join(PARTS[1:])} | PostgreSQL connections | WAL bytes | Redis calls |",
        "|---|" + "--:|" * 13,
        *(
            _setup(name, found, machine["cores"])
            for name, found in result["setups"].items()
            if name != "direct"
        ),
        "",
        "## The ledger alone",
        *_ledger(result["ledger"]),
        "",
        f"Reading the shipped catalog, as a reload does: {_figure(result['catalog_reload_ms'])} ms of CPU.",
    ]
    if computed := paper.table(result):
        lines += [
            "",
            "## On paper",
            f"From the figures above, CPU from {paper.BASIS}. Bold: more than there is.",
        ]
        lines += ["", *computed]
    return "\n".join(lines) + "\n"


def _setup(name: str, found: Mapping[str, Any], cores: int) -> str:
    if "unavailable" in found:
        return f"| {name} | {found['unavailable'].splitlines()[0]} |" + " |" * 12
    cells = [_figure(found[figure]) for figure in ("rps", "p50_ms", "p99_ms")]
    cells.insert(1, f"{_on_paper(name, found['cpu_us'], cores):,.0f}")
    cells.append(f"{_figure(found['p50_at_one_ms'])} / {_figure(found['p99_at_one_ms'])}")
    cells += [_figure(found["cpu_us"].get(part)) for part in PARTS]
    cells += [_figure(found.get(figure)) for figure in ("connections", "wal_bytes", "redis_calls")]
    return f"| {name} | {' | '.join(cells)} |"


def summary(result: Mapping[str, Any]) -> list[str]:
    """Return the lines of the two tables that docs/scaling.md shows."""
    lines = [
        "| | requests/s | on paper | p99 ms | p50 ms at one connection | CPU us: router | PostgreSQL"
        " | Redis |",
        "|---|" + "--:|" * 7,
    ]
    for name, found in result["setups"].items():
        if name == "direct" or "unavailable" in found:
            continue
        used = found["cpu_us"]
        cells = [_figure(found["rps"]), f"{_on_paper(name, used, result['machine']['cores']):,.0f}"]
        cells += [_median(found["p99_ms"]), _median(found["p50_at_one_ms"])]
        cells += [_median(used.get(part)) for part in PARTS[:3]]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return [*lines, *paper.table(result)]


def renewed(document: str, result: Mapping[str, Any]) -> str:
    """Return a document with its two tables as they are now; its prose is its author's to renew."""
    lines, table = document.splitlines(), summary(result)
    starts = [number for number, line in enumerate(table) if line.startswith("| |")]
    for new in (table[start:end] for start, end in zip(starts, [*starts[1:], len(table)], strict=True)):
        first = next((n for n, line in enumerate(lines) if line == new[0]), None)
        if first is not None:
            last = next(n for n in range(first, len(lines) + 1) if not lines[n : n + 1] or not lines[n])
            lines[first:last] = new
    return "\n".join(lines) + "\n"


def _median(found: Mapping[str, float] | None) -> str:
    return "-" if found is None else _short(found["median"])


def _on_paper(name: str, cpu_us: Mapping[str, Any], cores: int) -> float:
    all_us = sum(part["median"] for part in cpu_us.values())
    processes = next(setup.processes for setup in service.SETUPS if setup.name == name)
    return min(cores / all_us, processes / cpu_us["router"]["median"]) * 1e6


def _ledger(engines: Mapping[str, Any]) -> list[str]:
    usable = {name: found for name, found in engines.items() if "unavailable" not in found}
    lines = [f"{name}: {found['unavailable']}\n" for name, found in engines.items() if name not in usable]
    lines += [
        "| a hold and its end | CPU us of the loop | wait for the hold, p50 us | p99 us |",
        "|---|--:|--:|--:|",
    ]
    for name, found in usable.items():
        for at_once, figures in found["hold"].items():
            cells = [_figure(figures[each]) for each in ("loop_cpu_us", "wait_p50_us", "wait_p99_us")]
            lines.append(f"| {name}, {at_once} at once | {' | '.join(cells)} |")
    lines += ["", "| processes that only write, 64 at once each | requests/s of all | p50 ms | p99 ms |"]
    lines.append("|---|--:|--:|--:|")
    for name, found in usable.items():
        for writers, figures in found["writers"].items():
            cells = [_figure(figures[each]) for each in ("requests_per_s", "hold_p50_ms", "hold_p99_ms")]
            lines.append(f"| {name}, {writers} | {' | '.join(cells)} |")
    lines += ["", "| a million requests | MB of ledger | WAL, MB | folded: bytes a row, sums | roll-up, s |"]
    lines.append("|---|--:|--:|--:|--:|")
    for name, found in usable.items():
        grown = found["growth"]
        wal = grown.get("wal_bytes_a_request")
        cells = [
            f"{grown['bytes_a_request']:,.0f}",
            "-" if wal is None else f"{wal:,.0f}",
            f"{grown['bytes_a_sum']:,.0f} ({grown['sums']:,.0f} of {grown['requests']:,.0f} requests)",
            f"{grown['rollup_us_a_request'] * MILLION / 1e6:,.0f}",
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def _figure(found: Mapping[str, float] | None) -> str:
    if found is None:
        return "-"
    median, least, most = (_short(found[name]) for name in ("median", "min", "max"))
    return median if least == most else f"{median} ({least}-{most})"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
