"""Credit that is bought by wallet: for a key, or for a new one, once for each signature."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.facilitator import ScriptedFacilitator, lost, refused, slow
from tests.mpp_wallet import MppWallet, parse_challenges, pushed
from tests.paying import (
    CHAT,
    FUNDS,
    TOPUP,
    UNIT_NUSD,
    WAYS,
    Body,
    Process,
    Shop,
    Way,
    counter,
    environ_of,
    offers_anew,
    offers_nothing,
    payer_at,
    payments_of,
    signed,
    signing,
)
from tests.router import Answer, Offered, RouterServer, write_catalog
from tests.rpc_node import RpcNode, held, result
from tests.service.surfing import Surfer
from tests.service.walking import (
    Client,
    bearer,
    books_of,
    make_key,
    question,
    run_command,
    wait_all_ended,
    wait_for,
)
from tests.serving import serve
from tests.upstream import ScriptedUpstream
from tests.wallets import Wallet, decoded

DOLLAR = {"amount_usd": 1}
UNITS = 1_000_000


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory, database_url: str | None) -> Iterator[Shop]:
    with counter(tmp_path_factory.mktemp("shop"), database_url=database_url) as open_shop:
        yield open_shop


@pytest.fixture
def shop(opened: Shop) -> Iterator[Shop]:
    """The shop, whose books are right when a test is over."""
    yield opened
    opened.facilitator.on("/verify").on("/settle")
    opened.ended()


def buy(shop: Shop, payer: Wallet, way: Way, key: str | None = None, body: Body = DOLLAR) -> Answer:
    """Buy credit by wallet; with a key, MPP's credential goes beside it."""
    headers = {} if key is None else bearer(key)
    paid = shop.sign(payer, way, body, headers, TOPUP)
    if key is not None and "authorization" in paid:
        paid = {"payment-authorization": paid["authorization"]}
    return shop.ask(body, headers | paid, TOPUP)


@pytest.mark.parametrize("way", WAYS)
def test_without_a_key_a_new_one_is_sold_that_works(shop: Shop, way: Way) -> None:
    payer = shop.payer()
    sold = buy(shop, payer, way)
    assert sold.status == 200, sold.body
    assert sold.headers["cache-control"] == "no-store"
    assert (sold.json["amount_usd"], sold.json["balance_usd"]) == (1, 1)
    assert {"payment-response", "payment-receipt"} & sold.headers.keys()
    assert FUNDS - shop.facilitator.balance(payer.address) == UNITS
    served = shop.ask(question(max_tokens=5), bearer(sold.json["key"]))
    assert served.status == 200
    shop.ended()
    account = books_of(shop.router).account(sold.json["account"])
    assert 0 < account.charged_nusd == 10**9 - account.balance_nusd
    payment = shop.payment("settled")
    assert (payment.unpaid, payment.unserved) == (False, False)
    assert books_of(shop.router).account(payment.account).balance_nusd == 0


@pytest.mark.parametrize("way", WAYS)
def test_a_key_is_topped_up(shop: Shop, way: Way) -> None:
    key, account = make_key(shop.router, "--credit", "0.5")
    sold = buy(shop, shop.payer(), way, key, {"amount_usd": "2.25"})
    assert (sold.status, sold.json["account"], sold.json["balance_usd"]) == (200, account, 2.75)
    assert "key" not in sold.json
    shop.ended()
    assert books_of(shop.router).account(account).balance_nusd == 2_750_000_000


def test_the_pages_tell_of_a_wallets_payment(shop: Shop) -> None:
    key, account = make_key(shop.router, "--credit", "0.5")
    payer = shop.payer()
    assert buy(shop, payer, "exact", key, {"amount_usd": "2.25"}).status == 200
    body = {"model": "auto", "messages": [{"role": "user", "content": "Say hello"}], "max_tokens": 50}
    answered = shop.pay(payer, "exact", body)
    assert answered.status == 200
    shop.ended()
    name = answered.headers["x-request-id"]
    ours = [each for each in shop.payments() if payer.address.lower() in each.account]
    (bought,) = [each for each in ours if each.amount_nusd == 2_250_000_000]
    (paid,) = [each for each in shop.payments() if each.request_id == name]
    customer, operator = Surfer(shop.router), Surfer(shop.router)
    assert customer.sign_in(key).status == 303

    own = customer.seen("/ui/account")
    for part in (
        "Payments",
        "$2.25 a wallet x402 on",
        "settled",
        payer.address.lower(),
        bought.transaction or "?",
    ):
        assert part.lower() in own.lower(), part
    assert "$0.500 with the key" in own
    assert "2.25" in operator.seen(f"/ui/account/keys/{account}")
    asked = operator.seen(f"/ui/requests/{name}")
    assert "Payment by wallet" in asked
    claim = paid.claim
    for part in (paid.transaction or "?", claim.asset, claim.pay_to, claim.network, "x402, exact"):
        assert part in asked, part
    other = Surfer(shop.router)
    other.sign_in(make_key(shop.router)[0])
    assert "Payments" not in other.seen("/ui/account")
    assert other.get(f"/ui/account/receipts/{name}").status == 404


@pytest.mark.parametrize("way", WAYS)
def test_of_copies_at_once_one_is_sold_and_replays_are_told_its_transaction(shop: Shop, way: Way) -> None:
    key, account = make_key(shop.router)
    payer = shop.payer()
    headers = bearer(key)
    paid = shop.sign(payer, way, DOLLAR, headers, TOPUP)
    if "authorization" in paid:
        paid = {"payment-authorization": paid["authorization"]}
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: shop.ask(DOLLAR, headers | paid, TOPUP), range(20)))
    assert sorted(answer.status for answer in answers) == [200] + [403] * 19
    shop.ended()
    replayed = shop.ask(DOLLAR, headers | paid, TOPUP)
    assert (replayed.status, offers_nothing(replayed)) == (403, True)
    assert shop.facilitator.transfers[-1].transaction in replayed.error["message"]
    assert books_of(shop.router).account(account).balance_nusd == 10**9
    assert FUNDS - shop.facilitator.balance(payer.address) == UNITS


@pytest.mark.parametrize("way", WAYS)
def test_a_promise_for_the_one_route_buys_nothing_at_the_other(shop: Shop, way: Way) -> None:
    payer, settles = shop.payer(), shop.settles()
    both = question(max_tokens=5) | DOLLAR
    for signed_at, used_at in ((CHAT, TOPUP), (TOPUP, CHAT)):
        headers = shop.sign(payer, way, both, path=signed_at)
        answer = shop.ask(both, headers, used_at)
        assert offers_anew(answer)
    assert offers_anew(shop.ask({"amount_usd": 2}, shop.sign(payer, way, DOLLAR, path=TOPUP), TOPUP))
    assert (shop.settles(), shop.facilitator.balance(payer.address)) == (settles, FUNDS)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{}", b"[]", b"\xff", b'{"amount_usd":null}', b'{"amount_usd":"nan"}', b'{"amount_usd":-1}',
        b'{"amount_usd":0}', b'{"amount_usd":0.009}', b'{"amount_usd":10000.01}', b'{"amount_usd":1e999}',
        b'{"amount_usd":1.0000000001}', b'{"amount_usd":true}', b'{"amount_usd":[1]}',
        b'{"amount_usd":' + b"9" * 5_000 + b"}", b'{"amount_usd":"\xd9\xa1"}', b"[" * 9_000,
        b'{"x":' + b"[" * 9_000,
    ],
)  # fmt: skip
def test_what_is_no_amount_is_a_bad_request(shop: Shop, body: bytes) -> None:
    answer = shop.ask(body, path=TOPUP)
    assert (answer.status, offers_nothing(answer)) == (400, True), answer.body
    assert answer.error["param"] == "amount_usd"


def test_the_bounds_are_asked_for(shop: Shop) -> None:
    for amount, units in (("0.01", 10_000), ("10000", 10**10)):
        asked = shop.ask({"amount_usd": amount}, path=TOPUP)
        offers = decoded(asked.headers["payment-required"])["accepts"]
        assert {int(offer["amount"]) for offer in offers} == {units}
    assert [offer["scheme"] for offer in offers] == ["exact"]  # above the most of upto


def test_a_key_that_is_wrong_or_revoked_buys_nothing(shop: Shop) -> None:
    payer = shop.payer()
    key, account = make_key(shop.router)
    asked = shop.ask(DOLLAR, bearer(key), TOPUP)
    paid = signing(asked, payer, "exact")
    for wrong in ("rk_" + "x" * 40, "sk-other"):
        answer = shop.ask(DOLLAR, {"authorization": f"Bearer {wrong}"} | paid, TOPUP)
        assert (answer.status, offers_nothing(answer)) == (401, True)
    assert shop.facilitator.balance(payer.address) == FUNDS
    assert shop.ask(DOLLAR, bearer(key) | paid, TOPUP).json["account"] == account


def test_a_definite_no_sells_nothing_and_leaves_the_signature_good(shop: Shop) -> None:
    for way in WAYS:
        payer = shop.payer()
        headers = shop.sign(payer, way, DOLLAR, path=TOPUP)
        shop.facilitator.on("/settle", refused("insufficient_funds"))
        answer = shop.ask(DOLLAR, headers, TOPUP)
        assert offers_anew(answer)
        assert b"rk_" not in answer.body.replace(b"Bearer rk_...", b"")
        assert shop.ask(DOLLAR, headers, TOPUP).status == 200


def test_an_unknown_outcome_sells_nothing_and_what_came_is_listed_for_the_operator(shop: Shop) -> None:
    key, account = make_key(shop.router)
    payer = shop.payer()
    shop.facilitator.on("/settle", lost(), lost())
    answer = buy(shop, payer, "exact", key)
    assert (answer.status, answer.error["name"]) == (503, "settlement_unknown")
    assert offers_nothing(answer)
    payment = shop.payment("settled")
    assert payment.unserved
    assert books_of(shop.router).account(account).balance_nusd == 0
    assert books_of(shop.router).account(payment.account).balance_nusd == UNITS * UNIT_NUSD


@pytest.mark.parametrize("first", [False, True], ids=["", "pays first"])
@pytest.mark.parametrize("keyed", [True, False], ids=["key", "no key"])
def test_who_leaves_during_the_settlement_has_bought(shop: Shop, keyed: bool, first: bool) -> None:
    key, account = make_key(shop.router) if keyed else ("", "")
    payer, gate = shop.payer(), threading.Event()
    if first:
        shop.facilitator.on("/settle", refused("insufficient_funds"))
        assert offers_anew(shop.pay(payer, "exact", question()))
    settles = shop.settles()
    headers = bearer(key) if keyed else {}
    headers |= shop.sign(payer, "exact", DOLLAR, headers, TOPUP)
    shop.facilitator.on("/settle", slow(gate))
    client = Client(shop.router, DOLLAR, headers, path=TOPUP)
    wait_for(lambda: shop.settles() > settles or None, "the settlement")
    client.leave()
    gate.set()
    payment = shop.payment("settled")
    assert FUNDS - shop.facilitator.balance(payer.address) == UNITS
    if keyed:
        assert books_of(shop.router).account(account).balance_nusd == 10**9
        assert not payment.unserved


def test_who_pushed_its_money_and_leaves_while_it_is_booked_has_bought(tmp_path: Path) -> None:
    wallet, found, looked = MppWallet("0x" + "01" * 32), threading.Event(), "eth_getTransactionReceipt"
    with RpcNode() as node:
        node.on("eth_chainId", result(hex(4217)))
        with counter(tmp_path, mpp_tempo_rpc=node.url) as shop:
            key, account = make_key(shop.router)
            asked = shop.ask(DOLLAR, bearer(key), TOPUP)
            paid, receipt = pushed(wallet, parse_challenges(asked.headers.items())["tempo"])
            node.on(looked, result(receipt), held(found, result(receipt)), result(receipt))
            headers = bearer(key) | {"payment-authorization": paid}
            client = Client(shop.router, DOLLAR, headers, path=TOPUP)
            wait_for(lambda: node.methods().count(looked) > 1 or None, "the second look")
            client.leave()
            found.set()
            assert not shop.payment("settled").unserved
            assert books_of(shop.router).account(account).balance_nusd == 10**9


NEVER_ENDS = """
CREATE TRIGGER never_ends BEFORE INSERT ON ledger WHEN NEW.kind = 'settle'
BEGIN SELECT RAISE(ABORT, 'not now'); END
"""


@pytest.mark.parametrize("keyed", [True, False], ids=["key", "no key"])
def test_killed_between_the_credit_and_the_end_of_its_hold_what_was_bought_is_not_listed(
    tmp_path: Path, keyed: bool
) -> None:
    with ScriptedUpstream() as upstream, ScriptedFacilitator() as facilitator:
        catalog = write_catalog(tmp_path / "c", {"scripted": upstream.base_url}, [Offered("test/model")])
        environ = environ_of(facilitator)
        with serve(tmp_path, "--catalog", str(catalog), **environ) as serving:
            serving.read_until("ready")
            router = Process(tmp_path / "data", serving.port)
            headers = bearer(make_key(router)[0]) if keyed else {}
            paid = signed(router, payer_at(facilitator), "exact", DOLLAR, headers, TOPUP)
            books_of(router).execute(NEVER_ENDS)
            sold = router.request("POST", TOPUP, DOLLAR, headers | paid)
            assert sold.status == 200
        books_of(router).execute("DROP TRIGGER never_ends")
        with serve(tmp_path, "--catalog", str(catalog), **environ) as serving:
            serving.read_until("ready")
            wait_all_ended(router)
        (payment,) = payments_of(router)
        assert (payment.state, payment.served_nusd, payment.unserved) == ("settled", 10**9, False)
        assert books_of(router).account(sold.json["account"]).balance_nusd == 10**9
        assert books_of(router).account(payment.account).balance_nusd == 0
        assert run_command(router, "ledger", "payments").stdout.count(payment.claim.payer) == 0
        assert run_command(router, "ledger", "check").exit_code == 0


def test_a_router_that_sells_to_no_wallet_sells_no_credit(tmp_path: Path) -> None:
    with ScriptedUpstream() as upstream:
        catalog = write_catalog(tmp_path / "c", {"scripted": upstream.base_url}, [Offered("test/model")])
        with RouterServer(catalog, tmp_path / "data") as router:
            assert router.request("POST", TOPUP, DOLLAR).status == 404
