"""What a facilitator says, read strictly, whatever it says; and its reasons in our own words."""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.access import reasons
from router.access.assets import BASE, BASE_SEPOLIA
from router.access.facilitator_answers import (
    NoAnswer,
    Outcome,
    Supported,
    read_settled,
    read_supported,
    read_verified,
)
from router.ledger.payments import PaymentClaim

PAYER = "0x" + "ab" * 20
HASH = "0x" + "Cd" * 32
ADDRESS = "0x" + "Ef" * 20
CLAIM = PaymentClaim(
    key="eip3009:eip155:84532:0x1:0x2:0x3",
    challenge=None,
    protocol="x402",
    scheme="upto",
    network=BASE_SEPOLIA,
    asset="0x" + "12" * 20,
    payer=PAYER,
    pay_to="0x" + "34" * 20,
    amount=5_000,
    expires_at=2_000_000_000,
    order=b"{}",
)
SETTLED = {
    "success": True,
    "transaction": HASH,
    "network": BASE_SEPOLIA,
    "payer": PAYER.upper(),
    "amount": "450",
}


def body(tree: Any) -> bytes:
    return msgspec.json.encode(tree)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
NAMES = (
    "isValid",
    "payer",
    "invalidReason",
    "success",
    "transaction",
    "network",
    "amount",
    "kinds",
    "signers",
)
ANSWERS = st.binary(max_size=200) | JSON.map(body) | st.dictionaries(st.sampled_from(NAMES), JSON).map(body)


@given(ANSWERS, st.sampled_from([200, 400, 412]))
def test_nothing_that_is_made_up_is_a_yes(answer: bytes, status: int) -> None:
    with contextlib.suppress(NoAnswer):
        assert read_settled(status, answer, CLAIM, 450).failed is not None
    with contextlib.suppress(NoAnswer):
        assert read_supported(status, answer, BASE_SEPOLIA).schemes == frozenset()
    try:
        if read_verified(status, answer, CLAIM) is None:
            told = msgspec.json.decode(answer)
            assert told["isValid"] is True
            assert told.get("payer") is None
    except NoAnswer:
        pass


@pytest.mark.parametrize("without", [None, "payer", "amount"])
def test_a_settlement_that_fits_is_believed(without: str | None) -> None:
    told = {name: value for name, value in SETTLED.items() if name != without}
    assert read_settled(200, body(told), CLAIM, 450) == Outcome(HASH.lower(), None)


def test_the_case_of_the_payer_says_nothing() -> None:
    told = {**SETTLED, "payer": "0x" + "AB" * 20}
    assert read_settled(200, body(told), CLAIM, 450).failed is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("success", value) for value in (1, "true", None)),
        *(("transaction", value) for value in ("", "0x", HASH[2:], HASH + "0", HASH + "\n", 5, None)),
        *(("network", value) for value in (BASE, "base-sepolia", "", None)),
        *(("payer", value) for value in ("", ADDRESS, 5)),
        *(("amount", value) for value in ("451", "", "0450", 450)),
    ],
)
def test_a_settlement_that_does_not_fit_is_no_answer(name: str, value: Any) -> None:
    with pytest.raises(NoAnswer):
        read_settled(200, body({**SETTLED, name: value}), CLAIM, 450)


def test_a_yes_needs_its_status() -> None:
    with pytest.raises(NoAnswer):
        read_settled(400, body(SETTLED), CLAIM, 450)
    with pytest.raises(NoAnswer):
        read_verified(412, body({"isValid": True}), CLAIM)


def test_reads_what_is_supported_on_our_network() -> None:
    listing = {
        "kinds": [
            {"x402Version": 1, "scheme": "upto", "network": BASE_SEPOLIA},
            {"x402Version": 2, "scheme": "exact", "network": BASE_SEPOLIA, "extra": None},
            {"x402Version": 2, "scheme": "upto", "network": BASE},
            {
                "x402Version": 2,
                "scheme": "upto",
                "network": BASE_SEPOLIA,
                "extra": {"facilitatorAddress": "me"},
            },
            {
                "x402Version": 2,
                "scheme": "upto",
                "network": BASE_SEPOLIA,
                "extra": {"facilitatorAddress": ADDRESS},
            },
            {"kind": "of another time"},
        ],
        "extensions": ["eip2612GasSponsoring", {"name": "odd"}],
        "signers": {"eip155:*": [PAYER, "me", 5], "solana:*": ["x"], BASE_SEPOLIA: "none"},
    }
    assert read_supported(200, body(listing), BASE_SEPOLIA) == Supported(
        schemes=frozenset({"exact", "upto"}),
        address=ADDRESS,
        addresses=frozenset({ADDRESS.lower(), PAYER}),
        extensions=frozenset({"eip2612GasSponsoring"}),
    )
    assert read_supported(200, body(listing), BASE).schemes == frozenset()


@given(st.text(max_size=60))
def test_a_reason_is_always_one_of_our_words(told: str) -> None:
    assert reasons.known_reason(told) in reasons.REASONS


@pytest.mark.parametrize(
    ("told", "transaction", "definite"),
    [
        ("insufficient_funds", "", True),
        ("invalid_exact_evm_payload_signature", "", True),
        ("invalid_something_new", "", True),
        ("transaction_failed", HASH, True),
        ("transaction_failed", "", False),
        ("invalid_transaction_state", "", False),
        ("invalid_exact_evm_transfer_event_mismatch", HASH, False),
        ("settlement_pending", HASH, False),
        ("unexpected_settle_error", "", False),
        ("", "", False),
    ],
)
def test_which_failures_moved_nothing_for_sure(told: str, transaction: str, definite: bool) -> None:
    assert reasons.is_definite(told, transaction) is definite
