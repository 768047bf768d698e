"""The ledger alone: what processes that write at once get from one database, and how it grows.

    python -m benchmarks.scaling.ledgers --data DIR --account ID --at SECONDS [--url URL]

is one writer, which `writers` starts as often as wanted.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import uvloop
from msgspec.structs import replace

from benchmarks.ledger import CREDIT_NUSD, entry, one_round
from benchmarks.site import Site, Unavailable
from router.ledger.engines import open_ledger, open_storage
from router.ledger.rows import HoldRequest, Settlement, utc_text
from router.ledger.sqlite import FILE, Database
from tests.postgres import Cluster, execute, fetch

AT_ONCE = 64
START_S = 2.0
DAY_S = 86_400
NOON_S = 1_793_534_400.0  # 2026-11-01T12:00:00Z, in the past: today is not rolled up
GROWTH_ACCOUNTS = 100
GROWTH_MODELS = 3
GROWTH_DAYS = 2


def writers(site: Site, url: str | None, processes: int, requests: int, *, shared: bool) -> dict[str, Any]:
    """Let processes write at once; returns requests a second of all, and the slowest p99 of a hold in ms.

    `shared`: all of them write for one account. The folder is shared on SQLite, as with workers.
    """
    folder, at_s = site.folder("writers"), time.time() + START_S
    accounts = ["key_hot" if shared else f"key_{number}" for number in range(processes)]
    asyncio.run(_pay(folder / "0", url, set(accounts)))
    told = []
    for number, account in enumerate(accounts):
        data = folder / ("0" if url is None else str(number))
        command = [sys.executable, "-m", __name__, "--data", str(data), "--account", account]
        command += ["--at", str(at_s), "--requests", str(requests)]
        command += [] if url is None else ["--url", url]
        told.append(subprocess.Popen(command, env=site.environ(), stdout=subprocess.PIPE, text=True))
    answers = [writer.communicate()[0] for writer in told]
    if any(writer.returncode for writer in told):
        raise Unavailable("a writer of the ledger failed; its message is above")
    found = [json.loads(answer) for answer in answers]
    took_s = max(each["ended_s"] for each in found) - min(each["began_s"] for each in found)
    return {
        "requests_per_s": round(sum(each["requests"] for each in found) / took_s),
        "hold_p50_ms": round(max(each["p50_ms"] for each in found), 2),
        "hold_p99_ms": round(max(each["p99_ms"] for each in found), 2),
    }


async def _pay(data: Path, url: str | None, accounts: set[str]) -> None:
    storage = await open_storage(data, url)
    try:
        for account in sorted(accounts):
            now = utc_text(time.time())
            await storage.books.topup(account, CREDIT_NUSD, source="bench", external_id=account, now=now)
    finally:
        await storage.close()


async def write(data: Path, url: str | None, account: str, at_s: float, requests: int) -> dict[str, float]:
    """Be one writer, from `at_s` of the wall clock on."""
    ledger = open_ledger(data, url, clock=time.time)
    await ledger.start()
    try:
        made = partial(_entry, account)
        await one_round(ledger, AT_ONCE, AT_ONCE * 2, made)
        await asyncio.sleep(at_s - time.time())
        began_s = time.time()
        found = await one_round(ledger, AT_ONCE, requests, made)
        return {
            "began_s": began_s,
            "ended_s": time.time(),
            "requests": requests // AT_ONCE * AT_ONCE,
            "p50_ms": found["wait_p50_us"] / 1e3,
            "p99_ms": found["wait_p99_us"] / 1e3,
        }
    finally:
        await ledger.close()


def _entry(account: str, model: str = "deepseek/deepseek-v3.2") -> tuple[HoldRequest, Settlement]:
    hold, end = entry()
    return replace(hold, account=account, model=model), replace(end, model=model)


def growth(site: Site, url: str | None, requests: int) -> dict[str, float]:
    """Write requests of two days, then roll them up; returns bytes a request, and bytes a row of a sum."""
    data = site.folder("growth")
    return uvloop.run(_growth(data, url, requests))


async def _growth(data: Path, url: str | None, requests: int) -> dict[str, float]:
    await _pay(data, url, {f"key_{number:03d}" for number in range(GROWTH_ACCOUNTS)})
    empty = await asyncio.to_thread(size, data, url)
    wal = 0 if url is None else await asyncio.to_thread(wal_bytes, url)
    numbers, day = count(), 0

    def made() -> tuple[HoldRequest, Settlement]:
        number = next(numbers)
        return _entry(f"key_{number % GROWTH_ACCOUNTS:03d}", f"deepseek/deepseek-v{number % GROWTH_MODELS}")

    ledger = open_ledger(data, url, clock=lambda: NOON_S + day * DAY_S)
    await ledger.start()
    try:
        for day in range(GROWTH_DAYS):  # noqa: B007 - the clock reads it
            await one_round(ledger, AT_ONCE, requests // GROWTH_DAYS, made)
    finally:
        await ledger.close()
    written = next(numbers)
    written_wal = 0 if url is None else await asyncio.to_thread(wal_bytes, url) - wal
    full = await asyncio.to_thread(size, data, url)
    storage = await open_storage(data, url)
    try:
        began_s = time.monotonic()
        rolled = await storage.books.roll_up("2100-01-01")
        took_s = time.monotonic() - began_s
        if await storage.books.check():
            raise Unavailable("the books do not add up after the roll-up: a defect, please report it")
    finally:
        await storage.close()
    await asyncio.to_thread(_compact, data, url)
    folded = await asyncio.to_thread(size, data, url)
    found = {
        "requests": written,
        "bytes_a_request": round((full - empty) / written),
        "bytes_a_sum": round((folded - empty) / rolled.made),
        "sums": rolled.made,
        "rollup_us_a_request": round(took_s / written * 1e6, 1),
    }
    if url is not None:
        found["wal_bytes_a_request"] = round(written_wal / written)
    return found


def size(data: Path, url: str | None) -> int:
    """Return the bytes of the ledger with its indices; SQLite's whole file."""
    if url is not None:
        return int(fetch(url, "SELECT pg_total_relation_size('ledger')")[0][0])
    with closing(Database(data / FILE)) as database:
        database.checkpoint(finish=True)
    return (data / FILE).stat().st_size


def wal_bytes(url: str) -> int:
    """Return how much the server has ever written to its log."""
    return int(fetch(url, "SELECT pg_current_wal_lsn() - '0/0'::pg_lsn")[0][0])


def _compact(data: Path, url: str | None) -> None:
    if url is not None:
        execute(url, "VACUUM FULL")
        return
    with closing(Database(data / FILE)) as database:
        database.connection.execute("VACUUM")


@contextmanager
def database(engine: str, cluster: Cluster | None) -> Iterator[str | None]:
    """Give the URL of an empty database, None for SQLite. Raises `Unavailable`."""
    if engine == "sqlite":
        yield None
        return
    if cluster is None:
        raise Unavailable("no PostgreSQL here: apt-get install postgresql")
    yield cluster.make_database()


def main() -> None:
    """Be one writer; prints its figures as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling.ledgers", description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--url")
    parser.add_argument("--account", required=True)
    parser.add_argument("--at", type=float, required=True)
    parser.add_argument("--requests", type=int, default=2_000)
    told = parser.parse_args()
    print(json.dumps(uvloop.run(write(told.data, told.url, told.account, told.at, told.requests))))


if __name__ == "__main__":
    main()
