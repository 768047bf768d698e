"""Who left us with an answer that nobody pays for pays before the next one: an upstream is burned once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.facilitator import html, refused, slow
from tests.mpp_wallet import MppWallet, parse_challenges
from tests.paying import (
    CHAT,
    FUNDS,
    TOPUP,
    UNIT_NUSD,
    WAYS,
    Shop,
    Way,
    counter,
    header_lines,
    offers_anew,
    selling,
)
from tests.router import Answer, RouterServer
from tests.rpc_node import RpcNode, error, result
from tests.service.walking import Client, books_of, question, wait_for
from tests.upstream import status

HOUR_S = 3_600.0
REST_S = 300.0
WHOLE, STREAM = question(max_tokens=50), question(max_tokens=50, stream=True)
NO = refused("insufficient_funds")
RESPONSE = "/v1/responses"


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory, database_url: str | None) -> Iterator[Shop]:
    with counter(tmp_path_factory.mktemp("shop"), database_url=database_url) as open_shop:
        yield open_shop


@pytest.fixture
def shop(opened: Shop) -> Iterator[Shop]:
    """The shop, whose parts are well."""
    opened.router.skip(REST_S)
    yield opened
    opened.facilitator.on("/verify").on("/settle")
    opened.upstream.on("test/model", opened.upstream.default)
    opened.ended()


def calls(shop: Shop) -> int:
    return len(shop.upstream.requests)


@pytest.mark.parametrize(
    ("way", "body"),
    [("exact", WHOLE), ("exact", STREAM), ("evm", WHOLE), ("evm", STREAM), ("upto", WHOLE)],
    ids=["exact", "exact, stream", "evm", "evm, stream", "upto"],
)
def test_whose_settlement_was_refused_pays_before_the_upstream_is_asked(
    shop: Shop, way: Way, body: dict[str, object]
) -> None:
    payer, before = shop.payer(), calls(shop)
    shop.facilitator.on("/settle", *[NO] * 3)
    for _ in range(3):
        assert offers_anew(shop.pay(payer, way, body))
    assert calls(shop) == before + 1
    assert shop.facilitator.balance(payer.address) == FUNDS

    paid = shop.pay(payer, way, body)
    assert (paid.status, calls(shop)) == (200, before + 2)
    assert shop.pay(payer, way, {"model": "auto", "input": "hi"}, path=RESPONSE).status == 200
    shop.ended()
    (first, second) = (each for each in shop.payments() if each.account.endswith(payer.address.lower()))
    assert (first.state, first.unpaid, first.unserved) == ("settled", False, False)
    assert first.taken == first.claim.amount  # the whole quote: nobody knew yet what it would cost
    assert first.served_nusd == first.taken * UNIT_NUSD
    taken = first.taken + (second.taken or 0)
    assert FUNDS - shop.facilitator.balance(payer.address) == taken


def test_it_lasts_an_hour_and_twice_as_long_the_next_time(shop: Shop) -> None:
    payer, before = shop.payer(), calls(shop)

    def burns() -> bool:
        shop.facilitator.on("/settle", NO)
        asked = calls(shop)
        assert offers_anew(shop.pay(payer, "evm", WHOLE))
        return calls(shop) > asked

    try:
        assert [burns(), burns()] == [True, False]
        shop.router.step(HOUR_S + 1)
        assert [burns(), burns()] == [True, False]
        shop.router.step(HOUR_S + 1)
        assert not burns()
        shop.router.step(HOUR_S)
        assert burns()
        assert calls(shop) == before + 3
    finally:
        shop.router.step(-3 * HOUR_S - 2)


def test_others_pay_as_ever(shop: Shop) -> None:
    payer, other = shop.payer(), shop.payer()
    shop.facilitator.on("/settle", NO)
    assert offers_anew(shop.pay(payer, "exact", WHOLE))
    shop.upstream.on("test/model", status(500))
    settles = shop.settles()
    assert shop.pay(other, "exact", WHOLE).status == 502
    assert shop.settles() == settles
    shop.router.skip(REST_S)
    assert shop.pay(payer, "exact", WHOLE).status == 502
    assert shop.settles() == settles + 1
    payment = shop.payment("settled")
    assert payment.unserved  # as after a push: it is listed for the operator


def test_who_leaves_during_the_refusal_is_remembered_too(shop: Shop) -> None:
    payer, gate, settles = shop.payer(), threading.Event(), shop.settles()
    headers = shop.sign(payer, "exact", WHOLE)
    shop.facilitator.on("/settle", slow(gate, then=NO))
    client = Client(shop.router, WHOLE, headers)
    wait_for(lambda: shop.settles() > settles or None, "the settlement")
    client.leave()
    gate.set()
    account = f"payer:eip155:84532:{payer.address.lower()}"
    found = wait_for(
        lambda: books_of(shop.router).ask(lambda storage: storage.payments.refusals(account)), "the note"
    )
    assert found.times == 1
    asked = calls(shop)
    shop.facilitator.on("/settle", NO)
    assert offers_anew(shop.pay(payer, "exact", WHOLE))
    assert calls(shop) == asked


@pytest.mark.parametrize("way", WAYS)
def test_what_burned_nothing_is_not_held_against_a_payer(shop: Shop, way: Way) -> None:
    payer = shop.payer()
    shop.facilitator.on("/settle", NO)
    assert offers_anew(shop.pay(payer, way, {"amount_usd": 1}, path=TOPUP))
    shop.facilitator.on("/verify", NO)
    assert offers_anew(shop.pay(payer, way, WHOLE))
    shop.facilitator.on("/verify", html(502), html(502))
    assert shop.pay(payer, way, WHOLE).status == 503
    shop.facilitator.on("/verify")
    shop.router.skip(REST_S)
    shop.upstream.on("test/model", status(500))
    settles = shop.settles()
    assert shop.pay(payer, way, WHOLE).status == 502
    assert shop.settles() == settles


def test_a_tempo_wallet_whose_fee_or_nonce_the_chain_refuses_burns_once_also_across_a_restart(
    tmp_path: Path,
) -> None:
    wallet, other = MppWallet("0x" + "01" * 32), MppWallet("0x" + "02" * 32)

    def pay(router: RouterServer, payer: MppWallet, **fields: object) -> Answer:
        body = WHOLE | fields
        challenge = parse_challenges(header_lines(router, body))["tempo"]
        return router.request("POST", CHAT, body, {"authorization": payer.tempo(challenge)})

    with RpcNode() as node:
        node.on("eth_chainId", result(hex(4217)))
        node.on("eth_call", result("0x"))  # it holds the amount
        node.on("eth_sendRawTransactionSync", error(-32003))  # "nonce too low", "insufficient gas", ...
        node.on("eth_getTransactionReceipt", result(None))
        node.on("eth_getTransactionByHash", result(None))
        with counter(tmp_path, mpp_tempo_rpc=node.url) as shop:
            for stream in (False, True, False):
                refused_ = pay(shop.router, wallet, stream=stream)
                assert offers_anew(refused_), refused_.body
                assert "(transaction_refused)" in refused_.error["message"]
            assert calls(shop) == 1
            assert offers_anew(pay(shop.router, other))
            assert calls(shop) == 2
            burned = [row.upstream_cost_nusd for row in shop.ended() if row.kind == "release"]
            assert [bool(cost) for cost in burned] == [True, False, False, True]
            settings = selling(shop.facilitator, mpp_tempo_rpc=node.url)
            with RouterServer(tmp_path / "catalog", tmp_path / "data", **settings) as again:
                assert offers_anew(pay(again, wallet))
            assert calls(shop) == 2
            assert shop.payments() == []
