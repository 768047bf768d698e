import asyncio
import json
from decimal import Decimal
from typing import Any

import httpx2 as httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.catalog.snapshot import Policy
from router.upstream.answer import as_stream, read_body, read_completion
from router.upstream.faults import AttemptFault
from router.upstream.sse import EventReader
from router.upstream.usage import Meter
from tests.unit.parts import AT, Pieces, offer

METER = Meter(offer(), Policy(), AT, prompt_tokens=40, choices=1)
USAGE = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}


def completion(message: Any = None, finish: Any = "stop", **more: Any) -> bytes:
    said = {"role": "assistant", "content": "hello"} if message is None else message
    choices = [{"index": 0, "message": said, "finish_reason": finish}]
    usual = {"id": "c1", "object": "chat.completion", "model": "m", "choices": choices, "usage": USAGE}
    return json.dumps({**usual, **more}).encode()


def test_an_answer_passes_with_its_cost() -> None:
    body = completion(system_fingerprint="x", odd={"a": [1e5, None]})
    answer = read_completion(body, METER)
    assert json.loads(answer.body, parse_float=Decimal) == {
        **json.loads(body, parse_float=Decimal),
        "usage": {**USAGE, "cost": Decimal("0.00012")},
    }
    assert (answer.model, answer.bill.charge_nusd, answer.bill.estimated) == ("m", 120_000, False)


def test_raw_parts_keep_their_bytes() -> None:
    body = b'{"choices":[{"message":{"content":"a\\u00e9","x":1.50}}] ,"y":{"z" :[1e5]}}'
    assert read_completion(body, METER).body.startswith(
        b'{"choices":[{"message":{"content":"a\\u00e9","x":1.50}}],'
    )


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": -1, "completion_tokens": 10**30}, "much"])
def test_an_answer_without_believable_usage_gets_an_estimate(usage: Any) -> None:
    answer = read_completion(completion({"content": "x" * 400}, usage=usage), METER)
    assert answer.bill.estimated
    assert json.loads(answer.body)["usage"]["completion_tokens"] == 100


def test_thoughts_and_tool_calls_are_estimated_too() -> None:
    message = {
        "content": None,
        "reasoning_content": "x" * 40,
        "tool_calls": [{"id": "1", "function": {"name": "f"}}],
    }
    answer = read_completion(completion(message, usage=None), METER)
    assert answer.bill.tokens.completion > 10


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>busy</html>",
        b"null",
        b"[]",
        b"5",
        b'"x"',
        b"{}",
        b'{"choices":[]}',
        b'{"choices":null}',
        b'{"choices":{}}',
        b'{"choices":[{}]}',
        b'{"choices":[{"message":null}]}',
        b'{"choices":[{"message":"x"}]}',
        completion()[:-10],
        completion(finish=5),
        completion().replace(b"hello", b"\xff"),
        completion().replace(b"hello", b"\\ud800"),
        completion().replace(b"hello", b"\\q"),
        completion().replace(b'"id"', b'"\\ud800"'),
        completion(x="?").replace(b'"?"', b"[" * 50_000 + b"]" * 50_000),
        completion(x="?").replace(b'"?"', b"NaN"),
    ],
)
def test_what_is_no_answer_is_a_fault(body: bytes) -> None:
    for read in (lambda: read_completion(body, METER), lambda: as_stream(body)):
        with pytest.raises(AttemptFault) as caught:
            read()
        assert caught.value.kind == "bad_answer"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"message": "boom"}, "server_error"),
        ("boom", "server_error"),
        ({"message": "slow down", "code": 429}, "rate_limited"),
        ({"message": "no", "code": 401}, "auth"),
        ({"message": "no", "code": 200}, "server_error"),
        ({"message": ["x"], "code": {}}, "server_error"),
    ],
)
def test_an_error_inside_a_200_is_a_fault_even_beside_choices(error: Any, kind: str) -> None:
    with pytest.raises(AttemptFault) as caught:
        read_completion(completion(error=error), METER)
    assert caught.value.kind == kind


@pytest.mark.parametrize("error", [None, {}, "", []])
def test_an_empty_error_is_none(error: Any) -> None:
    assert read_completion(completion(error=error), METER).bill.charge_nusd == 120_000


def chunks(body: bytes) -> list[Any]:
    found = [event.data for event in EventReader().feed(as_stream(body)) if event.data is not None]
    assert found.pop() == b"[DONE]"
    return [json.loads(data) for data in found]


def test_an_answer_becomes_a_stream_that_says_the_same() -> None:
    calls: list[dict[str, Any]] = [{"id": "a", "function": {"name": "f", "arguments": "{}"}}, {"id": "b"}]
    events = chunks(
        completion({"role": "assistant", "content": "hello", "tool_calls": calls}, finish="tool_calls")
    )
    assert {event["object"] for event in events} == {"chat.completion.chunk"}
    assert {event["id"] for event in events} == {"c1"}
    delta = events[0]["choices"][0]["delta"]
    assert (delta["content"], delta["role"]) == ("hello", "assistant")
    assert delta["tool_calls"] == [{"index": 0, **calls[0]}, {"index": 1, **calls[1]}]
    assert [e["choices"][0]["finish_reason"] for e in events[:2]] == [None, "tool_calls"]
    assert (events[2]["choices"], events[2]["usage"]) == ([], USAGE)


def test_every_choice_gets_its_finish_chunk_and_one_without_reason_stops() -> None:
    choices = [{"message": {"content": text}} for text in "ab"]
    events = chunks(completion(choices=choices, usage=None))
    said = [(c["index"], c["delta"].get("content"), c["finish_reason"]) for e in events for c in e["choices"]]
    assert said == [(0, "a", None), (0, None, "stop"), (1, "b", None), (1, None, "stop")]


@pytest.mark.parametrize("calls", ["x", [1], {"id": "a"}])
def test_tool_calls_that_are_no_calls_are_a_fault(calls: Any) -> None:
    with pytest.raises(AttemptFault, match="tool calls"):
        as_stream(completion({"content": None, "tool_calls": calls}))


def test_a_body_is_read_to_its_end() -> None:
    assert asyncio.run(read_body(Pieces([b"a", b"b", b"c"]))) == b"abc"
    assert asyncio.run(read_body(Pieces([b"a" * 10]), limit_bytes=10)) == b"a" * 10


def test_a_body_over_its_limit_is_a_fault_before_it_is_read_whole() -> None:
    pieces = Pieces([b"a" * 10, b"b", b"c"])
    with pytest.raises(AttemptFault, match="too large"):
        asyncio.run(read_body(pieces, limit_bytes=10))
    assert asyncio.run(pieces.read()) == b"c"


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (httpx.ReadTimeout("x"), "timeout"),
        (httpx.ReadError("x"), "cut"),
        (httpx.RemoteProtocolError("x"), "cut"),
    ],
)
def test_a_body_that_breaks_is_a_fault(fault: Exception, kind: str) -> None:
    with pytest.raises(AttemptFault) as caught:
        asyncio.run(read_body(Pieces([completion()], fault)))
    assert caught.value.kind == kind


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
messages = st.fixed_dictionaries(
    {}, optional={"content": values, "tool_calls": values, "reasoning_content": values}
)
bodies = st.fixed_dictionaries(
    {"choices": st.lists(st.fixed_dictionaries({"message": messages | values}), max_size=2) | values},
    optional={"error": values, "usage": values, "model": values},
)


@given(bodies, st.booleans())
def test_any_body_is_an_answer_or_a_fault(body: Any, streamed: bool) -> None:
    data = json.dumps(body).encode()
    result = outcome(data, streamed)
    if isinstance(result, AttemptFault):
        assert result.detail
    else:
        assert result.endswith(b"data: [DONE]\n\n") if streamed else "usage" in json.loads(result)


def outcome(data: bytes, streamed: bool) -> bytes | AttemptFault:
    try:
        return as_stream(data) if streamed else read_completion(data, METER).body
    except AttemptFault as fault:
        return fault
