"""The facilitator's client: what it learns, what it believes of a verification, when it rests."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import SecretStr

from router.access.assets import BASE, BASE_SEPOLIA
from router.access.breaker import Breaker
from router.access.facilitator import Facilitator
from router.access.terms import Away, Refused, Settled
from tests.facilitator import (
    Behaviour,
    Reply,
    ScriptedFacilitator,
    html,
    refused,
    says,
    status,
)
from tests.service.facilitators import AMOUNT, NO_ANSWERS, PAY_TO, client, paid, using
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


def test_learns_what_is_supported(scripted: ScriptedFacilitator) -> None:
    async def use(facilitator: Facilitator) -> None:
        assert facilitator.available
        assert facilitator.address == scripted.address
        assert facilitator.addresses == {scripted.address.lower()}
        assert facilitator.extensions == {"eip2612GasSponsoring"}

    using(scripted, use)


def test_offers_nothing_before_it_knows(scripted: ScriptedFacilitator) -> None:
    assert not client(scripted).available


@pytest.mark.parametrize(
    ("options", "server", "words"),
    [
        ({"network": BASE}, {}, "upto and exact on eip155:8453: set ROUTER_X402_NETWORK"),
        ({}, {"schemes": ("exact",)}, "upto on eip155:84532: set ROUTER_X402_SCHEMES=exact"),
    ],
)
def test_does_not_start_without_our_scheme_and_network(
    options: dict[str, Any], server: dict[str, Any], words: str
) -> None:
    with ScriptedFacilitator(**server) as scripted, pytest.raises(Refused, match=words):
        using(scripted, _nothing, **options)


@pytest.mark.parametrize(
    "behaviour",
    [
        status(500),
        status(401),
        html(),
        says([]),
        says({}),
        says({"kinds": "all"}),
        lambda call: Reply(302, headers=(("location", "/elsewhere"),)),
    ],
)
def test_does_not_start_on_what_is_no_listing(scripted: ScriptedFacilitator, behaviour: Behaviour) -> None:
    scripted.on("/supported", behaviour)
    with pytest.raises(Away, match="ROUTER_X402_FACILITATOR"):
        using(scripted, _nothing)


def test_upto_needs_an_address_to_bind_to(scripted: ScriptedFacilitator) -> None:
    kinds = [{"x402Version": 2, "scheme": scheme, "network": BASE_SEPOLIA} for scheme in ("upto", "exact")]
    scripted.on("/supported", says({"kinds": kinds}))
    with pytest.raises(Refused, match="ROUTER_X402_SCHEMES=exact"):
        using(scripted, _nothing)


@pytest.mark.parametrize("scheme", ["exact", "upto"])
def test_verifies_and_settles(scripted: ScriptedFacilitator, wallet: Wallet, scheme: str) -> None:
    amount = AMOUNT if scheme == "exact" else 450

    async def use(facilitator: Facilitator) -> Settled:
        claim = paid(facilitator, wallet, scheme).claim
        await facilitator.verify(claim)
        return await facilitator.settle(claim, amount)

    settled = using(scripted, use, headers={"x-api-key": SecretStr("sesame")})
    assert [(t.transaction, t.amount) for t in scripted.transfers] == [(settled.transaction, amount)]
    assert settled.amount == amount
    assert scripted.balance(PAY_TO) == amount
    verify, settle = scripted.calls("/verify")[0], scripted.calls("/settle")[0]
    assert verify.headers["x-api-key"] == "sesame"
    # The amount that is asked is the only thing that differs between the two.
    assert verify.body["paymentRequirements"]["amount"] == str(AMOUNT)
    assert settle.body["paymentRequirements"]["amount"] == str(amount)
    assert verify.body["paymentPayload"] == settle.body["paymentPayload"]


def test_upto_needs_an_allowance_or_a_gas_permit(scripted: ScriptedFacilitator, wallet: Wallet) -> None:
    scripted.allow(wallet.address, False)

    async def use(facilitator: Facilitator) -> Settled:
        with pytest.raises(Refused, match="permit2_allowance_required"):
            await facilitator.verify(paid(facilitator, wallet, "upto").claim)
        claim = paid(facilitator, wallet, "upto", edit=wallet.adds_gas).claim
        await facilitator.verify(claim)
        return await facilitator.settle(claim, 450)

    assert using(scripted, use).amount == 450


def test_settling_nothing_asks_nobody(scripted: ScriptedFacilitator, wallet: Wallet) -> None:
    settled = using(scripted, lambda f: f.settle(paid(f, wallet, "upto").claim, 0))
    assert settled == Settled("", 0)
    assert scripted.calls("/settle") == []


@pytest.mark.parametrize(("scheme", "amount"), [("exact", 1), ("upto", AMOUNT + 1), ("upto", -1)])
def test_never_asks_for_what_was_not_signed(
    scripted: ScriptedFacilitator, wallet: Wallet, scheme: str, amount: int
) -> None:
    with pytest.raises(ValueError, match="cannot settle"):
        using(scripted, lambda f: f.settle(paid(f, wallet, scheme).claim, amount))
    assert scripted.calls("/settle") == []


@pytest.mark.parametrize(
    ("told", "word", "fresh"),
    [
        ("insufficient_funds", "insufficient_funds", True),
        ("invalid_exact_evm_payload_signature", "signature_invalid", True),
        ("permit2_allowance_required", "permit2_allowance_required", True),
        ("invalid_exact_evm_nonce_already_used", "authorization_used", False),
        ("permit2_invalid_nonce", "authorization_used", False),
        ("https://rpc.example/KEY exploded", "payment_invalid", True),
        ("", "payment_invalid", True),
    ],
)
@pytest.mark.parametrize("code", [200, 400, 412])
def test_a_no_is_told_in_our_words(
    scripted: ScriptedFacilitator, wallet: Wallet, told: str, word: str, fresh: bool, code: int
) -> None:
    scripted.on("/verify", refused(told, code))
    with pytest.raises(Refused) as caught:
        using(scripted, lambda f: f.verify(paid(f, wallet, "exact").claim))
    assert (caught.value.reason, caught.value.fresh) == (word, fresh)


@pytest.mark.parametrize("behaviour", NO_ANSWERS.values(), ids=NO_ANSWERS)
def test_what_is_no_answer_to_verify(
    scripted: ScriptedFacilitator, wallet: Wallet, behaviour: Behaviour, caplog: pytest.LogCaptureFixture
) -> None:
    scripted.on("/verify", behaviour)
    with caplog.at_level(logging.WARNING), pytest.raises(Away):
        using(scripted, lambda f: f.verify(paid(f, wallet, "exact").claim))
    (line,) = [record.getMessage() for record in caplog.records if record.name == "router.access"]
    assert line.startswith("the facilitator gives no answer to /verify: ")
    assert "127.0.0.1" not in line


class Clock:
    """A clock that is set."""

    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


def test_rests_after_silences_in_a_row(scripted: ScriptedFacilitator, wallet: Wallet) -> None:
    clock = Clock()
    breaker = Breaker(clock, failures=2, rest_s=10)

    async def use(facilitator: Facilitator) -> None:
        claim = paid(facilitator, wallet, "exact").claim
        scripted.on("/verify", status(500), lambda call: Reply(200, b"{}"))
        for _ in range(3):
            with pytest.raises(Away):
                await facilitator.verify(claim)
        assert not facilitator.available
        assert len(scripted.calls("/verify")) == 2
        # What was promised is settled all the same.
        assert (await facilitator.settle(claim, AMOUNT)).amount == AMOUNT
        assert facilitator.available

    using(scripted, use, breaker=breaker)


def test_a_rest_ends(scripted: ScriptedFacilitator, wallet: Wallet) -> None:
    clock = Clock()

    async def use(facilitator: Facilitator) -> None:
        claim = paid(facilitator, wallet, "exact").claim
        scripted.on("/verify", status(500))
        with pytest.raises(Away):
            await facilitator.verify(claim)
        assert not facilitator.available
        clock.time += 10
        assert facilitator.available
        await facilitator.verify(claim)

    using(scripted, use, breaker=Breaker(clock, failures=1, rest_s=10))


def test_a_no_is_an_answer_and_no_reason_to_rest(scripted: ScriptedFacilitator, wallet: Wallet) -> None:
    async def use(facilitator: Facilitator) -> None:
        scripted.on("/verify", refused("insufficient_funds"))
        with pytest.raises(Refused):
            await facilitator.verify(paid(facilitator, wallet, "exact").claim)
        assert facilitator.available

    using(scripted, use, breaker=Breaker(time.monotonic, failures=1))


async def _nothing(facilitator: Facilitator) -> None:
    return None
