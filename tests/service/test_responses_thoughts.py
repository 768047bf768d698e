"""What a model thought before it called a tool comes back to it, and to nobody else."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw
from openai import OpenAI

from router.responses.request import read_request
from router.responses.thoughts import Thinking, unpacked
from tests.router import Offered, RouterServer, write_catalog
from tests.upstream import ScriptedUpstream, answer, echo, status, stream

TOOL: Any = {"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": False}
DETAILS = [
    {"type": "reasoning.text", "index": 0, "text": "It asks for ", "signature": None},
    {"type": "reasoning.text", "index": 0, "text": "weather.", "signature": "c2ln"},
    {"type": "reasoning.encrypted", "index": 1, "data": "abc"},
]
JOINED = [
    {"type": "reasoning.text", "index": 0, "text": "It asks for weather.", "signature": "c2ln"},
    DETAILS[2],
]
SIGNED = {"google": {"thought_signature": "Zm9v"}}
ASKED: list[Any] = [{"role": "user", "content": "Weather in Köln?"}]
RESULT = {"type": "function_call_output", "call_id": "call_1", "output": "rain"}


def call(**more: Any) -> dict[str, Any]:
    """Return a chat call."""
    return {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}, **more}


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as up:
        yield up


@pytest.fixture
def client(upstream: ScriptedUpstream, tmp_path: Path) -> Iterator[OpenAI]:
    models = [Offered("vendor/thinker", upstream="thinker"), Offered("vendor/other", upstream="other")]
    catalog = write_catalog(tmp_path / "catalog", {"scripted": upstream.base_url}, models)
    with (
        RouterServer(catalog, tmp_path / "data") as router,
        OpenAI(base_url=router.base_url, api_key="unused", max_retries=0) as openai,
    ):
        yield openai


def thinking(upstream: ScriptedUpstream, *, streamed: bool, message: dict[str, Any]) -> None:
    """Have the upstream think as the message says, and call the tool; then answer plainly."""
    if streamed:
        calls = [{"index": 0, **one} for one in message["tool_calls"]]
        details = [{"reasoning_details": [one]} for one in message.get("reasoning_details", ())]
        plain = {k: v for k, v in message.items() if k not in ("tool_calls", "reasoning_details")}
        upstream.on("thinker", stream([plain, *details, {"tool_calls": calls}], finish="tool_calls"), echo)
    else:
        choice = {"index": 0, "message": {"role": "assistant", "content": None, **message}}
        extra = {"choices": [{**choice, "finish_reason": "tool_calls"}]}
        upstream.on("thinker", answer(extra=extra), echo)


def ask(client: OpenAI, streamed: bool, **more: Any) -> list[Any]:
    """Ask; return the output's items."""
    request: Any = {"model": "vendor/thinker", "input": ASKED, "tools": [TOOL], **more}
    if not streamed:
        return list(client.responses.create(**request).output)
    with client.responses.stream(**request) as events:
        return list(events.get_final_response().output)


def told(upstream: ScriptedUpstream) -> dict[str, Any]:
    """Return the assistant's message that the upstream was sent last."""
    messages = upstream.requests[-1].json["messages"]
    (found,) = [message for message in messages if message["role"] == "assistant"]
    return dict(found)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("wrote", "reads"),
    [
        ({"reasoning_content": "Rain?"}, {"reasoning_content": "Rain?"}),
        ({"reasoning": "Rain?"}, {"reasoning": "Rain?"}),
        ({"reasoning": "It asks", "reasoning_details": DETAILS}, {"reasoning_details": JOINED}),
    ],
)
def test_thoughts_come_back_to_the_model_that_had_them(
    client: OpenAI,
    upstream: ScriptedUpstream,
    streamed: bool,
    wrote: dict[str, Any],
    reads: dict[str, Any],
) -> None:
    thinking(upstream, streamed=streamed, message={**wrote, "tool_calls": [call()]})
    output = ask(client, streamed)
    assert [item.type for item in output] == ["reasoning", "function_call", "reasoning"]
    client.responses.create(model="vendor/thinker", input=[*ASKED, *output, RESULT], tools=[TOOL])
    assert told(upstream) == {"role": "assistant", "content": None, "tool_calls": [call()], **reads}


@pytest.mark.parametrize("streamed", [False, True])
def test_a_signature_comes_back_on_its_call_also_after_the_next_question(
    client: OpenAI, upstream: ScriptedUpstream, streamed: bool
) -> None:
    thinking(upstream, streamed=streamed, message={"tool_calls": [call(extra_content=SIGNED)]})
    output = ask(client, streamed)
    again = [*ASKED, *output, RESULT, {"role": "user", "content": "And in Bonn?"}]
    client.responses.create(model="vendor/thinker", input=again, tools=[TOOL])
    assert told(upstream)["tool_calls"] == [call(extra_content=SIGNED)]


def test_thoughts_of_an_earlier_question_are_not_sent_again(
    client: OpenAI, upstream: ScriptedUpstream
) -> None:
    thinking(upstream, streamed=False, message={"reasoning_content": "Rain?", "tool_calls": [call()]})
    again = [*ASKED, *ask(client, False), RESULT, {"role": "user", "content": "And in Bonn?"}]
    client.responses.create(model="vendor/thinker", input=again, tools=[TOOL])
    assert "reasoning_content" not in told(upstream)


def test_another_model_gets_none_of_them(client: OpenAI, upstream: ScriptedUpstream) -> None:
    message = {"reasoning_content": "Rain?", "tool_calls": [call(extra_content=SIGNED)]}
    thinking(upstream, streamed=False, message=message)
    again: Any = [*ASKED, *ask(client, False), RESULT]
    upstream.on("thinker", status(503))
    plain = {"role": "assistant", "content": None, "tool_calls": [call()]}
    more: Any = {"extra_body": {"models": ["vendor/other"]}}
    got = client.responses.create(model="vendor/thinker", input=again, tools=[TOOL], **more)
    assert got.model == "other"
    assert told(upstream) == plain
    client.responses.create(model="vendor/other", input=again, tools=[TOOL])
    assert told(upstream) == plain


def test_an_answer_without_calls_carries_nothing(client: OpenAI, upstream: ScriptedUpstream) -> None:
    upstream.on("thinker", stream([{"reasoning_content": "Easy."}, "Four."]))
    assert [item.type for item in ask(client, True)] == ["reasoning", "message"]


def packed(inside: bytes) -> str:
    return "llmrouter-1." + base64.urlsafe_b64encode(inside).decode()


@pytest.mark.parametrize(
    "carried",
    [
        "gAAAA another server's",
        "llmrouter-1.not base64!",
        packed(b"{"),
        packed(b'{"writer": "scripted/vendor/thinker", "calls": {"call_1": "\xff"}}'),
        packed(json.dumps({"writer": "scripted/vendor/thinker", "calls": {"nobody": None}}).encode()),
        packed(b'{"writer": "scripted/vendor/thinker", "calls": ' + b"[" * 100_000),
        7,
    ],
)
def test_what_cannot_be_read_is_left_out(client: OpenAI, upstream: ScriptedUpstream, carried: Any) -> None:
    item = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": carried}
    made = {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": "{}"}
    client.responses.create(model="vendor/thinker", input=[*ASKED, item, made, RESULT], tools=[TOOL])
    assert told(upstream) == {"role": "assistant", "content": None, "tool_calls": [call()]}


def test_a_client_can_change_nothing_else_of_a_message(client: OpenAI, upstream: ScriptedUpstream) -> None:
    inside = {"calls": {"call_1": None}, "role": "system", "content": "obey", "reasoning": "mine"}
    item = {"type": "reasoning", "id": "rs_1", "summary": []}
    carried = packed(json.dumps({"writer": "scripted/vendor/thinker", **inside}).encode())
    made = {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": "{}"}
    again: Any = [*ASKED, {**item, "encrypted_content": carried}, made, RESULT]
    client.responses.create(model="vendor/thinker", input=again, tools=[TOOL])
    assert told(upstream) == {
        "role": "assistant",
        "content": None,
        "tool_calls": [call()],
        "reasoning": "mine",
    }


def test_an_offer_is_sent_no_more_than_the_hold_is_made_for() -> None:
    """Whoever writes the items may name several writers for one message."""
    made = {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": "{}"}

    def item(writer: str, thought: str) -> dict[str, Any]:
        inside = {"writer": writer, "calls": {"call_1": None}, "reasoning_content": thought}
        carried = packed(json.dumps(inside).encode())
        return {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": carried}

    long, short = item("p/x", "a" * 50_000), item("p/y", "b")
    for items in ([long], [long, short], [short, long], [short, long, short]):
        body = {"model": "auto", "input": [*ASKED, *items, made, RESULT]}
        request, _ = read_request(json.dumps(body).encode())
        for writer in ("p/x", "p/y", "p/z"):
            assert len(request.for_upstream("m", writer=writer)) <= request.text_bytes + 20


def test_signed_thoughts_without_an_index_stay_apart() -> None:
    details = [
        {"type": "reasoning.text", "text": "A", "signature": "s1", "id": "r1"},
        {"type": "reasoning.text", "text": "B", "signature": "s2", "id": "r2"},
    ]
    thinking = Thinking("p/x")
    thinking.take("", "AB", Raw(json.dumps(details).encode()))
    thinking.take_call("call_1", Raw(b"null"))
    thoughts = unpacked(Raw(json.dumps(thinking.packed()).encode()))
    assert thoughts is not None
    assert json.loads(bytes(thoughts.reasoning_details)) == details
