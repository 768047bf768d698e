"""What money does to a decision: credit that filters, a cap that is exact."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.router import Offered, RouterServer, write_catalog
from tests.service.walking import bearer, ledger_rows, make_key, question, request_id, wait_end
from tests.upstream import ScriptedUpstream, answer, status

GOOD, CHEAP, ONE = "maker/good", "maker/cheap", "maker/one"
LOW = {"simple": 40, "coding": 40, "reasoning": 40}
NANO = Decimal("0.000000001")


@pytest.fixture(scope="module")
def up() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as server:
        yield server


def serve(
    up: ScriptedUpstream, folder: Path, *models: Offered, policy: str = "", **given: Any
) -> RouterServer:
    catalog = write_catalog(folder / "catalog", {"scripted": up.base_url}, list(models), policy=policy)
    return RouterServer(catalog, folder / "data", **given)


@pytest.fixture(scope="module")
def router(
    up: ScriptedUpstream, database_url: str | None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RouterServer]:
    models = Offered(GOOD), Offered(CHEAP, price=(0.5, 1.0), quality=LOW)
    folder = tmp_path_factory.mktemp("paid")
    with serve(up, folder, *models, access="paid", database_url=database_url) as server:
        yield server


def quote_usd(router: RouterServer, key: str, **fields: Any) -> Decimal:
    """Return the worst case of the offer that would serve."""
    told = router.request("POST", "/v1/route", question(**fields), bearer(key))
    assert told.status == 200
    return Decimal(json.loads(told.body, parse_float=str)["quote"]["max_usd"])


# The worst cases of the two are 0.016 and 0.008 USD, and some prompt tokens.
@pytest.mark.parametrize("money", [("--credit", "0.012"), ("--credit", "5", "--budget-day", "0.012")])
def test_credit_that_does_not_reach_the_winner_leaves_those_that_it_reaches(
    router: RouterServer, money: tuple[str, ...]
) -> None:
    key, _ = make_key(router, *money)

    told = router.request("POST", "/v1/route", question(), bearer(key))
    got = router.chat(headers=bearer(key))

    assert told.status == got.status == 200
    assert told.json["chosen"]["model"] == CHEAP == got.headers["x-llm-router-resolved-model"]
    assert [(x["model"], x["reason"]) for x in told.json["losers"]] == [(GOOD, "credit")]
    rows = [row for row in ledger_rows(router) if row.request_id == request_id(got)]
    assert next((row.kind, row.model) for row in rows) == ("hold", CHEAP)
    assert wait_end(router, request_id(got)).kind == "settle"


def test_credit_that_reaches_nobody_is_402_and_a_decision_tells_what_is_needed(router: RouterServer) -> None:
    key, _ = make_key(router, "--credit", "0.001")

    told = router.request("POST", "/v1/route", question(), bearer(key))
    got = router.chat(headers=bearer(key))

    assert (told.status, got.status) == (200, 402)
    assert told.json["chosen"]["model"] == GOOD
    assert got.error["name"] == "insufficient_credits"
    assert "0.001 USD of credit left and this request may cost up to 0.008" in got.error["message"]
    assert got.error["available_usd"] == 0.001
    assert f"up to {got.error['needed_usd']} USD" in got.error["message"]
    assert got.error["needed_usd"] > 0.008


def test_a_budget_that_is_used_up_says_what_is_left_of_it(router: RouterServer) -> None:
    key, _ = make_key(router, "--credit", "5", "--budget-day", "0.002")
    got = router.chat(headers=bearer(key))
    assert (got.status, got.error["name"], got.error["available_usd"]) == (402, "budget_exceeded", 0.002)
    assert got.error["needed_usd"] > 0.008


def test_a_budget_holds_whatever_an_upstream_says_it_used(
    up: ScriptedUpstream, database_url: str | None, tmp_path: Path
) -> None:
    usage = {"prompt_tokens": 150_000, "completion_tokens": 5, "total_tokens": 150_005}
    up.on(ONE, answer("hi", usage=usage))
    with serve(up, tmp_path, Offered(ONE), database_url=database_url) as server:
        key, _ = make_key(server, "--budget-day", "0.02")
        got = server.chat(headers=bearer(key), model=ONE)
        settle = wait_end(server, request_id(got))
        (hold,) = (x for x in ledger_rows(server) if (x.request_id, x.kind) == (request_id(got), "hold"))
    assert (settle.kind, settle.amount_nusd) == ("settle", hold.amount_nusd)
    assert settle.upstream_cost_nusd is not None
    assert settle.upstream_cost_nusd > 20_000_000 > hold.amount_nusd
    assert Decimal(got.headers["x-llm-router-cost-usd"]) == hold.amount_nusd * NANO
    assert round(got.json["usage"]["cost"] * 1e9) == hold.amount_nusd


def test_a_named_model_is_not_replaced_for_money(router: RouterServer) -> None:
    key, _ = make_key(router, "--credit", "0.012")
    assert router.chat(headers=bearer(key), model=GOOD).status == 402
    assert router.chat(headers=bearer(key), model=CHEAP).status == 200


@pytest.mark.parametrize("place", ["body", "header"])
def test_a_cap_of_the_quoted_worst_case_is_enough_and_a_nano_dollar_less_is_not(
    router: RouterServer, place: str
) -> None:
    key, _ = make_key(router, "--credit", "5")
    worst = quote_usd(router, key)

    def winner(cap: Decimal) -> str:
        if place == "header":
            headers = {**bearer(key), "x-llm-router-max-cost-usd": f"{cap:f}"}
            return router.chat(headers=headers).headers["x-llm-router-resolved-model"]
        fields = {"max_cost_usd": float(cap), "session": "of one request, which no upstream reads"}
        return router.chat(headers=bearer(key), router=fields).headers["x-llm-router-resolved-model"]

    assert winner(worst) == GOOD
    assert winner(worst - NANO) == CHEAP


@pytest.mark.parametrize("fields", [{}, {"model": "coding"}], ids=["classified", "named"])
def test_the_log_names_the_probability_of_every_category(
    up: ScriptedUpstream, tmp_path: Path, fields: dict[str, Any]
) -> None:
    with serve(up, tmp_path, Offered(GOOD)) as server:
        assert server.chat(**fields).status == 200
    (file,) = (tmp_path / "data" / "decisions").glob("*.jsonl")
    line = json.loads(file.read_text().splitlines()[-1])
    assert list(line["probabilities"]) == ["simple", "coding", "reasoning", "vision"]


def test_an_upstream_that_keeps_saying_429_is_told_with_the_wait_that_holds(
    up: ScriptedUpstream, tmp_path: Path
) -> None:
    up.on(ONE, status(429))
    with serve(up, tmp_path, Offered(ONE)) as server:
        waits = []
        for _ in range(3):
            refused = server.chat()
            waits.append(int(refused.headers["retry-after"]))
            server.skip(waits[-1])
        assert waits == [10, 20, 40]
