"""A facilitator that does not check signatures as it should: nobody is served, and nobody pays."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.facilitator import Behaviour, html, lost, lying, refused, says, slow, status
from tests.paying import FUNDS, TOPUP, WAYS, Shop, Way, counter, offers_anew, offers_nothing
from tests.service.walking import Client, question, wait_for

BODY = question(max_tokens=50)
REST_S = 11.0
NO_WORD: dict[str, Behaviour] = {
    "500": status(500),
    "page": html(),
    "page with 503": html(503),
    "another payer": lying(payer="0x" + "1" * 40),
    "no member": says({}),
    "closed": lost(done=False),
}


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory, database_url: str | None) -> Iterator[Shop]:
    with counter(tmp_path_factory.mktemp("shop"), database_url=database_url) as open_shop:
        yield open_shop


@pytest.fixture
def shop(opened: Shop) -> Iterator[Shop]:
    """The shop, whose facilitator is honest and does not rest."""
    opened.router.skip(REST_S)
    yield opened
    opened.facilitator.on("/verify").on("/settle")
    opened.ended()


@pytest.mark.parametrize("name", NO_WORD)
@pytest.mark.parametrize("way", WAYS)
def test_no_usable_word_is_503_without_an_offer_and_the_signature_stays_good(
    shop: Shop, way: Way, name: str
) -> None:
    payer = shop.payer()
    headers = shop.sign(payer, way, BODY)
    calls, settles = len(shop.upstream.requests), shop.settles()
    shop.facilitator.on("/verify", NO_WORD[name])
    answer = shop.ask(BODY, headers)
    assert (answer.status, answer.error["name"]) == (503, "payments_unavailable")
    assert offers_nothing(answer)
    assert int(answer.headers["retry-after"]) > 0
    assert (len(shop.upstream.requests), shop.settles()) == (calls, settles)
    assert shop.ask(BODY, headers).status == 200
    assert shop.settles() == settles + 1


@pytest.mark.parametrize("way", WAYS)
def test_one_who_is_down_is_503_without_an_offer_and_the_signature_stays_good(shop: Shop, way: Way) -> None:
    payer = shop.payer()
    headers = shop.sign(payer, way, BODY)
    shop.facilitator.down()
    answer = shop.ask(BODY, headers)
    shop.facilitator.up()
    assert (answer.status, offers_nothing(answer)) == (503, True)
    assert shop.ask(BODY, headers).status == 200


@pytest.mark.parametrize(
    "reason", ["insufficient_funds", "invalid_exact_evm_payload_signature", "no word of ours"]
)
@pytest.mark.parametrize("code", [200, 400, 412])
def test_a_no_is_402_with_fresh_offers_and_the_signature_stays_good(
    shop: Shop, reason: str, code: int
) -> None:
    payer = shop.payer()
    headers = shop.sign(payer, "exact", BODY)
    calls = len(shop.upstream.requests)
    shop.facilitator.on("/verify", refused(reason, code))
    answer = shop.ask(BODY, headers)
    assert offers_anew(answer)
    assert answer.error["name"] == "payment_refused"
    assert b"no word of ours" not in answer.body
    assert len(shop.upstream.requests) == calls
    assert shop.facilitator.balance(payer.address) == FUNDS
    assert shop.ask(BODY, headers).status == 200


def test_what_was_used_elsewhere_is_403_without_an_offer(shop: Shop) -> None:
    payer = shop.payer()
    headers = shop.sign(payer, "exact", BODY)
    shop.facilitator.on("/verify", refused("invalid_exact_evm_nonce_already_used"))
    answer = shop.ask(BODY, headers)
    assert (answer.status, offers_nothing(answer)) == (403, True)


@pytest.mark.parametrize("way", WAYS)
def test_an_empty_wallet_is_offered_to_pay_again(shop: Shop, way: Way) -> None:
    payer = shop.payer(0)
    answer = shop.pay(payer, way, BODY)
    assert offers_anew(answer)
    assert "insufficient_funds" in answer.error["message"]


@pytest.mark.parametrize("path", ["chat", "topup"])
@pytest.mark.parametrize("way", WAYS)
def test_who_leaves_while_the_signature_is_checked_may_come_again_with_it(
    shop: Shop, way: Way, path: str
) -> None:
    payer, gate = shop.payer(), threading.Event()
    where, body = (TOPUP, {"amount_usd": 1}) if path == "topup" else ("/v1/chat/completions", BODY)
    headers = shop.sign(payer, way, body, path=where)
    checks, calls = len(shop.facilitator.calls("/verify")), len(shop.upstream.requests)
    shop.facilitator.on("/verify", slow(gate))
    client = Client(shop.router, body, headers, path=where)
    wait_for(lambda: len(shop.facilitator.calls("/verify")) > checks or None, "the check")
    client.leave()
    try:
        shop.ended()
    finally:
        gate.set()
    assert (len(shop.upstream.requests), shop.facilitator.balance(payer.address)) == (calls, FUNDS)
    assert shop.ask(body, headers, where).status == 200


def test_faults_withdraw_the_offers_until_a_rest_is_over(shop: Shop) -> None:
    payer = shop.payer()
    headers = shop.sign(payer, "exact", BODY)
    shop.facilitator.on("/verify", *[status(500)] * 5)
    assert [shop.ask(BODY, headers).status for _ in range(5)] == [503] * 5
    checks = len(shop.facilitator.calls("/verify"))
    for answer in (shop.ask(BODY), shop.ask(BODY, headers), shop.ask({"amount_usd": 1}, path=TOPUP)):
        assert (answer.status, answer.error["name"]) == (503, "payments_unavailable")
        assert offers_nothing(answer)
        assert "retry-after" in answer.headers
    assert len(shop.facilitator.calls("/verify")) == checks
    shop.router.skip(REST_S)
    assert offers_anew(shop.ask(BODY))
    assert shop.ask(BODY, headers).status == 200


@pytest.mark.parametrize("way", WAYS)
def test_nobody_can_claim_in_another_payers_name(tmp_path: Path, way: Way) -> None:
    with counter(tmp_path, payment_open_usd="0.001") as shop:
        victim, gate = shop.payer(), threading.Event()
        keyed = {"idempotency-key": "the victim's"}
        owner: dict[str, Any] = {"from": victim.address}
        shop.facilitator.on("/verify", slow(gate))
        forged = shop.ask(BODY, keyed | shop.sign(shop.payer(), way, BODY, **owner))
        assert offers_anew(forged)
        found = "payer_mismatch" if way == "evm" else "signature_invalid"  # MPP says twice who pays
        assert found in forged.error["message"]
        assert shop.facilitator.calls("/verify") == []
        assert shop.ended() == []
        gate.set()
        assert shop.ask(BODY, keyed | shop.sign(victim, way, BODY)).status == 200
