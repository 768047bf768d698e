"""`client.responses` of the real OpenAI Python SDK against a running router and a scripted upstream."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.responses import Response
from pydantic import BaseModel

from tests.router import Offered, RouterServer, write_catalog
from tests.upstream import Gate, ScriptedUpstream, answer, echo, error_event_after, status, stream

PNG = base64.b64encode(
    bytes.fromhex(
        "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
        "1f15c4890000000d49444154789c6360000002000001e221bc330000000049454e44ae426082"
    )
).decode()
USAGE = {
    "prompt_tokens": 11,
    "completion_tokens": 7,
    "total_tokens": 18,
    "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 3},
}
COST_USD = (11 * 1 + 7 * 2) / 1e6
WEATHER: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "Weather of a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "strict": False,
}
CLOCK: Any = {"type": "function", "name": "get_time", "parameters": {"type": "object"}, "strict": False}
PATCH: Any = {
    "type": "custom",
    "name": "apply_patch",
    "description": "Edit files.",
    "format": {"type": "grammar", "syntax": "lark", "definition": 'start: "*** Begin Patch"'},
}


class City(BaseModel):
    """The structured answer of the tests."""

    name: str
    people: int


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RouterServer, ScriptedUpstream]]:
    folder = tmp_path_factory.mktemp("responses")
    models = [Offered("vendor/model", upstream="answering")]
    models += [Offered("vendor/second", upstream="second", quality=None)]
    with ScriptedUpstream() as up:
        catalog = write_catalog(folder / "catalog", {"scripted": up.base_url}, models)
        with RouterServer(catalog, folder / "data") as router:
            yield router, up


@pytest.fixture
def router(server: tuple[RouterServer, ScriptedUpstream]) -> RouterServer:
    return server[0]


@pytest.fixture
def upstream(server: tuple[RouterServer, ScriptedUpstream]) -> ScriptedUpstream:
    return server[1].on("answering", echo).on("second", echo)


@pytest.fixture
def client(router: RouterServer) -> Iterator[OpenAI]:
    with OpenAI(base_url=router.base_url, api_key="unused", max_retries=0, timeout=20) as sdk:
        yield sdk


def sent(upstream: ScriptedUpstream) -> dict[str, Any]:
    body: dict[str, Any] = upstream.requests[-1].json
    return body


def calling(name: str, *pieces: str) -> list[dict[str, Any]]:
    """Return the deltas of a call whose arguments come in pieces."""
    head = {"index": 0, "id": "call_1", "type": "function", "function": {"name": name, "arguments": ""}}
    rest = [{"index": 0, "function": {"arguments": piece}} for piece in pieces]
    return [{"tool_calls": [call]} for call in (head, *rest)]


def test_a_text_is_answered_with_usage_and_cost(client: OpenAI, upstream: ScriptedUpstream) -> None:
    upstream.on("answering", answer("bonjour", usage=USAGE))
    got = client.responses.create(model="auto", input="Say hello", instructions="Speak French.")
    assert (got.output_text, got.status, got.model, got.error) == ("bonjour", "completed", "answering", None)
    assert got.instructions == "Speak French."
    assert got.usage is not None
    assert got.usage.model_dump(exclude_none=True) == {
        "input_tokens": 11,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
        "output_tokens": 7,
        "output_tokens_details": {"reasoning_tokens": 3},
        "total_tokens": 18,
        "cost": COST_USD,
    }
    assert sent(upstream)["messages"] == [
        {"role": "system", "content": "Speak French."},
        {"role": "user", "content": "Say hello"},
    ]


def test_a_stream_has_the_events_of_openai_in_order(client: OpenAI, upstream: ScriptedUpstream) -> None:
    upstream.on("answering", stream("one two three", counts=USAGE))
    events = list(client.responses.create(model="auto", input="Count", stream=True))
    assert [event.type for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * 3,
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    last = events[-1]
    assert last.type == "response.completed"
    assert last.response.output_text == "one two three"
    assert last.response.usage is not None
    assert last.response.usage.total_tokens == 18


def test_the_stream_helper_accumulates_the_whole_response(client: OpenAI, upstream: ScriptedUpstream) -> None:
    upstream.on("answering", stream("one two three", counts=USAGE))
    with client.responses.stream(model="auto", input="Count") as events:
        deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
        whole = events.get_final_response()
    assert "".join(deltas) == whole.output_text == "one two three"


def test_text_arrives_before_the_upstream_has_ended(client: OpenAI, upstream: ScriptedUpstream) -> None:
    gate = Gate()
    upstream.on("answering", stream("first second", gate=gate, gate_after=2))
    text = ""
    with closing(client.responses.create(model="auto", input="Count", stream=True)) as events:
        for event in events:
            text += event.delta if event.type == "response.output_text.delta" else ""
            if text == "first":
                assert upstream.requests[-1].outcome == "running"
                gate.open()
    assert text == "first second"


@pytest.mark.parametrize("streamed", [False, True])
def test_a_tool_is_called_and_its_result_sent_back(
    client: OpenAI, upstream: ScriptedUpstream, streamed: bool
) -> None:
    said: Any = [{"role": "user", "content": "use get_weather and get_time"}]
    first = ask(client, streamed, input=said, tools=[WEATHER, CLOCK])
    calls = [item for item in first.output if item.type == "function_call"]
    assert [call.name for call in calls] == ["get_weather", "get_time"]
    assert sent(upstream)["tools"][0] == {
        "type": "function",
        "function": {key: WEATHER[key] for key in ("name", "description", "parameters")},
    }
    said += first.output
    said += [{"type": "function_call_output", "call_id": call.call_id, "output": "fine"} for call in calls]
    second = ask(client, streamed, input=said, tools=[WEATHER, CLOCK])
    assert second.status == "completed"
    turns = sent(upstream)["messages"]
    assert [turn["role"] for turn in turns] == ["user", "assistant", "tool", "tool"]
    assert [turn.get("tool_call_id") for turn in turns[2:]] == [call.call_id for call in calls]
    assert [call["function"]["name"] for call in turns[1]["tool_calls"]] == ["get_weather", "get_time"]


def ask(client: OpenAI, streamed: bool, **fields: Any) -> Response:
    """Ask whole or by a stream."""
    if not streamed:
        return client.responses.create(model="auto", **fields)
    with client.responses.stream(model="auto", **fields) as events:
        return events.get_final_response()


def test_arguments_stream_in_pieces(client: OpenAI, upstream: ScriptedUpstream) -> None:
    parts = calling("get_weather", '{"ci', 'ty":"Köln"}')
    upstream.on("answering", stream(parts, finish="tool_calls"))
    with client.responses.stream(model="auto", input="weather?", tools=[WEATHER]) as events:
        deltas = [e.delta for e in events if e.type == "response.function_call_arguments.delta"]
        (call,) = events.get_final_response().output
    assert deltas == ['{"ci', 'ty":"Köln"}']
    assert call.type == "function_call"
    assert (call.name, call.call_id, json.loads(call.arguments)) == (
        "get_weather",
        "call_1",
        {"city": "Köln"},
    )


@pytest.mark.parametrize("streamed", [False, True])
def test_a_custom_tool_gets_its_input_and_sends_its_output(
    client: OpenAI, upstream: ScriptedUpstream, streamed: bool
) -> None:
    patch = '*** Begin Patch\n"quoted"\n*** End Patch'
    arguments = json.dumps({"input": patch})
    function = {"name": "apply_patch", "arguments": arguments}
    if streamed:
        parts = calling("apply_patch", arguments[:9], arguments[9:])
        upstream.on("answering", stream(parts, finish="tool_calls"), answer("Done."))
    else:
        calls = [{"id": "call_1", "type": "function", "function": function}]
        upstream.on("answering", answer("", finish="tool_calls", tool_calls=calls), answer("Done."))
    said: Any = [{"role": "user", "content": "patch it"}]
    if streamed:
        events = list(client.responses.create(model="auto", input=said, tools=[PATCH], stream=True))
        assert [e.input for e in events if e.type == "response.custom_tool_call_input.done"] == [patch]
        last = events[-1]
        assert last.type == "response.completed"
        first = last.response
    else:
        first = client.responses.create(model="auto", input=said, tools=[PATCH])
    call = first.output[-1]
    assert call.type == "custom_tool_call"
    assert (call.name, call.call_id, call.input) == ("apply_patch", "call_1", patch)
    described = sent(upstream)["tools"][0]["function"]
    assert "lark grammar" in described["description"]
    said += [call, {"type": "custom_tool_call_output", "call_id": "call_1", "output": "patched"}]
    assert client.responses.create(model="auto", input=said, tools=[PATCH]).output_text == "Done."
    assistant, tool = sent(upstream)["messages"][1:]
    again = assistant["tool_calls"][0]["function"]
    assert (again["name"], json.loads(again["arguments"])) == ("apply_patch", {"input": patch})
    assert tool == {"role": "tool", "tool_call_id": "call_1", "content": "patched"}


@pytest.mark.parametrize("url", [f"data:image/png;base64,{PNG}", "https://pictures.example/cat.png"])
def test_an_image_reaches_the_upstream(client: OpenAI, upstream: ScriptedUpstream, url: str) -> None:
    content: Any = [
        {"type": "input_text", "text": "What is this?"},
        {"type": "input_image", "image_url": url, "detail": "low"},
    ]
    raw = client.responses.with_raw_response.create(
        model="auto", input=[{"role": "user", "content": content}]
    )
    assert raw.headers["x-llm-router-category"] == "vision"
    assert raw.parse().output_text == "What is this?"
    assert sent(upstream)["messages"][0]["content"] == [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": url, "detail": "low"}},
    ]


def test_parse_returns_the_pydantic_model(client: OpenAI, upstream: ScriptedUpstream) -> None:
    upstream.on("answering", answer('{"name": "Köln", "people": 1087353}'))
    got = client.responses.parse(model="auto", input="A city?", text_format=City)
    assert got.output_parsed == City(name="Köln", people=1_087_353)
    form = sent(upstream)["response_format"]
    assert (form["type"], form["json_schema"]["name"], form["json_schema"]["strict"]) == (
        "json_schema",
        "City",
        True,
    )


def test_json_mode(client: OpenAI, upstream: ScriptedUpstream) -> None:
    got = client.responses.create(model="auto", input="hi", text={"format": {"type": "json_object"}})
    assert json.loads(got.output_text) == {"echo": "hi"}


def test_shown_thoughts_are_a_reasoning_item(client: OpenAI, upstream: ScriptedUpstream) -> None:
    thoughts = [{"reasoning_content": "Let me "}, {"reasoning_content": "see."}]
    upstream.on("answering", stream([*thoughts, "Four."]), echo)
    with client.responses.stream(model="auto", input="2+2?", reasoning={"effort": "high"}) as events:
        kinds = [event.type for event in events]
        whole = events.get_final_response()
    reasoning, message = whole.output
    assert reasoning.type == "reasoning"
    assert [part.text for part in reasoning.summary] == ["Let me see."]
    assert message.type == "message"
    assert whole.output_text == "Four."
    assert kinds.index("response.reasoning_summary_text.done") < kinds.index("response.output_text.delta")
    assert sent(upstream)["reasoning_effort"] == "high"
    again: Any = [{"role": "user", "content": "2+2?"}, *whole.output, {"role": "user", "content": "sure?"}]
    client.responses.create(model="auto", input=again)
    assert [turn["content"] for turn in sent(upstream)["messages"]] == ["2+2?", "Four.", "sure?"]


@pytest.mark.parametrize(
    ("finish", "reason"), [("length", "max_output_tokens"), ("content_filter", "content_filter")]
)
@pytest.mark.parametrize("streamed", [False, True])
def test_an_answer_that_was_cut_short_is_incomplete(
    client: OpenAI, upstream: ScriptedUpstream, finish: str, reason: str, streamed: bool
) -> None:
    upstream.on("answering", stream("one two", finish=finish) if streamed else answer("one", finish=finish))
    if streamed:
        last = list(client.responses.create(model="auto", input="Count", stream=True))[-1]
        assert last.type == "response.incomplete"
        got = last.response
    else:
        got = client.responses.create(model="auto", input="Count", max_output_tokens=20)
        assert sent(upstream)["max_tokens"] == 20
    assert got.status == "incomplete"
    assert got.incomplete_details is not None
    assert got.incomplete_details.reason == reason


def test_a_stream_that_breaks_ends_as_failed_with_what_came(
    client: OpenAI, upstream: ScriptedUpstream
) -> None:
    upstream.on("answering", error_event_after(2))
    last = list(client.responses.create(model="auto", input="Count", stream=True))[-1]
    assert last.type == "response.failed"
    assert last.response.status == "failed"
    assert last.response.error is not None
    assert last.response.error.code == "server_error"
    assert "the answer is incomplete" in last.response.error.message
    assert last.response.output_text == "word0 word1 "
    assert last.response.usage is not None
    assert last.response.usage.output_tokens == 2


def test_an_upstream_that_fails_before_the_first_word_is_left_for_the_next(
    client: OpenAI, upstream: ScriptedUpstream
) -> None:
    upstream.on("answering", status(500)).on("second", answer("from the second"))
    got = client.responses.create(model="vendor/model", input="hi", extra_body={"models": ["vendor/second"]})
    assert got.output_text == "from the second"


def test_refusals_have_the_sdks_own_classes(client: OpenAI, upstream: ScriptedUpstream) -> None:
    asked = len(upstream.requests)
    with pytest.raises(openai.NotFoundError, match="no/such"):
        client.responses.create(model="no/such", input="hi")
    with pytest.raises(openai.AuthenticationError, match="Incorrect API key provided"):
        client.with_options(api_key="sk-wrong").responses.create(model="auto", input="hi", stream=True)
    for fields, param in (
        ({"input": "hi", "previous_response_id": "resp_1"}, "previous_response_id"),
        ({"input": "hi", "conversation": "conv_1"}, "conversation"),
        ({"input": "hi", "background": True}, "background"),
        ({"input": "hi", "tool_choice": {"type": "web_search"}}, "tool_choice"),
        ({"input": "hi", "temperature": 3}, "temperature"),
        ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content[0].text"),
    ):
        with pytest.raises(openai.BadRequestError) as refused:
            client.responses.create(model="auto", **fields)  # type: ignore[arg-type]
        assert refused.value.param == param
    assert len(upstream.requests) == asked


def test_nothing_is_kept(client: OpenAI, upstream: ScriptedUpstream) -> None:
    got = client.responses.create(model="auto", input="hi", store=True)
    assert got.model_dump()["store"] is False
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(got.id)


def test_the_base_url_works_without_v1(router: RouterServer, upstream: ScriptedUpstream) -> None:
    with OpenAI(base_url=router.origin, api_key="unused", max_retries=0) as client:
        assert client.responses.create(model="auto", input="hi").output_text == "hi"


def test_the_async_client_answers_and_streams(router: RouterServer, upstream: ScriptedUpstream) -> None:
    async def use() -> None:
        async with AsyncOpenAI(base_url=router.base_url, api_key="unused", max_retries=0) as client:
            asked = (client.responses.create(model="auto", input=f"n{i}") for i in range(8))
            assert [one.output_text for one in await asyncio.gather(*asked)] == [f"n{i}" for i in range(8)]
            async with client.responses.stream(model="auto", input="a b c") as events:
                whole = await events.get_final_response()
            assert whole.output_text == "a b c"

    asyncio.run(use())
