"""Measure the router beside the bare upstream and write the figures of this version.

    uv run python -m benchmarks.run

The router runs alone on one core; the upstream and the load generator share another. Every round starts the
router anew and measures direct and through the router, one after the other; the table shows medians with
min-max of the rounds. Linux only. What the figures do not show is in benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks import processes
from router import __version__

RESULTS = Path(__file__).parent / "results"
SERVE = "-m router serve --port {port} --catalog {catalog} --data {data}"
DEFAULT_ROUTER = f"{shlex.quote(sys.executable)} {SERVE}"
PACKAGES = ("litestar", "uvicorn", "uvloop", "httptools", "httpx2", "msgspec", "numpy")
QUALITY = {"small": (72, 50, 45), "coder": (74, 86, 70), "thinker": (76, 82, 88)}
UNITS = {
    "direct_rps": "requests/s",
    "router_rps": "requests/s",
    "added_p50_ms": "ms",
    "added_p99_ms": "ms",
    "cpu_us_per_request": "us",
    "start_to_ready_s": "s",
    "rss_idle_mib": "MiB",
    "rss_peak_mib": "MiB",
}
MEANING = {
    "direct_rps": "upstream alone, at --connections",
    "router_rps": "through the router, at --connections",
    "added_p50_ms": "router minus direct, one connection",
    "added_p99_ms": "router minus direct, one connection",
    "cpu_us_per_request": "router process tree, at --connections",
    "start_to_ready_s": "process start to GET /health/ready = 200",
    "rss_idle_mib": "after readiness",
    "rss_peak_mib": "after the load",
}


@dataclass(frozen=True, slots=True)
class Bench:
    """What one run needs to know; `home` is a temporary folder."""

    router: str
    connections: int
    seconds: float
    rounds: int
    router_core: int
    load_core: int
    home: Path
    errors: dict[str, int] = field(default_factory=dict)

    def environ(self) -> dict[str, str]:
        """Return an environment without anybody's keys or router settings."""
        kept = {"PATH", "LANG", "LC_ALL", "VIRTUAL_ENV", "PYTHONPATH", "LD_LIBRARY_PATH", "TMPDIR"}
        return {name: value for name, value in os.environ.items() if name in kept} | {"HOME": str(self.home)}


def write_catalog(folder: Path, upstream_port: int) -> None:
    """Write a catalog of three models that one loopback provider serves, so that `auto` has a choice."""
    (folder / "providers").mkdir(parents=True)
    (folder / "models" / "bench").mkdir(parents=True)
    (folder / "providers" / "bench.toml").write_text(
        f'name = "Bench"\nbase_url = "http://127.0.0.1:{upstream_port}/v1"\npays = "none"\n'
    )
    for price, (name, (simple, coding, reasoning)) in enumerate(QUALITY.items(), start=1):
        (folder / "models" / "bench" / f"{name}.toml").write_text(
            f'name = "Bench {name}"\ncontext = 131_072\nmax_output = 16_384\ninput = ["text"]\n'
            f'features = ["tools", "json_mode"]\n\n[quality]\nsimple = {simple}\ncoding = {coding}\n'
            f'reasoning = {reasoning}\nsource = "made up for the benchmark"\nas_of = 2026-11-01\n\n'
            f'[[offers]]\nprovider = "bench"\nmodel = "bench"\n'
            f"price = {{ input = 0.{price}, output = 0.{price * 2} }}\n"
        )


@contextmanager
def upstream(bench: Bench) -> Iterator[int]:
    """Run the bare upstream on the load's core; gives its port."""
    port, log = processes.free_port(), bench.home / "upstream.log"
    command = [sys.executable, "-m", "benchmarks.upstream", "--port", str(port)]
    with processes.running(command, bench.load_core, bench.environ(), log) as process:
        processes.wait_ready(process, port, "/v1/models", log, timeout_s=20)
        yield port


def load(bench: Bench, port: int, connections: int) -> dict[str, Any]:
    """Run one phase of load in a process of its own on the load's core; errors are added up."""
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    options = ["--connections", str(connections), "--seconds", str(bench.seconds)]
    command = [sys.executable, "-m", "benchmarks.load", url, *options]
    with processes.pinned(bench.load_core):
        done = subprocess.run(command, env=bench.environ(), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise processes.NotReady(f"the load generator failed:\n{done.stderr[-2000:]}")
    report: dict[str, Any] = json.loads(done.stdout)
    for kind, count in report["error_kinds"].items():
        bench.errors[kind] = bench.errors.get(kind, 0) + count
    if not report["requests"]:
        raise processes.NotReady(f"no request of {url} was answered with 200: {report['error_kinds']}")
    return report


def measure_round(bench: Bench, number: int, upstream_port: int, catalog: Path) -> dict[str, float]:
    """Start the router, measure direct and router in turn, stop it."""
    port, log = processes.free_port(), bench.home / f"router-{number}.log"
    names = {"port": str(port), "catalog": str(catalog), "data": str(bench.home / f"data-{number}")}
    command = [part.format(**names) for part in shlex.split(bench.router)]
    started_s = time.monotonic()
    with processes.running(command, bench.router_core, bench.environ(), log) as process:
        processes.wait_ready(process, port, "/health/ready", log, timeout_s=60)
        ready_s = time.monotonic() - started_s
        idle = processes.cost(process.pid)
        direct_one = load(bench, upstream_port, 1)
        router_one = load(bench, port, 1)
        direct_many = load(bench, upstream_port, bench.connections)
        before = processes.cost(process.pid)
        router_many = load(bench, port, bench.connections)
        after = processes.cost(process.pid)
    one, bare = router_one["latency_ms"], direct_one["latency_ms"]
    return {
        "direct_rps": direct_many["rps"],
        "router_rps": router_many["rps"],
        "added_p50_ms": one["p50"] - bare["p50"],
        "added_p99_ms": one["p99"] - bare["p99"],
        "cpu_us_per_request": (after.cpu_s - before.cpu_s) * 1e6 / router_many["answers_with_warmup"],
        "start_to_ready_s": ready_s,
        "rss_idle_mib": idle.rss_mib,
        "rss_peak_mib": after.peak_mib,
    }


def summary(rounds: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Return median, min and max of every figure."""
    return {
        name: {
            "median": round(statistics.median(values), 3),
            "min": round(min(values), 3),
            "max": round(max(values), 3),
        }
        for name in UNITS
        if (values := [figures[name] for figures in rounds])
    }


def surroundings(bench: Bench) -> dict[str, Any]:
    """Describe machine, versions and what was asked for."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "version": __version__,
        "commit": _commit(),
        "measured_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": {
            "cpu": models[0] if models else "unknown",
            "cores": os.cpu_count(),
            "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        },
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "load": {"connections": bench.connections, "seconds_a_phase": bench.seconds, "rounds": bench.rounds},
        "router": "python -m router serve" if bench.router == DEFAULT_ROUTER else "another command",
    }


def _commit() -> str:
    """Return the commit, with a plus when files differ from it, or "unknown" outside a checkout."""
    folder = Path(__file__).parent
    git = ["git", "-C", str(folder), "describe", "--always", "--dirty=+", "--match", "never-a-tag"]
    try:
        done = subprocess.run(git, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def measure(bench: Bench) -> dict[str, Any]:
    """Run all rounds with a progress line on standard error; returns the whole result."""
    rounds = []
    busy_s, own_s, started_s = processes.machine_busy_s(), _own_cpu_s(), time.monotonic()
    with upstream(bench) as upstream_port:
        catalog = bench.home / "catalog"
        write_catalog(catalog, upstream_port)
        for number in range(1, bench.rounds + 1):
            left_s = (bench.rounds - number + 1) * 4 * (bench.seconds + 2)
            print(f"round {number} of {bench.rounds}, about {left_s:.0f} s left", file=sys.stderr, flush=True)
            rounds.append(measure_round(bench, number, upstream_port, catalog))
    foreign_s = processes.machine_busy_s() - busy_s - (_own_cpu_s() - own_s)
    share = foreign_s / (time.monotonic() - started_s) / (os.cpu_count() or 1)
    return surroundings(bench) | {
        "foreign_cpu_share": round(max(0.0, share), 3),
        "errors": bench.errors,
        "figures": summary(rounds),
        "rounds": rounds,
    }


def _own_cpu_s() -> float:
    """Return the CPU seconds of this process and of every child that has ended."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(usage.ru_utime + usage.ru_stime for usage in map(resource.getrusage, kinds))


def table(result: dict[str, Any]) -> str:
    """Return the figures as aligned text."""
    lines = [f"{'':20} {'median':>10} {'min':>10} {'max':>10}"]
    for name, values in result["figures"].items():
        cells = "".join(f" {values[key]:>10,.2f}" for key in ("median", "min", "max"))
        lines.append(f"{name:20}{cells}  {UNITS[name]}: {MEANING[name]}")
    foreign = f"other programs used {result['foreign_cpu_share']:.0%} of the machine"
    lines.append(f"errors: {result['errors'] or 'none'}; {foreign}")
    return "\n".join(lines)


def main() -> None:
    """Run from the command line."""
    cores = sorted(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--router",
        default=DEFAULT_ROUTER,
        metavar="COMMAND",
        help=f"another router, with {{port}}, {{catalog}}, {{data}} (default: python {SERVE})",
    )
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=5.0, help="measured time of a phase; four a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--router-core", type=int, default=cores[0])
    parser.add_argument("--load-core", type=int, default=cores[-1])
    parser.add_argument("--out", type=Path, default=RESULTS / f"{__version__}.json")
    given = parser.parse_args()
    if given.router_core == given.load_core:
        parser.error("router and load need a core each; this machine gives only one")
    with tempfile.TemporaryDirectory(prefix="router-bench-") as home:
        bench = Bench(
            router=given.router,
            connections=given.connections,
            seconds=given.seconds,
            rounds=given.rounds,
            router_core=given.router_core,
            load_core=given.load_core,
            home=Path(home),
        )
        try:
            result = measure(bench)
        except processes.NotReady as failed:
            sys.exit(f"error: {failed}")
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=2) + "\n")
    print(table(result))
    print(f"written to {given.out}")


if __name__ == "__main__":
    main()
