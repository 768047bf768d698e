"""The facilitator fails to order, and the chain can be made to wait, for the failure matrix."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2 as httpx
import pytest

from tests.chain.clients import CLIENTS, Client, decoded
from tests.chain.facilitator import Facilitator
from tests.chain.parts import Parts
from tests.chain.probe_seller import ProbeSeller, Terms

BODY = {"model": "auto", "messages": [{"role": "user", "content": "hi"}]}
EXACT = next(client for client in CLIENTS if client.name == "fetch-exact")


def a_payment(parts: Parts, payee: str, units: int = 700) -> dict[str, Any]:
    """Return the body of a `/settle` call with a payment that nobody has taken."""
    with ProbeSeller(parts.facilitator.url, parts.tempo.url, Terms(payee, units)) as seller:
        signed = parts.clients.sign(EXACT, f"{seller.url}/chat/completions", parts.payer(), BODY)
    payment = decoded(signed.headers["payment-signature"])
    return {"x402Version": 2, "paymentPayload": payment, "paymentRequirements": payment["accepted"]}


def settle(facilitator: Facilitator, payment: dict[str, Any], what: str = "settle") -> httpx.Response:
    return httpx.post(f"{facilitator.url}/{what}", json=payment, timeout=60)


def test_of_ten_settlements_of_one_payment_one_moves_money(parts: Parts, facilitator: Facilitator) -> None:
    payee = parts.payee()
    payment = a_payment(parts, payee)
    with ThreadPoolExecutor(10) as many:
        verified = [
            r.json()["isValid"] for r in many.map(lambda _: settle(facilitator, payment, "verify"), range(10))
        ]
        said = [r.json()["success"] for r in many.map(lambda _: settle(facilitator, payment), range(10))]
    assert verified == [True] * 10  # to verify is not to lock
    assert sum(said) == 1
    assert parts.usdc.balance_of(payee) == 700
    assert facilitator.counts() == {"verify": 10, "settle": 10, "settled": 1}


def test_it_answers_as_ordered_and_settles_all_the_same(parts: Parts, facilitator: Facilitator) -> None:
    payee = parts.payee()
    orders: list[dict[str, Any]] = [
        {"answer": {"payer": parts.payee()}},
        {"answer": {"transaction": ""}},
        {"answer": {"success": False, "errorReason": "settlement_pending"}},
        {"status": 500},
        {"status": 502, "text": "<html>Bad gateway</html>"},
    ]
    for done, order in enumerate(orders, start=1):
        payment = a_payment(parts, payee)
        facilitator.order("settle", **order)
        answer = settle(facilitator, payment)
        assert answer.status_code == order.get("status", 200)
        if "text" in order:
            assert (answer.text, answer.headers["content-type"]) == (order["text"], "text/html")
        else:
            assert order.get("answer", {}).items() <= answer.json().items()
        assert parts.usdc.balance_of(payee) == done * 700


def test_it_fails_before_any_money_moves(parts: Parts, facilitator: Facilitator) -> None:
    payee = parts.payee()
    payment = a_payment(parts, payee)
    facilitator.order("settle", real=False, status=500)
    facilitator.order("settle", real=False, drop=True)
    assert settle(facilitator, payment).status_code == 500
    with pytest.raises(httpx.RemoteProtocolError):
        settle(facilitator, payment)
    assert parts.usdc.balance_of(payee) == 0
    assert settle(facilitator, payment).json()["success"]


@pytest.mark.parametrize(("when", "moved"), [("before", 0), ("after", 700)])
def test_it_dies_and_starts_again_at_the_same_address(
    parts: Parts, facilitator: Facilitator, when: str, moved: int
) -> None:
    payee = parts.payee()
    payment = a_payment(parts, payee)
    facilitator.order("settle", die=when)
    with pytest.raises(httpx.TransportError):
        settle(facilitator, payment)
    with pytest.raises(httpx.ConnectError):
        settle(facilitator, payment)
    assert parts.usdc.balance_of(payee) == moved
    authorization = payment["paymentPayload"]["payload"]["authorization"]
    assert parts.usdc.used(authorization["from"], authorization["nonce"]) is bool(moved)
    facilitator.kill()
    facilitator.start()
    assert settle(facilitator, payment).json()["success"] is not bool(moved)


def test_a_call_waits_until_it_is_released(parts: Parts, facilitator: Facilitator) -> None:
    payee = parts.payee()
    payment = a_payment(parts, payee)
    facilitator.order("settle", wait="before")
    with ThreadPoolExecutor(1) as other:
        answer = other.submit(settle, facilitator, payment)
        while not facilitator.calls("settle"):
            pass
        assert parts.usdc.balance_of(payee) == 0
        facilitator.release()
        assert answer.result().json()["success"]
    assert parts.usdc.balance_of(payee) == 700


def test_a_settlement_that_no_block_holds_yet_is_pending(parts: Parts) -> None:
    payee = parts.payee()
    payment = a_payment(parts, payee)
    with Facilitator(parts.facilitator.python, parts.chain, confirm_s=0.2) as hasty:
        parts.chain.pause_mining()
        try:
            said = settle(hasty, payment).json()
        finally:
            parts.chain.resume_mining()
        assert (said["success"], said["errorReason"]) == (False, "settlement_pending")
        assert said["transaction"].startswith("0x")
        again = settle(hasty, payment).json()
    assert (again["success"], again["transaction"]) == (True, said["transaction"])
    assert len(parts.usdc.transfers(to=payee)) == 1


@pytest.mark.parametrize("client", [c for c in CLIENTS if c.pays in ("exact", "evm")], ids=str)
def test_a_hostile_seller_can_be_played(parts: Parts, facilitator: Facilitator, client: Client) -> None:
    terms = Terms(parts.payee(), paid="ask again")
    with ProbeSeller(facilitator.url, parts.tempo.url, terms) as seller:
        seen = parts.clients.pay(client, f"{seller.url}/chat/completions", parts.payer(), BODY)
        assert seller.paid == len(seen.credentials) >= 1
        assert seen.status in (0, 402)
    assert facilitator.counts()["settle"] == 0


def test_the_seller_asks_and_behaves_as_told(parts: Parts, facilitator: Facilitator) -> None:
    terms = Terms(parts.payee(), 700_000, asset=parts.payee(), decimals=8, schemes=("exact",))
    terms.extra = {"name": "Other", "version": "1"}
    paid = {"payment-signature": "e30="}
    with ProbeSeller(facilitator.url, parts.tempo.url, terms) as seller:
        url = f"{seller.url}/chat/completions"
        asked = httpx.post(url, json=BODY)
        (accepted,) = decoded(asked.headers["payment-required"])["accepts"]
        assert (asked.status_code, accepted["amount"], accepted["asset"]) == (402, "700000", terms.asset)
        assert accepted["extra"]["name"] == "Other"
        assert len(asked.headers.get_list("www-authenticate")) == 2
        terms.paid = "fail"
        assert httpx.post(url, json=BODY, headers=paid).status_code == 500
        terms.redirect = "http://127.0.0.1:9/"
        assert httpx.post(url, json=BODY).headers["location"] == terms.redirect
        assert (seller.paid, len(seller.requests)) == (1, 3)
    assert facilitator.counts() == {"verify": 0, "settle": 0, "settled": 0}
