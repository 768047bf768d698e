"""Say how long the pages take to answer over a month of requests.

    uv run python -m benchmarks.pages [--requests 1000000] [--ledger-rows 1000000] [--keep FOLDER]

Fills a history and a ledger with made-up requests (about 90 s for a million; `--keep` keeps and reuses the
folder), serves them, and asks for each page in turn over loopback, then for the log by every filter, alone
and combined. Prints the first, the median and the slowest answer in milliseconds; exit status 1 when a first
answer or a median is above 200 ms.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlencode

from benchmarks import processes
from benchmarks.made_up import ACCOUNTS, fill_history, fill_keys, fill_ledger, records
from benchmarks.site import Site
from router.history.sqlite import FILE

ALLOWED_MS = 200.0
TURNS = 7
KEYS = 10_000
SLOWEST_SHOWN = 12
START_S = 3.0
PAGES = {
    "overview, 1 hour": "/ui?range=1h",
    "overview, 24 hours": "/ui?range=24h",
    "overview, 7 days": "/ui?range=7d",
    "overview, 30 days": "/ui?range=30d",
    "explain": "/ui/explain",
    "models": "/ui/models",
    "models, sorted": "/ui/models?sort=out&order=back",
    "models, one": "/ui/models/deepseek/deepseek-v3.2",
    "requests": "/ui/requests",
    "requests by id": "/ui/requests?id=req_0800000000000",
    "requests, what is new": "/ui/requests/new?after=0",
    "one request": "/ui/requests/req_080000000000100a",
    "account: keys": "/ui/account",
    "account: keys, the last page": "/ui/account?page=999999",
    "account: keys found by name": "/ui/account?q=team+007",
    "account: revoked keys": "/ui/account?state=revoked",
    "account: new key": "/ui/account/new",
    "account: a key, 30 days": f"/ui/account/keys/{ACCOUNTS[0]}",
    "account: a key, 90 days": f"/ui/account/keys/{ACCOUNTS[0]}?days=90",
    "account: older requests of a key": f"/ui/account/keys/{ACCOUNTS[0]}?before=400000",
    "account: usage as CSV": f"/ui/account/keys/{ACCOUNTS[0]}/usage.csv",
}
# A value that much matches, one that little does, one that nothing does.
FILTERS = {
    "outcome": ("ok", "no_offer_fits", "payment_required"),
    "category": ("simple", "vision", "named"),
    "model": ("deepseek/deepseek-v3.2", "zai/glm-4.6v", "no/such"),
    "account": (ACCOUNTS[0], ACCOUNTS[-1], "key_none"),
}
RANGES = ("", "1h", "30d")
OLDEST = "100000"


def filtered() -> dict[str, str]:
    """Return the log by every filter alone and all together: newest, oldest, in ranges, as CSV begins."""
    alone = [{name: value} for name, values in FILTERS.items() for value in values]
    together = [dict(zip(FILTERS, values, strict=True)) for values in itertools.product(*FILTERS.values())]
    asked = [{**each, **({"range": span} if span else {})} for each in [{}, *alone] for span in RANGES]
    asked += [{**each, "before": OLDEST} for each in [{}, *alone]]
    asked += [{**each, **more} for each in together for more in ({}, {"range": "30d"}, {"before": OLDEST})]
    found = {}
    for each in asked:
        told = ", ".join(f"{name} {value}" for name, value in each.items()) or "all"
        found[f"requests: {told}"] = f"/ui/requests?{urlencode(each)}"
        if "before" not in each:
            found[f"CSV begins: {told}"] = f"/ui/requests.csv?{urlencode(each)}"
    return found


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
def serving(
    site: Site, data: Path, *, demo: bool = True, environ: Mapping[str, str] | None = None
) -> Iterator[int]:
    """Serve the folder, with the built-in demo or with what `environ` has keys for; gives the port."""
    port = processes.free_port()
    command = [sys.executable, "-m", "router", "serve", "--port", str(port), "--data", str(data)]
    command += ["--demo"] if demo else []
    log = site.folder("log") / "log"
    with site.gateway(command, log, port=port, ready="/health/ready", environ=environ) as (port, _, _):
        yield port


def times_ms(port: int, path: str, turns: int = TURNS) -> list[float]:
    """Ask for a page so often after a first time, each until its last byte; of CSV its first."""
    taken = []
    for _ in range(turns + 1):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        began_s = time.perf_counter()
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read(1) if path.startswith("/ui/requests.csv") else answer.read()
        taken.append((time.perf_counter() - began_s) * 1e3)
        connection.close()
        if answer.status not in (200, 204):
            raise SystemExit(f"error: {path} answers {answer.status}")
    return taken


def filters(port: int) -> list[str]:
    """Print the slowest ways to ask for the log; return those above what is allowed."""
    medians = {name: statistics.median(times_ms(port, path, 2)[1:]) for name, path in filtered().items()}
    worst = sorted(medians, key=lambda name: -medians[name])
    usual = statistics.median(medians.values())
    print(f"\n{len(medians)} filters and combinations of the log, median {usual:.1f} ms; the slowest:")
    for name in worst[:SLOWEST_SHOWN]:
        print(f"{medians[name]:8.1f}  {name}")
    return [name for name in worst if medians[name] > ALLOWED_MS]


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
            time.sleep(START_S)
            print(f"{'page':40} {'first':>8} {'median':>8} {'slowest':>8}  ms")
            for name, path in PAGES.items():
                first, *rest = times_ms(port, path)
                print(f"{name:40} {first:8.1f} {statistics.median(rest):8.1f} {max(rest):8.1f}")
                slow += [name] if max(first, statistics.median(rest)) > ALLOWED_MS else []
            slow += filters(port)
    if slow:
        sys.exit(f"error: above {ALLOWED_MS:.0f} ms: {', '.join(slow)}")


if __name__ == "__main__":
    main()
