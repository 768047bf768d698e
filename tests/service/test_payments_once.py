"""One signature buys one answer, however often and wherever it is shown."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.facilitator import ScriptedFacilitator
from tests.mpp_wallet import MppWallet, authorization, decode, parse_challenges
from tests.paying import (
    ASSET,
    WAYS,
    Shop,
    Way,
    at_once,
    counter,
    environ_of,
    offers_nothing,
    payer_at,
    payments_of,
    signed,
)
from tests.router import Answer, Offered, write_catalog
from tests.service.walking import question, wait_all_ended, wait_for
from tests.upstream import ScriptedUpstream
from tests.wallets import decoded, encoded
from tests.workers import Workers

COPIES = 50


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, database_url: str | None) -> Iterator[Shop]:
    with counter(tmp_path_factory.mktemp("shop"), database_url=database_url) as open_shop:
        yield open_shop


def check_served_once(answers: list[Answer]) -> Answer:
    """Check that one of the answers is an answer, and all others refusals that lead nobody to pay again."""
    told = [None if answer.status == 200 else answer.error["name"] for answer in answers]
    assert Counter(told) == {None: 1, "payment_replayed": len(answers) - 1}
    for answer in answers:
        if answer.status != 200:
            assert answer.status == 403
            assert offers_nothing(answer)
            assert b"Say hello" not in answer.body
    return next(answer for answer in answers if answer.status == 200)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("way", WAYS)
def test_of_fifty_copies_at_once_one_is_served_and_settled(shop: Shop, way: Way, stream: bool) -> None:
    body = question(max_tokens=50, stream=stream)
    payer = shop.payer()
    headers = shop.sign(payer, way, body)
    settles, calls = shop.settles(), len(shop.upstream.requests)

    check_served_once(shop.copies(COPIES, body, headers))

    shop.ended()
    payment = shop.payment("settled")
    transfers = [one for one in shop.facilitator.transfers if one.payer == payer.address.lower()]
    assert [one.amount for one in transfers] == [payment.taken]
    assert shop.settles() - settles == 1
    assert len(shop.upstream.requests) - calls == 1
    for _ in range(2):
        again = shop.ask(body, headers)
        assert (again.status, again.error["name"]) == (403, "payment_replayed")
        assert transfers[0].transaction in again.error["message"]
        assert offers_nothing(again)
    assert len(shop.upstream.requests) - calls == 1


def test_of_copies_over_workers_one_is_served(tmp_path: Path, database_url: str | None) -> None:
    kept = {} if database_url is None else {"ROUTER_DATABASE_URL": database_url}
    body = question(max_tokens=50)
    with ScriptedUpstream() as upstream, ScriptedFacilitator() as facilitator:
        catalog = write_catalog(tmp_path / "c", {"scripted": upstream.base_url}, [Offered("test/model")])
        with Workers(tmp_path, catalog, 2, **environ_of(facilitator, **kept)) as router:
            for way in WAYS:
                payer = payer_at(facilitator)
                headers = signed(router, payer, way, body)
                check_served_once(at_once([router], COPIES, body, headers))
            wait_for(lambda: len(router.served_by()) == 2 or None, "decisions of both workers")
            wait_all_ended(router)
            assert [payment.state for payment in payments_of(router)[-3:]] == ["settled"] * 3
        assert len(facilitator.transfers) == 3


@pytest.mark.parametrize("first", ["x402", "mpp"])
def test_one_authorization_is_good_by_one_protocol_alone(shop: Shop, first: str) -> None:
    body = question(max_tokens=50)
    payer = shop.payer()
    asked = shop.ask(body)
    challenge = parse_challenges(asked.headers.items())["evm"]
    required = decoded(asked.headers["payment-required"])
    offer = next(one for one in required["accepts"] if one["scheme"] == "exact")
    assert decode(challenge["request"])["amount"] == offer["amount"]
    until = str(int(time.time()) + offer["maxTimeoutSeconds"])
    by_mpp = MppWallet(payer.key).evm_payload(challenge, ASSET, validBefore=until)
    signature = by_mpp["signature"]
    fields = {name: value for name, value in by_mpp.items() if name not in ("type", "signature")}
    payment = payer.payment(required, offer) | {"payload": {"signature": signature, "authorization": fields}}
    ways = {
        "x402": {"PAYMENT-SIGNATURE": encoded(payment)},
        "mpp": {"authorization": authorization(challenge, by_mpp, f"did:pkh:eip155:84532:{payer.address}")},
    }
    second = "mpp" if first == "x402" else "x402"
    assert shop.ask(body, ways[first]).status == 200
    refused = shop.ask(body, ways[second])
    assert (refused.status, refused.error["name"]) == (403, "payment_replayed")
    assert offers_nothing(refused)
    assert len([one for one in shop.facilitator.transfers if one.payer == payer.address.lower()]) == 1


@pytest.mark.parametrize("kind", ["both protocols", "signature twice", "credential twice", "two headers"])
def test_two_payments_in_one_request_are_a_bad_request_and_neither_is_taken(shop: Shop, kind: str) -> None:
    body = question(max_tokens=50)
    payer = shop.payer()
    x402, mpp = shop.sign(payer, "exact", body), shop.sign(payer, "evm", body)
    (signature,), credential = x402.values(), mpp["authorization"]
    pairs = {
        "both protocols": [("payment-signature", signature), ("authorization", credential)],
        "signature twice": [("payment-signature", signature)] * 2,
        "credential twice": [("authorization", credential), ("payment-authorization", credential)],
        "two headers": [("payment-authorization", credential)] * 2,
    }[kind]
    answer = shop.ask_by_lines(body, pairs)
    assert answer.status == 400, answer.body
    assert offers_nothing(answer)
    assert shop.facilitator.balance(payer.address) == 10**9
    assert shop.ask(body, x402).status == 200
    assert shop.ask(body, mpp).status == 200


def test_two_authorization_headers_pay_nothing(shop: Shop) -> None:
    body = question(max_tokens=50)
    payer = shop.payer()
    credential = shop.sign(payer, "evm", body)["authorization"]
    answer = shop.ask_by_lines(body, [("authorization", credential), ("authorization", "Bearer rk_none")])
    assert answer.status in (400, 401)
    assert offers_nothing(answer)
    assert shop.facilitator.balance(payer.address) == 10**9


def test_an_idempotency_key_gives_the_stored_answer_to_a_new_signature_and_settles_nothing(
    shop: Shop,
) -> None:
    for number, way in enumerate(WAYS):
        body = question(f"Say {number}", max_tokens=50)
        payer, keyed = shop.payer(), {"idempotency-key": f"key-{number}"}
        first = shop.ask(body, keyed | shop.sign(payer, way, body))
        assert first.status == 200
        shop.ended()
        balance, calls = shop.facilitator.balance(payer.address), len(shop.upstream.requests)

        again = shop.ask(body, keyed | shop.sign(payer, way, body))
        assert (again.status, again.body) == (200, first.body)
        assert again.headers["idempotent-replayed"] == "true"

        forged = shop.payer()
        others: dict[str, Any] = {"from": payer.address}
        headers = keyed | shop.sign(forged, way, body, **others)
        refused = shop.ask(body, headers)
        assert refused.status in (402, 403)
        assert first.json["choices"][0]["message"]["content"].encode() not in refused.body
        spent = shop.ask(body, keyed | {})
        assert spent.status == 402  # who brings no payment has no account, and so no stored answer
        assert shop.facilitator.balance(payer.address) == balance
        assert len(shop.upstream.requests) == calls


def test_the_same_signature_again_with_its_idempotency_key_gives_nothing_and_takes_nothing(
    shop: Shop,
) -> None:
    body, keyed = question(max_tokens=50), {"idempotency-key": "the same signature"}
    payer = shop.payer()
    headers = keyed | shop.sign(payer, "exact", body)
    assert shop.ask(body, headers).status == 200
    again = shop.ask(body, headers)
    assert again.status == 403
    assert offers_nothing(again)
    assert len([one for one in shop.facilitator.transfers if one.payer == payer.address.lower()]) == 1


def test_one_idempotency_key_with_two_signatures_at_once_takes_one(shop: Shop) -> None:
    body, keyed = question(max_tokens=50), {"idempotency-key": "two at once"}
    payer = shop.payer()
    signatures = [keyed | shop.sign(payer, "exact", body) for _ in range(8)]
    answers = [shop.copies(1, body, headers)[0] for headers in signatures[:1]]
    answers += [shop.ask(body, headers) for headers in signatures[1:]]
    assert [answer.status for answer in answers] == [200] * 8
    assert len([one for one in shop.facilitator.transfers if one.payer == payer.address.lower()]) == 1
