"""The benchmark tools count what they claim to count."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
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

from benchmarks import compare, guard, installs, load, measure, report, upstream
from benchmarks.ours import QUALITY, write_catalog
from benchmarks.site import Endpoint, Site, Target, Unavailable
from benchmarks.targets import DIRECT
from router.catalog.files import load_catalog
from tests.upstream import ScriptedUpstream, status, stream


@contextmanager
def fast_upstream(events: int = 5, rate: float = 0.0) -> Iterator[str]:
    """Run the fast upstream on a plain event loop in a thread; gives the address of its chat route."""
    loop = asyncio.new_event_loop()
    listening = socket.create_server(("127.0.0.1", 0))
    profile = upstream.Profile(events, rate)
    server = loop.run_until_complete(loop.create_server(lambda: upstream.Connection(profile), sock=listening))
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


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2].partition("/")[0])


def apply_load(url: str, **fields: Any) -> dict[str, Any]:
    return asyncio.run(load.run(load.Plan(url, connections=4, seconds=0.2, warmup_s=0.05, **fields)))


def test_plain_answers_are_counted_and_timed() -> None:
    with fast_upstream() as url:
        found = apply_load(url)
    assert found["errors"] == 0
    assert 0 < found["requests"] <= found["answers_with_warmup"]
    latency = found["latency_ms"]
    assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["max"]


EVENTS_OF_FIVE = 1 + 5 + 3  # the role, the words, and finish, usage and [DONE]


@pytest.mark.parametrize("rate", [0.0, 500.0])
def test_events_of_streams_are_counted(rate: float) -> None:
    with fast_upstream(events=5, rate=rate) as url:
        found = apply_load(url, stream=True)
    assert found["errors"] == 0
    assert found["events_with_warmup"] == found["answers_with_warmup"] * EVENTS_OF_FIVE
    assert 0 < found["events"] <= found["events_with_warmup"]
    assert 0 < found["first_token_ms"]["p50"] <= found["latency_ms"]["p50"]


def test_requests_carry_the_prompts_and_the_key() -> None:
    with ScriptedUpstream() as up:
        found = apply_load(f"{up.base_url}/chat/completions", authorization="Bearer x", model="m")
        up.wait_closed()
        received = up.requests
    assert len(received) == found["answers_with_warmup"] >= found["requests"] > 0
    assert {r.header("authorization") for r in received} == {"Bearer x"}
    assert {r.model for r in received} == {"m"}
    texts = [r.json["messages"][-1]["content"] for r in received]
    assert len(set(texts)) == len(texts)
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
        found = apply_load(f"{up.base_url}/chat/completions", model="m", stream=True)
    assert found["requests"] == 0
    assert list(found["error_kinds"]) == [kind]
    assert found["errors"] == found["error_kinds"][kind] > 0


def test_the_benchmark_catalog_is_valid(tmp_path: Path) -> None:
    write_catalog(tmp_path, 9)
    catalog = load_catalog(tmp_path, environ={}, today=date(2026, 11, 1))
    assert set(catalog.models) == {f"bench/{name}" for name in QUALITY}
    assert all(offer.unusable is None for model in catalog.models.values() for offer in model.offers)


@pytest.mark.parametrize(
    "module",
    ["compare", "echo", "guard", "ledger_share", "load", "nothing_kept", "payments", "scaling", "upstream"],
)
def test_each_tool_explains_itself(module: str) -> None:
    command = [sys.executable, "-m", f"benchmarks.{module}", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"python -m benchmarks.{module}" in done.stdout


def test_the_events_have_their_size() -> None:
    body = upstream.ANSWER.partition(b"\r\n\r\n")[2]
    assert json.loads(body)["usage"] == upstream.USAGE
    assert 800 < len(body) < 1000
    assert 290 < len(upstream.WORD) < 320


def test_one_request_a_connection() -> None:
    with fast_upstream(rate=500.0) as url:
        found = apply_load(url, stream=True, once=True)
    assert (found["requests"], found["answers_with_warmup"], found["errors"]) == (4, 4, 0)
    assert found["events"] == 4 * EVENTS_OF_FIVE


def test_an_answer_that_is_no_200_is_kept_for_the_reader() -> None:
    with ScriptedUpstream() as up:
        up.on("m", status(503, {"error": "tired"}))
        found = apply_load(f"{up.base_url}/chat/completions", model="m")
    assert "tired" in found["first_error"]


def test_long_prompts_have_their_size_and_differ() -> None:
    requests = load.Plan("http://x/y", prompt_bytes=65_536).requests()
    assert len(set(requests)) == len(requests) == 64
    assert all(65_536 < len(request) < 68_000 for request in requests)


@pytest.mark.parametrize("stream", [False, True])
def test_the_upstream_reads_bodies_that_it_does_not_keep(stream: bool) -> None:
    with fast_upstream() as url:
        found = apply_load(url, prompt_bytes=2_000_000, stream=stream)
    assert found["requests"] > 0
    assert found["errors"] == 0


def test_a_second_load_runs_beside_the_first() -> None:
    with fast_upstream() as url:
        plan = load.Plan(url, connections=2, seconds=0.2, warmup_s=0.05)
        found = asyncio.run(load.run_beside(plan, 1_000_000))
    assert found["requests"] > found["beside"]["requests"] > 0
    assert found["beside"]["connections"] == 1


def test_the_profile_changes_the_streams_that_follow() -> None:
    with fast_upstream(events=5) as url:
        measure.set_profile(port_of(url), "events=2&rate=0")
        found = apply_load(url, stream=True)
    assert found["events_with_warmup"] == found["answers_with_warmup"] * (EVENTS_OF_FIVE - 3)


def test_a_flood_is_as_fast_as_it_is_read() -> None:
    """Reading nothing must leave the upstream with a full buffer, not with 400 MB in it."""
    written: list[int] = []

    class Counting(upstream.Connection):
        def _answer(self, request: bytes) -> None:
            super()._answer(request)
            written.append(self._transport.get_write_buffer_size())

    async def ask() -> int:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Counting(upstream.Profile(answer="flood")), "127.0.0.1", 0)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b'POST / HTTP/1.1\r\nContent-Length: 15\r\n\r\n{"stream": true')
            size = len(await reader.readexactly(1_000_000))
            writer.close()
            await writer.wait_closed()
            return size

    assert asyncio.run(ask()) == 1_000_000
    assert 0 < written[0] < 4_000_000


def test_the_bomb_inflates_a_thousandfold() -> None:
    with fast_upstream() as url:
        connection = http.client.HTTPConnection("127.0.0.1", port_of(url))
        connection.request("PUT", "/profile?answer=bomb")
        connection.getresponse().read()
        connection.request("POST", "/", b"{}")
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
    assert answer.getheader("content-encoding") == "gzip"
    assert 250_000 < len(body) < 350_000


@pytest.fixture
def site(tmp_path: Path) -> Site:
    cores = sorted(os.sched_getaffinity(0))
    return Site(tmp_path, tmp_path, cores[0], cores[-1])


def test_a_target_is_checked_before_it_is_measured() -> None:
    with ScriptedUpstream() as up:
        up.on("m", status(401))
        with pytest.raises(Unavailable, match="a plain request was answered with 401"):
            measure.check(Endpoint(port_of(up.base_url), model="m"))


def test_a_phase_is_applied_by_another_process(site: Site) -> None:
    phase = measure.Phase("first_token", 2, stream=True, events=5, rate=500)
    with site.upstream() as port, DIRECT.start(site, port) as endpoint:
        measure.check(endpoint)
        found = measure.run_phase(site, endpoint, port, phase, 0.1)
    assert found["requests"] > 0
    assert found["errors"] == 0
    assert "cpu_s" not in found  # nothing but the upstream was measured


def test_a_peer_that_cannot_be_had_is_a_row_with_the_reason(site: Site) -> None:
    def prepare(_site: Site) -> str:
        return installs.debian_peer("no-such-program", "some-package")

    @contextmanager
    def start(_site: Site, _port: int) -> Iterator[Endpoint]:
        yield Endpoint(1)  # nobody listens there

    absent = Target("absent", "nothing", prepare, DIRECT.start)
    silent = Target("silent", "nothing", lambda _site: "1", start)
    shown = compare.Steps(None, 9)
    rows = compare.prepare(site, [absent, silent], shown)
    assert rows["absent"]["unavailable"] == "no-such-program is not installed: apt-get install some-package"
    rounds = [compare.measure_round(site, [silent], 0.1, shown)]
    compare.collect(rows, rounds)
    assert "Connection refused" in rows["silent"]["unavailable"]


def _phase(**more: Any) -> dict[str, Any]:
    latency = {"p50": 1.0, "p90": 2.0, "p99": 3.0, "max": 4.0}
    fields = {"requests": 100, "rps": 50.0, "latency_ms": latency, "error_kinds": {}, "cpu_s": 0.02}
    return fields | {"answers_with_warmup": 200, "latency_cdf_ms": [1.0] * 200 + [4.0]} | more


def _measured(rps: float = 50.0, delivered: float = 980.0) -> dict[str, Any]:
    stream = {"events": 1, "events_per_s": delivered, "events_with_warmup": 1_000}
    phases = {name: _phase(rps=rps) for name in ("one", "c16", "c64", "c256", "prompts_64k")}
    phases["first_token"] = _phase(first_token_ms={"p50": 1.5}, **stream)
    phases["streams_64"] = _phase(first_token_ms={"p50": 1.5}, **stream)
    phases["beside_2m"] = _phase(beside=_phase())
    return {"start_s": 0.5, "rss_idle_mib": 80.0, "rss_peak_mib": 90.0, "phases": phases, "failed": {}}


def _direct() -> dict[str, Any]:
    direct = _measured(delivered=1_000.0)
    direct["phases"]["one"]["latency_ms"] = {"p50": 0.25, "p90": 0.3, "p99": 1.0, "max": 2.0}
    direct["phases"]["first_token"]["first_token_ms"] = {"p50": 0.5}
    return direct


def test_figures_are_held_against_direct_of_the_same_round() -> None:
    found = report.figures(_measured(), _direct())
    assert found["added_p50_ms"] == 0.75
    assert found["added_p99_ms"] == 2.0
    assert found["added_first_token_ms"] == 1.0
    assert found["delivered_64_percent"] == pytest.approx(98.0)
    assert found["cpu_us_request"] == pytest.approx(100.0)
    assert found["cpu_us_event_64"] == pytest.approx(20.0)
    assert "cores_256" not in found


def test_a_phase_without_an_answer_has_no_figure() -> None:
    own = _measured()
    own["phases"]["prompts_64k"] = _phase(requests=0, rps=0.0, latency_ms={})
    assert "rps_64k" not in report.figures(own, _direct())


def test_the_summary_is_median_and_range() -> None:
    rounds = [{"direct": _direct(), "ours": _measured(rps=rps)} for rps in (30.0, 10.0, 20.0)]
    rounds.append({"direct": _direct(), "ours": {"unavailable": "fell over"}})
    assert report.summarize(rounds)["ours"]["rps_64"] == {"median": 20.0, "min": 10.0, "max": 30.0}


@pytest.mark.parametrize(
    ("value", "said"),
    [(None, "not measured"), (0.2, "goal met"), (0.4, "must met, goal missed"), (0.6, "**below must**")],
)
def test_an_aim_says_what_is_met(value: float | None, said: str) -> None:
    assert report.Aim("added", value, 0.5, 0.25).verdict == said


def _result() -> dict[str, Any]:
    rows: dict[str, dict[str, Any]] = {
        name: {"version": "1", "does": "things", "errors": {"503 (c64)": 2}, "failed": {}}
        for name in ("direct", "ours", "LiteLLM")
    }
    rows["LiteLLM"]["unavailable"] = "uv is not installed"
    rounds = [{"direct": _direct(), "ours": _measured()}]
    return {
        "version": "9.9.9",
        "commit": "abc",
        "measured_at": "2026-11-22T00:00:00Z",
        "machine": {"cpu": "a CPU", "cores": 2, "system": "Linux", "ledger_filesystem": "ext4"},
        "python": "3.11",
        "load": {"rounds": 1, "seconds_a_phase": 4.0, "gateway_core": 0, "load_core": 1},
        "foreign_cpu_share": [0.02],
        "targets": rows,
        "summary": report.summarize(rounds),
        "hard": {"gzip_bomb": {"status": 200, "growth_mib": 300.0}},
        "rounds": rounds,
    }


def test_the_page_says_what_was_measured_and_what_was_not() -> None:
    page = report.markdown(_result())
    assert "| LiteLLM | uv is not installed |" in page
    assert "Errors under load: 2 x 503 (c64)" in page
    assert "| requests/s, 64 connections, 1 kB | 50 | 2,500 | - | **below must** |" in page
    assert "refused (1 = yes) | 0 | 1 | - | **below must** |" in page
    assert "| 256 streams x 50 events/s: cores | - | - | 0.7 | not measured |" in page


def test_the_plots_show_every_measured_target(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="dependency group bench")
    from benchmarks.plots import draw

    first = {path.name: path.read_text() for path in draw(_result(), tmp_path)}
    assert set(first) == {f"9.9.9-{name}.svg" for name in ("latency", "throughput", "cpu")}
    assert all("ours" in text and "LiteLLM" not in text for text in first.values())
    assert {path.name: path.read_text() for path in draw(_result(), tmp_path)} == first


def test_the_guard_allows_half_more_than_recorded() -> None:
    record = {"ratio": 4.0}
    measured = {"echo_us": 50.0, "ours_us": 300.0, "ratio": 6.0}
    assert guard.verdict(measured, record) == (
        True,
        "ours 300 us, echo 50 us CPU a request: 6.00 x; recorded 4.00 x, allowed 6.00 x",
    )
    assert not guard.verdict(measured | {"ratio": 6.01}, record)[0]
