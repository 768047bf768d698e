"""The Responses API over sockets: what it shares with chat completions, and the form of its bytes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

from tests.paying import CHAT, WAYS, Shop, Way, counter, offers_anew
from tests.router import Answer, Offered, RouterServer, write_catalog
from tests.service.walking import (
    Client,
    bearer,
    ledger_rows,
    make_key,
    request_id,
    run_command,
    wait_all_ended,
    wait_end,
    wait_for,
)
from tests.upstream import Gate, ScriptedUpstream, answer, hang, status, stream
from tests.wallets import decoded

PATH = "/v1/responses"
MODEL = "test/model"
USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
CHARGE_NUSD = 11 * 1_000 + 7 * 2_000
_numbers = count()


@pytest.fixture(scope="module")
def up() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as server:
        yield server


@pytest.fixture(scope="module")
def router(up: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RouterServer]:
    folder = tmp_path_factory.mktemp("responses")
    models = [Offered(MODEL), Offered("test/other", quality=None)]
    catalog = write_catalog(folder / "catalog", {"scripted": up.base_url}, models)
    with RouterServer(catalog, folder / "data", max_body_mib=1) as server:
        yield server


@pytest.fixture(autouse=True)
def scripted(up: ScriptedUpstream) -> None:
    up.on(MODEL, answer("hello", usage=USAGE))


def ask(server: RouterServer, headers: dict[str, str] | None = None, **fields: Any) -> Answer:
    return server.request("POST", PATH, {"model": "auto", "input": "Say hello", **fields}, headers)


def events(body: bytes) -> list[tuple[str, dict[str, Any]]]:
    """Return name and data of each event; fails for any other line but a comment."""
    found = []
    for block in body.decode().split("\n\n"):
        if block and not block.startswith(":"):
            name, data = block.split("\n")
            found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


def test_bill_headers_and_ledger_are_those_of_chat(router: RouterServer) -> None:
    chat, got = router.chat("Say hello"), ask(router)
    told = {"x-request-id", "date", "server-timing", "content-length"}
    assert set(got.headers) == set(chat.headers)
    assert {k: v for k, v in got.headers.items() if k not in told} == {
        k: v for k, v in chat.headers.items() if k not in told
    }
    assert int(got.headers["content-length"]) == len(got.body)
    row = wait_end(router, request_id(got))
    assert (row.kind, row.amount_nusd, row.prompt_tokens, row.completion_tokens) == (
        "settle",
        CHARGE_NUSD,
        11,
        7,
    )
    assert got.json["usage"]["cost"] == CHARGE_NUSD / 1e9
    assert json.loads(json.dumps(got.json)) == got.json
    receipt = router.request("GET", f"/v1/receipts/{request_id(got)}").json
    assert receipt["model"] == MODEL


def test_a_stream_is_typed_events_and_no_done(router: RouterServer, up: ScriptedUpstream) -> None:
    up.on(MODEL, stream("one two", counts=USAGE))
    got = ask(router, stream=True)
    assert got.headers["content-type"].startswith("text/event-stream")
    found = events(got.body)
    assert [name for name, _ in found] == [data["type"] for _, data in found]
    assert [data["sequence_number"] for _, data in found] == list(range(len(found)))
    assert b"[DONE]" not in got.body
    created, completed = found[0][1]["response"], found[-1][1]["response"]
    assert (created["status"], created["output"], created["usage"]) == ("in_progress", [], None)
    assert completed["usage"]["cost"] == CHARGE_NUSD / 1e9
    assert completed["id"] == created["id"]
    assert wait_end(router, request_id(got)).amount_nusd == CHARGE_NUSD


def test_a_decision_is_logged_and_the_history_knows_the_request(router: RouterServer) -> None:
    got = ask(router, {"x-request-id": "responses-1"}, router={"mode": "quality"})
    assert got.headers["x-request-id"] == "responses-1"
    line = wait_for(
        lambda: next((x for x in router.logged() if x.get("client_request_id") == "responses-1"), None),
        "the line of the log",
    )
    assert (line["outcome"], line["asked"], line["model"], line["charged_nusd"]) == (
        "ok",
        "auto",
        MODEL,
        CHARGE_NUSD,
    )


@pytest.mark.parametrize("streamed", [False, True])
def test_a_retry_with_the_same_key_gets_the_same_bytes(
    router: RouterServer, up: ScriptedUpstream, streamed: bool
) -> None:
    up.on(MODEL, stream("one two") if streamed else answer("once"))
    key, before = {"idempotency-key": f"key {next(_numbers)}"}, len(up.requests)
    first, again = (ask(router, key, stream=streamed) for _ in range(2))
    assert (first.status, again.status) == (200, 200)
    assert again.headers["idempotent-replayed"] == "true"
    assert again.body == first.body
    assert len(up.requests) == before + 1
    wait_all_ended(router)
    rows = [row for row in ledger_rows(router) if row.idempotency_key == key["idempotency-key"]]
    assert [row.kind for row in rows] == ["hold", "settle"]
    assert ask(router, key, stream=streamed, input="another").status == 422
    assert len(up.requests) == before + 1


@pytest.mark.parametrize("streamed", [False, True])
def test_an_answer_whose_upstream_tells_no_time_is_given_again_byte_for_byte(
    router: RouterServer, up: ScriptedUpstream, streamed: bool
) -> None:
    timeless = [
        {"choices": [{"index": 0, "delta": {"content": "once"}, "finish_reason": None}], "created": None},
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "created": None},
    ]
    whole = answer("once", extra={"created": None})
    up.on(MODEL, stream(timeless, role=False, finish=False) if streamed else whole)
    key = {"idempotency-key": f"key {next(_numbers)}"}
    first = ask(router, key, stream=streamed)
    router.step(90)
    again = ask(router, key, stream=streamed)
    router.step(-90)
    assert again.headers["idempotent-replayed"] == "true"
    assert again.body == first.body
    told = events(first.body)[0][1]["response"] if streamed else first.json
    assert abs(told["created_at"] - router.now().timestamp()) < 60


@pytest.mark.parametrize("paths", [("/v1/chat/completions", PATH), ("/responses", "/chat/completions")])
def test_a_key_of_one_api_is_refused_at_the_other_for_the_same_bytes(
    router: RouterServer, up: ScriptedUpstream, paths: tuple[str, str]
) -> None:
    both = {"model": "auto", "messages": [{"role": "user", "content": "Say yes"}], "input": "Say no"}
    key, before = {"idempotency-key": f"key {next(_numbers)}"}, len(up.requests)
    first, second = (router.request("POST", path, both, key) for path in paths)
    assert (first.status, second.status, second.error["type"]) == (200, 422, "invalid_request_error")
    assert "another API" in second.error["message"]
    again = router.request("POST", paths[0], both, key)
    assert (again.body, again.headers["idempotent-replayed"]) == (first.body, "true")
    assert len(up.requests) == before + 1


def test_a_client_that_leaves_is_billed_for_what_it_got(router: RouterServer, up: ScriptedUpstream) -> None:
    gate = Gate()
    up.on(MODEL, stream("one two three four", gate=gate, gate_after=3))
    client = Client(router, {"model": "auto", "input": "Count", "stream": True}, path=PATH)
    ledger_id = request_id(client.head())
    client.read_until(b" two")
    client.leave()
    row = wait_end(router, ledger_id)
    gate.open()
    assert (row.kind, row.completion_tokens, row.estimated) == ("settle", 2, True)


def test_credit_that_does_not_reach_is_402_before_anything_is_sent(
    up: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("paid")
    catalog = write_catalog(folder / "catalog", {"scripted": up.base_url}, [Offered(MODEL)])
    with RouterServer(catalog, folder / "data", access="paid") as paid:
        before = len(up.requests)
        assert ask(paid, stream=True).error["name"] == "invalid_api_key"
        assert ask(paid, input=1).status == 401  # who asks is looked at before what
        key, _ = make_key(paid, "--credit", "0.000001")
        poor = ask(paid, bearer(key), stream=True)
        assert (poor.status, poor.error["name"]) == (402, "insufficient_credits")
        assert len(up.requests) == before
        assert run_command(paid, "ledger", "check").exit_code == 0


def test_an_upstream_that_is_down_is_an_error_and_no_stream(
    router: RouterServer, up: ScriptedUpstream
) -> None:
    up.on(MODEL, status(400, {"error": {"message": "no such thing", "type": "invalid_request_error"}}))
    got = ask(router, stream=True)
    assert (got.status, got.headers["content-type"]) == (400, "application/json")
    assert "no such thing" in got.error["message"]
    assert wait_end(router, request_id(got)).kind == "release"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": {}}, "input"),
        ({"input": [1]}, "input[0]"),
        ({"input": [{"type": "message", "role": "boss", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user", "content": [{"type": "video"}]}]}, "input[0].content[0].type"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0]"),
        ({"input": [{"type": "dance"}]}, "input[0].type"),
        ({"input": [{"type": "function_call", "name": "f"}]}, "input[0].call_id"),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": ""}]}, "input[0].call_id"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
            "input[0].content[0]",
        ),
        (
            {
                "instructions": "x",
                "input": [
                    {"role": "user", "content": "see"},
                    {"role": "user", "content": [{"type": "input_image", "image_url": "ftp://x"}]},
                ],
            },
            "input[1].content[0].image_url.url",
        ),
        ({"input": [{"role": "user", "content": "x"}] * 20_001}, "input"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_audio"}]}]},
            "input[0].content[0].input_audio",
        ),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"temperature": "hot"}, "temperature"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": [{"type": "function", "name": "f"}] * 2}, "tools[1].name"),
        ({"tool_choice": "must"}, "tool_choice"),
        ({"tool_choice": "required", "tools": [{"type": "web_search"}]}, "tool_choice"),
        ({"tool_choice": {"type": "function", "name": "f"}}, "tool_choice"),
        ({"tool_choice": {"type": "allowed_tools", "mode": "x", "tools": []}}, "tool_choice.mode"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": {"id": "conv_1"}}, "conversation"),
        ({"background": True}, "background"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"router": {"speed": 1}}, "router.speed"),
        ({"model": ""}, "model"),
    ],
)
def test_what_cannot_be_is_400_and_names_the_field(
    router: RouterServer, up: ScriptedUpstream, fields: dict[str, Any], param: str
) -> None:
    before = len(up.requests)
    for streamed in (False, True):
        got = ask(router, stream=streamed, **fields)
        assert (got.status, got.error["param"], got.error["type"]) == (400, param, "invalid_request_error")
        assert "messages[" not in got.error["message"]
    assert len(up.requests) == before


def test_other_faults_are_those_of_chat(router: RouterServer) -> None:
    assert router.request("POST", PATH, b"{").error["name"] == "invalid_json"
    assert router.request("POST", PATH, b'{"model":"auto","model":"a","input":"x"}').status == 400
    assert router.request("POST", PATH, b'{"model":"auto","input":"\xff"}').status == 400
    assert router.request("POST", PATH, b"[" * 100_000).status == 400
    deep = b'{"model":"auto","input":[{"role":"user","content":' + b"[" * 50_000
    assert router.request("POST", PATH, deep).status == 400
    assert ask(router, input="x" * 2**20).status == 413
    assert router.request("GET", PATH).status == 405
    assert ask(router, model="no/such").error["name"] == "model_not_found"
    assert router.request("POST", "/responses", {"model": "auto", "input": "hi"}).status == 200
    assert ask(router, {"x-llm-router-mode": "lazy"}).status == 400


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("streamed", [False, True])
def test_a_wallet_pays(shop: Shop, way: Way, streamed: bool) -> None:
    payer = shop.payer()
    body = {"model": "auto", "input": "Say hello", "max_output_tokens": 50, "stream": streamed}
    got = shop.pay(payer, way, body, path=PATH)
    assert got.status == 200
    if streamed:
        assert events(got.body)[-1][0] == "response.completed"
    if way == "upto" and streamed:
        receipt = next(line for line in got.body.decode().splitlines() if line.startswith(": payment-re"))
        assert decoded(receipt.split()[-1])["success"] is True
        assert got.body.index(receipt.encode()) < got.body.index(b"response.completed")
    settled = [row for row in shop.ended() if row.request_id == got.headers["x-request-id"]]
    assert [row.kind for row in settled] == ["hold", "settle"]
    assert shop.facilitator.balance(payer.address) < 10**9


@pytest.mark.parametrize("way", WAYS)
def test_what_was_signed_for_the_one_api_buys_nothing_at_the_other_for_the_same_bytes(
    shop: Shop, way: Way
) -> None:
    payer = shop.payer()
    said = {"messages": [{"role": "user", "content": "Say yes"}], "input": "Say yes"}
    both = {"model": "auto", "max_tokens": 50, "max_output_tokens": 50, **said}
    for signed_at, other in ((CHAT, PATH), (PATH, CHAT)):
        paid = shop.sign(payer, way, both, path=signed_at)
        settles, asked = shop.settles(), len(shop.upstream.requests)
        assert offers_anew(shop.ask(both, paid, other))
        assert (shop.settles(), len(shop.upstream.requests)) == (settles, asked)
        assert shop.ask(both, paid, signed_at).status == 200
        spent = shop.facilitator.balance(payer.address)
        assert shop.ask(both, paid, signed_at).status == 403
        assert shop.ask(both, paid, other).status in (402, 403)
        assert shop.facilitator.balance(payer.address) == spent
        assert len(shop.upstream.requests) == asked + 1


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_what_a_wallet_is_told_is_what_moved(shop: Shop, way: Way, streamed: bool) -> None:
    payer = shop.payer()
    body = {"model": "auto", "input": "Say hello", "max_output_tokens": 50, "stream": streamed}
    got = shop.pay(payer, way, body, path=PATH)
    response = events(got.body)[-1][1]["response"] if streamed else got.json
    row = wait_end(shop.router, request_id(got))
    assert round(response["usage"]["cost"] * 1e9) == row.amount_nusd
    shop.ended()
    moved = 10**9 - shop.facilitator.balance(payer.address)
    assert moved * 1_000 == row.amount_nusd
    receipt = shop.router.request("GET", f"/v1/receipts/{request_id(got)}").json
    assert receipt["charge_nusd"] == row.amount_nusd


@pytest.mark.parametrize("way", ["exact", "evm"])
def test_a_stream_that_fails_after_it_was_paid_says_so_and_keeps_its_receipt(shop: Shop, way: Way) -> None:
    shop.upstream.on(MODEL, stream("one two three", cut_after=3))
    got = shop.pay(shop.payer(), way, {"model": "auto", "input": "Hi", "stream": True}, path=PATH)
    shop.upstream.on(MODEL, shop.upstream.default)
    name, last = events(got.body)[-1]
    assert (name, last["response"]["error"]["name"]) == ("response.failed", "upstream_error")
    assert {"payment-response", "payment-receipt"} & got.headers.keys()
    shop.ended()
    payment = shop.payment("settled")
    assert (payment.unpaid, payment.unserved) == (False, False)
    assert round(last["response"]["usage"]["cost"] * 1e9) == payment.served_nusd


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with counter(tmp_path_factory.mktemp("shop")) as opened:
        yield opened


def test_an_upstream_that_falls_silent_ends_as_failed(
    up: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("hanging")
    provider = "timeout_s = { connect = 1, first_byte = 1, idle = 0.3 }"
    catalog = write_catalog(
        folder / "catalog", {"scripted": up.base_url}, [Offered(MODEL)], provider=provider
    )
    up.on(MODEL, stream("one two three", hang_after=3), hang())
    with RouterServer(catalog, folder / "data") as router:
        name, last = events(ask(router, stream=True).body)[-1]
        assert name == "response.failed"
        assert last["response"]["error"]["name"] == "upstream_timeout"
        assert last["response"]["output"][0]["content"][0]["text"] == "one two"
