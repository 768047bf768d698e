"""Say how long the pages take to answer over a month of requests.

    uv run python -m benchmarks.pages [--requests 1000000] [--ledger-rows 1000000] [--keep FOLDER]

Fills a history and a ledger with made-up requests (about 90 s for a million; `--keep` keeps and reuses the
folder), serves them, and asks for each page in turn over loopback. Prints the median and the slowest answer
in milliseconds; exit status 1 when a median is above 200 ms.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import processes
from benchmarks.made_up import ACCOUNTS, fill_history, fill_keys, fill_ledger, records
from benchmarks.site import Site
from router.history.sqlite import FILE

ALLOWED_MS = 200.0
TURNS = 7
KEYS = 1_000
PAGES = {
    "overview, 1 hour": "/ui?range=1h",
    "overview, 24 hours": "/ui?range=24h",
    "overview, 7 days": "/ui?range=7d",
    "overview, 30 days": "/ui?range=30d",
    "requests": "/ui/requests",
    "requests, one model": "/ui/requests?model=moonshotai/kimi-k2.6",
    "requests, failed ones of a category": "/ui/requests?outcome=upstream_error&category=vision",
    "requests, what nobody sent": "/ui/requests?category=named",
    "requests of the last day": "/ui/requests?range=24h",
    "requests by id": "/ui/requests?id=req_0800000000000",
    "requests, what is new": "/ui/requests/new?after=0",
    "one request": "/ui/requests/req_080000000000100a",
    "account: keys": "/ui/account",
    "account: keys found by name": "/ui/account?q=team+007",
    "account: a key, 30 days": f"/ui/account/keys/{ACCOUNTS[0]}",
    "account: a key, 90 days": f"/ui/account/keys/{ACCOUNTS[0]}?days=90",
    "account: older requests of a key": f"/ui/account/keys/{ACCOUNTS[0]}?before=400000",
    "account: usage as CSV": f"/ui/account/keys/{ACCOUNTS[0]}/usage.csv",
}


def fill(data: Path, requests: int, ledger_rows: int) -> None:
    """Write what the pages read, unless it is there."""
    if (data / FILE).exists():
        return
    began_s, done = time.monotonic(), 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        print(
            f"\r  {done:,} requests, {time.monotonic() - began_s:.0f} s", end="", file=sys.stderr, flush=True
        )

    asyncio.run(fill_history(data, records(requests, time.time()), advance))
    fill_ledger(data, ledger_rows, datetime.now(UTC))
    fill_keys(data, KEYS, datetime.now(UTC))
    size_mb = sum(path.stat().st_size for path in data.iterdir()) / 1e6
    print(f"\r  {requests:,} requests, {ledger_rows:,} ledger rows: {size_mb:,.0f} MB", file=sys.stderr)


@contextlib.contextmanager
def serving(site: Site, data: Path) -> Iterator[int]:
    """Serve the folder with the built-in demo; gives the port."""
    port = processes.free_port()
    command = [sys.executable, "-m", "router", "serve", "--demo", "--port", str(port), "--data", str(data)]
    with site.gateway(command, site.folder("log") / "log", port=port, ready="/health/ready") as (port, _, _):
        yield port


def times_ms(port: int, path: str) -> list[float]:
    """Ask for a page TURNS times after a first one, each until its last byte."""
    taken = []
    for _ in range(TURNS + 1):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        began_s = time.perf_counter()
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        taken.append((time.perf_counter() - began_s) * 1e3)
        connection.close()
        if answer.status not in (200, 204):
            raise SystemExit(f"error: {path} answers {answer.status}")
    return taken


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.pages",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--ledger-rows", type=int, default=1_000_000)
    parser.add_argument("--keep", type=Path, help="folder of the data, filled where it is empty")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="router-pages-") as home:
        data = given.keep or Path(home) / "data"
        data.mkdir(parents=True, exist_ok=True)
        fill(data, given.requests, given.ledger_rows)
        slow = []
        with serving(Site(Path(home), Path(home), None, None), data) as port:
            print(f"{'page':40} {'first':>8} {'median':>8} {'slowest':>8}  ms")
            for name, path in PAGES.items():
                first, *rest = times_ms(port, path)
                median = statistics.median(rest)
                print(f"{name:40} {first:8.1f} {median:8.1f} {max(rest):8.1f}")
                slow += [name] if median > ALLOWED_MS else []
    if slow:
        sys.exit(f"error: above {ALLOWED_MS:.0f} ms: {', '.join(slow)}")


if __name__ == "__main__":
    main()
