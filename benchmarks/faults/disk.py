"""`disk`: no room, then no writing at all, under load; nothing is served without a hold, and it recovers.

Two ways to take the room away: a limit on the size of the service's files (setrlimit(2), RLIMIT_FSIZE, set
from outside; a limit of 0 refuses every write, as a file system that turned read-only does), and with
`--tmpfs` a small file system that is filled (needs the right to mount).
"""

from __future__ import annotations

import asyncio
import os
import random
import resource
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from benchmarks.faults.book import Verdict, audit, mixed_plan
from benchmarks.faults.kill import ended
from benchmarks.faults.load import Load, until
from benchmarks.faults.service import Service
from benchmarks.faults.upstream import Upstream

NAME = "storage_unavailable"
BACK_S = 10.0
TMPFS_MIB = 24


async def run(requests: int, at_once: int, seed: int, *, tmpfs: bool) -> tuple[Verdict, dict[str, Any]]:
    """Run both troubles, each in the middle of a load; returns the audit and what clients saw."""
    random_ = random.Random(seed)
    upstream = Upstream({})
    about: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as made, _mounted(Path(made)) if tmpfs else nullcontext():
        async with upstream.serving() as port:
            service = Service(Path(made), port)
            try:
                await service.start()
                load = Load(service, upstream.book, lambda: mixed_plan(random_), "disk")
                for name, growing in (("full", service.data / "router.db-wal"), ("read_only", None)):
                    trouble = _filled(service.data) if tmpfs else _limited(service.pid, growing)
                    about[name] = await _through(service, load, trouble, requests, at_once)
                    load = Load(service, upstream.book, lambda: mixed_plan(random_), f"disk-{name}")
                    if tmpfs:
                        break  # what is mounted and in use cannot turn read-only
                await ended(service)
                differences = await service.differences()
                verdict = audit(upstream.book, await service.rows(), len(differences))
            finally:
                service.close()
    refused = [entry for entry in upstream.book.values() if entry.status not in (200, None)]
    verdict.faults["another refusal than 503"] = sum(entry.status != 503 for entry in refused)
    verdict.faults["no answer"] = sum(
        entry.outcome in ("failed", "cut") and entry.plan.stop is None for entry in upstream.book.values()
    )
    verdict.faults["ready in trouble"] = sum(found["readiness_in_trouble"] != 503 for found in about.values())
    verdict.faults["not back"] = sum(found["back_after_s"] >= BACK_S for found in about.values())
    about["refusals"] = {name: sum(e.detail == name for e in refused) for name in {e.detail for e in refused}}
    return verdict, about


async def _through(
    service: Service, load: Load, trouble: AbstractContextManager[None], requests: int, at_once: int
) -> dict[str, float]:
    """Send requests before, during and after the trouble; returns when the service was back."""
    before = load.started
    sending = asyncio.create_task(load.send(requests, at_once))
    await load.passed(before + requests // 3)
    with trouble:
        await load.passed(before + 2 * requests // 3)
        not_ready = await service.get("/health/ready") or 0
    back_s = await until(load.served, BACK_S)
    await sending
    return {"readiness_in_trouble": not_ready, "back_after_s": back_s}


@contextmanager
def _limited(pid: int, growing: Path | None) -> Iterator[None]:
    """Let no file of a process grow above what the growing one is now; without one, above nothing."""
    size = 0 if growing is None else growing.stat().st_size
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


@contextmanager
def _filled(folder: Path) -> Iterator[None]:
    """Fill the file system of a folder to the last block."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4_096))
        except OSError:
            pass
    try:
        yield
    finally:
        filler.unlink()


@contextmanager
def _mounted(folder: Path) -> Iterator[None]:
    """Mount a small file system where the service keeps its data.

    Raises CalledProcessError without the right to.
    """
    data = folder / "data"
    data.mkdir()
    options = f"size={TMPFS_MIB}m,mode=0700,uid={os.getuid()}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(data)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(data)], check=True)
