"""Measure what a hold and its settle cost at 1, 16 and 64 requests at once: `python -m benchmarks.ledger`.

A request here is what the ledger sees of one: a hold that is waited for, one turn of the loop in place of the
upstream call, an end that nobody waits for. uvloop, nothing else on the loop; a real file for SQLite, and a
private server on its own defaults for PostgreSQL, over a Unix socket on the same machine.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import os
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.machine import surroundings
from router.ledger.engines import open_ledger, open_storage
from router.ledger.ledger import Ledger
from router.ledger.rows import HoldRequest, Settlement, utc_text
from router.ledger.sqlite import FILE, Database
from tests.postgres import Cluster, binaries, fetch

AT_ONCE = (1, 16, 64)
ENGINES = ("sqlite", "postgresql")
ACCOUNT = "key_bench"
CREDIT_NUSD = 10**15


async def one_client(ledger: Ledger, entries: list[tuple[HoldRequest, Settlement]]) -> list[float]:
    """Send requests one after another; return the seconds that each waited for its hold."""
    waited = []
    for hold, settlement in entries:
        began_s = time.perf_counter()
        await ledger.hold(hold)
        waited.append(time.perf_counter() - began_s)
        await asyncio.sleep(0)
        ledger.end(settlement)
    return waited


def entry() -> tuple[HoldRequest, Settlement]:
    """Make a hold and its settle, as a chat completion would."""
    request_id = f"req_{time.time_ns() // 1_000_000:011x}{os.urandom(10).hex()}"
    model, provider = "deepseek/deepseek-v3.2", "novita"
    return (
        HoldRequest(request_id, None, ACCOUNT, 1_000_000, model, provider, "abcdef012345", None, True),
        Settlement(request_id, 150, 150, 400_000, 350_000, model, provider),
    )


async def one_round(
    ledger: Ledger,
    at_once: int,
    requests: int,
    make: Callable[[], tuple[HoldRequest, Settlement]] = entry,
) -> dict[str, float]:
    """Measure one round: CPU microseconds a request of the loop and of the process, and each hold's wait."""
    clients = [[make() for _ in range(requests // at_once)] for _ in range(at_once)]
    count = requests // at_once * at_once
    gc.collect()
    began_s, loop_s, process_s = time.perf_counter(), time.thread_time(), time.process_time()
    waits = await asyncio.gather(*(one_client(ledger, entries) for entries in clients))
    loop_s, process_s = time.thread_time() - loop_s, time.process_time() - process_s
    took_s = time.perf_counter() - began_s
    waited = sorted(wait for client in waits for wait in client)
    return {
        "loop_cpu_us": loop_s / count * 1e6,
        "process_cpu_us": process_s / count * 1e6,
        "wait_p50_us": waited[count // 2] * 1e6,
        "wait_p99_us": waited[count * 99 // 100] * 1e6,
        "rows_per_s": 2 * count / took_s,
    }


async def measure(
    data: Path, url: str | None, rounds: int, requests: int, sync_hold: bool
) -> dict[int, list[dict[str, float]]]:
    """Run rounds of every number at once in turn, so that a slow moment of the machine meets all of them."""
    storage = await open_storage(data, url)
    now = utc_text(time.time())
    await storage.books.topup(ACCOUNT, CREDIT_NUSD, source="bench", external_id="1", now=now)
    await storage.close()
    ledger = open_ledger(data, url, clock=time.time, sync_hold=sync_hold)
    await ledger.start()
    try:
        await one_round(ledger, max(AT_ONCE), requests)
        found: dict[int, list[dict[str, float]]] = {at_once: [] for at_once in AT_ONCE}
        for done in range(rounds):
            for at_once in AT_ONCE:
                found[at_once].append(await one_round(ledger, at_once, requests))
            print(f"round {done + 1} of {rounds}", file=sys.stderr, flush=True)
        if await ledger.books.check():
            sys.exit("the books do not add up: a defect of the ledger, please report it")
        return found
    finally:
        await ledger.close()


def bytes_a_row(data: Path, url: str | None) -> float:
    """Return the size of the database, its indices included, by the rows of its ledger."""
    if url is not None:
        size = "SELECT pg_database_size(current_database())::float / count(*) FROM ledger"
        return float(fetch(url, size)[0][0])
    with closing(Database(data / FILE)) as database:
        database.checkpoint(finish=True)
        rows = database.connection.execute("SELECT count(*) FROM ledger").fetchone()[0]
    return float((data / FILE).stat().st_size / rows)


def table(found: dict[int, list[dict[str, float]]]) -> str:
    """Print the best round of each, and the median in brackets."""
    lines = ["at once     loop CPU us   process CPU us   hold waits, us: p50        p99       rows/s"]
    for at_once, rounds in found.items():
        names = ("loop_cpu_us", "process_cpu_us", "wait_p50_us", "wait_p99_us")
        columns = [[each[name] for each in rounds] for name in names]
        cells = [f"{min(values):6.1f} ({statistics.median(values):5.0f})" for values in columns]
        rows = max(each["rows_per_s"] for each in rounds)
        lines.append(f"{at_once:7}   {'   '.join(cells)}   {rows:8,.0f}")
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9, help="rounds of each number at once (default 9)")
    parser.add_argument("--requests", type=int, default=1_280, help="requests a round (default 1280)")
    parser.add_argument(
        "--engine", choices=ENGINES, action="append", help="which engine; may be repeated (default both)"
    )
    parser.add_argument("--sync-hold", action="store_true", help="holds wait for the disk (SQLite)")
    parser.add_argument("--json", action="store_true", help="print every round as JSON")
    parser.add_argument("--data", type=Path, help="folder in which the database is made (default: temporary)")
    return parser.parse_args()


@contextlib.contextmanager
def database(engine: str) -> Iterator[tuple[str | None, str]]:
    """Give the URL of an empty database, None for SQLite, and the engine with its version."""
    if engine == "sqlite":
        yield None, f"SQLite {sqlite3.sqlite_version}"
        return
    folder = binaries()
    if folder is None:
        sys.exit("no PostgreSQL here: apt-get install postgresql, or --engine sqlite")
    with Cluster(folder) as cluster:
        (version,) = fetch(cluster.url(), "SHOW server_version")[0]
        yield cluster.make_database(), f"PostgreSQL {version}"


def main() -> None:
    """Print the CPU of a hold and its settle, the best round and (the median of all)."""
    told = arguments()
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(dir=told.data) as made:
        about: dict[str, Any] = surroundings(Path(made))
        for engine in told.engine or ENGINES:
            with database(engine) as (url, version):
                data = Path(made) / engine
                rounds = uvloop.run(measure(data, url, told.rounds, told.requests, told.sync_hold))
                size = bytes_a_row(data, url)
                found[engine] = {"version": version, "bytes_a_row": size, "rounds": rounds}
    if told.json:
        print(json.dumps(about | {"sync_hold": told.sync_hold, "engines": found}))
        return
    machine, packages = about["machine"], about["packages"]
    print(f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}, {machine['ledger_filesystem']}")
    print(f"Python {about['python']}, uvloop {packages['uvloop']}, {about['commit']}")
    for of in found.values():
        print(f"\n{of['version']}, {of['bytes_a_row']:.0f} bytes a row (two rows a request)")
        print(table(of["rounds"]))


if __name__ == "__main__":
    main()
