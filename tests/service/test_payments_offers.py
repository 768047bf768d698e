"""What a 402 says, to whom it is said, and what a promise outlives."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from tests.facilitator import ScriptedFacilitator
from tests.mpp_wallet import decode, parse_challenges
from tests.paying import (
    CHAT,
    MODEL,
    PAYEE,
    UNIT_NUSD,
    WAYS,
    Shop,
    Way,
    counter,
    environ_of,
    header_lines,
    offers_anew,
    offers_nothing,
    payer_at,
    selling,
    signed,
    signing,
)
from tests.router import Offered, RouterServer, write_catalog
from tests.rpc_node import RpcNode, result
from tests.service.walking import bearer, books_of, make_key, question, wait_for
from tests.upstream import ScriptedUpstream
from tests.wallets import decoded
from tests.workers import Workers

BODY = question(max_tokens=50)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, database_url: str | None) -> Iterator[Shop]:
    with counter(tmp_path_factory.mktemp("shop"), database_url=database_url) as open_shop:
        yield open_shop


def test_a_402_has_the_offers_of_each_protocol_once_and_the_body_of_openai_and_of_problems(
    tmp_path: Path,
) -> None:
    with RpcNode() as node:
        node.on("eth_chainId", result(hex(4217)))
        with counter(tmp_path, mpp_tempo_rpc=node.url) as shop:
            lines = header_lines(shop.router, BODY)
            answer = shop.ask(BODY)
    names = [name for name, _ in lines]
    assert names.count("payment-required") == 1
    challenges = parse_challenges(lines)
    assert sorted(challenges) == ["evm", "tempo"]
    assert names.count("www-authenticate") == 2
    assert ("cache-control", "no-store") in lines
    assert sum(len(name) + len(value) + 4 for name, value in lines) < 8_192

    assert answer.status == 402
    assert answer.error["type"] == "insufficient_quota"
    assert (answer.error["code"], answer.error["name"]) == (402, "payment_required")
    document = answer.json
    assert document["type"] == "https://paymentauth.org/problems/payment-required"
    assert (document["status"], document["title"]) == (402, "Payment required")
    assert document["detail"] == answer.error["message"]

    required = decoded(answer.headers["payment-required"])
    assert required["x402Version"] == 2
    assert [offer["scheme"] for offer in required["accepts"]] == ["upto", "exact"]
    assert {offer["payTo"].lower() for offer in required["accepts"]} == {PAYEE}
    assert list(required["extensions"]) == ["eip2612GasSponsoring"]
    assert required["resource"]["url"].endswith(CHAT)


def test_the_quote_is_what_the_dry_run_says_rounded_up_and_the_same_each_time(shop: Shop) -> None:
    told = json.loads(shop.ask(BODY, path="/v1/route").body, parse_float=str)
    max_usd = Decimal(told["quote"]["max_usd"])
    first, second = shop.ask(BODY), shop.ask(BODY)
    assert first.headers["payment-required"] == second.headers["payment-required"]
    required = decoded(first.headers["payment-required"])
    amounts = {int(offer["amount"]) for offer in required["accepts"]}
    assert amounts == {-int(-max_usd * 1_000_000 // 1)}
    challenge = parse_challenges(first.headers.items())["evm"]
    assert {int(decode(challenge["request"])["amount"])} == amounts
    assert challenge["id"] != parse_challenges(second.headers.items())["evm"]["id"]  # each serves once


def test_the_same_words_in_other_bytes_are_another_promise(shop: Shop) -> None:
    payer = shop.payer()
    headers = shop.sign(payer, "exact", json.dumps(BODY).encode())
    answer = shop.ask(json.dumps(BODY, indent=1).encode(), headers)
    assert offers_anew(answer)
    assert shop.facilitator.balance(payer.address) == 10**9


def test_a_wrong_key_is_401_without_offers_beside_a_payment_too(shop: Shop) -> None:
    payer = shop.payer()
    wrong = bearer("rk_" + "x" * 40)
    alone = shop.ask(BODY, wrong)
    paid = shop.sign(payer, "evm", BODY)["authorization"]
    beside_mpp = shop.ask(BODY, wrong | {"payment-authorization": paid})
    beside_x402 = shop.ask(BODY, wrong | shop.sign(payer, "exact", BODY))
    topup = shop.ask({"amount_usd": 1}, wrong, "/v1/credits/topup")
    for answer in (alone, beside_mpp, beside_x402, topup):
        assert answer.status == 401
        assert offers_nothing(answer)
    assert shop.facilitator.balance(payer.address) == 10**9


def test_a_key_without_credit_is_told_so_and_may_pay_by_wallet(shop: Shop) -> None:
    key, account = make_key(shop.router, "--credit", "0.00000001")
    payer = shop.payer()
    answer = shop.ask(BODY, bearer(key))
    assert answer.error["name"] == "insufficient_credits"
    assert offers_anew(answer)
    challenge = parse_challenges(answer.headers.items())["evm"]
    assert challenge["header"] == "Payment-Authorization"
    paid = signing(answer, payer, "evm")["authorization"]
    for headers in (signing(answer, payer, "upto"), {"payment-authorization": paid}):
        assert shop.ask(BODY, bearer(key) | headers).status == 200
    shop.ended()
    assert books_of(shop.router).account(account).charged_nusd == 0
    assert {row.account for row in shop.ended() if row.kind == "settle"} >= {
        f"payer:eip155:84532:{payer.address.lower()}"
    }


def test_a_key_with_credit_is_not_asked_for_a_payment(shop: Shop) -> None:
    key, _ = make_key(shop.router, "--credit", "1")
    answer = shop.ask(BODY, bearer(key))
    assert answer.status == 200
    assert offers_nothing(answer)


def test_the_host_that_a_client_names_does_not_swell_the_offer(shop: Shop) -> None:
    lines = header_lines(shop.router, BODY, {"host": "h" * 20_000})
    assert sum(len(name) + len(value) + 4 for name, value in lines) < 8_192


@pytest.mark.parametrize("price", [(30.0, 150.0), (0.3, 1.5)], ids=["dearer", "cheaper"])
def test_a_promise_outlives_a_reload_that_changes_the_price(
    tmp_path: Path, price: tuple[float, float]
) -> None:
    with counter(tmp_path, admin_key="the operator's own") as shop:
        payer = shop.payer()
        signatures = [shop.sign(payer, way, BODY) for way in WAYS]
        before = shop.ask(BODY, path="/v1/route").json["catalog"]
        write_catalog(
            tmp_path / "catalog", {"scripted": shop.upstream.base_url}, [Offered(MODEL, price=price)]
        )
        reloaded = shop.ask(b"", bearer("the operator's own"), "/admin/catalog/reload")
        assert reloaded.json["revision"] != before
        for headers in signatures:
            answer = shop.ask(BODY, headers)
            assert answer.status == 200, answer.body
        shop.ended()
        assert len(shop.payments()) == len(WAYS)
        for payment in shop.payments():
            assert payment.state == "settled"
            assert payment.taken is not None
            assert payment.taken <= payment.claim.amount
            assert payment.served_nusd == payment.taken * UNIT_NUSD


@pytest.mark.parametrize("way", WAYS)
def test_a_promise_outlives_a_restart_and_so_does_its_end(tmp_path: Path, way: Way) -> None:
    with ScriptedUpstream() as upstream, ScriptedFacilitator() as facilitator:
        catalog = write_catalog(tmp_path / "c", {"scripted": upstream.base_url}, [Offered(MODEL)])
        payer = payer_at(facilitator)
        with RouterServer(catalog, tmp_path / "data", **selling(facilitator)) as router:
            headers = signed(router, payer, way, BODY)
        with RouterServer(catalog, tmp_path / "data", **selling(facilitator)) as router:
            assert router.request("POST", CHAT, BODY, headers).status == 200
            replayed = router.request("POST", CHAT, BODY, headers)
        with RouterServer(catalog, tmp_path / "data", **selling(facilitator)) as router:
            again = router.request("POST", CHAT, BODY, headers)
    (transfer,) = facilitator.transfers
    for answer in (replayed, again):
        assert (answer.status, answer.error["name"]) == (403, "payment_replayed")
        assert transfer.transaction in answer.error["message"]
        assert offers_nothing(answer)


def test_workers_take_each_others_promises_and_serve_a_signature_once(tmp_path: Path) -> None:
    with ScriptedUpstream() as upstream, ScriptedFacilitator() as facilitator:
        catalog = write_catalog(tmp_path / "c", {"scripted": upstream.base_url}, [Offered(MODEL)])
        with Workers(tmp_path, catalog, 2, **environ_of(facilitator)) as router:
            for way in WAYS:
                for _ in range(6):
                    payer = payer_at(facilitator)
                    headers = signed(router, payer, way, BODY)
                    assert router.request("POST", CHAT, BODY, headers).status == 200
            assert len(facilitator.transfers) == 18
            wait_for(lambda: len(router.served_by()) == 2 or None, "decisions of both workers")
