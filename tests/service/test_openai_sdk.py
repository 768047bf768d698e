"""The real OpenAI Python SDK against a running router and a scripted upstream: what people have already."""

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
from openai.types.chat import ChatCompletionChunk
from pydantic import BaseModel

from tests.router import Offered, RouterServer, write_catalog
from tests.upstream import Gate, ScriptedUpstream, answer, echo, stream

PNG = base64.b64encode(
    bytes.fromhex(
        "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
        "1f15c4890000000d49444154789c6360000002000001e221bc330000000049454e44ae426082"
    )
).decode()
USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
COST_USD = (11 * 1 + 7 * 2) / 1e6
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CLOCK: Any = {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object"}}}


class City(BaseModel):
    """The structured answer of the tests."""

    name: str
    people: int


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RouterServer, ScriptedUpstream]]:
    folder = tmp_path_factory.mktemp("sdk")
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


def said(text: Any = "Say hello") -> Any:
    return [{"role": "user", "content": text}]


def joined(chunks: list[ChatCompletionChunk]) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def test_auto_answers_with_usage_and_cost(client: OpenAI, upstream: ScriptedUpstream) -> None:
    upstream.on("answering", answer("bonjour", usage=USAGE))
    got = client.chat.completions.create(model="auto", messages=said())
    assert got.choices[0].message.content == "bonjour"
    assert got.choices[0].finish_reason == "stop"
    assert got.model == "answering"
    assert got.usage is not None
    assert got.usage.model_dump(exclude_none=True) == {**USAGE, "cost": COST_USD}


@pytest.mark.parametrize("name", ["auto", "router/auto", "llmrouter/simple", "auto:cost", "vendor/model"])
def test_every_kind_of_model_name_is_served(client: OpenAI, upstream: ScriptedUpstream, name: str) -> None:
    client.chat.completions.create(model=name, messages=said())
    assert upstream.requests[-1].model == "answering"


def test_a_stream_without_options_has_a_choice_in_every_chunk(
    client: OpenAI, upstream: ScriptedUpstream
) -> None:
    upstream.on("answering", stream("one two three", counts=USAGE))
    chunks = list(client.chat.completions.create(model="auto", messages=said(), stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "one two three"
    assert [chunk.choices[0].finish_reason for chunk in chunks][-2:] == [None, "stop"]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.model_dump(exclude_none=True) == {**USAGE, "cost": COST_USD}
    assert {chunk.id for chunk in chunks} == {chunks[0].id}


@pytest.mark.parametrize("place", ["asked", "finish_chunk", "early", "every", "twice", "never"])
def test_usage_that_was_asked_for_is_the_last_chunk(
    client: OpenAI, upstream: ScriptedUpstream, place: Any
) -> None:
    upstream.on("answering", stream("one two three", usage=place, counts=USAGE))
    chunks = list(
        client.chat.completions.create(
            model="auto", messages=said(), stream=True, stream_options={"include_usage": True}
        )
    )
    *others, last = chunks
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens == (3 if place == "never" else 7)
    assert all(chunk.choices and chunk.usage is None for chunk in others)
    assert joined(chunks) == "one two three"


def test_usage_that_was_declined_is_not_sent(client: OpenAI, upstream: ScriptedUpstream) -> None:
    chunks = list(
        client.chat.completions.create(
            model="auto", messages=said(), stream=True, stream_options={"include_usage": False}
        )
    )
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)
    assert upstream.requests[-1].json["stream_options"] == {"include_usage": True}


def test_the_stream_helper_gives_events_and_the_whole_completion(
    client: OpenAI, upstream: ScriptedUpstream
) -> None:
    upstream.on("answering", stream("one two three", counts=USAGE))
    with client.chat.completions.stream(
        model="auto", messages=said(), stream_options={"include_usage": True}
    ) as events:
        deltas = [event.delta for event in events if event.type == "content.delta"]
        whole = events.get_final_completion()
    assert "".join(deltas) == "one two three"
    assert whole.choices[0].message.content == "one two three"
    assert whole.usage is not None
    assert whole.usage.total_tokens == 18


def test_a_tool_round_trip(client: OpenAI, upstream: ScriptedUpstream) -> None:
    messages = said("use get_weather and get_time")
    first = client.chat.completions.create(model="auto", messages=messages, tools=[WEATHER, CLOCK])
    assert first.choices[0].finish_reason == "tool_calls"
    message = first.choices[0].message
    assert message.content is None
    calls = message.tool_calls or []
    assert [call.function.name for call in calls if call.type == "function"] == ["get_weather", "get_time"]
    messages.append(message)
    messages += [{"role": "tool", "tool_call_id": call.id, "content": "fine"} for call in calls]
    second = client.chat.completions.create(model="auto", messages=messages, tools=[WEATHER, CLOCK])
    assert second.choices[0].finish_reason == "stop"
    sent = upstream.requests[-1].json["messages"]
    assert [turn["role"] for turn in sent] == ["user", "assistant", "tool", "tool"]
    assert [turn.get("tool_call_id") for turn in sent[2:]] == [call.id for call in calls]


def test_parallel_tool_calls_stream_by_index_in_pieces(client: OpenAI, upstream: ScriptedUpstream) -> None:
    def call(index: int, arguments: str, **head: Any) -> dict[str, Any]:
        return {"tool_calls": [{"index": index, **head, "function": {"arguments": arguments}}]}

    def opening(index: int, name: str) -> dict[str, Any]:
        function = {"name": name, "arguments": ""}
        return {
            "tool_calls": [{"index": index, "id": f"call_{index}", "type": "function", "function": function}]
        }

    parts = [opening(0, "get_weather"), call(0, '{"ci'), opening(1, "get_time"), call(1, "{}")]
    upstream.on("answering", stream([*parts, call(0, 'ty":"Köln"}')], finish="tool_calls"))
    with client.chat.completions.stream(model="auto", messages=said(), tools=[WEATHER, CLOCK]) as events:
        whole = events.get_final_completion()
    calls = whole.choices[0].message.tool_calls or []
    assert [(made.id, made.function.name) for made in calls] == [
        ("call_0", "get_weather"),
        ("call_1", "get_time"),
    ]
    assert json.loads(calls[0].function.arguments) == {"city": "Köln"}
    assert json.loads(calls[1].function.arguments) == {}
    assert whole.choices[0].finish_reason == "tool_calls"


@pytest.mark.parametrize("url", [f"data:image/png;base64,{PNG}", "https://pictures.example/cat.png"])
def test_images_reach_the_upstream_as_they_were_sent(
    client: OpenAI, upstream: ScriptedUpstream, url: str
) -> None:
    content = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": url, "detail": "low"}},
    ]
    raw = client.chat.completions.with_raw_response.create(model="auto", messages=said(content))
    assert raw.headers["x-llm-router-category"] == "vision"
    assert raw.parse().choices[0].message.content == "What is this?"
    assert upstream.requests[-1].json["messages"][0]["content"] == content


def test_json_mode(client: OpenAI, upstream: ScriptedUpstream) -> None:
    got = client.chat.completions.create(
        model="auto", messages=said("hi"), response_format={"type": "json_object"}
    )
    assert json.loads(got.choices[0].message.content or "") == {"echo": "hi"}


def test_a_json_schema_reaches_the_upstream(client: OpenAI, upstream: ScriptedUpstream) -> None:
    schema: Any = {"name": "city", "strict": True, "schema": City.model_json_schema()}
    got = client.chat.completions.create(
        model="auto", messages=said(), response_format={"type": "json_schema", "json_schema": schema}
    )
    assert json.loads(got.choices[0].message.content or "") == {"name": "text", "people": 1}
    assert upstream.requests[-1].json["response_format"]["json_schema"] == schema


def test_parse_returns_the_pydantic_model(client: OpenAI, upstream: ScriptedUpstream) -> None:
    upstream.on("answering", answer('{"name": "Köln", "people": 1087353}'))
    got = client.chat.completions.parse(model="auto", messages=said(), response_format=City)
    assert got.choices[0].message.parsed == City(name="Köln", people=1_087_353)


def test_the_developer_role_and_content_arrays_pass(client: OpenAI, upstream: ScriptedUpstream) -> None:
    messages: Any = [
        {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "assistant", "content": [{"type": "text", "text": "Yes."}]},
        {"role": "user", "content": "hi \u2028 e\u0301 👩‍🚀"},
    ]
    got = client.chat.completions.create(model="auto", messages=messages)
    assert got.choices[0].message.content == "hi \u2028 e\u0301 👩‍🚀"
    assert upstream.requests[-1].json["messages"] == messages


def test_two_choices(client: OpenAI, upstream: ScriptedUpstream) -> None:
    choices = [
        {"index": i, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        for i, text in enumerate(("heads", "tails"))
    ]
    upstream.on("answering", answer(extra={"choices": choices}))
    got = client.chat.completions.create(model="auto", messages=said(), n=2)
    assert [choice.message.content for choice in got.choices] == ["heads", "tails"]
    assert upstream.requests[-1].json["n"] == 2


def test_raw_response_headers_say_what_was_chosen(client: OpenAI, upstream: ScriptedUpstream) -> None:
    upstream.on("answering", answer("hi", usage=USAGE))
    raw = client.chat.completions.with_raw_response.create(
        model="auto", messages=said(), extra_headers={"x-request-id": "mine-1"}
    )
    headers = raw.headers
    assert headers["x-request-id"] == raw.request_id == "mine-1"
    assert headers["x-llm-router-logical-model"] == "auto"
    assert headers["x-llm-router-resolved-model"] == "vendor/model"
    assert headers["x-llm-router-provider"] == "scripted"
    assert headers["x-llm-router-attempts"] == "1"
    assert 0 < float(headers["x-llm-router-confidence"]) <= 1
    assert float(headers["x-llm-router-cost-usd"]) == COST_USD
    assert len(headers["x-llm-router-catalog"]) == 12


def test_extra_fields_pass_and_the_routers_own_stay_here(client: OpenAI, upstream: ScriptedUpstream) -> None:
    upstream.on("second", answer(extra={"system_note": "kept"}))
    got = client.chat.completions.create(
        model="auto",
        messages=said(),
        seed=7,
        extra_body={"router": {"mode": "quality"}, "models": ["vendor/second"], "top_k": 40},
    )
    sent = upstream.requests[-1].json
    assert (sent["top_k"], sent["seed"]) == (40, 7)
    assert not {"router", "models"} & sent.keys()
    named = client.chat.completions.create(model="vendor/second", messages=said())
    assert named.model_dump()["system_note"] == "kept"
    assert got.choices[0].message.content == "Say hello"


def test_the_base_url_works_without_v1(router: RouterServer, upstream: ScriptedUpstream) -> None:
    with OpenAI(base_url=router.origin, api_key="unused", max_retries=0) as client:
        assert client.chat.completions.create(model="auto", messages=said("hi")).choices
        assert client.models.retrieve("vendor/model").id == "vendor/model"


def test_models_can_be_listed_and_retrieved(client: OpenAI) -> None:
    listed = {model.id for model in client.models.list()}
    assert listed >= {"auto", "simple", "coding", "reasoning", "vision", "vendor/model", "vendor/second"}
    one = client.models.retrieve("vendor/model")
    assert one.owned_by == "vendor"
    assert one.model_dump()["context_length"] == 100_000
    with pytest.raises(openai.NotFoundError, match="vendor/model"):
        client.models.retrieve("vendor/modell")


def test_the_async_client_answers_streams_and_lists(router: RouterServer, upstream: ScriptedUpstream) -> None:
    async def use() -> None:
        async with AsyncOpenAI(base_url=router.base_url, api_key="unused", max_retries=0) as client:
            asked = (client.chat.completions.create(model="auto", messages=said(f"n{i}")) for i in range(8))
            got = await asyncio.gather(*asked)
            assert [one.choices[0].message.content for one in got] == [f"n{i}" for i in range(8)]
            chunks = await client.chat.completions.create(
                model="auto", messages=said("a b c"), stream=True, stream_options={"include_usage": True}
            )
            seen = [chunk async for chunk in chunks]
            assert joined(seen) == "a b c"
            assert seen[-1].usage is not None
            async with client.chat.completions.stream(model="auto", messages=said("a b c")) as events:
                whole = await events.get_final_completion()
            assert whole.choices[0].message.content == "a b c"
            assert "vendor/model" in {model.id async for model in client.models.list()}

    asyncio.run(use())


def test_text_arrives_before_the_upstream_has_ended(client: OpenAI, upstream: ScriptedUpstream) -> None:
    gate = Gate()
    upstream.on("answering", stream("first second", gate=gate, gate_after=2))
    with closing(client.chat.completions.create(model="auto", messages=said(), stream=True)) as chunks:
        seen = []
        for chunk in chunks:
            seen.append(chunk)
            if joined(seen) == "first":
                assert upstream.requests[-1].outcome == "running"
                gate.open()
    assert joined(seen) == "first second"
