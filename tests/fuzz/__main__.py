"""Fuzz for a while, guided by coverage (atheris), else by chance alone; exit 1 when something crashes.

python -m tests.fuzz NAME --minutes 10      a full run
python -m tests.fuzz all --seconds 30       all of them for a short while, as CI does
python -m tests.fuzz NAME --input FILE      what a run has found, once more
"""

from __future__ import annotations

import argparse
import importlib
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

NAMES = ("sse", "stream", "usage", "images", "request", "responses", "x402", "mpp", "demand")
MAX_BYTES = 4_096


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=(*NAMES, "all"))
    parser.add_argument("--minutes", type=float, default=0.0)
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--input", type=Path)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="of all, so many at once")
    parser.add_argument("--by-chance", action="store_true", help="without atheris")
    given = parser.parse_args()
    seconds = given.minutes * 60 + given.seconds or 30.0
    if given.name == "all":
        more = ["--seconds", str(seconds), *(["--by-chance"] if given.by_chance else [])]
        with ThreadPoolExecutor(given.jobs) as side_by_side:
            statuses = list(side_by_side.map(lambda name: _status(name, more), NAMES))
        return int(any(statuses))
    if given.input is not None:
        target(given.name)(given.input.read_bytes())
        return 0
    try:
        if given.by_chance:
            raise ImportError
        guided(given.name, int(seconds))
    except ImportError:
        by_chance(given.name, seconds)
    return 0


def _status(name: str, more: list[str]) -> int:
    return subprocess.run([sys.executable, "-m", "tests.fuzz", name, *more], check=False).returncode


def target(name: str) -> Callable[[bytes], None]:
    """Return what is fuzzed under a name."""
    found: Callable[[bytes], None] = importlib.import_module("tests.fuzz.targets").TARGETS[name]
    return found


def guided(name: str, seconds: int) -> None:
    """Have libFuzzer look for inputs that reach new code; it ends the process. Raises ImportError."""
    import atheris

    with atheris.instrument_imports(include=["router"]):
        fuzzed = target(name)
    folder = Path(tempfile.mkdtemp(prefix=f"fuzz-{name}-"))
    for number, seed in enumerate(importlib.import_module("tests.fuzz.targets").SEEDS[name]):
        (folder / f"seed-{number}").write_bytes(seed)
    print(f"fuzzing {name} for {seconds} s with atheris; what crashes is kept in {folder}", flush=True)
    options = [f"-max_total_time={seconds}", f"-max_len={MAX_BYTES}", f"-artifact_prefix={folder}/crash-"]
    atheris.Setup([sys.argv[0], *options, "-print_final_stats=1", "-verbosity=0", str(folder)], fuzzed)
    atheris.Fuzz()


def by_chance(name: str, seconds: float, seed: int = 0) -> None:
    """Change the seeds by chance: no coverage tells what was reached. The same seed tries the same inputs."""
    fuzzed = target(name)
    seeds: list[bytes] = importlib.import_module("tests.fuzz.targets").SEEDS[name]
    chance = random.Random(seed)
    end_s, tried = time.monotonic() + seconds, 0
    while time.monotonic() < end_s:
        data = bytearray(chance.choice(seeds))
        for _ in range(chance.randint(1, 8)):
            change(data, chance, seeds)
        try:
            fuzzed(bytes(data))
        except BaseException:
            print(f"crashed by {bytes(data)!r}", flush=True)
            raise
        tried += 1
    print(f"fuzzed {name} by chance: {tried} inputs in {seconds:g} s", flush=True)


def change(data: bytearray, chance: random.Random, seeds: list[bytes]) -> None:
    """Flip, drop, insert or splice at a random place."""
    at = chance.randrange(len(data) + 1)
    match chance.randrange(4):
        case 0 if at < len(data):
            data[at] ^= 1 << chance.randrange(8)
        case 1:
            del data[at : at + chance.randint(1, 16)]
        case 2:
            data[at:at] = chance.choice(
                [b"\n", b"\r", b"\0", b"{", b'"', b"\\u", b"9" * 20, b"-1", b"null", b"1e999"]
            )
        case _:
            other = chance.choice(seeds)
            data[at:at] = other[chance.randrange(len(other)) :][: chance.randint(1, 64)]
    del data[MAX_BYTES:]


if __name__ == "__main__":
    sys.exit(main())
