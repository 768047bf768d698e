"""Answers that are not streamed: what goes up, what comes back, what is billed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from tests.router import Answer, Offered, RouterServer, write_catalog
from tests.service.walking import ledger_rows, question, request_id, wait_end
from tests.upstream import MISSING, Received, ScriptedUpstream, answer, raw, status

SECRET = "upstream-secret-1234567890"
MODEL = "test/good"
UPSTREAM = "vendor/good-v1"
HEADER_NAMES = {
    "content-type",
    "content-length",
    "date",
    "server-timing",
    "x-request-id",
    "x-llm-router-attempts",
    "x-llm-router-catalog",
    "x-llm-router-category",
    "x-llm-router-confidence",
    "x-llm-router-cost-usd",
    "x-llm-router-logical-model",
    "x-llm-router-provider",
    "x-llm-router-reason",
    "x-llm-router-resolved-model",
}


MODELS = [Offered(MODEL, upstream=UPSTREAM, price=(1, 2), context=2_000_000)]


@pytest.fixture(scope="module")
def up() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as server:
        yield server


@pytest.fixture(scope="module")
def router(up: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RouterServer]:
    folder = tmp_path_factory.mktemp("answers")
    catalog = write_catalog(
        folder / "catalog",
        {"scripted": up.base_url},
        MODELS,
        provider='key_env = "SCRIPTED_KEY"',
    )
    with RouterServer(catalog, folder / "data", environ={"SCRIPTED_KEY": SECRET}) as server:
        yield server


@pytest.fixture(autouse=True)
def scripts(up: ScriptedUpstream) -> None:
    """Let every model answer well, whatever the test before scripted."""
    for model in MODELS:
        up.on(model.upstream or model.id, answer())


def ask(router: RouterServer, **fields: Any) -> Answer:
    return router.request("POST", "/v1/chat/completions", question(**{"model": MODEL, **fields}))


def header_names(request: Received) -> list[str]:
    return sorted(name.lower() for name, _ in request.headers)


def exact(body: bytes) -> Any:
    return json.loads(body, parse_float=Decimal)


def answered_by(got: Answer) -> str:
    assert got.status == 200, got.body
    return got.headers["x-llm-router-resolved-model"]


def test_the_body_is_relayed_byte_for_byte_but_for_usage(router: RouterServer, up: ScriptedUpstream) -> None:
    body = (
        '{"x_first":[1, 2 ,3],"id":"a","choices":[{"message": {"role":"assistant","content":"h\\u00e9 😀",'
        '"x":null},"finish_reason":"stop","index":0}],"usage":{"prompt_tokens":10,"completion_tokens":5,'
        '"x_tok":7},"big":12345678901234567890.10,"model":"good-v1","system_fingerprint":null}'
    ).encode()
    up.on(UPSTREAM, status(200, body))

    got = ask(router)

    assert got.body == body.replace(b'"x_tok":7}', b'"x_tok":7,"total_tokens":15,"cost":0.00002}')


def test_only_the_model_and_the_routers_own_fields_change_on_the_way_up(
    router: RouterServer, up: ScriptedUpstream
) -> None:
    messages = '[{"content":"h\\u00e9 \\u0000 😀","role": "user","x_part": [ 1 ]}]'
    body = (
        f'{{"x_new": {{"a":[1, 2]}}, "model":"{MODEL}","messages":{messages},"seed":7,'
        '"router":{"mode":"cost"},"max_tokens":900,'
        '"api_base":"http://169.254.169.254/","extra_headers":{"a":"b"},"models":["test/other"],"top_p":0.50}'
    )

    got = router.request("POST", "/v1/chat/completions", body.encode())

    assert got.status == 200
    sent = (
        f'{{"x_new":{{"a":[1, 2]}},"model":"{UPSTREAM}","messages":{messages},"seed":7,'
        '"max_tokens":900,"top_p":0.50}'
    )
    assert up.requests[-1].body.decode() == sent


def test_a_stream_asks_the_upstream_for_usage_and_keeps_other_stream_options(
    router: RouterServer, up: ScriptedUpstream
) -> None:
    ask(router, stream=True, stream_options={"include_obfuscation": False, "include_usage": False})

    assert up.requests[-1].json["stream_options"] == {"include_obfuscation": False, "include_usage": True}


@pytest.mark.parametrize("text", ["x" * 2**20, "\u2028\u2029", "👩‍👩‍👧 e\u0301", "\x00\x1f\x7f"])
def test_a_prompt_passes_byte_for_byte(router: RouterServer, up: ScriptedUpstream, text: str) -> None:
    for escaped in (True, False):
        messages = json.dumps([{"role": "user", "content": text}], ensure_ascii=escaped)
        body = f'{{"model":"{MODEL}","messages":{messages},"max_tokens":5}}'
        code = router.request("POST", "/v1/chat/completions", body.encode()).status
        unchanged = up.requests[-1].body == body.replace(MODEL, UPSTREAM).encode()
        assert (code, unchanged) == (200, True)  # a megabyte makes no readable difference


def test_only_listed_headers_go_up_and_the_providers_key_with_them(
    router: RouterServer, up: ScriptedUpstream
) -> None:
    headers = {
        "authorization": "Bearer unused",
        "cookie": "a=b",
        "x-forwarded-for": "10.0.0.1",
        "x-api-key": "k",
        "x-payment": "p",
        "openai-organization": "o",
        "accept-encoding": "gzip",
        "user-agent": "someone/1.0",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "x-title": "My program",
        "x-request-id": "mine-1",
    }

    assert router.chat(model=MODEL, headers=headers).status == 200

    sent = up.requests[-1]
    expected = ["accept", "accept-encoding", "authorization", "content-length", "content-type", "host"]
    assert header_names(sent) == [*expected, "traceparent", "user-agent", "x-request-id", "x-title"]
    assert sent.header("authorization") == f"Bearer {SECRET}"
    assert sent.header("accept-encoding") == "identity"
    assert sent.header("traceparent") == headers["traceparent"]
    assert sent.header("x-request-id") == "mine-1"
    assert sent.header("host") == f"127.0.0.1:{up.port}"


def test_the_answer_has_the_routers_headers_and_none_of_the_upstreams(
    router: RouterServer, up: ScriptedUpstream
) -> None:
    unwanted = [
        ("set-cookie", "a=b"),
        ("server", "nginx"),
        ("x-internal", "10.0.0.1"),
        ("x-request-id", "theirs"),
    ]
    up.on(UPSTREAM, answer(headers=unwanted))

    got = router.chat("Say hello")

    assert set(got.headers) == HEADER_NAMES
    assert "server" not in got.headers
    assert all(value.isascii() and value.isprintable() for value in got.headers.values())
    assert got.headers["content-type"] == "application/json"
    assert got.headers["x-llm-router-logical-model"] == "auto"
    assert got.headers["x-llm-router-category"] in ("simple", "coding", "reasoning")
    assert 0.25 <= float(got.headers["x-llm-router-confidence"]) <= 1
    assert got.headers["x-llm-router-resolved-model"] == MODEL
    assert got.headers["x-llm-router-provider"] == "scripted"
    assert got.headers["x-llm-router-reason"] == "only_fit"
    assert got.headers["x-llm-router-catalog"] == router.catalog.current.revision
    assert got.headers["x-llm-router-attempts"] == "1"
    assert [part.split(";dur=")[0] for part in got.headers["server-timing"].split(", ")] == [
        "classify",
        "decide",
        "upstream",
    ]


def test_a_request_id_of_ours_is_unique_and_names_the_ledgers_rows(router: RouterServer) -> None:
    first, second = ask(router), ask(router)

    assert request_id(first) != request_id(second)
    row = wait_end(router, request_id(first))
    assert (row.kind, row.account, row.client_request_id) == ("settle", "open", None)


def test_a_clients_request_id_comes_back_and_the_ledger_keeps_its_own(router: RouterServer) -> None:
    for _ in range(2):
        assert (
            router.chat(model=MODEL, headers={"x-request-id": "job 7/a"}).headers["x-request-id"] == "job 7/a"
        )

    holds = [r for r in ledger_rows(router) if r.client_request_id == "job 7/a" and r.kind == "hold"]
    assert len({row.request_id for row in holds}) == 2
    assert all(row.request_id.startswith("req_") for row in holds)


@pytest.mark.parametrize("theirs", ["x" * 129, "caf\xe9", "a\tb", ""])
def test_an_unusable_request_id_is_replaced_by_ours(
    router: RouterServer, up: ScriptedUpstream, theirs: str
) -> None:
    got = router.chat(model=MODEL, headers={"x-request-id": theirs})

    assert got.headers["x-request-id"].startswith("req_")
    assert up.requests[-1].header("x-request-id") == got.headers["x-request-id"]


@pytest.mark.parametrize(
    ("usage", "nusd"),
    [
        ({"prompt_tokens": 1_000, "completion_tokens": 500, "total_tokens": 1_500}, 2_000_000),
        ({"prompt_tokens": 1, "completion_tokens": 1}, 3_000),
        ({"prompt_tokens": 9, "completion_tokens": 9, "prompt_tokens_details": {"cached_tokens": 5}}, 27_000),
        (
            {"prompt_tokens": 9, "completion_tokens": 9, "prompt_tokens_details": {"cached_tokens": -5}},
            27_000,
        ),
        ({"prompt_tokens": 9, "completion_tokens": 9, "completion_tokens_details": None}, 27_000),
    ],
)
def test_the_cost_is_the_same_in_header_usage_and_ledger(
    router: RouterServer, up: ScriptedUpstream, usage: dict[str, Any], nusd: int
) -> None:
    up.on(UPSTREAM, answer(usage=usage))

    got = ask(router)

    assert Decimal(got.headers["x-llm-router-cost-usd"]) * 10**9 == nusd
    assert exact(got.body)["usage"]["cost"] * 10**9 == nusd
    row = wait_end(router, request_id(got))
    assert (row.kind, row.amount_nusd, row.upstream_cost_nusd, row.estimated) == ("settle", nusd, nusd, False)
    assert (row.prompt_tokens, row.completion_tokens) == (usage["prompt_tokens"], usage["completion_tokens"])


@pytest.mark.parametrize(
    "usage",
    [
        MISSING,
        None,
        "many",
        [],
        {},
        7,
        {"prompt_tokens": -1_000_000, "completion_tokens": 5},
        {"prompt_tokens": 5, "completion_tokens": -1},
        {"prompt_tokens": 10**30, "completion_tokens": 5},
        {"prompt_tokens": 5, "completion_tokens": 10**30},
        {"prompt_tokens": "5", "completion_tokens": "5"},
        {"prompt_tokens": 5, "completion_tokens": None},
        {"prompt_tokens": 1.5, "completion_tokens": 2.5},
    ],
)
def test_usage_that_cannot_be_true_is_estimated_and_marked(
    router: RouterServer, up: ScriptedUpstream, usage: Any
) -> None:
    up.on(UPSTREAM, answer("word " * 40, usage=usage))

    got = ask(router)

    shown = exact(got.body)["usage"]
    row = wait_end(router, request_id(got))
    assert (row.kind, row.estimated) == ("settle", True)
    assert shown["completion_tokens"] == row.completion_tokens
    assert shown["total_tokens"] == shown["prompt_tokens"] + shown["completion_tokens"]
    assert 20 <= shown["completion_tokens"] <= 100
    assert 5 <= shown["prompt_tokens"] <= 100
    assert shown["cost"] * 10**9 == row.amount_nusd > 0


@pytest.mark.parametrize("total", [-5, 10**30, None])
def test_an_absurd_total_is_replaced_by_the_sum(
    router: RouterServer, up: ScriptedUpstream, total: int | None
) -> None:
    up.on(UPSTREAM, answer(usage={"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": total}))

    assert ask(router).json["usage"]["total_tokens"] == 15


def test_another_model_that_answered_is_shown_as_it_is_and_named_in_the_ledger(
    router: RouterServer, up: ScriptedUpstream
) -> None:
    up.on(UPSTREAM, answer(extra={"model": "vendor/other"}))

    got = ask(router)

    assert got.json["model"] == "vendor/other"
    assert answered_by(got) == MODEL
    assert wait_end(router, request_id(got)).model == "vendor/other"
    assert [line["answered_model"] for line in router.logged() if "answered_model" in line] == [
        "vendor/other"
    ]


@pytest.mark.parametrize("named", ["good-v1-2026-09-01", "VENDOR/GOOD-V1", "", None])
def test_a_dated_snapshot_of_the_model_is_that_model(
    router: RouterServer, up: ScriptedUpstream, named: str | None
) -> None:
    up.on(UPSTREAM, answer(extra={"model": named}))

    got = ask(router)

    assert got.json["model"] == named
    assert wait_end(router, request_id(got)).model == MODEL


def test_tool_calls_and_several_choices_are_relayed(router: RouterServer, up: ScriptedUpstream) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    choices = [
        {"index": 0, "message": {"role": "assistant", "content": "a"}, "finish_reason": "stop"},
        {"index": 1, "message": {"content": None, "tool_calls": [call]}, "finish_reason": "tool_calls"},
    ]
    up.on(UPSTREAM, answer(extra={"choices": choices}, usage={"prompt_tokens": 1, "completion_tokens": 2}))

    assert ask(router, n=2).json["choices"] == choices


def test_the_short_path_serves_too(router: RouterServer) -> None:
    assert router.request("POST", "/chat/completions", question()).status == 200


def test_an_informational_head_is_skipped_and_unknown_content_types_are_taken(
    router: RouterServer, up: ScriptedUpstream
) -> None:
    body = b'{"choices":[{"message":{"content":"hi"}}]}'
    head = b"HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body)
    up.on(UPSTREAM, raw(head + body))

    assert ask(router).json["choices"] == [{"message": {"content": "hi"}}]
