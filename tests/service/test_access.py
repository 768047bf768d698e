"""Who may ask: open and paid access, keys made beside the service, credit, budgets and a key's limits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.router import Answer, Offered, RouterServer, write_catalog
from tests.service.walking import (
    Client,
    bearer,
    books_of,
    ledger_rows,
    make_key,
    question,
    request_id,
    run_command,
    wait_end,
    wait_for,
)
from tests.upstream import Gate, ScriptedUpstream, answer, stream

ADMIN = "the admin key of these tests"
MODEL = "test/model"
USAGE = {"prompt_tokens": 1_000, "completion_tokens": 500, "total_tokens": 1_500}
UNKNOWN = "rk_" + "A" * 49


@pytest.fixture(scope="module")
def up() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as server:
        yield server


@pytest.fixture(scope="module")
def catalog(up: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory) -> Path:
    models = [Offered(MODEL), Offered("test/dear", price=(10, 20)), Offered("other/model", price=(20, 40))]
    return write_catalog(tmp_path_factory.mktemp("access"), {"scripted": up.base_url}, models)


@pytest.fixture(scope="module")
def open_router(
    catalog: Path, database_url: str | None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RouterServer]:
    with RouterServer(
        catalog, tmp_path_factory.mktemp("open"), database_url=database_url, admin_key=ADMIN
    ) as server:
        yield server


@pytest.fixture(scope="module")
def paid(
    catalog: Path, database_url: str | None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RouterServer]:
    folder = tmp_path_factory.mktemp("paid")
    with RouterServer(catalog, folder, access="paid", database_url=database_url, admin_key=ADMIN) as server:
        yield server


@pytest.fixture(params=["open", "paid"])
def router(request: pytest.FixtureRequest, open_router: RouterServer, paid: RouterServer) -> RouterServer:
    return open_router if request.param == "open" else paid


@pytest.fixture(autouse=True)
def scripts(up: ScriptedUpstream) -> None:
    up.on(MODEL, answer(usage=USAGE))


def ask(router: RouterServer, key: str, **fields: Any) -> Answer:
    return router.chat(headers=bearer(key), **{"model": MODEL, **fields})


def worst_usd(router: RouterServer) -> Decimal:
    """Return what is held for a request of 2,000 output tokens."""
    key, _ = make_key(router)
    got = router.request("POST", "/v1/route", question(model=MODEL, max_tokens=2_000), bearer(key))
    return Decimal(str(got.json["quote"]["max_usd"]))


def keys_command(router: RouterServer, *arguments: str) -> Any:
    result = run_command(router, "keys", *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def check_refused(got: Answer, says: str) -> None:
    assert (got.status, got.error["code"], got.error["name"]) == (401, 401, "invalid_api_key")
    assert got.error["type"] == "authentication_error"
    assert says in got.error["message"]


@pytest.mark.parametrize(
    "authorization", [None, "", "Bearer unused", "Bearer none", "Bearer ", "bearer EMPTY"]
)
def test_open_access_asks_for_no_key_and_paid_access_says_how_to_get_one(
    open_router: RouterServer, paid: RouterServer, authorization: str | None
) -> None:
    headers = {} if authorization is None else {"authorization": authorization}

    answered = open_router.chat(model=MODEL, headers=headers)
    refused = paid.chat(model=MODEL, headers=headers)

    assert answered.status == 200
    assert wait_end(open_router, request_id(answered)).account == "open"
    check_refused(refused, "router keys create")


@pytest.mark.parametrize(
    "authorization",
    [
        f"Bearer {UNKNOWN}",
        "Bearer rk_short",
        "Bearer sk-proj-abcdefgh",
        f"Basic {UNKNOWN}",
        UNKNOWN,
        f"Bearer {UNKNOWN}, Bearer {UNKNOWN}",
        "Bearer ' OR 1=1 --",
        "Bearer caf\xe9",
        "Bearer " + "x" * 30_000,
    ],
)
def test_a_wrong_key_is_the_same_401_in_both_kinds_of_access(
    router: RouterServer, up: ScriptedUpstream, authorization: str
) -> None:
    before = len(up.requests)

    got = router.chat(headers={"authorization": authorization})

    check_refused(got, "Invalid API key")
    check_refused(got, "Incorrect API key provided")
    assert authorization[-8:] not in got.error["message"]
    assert len(up.requests) == before


def test_a_wrong_key_is_told_before_the_body_is_judged(router: RouterServer) -> None:
    got = router.request("POST", "/v1/chat/completions", b"not json", bearer(UNKNOWN))
    assert got.status == 401
    assert router.request("POST", "/v1/route", question(), bearer(UNKNOWN)).status == 401


def test_a_key_made_by_another_process_works_at_once_and_pays_for_itself(paid: RouterServer) -> None:
    command = [
        sys.executable,
        "-m",
        "router",
        "keys",
        "create",
        "--name",
        "beside",
        "--credit",
        "1",
        "--json",
    ]
    environ = {**os.environ, "ROUTER_DATABASE_URL": paid.database_url or ""}
    made = json.loads(subprocess.check_output([*command, "--data", str(paid.data)], timeout=30, env=environ))

    got = ask(paid, made["key"])

    assert set(made) == {"id", "key", "name", "credit_usd"}
    assert got.status == 200
    row = wait_end(paid, request_id(got))
    assert (row.account, row.amount_nusd, row.balance_after_nusd) == (made["id"], 2_000_000, 998_000_000)
    (listed,) = [key for key in keys_command(paid, "list") if key["id"] == made["id"]]
    assert (listed["credit_usd"], listed["spent_usd"], listed["held_usd"]) == (0.998, 0.002, 0)


def test_a_revoked_key_is_refused_within_a_second(router: RouterServer) -> None:
    key, account = make_key(router, "--credit", "1")
    assert ask(router, key).status == 200

    keys_command(router, "revoke", account)

    refused = wait_for(lambda: g if (g := ask(router, key)).status != 200 else None, "the revocation", 1.0)
    check_refused(refused, "revoked")


def test_an_expired_key_is_refused_and_one_of_today_is_not(router: RouterServer) -> None:
    today = datetime.now(UTC).date()
    new, _ = make_key(router, "--credit", "1", "--expires", str(today + timedelta(days=1)))
    old, key_id = make_key(router, "--credit", "1")
    past = {"expires": str(today - timedelta(days=1))}
    assert router.request("POST", f"/admin/keys/{key_id}", past, bearer(ADMIN)).status == 200

    check_refused(ask(router, old), "expired")
    assert ask(router, new).status == 200


def test_a_key_without_credit_serves_in_open_access_only(
    open_router: RouterServer, paid: RouterServer
) -> None:
    key, account = make_key(open_router)
    got = ask(open_router, key)
    assert got.status == 200
    assert wait_end(open_router, request_id(got)).account == account

    poor, _ = make_key(paid)
    assert ask(paid, poor).error["name"] == "insufficient_credits"


def test_credit_that_does_not_cover_the_worst_case_is_a_402_before_the_upstream_is_called(
    router: RouterServer, up: ScriptedUpstream
) -> None:
    key, account = make_key(router, "--credit", "0.0001")
    before = len(up.requests)

    got = ask(router, key)

    assert (got.status, got.error["code"], got.error["name"]) == (402, 402, "insufficient_credits")
    assert got.error["type"] == "insufficient_quota"
    assert "0.0001 USD of credit left" in got.error["message"]
    assert len(up.requests) == before
    assert [row.kind for row in ledger_rows(router) if row.account == account] == ["topup"]


def test_credit_runs_out_and_a_top_up_serves_again(router: RouterServer) -> None:
    worst = worst_usd(router)
    key, account = make_key(router, "--credit", str(worst + Decimal("0.002")))

    statuses = [ask(router, key, max_tokens=2_000).status for _ in range(4)]
    assert statuses == [200, 200, 402, 402]

    keys_command(router, "topup", account, "1")
    assert ask(router, key, max_tokens=2_000).status == 200


@pytest.mark.parametrize("period", ["day", "month"])
def test_a_budget_ends_in_a_402_that_names_it(router: RouterServer, period: str) -> None:
    key, _ = make_key(router, "--credit", "5", f"--budget-{period}", str(worst_usd(router)))

    first, second = ask(router, key, max_tokens=2_000), ask(router, key, max_tokens=2_000)

    assert (first.status, second.status, second.error["name"]) == (200, 402, "budget_exceeded")
    assert f"USD a {period}" in second.error["message"]


@pytest.mark.parametrize("streams", [False, True])
def test_a_charge_is_cut_to_the_hold_and_every_place_says_the_same(
    paid: RouterServer, up: ScriptedUpstream, streams: bool
) -> None:
    key, account = make_key(paid, "--credit", "1")
    more = {"prompt_tokens": 1_000, "completion_tokens": 90_000, "total_tokens": 91_000}
    up.on(MODEL, stream(counts=more) if streams else answer(usage=more))

    got = ask(paid, key, max_tokens=10, stream=streams)

    row = wait_end(paid, request_id(got))
    (held,) = [r.amount_nusd for r in ledger_rows(paid) if r.account == account and r.kind == "hold"]
    assert row.amount_nusd == held
    assert row.upstream_cost_nusd == 181_000_000
    assert row.balance_after_nusd == 10**9 - held
    last = got.events()[-2] if streams else got.body
    assert json.loads(last, parse_float=Decimal)["usage"]["cost"] * 10**9 == held
    if not streams:
        assert Decimal(got.headers["x-llm-router-cost-usd"]) * 10**9 == held


def test_a_keys_requests_a_minute_end_in_a_429_with_retry_after(
    router: RouterServer, up: ScriptedUpstream
) -> None:
    key, account = make_key(router, "--credit", "5", "--rpm", "2")
    before = len(up.requests)

    answers = [ask(router, key) for _ in range(3)]

    assert [got.status for got in answers] == [200, 200, 429]
    assert 1 <= int(answers[2].headers["retry-after"]) <= 60
    assert answers[2].error["name"] == "rate_limit_exceeded"
    assert answers[2].error["type"] == "rate_limit_error"
    assert "API key" in answers[2].error["message"]
    assert "rpm" in answers[2].error["message"]
    assert len(up.requests) == before + 2
    assert sum(row.account == account and row.kind == "hold" for row in ledger_rows(router)) == 2


def test_a_keys_tokens_a_minute_count_what_was_really_used(router: RouterServer) -> None:
    key, _ = make_key(router, "--credit", "5", "--tpm", "2000")

    answers = [ask(router, key, max_tokens=600) for _ in range(2)]

    assert [got.status for got in answers] == [200, 429]  # 1,500 used and 600 more wished for
    assert ask(router, key, max_tokens=100).status == 200


def test_a_keys_requests_at_once_are_bounded_and_free_again(
    router: RouterServer, up: ScriptedUpstream
) -> None:
    key, _ = make_key(router, "--credit", "5", "--concurrency", "1")
    gate = Gate()
    up.on(MODEL, stream(gate=gate, gate_after=2), answer())
    client = Client(router, question(model=MODEL, stream=True), bearer(key))
    client.head()

    full = ask(router, key)
    gate.open()
    client.read_rest()

    assert (full.status, full.headers["retry-after"]) == (429, "1")
    wait_for(lambda: True if ask(router, key).status == 200 else None, "the key's place")


def test_one_keys_limit_does_not_touch_another(router: RouterServer) -> None:
    limited, _ = make_key(router, "--credit", "5", "--rpm", "1")
    other, _ = make_key(router, "--credit", "5", "--rpm", "1")
    assert [ask(router, limited).status for _ in range(2)] == [200, 429]
    assert ask(router, other).status == 200


def test_a_keys_models_bound_what_auto_takes_and_what_may_be_named(router: RouterServer) -> None:
    key, _ = make_key(router, "--credit", "5", "--models", "other/*", "--models", "test/d*")

    chosen = ask(router, key, model="auto")
    named = ask(router, key, model=MODEL)

    assert chosen.headers["x-llm-router-resolved-model"] == "test/dear"
    assert ask(router, key, model="other/model").status == 200
    assert (named.status, named.error["param"]) == (400, "model")
    assert "API key does not allow it" in named.error["message"]
    assert ask(router, key, model=MODEL, models=["other/model"]).status == 200


def test_a_key_cannot_widen_itself_from_the_body(router: RouterServer) -> None:
    key, _ = make_key(router, "--credit", "5", "--models", "other/*")

    fields: dict[str, Any] = {"router": {"allow": ["*"]}, "credits": 100, "role": "admin", "api_key": "x"}
    got = router.chat(headers=bearer(key), **fields)

    assert got.headers["x-llm-router-resolved-model"] == "other/model"


def test_no_key_is_in_the_log_or_the_database(router: RouterServer) -> None:
    key, _ = make_key(router, "--credit", "5")
    assert ask(router, key).status == 200

    assert key not in router.log.getvalue()
    assert not any(key.encode() in file.read_bytes() for file in router.data.rglob("*") if file.is_file())
    assert key not in books_of(router).dump()


def test_the_books_of_all_these_requests_are_right(router: RouterServer) -> None:
    result = run_command(router, "ledger", "check")
    exported = run_command(router, "ledger", "export", "--json")
    told = run_command(router, "ledger", "export")
    assert (result.exit_code, "Every balance follows" in result.output) == (0, True)
    lines = [json.loads(line) for line in exported.stdout.splitlines()]
    assert (told.exit_code, "topup" in told.stdout) == (0, True)
    assert {line["kind"] for line in lines} >= {"hold", "settle", "topup"}
    assert all(line["amount_nusd"] >= 0 and isinstance(line["amount_nusd"], int) for line in lines)
