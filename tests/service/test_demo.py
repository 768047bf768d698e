"""The demo provider, through httpx and through the real OpenAI SDK: honest text, real protocol."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import httpx2 as httpx
import openai
import pytest
from openai import AsyncOpenAI

from router.catalog.snapshot import CATEGORIES
from router.upstream.demo import DemoTransport, demo_models
from router.upstream.demo_schema import example

T = TypeVar("T")
URL = "http://demo.invalid/v1/chat/completions"
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "days": {"type": "integer", "minimum": 1},
                "unit": {"enum": ["c", "f"]},
            },
            "required": ["city", "days"],
        },
    },
}


def chat(text: Any = "What is a router?", **fields: Any) -> dict[str, Any]:
    return {"model": "demo/small", "messages": [{"role": "user", "content": text}], **fields}


def send(body: Any, *, method: str = "POST", url: str = URL, pace_s: float = 0.0) -> httpx.Response:
    async def call() -> httpx.Response:
        transport = DemoTransport(pace_s=pace_s, now_s=lambda: 1_700_000_000.0)
        async with httpx.AsyncClient(transport=transport) as client:
            return await client.request(
                method, url, content=body if isinstance(body, bytes) else json.dumps(body)
            )

    return asyncio.run(call())


def text_of(body: dict[str, Any]) -> str:
    content = send(body).json()["choices"][0]["message"]["content"]
    assert isinstance(content, str)
    return content


def with_sdk(use: Callable[[AsyncOpenAI], Awaitable[T]]) -> T:
    async def run() -> T:
        transport = DemoTransport(pace_s=0.0)
        async with AsyncOpenAI(
            api_key="none",
            base_url="http://demo.invalid/v1",
            http_client=httpx.AsyncClient(transport=transport),
            max_retries=0,
        ) as client:
            return await use(client)

    return asyncio.run(run())


def test_the_answer_says_that_it_is_the_demo_and_how_to_leave_it() -> None:
    response = send(chat())
    body = response.json()
    content = body["choices"][0]["message"]["content"]
    assert "built-in demo (demo/small)" in content
    assert "You said: What is a router?" in content
    assert "OPENAI_API_KEY" in content
    assert "Ollama" in content
    assert (body["model"], body["created"], body["object"]) == (
        "demo/small",
        1_700_000_000,
        "chat.completion",
    )
    assert body["id"].startswith("chatcmpl-demo-")
    assert body["choices"][0]["finish_reason"] == "stop"
    usage = body["usage"]
    assert usage["prompt_tokens"] == 3 + 4 + 5
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_a_long_prompt_is_cut_and_still_counted() -> None:
    long = send(chat("word " * 100_000)).json()
    assert len(long["choices"][0]["message"]["content"]) < 700
    assert 99_000 < long["usage"]["prompt_tokens"] < 101_000


def test_ids_differ() -> None:
    async def two() -> list[str]:
        async with httpx.AsyncClient(transport=DemoTransport(pace_s=0.0)) as client:
            return [(await client.post(URL, json=chat())).json()["id"] for _ in range(2)]

    first, second = asyncio.run(two())
    assert first != second


def test_a_stream_is_openai_sse() -> None:
    whole = text_of(chat("Grüße, 世界 👋"))
    response = send(chat("Grüße, 世界 👋", stream=True, stream_options={"include_usage": True}))
    assert response.headers["content-type"].startswith("text/event-stream")
    events = response.text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    *words, finish, usage = chunks[1:]
    assert "".join(c["choices"][0]["delta"]["content"] for c in words) == whole
    assert (finish["choices"][0]["delta"], finish["choices"][0]["finish_reason"]) == ({}, "stop")
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == len(words)
    assert len({(c["id"], c["model"]) for c in chunks}) == 1
    assert "usage" not in send(chat(stream=True)).text


def test_a_paced_stream_comes_piece_by_piece_and_can_be_left() -> None:
    async def leave() -> int:
        async with httpx.AsyncClient(transport=DemoTransport(pace_s=0.001)) as client:
            async with client.stream("POST", URL, json=chat(stream=True)) as response:
                pieces = response.aiter_bytes()
                first, second = await anext(pieces), await anext(pieces)
                assert first.count(b"data: ") == second.count(b"data: ") == 1
            return response.num_bytes_downloaded

    assert asyncio.run(leave()) < len(send(chat(stream=True)).content)


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_token_limits_are_obeyed(name: str) -> None:
    body = send(chat(**{name: 4})).json()
    assert body["choices"][0]["message"]["content"] == "This is the router"
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] == 4


def test_stop_words_are_obeyed() -> None:
    body = send(chat(stop=["never there", " is the"])).json()
    assert body["choices"][0]["message"]["content"] == "This"
    assert body["choices"][0]["finish_reason"] == "stop"


def test_n_choices() -> None:
    body = send(chat(n=3)).json()
    assert [c["index"] for c in body["choices"]] == [0, 1, 2]
    assert body["usage"]["completion_tokens"] % 3 == 0
    streamed = send(chat(n=3, stream=True)).text
    assert streamed.count('"finish_reason":"stop"') == 3


def test_images_are_counted() -> None:
    image = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    content = text_of(chat([{"type": "text", "text": "Look"}, image, image]))
    assert "You said: Look" in content
    assert "You sent 2 images" in content


@pytest.mark.parametrize(
    ("text", "fields", "called"),
    [
        ("please use get_weather", {}, True),
        ("hello", {}, False),
        ("hello", {"tool_choice": "required"}, True),
        ("hello", {"tool_choice": {"type": "function", "function": {"name": "get_weather"}}}, True),
        ("please use get_weather", {"tool_choice": "none"}, False),
    ],
)
def test_tools_are_called_when_named_or_forced(text: str, fields: dict[str, Any], called: bool) -> None:
    choice = send(chat(text, tools=[WEATHER], **fields)).json()["choices"][0]
    assert choice["finish_reason"] == ("tool_calls" if called else "stop")
    if called:
        assert choice["message"]["content"] is None
        function = choice["message"]["tool_calls"][0]["function"]
        assert (function["name"], json.loads(function["arguments"])) == (
            "get_weather",
            {"city": "demo", "days": 1},
        )


def test_a_tool_call_is_cut_by_the_token_limit() -> None:
    choice = send(chat("get_weather", tools=[WEATHER], max_tokens=3)).json()["choices"][0]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["tool_calls"][0]["function"]["arguments"] == '{"'


def test_no_tool_is_called_for_what_openclaw_writes_behind_the_users_words() -> None:
    """Its state names its tools: taken for words, it had a tool called again after each result, for ever."""
    state = "<<<BEGIN_OPENCLAW_INTERNAL_CONTEXT>>>\nTools: get_weather\n<<<END_OPENCLAW_INTERNAL_CONTEXT>>>"
    user, own = ({"role": "user", "content": text} for text in ("[Sun 2026-11-22 08:44 UTC] hello", state))
    plain = send({**chat(), "messages": [user, own], "tools": [WEATHER]}).json()["choices"][0]
    assert "You said: hello. For real answers" in plain["message"]["content"]
    asks = {"role": "user", "content": "please use get_weather"}
    called = {"role": "assistant", "content": None, "tool_calls": []}
    result = {"role": "tool", "tool_call_id": "c", "content": "sunny"}
    done = send({**chat(), "messages": [asks, called, result, own], "tools": [WEATHER]}).json()["choices"][0]
    assert "The tool answered: sunny" in done["message"]["content"]
    assert send(chat("forget_weathers", tools=[WEATHER])).json()["choices"][0]["finish_reason"] == "stop"


def test_the_tool_loop_of_the_sdk() -> None:
    async def loop(client: AsyncOpenAI) -> tuple[str, str]:
        messages: list[Any] = [{"role": "user", "content": "call get_weather"}]
        async with client.chat.completions.stream(
            model="demo/coder", messages=messages, tools=[WEATHER]
        ) as stream:
            first = (await stream.get_final_completion()).choices[0]
        assert first.message.tool_calls
        call = first.message.tool_calls[0]
        messages += [first.message.model_dump(exclude_none=True)]
        messages += [{"role": "tool", "tool_call_id": call.id, "content": "sunny, 21 C"}]
        second = await client.chat.completions.create(
            model="demo/coder", messages=messages, tools=[WEATHER], tool_choice="required"
        )
        return call.function.arguments, second.choices[0].message.content or ""

    arguments, text = with_sdk(loop)
    assert json.loads(arguments) == {"city": "demo", "days": 1}
    assert "The tool answered: sunny, 21 C" in text


def test_the_sdk_streams_and_counts() -> None:
    async def collect(client: AsyncOpenAI) -> tuple[str, int]:
        text, tokens = "", 0
        async for chunk in await client.chat.completions.create(
            model="demo/thinker",
            messages=[{"role": "user", "content": "hello"}],
            stream=True,
            stream_options={"include_usage": True},
        ):
            text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
            tokens = chunk.usage.completion_tokens if chunk.usage else tokens
        return text, tokens

    text, tokens = with_sdk(collect)
    assert "You said: hello" in text
    assert tokens > 10


def test_json_object_and_json_schema() -> None:
    assert json.loads(text_of(chat("hi", response_format={"type": "json_object"})))["echo"] == "hi"
    schema = {
        "type": "object",
        "properties": {"steps": {"type": "array", "minItems": 2, "items": {"$ref": "#/$defs/step"}}},
        "required": ["steps"],
        "$defs": {
            "step": {
                "type": "object",
                "properties": {"kind": {"enum": ["a", "b"]}, "done": {"type": "boolean"}},
                "required": ["kind", "done"],
            }
        },
    }
    form = {"type": "json_schema", "json_schema": {"name": "plan", "schema": schema, "strict": True}}
    expected = {"steps": [{"kind": "a", "done": False}] * 2}
    assert json.loads(text_of(chat(response_format=form))) == expected


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "string", "minLength": 6}, "demo.."),
        ({"type": "string", "maxLength": 2}, "de"),
        ({"type": "string", "format": "date"}, "2026-01-01"),
        ({"type": ["null", "integer"]}, 0),
        ({"type": "integer", "exclusiveMinimum": 4, "multipleOf": 5}, 5),
        ({"type": "integer", "exclusiveMinimum": 5, "multipleOf": 5}, 10),
        ({"type": "integer", "minimum": 2.5}, 3),
        ({"type": "integer", "maximum": -7}, -7),
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 1}, 0.5),
        ({"type": "number", "minimum": 0.25}, 0.25),
        ({"const": 7}, 7),
        ({"anyOf": [{"$ref": "#"}, {"type": "null"}]}, None),
        ({"allOf": [{"required": ["a"]}, {"properties": {"a": {"const": 1}}}]}, {"a": 1}),
        ({"type": "array", "prefixItems": [{"const": 1}], "items": {"const": 2}, "minItems": 2}, [1, 2]),
        ({"required": ["unknown"]}, {"unknown": "demo"}),
        ({"type": "null"}, None),
        ({}, {}),
    ],
)
def test_example_values_fit_their_schema(schema: dict[str, Any], value: Any) -> None:
    made = example(schema)
    assert (made, type(made)) == (value, type(value))


def test_an_endless_schema_ends() -> None:
    endless = {"type": "object", "properties": {"next": {"$ref": "#"}}, "required": ["next"]}
    assert json.dumps(example(endless)).endswith("null" + "}" * 17)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"{", None),
        (b"\xff", None),
        (b"[" * 100_000, None),
        ([], None),
        ({"model": "demo/small"}, "messages"),
        (chat() | {"messages": []}, "messages"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        (chat(5), "messages[0].content"),
        (chat(n=9), "n"),
        (chat(max_tokens=0), "max_tokens"),
        (chat(stream="yes"), "stream"),
        (chat(tool_choice="required"), "tool_choice"),
        (chat(tools=[WEATHER], tool_choice={"function": {"name": "other"}}), "tool_choice"),
    ],
)
def test_a_wrong_body_is_an_openai_error(body: Any, param: str | None) -> None:
    response = send(body)
    error = response.json()["error"]
    assert (response.status_code, error["type"]) == (400, "invalid_request_error")
    assert error["param"] == param
    assert error["message"]


def test_a_lone_surrogate_is_not_json() -> None:
    assert send(b'{"messages": [{"role": "user", "content": "\\ud800"}]}').status_code == 400


def test_the_sdk_raises_its_own_error() -> None:
    async def wrong(client: AsyncOpenAI) -> None:
        await client.chat.completions.create(model="demo/small", messages=[])

    with pytest.raises(openai.BadRequestError, match="length >= 1"):
        with_sdk(wrong)


def test_other_routes() -> None:
    models = send(b"", method="GET", url="http://demo.invalid/v1/models").json()["data"]
    assert [model["id"] for model in models] == ["demo/small", "demo/coder", "demo/thinker", "demo/seer"]
    assert send({}, url="http://demo.invalid/v1/embeddings").status_code == 404
    assert send(b"", method="GET").status_code == 405


def test_the_catalog_lets_auto_choose() -> None:
    provider, models = demo_models()
    assert (provider.name, provider.key_env, provider.pays) == ("demo", None, "none")
    best = {
        category: max((model.quality[category], model.id) for model in models if category in model.quality)[1]
        for category in CATEGORIES
    }
    assert best == {
        "simple": "demo/thinker",
        "coding": "demo/coder",
        "reasoning": "demo/thinker",
        "vision": "demo/seer",
    }
    assert [model.id for model in models if "image" in model.input] == ["demo/seer"]
    for model in models:
        (offer,) = model.offers
        assert (offer.provider, offer.upstream_model, offer.unusable) == ("demo", model.id, None)
        assert 0 < offer.price.input < offer.price.output
