"""Settling through a facilitator: a yes that fits, a definite no, and everything between the two."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator

import pytest

from router.access.assets import BASE
from router.access.facilitator import UNSURE, Facilitator
from router.access.terms import Away, Refused, Settled, Unknown
from tests.facilitator import (
    Behaviour,
    ScriptedFacilitator,
    html,
    lost,
    lying,
    pending,
    refused,
    slow,
    status,
)
from tests.service.facilitators import AMOUNT, NO_ANSWERS, paid, using
from tests.wallets import Wallet


@pytest.fixture
def scripted() -> Iterator[ScriptedFacilitator]:
    with ScriptedFacilitator() as facilitator:
        yield facilitator


@pytest.fixture
def wallet(scripted: ScriptedFacilitator) -> Wallet:
    payer = Wallet()
    scripted.fund(payer.address, 100_000)
    scripted.allow(payer.address)
    return payer


NO_SETTLEMENTS: dict[str, Behaviour] = {
    **NO_ANSWERS,
    "no hash": lying(transaction=""),
    "left out": lying(transaction=None),
    "short hash": lying(transaction="0x1234"),
    "other network": lying(network=BASE),
    "no network": lying(network=None),
    "pending": pending(done=False),
    "unknown word": refused("unexpected_settle_error"),
    "no word": refused(""),
    "no transfer in it": refused("invalid_exact_evm_transfer_event_mismatch", transaction="0x" + "1" * 64),
}


@pytest.mark.parametrize("behaviour", NO_SETTLEMENTS.values(), ids=NO_SETTLEMENTS)
def test_what_is_no_answer_to_settle_is_asked_once_more(
    scripted: ScriptedFacilitator, wallet: Wallet, behaviour: Behaviour
) -> None:
    scripted.on("/settle", behaviour, behaviour)
    with pytest.raises(Unknown):
        using(scripted, lambda f: f.settle(paid(f, wallet, "exact").claim, AMOUNT))
    first, second = scripted.calls("/settle")
    assert first.body == second.body


def test_a_settlement_of_another_amount_is_no_answer(scripted: ScriptedFacilitator, wallet: Wallet) -> None:
    scripted.on("/settle", lying(amount="449"), lying(amount="449"))
    with pytest.raises(Unknown):
        using(scripted, lambda f: f.settle(paid(f, wallet, "upto").claim, 450))


def test_a_payer_that_is_not_told_is_believed_with_a_transaction(
    scripted: ScriptedFacilitator, wallet: Wallet
) -> None:
    scripted.on("/settle", lying(payer=None))
    settled = using(scripted, lambda f: f.settle(paid(f, wallet, "exact").claim, AMOUNT))
    assert settled.transaction == scripted.transfers[0].transaction


@pytest.mark.parametrize("behaviour", [status(500), html(), lost(done=False), pending(done=False)])
def test_a_second_try_may_settle(scripted: ScriptedFacilitator, wallet: Wallet, behaviour: Behaviour) -> None:
    scripted.on("/settle", behaviour)
    settled = using(scripted, lambda f: f.settle(paid(f, wallet, "exact").claim, AMOUNT))
    assert [t.transaction for t in scripted.transfers] == [settled.transaction]


def test_a_definite_no_is_not_asked_again(scripted: ScriptedFacilitator, wallet: Wallet) -> None:
    scripted.on("/settle", refused("insufficient_funds"))
    with pytest.raises(Refused, match="insufficient_funds"):
        using(scripted, lambda f: f.settle(paid(f, wallet, "exact").claim, AMOUNT))
    assert len(scripted.calls("/settle")) == 1


def test_a_reverted_transaction_is_a_definite_no(scripted: ScriptedFacilitator, wallet: Wallet) -> None:
    scripted.on("/settle", refused("transaction_failed", transaction="0x" + "1" * 64))
    with pytest.raises(Refused, match="transaction_failed"):
        using(scripted, lambda f: f.settle(paid(f, wallet, "exact").claim, AMOUNT))
    assert len(scripted.calls("/settle")) == 1


def test_a_transaction_that_was_not_sent_is_tried_again(
    scripted: ScriptedFacilitator, wallet: Wallet
) -> None:
    scripted.on("/settle", refused("transaction_failed"))
    assert using(scripted, lambda f: f.settle(paid(f, wallet, "exact").claim, AMOUNT)).amount == AMOUNT


def test_a_transaction_that_fails_twice_without_a_name_may_be_on_its_way(
    scripted: ScriptedFacilitator, wallet: Wallet
) -> None:
    scripted.on("/settle", *[refused("invalid_upto_evm_transaction_failed")] * 2)
    with pytest.raises(Unknown):
        using(scripted, lambda f: f.settle(paid(f, wallet, "exact").claim, AMOUNT))


def test_a_failure_after_silence_is_unknown(scripted: ScriptedFacilitator, wallet: Wallet) -> None:
    scripted.on("/settle", status(500), refused("transaction_failed"))
    with pytest.raises(Unknown):
        using(scripted, lambda f: f.settle(paid(f, wallet, "exact").claim, AMOUNT))


@pytest.mark.parametrize("first", [lost(), pending(done=True), lying(transaction="")])
def test_a_no_after_a_lost_yes_is_unknown(
    scripted: ScriptedFacilitator, wallet: Wallet, first: Behaviour
) -> None:
    scripted.on("/settle", first)
    with pytest.raises(Unknown):
        using(scripted, lambda f: f.settle(paid(f, wallet, "exact").claim, AMOUNT))
    assert len(scripted.transfers) == 1


def test_a_lost_yes_is_learnt_from_one_who_remembers(wallet: Wallet) -> None:
    with ScriptedFacilitator(remembers=True) as scripted:
        scripted.fund(wallet.address, 100_000)
        scripted.on("/settle", lost())
        settled = using(scripted, lambda f: f.settle(paid(f, wallet, "exact").claim, AMOUNT))
        assert [t.transaction for t in scripted.transfers] == [settled.transaction]


def test_slowness_is_no_answer(scripted: ScriptedFacilitator, wallet: Wallet) -> None:
    gate = threading.Event()
    scripted.on("/verify", slow(gate)).on("/settle", slow(gate), slow(gate))

    async def use(facilitator: Facilitator) -> None:
        claim = paid(facilitator, wallet, "exact").claim
        with pytest.raises(Away):
            await facilitator.verify(claim)
        with pytest.raises(Unknown):
            await facilitator.settle(claim, AMOUNT)

    try:
        using(scripted, use, verify_s=0.2, settle_s=0.2)
    finally:
        gate.set()


def test_nothing_was_sent_to_who_is_down(scripted: ScriptedFacilitator, wallet: Wallet) -> None:
    async def use(facilitator: Facilitator) -> Settled:
        claim = paid(facilitator, wallet, "exact").claim
        scripted.down()
        with pytest.raises(Away):
            await facilitator.settle(claim, AMOUNT)
        scripted.up()
        return await facilitator.settle(claim, AMOUNT)

    assert using(scripted, use).amount == AMOUNT


def test_many_settlements_of_one_signature_move_it_once(
    scripted: ScriptedFacilitator, wallet: Wallet
) -> None:
    async def use(facilitator: Facilitator) -> list[Settled | BaseException]:
        claim = paid(facilitator, wallet, "exact").claim
        tries = (facilitator.settle(claim, AMOUNT) for _ in range(10))
        return await asyncio.gather(*tries, return_exceptions=True)

    outcomes = using(scripted, use)
    assert len([outcome for outcome in outcomes if isinstance(outcome, Settled)]) == 1
    assert len([outcome for outcome in outcomes if isinstance(outcome, Refused)]) == 9
    assert len(scripted.transfers) == 1


@pytest.mark.parametrize("scheme", ["exact", "upto"])
def test_tells_that_money_moved(scripted: ScriptedFacilitator, wallet: Wallet, scheme: str) -> None:
    async def use(facilitator: Facilitator) -> None:
        claim = paid(facilitator, wallet, scheme).claim
        with pytest.raises(Unknown):
            await facilitator.moved(claim)
        await facilitator.settle(claim, AMOUNT)
        assert await facilitator.moved(claim) == Settled(UNSURE + claim.key, AMOUNT)

    using(scripted, use)


def test_a_signature_that_no_chain_takes_never_moves(scripted: ScriptedFacilitator, wallet: Wallet) -> None:
    scripted.on("/verify", refused("invalid_exact_evm_payload_signature"))
    assert using(scripted, lambda f: f.moved(paid(f, wallet, "exact").claim)) is None


@pytest.mark.parametrize(
    "behaviour", [status(500), html(), refused("insufficient_funds"), refused("permit2_simulation_failed")]
)
def test_what_may_still_move_is_unknown(
    scripted: ScriptedFacilitator, wallet: Wallet, behaviour: Behaviour
) -> None:
    scripted.on("/verify", behaviour)
    with pytest.raises(Unknown):
        using(scripted, lambda f: f.moved(paid(f, wallet, "exact").claim))


def test_a_void_signature_is_unknown_and_not_asked_about(
    scripted: ScriptedFacilitator, wallet: Wallet
) -> None:
    with pytest.raises(Unknown, match="void"):
        using(scripted, lambda f: f.moved(paid(f, wallet, "exact").claim), now=lambda: time.time() + 10_000)
    assert scripted.calls("/verify") == []
