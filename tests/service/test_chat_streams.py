"""Streamed answers: where usage goes, how a stream ends, and every way in which an upstream can break one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from tests.router import Answer, Offered, RouterServer, write_catalog
from tests.service.walking import Client, question, request_id, sse_data, wait_all_ended, wait_end
from tests.upstream import (
    MISSING,
    Behaviour,
    Gate,
    ScriptedUpstream,
    answer,
    empty,
    error_event_after,
    error_in_200,
    html,
    raw,
    status,
    stream,
)

MODEL = "test/stream"
TEXT = "one two three"
USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
COST_NUSD = 20_000
WISHES: list[tuple[str, dict[str, Any]]] = [
    ("finish_chunk", {}),
    ("finish_chunk", {"stream_options": {}}),
    ("finish_chunk", {"stream_options": None}),
    ("last_chunk", {"stream_options": {"include_usage": True}}),
    ("none", {"stream_options": {"include_usage": False}}),
]
SSE_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"


@pytest.fixture(scope="module")
def up() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as server:
        yield server


@pytest.fixture(scope="module")
def router(up: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RouterServer]:
    folder = tmp_path_factory.mktemp("streams")
    catalog = write_catalog(folder / "catalog", {"scripted": up.base_url}, [Offered(MODEL)])
    with RouterServer(catalog, folder / "data") as server:
        yield server


def ask(router: RouterServer, **fields: Any) -> Answer:
    return router.chat(model=MODEL, stream=True, **fields)


def streamed(router: RouterServer, up: ScriptedUpstream, behaviour: Behaviour, **fields: Any) -> Answer:
    up.on(MODEL, behaviour)
    got = ask(router, **fields)
    assert got.status == 200, got.body
    assert got.headers["content-type"].startswith("text/event-stream")
    assert got.body.count(b"[DONE]") == 1
    assert sse_data(got.body)[-1] == "[DONE]"
    return got


def chunks_of(got: Answer) -> list[dict[str, Any]]:
    return [json.loads(data, parse_float=Decimal) for data in sse_data(got.body) if data != "[DONE]"]


def text_of(got: Answer, index: int = 0) -> str:
    choices = [choice for chunk in chunks_of(got) for choice in chunk["choices"] if choice["index"] == index]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


def finish_reasons(got: Answer) -> list[str]:
    choices = [choice for chunk in chunks_of(got) for choice in chunk["choices"]]
    return [choice["finish_reason"] for choice in choices if choice.get("finish_reason")]


def check_usage_place(got: Answer, wish: str) -> dict[str, Any] | None:
    """Check that usage is in the one place that the wish names, and return it."""
    chunks = chunks_of(got)
    carriers = [i for i, chunk in enumerate(chunks) if chunk.get("usage") is not None]
    if wish == "none":
        assert carriers == []
        assert all(chunk["choices"] for chunk in chunks)
        return None
    assert carriers == [len(chunks) - 1]
    if wish == "finish_chunk":
        assert all(chunk["choices"] for chunk in chunks)
        assert chunks[-1]["choices"][0]["finish_reason"]
    else:
        assert chunks[-1]["choices"] == []
        assert chunks[-2]["choices"][0]["finish_reason"]
    usage: dict[str, Any] = chunks[-1]["usage"]
    return usage


@pytest.mark.parametrize("place", ["asked", "last_chunk", "finish_chunk", "early", "every", "twice"])
@pytest.mark.parametrize(("wish", "fields"), WISHES)
def test_usage_is_where_the_client_wants_it_wherever_the_upstream_sends_it(
    router: RouterServer, up: ScriptedUpstream, place: Any, wish: str, fields: dict[str, Any]
) -> None:
    got = streamed(router, up, stream(TEXT, usage=place, counts=USAGE), **fields)

    assert text_of(got) == TEXT
    assert finish_reasons(got) == ["stop"]
    usage = check_usage_place(got, wish)
    row = wait_end(router, request_id(got))
    assert (row.kind, row.amount_nusd, row.estimated) == ("settle", COST_NUSD, False)
    if usage is not None:
        assert usage == {**USAGE, "cost": Decimal(COST_NUSD) / 10**9}


@pytest.mark.parametrize(("wish", "fields"), WISHES)
def test_usage_that_never_comes_is_estimated_and_placed_as_asked(
    router: RouterServer, up: ScriptedUpstream, wish: str, fields: dict[str, Any]
) -> None:
    got = streamed(router, up, stream(TEXT, usage="never"), **fields)

    usage = check_usage_place(got, wish)
    row = wait_end(router, request_id(got))
    assert (row.kind, row.estimated, row.completion_tokens) == ("settle", True, 3)
    if usage is not None:
        assert usage["completion_tokens"] == 3
        assert usage["cost"] * 10**9 == row.amount_nusd


@pytest.mark.parametrize(
    "counts",
    [
        MISSING,
        None,
        {},
        [],
        "many",
        {"prompt_tokens": -5, "completion_tokens": 1},
        {"prompt_tokens": 10**30, "completion_tokens": 1},
    ],
)
@pytest.mark.parametrize("place", ["last_chunk", "finish_chunk", "every"])
def test_absurd_usage_is_estimated(
    router: RouterServer, up: ScriptedUpstream, counts: Any, place: Any
) -> None:
    got = streamed(router, up, stream(TEXT, usage=place, counts=counts))

    usage = check_usage_place(got, "finish_chunk")
    row = wait_end(router, request_id(got))
    assert usage is not None
    assert (usage["completion_tokens"], row.completion_tokens, row.estimated) == (3, 3, True)
    assert usage["cost"] * 10**9 == row.amount_nusd


def test_a_stream_has_the_routers_headers_before_its_first_byte(
    router: RouterServer, up: ScriptedUpstream
) -> None:
    got = streamed(router, up, stream(TEXT), stream_options={"include_usage": True})

    expected = {"x-request-id", "server-timing", "x-llm-router-attempts", "x-llm-router-catalog"}
    expected |= {f"x-llm-router-{name}" for name in ("logical-model", "provider", "reason", "resolved-model")}
    assert expected <= set(got.headers)
    assert "x-llm-router-cost-usd" not in got.headers
    assert got.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize(
    "behaviour",
    [
        stream(TEXT, crlf=True),
        stream(TEXT, bom=True),
        stream(TEXT, bom=True, crlf=True, split=1),
        stream(TEXT, comments="keep-alive"),
        stream(TEXT, comments="keep-alive", crlf=True, split=1),
        stream(TEXT, multi_line=True),
        stream(TEXT, multi_line=True, crlf=True, split=3),
        stream(TEXT, framing="close"),
        stream(TEXT, framing="length"),
        stream(TEXT, done=False),
        stream(TEXT, done=False, framing="close"),
        stream(TEXT, done=2),
        stream(TEXT, done=3, split=7),
        stream(TEXT, role=False),
        stream(TEXT, headers=()),
        stream(TEXT, headers=[("content-type", "text/plain")]),
    ],
)
def test_every_correct_form_of_a_stream_is_understood(
    router: RouterServer, up: ScriptedUpstream, behaviour: Behaviour
) -> None:
    got = streamed(router, up, behaviour)

    assert text_of(got) == TEXT
    assert finish_reasons(got) == ["stop"]
    check_usage_place(got, "finish_chunk")


@pytest.mark.parametrize("split", range(1, 40, 3))
def test_events_cut_at_any_byte_are_joined(router: RouterServer, up: ScriptedUpstream, split: int) -> None:
    text = "Grüße 😀\u2028 日本語"

    got = streamed(router, up, stream(text, split=split, multi_line=True, crlf=True))

    assert text_of(got) == text


def test_a_line_of_a_megabyte_passes(router: RouterServer, up: ScriptedUpstream) -> None:
    got = streamed(router, up, stream(["x" * 2**20]))

    assert len(text_of(got)) == 2**20


def test_what_the_upstream_wrote_passes_byte_for_byte(router: RouterServer, up: ScriptedUpstream) -> None:
    delta = b'{"content":"h\\u00e9 \xf0\x9f\x98\x80", "x": null}'
    content = b'data: {"x": [1, 2 ], "choices":[{"index":0,"delta": ' + delta + b',"x":1}]}\n\n'
    finish = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'

    got = streamed(router, up, stream([b": hello\n\n", content, finish], role=False, finish=False))

    assert content in got.body


@pytest.mark.parametrize("reason", ["stop", "length", "tool_calls", "content_filter", "something_new"])
def test_a_finish_reason_is_relayed(router: RouterServer, up: ScriptedUpstream, reason: str) -> None:
    assert finish_reasons(streamed(router, up, stream(TEXT, finish=reason))) == [reason]


def test_tool_call_deltas_are_relayed_and_billed(router: RouterServer, up: ScriptedUpstream) -> None:
    call = {"index": 0, "id": "c", "type": "function", "function": {"name": "look", "arguments": ""}}
    parts: list[Any] = [
        {"tool_calls": [call]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"a":'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": "1}"}}]},
    ]

    got = streamed(router, up, stream(parts, finish="tool_calls", usage="never"))

    deltas = [c["delta"] for chunk in chunks_of(got) for c in chunk["choices"] if "tool_calls" in c["delta"]]
    assert deltas == parts
    assert (wait_end(router, request_id(got)).completion_tokens or 0) >= 3


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_thoughts_come_before_the_text_and_count(
    router: RouterServer, up: ScriptedUpstream, name: str
) -> None:
    got = streamed(router, up, stream([{name: "hm "}, {name: "so"}, "yes"], usage="never"))

    deltas = [choice["delta"] for chunk in chunks_of(got) for choice in chunk["choices"]]
    assert [delta[name] for delta in deltas if name in delta] == ["hm ", "so"]
    assert text_of(got) == "yes"
    assert wait_end(router, request_id(got)).completion_tokens == 3


def test_two_choices_each_keep_their_text_and_their_end(router: RouterServer, up: ScriptedUpstream) -> None:
    def piece(index: int, text: str, reason: str | None = None) -> dict[str, Any]:
        return {"choices": [{"index": index, "delta": {"content": text}, "finish_reason": reason}]}

    parts: list[Any] = [
        piece(0, "a"),
        piece(1, "x"),
        piece(0, "b", "stop"),
        piece(1, "y"),
        piece(1, "", "length"),
    ]

    got = streamed(router, up, stream(parts, role=False, finish=False, usage="never"), n=2)

    assert (text_of(got, 0), text_of(got, 1)) == ("ab", "xy")
    assert sorted(finish_reasons(got)) == ["length", "stop"]
    check_usage_place(got, "finish_chunk")


@pytest.mark.parametrize("fields", [{}, {"stream_options": {"include_usage": True}}])
def test_the_first_text_leaves_before_the_upstream_ends(
    router: RouterServer, up: ScriptedUpstream, fields: dict[str, Any]
) -> None:
    gate = Gate()
    up.on(MODEL, stream(TEXT, gate=gate, gate_after=2))

    client = Client(router, question(model=MODEL, stream=True, **fields))
    assert client.head().status == 200
    client.read_until(b"one")
    assert up.requests[-1].outcome == "running"
    gate.open()

    assert client.read_rest().endswith(b"data: [DONE]\n\n")


def breaks(parts: Any = TEXT, **how: Any) -> dict[str, Any]:
    return {"parts": parts, "usage": "never", **how}


@pytest.mark.parametrize(
    ("how", "delivered"),
    [
        (breaks(cut_after=2), "one"),
        (breaks(cut_after=4), TEXT),
        (breaks(cut_after=3, framing="close"), "one two"),
        (breaks(cut_after=3, framing="length"), "one two"),
        (breaks(cut_after=3, reset=True), "one two"),
        (breaks(finish=False), TEXT),
        (breaks(finish=False, done=False), TEXT),
        (breaks(finish=False, done=False, framing="close"), TEXT),
        (breaks(["one", {"error": {"message": "scripted", "code": 500}}], finish=False), "one"),
        (breaks(["one", {"error": "scripted"}]), "one"),
        (breaks(["one", b"data: {broken\n\n"]), "one"),
        (breaks(["one", b"data: <html>\n\n"]), "one"),
        (breaks(["one", b'data: {"choices":[{"delta":"\xff"}]}\n\n']), "one"),
        (breaks(["one", b"event: error\ndata: " + b"[" * 100_000 + b"\n\n"]), "one"),
    ],
)
@pytest.mark.parametrize(("wish", "fields"), WISHES[2:])
def test_a_stream_that_breaks_ends_with_one_error_chunk_and_bills_what_was_delivered(
    router: RouterServer,
    up: ScriptedUpstream,
    how: dict[str, Any],
    delivered: str,
    wish: str,
    fields: dict[str, Any],
) -> None:
    gate = Gate()  # what breaks with its first text in one read has delivered nothing yet
    up.on(MODEL, stream(**how, gate=gate, gate_after=2))

    client = Client(router, question(model=MODEL, stream=True, **fields))
    head = client.head()
    client.read_until(b"one")
    gate.open()
    got = Answer(head.status, head.headers, client.read_rest())

    *before, last = chunks_of(got)
    assert got.body.count(b"[DONE]") == 1
    assert text_of(got) == delivered
    assert not any("error" in chunk for chunk in before)
    assert finish_reasons(got) == ["error"]
    assert (last["error"]["code"], last["error"]["name"]) == (502, "upstream_error")
    assert set(last["error"]) == {"code", "message", "type", "param", "name"}
    assert ("usage" in last) == (wish != "none")
    assert "scripted" not in last["error"]["message"]
    row = wait_end(router, request_id(got))
    assert (row.kind, row.estimated, row.completion_tokens) == ("settle", True, len(delivered.split()))


def test_a_stream_that_goes_silent_ends_with_a_504_chunk(
    router: RouterServer, up: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("silent")
    provider = "timeout_s = { connect = 1, first_byte = 1, idle = 0.2 }"
    catalog = write_catalog(
        folder / "catalog", {"scripted": up.base_url}, [Offered(MODEL)], provider=provider
    )
    with RouterServer(catalog, folder / "data") as impatient:
        got = streamed(impatient, up, stream(TEXT, delay_s=0.05, hang_after=3))

    assert (text_of(got), finish_reasons(got)) == ("one two", ["error"])
    assert chunks_of(got)[-1]["error"]["code"] == 504


@pytest.mark.parametrize(
    ("behaviour", "why"),
    [
        (stream(TEXT, cut_after=0), "cut before the role"),
        (stream(TEXT, cut_after=1), "cut after the role"),
        (stream(TEXT, cut_after=1, reset=True), "reset after the role"),
        (stream("", finish=False), "only the role, then [DONE]"),
        (stream([], role=False, finish=False), "only [DONE]"),
        (stream([], role=False, finish=False, done=False), "an empty stream"),
        (error_event_after(0), "an error before the text"),
        (html(), "HTML"),
        (empty(), "an empty body"),
        (error_in_200(), "an error object"),
        (status(200, {"choices": []}), "JSON without choices"),
        (status(200, b"[" * 100_000), "deep JSON"),
        (raw(SSE_HEAD + b"data: <html><body>down</body></html>\n\n"), "HTML as an event"),
        (raw(SSE_HEAD + b"<html><body>down</body></html>"), "HTML without an event"),
    ],
)
def test_a_fault_before_the_first_text_is_an_error_with_its_status_and_is_not_billed(
    router: RouterServer, up: ScriptedUpstream, behaviour: Behaviour, why: str
) -> None:
    up.on(MODEL, behaviour)

    got = ask(router)

    assert (got.status, got.error["name"]) == (502, "upstream_error"), why
    assert got.headers["content-type"] == "application/json"
    assert "<" not in got.error["message"]
    assert wait_end(router, request_id(got)).kind == "release"


@pytest.mark.parametrize(("wish", "fields"), WISHES)
def test_json_where_a_stream_was_asked_becomes_a_stream(
    router: RouterServer, up: ScriptedUpstream, wish: str, fields: dict[str, Any]
) -> None:
    got = streamed(router, up, answer(TEXT, usage=USAGE), **fields)

    assert text_of(got) == TEXT
    assert finish_reasons(got) == ["stop"]
    assert {chunk["object"] for chunk in chunks_of(got)} == {"chat.completion.chunk"}
    check_usage_place(got, wish)
    assert wait_end(router, request_id(got)).amount_nusd == COST_NUSD


def test_json_tool_calls_where_a_stream_was_asked_keep_their_index(
    router: RouterServer, up: ScriptedUpstream
) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}}

    got = streamed(router, up, answer(tool_calls=[call], finish="tool_calls"))

    assert chunks_of(got)[0]["choices"][0]["delta"]["tool_calls"] == [{"index": 0, **call}]
    assert finish_reasons(got) == ["tool_calls"]


def test_an_answer_of_no_text_with_a_finish_is_an_answer(router: RouterServer, up: ScriptedUpstream) -> None:
    got = streamed(router, up, stream([], counts={"prompt_tokens": 10, "completion_tokens": 0}))

    assert finish_reasons(got) == ["stop"]
    assert chunks_of(got)[-1]["usage"]["cost"] == 0
    assert wait_end(router, request_id(got)).kind == "release"


def test_every_hold_of_this_module_has_one_end(router: RouterServer) -> None:
    assert len(wait_all_ended(router)) > 100
