"""Measure the router beside the bare upstream, nginx, TensorZero, LiteLLM and @rungate/llmrouter.

    uv run --group bench python -m benchmarks.compare
    uv run --group bench python -m benchmarks.compare --only ours --rounds 1 --seconds 2

Each runs alone on one core, the upstream and the load generator share another. Peers are installed on the
way, pinned, into --peers. Writes results/<version>.json, .md and three .svg. Linux only. What each figure
means, and what the figures do not show, is in benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks import report
from benchmarks.hard import run_hard
from benchmarks.machine import ForeignWork, surroundings
from benchmarks.measure import measure, phases_of
from benchmarks.processes import NotReady
from benchmarks.site import Site, Target, Unavailable
from benchmarks.targets import TARGETS

RESULTS = Path(__file__).parent / "results"
OPEN_FILES = 20_000


class Steps:
    """Say what is being done: a bar on a terminal, plain lines elsewhere."""

    def __init__(self, bar: Progress | None, total: int) -> None:
        self._bar = bar
        self._task = bar.add_task("", total=total) if bar is not None else None
        self._total, self._done, self._began_s = total, 0, time.monotonic()
        self.prefix = ""

    def say(self, text: str) -> None:
        """Begin the next step."""
        text = self.prefix + text
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, description=text, completed=self._done)
        else:
            elapsed_s = time.monotonic() - self._began_s
            print(f"[{self._done + 1}/{self._total}] {elapsed_s:5.0f} s  {text}", file=sys.stderr, flush=True)
        self._done += 1


@contextmanager
def steps(total: int) -> Iterator[Steps]:
    """Show progress on standard error until the end of the block."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield Steps(None, total)
        return
    columns = (TextColumn("{task.description:<34}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        yield Steps(bar, total)


def prepare(site: Site, chosen: list[Target], shown: Steps) -> dict[str, dict[str, Any]]:
    """Install what is missing; returns a row for every target, with the reason where it cannot be had."""
    rows: dict[str, dict[str, Any]] = {}
    for target in chosen:
        shown.say(f"prepare {target.name}")
        rows[target.name] = {"version": "-", "does": target.does, "errors": {}, "failed": {}}
        try:
            rows[target.name]["version"] = target.prepare(site)
        except Unavailable as reason:
            rows[target.name]["unavailable"] = str(reason)
    return rows


def measure_round(
    site: Site, targets: list[Target], seconds: float, shown: Steps
) -> dict[str, dict[str, Any]]:
    """Measure every target once, one after the other; one that fails has the reason instead of phases."""
    found: dict[str, dict[str, Any]] = {}
    with site.upstream() as upstream_port:
        for target in targets:
            try:
                found[target.name] = measure(site, target, upstream_port, seconds, shown.say)
            except (Unavailable, NotReady) as reason:
                found[target.name] = {"unavailable": str(reason)}
    return found


def collect(rows: dict[str, dict[str, Any]], rounds: list[dict[str, dict[str, Any]]]) -> None:
    """Add the errors and failures of the rounds to the rows."""
    for name, row in rows.items():
        measured = [targets[name] for targets in rounds if name in targets]
        for own in measured:
            row["failed"] |= own.get("failed", {})
            for phase, counted in own.get("phases", {}).items():
                for kind, count in counted["error_kinds"].items():
                    key = f"{kind} ({phase})"
                    row["errors"][key] = row["errors"].get(key, 0) + count
        reasons = [own["unavailable"] for own in measured if "unavailable" in own]
        if reasons and len(reasons) == len(measured):
            row["unavailable"] = reasons[0]


def run(site: Site, chosen: list[Target], rounds: int, seconds: float, hard: bool) -> dict[str, Any]:
    """Prepare, measure all rounds and the hard cases; returns the whole result."""
    a_round = sum(1 + len(phases_of(target)) for target in chosen)
    with steps(len(chosen) + rounds * a_round + hard) as shown:
        rows = prepare(site, chosen, shown)
        usable = [target for target in chosen if "unavailable" not in rows[target.name]]
        found, foreign = [], []
        for number in range(1, rounds + 1):
            work = ForeignWork()
            shown.prefix = f"round {number} of {rounds}, "
            found.append(measure_round(site, usable, seconds, shown))
            foreign.append(round(work.share(), 3))
        shown.prefix = ""
        if hard:
            shown.say("hard cases")
        hard_cases = run_hard(site) if hard else {}
    collect(rows, found)
    load = {
        "rounds": rounds,
        "seconds_a_phase": seconds,
        "gateway_core": site.gateway_core,
        "load_core": site.load_core,
    }
    return surroundings(site.home) | {
        "load": load,
        "foreign_cpu_share": foreign,
        "targets": rows,
        "summary": report.summarize(found),
        "hard": hard_cases,
        "rounds": found,
    }


def write(result: dict[str, Any], folder: Path) -> list[Path]:
    """Write the result, its page and its plots; returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    data, page = folder / f"{result['version']}.json", folder / f"{result['version']}.md"
    data.write_text(json.dumps(result, indent=1) + "\n")
    page.write_text(report.markdown(result))
    if not result["summary"]:
        return [data, page]
    from benchmarks.plots import draw

    return [data, page, *draw(result, folder)]


def parse() -> argparse.Namespace:
    """Read the command line; ends with a message for what cannot work."""
    cores = sorted(os.sched_getaffinity(0))
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    names = [target.name for target in TARGETS]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only", metavar="NAME,...", help=f"of {', '.join(names)}; direct always runs (default: all)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="0 with --hard: the hard cases alone")
    parser.add_argument("--seconds", type=float, default=4.0, help="measured time of a phase (default: 4)")
    parser.add_argument("--hard", action="store_true", help="also the hard cases, for our router only")
    parser.add_argument("--peers", type=Path, default=cache / "llm-router-benchmarks", metavar="DIR")
    parser.add_argument(
        "--out", type=Path, default=RESULTS, metavar="DIR", help="for <version>.json and more"
    )
    parser.add_argument("--gateway-core", type=int, default=cores[0])
    parser.add_argument("--load-core", type=int, default=cores[-1])
    given = parser.parse_args()
    wanted = set(given.only.split(",")) if given.only else set(names)
    if unknown := wanted - set(names):
        parser.error(f"--only: {', '.join(sorted(unknown))} is none of {', '.join(names)}")
    if given.gateway_core == given.load_core:
        parser.error("gateway and load need a core each; this machine gives only one")
    if importlib.util.find_spec("matplotlib") is None:
        parser.error("matplotlib is missing; run `uv run --group bench python -m benchmarks.compare`")
    given.chosen = [target for target in TARGETS if target.name in wanted | {"direct"}]
    return given


def main() -> None:
    """Run from the command line."""
    given = parse()
    _soft, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = OPEN_FILES if most == resource.RLIM_INFINITY else min(OPEN_FILES, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, most))
    os.sched_setaffinity(0, {given.load_core})
    with tempfile.TemporaryDirectory(prefix="router-bench-") as home:
        site = Site(Path(home), given.peers.absolute(), given.gateway_core, given.load_core)
        try:
            result = run(site, given.chosen, given.rounds, given.seconds, given.hard)
        except (NotReady, Unavailable) as failed:
            sys.exit(f"error: {failed}")
    paths = write(result, given.out)
    print(report.markdown(result))
    print("written: " + ", ".join(str(path) for path in paths))


if __name__ == "__main__":
    main()
