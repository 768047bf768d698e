"""Signatures are by who is said to pay, or nothing is done in their name; eth-account signs here."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from router.access import reasons
from router.access.assets import BASE, BASE_SEPOLIA, USDC
from router.access.evm import ExactPayload, UptoPayload
from router.access.signer import check_permit_signer, check_transfer_signer
from router.access.terms import Asset, Refused
from tests.wallets import Json, Wallet

ASSET = USDC[BASE_SEPOLIA]
OTHER = "0x" + "d" * 40
PAYER = Wallet()


def offer(scheme: str, asset: Asset = ASSET) -> Json:
    extra = {"name": asset.name, "version": asset.version, "facilitatorAddress": OTHER}
    return {
        "scheme": scheme,
        "network": asset.network,
        "amount": "4322",
        "asset": asset.address,
        "payTo": "0x" + "c" * 40,
        "maxTimeoutSeconds": 600,
        "extra": extra,
    }


def check(scheme: str, payload: Json) -> None:
    """Check a payload as x402 does once its fields are read."""
    if scheme == "exact":
        exact = msgspec.convert(payload, ExactPayload)
        check_transfer_signer(ASSET, exact.authorization, exact.signature)
    else:
        upto = msgspec.convert(payload, UptoPayload)
        check_permit_signer(ASSET, upto.permit2_authorization, upto.signature)


@pytest.mark.parametrize("scheme", ["exact", "upto"])
def test_what_another_implementation_signs_is_by_its_payer(scheme: str) -> None:
    for _ in range(8):
        check(scheme, Wallet().sign(offer(scheme)))


@pytest.mark.parametrize("scheme", ["exact", "upto"])
@pytest.mark.parametrize("base", [0, 27])
def test_the_last_byte_counts_from_0_or_from_27(scheme: str, base: int) -> None:
    payload = PAYER.sign(offer(scheme))
    raw = bytearray.fromhex(payload["signature"][2:])
    raw[64] = raw[64] - 27 + base
    check(scheme, payload | {"signature": "0x" + raw.hex()})


BENT: dict[str, Callable[[bytearray], Any]] = {
    "another last byte": lambda raw: raw.__setitem__(64, raw[64] ^ 7),
    "the other point": lambda raw: raw.__setitem__(64, 55 - raw[64]),
    "another r": lambda raw: raw.__setitem__(3, raw[3] ^ 1),
    "another s": lambda raw: raw.__setitem__(40, raw[40] ^ 1),
    "zeros": lambda raw: raw.__setitem__(slice(0, 64), bytes(64)),
    "beyond the curve": lambda raw: raw.__setitem__(slice(0, 64), b"\xff" * 64),
}


@pytest.mark.parametrize("scheme", ["exact", "upto"])
@pytest.mark.parametrize("name", BENT)
def test_a_bent_signature_is_nobodys(scheme: str, name: str) -> None:
    payload = PAYER.sign(offer(scheme))
    raw = bytearray.fromhex(payload["signature"][2:])
    BENT[name](raw)
    with pytest.raises(Refused) as caught:
        check(scheme, payload | {"signature": "0x" + raw.hex()})
    assert caught.value.reason == reasons.SIGNATURE


@pytest.mark.parametrize(
    ("scheme", "names", "value"),
    [
        ("exact", ("from",), OTHER),
        ("exact", ("to",), OTHER),
        ("exact", ("value",), "4323"),
        ("exact", ("validAfter",), "1"),
        ("exact", ("validBefore",), "9999999999"),
        ("exact", ("nonce",), "0x" + "1" * 64),
        ("upto", ("from",), OTHER),
        ("upto", ("spender",), OTHER),
        ("upto", ("nonce",), "1"),
        ("upto", ("deadline",), "9999999999"),
        ("upto", ("permitted", "token"), OTHER),
        ("upto", ("permitted", "amount"), "4323"),
        ("upto", ("witness", "to"), OTHER),
        ("upto", ("witness", "facilitator"), "0x" + "e" * 40),
        ("upto", ("witness", "validAfter"), "1"),
    ],
)
def test_every_field_is_signed(scheme: str, names: tuple[str, ...], value: str) -> None:
    payload = PAYER.sign(offer(scheme))
    fields = payload["authorization" if scheme == "exact" else "permit2Authorization"]
    for name in names[:-1]:
        fields = fields[name]
    fields[names[-1]] = value
    with pytest.raises(Refused):
        check(scheme, payload)


@pytest.mark.parametrize("scheme", ["exact", "upto"])
def test_a_signature_for_another_network_is_nobodys(scheme: str) -> None:
    with pytest.raises(Refused):
        check(scheme, PAYER.sign(offer(scheme, USDC[BASE])))


def test_any_65_bytes_are_read_or_refused() -> None:
    payload = PAYER.sign(offer("exact"))
    for _ in range(200):
        with pytest.raises(Refused):
            check(
                "exact", payload | {"signature": "0x" + secrets.token_hex(64) + secrets.choice(["00", "1b"])}
            )
