"""What customers see of their own: usage, the models they may use, receipts. OpenClaw's plugin reads two."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.router import Offered, RouterServer, write_catalog
from tests.service.walking import Client, bearer, make_key, question, request_id, wait_all_ended, wait_end
from tests.upstream import Gate, ScriptedUpstream, answer, status, stream

A, B, THINKS = "test/a", "test/b", "maker/thinks"


@pytest.fixture(scope="module")
def up() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as server:
        yield server


def serve(up: ScriptedUpstream, folder: Path, **settings: Any) -> RouterServer:
    models = [
        Offered(A, features=("tools",), context=10_000),
        Offered(B, price=(4, 8), quality=None, input=("text",)),
        Offered(THINKS, price=(0.05, 1.5), features=("reasoning",)),
    ]
    catalog = write_catalog(folder / "catalog", {"scripted": up.base_url}, models)
    return RouterServer(catalog, folder / "data", **settings)


@pytest.fixture(scope="module")
def router(up: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RouterServer]:
    with serve(up, tmp_path_factory.mktemp("account")) as server:
        yield server


@pytest.fixture(scope="module")
def paid(up: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RouterServer]:
    with serve(up, tmp_path_factory.mktemp("paid"), access="paid") as server:
        yield server


def told(router: RouterServer, path: str, key: str | None = None) -> Any:
    got = router.request("GET", path, None, bearer(key) if key else None)
    assert (got.status, got.headers["cache-control"]) == (200, "no-store")
    return got.json


def plugin_reads(document: dict[str, Any]) -> tuple[bool, dict[str, Any], dict[str, Any]]:
    """Read a usage document as the plugin does: numbers that are missing or negative count as none."""
    budget, summary = document["budget"], document["usage"]["summary"]
    for name in ("requestCount", "totalTokens", "actualCostMicros"):
        assert isinstance(summary[name], int)
        assert summary[name] >= 0
    if budget["configured"]:
        for name in ("limitMicros", "spentMicros", "remainingMicros"):
            assert isinstance(budget[name], int)
            assert budget[name] >= 0
    return budget["configured"] is True, budget, summary


def test_usage_of_a_key_with_credit_has_the_plugin_s_form_and_the_balance(
    paid: RouterServer, up: ScriptedUpstream
) -> None:
    up.on(A, answer("well"))
    key, key_id = make_key(paid, "--credit", "5")
    got = paid.chat(headers=bearer(key), model=A)
    row = wait_end(paid, request_id(got))

    document = told(paid, "/v1/usage", key)
    configured, budget, summary = plugin_reads(document)

    assert configured
    spent = -(-row.amount_nusd // 1_000)
    assert budget["spentMicros"] == summary["actualCostMicros"] == spent
    assert budget["remainingMicros"] == (5_000_000_000 - row.amount_nusd) // 1_000
    assert budget["limitMicros"] == budget["spentMicros"] + budget["remainingMicros"]
    assert budget["windowKey"] == f"{key_id}/{datetime.now(UTC):%Y-%m}"
    assert (summary["requestCount"], summary["totalTokens"]) == (
        1,
        (row.prompt_tokens or 0) + (row.completion_tokens or 0),
    )
    assert Decimal(str(document["balance_usd"])) == Decimal(row.balance_after_nusd) / 10**9
    assert (document["account"], document["key"]["name"]) == (key_id, "a test")
    assert document["budgets"] == {"month": None, "day": None}
    assert key not in paid.request("GET", "/v1/usage", None, bearer(key)).body.decode()


def test_usage_of_budgets_says_what_is_left_and_when_they_begin_anew(paid: RouterServer) -> None:
    key, _ = make_key(paid, "--credit", "5", "--budget-day", "2", "--budget-month", "3")
    document = told(paid, "/v1/usage", key)
    _, budget, _ = plugin_reads(document)
    assert (budget["limitMicros"], budget["remainingMicros"]) == (3_000_000, 3_000_000)
    assert document["available_usd"] == 2
    day, month = document["budgets"]["day"], document["budgets"]["month"]
    assert (day["limit_usd"], day["spent_usd"], day["remaining_usd"]) == (2, 0, 2)
    assert re.fullmatch(r"\d{4}-\d\d-01T00:00:00.000Z", month["resets_at"])
    now = datetime.now(UTC).isoformat()
    assert now < day["resets_at"] <= month["resets_at"]


def test_a_day_s_budget_alone_is_a_window_of_its_day(router: RouterServer) -> None:
    key, key_id = make_key(router, "--budget-day", "2")
    _, budget, _ = plugin_reads(told(router, "/v1/usage", key))
    assert budget["limitMicros"] == 2_000_000
    assert re.fullmatch(key_id + r"/\d{4}-\d\d-\d\d", budget["windowKey"])


def test_usage_without_a_key_or_a_bound_is_unmetered(router: RouterServer, up: ScriptedUpstream) -> None:
    up.on(A, answer("well"))
    router.chat(model=A)
    wait_all_ended(router)
    for key in (None, make_key(router)[0]):
        document = told(router, "/v1/usage", key)
        configured, _, summary = plugin_reads(document)
        assert not configured
        assert document["balance_usd"] is document["available_usd"] is None
        assert (summary["requestCount"] > 0) is (key is None)


def test_the_catalog_has_the_plugin_s_form(router: RouterServer) -> None:
    document = told(router, "/v1/catalog")
    (provider,) = document["providers"]
    assert provider["openaiCompatible"] is True
    assert provider["nativeBaseUrl"].startswith("/v1/native/")
    assert isinstance(provider["id"], str)
    assert provider["routes"] == []
    models = {model["id"]: model for model in provider["models"]}
    assert list(models) == ["auto", "simple", "coding", "reasoning", "vision", THINKS, A, B]
    for model in models.values():
        assert model["upstream"] == model["id"]
        assert model["capabilities"] == ["llm.chat"]
        pricing = model["pricing"]
        assert all(isinstance(pricing[name], int) for name in pricing)
        assert {"maxInputTokens", "defaultMaxOutputTokens"} <= set(pricing)
    assert models[THINKS]["pricing"] == {
        "maxInputTokens": 100_000,
        "defaultMaxOutputTokens": 8_000,
        "inputMicrosPerMillion": 50_000,
        "outputMicrosPerMillion": 1_500_000,
        "cachedInputMicrosPerMillion": 50_000,
    }
    assert models[THINKS]["supportedReasoningEfforts"] == ["low", "medium", "high"]
    assert "supportedReasoningEfforts" not in models[A]
    assert (models[B]["input"], models["auto"]["input"]) == (["text"], ["image", "text"])
    assert "inputMicrosPerMillion" not in models["auto"]["pricing"]


def test_the_catalog_lists_what_the_key_may_use(router: RouterServer) -> None:
    key, _ = make_key(router, "--models", "maker/*")
    (provider,) = told(router, "/v1/catalog", key)["providers"]
    assert [model["id"] for model in provider["models"] if "/" in model["id"]] == [THINKS]


@pytest.mark.parametrize("path", ["/v1/usage", "/v1/catalog", "/v1/receipts/req_1"])
def test_they_ask_for_a_key_where_the_chat_routes_do(
    router: RouterServer, paid: RouterServer, path: str
) -> None:
    for server, headers in ((paid, {}), (paid, bearer("rk_wrong")), (router, bearer("rk_wrong"))):
        got = server.request("GET", path, None, headers)
        assert (got.status, got.error["name"]) == (401, "invalid_api_key")
        assert got.headers["x-request-id"]


def test_a_receipt_is_found_by_our_id_and_by_the_client_s(router: RouterServer, up: ScriptedUpstream) -> None:
    up.on(A, answer("well"))
    mine = "run/1:model:2"
    got = router.chat(headers={"x-request-id": mine}, model=A)
    row = next(
        row for row in wait_all_ended(router) if row.client_request_id == mine and row.kind == "settle"
    )

    by_client, by_us = told(router, f"/v1/receipts/{mine}"), told(router, f"/v1/receipts/{row.request_id}")

    assert by_client == by_us
    assert (by_us["request_id"], by_us["client_request_id"]) == (row.request_id, mine)
    assert (by_us["status"], by_us["model"], by_us["provider"]) == ("settled", A, "scripted")
    assert by_us["charge_nusd"] == row.amount_nusd
    assert Decimal(str(by_us["charge_usd"])) == Decimal(got.headers["x-llm-router-cost-usd"])
    assert by_us["total_tokens"] == got.json["usage"]["total_tokens"]
    assert by_us["created_at"] <= by_us["ended_at"]
    assert "upstream_cost_nusd" not in by_us


def test_of_the_client_s_ids_the_newest_request_counts(router: RouterServer, up: ScriptedUpstream) -> None:
    up.on(A, answer("well"))
    for model in (B, A):
        router.chat(headers={"x-request-id": "the same"}, model=model)
    wait_all_ended(router)
    assert told(router, "/v1/receipts/the%20same")["model"] == A


def test_the_holds_of_a_fallback_are_one_receipt(router: RouterServer, up: ScriptedUpstream) -> None:
    up.on(A, status(500))
    up.on(B, answer("second"))
    got = router.chat(model=A, models=[B], headers={"x-request-id": "fell back"})
    assert got.status == 200
    wait_all_ended(router)
    found = told(router, "/v1/receipts/fell%20back")
    assert (found["status"], found["model"], found["holds"]) == ("settled", B, 2)


def test_a_request_that_failed_and_one_that_runs_have_receipts(
    router: RouterServer, up: ScriptedUpstream
) -> None:
    up.on(A, status(400))
    failed = router.chat(model=A)
    wait_all_ended(router)
    released = told(router, f"/v1/receipts/{request_id(failed)}")
    assert (released["status"], released["charge_usd"], released["prompt_tokens"]) == ("released", 0, None)

    gate = Gate()
    up.on(A, stream("one two", gate=gate))
    before = len(up.requests)
    client = Client(router, question(model=A, stream=True), {"x-request-id": "runs"})
    up.wait_requests(before + 1)
    held = told(router, "/v1/receipts/runs")
    assert (held["status"], held["ended_at"]) == ("held", None)
    assert held["held_usd"] > 0
    gate.open()
    client.head()
    client.read_rest()


def test_another_account_s_receipt_and_an_unknown_one_are_404(
    router: RouterServer, up: ScriptedUpstream
) -> None:
    up.on(A, answer("well"))
    one, _ = make_key(router)
    other, _ = make_key(router)
    ids = {"x-request-id": "mine alone"}
    theirs = router.chat(headers={**ids, **bearer(one)}, model=A)
    assert theirs.status == 200
    row = next(row for row in wait_all_ended(router) if row.client_request_id == "mine alone")
    for wanted in (row.request_id, "mine%20alone"):
        assert told(router, f"/v1/receipts/{wanted}", one)["request_id"] == row.request_id
        for key in (other, None):
            got = router.request("GET", f"/v1/receipts/{wanted}", None, bearer(key) if key else None)
            assert (got.status, got.error["name"]) == (404, "receipt_not_found")
    for unknown in ("req_0", "req_%25", "", "'; DROP TABLE ledger", "x" * 5_000):
        path = "/v1/receipts/" + unknown.replace(" ", "%20")
        assert router.request("GET", path).status == 404


def test_a_top_up_is_no_receipt(router: RouterServer) -> None:
    key, key_id = make_key(router, "--credit", "1")
    (row,) = [row for row in wait_all_ended(router) if row.account == key_id]
    assert row.kind == "topup"
    assert router.request("GET", f"/v1/receipts/{row.request_id}", None, bearer(key)).status == 404
