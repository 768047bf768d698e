"""A settlement that fails: what the payer is told, what is withheld, what is owed, what is listed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial

import pytest

from router.ledger.payments import Payment
from tests.facilitator import Behaviour, html, lost, lying, pending, refused, status
from tests.paying import (
    FUNDS,
    MODEL,
    UNIT_NUSD,
    WAYS,
    Shop,
    Way,
    counter,
    offers_anew,
    offers_nothing,
)
from tests.router import Answer
from tests.service.walking import Client, books_of, question, run_command, wait_for
from tests.upstream import Gate, stream
from tests.wallets import decoded

REST_S = 11.0
LONG_S = 4_000.0
WORDS = "the words that nobody paid for"
BEFORE: tuple[Way, ...] = ("exact", "evm")


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


def asking(*, stream: bool) -> dict[str, object]:
    return question(WORDS, max_tokens=50, stream=stream)


def listed(shop: Shop, request_id: str) -> dict[str, object] | None:
    """Return the line of a request in `router ledger payments`."""
    result = run_command(shop.router, "ledger", "payments", "--json")
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    return next((line for line in lines if line["request_id"] == request_id), None)


def check_withheld(answer: Answer) -> None:
    assert b"words" not in answer.body
    assert not any("words" in value for value in answer.headers.values())
    assert "x-llm-router-cost-usd" not in answer.headers
    assert "payment-receipt" not in answer.headers


@pytest.mark.parametrize(
    ("way", "streamed"),
    [("exact", False), ("exact", True), ("evm", False), ("evm", True), ("upto", False)],  # not its stream
)
def test_a_definite_no_withholds_the_answer_and_offers_anew(shop: Shop, way: Way, streamed: bool) -> None:
    payer, body = shop.payer(), asking(stream=streamed)
    headers = shop.sign(payer, way, body)
    shop.facilitator.on("/settle", refused("insufficient_funds"))
    answer = shop.ask(body, headers)
    assert offers_anew(answer)
    check_withheld(answer)
    if way != "evm":
        told = decoded(answer.headers["payment-response"])
        assert (told["success"], told["errorReason"], told["transaction"]) == (
            False,
            "insufficient_funds",
            "",
        )
    rows = [row for row in shop.ended() if row.request_id == answer.headers["x-request-id"]]
    assert [row.kind for row in rows] == ["hold", "release"]
    assert rows[1].upstream_cost_nusd > 0  # the upstream is paid all the same
    assert shop.facilitator.balance(payer.address) == FUNDS
    assert shop.ask(body, headers).status == 200  # nothing moved, so the signature is good
    assert shop.ask(body, headers).status == 403


def test_a_definite_no_after_a_stream_is_a_debt_that_blocks_its_payer_until_it_is_forgiven(
    shop: Shop,
) -> None:
    payer, body = shop.payer(), asking(stream=True)
    shop.facilitator.on("/settle", refused("insufficient_funds"))
    answer = shop.pay(payer, "upto", body)
    assert answer.status == 200
    assert "words" in answer.body.decode()
    (receipt,) = [line for line in answer.body.decode().splitlines() if line.startswith(": payment-response")]
    assert decoded(receipt.split()[-1])["success"] is False
    assert answer.body.rstrip().endswith(b"data: [DONE]")
    payment = shop.payment("failed")
    assert (payment.unpaid, payment.reason) == (True, "insufficient_funds")

    for way in WAYS:
        for path, blocked_body in (("chat", body), ("topup", {"amount_usd": 1})):
            where = "/v1/credits/topup" if path == "topup" else "/v1/chat/completions"
            blocked = shop.pay(payer, way, blocked_body, path=where)
            assert (blocked.status, blocked.error["name"]) == (403, "payer_blocked"), blocked.body
            assert offers_nothing(blocked)
    assert shop.pay(shop.payer(), "upto", body).status == 200
    line = listed(shop, payment.request_id)
    assert line is not None
    assert (line["state"], line["served_nusd"]) == ("failed", payment.served_nusd)

    assert run_command(shop.router, "ledger", "forgive", payment.request_id).exit_code == 0
    assert listed(shop, payment.request_id) is None
    assert shop.pay(payer, "upto", body).status == 200


UNSURE: dict[str, list[Behaviour]] = {
    "pending, done": [pending(done=True), pending(done=False)],
    "no word, done": [lost(), lost()],
    "page": [html(502), lost()],
    "another payer": [lying(payer="0x" + "1" * 40)] * 2,
    "empty hash": [lying(transaction="")] * 2,
    "another network": [lying(network="eip155:1")] * 2,
}


def test_an_unknown_outcome_is_503_that_nobody_repeats_and_is_found_out(shop: Shop) -> None:
    asked = []
    for number, behaviours in enumerate(UNSURE.values()):
        payer, body = shop.payer(), asking(stream=number >= len(UNSURE) // 2)
        headers = shop.sign(payer, BEFORE[number % 2], body)
        shop.facilitator.on("/settle", *behaviours)
        answer = shop.ask(body, headers)
        assert (answer.status, answer.error["name"]) == (503, "settlement_unknown")
        assert answer.headers["x-should-retry"] == "false"
        assert offers_nothing(answer)
        assert "payment-response" not in answer.headers
        check_withheld(answer)
        again = shop.ask(body, headers)
        assert (again.status, offers_nothing(again)) == (403, True)
        asked.append((payer, body, headers, answer.headers["x-request-id"]))

    for payer, body, headers, request_id in asked:
        payment = wait_for(partial(settled, shop, request_id), "the settlement", 15)
        assert payment.unserved
        assert FUNDS - shop.facilitator.balance(payer.address) == payment.taken == payment.claim.amount
        line = listed(shop, request_id)
        assert line is not None
        assert (line["state"], line["served_nusd"]) == ("settled", None)
        balance = books_of(shop.router).account(payment.account).balance_nusd
        assert balance == payment.claim.amount * UNIT_NUSD
        assert shop.router.request("GET", f"/v1/receipts/{request_id}").json["payment"]["state"] == "settled"
        assert shop.ask(body, headers).status == 403


def settled(shop: Shop, request_id: str) -> Payment | None:
    """Return the payment of a request once it is settled."""
    found = [one for one in shop.payments() if one.request_id == request_id]
    return found[0] if found and found[0].state == "settled" else None


def test_what_never_moved_is_never_taken_and_ends_with_the_signature(shop: Shop) -> None:
    payer, body = shop.payer(), asking(stream=False)
    shop.facilitator.on("/settle", lost(done=False), lost(done=False))
    answer = shop.pay(payer, "exact", body)
    assert (answer.status, answer.error["name"]) == (503, "settlement_unknown")
    shop.router.step(LONG_S)
    try:
        payment = shop.payment("unknown")
    finally:
        shop.router.step(-LONG_S)
    assert payment.served_nusd is None
    assert shop.facilitator.balance(payer.address) == FUNDS
    assert books_of(shop.router).account(payment.account).balance_nusd == 0
    assert shop.pay(payer, "exact", body).status == 200  # nobody owes anything


def test_an_unknown_settlement_of_a_stream_is_told_as_pending_and_asked_for_again(shop: Shop) -> None:
    payer, body = shop.payer(), asking(stream=True)
    shop.facilitator.on("/settle", lost(done=False), status(500))
    answer = shop.pay(payer, "upto", body)
    assert answer.status == 200
    (receipt,) = [line for line in answer.body.decode().splitlines() if line.startswith(": payment-response")]
    assert decoded(receipt.split()[-1])["errorReason"] == "settlement_pending"
    payment = shop.payment("settled")
    assert (payment.unpaid, payment.unserved) == (False, False)
    assert FUNDS - shop.facilitator.balance(payer.address) == payment.taken


@pytest.mark.parametrize("way", WAYS)
def test_one_who_goes_down_before_the_settlement_takes_nothing(shop: Shop, way: Way) -> None:
    payer, body, gate = shop.payer(), asking(stream=True), Gate()
    if way == "upto":
        body = asking(stream=True)
    headers = shop.sign(payer, way, body)
    calls = len(shop.upstream.requests)
    shop.upstream.on(MODEL, stream(WORDS, gate=gate, gate_after=0 if way != "upto" else 2))
    client = Client(shop.router, body, headers)
    wait_for(lambda: len(shop.upstream.requests) > calls or None, "the upstream")
    shop.facilitator.down()
    gate.open()
    head = client.head()
    if way != "upto":
        assert (head.status, offers_nothing(head)) == (503, True)
        assert b"payments_unavailable" in client.read_rest()
        shop.facilitator.up()
        shop.upstream.on(MODEL, stream(WORDS))
        shop.ended()
        shop.router.skip(REST_S)
        assert shop.ask(body, headers).status == 200
        return
    assert head.status == 200
    assert b"[DONE]" in client.read_rest()
    shop.facilitator.up()
    shop.upstream.on(MODEL, stream(WORDS))
    payment = shop.payment("settled")
    assert FUNDS - shop.facilitator.balance(payer.address) == payment.taken
