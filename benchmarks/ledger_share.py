"""Measure what share of the requests a second the ledger costs: `python -m benchmarks.ledger_share`.

The same service three times, under the same load in turn: with its ledger on SQLite, with it on a private
PostgreSQL, and with a ledger that keeps nothing (`nothing_kept`). Each turn asks all of them, in an order
that changes, so that a slow moment of the machine meets all; a cost is the median of the turns' ratios. The
service is alone on one core; load, upstream and PostgreSQL share the other. Exit status 1 when SQLite costs
more than the 15 % that it may. About two minutes; Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks import processes
from benchmarks.machine import ForeignWork, surroundings
from benchmarks.measure import check, load, set_profile
from benchmarks.ours import create_key, write_catalog
from benchmarks.site import Endpoint, Site, Unavailable
from tests.postgres import Cluster, binaries

NOTHING, SQLITE, POSTGRES = "nothing", "SQLite", "PostgreSQL"
ALLOWED = 0.15
CONNECTIONS = 64
WARMUP_S = 0.5
Measured = dict[str, list[tuple[float, float]]]


@contextmanager
def start(site: Site, upstream_port: int, program: list[str], environ: dict[str, str]) -> Iterator[Endpoint]:
    """Serve with a catalog, a database and a key of its own."""
    folder, port = site.folder("ours"), processes.free_port()
    write_catalog(folder / "catalog", upstream_port)
    environ = {"ROUTER_ACCESS": "paid"} | environ
    key = create_key(site, folder / "data", environ)
    places = ["--port", str(port), "--catalog", str(folder / "catalog"), "--data", str(folder / "data")]
    command = [sys.executable, "-m", *program, *places]
    with site.gateway(command, folder / "log", port=port, ready="/health/ready", environ=environ) as running:
        port, pid, start_s = running
        yield Endpoint(port, pid, authorization=f"Bearer {key}", start_s=start_s)


@contextmanager
def services(site: Site, upstream_port: int, *, postgres: bool) -> Iterator[dict[str, Endpoint]]:
    """Run all that are measured; without PostgreSQL here, the other two."""
    serve = ["router", "serve"]
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        found = {
            NOTHING: enter(start(site, upstream_port, ["benchmarks.nothing_kept"], {})),
            SQLITE: enter(start(site, upstream_port, serve, {})),
        }
        folder = binaries() if postgres else None
        if folder is not None:
            with processes.pinned(site.load_core):
                cluster = enter(Cluster(folder))
            url = {"ROUTER_DATABASE_URL": cluster.make_database()}
            found[POSTGRES] = enter(start(site, upstream_port, serve, url))
        for endpoint in found.values():
            check(endpoint)
        yield found


def one(site: Site, endpoint: Endpoint, seconds: float) -> tuple[float, float]:
    """Apply one turn of load; returns requests a second and CPU us a request. Raises `Unavailable`."""
    assert endpoint.pid is not None
    before_s = processes.cost(endpoint.pid).cpu_s
    report = load(site, endpoint, connections=CONNECTIONS, seconds=seconds, warmup=WARMUP_S)
    used_s = processes.cost(endpoint.pid).cpu_s - before_s
    if report["errors"]:
        raise Unavailable(f"errors under load: {report['error_kinds']} {report['first_error']}")
    return float(report["rps"]), used_s * 1e6 / float(report["answers_with_warmup"])


def measure(site: Site, turns: int, seconds: float, *, postgres: bool) -> Measured:
    """Measure all in turn; returns requests a second and CPU us a request of every turn."""
    with site.upstream() as upstream_port, services(site, upstream_port, postgres=postgres) as found:
        set_profile(upstream_port, "answer=chat")
        for endpoint in found.values():
            one(site, endpoint, seconds)  # warm
        measured: Measured = {name: [] for name in found}
        names = list(found)
        for turn in range(turns):
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                measured[name].append(one(site, found[name], seconds))
            print(f"turn {turn + 1} of {turns}", file=sys.stderr, flush=True)
    return measured


def costs(measured: Measured, name: str) -> list[float]:
    """Return the share of requests a second that a ledger cost in each turn."""
    return [1 - own[0] / bare[0] for own, bare in zip(measured[name], measured[NOTHING], strict=True)]


def cpu_shares(measured: Measured, name: str) -> list[float]:
    """Return the share of a request's CPU time that a ledger took in each turn: the steadier figure."""
    return [1 - bare[1] / own[1] for own, bare in zip(measured[name], measured[NOTHING], strict=True)]


def table(measured: Measured) -> str:
    """Print the median of each, and the least and most in brackets."""
    heads = ("requests/s", "CPU us/request", "% of the requests/s", "% of the CPU")
    lines = ["ledger".ljust(12) + "".join(head.rjust(26) for head in heads)]
    for name, turns in measured.items():
        rates, cpu_us = zip(*turns, strict=True)
        cells = [_spread(rates, ",.0f"), _spread(cpu_us, ".0f")]
        if name != NOTHING:
            cells += [_spread([100 * x for x in of(measured, name)], ".1f") for of in (costs, cpu_shares)]
        lines.append(name.ljust(12) + "".join(cells))
    for name in measured.keys() - {NOTHING}:
        best, bare = (max(rate for rate, _ in measured[of]) for of in (name, NOTHING))
        lines.append(
            f"{name}, best turn against best turn: {100 * (1 - best / bare):.1f} % of the requests/s"
        )
    return "\n".join(lines)


def _spread(values: Sequence[float], form: str) -> str:
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:{form}} ({low:{form}} to {high:{form}})".rjust(26)


def main() -> None:
    """Print what the ledgers cost."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ledger_share",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--turns", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=2.0, help="of load, each turn (default 2)")
    parser.add_argument("--sqlite", action="store_true", help="leave PostgreSQL out")
    parser.add_argument("--json", action="store_true", help="print every turn as JSON")
    told = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    foreign = ForeignWork()
    with tempfile.TemporaryDirectory(prefix="router-share-") as home:
        about = surroundings(Path(home))
        try:
            site = Site(Path(home), Path(home), cores[0], cores[-1])
            measured = measure(site, told.turns, told.seconds, postgres=not told.sqlite)
        except (Unavailable, processes.NotReady) as failed:
            sys.exit(f"error: {failed}")
    if told.json:
        print(json.dumps(about | {"turns": measured}))
    else:
        machine = about["machine"]
        others = f"other programs used {100 * foreign.share():.0f} % of the machine"
        print(f"{machine['cpu']}, {machine['cores']} cores, {about['commit']}; {others}")
        print(table(measured))
    sys.exit(statistics.median(costs(measured, SQLITE)) > ALLOWED)


if __name__ == "__main__":
    main()
