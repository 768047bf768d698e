"""One cost, to the nano-USD, wherever it is told: usage, header, ledger, receipt, the page's row, metrics."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest

from router.ledger.rows import Row
from tests.router import Answer, Offered, RouterServer, write_catalog
from tests.service.walking import bearer, make_key, request_id, sse_data, wait_end, wait_for
from tests.upstream import Behaviour, ScriptedUpstream, answer, stream

MODEL = "test/model"
CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
TEXT = "one two three four five six"
PLAIN = {"prompt_tokens": 101, "completion_tokens": 7, "total_tokens": 108}
CACHED = PLAIN | {"prompt_tokens_details": {"cached_tokens": 33}}
THOUGHT = PLAIN | {"total_tokens": 198, "completion_tokens_details": {"reasoning_tokens": 90}}
INSIDE = PLAIN | {"completion_tokens_details": {"reasoning_tokens": 5}}
PIXEL = "data:image/png;base64," + (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
USAGES: dict[str, Any] = {
    "plain": PLAIN,
    "cached": CACHED,
    "thoughts beside": THOUGHT,
    "thoughts inside": INSIDE,
    "floats": {"prompt_tokens": 101.0, "completion_tokens": 7.0},
    "fractions": {"prompt_tokens": 1.5, "completion_tokens": 2.5},
    "texts": {"prompt_tokens": "101", "completion_tokens": "7"},
    "negative": {"prompt_tokens": -101, "completion_tokens": 7},
    "huge": {"prompt_tokens": 10**30, "completion_tokens": 10**30},
    "dear": {"prompt_tokens": 150_000, "completion_tokens": 150_000},  # beyond what was held
    "null": None,
}
FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": (CHAT, {}),
    "chat, two": (CHAT, {"n": 2}),
    "chat stream, two": (CHAT, {"n": 2, "stream": True}),
    "chat stream": (CHAT, {"stream": True}),
    "chat stream, last chunk": (CHAT, {"stream": True, "stream_options": {"include_usage": True}}),
    "chat stream, none": (CHAT, {"stream": True, "stream_options": {"include_usage": False}}),
    "responses": (RESPONSES, {}),
    "responses stream": (RESPONSES, {"stream": True}),
}


@pytest.fixture(scope="module")
def up() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as server:
        yield server


@dataclass
class Desk:
    """A router that marks up, with prices that no unit divides, and a key."""

    router: RouterServer
    headers: dict[str, str]

    def ask(self, path: str, content: Any = "Say hello", **fields: Any) -> Answer:
        said = (
            {"input": content} if path == RESPONSES else {"messages": [{"role": "user", "content": content}]}
        )
        return self.router.request("POST", path, {"model": "auto", **said, **fields}, self.headers)

    def metrics_nusd(self) -> int:
        lines = self.router.request("GET", "/metrics").body.decode().splitlines()
        return sum(
            int(float(line.split()[-1])) for line in lines if line.startswith("router_cost_nusd_total{")
        )


@pytest.fixture(scope="module")
def desk(up: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("desk")
    offered = Offered(MODEL, price=(0.333, 1.777))
    catalog = write_catalog(
        folder / "catalog", {"scripted": up.base_url}, [offered], policy="markup = 1.07\n"
    )
    with RouterServer(catalog, folder / "data") as router:
        key, _ = make_key(router, "--credit", "10")
        yield Desk(router, bearer(key))


def told_usage(got: Answer, path: str) -> dict[str, Any] | None:
    """Return the usage that the client is told, None where it wanted none."""
    if not got.headers["content-type"].startswith("text/event-stream"):
        return dict(json.loads(got.body, parse_float=Decimal)["usage"])
    last = [data for data in sse_data(got.body) if data != "[DONE]"][-1]
    said = json.loads(last, parse_float=Decimal)
    usage = said["response"]["usage"] if path == RESPONSES else said.get("usage")
    return None if usage is None else dict(usage)


def check(desk: Desk, got: Answer, path: str, before_nusd: int) -> Row:
    """Compare every place that tells the cost and the tokens of an answer; return the ledger's row."""
    assert got.status == 200, got.body
    row = wait_end(desk.router, request_id(got))
    nusd = row.amount_nusd
    assert row.kind == "settle"
    usage = told_usage(got, path)
    if usage is not None:
        names = (
            ("input_tokens", "output_tokens") if path == RESPONSES else ("prompt_tokens", "completion_tokens")
        )
        assert usage["cost"] * 10**9 == nusd
        assert [usage[name] for name in names] == [row.prompt_tokens, row.completion_tokens]
        assert usage["total_tokens"] == sum(usage[name] for name in names)
    header = got.headers.get("x-llm-router-cost-usd")
    assert (header is None) == got.headers["content-type"].startswith("text/event-stream")
    assert header is None or Decimal(header) * 10**9 == nusd
    receipt = desk.router.request("GET", f"/v1/receipts/{request_id(got)}", headers=desk.headers).json
    assert (receipt["charge_nusd"], receipt["estimated"]) == (nusd, row.estimated)
    page = wait_for(lambda: page_row(desk, request_id(got)), "the page's row")
    assert Decimal(page["charged_usd"]) * 10**9 == nusd
    assert wait_for(lambda: desk.metrics_nusd() - before_nusd or None, "the metrics") == nusd
    return row


def page_row(desk: Desk, ledger_id: str) -> dict[str, str] | None:
    body = desk.router.request("GET", f"/ui/requests.csv?id={ledger_id}").body.decode("utf-8-sig")
    return next((row for row in csv.DictReader(io.StringIO(body)) if row["request_id"] == ledger_id), None)


def behaving(streamed: bool, usage: Any) -> Behaviour:
    return stream(TEXT, usage="last_chunk", counts=usage) if streamed else answer(TEXT, usage=usage)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", USAGES)
def test_a_cost_is_the_same_wherever_it_is_told(
    desk: Desk, up: ScriptedUpstream, name: str, form: str
) -> None:
    path, fields = FORMS[form]
    up.on(MODEL, behaving("stream" in fields, USAGES[name]))
    before = desk.metrics_nusd()
    row = check(desk, desk.ask(path, **fields), path, before)
    believed = name in ("plain", "cached", "thoughts beside", "thoughts inside", "dear")
    assert row.estimated is not believed
    if name in ("plain", "thoughts inside"):
        assert row.amount_nusd == -(-(101 * 333 + 7 * 1_777) * 107 // 100)
    if name == "thoughts beside":
        assert (row.completion_tokens, row.amount_nusd) == (97, -(-(101 * 333 + 97 * 1_777) * 107 // 100))


PLACES = ("early", "every", "twice", "finish_chunk", "never")


@pytest.mark.parametrize("form", [form for form in FORMS if "stream" in form])
@pytest.mark.parametrize("place", [*PLACES, "after [DONE]"])
def test_wherever_the_upstream_reports_it(desk: Desk, up: ScriptedUpstream, place: Any, form: str) -> None:
    path, fields = FORMS[form]
    late = b"data: [DONE]\n\ndata: " + json.dumps({"choices": [], "usage": PLAIN}).encode() + b"\n\n"
    finish = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    up.on(
        MODEL,
        stream([TEXT, finish, late], finish=False, done=False, usage="never")
        if place == "after [DONE]"
        else stream(TEXT, usage=place, counts=PLAIN),
    )
    before = desk.metrics_nusd()
    row = check(desk, desk.ask(path, **fields), path, before)
    assert row.estimated is (place in ("never", "after [DONE]"))


@pytest.mark.parametrize("path", [CHAT, RESPONSES])
@pytest.mark.parametrize("streamed", [False, True])
def test_an_image_is_held_for_and_billed_as_reported(
    desk: Desk, up: ScriptedUpstream, path: str, streamed: bool
) -> None:
    up.on(MODEL, behaving(streamed, PLAIN | {"prompt_tokens": 1_101, "total_tokens": 1_108}))
    image = {"type": "input_image", "image_url": PIXEL}
    words = {"type": "input_text", "text": "What is this?"}
    if path == RESPONSES:
        content: Any = [{"role": "user", "content": [words, image]}]
    else:
        content = [
            {"type": "text", "text": "What is this?"},
            {"type": "image_url", "image_url": {"url": PIXEL}},
        ]
    before = desk.metrics_nusd()
    row = check(desk, desk.ask(path, content, stream=streamed), path, before)
    assert row.prompt_tokens == 1_101
