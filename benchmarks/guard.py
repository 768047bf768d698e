"""Fail when a request has become much dearer: CPU of the router against that of a bare Litestar echo app.

    uv run python -m benchmarks.guard

Both serve the same load in turn, so that a slower machine changes both; only their ratio is compared with
the recorded one (benchmarks/guard.json). Exit status 1 above 1.5 times the record in three measurements, one
after another: the same tree gives ratios from 8.5 to 14.7, and what has become dearer is so each time. About
25 seconds a measurement; Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import processes
from benchmarks.measure import check, load, set_profile
from benchmarks.ours import OURS
from benchmarks.site import Endpoint, Site, Unavailable

RECORD = Path(__file__).with_name("guard.json")
ALLOWED = 1.5
TRIES = 3
TURNS = 4
SECONDS = 1.5
WARMUP_S = 0.5
CONNECTIONS = 16


@contextmanager
def start_echo(site: Site) -> Iterator[Endpoint]:
    """Run the echo app; its one route answers a GET too."""
    folder, port = site.folder("echo"), processes.free_port()
    command = [sys.executable, "-m", "benchmarks.echo", "--port", str(port)]
    with site.gateway(command, folder / "log", port=port, ready="/v1/chat/completions") as (
        port,
        pid,
        start_s,
    ):
        yield Endpoint(port, pid, start_s=start_s)


def cpu_us(site: Site, endpoint: Endpoint) -> float:
    """Apply one turn of load; returns CPU microseconds a request. Raises `Unavailable` for any error."""
    assert endpoint.pid is not None
    before_s = processes.cost(endpoint.pid).cpu_s
    report = load(site, endpoint, connections=CONNECTIONS, seconds=SECONDS, warmup=WARMUP_S)
    used_s = processes.cost(endpoint.pid).cpu_s - before_s
    if report["errors"]:
        raise Unavailable(f"errors under load: {report['error_kinds']} {report['first_error']}")
    return used_s * 1e6 / float(report["answers_with_warmup"])


def measure(site: Site) -> dict[str, float]:
    """Measure both in turn; returns the medians in microseconds and the median of the turns' ratios."""
    with (
        site.upstream() as upstream_port,
        start_echo(site) as echo,
        OURS.start(site, upstream_port) as ours,
    ):
        set_profile(upstream_port, "answer=chat")
        check(ours)
        cpu_us(site, ours), cpu_us(site, echo)  # warm
        turns = [(cpu_us(site, echo), cpu_us(site, ours)) for _ in range(TURNS)]
    return {
        "echo_us": round(statistics.median(echo_us for echo_us, _ in turns), 1),
        "ours_us": round(statistics.median(ours_us for _, ours_us in turns), 1),
        "ratio": round(statistics.median(ours_us / echo_us for echo_us, ours_us in turns), 2),
    }


def verdict(measured: dict[str, float], record: dict[str, Any]) -> tuple[bool, str]:
    """Say whether the ratio is within the allowance, and what was compared."""
    limit = record["ratio"] * ALLOWED
    text = (
        f"ours {measured['ours_us']:.0f} us, echo {measured['echo_us']:.0f} us CPU a request: "
        f"{measured['ratio']:.2f} x; recorded {record['ratio']:.2f} x, allowed {limit:.2f} x"
    )
    return measured["ratio"] <= limit, text


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.guard",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--record", action="store_true", help="write what is measured as the new record")
    given = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="router-guard-") as home:
        try:
            site = Site(Path(home), Path(home), cores[0], cores[-1])
            measured = measure(site)
            for _ in range(0 if given.record else TRIES - 1):
                fine, text = verdict(measured, json.loads(RECORD.read_text()))
                if fine:
                    break
                print(f"{text}; measuring again")
                measured = measure(site)
        except (Unavailable, processes.NotReady) as failed:
            sys.exit(f"error: {failed}")
    if given.record:
        day = time.strftime("%Y-%m-%d", time.gmtime())
        record = measured | {"measured_at": day, "python": platform.python_version()}
        RECORD.write_text(json.dumps(record, indent=2) + "\n")
        print(f"recorded in {RECORD}: {measured}")
        return
    fine, text = verdict(measured, json.loads(RECORD.read_text()))
    print(text)
    if not fine:
        sys.exit(
            "error: a request costs more than it may. Profile the hot path; when the cost is wanted, "
            "`python -m benchmarks.guard --record` on a quiet machine"
        )


if __name__ == "__main__":
    main()
