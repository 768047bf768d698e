"""`Idempotency-Key` over a real service: one charge a key, the same answer for who comes with it again."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from router.ledger.rows import Row
from tests.router import Answer, Offered, RouterServer, write_catalog
from tests.service.test_raw_sockets import Line
from tests.service.walking import (
    Client,
    bearer,
    ledger_rows,
    make_key,
    question,
    request_id,
    wait_all_ended,
    wait_for,
)
from tests.upstream import Gate, ScriptedUpstream, answer, error_event_after, hang, status, stream

WORDS = "one two three four five six"
A, B = "test/a", "test/b"
_numbers = count()


@pytest.fixture(scope="module")
def up() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as server:
        yield server


@pytest.fixture(scope="module")
def router(up: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RouterServer]:
    with serve(up, tmp_path_factory.mktemp("once")) as server:
        yield server


def serve(up: ScriptedUpstream, folder: Path, **settings: Any) -> RouterServer:
    models = [Offered(A), Offered(B, price=(4, 8), quality=None)]
    catalog = write_catalog(folder / "catalog", {"scripted": up.base_url}, models)
    return RouterServer(catalog, folder / "data", **settings)


@pytest.fixture
def key() -> dict[str, str]:
    """Return the header with a key that no other test uses."""
    return {"idempotency-key": f"key {next(_numbers)}"}


def calls(up: ScriptedUpstream) -> int:
    return len(up.requests)


def rows_of(router: RouterServer, key: dict[str, str]) -> list[Row]:
    """Return the rows of a key once every hold has ended."""
    return [row for row in wait_all_ended(router) if row.idempotency_key == key["idempotency-key"]]


def kinds(rows: list[Row]) -> list[str]:
    return [row.kind for row in rows]


def settled(router: RouterServer, key: dict[str, str]) -> list[Row]:
    return [row for row in rows_of(router, key) if row.kind == "settle"]


def without(headers: dict[str, str], *names: str) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name not in (*names, "date")}


@pytest.mark.parametrize(
    "fields", [{}, {"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}]
)
def test_a_retry_gets_the_same_answer_byte_for_byte_and_is_not_charged(
    router: RouterServer, up: ScriptedUpstream, key: dict[str, str], fields: dict[str, Any]
) -> None:
    up.on(A, answer("once") if not fields else stream(WORDS))
    before = calls(up)

    first = router.chat(headers=key, model=A, **fields)
    again = router.chat(headers=key, model=A, **fields)

    assert first.status == again.status == 200
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert again.body == first.body
    framing = ("idempotent-replayed", "transfer-encoding", "content-length", "server-timing")
    assert without(again.headers, *framing) == without(first.headers, *framing)
    assert calls(up) == before + 1
    hold, settle = rows_of(router, key)
    assert (hold.kind, settle.kind) == ("hold", "settle")
    assert settle.request_id == first.headers["x-request-id"] == again.headers["x-request-id"]


def test_a_retry_that_brings_an_id_of_its_own_gets_it_back(router: RouterServer, key: dict[str, str]) -> None:
    router.chat(headers={**key, "x-request-id": "run:1"}, model=B)
    again = router.chat(headers={**key, "x-request-id": "run:2"}, model=B)
    assert (again.headers["idempotent-replayed"], again.headers["x-request-id"]) == ("true", "run:2")


def test_the_log_says_that_nothing_was_asked_anew(router: RouterServer, key: dict[str, str]) -> None:
    for client_id in ("asked", "replayed"):
        router.chat(headers={**key, "x-request-id": f"log {client_id}"}, model=B)

    def look() -> dict[str, Any] | None:
        return next((x for x in router.logged() if x.get("client_request_id") == "log replayed"), None)

    line = wait_for(look, "the line of the replay")
    assert (line["outcome"], line.get("charged_nusd"), line["attempts"]) == ("replayed", None, 0)


def test_another_body_is_422_and_another_key_is_another_request(
    router: RouterServer, up: ScriptedUpstream, key: dict[str, str]
) -> None:
    assert router.chat("one", headers=key, model=B).status == 200
    before = calls(up)

    refused = router.chat("two", headers=key, model=B)

    assert (refused.status, refused.error["name"]) == (422, "idempotency_key_reused")
    assert (refused.error["param"], refused.error["type"]) == ("idempotency-key", "invalid_request_error")
    assert calls(up) == before
    assert router.chat("two", headers={"idempotency-key": "yet another"}, model=B).status == 200
    assert len(settled(router, key)) == 1


def test_a_key_belongs_to_an_account(router: RouterServer, up: ScriptedUpstream, key: dict[str, str]) -> None:
    one, _ = make_key(router, "--credit", "1")
    other, _ = make_key(router, "--credit", "1")
    before = calls(up)
    for headers in (key, {**key, **bearer(one)}, {**key, **bearer(other)}):
        got = router.chat("the same", headers=headers, model=B)
        assert (got.status, "idempotent-replayed" in got.headers) == (200, False)
    assert calls(up) == before + 3
    assert len({row.account for row in settled(router, key)}) == 3


def test_while_it_runs_a_copy_gets_409_and_afterwards_the_answer(
    router: RouterServer, up: ScriptedUpstream, key: dict[str, str]
) -> None:
    gate = Gate()
    up.on(A, stream(WORDS, gate=gate))
    before = calls(up)
    client = Client(router, question(model=A, stream=True), key)
    up.wait_requests(before + 1)

    copy = router.chat(headers=key, model=A, stream=True)
    other = router.chat("another body", headers=key, model=A, stream=False)

    assert (copy.status, copy.error["name"]) == (409, "idempotency_key_in_use")
    assert (copy.headers["retry-after"], copy.error["param"]) == ("1", "idempotency-key")
    assert other.status == 422
    gate.open()
    client.head()
    whole = client.read_rest()
    again = router.chat(headers=key, model=A, stream=True)
    assert again.body == whole
    assert calls(up) == before + 1


def test_of_racing_copies_exactly_one_runs(
    router: RouterServer, up: ScriptedUpstream, key: dict[str, str]
) -> None:
    gate = Gate()
    up.on(A, stream(WORDS, gate=gate))
    before = calls(up)

    def ask(_: int) -> Answer:
        return router.chat(headers=key, model=A, stream=True)

    with ThreadPoolExecutor(24) as pool:
        asked = [pool.submit(ask, number) for number in range(24)]
        wait_for(lambda: True if sum(x.done() for x in asked) == 23 else None, "the refusals")
        gate.open()
        answers = [x.result() for x in asked]

    assert sorted(got.status for got in answers) == [200] + [409] * 23
    assert calls(up) == before + 1
    assert kinds(rows_of(router, key)) == ["hold", "settle"]


def test_a_request_that_failed_frees_its_key(
    router: RouterServer, up: ScriptedUpstream, key: dict[str, str]
) -> None:
    up.on(A, status(400), answer("well"))
    assert router.chat(headers=key, model=A).status == 400
    assert router.chat(headers=key, model="no/such").status == 404
    got = router.chat(headers=key, model=A)
    assert (got.status, "idempotent-replayed" in got.headers) == (200, False)
    assert kinds(rows_of(router, key)) == ["hold", "release", "hold", "settle"]


def test_leaving_before_the_first_word_frees_the_key(
    router: RouterServer, up: ScriptedUpstream, key: dict[str, str]
) -> None:
    up.on(A, hang(), answer("back"))
    before = calls(up)
    client = Client(router, question(model=A), key)
    up.wait_requests(before + 1)
    client.leave()
    wait_all_ended(router)
    assert router.chat(headers=key, model=A).status == 200
    assert kinds(rows_of(router, key)) == ["hold", "release", "hold", "settle"]


def test_who_left_in_the_middle_is_answered_anew_and_pays_no_more_than_one_answer(
    router: RouterServer, up: ScriptedUpstream, key: dict[str, str]
) -> None:
    up.on(A, stream(WORDS, hang_after=4), stream("word " * 60))
    client = Client(router, question(model=A, stream=True), key)
    client.head()
    client.read_until(b"three")
    client.leave()
    (cut,) = wait_for(lambda: settled(router, key) or None, "the settle of what was delivered")

    whole = router.chat(headers=key, model=A, stream=True)
    again = router.chat(headers=key, model=A, stream=True)

    assert whole.chunks()[-1]["usage"]["completion_tokens"] == 60
    assert again.body == whole.body
    assert "idempotent-replayed" in again.headers
    first, rest = settled(router, key)
    assert first == cut
    assert rest.amount_nusd == round(whole.chunks()[-1]["usage"]["cost"] * 1e9)  # what this retry costs
    assert rest.completion_tokens == 60
    alone = router.chat(headers={**key, "idempotency-key": "key of another"}, model=A, stream=True)
    assert first.amount_nusd + rest.amount_nusd == round(alone.chunks()[-1]["usage"]["cost"] * 1e9)


def test_what_a_broken_upstream_delivered_is_not_charged_again(
    router: RouterServer, up: ScriptedUpstream, key: dict[str, str]
) -> None:
    up.on(A, error_event_after(5), stream("one", usage="never"))
    broken = router.chat(headers=key, model=A, stream=True)
    assert "error" in broken.chunks()[-1]
    whole = router.chat(headers=key, model=A, stream=True)
    assert whole.chunks()[-1]["usage"]["cost"] == 0
    rows = rows_of(router, key)
    assert kinds(rows) == ["hold", "settle", "hold", "release"]
    assert rows[-1].completion_tokens == 1
    assert rows[-1].upstream_cost_nusd is not None
    assert rows[-1].upstream_cost_nusd > 0
    assert router.chat(headers=key, model=A, stream=True).body == whole.body


def test_a_paid_answer_is_given_anew_once_where_it_cannot_be_kept(
    up: ScriptedUpstream, tmp_path: Path, key: dict[str, str]
) -> None:
    up.on(A, answer("too large"))
    with serve(up, tmp_path, idempotency_mib=0) as router:
        for expected in (["settle"], ["settle", "release"], ["settle", "release", "settle"]):
            got = router.chat(headers=key, model=A)
            assert (got.status, "idempotent-replayed" in got.headers) == (200, False)
            ends = [row.kind for row in rows_of(router, key) if row.kind != "hold"]
            assert ends == expected
            charged = expected[-1] == "settle"
            assert (got.headers["x-llm-router-cost-usd"] == "0") is not charged


def test_a_dearer_fallback_keeps_the_key(
    router: RouterServer, up: ScriptedUpstream, key: dict[str, str]
) -> None:
    up.on(A, status(500))
    up.on(B, answer("second"))
    got = router.chat(headers=key, model=A, models=[B])
    assert (got.status, got.headers["x-llm-router-resolved-model"]) == (200, B)
    assert kinds(rows_of(router, key)) == ["hold", "release", "hold", "settle"]
    assert router.chat(headers=key, model=A, models=[B]).body == got.body


def test_an_empty_account_gets_its_paid_answer_again(
    up: ScriptedUpstream, tmp_path: Path, key: dict[str, str]
) -> None:
    up.on(A, answer("paid"))
    with serve(up, tmp_path, access="paid") as router:
        text, _ = make_key(router, "--credit", "0.0162")
        headers = {**key, **bearer(text)}
        first = router.chat(headers=headers, model=A)
        assert first.status == 200
        wait_all_ended(router)
        assert router.chat("more", headers=bearer(text), model=A, n=2).status == 402
        assert router.chat(headers=headers, model=A).body == first.body


def test_a_retry_needs_no_credit_for_what_was_paid(
    up: ScriptedUpstream, tmp_path: Path, key: dict[str, str]
) -> None:
    up.on(A, stream(WORDS, hang_after=4), stream(WORDS))
    with serve(up, tmp_path, access="paid") as router:
        rich, _ = make_key(router, "--credit", "1")
        told = router.request("POST", "/v1/route", question(model=A, stream=True), bearer(rich))
        worst_usd = told.json["quote"]["max_usd"]
        text, _ = make_key(router, "--credit", f"{worst_usd:.9f}")
        headers = {**key, **bearer(text)}
        client = Client(router, question(model=A, stream=True), headers)
        client.head()
        client.read_until(b"three")
        client.leave()
        (cut,) = wait_for(lambda: settled(router, key) or None, "the settle of what was delivered")

        assert router.chat("other", headers=bearer(text), model=A, stream=True).status == 402
        whole = router.chat(headers=headers, model=A, stream=True)

        assert whole.status == 200
        hold, *_ = [row for row in rows_of(router, key) if row.request_id == request_id(whole)]
        assert hold.amount_nusd == round(worst_usd * 1e9) - cut.amount_nusd


@pytest.mark.parametrize("value", ["", "x" * 256, "caf\xe9", "a\tb"])
def test_a_key_that_is_none_is_refused_by_name(router: RouterServer, value: str) -> None:
    refused = router.chat(headers={"idempotency-key": value}, model=A)
    assert (refused.status, refused.error["param"]) == (400, "idempotency-key")
    assert "1 to 255 printable ASCII" in refused.error["message"]


def test_the_longest_key_is_taken(router: RouterServer) -> None:
    assert router.chat(headers={"idempotency-key": "x" * 255}, model=B).status == 200


def test_a_decision_needs_no_key(router: RouterServer, key: dict[str, str]) -> None:
    for _ in range(2):
        told = router.request("POST", "/v1/route", question(model=B), key)
        assert (told.status, "idempotent-replayed" in told.headers) == (200, False)


def test_the_rows_name_the_key(router: RouterServer, key: dict[str, str]) -> None:
    router.chat(headers=key, model=B)
    assert rows_of(router, key)
    assert all(re.match("key |yet|x", row.idempotency_key or "x") for row in ledger_rows(router))


@pytest.mark.parametrize(
    "name", ["idempotency-key", "x-llm-router-max-cost-usd", "x-llm-router-mode", "x-llm-router-session"]
)
def test_of_two_values_none_is_chosen(router: RouterServer, up: ScriptedUpstream, name: str) -> None:
    before = calls(up)
    body = json.dumps(question(model=B)).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
        f"{name}: 1\r\n{name}: 2\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    with Line(router, head.encode() + body) as line:
        data = line.hear().data
    error = json.loads(data.split(b"\r\n\r\n", 1)[1])["error"]
    assert data.startswith(b"HTTP/1.1 400 ")
    assert (error["param"], name in error["message"]) == (name, True)
    assert calls(up) == before
