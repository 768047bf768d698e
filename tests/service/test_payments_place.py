"""Who pays before the upstream is asked pays at a place: a full offer costs nothing, and no place leaks."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.facilitator import Behaviour, html, refused, slow
from tests.mpp_wallet import MppWallet, parse_challenges, pushed
from tests.paying import (
    FUNDS,
    PRICE,
    WAYS,
    Shop,
    Way,
    counter,
    header_lines,
    offers_anew,
    offers_nothing,
)
from tests.router import Answer, Offered
from tests.rpc_node import RpcNode, held, result
from tests.service.walking import Client, bearer, make_key, question, wait_for
from tests.upstream import Gate, hang, status, stream
from tests.wallets import Wallet

WHOLE, STREAM = question(max_tokens=50), question(max_tokens=50, stream=True)
NO = refused("insufficient_funds")
ONE = Offered("test/model", price=PRICE, limits="concurrency = 1")
OTHER = Offered("test/other", price=PRICE, limits="concurrency = 1")
EITHER = {"model": ONE.id, "models": [OTHER.id]}
MINUTE_S = 61.0
WAITING = "[limits]\nqueue_s = 20\n"
DEADLINE_S = 2.0


def burned(shop: Shop, way: Way = "exact") -> Wallet:
    """Return a wallet whose settlement was refused when its answer was there: it pays first from now on."""
    payer = shop.payer()
    shop.facilitator.on("/settle", NO)
    assert offers_anew(shop.pay(payer, way, WHOLE))
    return payer


class Stuck:
    """A request of a wallet while the facilitator takes its time over one question."""

    def __init__(
        self,
        shop: Shop,
        payer: Wallet,
        path: str,
        *,
        way: Way = "exact",
        body: Mapping[str, Any] = WHOLE,
        then: Behaviour | None = None,
    ) -> None:
        self._gate = threading.Event()
        self.headers = shop.sign(payer, way, body)
        asked = len(shop.facilitator.calls(path))
        shop.facilitator.on(path, slow(self._gate, then=then))
        self.client = Client(shop.router, body, self.headers)
        wait_for(lambda: len(shop.facilitator.calls(path)) > asked or None, f"a call of {path}")

    def go_on(self) -> None:
        self._gate.set()

    def answered(self) -> Answer:
        """Let the facilitator answer, and return what the client gets then."""
        self.go_on()
        return whole(self.client)


class Busy:
    """A customer with a key, whose stream keeps a place until it is told to end."""

    def __init__(self, shop: Shop, model: str = ONE.id) -> None:
        self._gate = Gate()
        shop.upstream.on(model, stream(gate=self._gate, gate_after=2), shop.upstream.default)
        self._client = Client(shop.router, STREAM | {"model": model}, keyed(shop))
        assert self._client.head().status == 200

    def end(self) -> None:
        self._gate.open()
        self._client.read_rest()


def keyed(shop: Shop) -> dict[str, str]:
    return bearer(make_key(shop.router, "--credit", "1")[0])


def whole(client: Client) -> Answer:
    head = client.head()
    return Answer(head.status, head.headers, client.read_rest())


def waits(shop: Shop) -> bool:
    return b"router_waiting 1.0" in shop.router.request("GET", "/metrics").body


def calls(shop: Shop) -> int:
    return len(shop.upstream.requests)


@pytest.mark.parametrize("way", WAYS)
def test_a_place_that_others_took_meanwhile_costs_nothing_and_the_signature_stays_good(
    tmp_path: Path, way: Way
) -> None:
    with counter(tmp_path, models=[ONE]) as shop:
        payer = burned(shop, way)
        settles, late = shop.settles(), Stuck(shop, payer, "/verify", way=way)
        busy, asked = Busy(shop), calls(shop)
        told = late.answered()
        assert (told.status, told.error["name"], told.headers["retry-after"]) == (429, "models_at_limit", "1")
        assert offers_nothing(told)
        assert (shop.settles(), shop.facilitator.balance(payer.address)) == (settles, FUNDS)
        assert (shop.payments(), calls(shop)) == ([], asked)
        busy.end()

        assert shop.ask(WHOLE, late.headers).status == 200
        shop.ended()
        paid = shop.payment("settled")
        assert (paid.taken, paid.unserved, len(shop.payments())) == (paid.claim.amount, False, 1)
        assert (shop.settles(), FUNDS - shop.facilitator.balance(payer.address)) == (settles + 1, paid.taken)


@pytest.mark.parametrize("way", WAYS)
def test_where_requests_queue_it_waits_unpaid_and_pays_once_it_has_a_place(tmp_path: Path, way: Way) -> None:
    with counter(tmp_path, models=[ONE], policy=WAITING) as shop, ThreadPoolExecutor(1) as pool:
        payer = burned(shop, way)
        settles, late = shop.settles(), Stuck(shop, payer, "/verify", way=way)
        busy = Busy(shop)
        told = pool.submit(late.answered)
        wait_for(lambda: told.done() or waits(shop) or None, "an answer, or a request that waits")
        assert (shop.settles(), shop.facilitator.balance(payer.address)) == (settles, FUNDS)
        busy.end()

        got = told.result()
        assert (got.status, got.headers["x-llm-router-attempts"]) == (200, "1")
        assert "queue;dur=" in got.headers["server-timing"]
        shop.ended()
        paid = shop.payment("settled")
        assert (shop.settles(), paid.unserved, len(shop.payments())) == (settles + 1, False, 1)
        assert FUNDS - shop.facilitator.balance(payer.address) == paid.taken == paid.claim.amount


@pytest.mark.parametrize("body", [WHOLE, STREAM], ids=["whole", "stream"])
def test_nobody_else_gets_the_place_while_the_money_moves(tmp_path: Path, body: dict[str, Any]) -> None:
    with counter(tmp_path, models=[ONE]) as shop:
        payer, key = burned(shop), keyed(shop)
        asked, paying = calls(shop), Stuck(shop, payer, "/settle", body=body)
        assert shop.ask(WHOLE, key).status == 429
        assert calls(shop) == asked
        assert paying.answered().status == 200
        shop.ended()
        assert not shop.payment("settled").unserved
        assert shop.ask(WHOLE, key).status == 200


def test_of_many_who_come_for_one_place_those_pay_who_are_served(tmp_path: Path) -> None:
    with counter(tmp_path, models=[ONE]) as shop:
        payers = [burned(shop) for _ in range(6)]
        late = [Stuck(shop, payer, "/verify") for payer in payers]
        with ThreadPoolExecutor(len(late)) as pool:
            told = [each.result() for each in [pool.submit(one.answered) for one in late]]
        served = [answer.status == 200 for answer in told]
        assert any(served)
        assert {answer.status for answer in told} <= {200, 429}
        shop.ended()
        assert [shop.facilitator.balance(payer.address) < FUNDS for payer in payers] == served
        assert [payment.unserved for payment in shop.payments()] == [False] * sum(served)


@pytest.mark.parametrize(
    ("answers", "told"),
    [((NO,), (402, "payment_refused")), ((html(502), html(502)), (503, "settlement_unknown"))],
    ids=["refused", "unknown"],
)
def test_a_settlement_that_fails_gives_the_place_back_as_if_it_was_never_taken(
    tmp_path: Path, answers: tuple[Behaviour, ...], told: tuple[int, str]
) -> None:
    """The minute's count shows it: two requests fit, and what never reached the upstream is none of them."""
    twice = Offered("test/model", price=PRICE, limits="concurrency = 1, rpm = 2")
    with counter(tmp_path, models=[twice]) as shop:
        payers, key = [burned(shop) for _ in range(2)], keyed(shop)
        shop.router.skip(MINUTE_S)
        asked = calls(shop)
        for payer in payers:
            shop.facilitator.on("/settle", *answers)
            got = shop.pay(payer, "exact", WHOLE)
            assert (got.status, got.error["name"]) == told
        assert calls(shop) == asked
        assert [shop.ask(WHOLE, key).status for _ in range(3)] == [200, 200, 429]


def test_who_leaves_while_its_money_moves_gives_the_place_back_at_once(tmp_path: Path) -> None:
    with counter(tmp_path, models=[ONE]) as shop:
        payer, key = burned(shop), keyed(shop)
        paying, asked = Stuck(shop, payer, "/settle"), calls(shop)
        paying.client.leave()
        wait_for(lambda: shop.ask(WHOLE, key).status == 200 or None, "the place")
        paying.go_on()
        paid = shop.payment("settled")  # it is not stopped, and its payer has to be told
        assert (paid.unserved, calls(shop)) == (True, asked + 1)
        assert shop.ask(WHOLE, paying.headers).status == 403
        shop.ended()


def test_the_next_offer_is_paid_once_where_the_first_one_is_full(tmp_path: Path) -> None:
    with counter(tmp_path, models=[ONE, OTHER]) as shop:
        payer = burned(shop)
        settles, late = shop.settles(), Stuck(shop, payer, "/verify", body=WHOLE | EITHER)
        busy = Busy(shop)
        got = late.answered()
        assert (got.status, got.headers["x-llm-router-resolved-model"]) == (200, OTHER.id)
        busy.end()
        shop.ended()
        assert (shop.settles(), shop.payment("settled").unserved) == (settles + 1, False)


def test_once_paid_it_is_not_paid_again_at_the_next_offer_nor_hidden_that_nobody_served(
    tmp_path: Path,
) -> None:
    with counter(tmp_path, models=[ONE, OTHER]) as shop:
        payer, body = burned(shop), WHOLE | EITHER
        settles, paying = shop.settles(), Stuck(shop, payer, "/settle", body=body)
        shop.upstream.on(ONE.id, status(500))
        busy = Busy(shop, OTHER.id)
        assert paying.answered().status == 502
        busy.end()
        shop.upstream.on(ONE.id, status(500), shop.upstream.default)
        got = shop.pay(payer, "exact", body)
        assert (got.status, got.headers["x-llm-router-resolved-model"]) == (200, OTHER.id)
        shop.ended()
        assert shop.settles() == settles + 2
        assert [payment.unserved for payment in shop.payments()] == [True, False]


def test_an_offer_that_began_to_rest_costs_nothing(tmp_path: Path) -> None:
    with counter(tmp_path, models=[ONE]) as shop:
        payer = burned(shop)
        settles, late = shop.settles(), Stuck(shop, payer, "/verify")
        shop.upstream.on(ONE.id, status(429, headers=[("retry-after", "60")]), shop.upstream.default)
        assert shop.ask(WHOLE, keyed(shop)).status == 429
        asked, told = calls(shop), late.answered()
        assert told.status == 503
        assert "retry-after" in told.headers
        assert (shop.settles(), calls(shop)) == (settles, asked)
        assert shop.payments() == []


def test_a_slow_settlement_takes_no_time_from_the_upstream_and_is_not_cut_short(tmp_path: Path) -> None:
    """A 504 in its middle would say "try again", which is to pay again."""
    with counter(tmp_path, models=[ONE, OTHER], deadline_s=DEADLINE_S) as shop:
        payer = burned(shop)
        paying = Stuck(shop, payer, "/settle", body=WHOLE | {"model": ONE.id})
        shop.upstream.on(OTHER.id, hang())
        later = shop.ask(WHOLE | {"model": OTHER.id}, keyed(shop))
        assert later.status == 504  # it came later, so the time of the first one is over too
        assert paying.answered().status == 200
        shop.ended()
        assert not shop.payment("settled").unserved


def test_who_pushed_its_money_does_not_wait_and_is_listed_where_nobody_serves_it(tmp_path: Path) -> None:
    """It has moved before anybody was asked, and its hash is spent once it is in the books."""
    wallet, found = MppWallet("0x" + "01" * 32), threading.Event()
    with RpcNode() as node:
        node.on("eth_chainId", result(hex(4217)))
        with counter(tmp_path, models=[ONE], policy=WAITING, mpp_tempo_rpc=node.url) as shop:
            challenge = parse_challenges(header_lines(shop.router, WHOLE))["tempo"]
            paid, receipt = pushed(wallet, challenge)
            node.on("eth_getTransactionReceipt", held(found, result(receipt)), result(receipt))
            late = Client(shop.router, WHOLE, {"authorization": paid})
            wait_for(lambda: "eth_getTransactionReceipt" in node.methods() or None, "a look at the chain")
            busy, asked = Busy(shop), calls(shop)
            found.set()
            with ThreadPoolExecutor(1) as pool:
                told = pool.submit(whole, late)
                wait_for(lambda: told.done() or waits(shop) or None, "an answer, or a request that waits")
                busy.end()
                assert (told.result().status, calls(shop)) == (429, asked)
            assert shop.payment("settled").unserved
