"""The hard cases, for our router only: each with a router of its own, so that its memory can be read."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Callable
from typing import Any

from benchmarks import processes
from benchmarks.measure import CHECK_S, WARMUP_S, check, load, set_profile
from benchmarks.ours import OURS
from benchmarks.site import Endpoint, Site, Unavailable

Case = Callable[[Site, Endpoint, int], dict[str, Any]]
IDLE_STREAMS = 1_000
IDLE_RATE = 0.1  # events per second: ten seconds of silence between the first word and the second
SLOW_READ_BYTES = 65_536
SLOW_READ_EVERY_S = 0.05
SLOW_READER_S = 15.0


def run_hard(site: Site) -> dict[str, dict[str, Any]]:
    """Run every hard case; one that breaks the router has "failed" with what was seen."""
    cases: dict[str, Case] = {
        "idle_streams": _idle_streams,
        "slow_reader": _slow_reader,
        "gzip_bomb": _gzip_bomb,
    }
    results: dict[str, dict[str, Any]] = {}
    for name, case in cases.items():
        try:
            results[name] = _run_case(site, case)
        except (Unavailable, processes.NotReady, OSError) as failed:
            results[name] = {"failed": str(failed)}
    return results


def _run_case(site: Site, case: Case) -> dict[str, Any]:
    """Return the result with `growth_mib`, the memory at its peak above that of the warm router."""
    with site.upstream() as upstream_port, OURS.start(site, upstream_port) as endpoint:
        set_profile(upstream_port, "events=5&rate=500&answer=chat")
        check(endpoint)
        load(site, endpoint, connections=16, seconds=WARMUP_S, warmup=0.2)
        before = processes.cost(endpoint.pid or 0)
        result = case(site, endpoint, upstream_port)
        after = processes.cost(endpoint.pid or 0)
        set_profile(upstream_port, "events=5&rate=500&answer=chat")
        check(endpoint)  # it must still serve
    growth_mib = round(max(0.0, after.peak_mib - before.rss_mib), 1)
    return result | {"growth_mib": growth_mib, "cpu_s": round(after.cpu_s - before.cpu_s, 2)}


def _idle_streams(site: Site, endpoint: Endpoint, upstream_port: int) -> dict[str, Any]:
    """Hold streams that say one word, are silent and then end well: all of them must."""
    set_profile(upstream_port, f"events=2&rate={IDLE_RATE}")
    report = load(site, endpoint, connections=IDLE_STREAMS, warmup=4, stream=True, once=True)
    return {
        "streams": IDLE_STREAMS,
        "whole": report["requests"],
        "errors": report["error_kinds"],
        "first_token_ms": report["first_token_ms"],
    }


def _slow_reader(_site: Site, endpoint: Endpoint, upstream_port: int) -> dict[str, Any]:
    """Read a stream of 400 MB at 1.3 MB/s for a while, then leave."""
    set_profile(upstream_port, "answer=flood")
    with _ask(endpoint, stream=True, receive_buffer_bytes=SLOW_READ_BYTES) as client:
        read_bytes, until_s = 0, time.monotonic() + SLOW_READER_S
        while time.monotonic() < until_s:
            read_bytes += len(client.recv(SLOW_READ_BYTES))
            time.sleep(SLOW_READ_EVERY_S)
    return {"read_mb": round(read_bytes / 1e6, 1), "seconds": SLOW_READER_S}


def _gzip_bomb(_site: Site, endpoint: Endpoint, upstream_port: int) -> dict[str, Any]:
    """Ask for an answer of 300 kB of gzip that would be 300 MB: it must be refused."""
    set_profile(upstream_port, "answer=bomb")
    text = b""
    with _ask(endpoint, stream=False) as client:
        while piece := client.recv(65_536):
            text += piece
    head, _, body = text.partition(b"\r\n\r\n")
    found = re.match(rb"HTTP/1\.1 (\d+)", head)
    return {"status": int(found[1]) if found else 0, "answer": body[:300].decode(errors="replace")}


def _ask(endpoint: Endpoint, *, stream: bool, receive_buffer_bytes: int | None = None) -> socket.socket:
    """Send one chat request over a connection that ends with it; returns the connection, unread."""
    messages = [{"role": "user", "content": "Say hello."}]
    body = json.dumps({"model": endpoint.model, "messages": messages, "stream": stream}).encode()
    head = (
        f"POST {endpoint.path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nAuthorization: {endpoint.authorization}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    client = socket.socket()
    if receive_buffer_bytes is not None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
    client.settimeout(CHECK_S)
    client.connect(("127.0.0.1", endpoint.port))
    client.sendall(head.encode() + body)
    return client
