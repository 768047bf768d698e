"""Measure requests/s and latency of every engine with one process and with more, and how the ledger grows.

    uv run python -m benchmarks.scaling           # ten minutes; writes results/, renews docs/scaling.md
    uv run python -m benchmarks.scaling --quick   # under a minute, two setups, nothing to keep

Everything shares all cores of one machine: routers, database, Redis, upstream and load generator. Read the
CPU a request, which adds up, before requests/s, which end where the cores do. Linux only.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import uvloop

from benchmarks import ledger
from benchmarks.machine import ForeignWork, surroundings
from benchmarks.processes import NotReady
from benchmarks.scaling import ledgers, page, service
from benchmarks.site import Site, Unavailable
from router.catalog.files import load_catalog
from tests.postgres import Cluster, binaries, fetch

RESULTS = Path(__file__).parents[1] / "results"
DOCUMENT = Path(__file__).parents[2] / "docs" / "scaling.md"
CATALOG = Path(__file__).parents[2] / "models_catalog"
WRITERS = (1, 2, 4)


@contextmanager
def postgresql() -> Iterator[Cluster | None]:
    """Run a private server on its own defaults; None where it is not installed."""
    folder = binaries()
    if folder is None:
        yield None
        return
    with Cluster(folder) as cluster:
        yield cluster


def one_round(site: Site, setups: tuple[service.Setup, ...], seconds: float) -> dict[str, Any]:
    """Measure every setup once, and the load generator without a router."""
    found: dict[str, Any] = {}
    with postgresql() as cluster:
        found["direct"] = service.ceiling(site, seconds / 2)
        for setup in setups:
            try:
                found[setup.name] = service.measure(site, setup, cluster, seconds)
            except (Unavailable, NotReady) as reason:
                found[setup.name] = {"unavailable": str(reason)}
            print(f"  {setup.name}: {found[setup.name]}", file=sys.stderr, flush=True)
    return found


def the_ledger(site: Site, rounds: int, requests: int, writers: tuple[int, ...]) -> dict[str, Any]:
    """Measure the ledger alone on both engines: a hold's cost, writers at once, growth."""
    found: dict[str, Any] = {}
    with postgresql() as cluster:
        for engine in ledger.ENGINES:
            if engine == "postgresql" and cluster is None:
                found[engine] = {"unavailable": "no PostgreSQL here: apt-get install postgresql"}
                continue
            fresh = _databases(engine, cluster)
            holds = uvloop.run(ledger.measure(site.folder("holds"), fresh(), rounds, 1_280, False))
            found[engine] = {
                "hold": {at_once: _ranges(each) for at_once, each in holds.items()},
                "writers": {
                    f"{count}{' on one account' if shared else ''}": _ranges(
                        [
                            ledgers.writers(site, fresh(), count, requests, shared=shared)
                            for _ in range(rounds)
                        ]
                    )
                    for shared in (False, True)
                    for count in writers
                    if not shared or (count > 1 and engine == "postgresql")
                },
                "growth": ledgers.growth(site, fresh(), requests * 2),
            }
            print(f"  {engine}: {found[engine]}", file=sys.stderr, flush=True)
        if cluster is not None:
            limit, version = fetch(
                cluster.url(), "SELECT current_setting('max_connections'), current_setting('server_version')"
            )[0]
            found["postgresql"] |= {"max_connections": int(limit), "version": version}
    return found


def _databases(engine: str, cluster: Cluster | None) -> Callable[[], str | None]:
    return lambda: None if engine == "sqlite" or cluster is None else cluster.make_database()


def catalog_reload_ms(times: int) -> dict[str, float]:
    """Measure what reading the shipped catalog costs, which a reload does in a thread."""
    took = []
    for _ in range(times):
        began_s = time.process_time()
        load_catalog(CATALOG, environ={}, today=date(2026, 11, 1))
        took.append((time.process_time() - began_s) * 1e3)
    return _range(took)


def _ranges(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Return median, least and most of every figure over rounds; those that have a reason are left out."""
    measured = [each for each in rounds if "unavailable" not in each]
    if not measured:
        return dict(rounds[0])
    return {
        name: _ranges([each[name] for each in measured])
        if isinstance(value, Mapping)
        else _range([float(each[name]) for each in measured])
        for name, value in measured[0].items()
    }


def _range(values: list[float]) -> dict[str, float]:
    figures = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {name: round(value, 2) for name, value in figures.items()}


def run(site: Site, rounds: int, seconds: float, *, quick: bool) -> dict[str, Any]:
    """Measure everything; returns the whole result."""
    setups = service.QUICK if quick else service.SETUPS
    found, foreign = [], []
    for number in range(1, rounds + 1):
        print(f"round {number} of {rounds}", file=sys.stderr, flush=True)
        work = ForeignWork()
        found.append(one_round(site, setups, seconds))
        foreign.append(round(work.share(), 3))
    names = ["direct", *(setup.name for setup in setups)]
    return surroundings(site.home) | {
        "load": {
            "rounds": rounds,
            "seconds": seconds,
            "connections": service.CONNECTIONS,
            "accounts": service.ACCOUNTS,
        },
        "foreign_cpu_share": foreign,
        "setups": {name: _ranges([each[name] for each in found]) for name in names},
        "ledger": the_ledger(site, rounds, 640 if quick else 6_400, (2,) if quick else WRITERS),
        "catalog_reload_ms": catalog_reload_ms(3 if quick else 15),
        "rounds": found,
    }


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, help="of everything (default 3, quick 1)")
    parser.add_argument("--seconds", type=float, help="a load (default 4, quick 0.5)")
    parser.add_argument("--quick", action="store_true", help="two setups, written only with --out")
    parser.add_argument("--out", type=Path, help=f"folder of the results (default {RESULTS.name}/)")
    told = parser.parse_args()
    rounds = told.rounds or (1 if told.quick else 3)
    seconds = told.seconds or (0.5 if told.quick else 4.0)
    with tempfile.TemporaryDirectory(prefix="router-scaling-") as home:
        try:
            result = run(Site(Path(home), Path(home), None, None), rounds, seconds, quick=told.quick)
        except (Unavailable, NotReady) as failed:
            sys.exit(f"error: {failed}")
    text = page.markdown(result)
    folder = told.out or (None if told.quick else RESULTS)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{result['version']}-scaling.json").write_text(json.dumps(result, indent=1) + "\n")
        (folder / f"{result['version']}-scaling.md").write_text(text)
    if folder == RESULTS:
        DOCUMENT.write_text(page.renewed(DOCUMENT.read_text(), result))
    print(text)


if __name__ == "__main__":
    main()
