"""Traces and metrics by OTLP, as a receiver decodes them; and nothing of it where there is none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from router.telemetry.traces import parent_of
from tests.otlp import OtlpReceiver, attributes
from tests.router import Offered, RouterServer, write_catalog
from tests.serving import bare_environment, run_router
from tests.upstream import ScriptedUpstream, answer, status, stream

TRACE, THEIRS = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = {"traceparent": f"00-{TRACE}-{THEIRS}-01", "tracestate": "vendor=1"}
ONE, OTHER = "test/one", "test/other"
SECRET = "the prompt is nobody's business"


@pytest.fixture(scope="module")
def up() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as server:
        yield server


@pytest.fixture
def receiver() -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as found:
        yield found


def served(up: ScriptedUpstream, folder: Path, **settings: Any) -> RouterServer:
    models = [Offered(ONE, price=(1.0, 1.0)), Offered(OTHER, price=(1.5, 1.5))]
    catalog = write_catalog(folder / "catalog", {"scripted": up.base_url}, models)
    up.on(ONE, answer(SECRET))
    up.on(OTHER, answer(SECRET))
    return RouterServer(catalog, folder / "data", **settings)


def named(receiver: OtlpReceiver, kind: int) -> list[Span]:
    return sorted((s for s in receiver.spans if s.kind == kind), key=lambda s: s.start_time_unix_nano)


def test_a_request_its_decision_and_its_call_are_spans_of_the_callers_trace(
    up: ScriptedUpstream, receiver: OtlpReceiver, tmp_path: Path
) -> None:
    with served(up, tmp_path, otlp_endpoint=receiver.endpoint) as router:
        got = router.chat(SECRET, headers=SAMPLED)
        sent = up.requests[-1]
    assert got.status == 200
    (request,) = named(receiver, Span.SPAN_KIND_SERVER)
    (decision,) = named(receiver, Span.SPAN_KIND_INTERNAL)
    (call,) = named(receiver, Span.SPAN_KIND_CLIENT)
    assert {span.trace_id.hex() for span in receiver.spans} == {TRACE}
    assert request.parent_span_id.hex() == THEIRS
    assert decision.parent_span_id == call.parent_span_id == request.span_id
    assert (sent.header("traceparent"), sent.header("tracestate")) == (
        f"00-{TRACE}-{call.span_id.hex()}-01",
        "vendor=1",
    )
    for inner in (decision, call):
        assert request.start_time_unix_nano <= inner.start_time_unix_nano
        assert inner.start_time_unix_nano <= inner.end_time_unix_nano <= request.end_time_unix_nano
    assert decision.end_time_unix_nano <= call.start_time_unix_nano
    assert (request.name, decision.name, call.name) == ("chat auto", "decide", f"chat {ONE}")
    usage = got.json["usage"]
    told = attributes(request)
    assert told["gen_ai.operation.name"] == "chat"
    assert told["gen_ai.provider.name"] == "scripted"
    assert (told["gen_ai.request.model"], told["gen_ai.response.model"]) == ("auto", ONE)
    assert told["gen_ai.usage.input_tokens"] == usage["prompt_tokens"]
    assert told["gen_ai.usage.output_tokens"] == usage["completion_tokens"]
    assert told["router.request.id"] == router.logged()[0]["request_id"]
    assert router.logged()[0]["trace_id"] == TRACE
    assert attributes(decision)["router.category"] == got.headers["x-llm-router-category"]
    assert attributes(call)["http.response.status_code"] == 200
    assert receiver.resources[0]["service.name"] == "llm-router"


def test_each_call_is_a_span_and_a_failed_one_says_why(
    up: ScriptedUpstream, receiver: OtlpReceiver, tmp_path: Path
) -> None:
    with served(up, tmp_path, otlp_endpoint=receiver.endpoint) as router:
        up.on(ONE, status(500))
        assert router.chat().status == 200
    failed, good = named(receiver, Span.SPAN_KIND_CLIENT)
    assert (failed.name, good.name) == (f"chat {ONE}", f"chat {OTHER}")
    assert attributes(failed)["error.type"]
    assert attributes(failed)["http.response.status_code"] == 500
    assert failed.status.code == failed.status.STATUS_CODE_ERROR
    assert failed.end_time_unix_nano <= good.start_time_unix_nano
    (request,) = named(receiver, Span.SPAN_KIND_SERVER)
    assert request.status.code != request.status.STATUS_CODE_ERROR
    assert attributes(request)["router.attempts"] == 2


def test_a_request_that_fails_is_a_span_with_its_error(
    up: ScriptedUpstream, receiver: OtlpReceiver, tmp_path: Path
) -> None:
    with served(up, tmp_path, otlp_endpoint=receiver.endpoint) as router:
        assert router.chat(model="no/such", headers=SAMPLED).status == 404
    (request,) = receiver.spans
    assert attributes(request)["error.type"] == "model_not_found"
    assert request.parent_span_id.hex() == THEIRS


def test_a_stream_is_one_call_until_its_end(
    up: ScriptedUpstream, receiver: OtlpReceiver, tmp_path: Path
) -> None:
    with served(up, tmp_path, otlp_endpoint=receiver.endpoint) as router:
        up.on(ONE, stream(SECRET))
        assert router.chat(model=ONE, stream=True).events()[-1] == "[DONE]"
    (call,) = named(receiver, Span.SPAN_KIND_CLIENT)
    assert attributes(call)["gen_ai.usage.output_tokens"] > 0


def test_nothing_that_was_said_is_exported(
    up: ScriptedUpstream, receiver: OtlpReceiver, tmp_path: Path
) -> None:
    with served(up, tmp_path, otlp_endpoint=receiver.endpoint) as router:
        up.on(ONE, stream(SECRET))
        router.chat(SECRET, headers={"authorization": "Bearer none"})
        router.chat(SECRET, stream=True)
    assert receiver.spans
    assert receiver.metrics
    for word in SECRET.split():
        assert word.encode() not in receiver.raw or len(word) < 5
    assert b"Bearer" not in receiver.raw


def test_what_the_caller_does_not_sample_is_not_sent(
    up: ScriptedUpstream, receiver: OtlpReceiver, tmp_path: Path
) -> None:
    with served(up, tmp_path, otlp_endpoint=receiver.endpoint, otlp_sample=0.0) as router:
        router.chat(headers={"traceparent": f"00-{TRACE}-{THEIRS}-00"})
        unsampled = up.requests[-1].header("traceparent")
        router.chat()
        begun = parent_of(up.requests[-1].header("traceparent"))
        router.chat(headers=SAMPLED)
    assert unsampled is not None
    assert unsampled.startswith(f"00-{TRACE}-")
    assert unsampled.endswith("-00")
    assert begun is not None
    assert not begun.sampled
    assert {span.trace_id.hex() for span in receiver.spans} == {TRACE}
    assert len(named(receiver, Span.SPAN_KIND_SERVER)) == 1


def test_metrics_have_the_names_of_the_conventions(
    up: ScriptedUpstream, receiver: OtlpReceiver, tmp_path: Path
) -> None:
    with served(up, tmp_path, otlp_endpoint=receiver.endpoint) as router:
        usage = router.chat(model=ONE).json["usage"]
        router.chat(model="no/such")
    assert set(receiver.metrics) == {
        "gen_ai.server.request.duration",
        "gen_ai.server.time_to_first_token",
        "gen_ai.client.operation.duration",
        "gen_ai.client.token.usage",
        "router.cost",
        "router.upstream.cost",
    }
    requests = receiver.metrics["gen_ai.server.request.duration"].histogram.data_points
    assert sum(point.count for point in requests) == 2
    assert {attributes(point)["router.outcome"] for point in requests} == {"ok", "model_not_found"}
    tokens = {
        attributes(point)["gen_ai.token.type"]: point.sum
        for point in receiver.metrics["gen_ai.client.token.usage"].histogram.data_points
    }
    assert tokens == {"input": usage["prompt_tokens"], "output": usage["completion_tokens"]}


def test_without_a_receiver_the_clients_headers_go_on_as_they_are_and_nothing_is_imported(
    up: ScriptedUpstream, tmp_path: Path
) -> None:
    with served(up, tmp_path) as router:
        router.chat(headers=SAMPLED)
        router.chat(headers={"traceparent": "nonsense"})
    first, second = up.requests[-2:]
    assert first.header("traceparent") == SAMPLED["traceparent"]
    assert second.header("traceparent") == "nonsense"
    lines = router.logged()
    assert lines[0]["trace_id"] == TRACE
    assert "trace_id" not in lines[1]
    program = (
        "import sys, router.app, router.ended, router.attempts;"
        "sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    )
    import subprocess
    import sys

    environ = bare_environment(tmp_path)
    assert subprocess.run([sys.executable, "-c", program], env=environ, check=False).returncode == 0


def test_a_receiver_that_is_away_stops_no_request(up: ScriptedUpstream, tmp_path: Path) -> None:
    with served(up, tmp_path, otlp_endpoint="http://127.0.0.1:1") as router:
        assert router.chat().status == 200


def test_the_standard_variable_switches_it_on_and_ours_wins(tmp_path: Path) -> None:
    standard = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}
    program = "from router.settings import load_settings as l; print(l().otlp_endpoint)"
    import subprocess
    import sys

    def read(**more: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=bare_environment(tmp_path, **more),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    assert read() == "None"
    assert read(**standard) == standard["OTEL_EXPORTER_OTLP_ENDPOINT"]
    assert read(**standard, ROUTER_OTLP_ENDPOINT="http://127.0.0.1:9") == "http://127.0.0.1:9"
    (tmp_path / "router.toml").write_text('otlp_endpoint = "http://127.0.0.1:7"\n')
    assert read() == "http://127.0.0.1:7"
    checks = json.loads(run_router(tmp_path, "doctor", "--json", ROUTER_OTLP_ENDPOINT="nowhere").stdout)[
        "checks"
    ]
    assert any("ROUTER_OTLP_ENDPOINT" in check["message"] for check in checks if check["state"] == "failure")
