"""What goes wrong, as a program with the real OpenAI Python SDK sees it: classes, retries, leaving."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from click.testing import CliRunner
from openai import AsyncOpenAI, OpenAI

from router.cli import main
from tests.router import Offered, RouterServer, write_catalog
from tests.upstream import (
    Behaviour,
    ScriptedUpstream,
    answer,
    error_event_after,
    error_in_200,
    hang,
    html,
    reset,
    status,
    stream,
)

MESSAGES: Any = [{"role": "user", "content": "Say hello"}]


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as up:
        yield up


@pytest.fixture
def catalog(tmp_path: Path, upstream: ScriptedUpstream) -> Path:
    return write_catalog(
        tmp_path / "catalog", {"scripted": upstream.base_url}, [Offered("vendor/model", upstream="faulty")]
    )


@pytest.fixture
def router(tmp_path: Path, catalog: Path) -> Iterator[RouterServer]:
    with RouterServer(catalog, tmp_path / "data") as server:
        yield server


@pytest.fixture
def client(router: RouterServer) -> Iterator[OpenAI]:
    with OpenAI(base_url=router.base_url, api_key="unused", max_retries=0, timeout=20) as sdk:
        yield sdk


def ask(client: OpenAI, **fields: Any) -> Any:
    return client.chat.completions.create(**{"model": "auto", "messages": MESSAGES, **fields})


def body_of(error: openai.APIError) -> dict[str, Any]:
    assert isinstance(error.body, dict)
    return error.body


def test_a_wrong_key_is_an_authentication_error(router: RouterServer, upstream: ScriptedUpstream) -> None:
    with (
        OpenAI(base_url=router.base_url, api_key="sk-wrong", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError) as caught,
    ):
        ask(client)
    assert "Incorrect API key provided" in caught.value.message
    assert body_of(caught.value)["name"] == "invalid_api_key"
    assert upstream.requests == []


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"n": 0}, "n"),
        ({"temperature": 3}, "temperature"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"messages": [{"role": "wizard", "content": "hi"}]}, "messages[0].role"),
    ],
)
def test_a_wrong_field_is_a_bad_request_that_names_it(
    client: OpenAI, upstream: ScriptedUpstream, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, **fields)
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"
    assert body_of(caught.value)["code"] == 400
    assert upstream.requests == []


def test_the_upstreams_own_refusal_stays_a_bad_request(client: OpenAI, upstream: ScriptedUpstream) -> None:
    upstream.on("faulty", status(400, {"error": {"message": "stop has too many items", "param": "stop"}}))
    with pytest.raises(openai.BadRequestError, match="stop has too many items") as caught:
        ask(client)
    assert caught.value.param == "stop"
    assert len(upstream.requests) == 1


def test_an_unknown_model_is_not_found_with_the_nearest_names(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="vendor/model") as caught:
        ask(client, model="vendor/modle")
    assert body_of(caught.value)["name"] == "model_not_found"


def test_a_full_upstream_is_a_rate_limit_error_with_its_retry_after(
    client: OpenAI, upstream: ScriptedUpstream
) -> None:
    upstream.on("faulty", status(429, headers=[("retry-after", "7")]))
    with pytest.raises(openai.RateLimitError) as caught:
        ask(client)
    assert caught.value.response.headers["retry-after"] == "7"


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("behaviour", "code"),
    [
        (status(500), 502),
        (status(401), 502),
        (status(402), 502),
        (status(403), 502),
        (status(503), 503),
        (status(504), 504),
        (reset(), 502),
        (html(), 502),
        (error_in_200(), 502),
    ],
    ids=["500", "401", "402", "403", "503", "504", "reset", "html", "error in 200"],
)
def test_a_broken_upstream_is_an_internal_server_error(
    client: OpenAI, upstream: ScriptedUpstream, behaviour: Behaviour, code: int, streamed: bool
) -> None:
    upstream.on("faulty", behaviour)
    with pytest.raises(openai.InternalServerError) as caught:
        ask(client, stream=streamed)
    assert caught.value.status_code == code
    assert f":{upstream.port}" not in caught.value.message


@pytest.mark.parametrize("streamed", [False, True])
def test_no_credit_is_a_402_before_any_byte(
    tmp_path: Path, catalog: Path, upstream: ScriptedUpstream, streamed: bool
) -> None:
    data = tmp_path / "data"
    made = CliRunner().invoke(main, ["keys", "create", "--name", "me", "--json", "--data", str(data)])
    with (
        RouterServer(catalog, data, access="paid") as router,
        OpenAI(base_url=router.base_url, api_key=json.loads(made.stdout)["key"], max_retries=0) as client,
        pytest.raises(openai.APIStatusError) as caught,
    ):
        ask(client, stream=streamed)
    assert caught.value.status_code == 402
    assert body_of(caught.value)["name"] == "insufficient_credits"
    assert upstream.requests == []


@pytest.mark.parametrize(
    "behaviour",
    [error_event_after(2), stream("word0 word1 never", cut_after=3), stream("word0 word1", finish=False)],
    ids=["error event", "cut", "no finish"],
)
def test_a_stream_that_breaks_raises_after_its_text(
    client: OpenAI, upstream: ScriptedUpstream, behaviour: Behaviour
) -> None:
    upstream.on("faulty", behaviour)
    seen: list[str] = []
    with pytest.raises(openai.APIError) as caught:
        seen.extend(chunk.choices[0].delta.content or "" for chunk in ask(client, stream=True))
    assert "".join(seen).split() == ["word0", "word1"]
    assert not isinstance(caught.value, openai.APIConnectionError)
    assert "incomplete" in caught.value.message


def test_the_setting_puts_the_errors_name_into_code(
    tmp_path: Path, catalog: Path, upstream: ScriptedUpstream
) -> None:
    upstream.on("faulty", error_event_after(1))
    with (
        RouterServer(catalog, tmp_path / "data", error_code="name") as router,
        OpenAI(base_url=router.base_url, api_key="unused", max_retries=0) as client,
    ):
        with pytest.raises(openai.NotFoundError) as missing:
            ask(client, model="no/such")
        with pytest.raises(openai.NotFoundError) as unlisted:
            client.models.retrieve("no/such")
        with pytest.raises(openai.APIError) as broken:
            list(ask(client, stream=True))
    assert missing.value.code == unlisted.value.code == "model_not_found"
    assert broken.value.code == "upstream_error"


@pytest.mark.parametrize("streamed", [False, True])
def test_the_sdks_own_retry_succeeds_after_the_wait_it_was_told(
    router: RouterServer, upstream: ScriptedUpstream, streamed: bool
) -> None:
    second = stream("at last") if streamed else answer("at last")
    upstream.on("faulty", status(429, headers=[("retry-after", "1")]), second)
    with OpenAI(base_url=router.base_url, api_key="unused", max_retries=1) as client:
        raw = client.chat.completions.with_raw_response.create(
            model="auto", messages=MESSAGES, stream=streamed
        )
        got: Any = raw.parse()
        pieces = [c.choices[0].delta.content or "" for c in got] if streamed else []
    assert ("".join(pieces) if streamed else got.choices[0].message.content) == "at last"
    assert raw.retries_taken == 1
    assert len(upstream.requests) == 2


@pytest.mark.parametrize("streamed", [False, True])
def test_a_cancelled_call_closes_the_upstream_call(
    router: RouterServer, upstream: ScriptedUpstream, streamed: bool
) -> None:
    upstream.on("faulty", stream("one two", hang_after=2) if streamed else hang())

    async def use() -> None:
        async with AsyncOpenAI(base_url=router.base_url, api_key="unused", max_retries=0) as client:
            asked = asyncio.create_task(
                client.chat.completions.create(model="auto", messages=MESSAGES, stream=streamed)
            )
            await asyncio.to_thread(upstream.wait_requests, 1)
            if streamed:
                chunks: Any = await asked
                await anext(chunks)
                await chunks.close()
            else:
                asked.cancel()
                await asyncio.wait([asked])
            await asyncio.to_thread(upstream.wait_abandoned)

    asyncio.run(use())


def test_the_clients_own_time_out_closes_the_upstream_call(
    router: RouterServer, upstream: ScriptedUpstream
) -> None:
    upstream.on("faulty", hang())

    async def use() -> None:
        async with AsyncOpenAI(
            base_url=router.base_url, api_key="unused", max_retries=0, timeout=0.3
        ) as client:
            with pytest.raises(openai.APITimeoutError):
                await client.chat.completions.create(model="auto", messages=MESSAGES)
            await asyncio.to_thread(upstream.wait_abandoned)

    asyncio.run(use())
