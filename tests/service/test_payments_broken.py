"""Upstreams that fail and clients that leave: who pays for what, and what one payer may have open."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.facilitator import ScriptedFacilitator, lost, says, slow
from tests.facilitator import status as facilitator_status
from tests.paying import (
    CHAT,
    FUNDS,
    MODEL,
    UNIT_NUSD,
    WAYS,
    Process,
    Shop,
    Way,
    counter,
    environ_of,
    offers_nothing,
    payer_at,
    payments_of,
    signed,
)
from tests.router import Offered, write_catalog
from tests.service.walking import Client, books_of, question, run_command, wait_for
from tests.serving import serve
from tests.upstream import Gate, ScriptedUpstream, answer, empty, reset, status, stream
from tests.wallets import decoded

WORDS = "one two three four five six seven eight nine ten"
WHOLE, STREAM = question(max_tokens=50), question(max_tokens=50, stream=True)
OTHER = "test/other"
REST_S = 300.0


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory, database_url: str | None) -> Iterator[Shop]:
    models = [Offered(MODEL, price=(3.0, 15.0)), Offered(OTHER, price=(3.0, 15.0))]
    with counter(tmp_path_factory.mktemp("shop"), models=models, database_url=database_url) as open_shop:
        yield open_shop


@pytest.fixture
def shop(opened: Shop) -> Iterator[Shop]:
    """The shop, whose upstreams are well."""
    opened.router.skip(REST_S)
    yield opened
    for model in (MODEL, OTHER):
        opened.upstream.on(model, opened.upstream.default)
    opened.ended()


@pytest.mark.parametrize("fault", [status(500), reset(), empty()], ids=["500", "reset", "empty"])
@pytest.mark.parametrize("body", [WHOLE, STREAM], ids=["whole", "stream"])
@pytest.mark.parametrize("way", WAYS)
def test_an_upstream_that_fails_before_its_first_word_costs_nothing_and_the_signature_stays_good(
    shop: Shop, way: Way, body: dict[str, object], fault: object
) -> None:
    payer, settles = shop.payer(), shop.settles()
    headers = shop.sign(payer, way, body)
    for model in (MODEL, OTHER):
        shop.upstream.on(model, fault)  # type: ignore[arg-type]
    failed = shop.ask(body, headers)
    assert failed.status in (502, 503)
    assert offers_nothing(failed)
    shop.ended()
    assert (shop.settles(), shop.facilitator.balance(payer.address)) == (settles, FUNDS)
    for model in (MODEL, OTHER):
        shop.upstream.on(model, shop.upstream.default)
    shop.router.skip(REST_S)
    assert shop.ask(body, headers).status == 200


@pytest.mark.parametrize("way", WAYS)
def test_another_model_that_takes_over_is_paid_once(shop: Shop, way: Way) -> None:
    payer, settles = shop.payer(), shop.settles()
    chosen = shop.ask(WHOLE, path="/v1/route").json["chosen"]["model"]
    shop.upstream.on(chosen, status(500))
    served = shop.pay(payer, way, WHOLE)
    assert (served.status, served.headers["x-llm-router-attempts"]) == (200, "2")
    shop.ended()
    assert shop.settles() == settles + 1


@pytest.mark.parametrize("way", WAYS)
def test_of_a_stream_that_breaks_off_what_came_is_charged(shop: Shop, way: Way) -> None:
    payer = shop.payer()
    for model in (MODEL, OTHER):
        shop.upstream.on(model, stream(WORDS, cut_after=4))
    cut = shop.pay(payer, way, STREAM)
    assert cut.status == 200
    assert '"finish_reason":"error"' in cut.body.decode().replace(" ", "")
    shop.ended()
    payment = shop.payment("settled")
    assert payment.served_nusd is not None
    assert payment.metered_nusd is not None
    assert payment.taken_nusd is not None
    assert payment.served_nusd == -(-payment.metered_nusd // UNIT_NUSD) * UNIT_NUSD
    assert FUNDS - shop.facilitator.balance(payer.address) == payment.taken
    balance = books_of(shop.router).account(payment.account).balance_nusd
    if way == "upto":
        assert (payment.taken_nusd, balance) == (payment.served_nusd, 0)
        assert b": payment-response " in cut.body
    else:
        assert payment.taken == payment.claim.amount
        assert balance == payment.taken_nusd - payment.served_nusd > 0


@pytest.mark.parametrize("way", WAYS)
def test_who_leaves_in_the_middle_has_paid_for_what_came(shop: Shop, way: Way) -> None:
    payer, gate = shop.payer(), Gate()
    for model in (MODEL, OTHER):
        shop.upstream.on(model, stream(WORDS, gate=gate, gate_after=4))
    client = Client(shop.router, STREAM, shop.sign(payer, way, STREAM))
    assert client.head().status == 200
    client.read_until(b"two")
    client.leave()
    shop.ended()
    payment = shop.payment("settled")
    gate.open()
    assert payment.served_nusd is not None
    assert 0 < payment.served_nusd < payment.amount_nusd
    expected = payment.served_nusd // UNIT_NUSD if way == "upto" else payment.claim.amount
    assert FUNDS - shop.facilitator.balance(payer.address) == expected == payment.taken


def test_who_leaves_while_a_whole_answer_is_settled_has_paid_for_it(shop: Shop) -> None:
    for way in WAYS:
        payer, gate, settles = shop.payer(), threading.Event(), shop.settles()
        headers = shop.sign(payer, way, WHOLE)
        shop.facilitator.on("/settle", slow(gate))
        client = Client(shop.router, WHOLE, headers)
        wait_for(lambda before=settles: shop.settles() > before or None, "the settlement")  # type: ignore[misc]
        client.leave()
        gate.set()
        payment = shop.payment("settled")
        assert FUNDS - shop.facilitator.balance(payer.address) == payment.taken
        again = shop.ask(WHOLE, headers)
        assert (again.status, offers_nothing(again)) == (403, True)


def test_who_reads_slowly_is_served_and_pays_once(shop: Shop) -> None:
    for way in WAYS:
        payer, settles = shop.payer(), shop.settles()
        for model in (MODEL, OTHER):
            shop.upstream.on(model, stream(["x" * 65_536] * 40))
        client = Client(shop.router, STREAM, shop.sign(payer, way, STREAM))
        assert client.head().status == 200
        assert b"data: [DONE]" in client.read_rest()
        payment = shop.payment("settled")
        assert shop.settles() == settles + 1
        assert payment.taken is not None
        assert payment.taken <= payment.claim.amount


def test_an_upstream_that_claims_absurd_usage_takes_no_more_than_was_signed(shop: Shop) -> None:
    usage = {"prompt_tokens": 10**5, "completion_tokens": 10**5, "total_tokens": 2 * 10**5}
    for body in (WHOLE, STREAM):
        payer = shop.payer()
        for model in (MODEL, OTHER):
            shop.upstream.on(model, stream(WORDS, counts=usage) if body is STREAM else answer(usage=usage))
        assert shop.pay(payer, "upto", body).status == 200
        shop.ended()
        payment = shop.payment("settled")
        assert FUNDS - shop.facilitator.balance(payer.address) == payment.taken == payment.claim.amount


def test_upto_is_not_offered_above_the_most_of_a_request(tmp_path: Path) -> None:
    with counter(tmp_path, payment_max_usd="0.0005") as shop:
        small, large = question(max_tokens=5), question(max_tokens=500)
        accepted = [
            [offer["scheme"] for offer in decoded(shop.ask(body).headers["payment-required"])["accepts"]]
            for body in (small, large)
        ]
        assert accepted == [["upto", "exact"], ["exact"]]
        assert shop.pay(shop.payer(), "exact", large).status == 200


def test_what_one_payer_has_open_is_bounded_and_a_second_payer_is_not_held_up(tmp_path: Path) -> None:
    with counter(tmp_path, payment_open_usd="0.001") as shop:
        gate, payer = Gate(), shop.payer()
        shop.upstream.on(MODEL, stream(WORDS, gate=gate, gate_after=3))
        first, second = (shop.sign(payer, "upto", STREAM) for _ in range(2))
        running = Client(shop.router, STREAM, first)
        assert running.head().status == 200
        refused = shop.ask(STREAM, second)
        assert (refused.status, offers_nothing(refused)) == (429, True)
        assert int(refused.headers["retry-after"]) > 0
        other = Client(shop.router, STREAM, shop.sign(shop.payer(), "upto", STREAM))
        assert other.head().status == 200
        gate.open()
        assert b"[DONE]" in running.read_rest()
        assert b"[DONE]" in other.read_rest()
        shop.ended()
        wait_for(lambda: all(one.state == "settled" for one in shop.payments()) or None, "the settlements")
        assert shop.ask(STREAM, second).status == 200


def test_a_payer_at_the_bound_does_not_queue(tmp_path: Path) -> None:
    limited = [Offered(MODEL, limits="concurrency = 9")]
    policy = "[limits]\nqueue_s = 30\n"
    with counter(tmp_path, payment_open_usd="0.0002", models=limited, policy=policy) as shop:
        gate, payer = Gate(), shop.payer()
        shop.upstream.on(MODEL, stream(WORDS, gate=gate, gate_after=3))
        running = Client(shop.router, STREAM, shop.sign(payer, "upto", STREAM))
        assert running.head().status == 200
        assert shop.pay(payer, "upto", STREAM).status == 429
        gate.open()
        running.read_rest()
        shop.ended()


def test_two_streams_of_one_payer_at_once_are_both_settled(shop: Shop) -> None:
    payer, gate = shop.payer(), Gate()
    for model in (MODEL, OTHER):
        shop.upstream.on(model, stream(WORDS, gate=gate, gate_after=3))
    clients = [Client(shop.router, STREAM, shop.sign(payer, "upto", STREAM)) for _ in range(2)]
    for client in clients:
        assert client.head().status == 200
    gate.open()
    for client in clients:
        assert b": payment-response " in client.read_rest()
    shop.ended()
    mine = [one for one in shop.payments() if one.claim.payer == payer.address.lower()]
    assert [one.state for one in mine] == ["settled"] * 2
    assert FUNDS - shop.facilitator.balance(payer.address) == sum(one.taken or 0 for one in mine)


@pytest.mark.parametrize("told", ["during", "never"])
def test_a_process_that_is_told_to_stop_in_a_settlement_finishes_it_or_leaves_it_to_the_next(
    tmp_path: Path, told: str
) -> None:
    with ScriptedUpstream() as upstream, ScriptedFacilitator(remembers=True) as facilitator:
        catalog = write_catalog(tmp_path / "c", {"scripted": upstream.base_url}, [Offered(MODEL)])
        gate, payer = threading.Event(), payer_at(facilitator)
        upstream.on(MODEL, stream(WORDS))
        environ = environ_of(facilitator, ROUTER_GRACE_S="2")
        with serve(tmp_path, "--catalog", str(catalog), **environ) as serving:
            serving.read_until("ready")
            process = Process(tmp_path / "data", serving.port)
            headers = signed(process, payer, "upto", STREAM)
            facilitator.on("/settle", slow(gate))
            client = Client(process, STREAM, headers)
            assert client.head().status == 200
            wait_for(lambda: facilitator.calls("/settle") or None, "the settlement")
            serving.terminate()
            if told == "during":
                gate.set()
                assert b": payment-response " in client.read_rest()
            serving.wait()
            client.leave()
        gate.set()
        (payment,) = payments_of(process)
        assert payment.served_nusd
        if told == "during":
            assert payment.state == "settled"
        with serve(tmp_path, "--catalog", str(catalog), **environ) as serving:
            serving.read_until("ready")

            def look() -> bool | None:
                return payments_of(process)[0].state == "settled" or None

            wait_for(look, "the settlement", 15)
            again = Process(tmp_path / "data", serving.port).request("POST", CHAT, STREAM, headers)
            assert again.status == 403
        (transfer,) = facilitator.transfers
        assert transfer.amount * UNIT_NUSD == payment.served_nusd
        assert run_command(process, "ledger", "check").exit_code == 0


def test_an_unknown_settlement_does_not_hold_up_a_stop_and_is_asked_about_by_the_next_process(
    tmp_path: Path,
) -> None:
    with ScriptedUpstream() as upstream, ScriptedFacilitator() as facilitator:
        catalog = write_catalog(tmp_path / "c", {"scripted": upstream.base_url}, [Offered(MODEL)])
        payer = payer_at(facilitator)
        environ = environ_of(facilitator, ROUTER_GRACE_S="600")
        with serve(tmp_path, "--catalog", str(catalog), **environ) as serving:
            serving.read_until("ready")
            process = Process(tmp_path / "data", serving.port)
            headers = signed(process, payer, "exact", WHOLE)
            facilitator.on("/settle", lost(), lost())
            facilitator.on("/verify", says({"isValid": True}), *[facilitator_status(500)] * 9)
            assert process.request("POST", CHAT, WHOLE, headers).status == 503
            serving.terminate()
            assert serving.wait() == 0  # and not killed by the watchdog
        assert [one.state for one in payments_of(process)] == ["settling"]
        facilitator.on("/verify")
        with serve(tmp_path, "--catalog", str(catalog), **environ) as serving:
            serving.read_until("ready")

            def look() -> bool | None:
                return payments_of(process)[0].unserved or None

            wait_for(look, "the settlement", 15)
