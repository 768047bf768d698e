"""`stop`: SIGTERM while streams run; they end whole, nothing new is taken, everything is settled, exit 0."""

from __future__ import annotations

import asyncio
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.faults.book import Entry, Plan, Verdict, audit
from benchmarks.faults.client import ask
from benchmarks.faults.load import until
from benchmarks.faults.service import Service
from benchmarks.faults.upstream import Upstream

LOOK_S = 0.002
WAIT_S = 20.0
TOKENS = 20


async def run(streams: int) -> tuple[Verdict, dict[str, Any]]:
    """Stop the service in the middle of so many streams; returns the audit and what was seen meanwhile."""
    upstream = Upstream({})
    with tempfile.TemporaryDirectory() as made:
        async with upstream.serving() as port:
            service = Service(Path(made), port)
            try:
                await service.start()
                about = await _stop(service, upstream, streams)
                differences = await service.differences()
                verdict = audit(upstream.book, await service.rows(), len(differences))
            finally:
                service.close()
    about["whole"] = sum(entry.outcome == "whole" for entry in upstream.book.values())
    for name, right in (
        ("whole", about["whole"] == streams),
        ("settled", verdict.settled == streams),
        ("readiness", about["readiness_status"] == 503),
        ("exit", about["exit_status"] == 0),
    ):
        verdict.faults[f"not {name}"] = int(not right)
    return verdict, about


async def _stop(service: Service, upstream: Upstream, streams: int) -> dict[str, Any]:
    entries = [Entry(f"stop-{n}", Plan(stream=True, tokens=TOKENS, gate=True)) for n in range(streams)]
    upstream.book.update((entry.id, entry) for entry in entries)
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)  # kept from before the stop
    asking = [asyncio.create_task(ask(entry, service.port, service.authorization)) for entry in entries]

    async def half() -> bool:
        return all(entry.tokens == TOKENS // 2 for entry in entries)

    await until(half, WAIT_S, LOOK_S)
    began_s = time.monotonic()
    ending = asyncio.create_task(service.end(signal.SIGTERM))
    status = None
    while status != 503 and time.monotonic() - began_s < WAIT_S:
        status = await _readiness(reader, writer)
    ready_503_s = time.monotonic() - began_s

    async def refused() -> bool:
        return await service.get("/health/live") is None

    await until(refused, WAIT_S, LOOK_S)
    refused_s = time.monotonic() - began_s
    upstream.gate.set()
    await asyncio.gather(*asking)
    exit_status = await ending
    writer.close()
    return {
        "readiness_status": status,
        "readiness_503_after_s": ready_503_s,
        "refused_after_s": refused_s,
        "exit_status": exit_status,
        "stopped_after_s": time.monotonic() - began_s,
    }


async def _readiness(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
    writer.write(b"GET /health/ready HTTP/1.1\r\nhost: x\r\n\r\n")
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    await reader.readexactly(int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0]))
    return int(head.split()[1])
