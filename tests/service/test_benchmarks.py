"""The benchmark tools count what they claim to count."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from benchmarks import load, upstream
from benchmarks.run import QUALITY, UNITS, summary, write_catalog
from router.catalog.files import load_catalog
from tests.upstream import ScriptedUpstream, status, stream


@contextmanager
def fast_upstream(events: int = 5, rate: float = 0.0) -> Iterator[str]:
    """Run the fast upstream on a plain event loop in a thread; gives the address of its chat route."""
    loop = asyncio.new_event_loop()
    listening = socket.create_server(("127.0.0.1", 0))
    server = loop.run_until_complete(
        loop.create_server(lambda: upstream.Connection(events, rate), sock=listening)
    )
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1/chat/completions"
    finally:
        loop.call_soon_threadsafe(server.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.run_until_complete(server.wait_closed())
        loop.close()


def measure(url: str, **fields: Any) -> dict[str, Any]:
    return asyncio.run(load.run(load.Plan(url, connections=4, seconds=0.2, warmup_s=0.05, **fields)))


def test_plain_answers_are_counted_and_timed() -> None:
    with fast_upstream() as url:
        report = measure(url)
    assert report["errors"] == 0
    assert 0 < report["requests"] <= report["answers_with_warmup"]
    latency = report["latency_ms"]
    assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["max"]


@pytest.mark.parametrize("rate", [0.0, 500.0])
def test_events_of_streams_are_counted(rate: float) -> None:
    with fast_upstream(events=5, rate=rate) as url:
        report = measure(url, stream=True)
    assert report["errors"] == 0
    assert report["events"] == report["requests"] * (5 + 3)  # finish, usage and [DONE]
    assert 0 < report["first_event_ms"]["p50"] <= report["latency_ms"]["p50"]


def test_requests_carry_the_prompts_and_the_key() -> None:
    with ScriptedUpstream() as up:
        report = measure(f"{up.base_url}/chat/completions", authorization="Bearer x", model="m")
        up.wait_closed()
        received = up.requests
    assert len(received) == report["answers_with_warmup"] >= report["requests"] > 0
    assert {r.header("authorization") for r in received} == {"Bearer x"}
    assert {r.model for r in received} == {"m"}
    texts = [r.json["messages"][-1]["content"] for r in received]
    assert len(set(texts)) == min(64, len(texts))
    assert all(900 < len(r.body) < 1100 for r in received)


@pytest.mark.parametrize(
    ("behaviour", "kind"),
    [
        (status(503), "503"),
        (stream("a b", usage="last_chunk", done=False), "stream without [DONE]"),
        (stream("a b", usage="never"), "stream without usage"),
        (stream("a b", cut_after=1), "connection lost"),
    ],
)
def test_failures_are_errors_and_not_requests(behaviour: Any, kind: str) -> None:
    with ScriptedUpstream() as up:
        up.on("m", behaviour)
        report = measure(f"{up.base_url}/chat/completions", model="m", stream=True)
    assert report["requests"] == 0
    assert list(report["error_kinds"]) == [kind]
    assert report["errors"] == report["error_kinds"][kind] > 0


def test_the_benchmark_catalog_is_valid(tmp_path: Path) -> None:
    write_catalog(tmp_path, 9)
    catalog = load_catalog(tmp_path, environ={}, today=date(2026, 11, 1))
    assert set(catalog.models) == {f"bench/{name}" for name in QUALITY}
    assert all(offer.unusable is None for model in catalog.models.values() for offer in model.offers)


def test_summary_is_median_and_range() -> None:
    rounds = [dict.fromkeys(UNITS, value) for value in (3.0, 1.0, 2.0)]
    assert summary(rounds)["router_rps"] == {"median": 2.0, "min": 1.0, "max": 3.0}


@pytest.mark.parametrize("module", ["load", "run", "upstream"])
def test_each_tool_explains_itself(module: str) -> None:
    command = [sys.executable, "-m", f"benchmarks.{module}", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"python -m benchmarks.{module}" in done.stdout


def test_the_events_have_their_size() -> None:
    body = upstream.ANSWER.partition(b"\r\n\r\n")[2]
    assert json.loads(body)["usage"] == upstream.USAGE
    assert 800 < len(body) < 1000
    assert 290 < len(upstream.WORD) < 320
