"""Start pinned processes and read what they cost, from /proc (Linux only)."""

from __future__ import annotations

import contextlib
import http.client
import os
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class NotReady(Exception):
    """A process ended or stayed silent where it should have become ready."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a process tree has used so far: CPU seconds, resident and peak resident MiB."""

    cpu_s: float
    rss_mib: float
    peak_mib: float


@contextlib.contextmanager
def pinned(core: int | None) -> Iterator[None]:
    """Let processes that are started inside run on one core (affinity is inherited); None: on all."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, before if core is None else {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def running(
    command: Sequence[str], core: int | None, environ: Mapping[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server on a core (None: on all), its output in a log; ends it and its children afterwards."""
    with log.open("wb") as output, pinned(core):
        process = subprocess.Popen(
            command, env=dict(environ), stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield process
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=10)
            return


def wait_ready(process: subprocess.Popen[bytes], port: int, path: str, log: Path, timeout_s: float) -> None:
    """Poll until GET answers 200; raises NotReady with the end of the log."""
    deadline = time.monotonic() + timeout_s
    while not _answers(port, path):
        if process.poll() is not None or time.monotonic() > deadline:
            state = f"ended with {process.returncode}" if process.returncode is not None else "is not ready"
            tail = log.read_text(errors="replace")[-2000:]
            parts = process.args if isinstance(process.args, list) else [process.args]
            command = shlex.join(map(str, parts))
            raise NotReady(f"`{command}` {state}; GET {path} gave no 200. Its output ends with:\n{tail}")
        time.sleep(0.01)


def _answers(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def cost(pid: int) -> Cost:
    """Add up a process and its living descendants; children that have ended count with their parent."""
    ticks, rss_kib, peak_kib = 0, 0, 0
    for member in _tree(pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(int(value) for value in fields[11:15])  # utime, stime, cutime, cstime: proc(5)
            lines = Path(f"/proc/{member}/status").read_text().splitlines()
            memory = {name: value for name, _, value in (line.partition(":") for line in lines)}
            rss_kib += int(memory.get("VmRSS", "0 kB").split()[0])
            peak_kib += int(memory.get("VmHWM", "0 kB").split()[0])
    return Cost(ticks / TICKS_PER_S, rss_kib / 1024, peak_kib / 1024)


def _tree(pid: int) -> list[int]:
    members = [pid]
    for member in members:  # grows while it is walked
        for children in Path(f"/proc/{member}/task").glob("*/children"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                members += [int(child) for child in children.read_text().split()]
    return members


def machine_busy_s() -> float:
    """Return the CPU seconds that all cores have worked since boot (proc(5), /proc/stat)."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = (
        int(value) for value in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]
    )
    return (user + nice + system + irq + softirq + steal) / TICKS_PER_S


def free_port() -> int:
    """Return a loopback port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
