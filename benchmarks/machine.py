"""Describe what a result was measured on and with."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks import processes
from router import __version__

PACKAGES = ("litestar", "uvicorn", "uvloop", "httptools", "httpx2", "msgspec", "numpy", "asyncpg")


def surroundings(home: Path) -> dict[str, Any]:
    """Return version, commit, time, machine, python and packages; `home` is where the ledger is written."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    memory_kib = int(Path("/proc/meminfo").read_text().split()[1])
    return {
        "version": __version__,
        "commit": _commit(),
        "measured_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": {
            "cpu": models[0] if models else "unknown",
            "cores": os.cpu_count(),
            "memory_gib": round(memory_kib / 2**20, 1),
            "system": f"{platform.system()} {platform.release()} {platform.machine()}",
            "ledger_filesystem": _filesystem(home),
        },
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
    }


def _commit() -> str:
    """Return the commit, with a plus when files differ from it, or "unknown" outside a checkout."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        done = subprocess.run(git, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def _filesystem(folder: Path) -> str:
    """Return the type of the file system that holds a folder (proc(5), mounts)."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    above = [(len(where), kind) for _, where, kind, *_ in mounts if folder.is_relative_to(where)]
    return max(above)[1] if above else "unknown"


class ForeignWork:
    """Watch how much of the machine other programs used: `share` once all own children have ended."""

    def __init__(self) -> None:
        self._busy_s, self._own_s, self._at_s = processes.machine_busy_s(), _own_cpu_s(), time.monotonic()

    def share(self) -> float:
        """Return the share of all cores since the start, 0 to 1."""
        foreign_s = processes.machine_busy_s() - self._busy_s - (_own_cpu_s() - self._own_s)
        return max(0.0, foreign_s / (time.monotonic() - self._at_s) / (os.cpu_count() or 1))


def _own_cpu_s() -> float:
    """Return the CPU seconds of this process and of every child that has ended."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(usage.ru_utime + usage.ru_stime for usage in map(resource.getrusage, kinds))
