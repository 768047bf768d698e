"""What the OpenAPI document says of wallet payments is what happens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.facilitator import ScriptedFacilitator, pending
from tests.router import Answer, Offered, RouterServer, write_catalog
from tests.upstream import ScriptedUpstream
from tests.wallets import Wallet

Json = dict[str, Any]
CHAT, TOPUP, RECEIPT = "/v1/chat/completions", "/v1/credits/topup", "/v1/receipts/{request_id}"
BODIES: dict[str, Json] = {
    CHAT: {"model": "auto", "messages": [{"role": "user", "content": "Say hello"}], "max_tokens": 50},
    TOPUP: {"amount_usd": 0.5},
}
RICH = 5_000_000


@pytest.fixture(scope="module")
def facilitator() -> Iterator[ScriptedFacilitator]:
    with ScriptedFacilitator() as running:
        yield running


@pytest.fixture(scope="module")
def router(
    facilitator: ScriptedFacilitator, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RouterServer]:
    folder = tmp_path_factory.mktemp("shop")
    with ScriptedUpstream() as upstream:
        catalog = write_catalog(folder / "catalog", {"scripted": upstream.base_url}, [Offered("test/model")])
        with RouterServer(
            catalog,
            folder / "data",
            x402_pay_to="0x70997970C51812dc3A010C7d01b50e0d17dc79C8",
            x402_facilitator=facilitator.url,
            x402_network="eip155:84532",
            mpp_secret="a secret of the tests, 32 bytes or more",
            grace_s=1,  # one settlement stays unknown
        ) as running:
            yield running


@pytest.fixture
def wallet(facilitator: ScriptedFacilitator) -> Wallet:
    payer = Wallet()
    facilitator.fund(payer.address, RICH)
    return payer


def documented(router: RouterServer, path: str, got: Answer) -> Json:
    """Return what the document says of an answer; fails where it says nothing of its status."""
    document = router.request("GET", "/schema/openapi.json").json
    (operation,) = document["paths"][path].values()
    assert str(got.status) in operation["responses"], (got.status, got.body)
    found: Json = operation["responses"][str(got.status)]
    return found


def members(router: RouterServer, name: str) -> set[str]:
    schemas = router.request("GET", "/schema/openapi.json").json["components"]["schemas"]
    return set(schemas[name]["properties"])


def pay(router: RouterServer, wallet: Wallet, path: str, **headers: str) -> Answer:
    asked = router.request("POST", path, BODIES[path])
    return router.request("POST", path, BODIES[path], {**headers, **wallet.pays(asked.headers, "exact")})


@pytest.mark.parametrize("path", [CHAT, TOPUP])
def test_a_402_has_the_headers_and_members_that_are_documented(router: RouterServer, path: str) -> None:
    got = router.request("POST", path, BODIES[path])
    assert got.status == 402
    assert {name.lower() for name in documented(router, path, got)["headers"]} <= got.headers.keys()
    assert got.json.keys() == {"error", "type", "title", "status", "detail"}
    schemas = router.request("GET", "/schema/openapi.json").json["components"]["schemas"]
    _, problem = schemas["PaymentProblem"]["allOf"]
    assert set(problem["required"]) | {"error"} == got.json.keys()


def test_credit_that_was_bought_is_told_as_documented(router: RouterServer, wallet: Wallet) -> None:
    new = pay(router, wallet, TOPUP)
    more = pay(router, wallet, TOPUP, authorization=f"Bearer {new.json['key']}")
    assert (new.status, more.status) == (200, 200)
    assert new.json.keys() == members(router, "BoughtCredit")
    assert new.json.keys() - more.json.keys() == {"key"}
    assert (new.json["balance_usd"], more.json["balance_usd"]) == (0.5, 1.0)
    assert more.headers.keys() & {"payment-response", "payment-receipt"} == {"payment-response"}


def test_the_receipt_of_a_payment_is_told_as_documented_to_whom_has_no_key(
    router: RouterServer, wallet: Wallet
) -> None:
    paid = pay(router, wallet, CHAT)
    assert paid.status == 200
    got = router.request("GET", RECEIPT.replace("{request_id}", paid.headers["x-request-id"]))
    documented(router, RECEIPT, got)
    assert got.json.keys() == members(router, "Receipt")
    assert got.json["payment"].keys() == members(router, "Payment")
    assert got.json["payment"]["state"] == "settled"


@pytest.mark.parametrize("path", [CHAT, TOPUP])
def test_refusals_have_statuses_that_are_documented(
    router: RouterServer, facilitator: ScriptedFacilitator, wallet: Wallet, path: str
) -> None:
    asked = router.request("POST", path, BODIES[path])
    signed = wallet.pays(asked.headers, "exact")
    unreadable = router.request("POST", path, BODIES[path], {"PAYMENT-SIGNATURE": "?"})
    old = router.request("POST", path, BODIES[path], {"X-PAYMENT": "e30="})
    changed = router.request("POST", path, {**BODIES[path], "n": 1}, signed)
    served = router.request("POST", path, BODIES[path], signed)
    again = router.request("POST", path, BODIES[path], signed)
    broke = router.request("POST", path, BODIES[path], Wallet().pays(asked.headers, "exact"))
    facilitator.on("/settle", pending(done=False), pending(done=False))
    unknown = pay(router, wallet, path)
    answers = [unreadable, old, changed, served, again, broke, unknown]
    assert [got.status for got in answers] == [400, 400, 402, 200, 403, 402, 503]
    for got in answers:
        documented(router, path, got)
    assert again.error["name"] == "payment_replayed"
    assert "payment-required" not in {**again.headers, **unknown.headers}
    assert (unknown.error["name"], unknown.headers["x-should-retry"]) == ("settlement_unknown", "false")
