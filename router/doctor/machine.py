"""The machine: Python and its packages, open files, disk, clock."""

from __future__ import annotations

import ctypes
import platform
import re
import resource
import shutil
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from router import __version__
from router.doctor.finding import Finding, failure, note, ok, warning
from router.doctor.installed import DISTRIBUTION, again
from router.settings import Settings

LEAST_PYTHON = (3, 11)
# A request has two descriptors, the client's and the upstream's; the rest is databases, logs and listeners.
FILES_A_REQUEST = 2
FILES_BESIDE = 200
LEAST_DISK_BYTES = 100 * 2**20
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?\s*([^;]*)(?:;(.*))?")
_BOUND = re.compile(r"(>=|<)\s*([0-9.]+)")
_TIME_ERROR = 5  # adjtimex(2): the clock is not synchronised


def python(version: tuple[int, ...] = sys.version_info[:3]) -> Finding:
    """Check the interpreter."""
    shown = ".".join(str(part) for part in version)
    said = f"router {__version__} on {platform.python_implementation()} {shown}, {platform.system()}"
    if version[:2] < LEAST_PYTHON:
        return failure("version", said, "run it with Python 3.11 or newer")
    return ok("version", said)


def packages(distribution: str = DISTRIBUTION) -> Finding:
    """Check that what the router needs is installed, in the versions that it was tested with."""
    try:
        needed = metadata.requires(distribution) or []
    except metadata.PackageNotFoundError:
        return note("packages", f"{distribution} runs from its sources and is not installed")
    wrong = [said for each in needed for said in _wrong(each)]
    if wrong:
        return failure("packages", "; ".join(wrong), again())
    return ok("packages", f"all {sum(1 for each in needed if 'extra ==' not in each)} are installed")


def tracing(settings: Settings) -> Iterator[Finding]:
    """Check that OpenTelemetry is installed where it is switched on."""
    if settings.otlp_endpoint is None:
        return
    if find_spec("opentelemetry") is None or find_spec("opentelemetry.sdk") is None:
        fix = f"{again('[otel]')}, or unset ROUTER_OTLP_ENDPOINT and OTEL_EXPORTER_OTLP_ENDPOINT"
        yield failure("tracing", f"{settings.otlp_endpoint} is set, OpenTelemetry is not installed", fix)
    else:
        yield ok("tracing", f"traces and metrics go to {settings.otlp_endpoint}")


def _wrong(requirement: str) -> Iterator[str]:
    match = _REQUIREMENT.match(requirement)
    if match is None or "extra ==" in (match[3] or ""):
        return
    if "sys_platform != 'win32'" in (match[3] or "").replace('"', "'") and sys.platform == "win32":
        return
    name = match[1]
    try:
        found = metadata.version(name)
    except metadata.PackageNotFoundError:
        yield f"{name} is missing"
        return
    for sign, bound in _BOUND.findall(match[2]):
        least = _numbers(found) >= _numbers(bound)
        if least != (sign == ">="):
            yield f"{name} is {found}, it must be {sign}{bound}"


def _numbers(version: str) -> tuple[int, ...]:
    """Return the numbers of a version, without zeros at its end: 1.0 is 1."""
    leading = re.match(r"\d+(?:\.\d+)*", version)
    found = [int(part) for part in leading[0].split(".")] if leading is not None else []
    while found and found[-1] == 0:
        found.pop()
    return tuple(found)


def open_files(settings: Settings, hard: int = resource.getrlimit(resource.RLIMIT_NOFILE)[1]) -> Finding:
    """Check that a process may open as many files as its connections need; `serve` takes what is allowed."""
    connections = -(-settings.max_connections // settings.workers)
    needed = connections * FILES_A_REQUEST + FILES_BESIDE
    if hard == resource.RLIM_INFINITY or hard >= needed:
        return ok("open files", "no limit" if hard == resource.RLIM_INFINITY else f"{hard:,} are allowed")
    return warning(
        "open files",
        f"{hard:,} are allowed, {connections:,} connections may need {needed:,}",
        f"raise the hard limit (ulimit -Hn {needed}; LimitNOFILE in systemd) or set ROUTER_MAX_CONNECTIONS to"
        f" {max(1, (hard - FILES_BESIDE) // FILES_A_REQUEST) * settings.workers}",
    )


def disk(settings: Settings, free_bytes: int | None = None) -> Finding:
    """Check that the data folder's disk has room for the books and the decision log."""
    folder = existing(settings.data)
    free = shutil.disk_usage(folder).free if free_bytes is None else free_bytes
    said = f"{free / 2**30:.1f} GiB free at {settings.data}"
    wanted = LEAST_DISK_BYTES + settings.decision_log_mib * 2**20
    if free < LEAST_DISK_BYTES:
        return failure("disk", said, f"free space on the disk of {folder}: a full disk refuses requests")
    if free < wanted:
        return warning(
            "disk",
            f"{said}, the decision log may take {settings.decision_log_mib / 1024:.1f}",
            "free space, or set ROUTER_DECISION_LOG_MIB lower",
        )
    return ok("disk", said)


def existing(path: Path) -> Path:
    """Return the nearest folder above a path that is there."""
    path = path.absolute()
    return next((folder for folder in (path, *path.parents) if folder.is_dir()), Path("/"))


def clock(now: datetime, state: int | None = None) -> Finding:
    """Check the clock without a network: is it synchronised, and can it be true.

    `state` is what adjtimex(2) returns; by default this kernel is asked (None where there is none, and where
    a container forbids the question).
    """
    built = datetime.fromtimestamp(Path(__file__).stat().st_mtime, UTC)
    fix = "run `timedatectl set-ntp true`: budgets, prices and payments go by the clock"
    if now < built:
        return failure("clock", f"{now:%Y-%m-%d %H:%M} UTC lies before this program was installed", fix)
    found = _kernel_state() if state is None else state
    if found == _TIME_ERROR:
        return warning("clock", f"{now:%Y-%m-%d %H:%M:%S} UTC, synchronised with nothing", fix)
    kept = "" if found is None else ", synchronised"
    return ok("clock", f"{now:%Y-%m-%d %H:%M:%S} UTC{kept}")


def _kernel_state() -> int | None:
    try:
        asked = ctypes.CDLL(None, use_errno=True).adjtimex
    except (AttributeError, OSError):
        return None
    # struct timex, larger than it is anywhere; all zero asks and changes nothing.
    state = int(asked(ctypes.create_string_buffer(512)))
    return None if state < 0 else state
