"""What the router sells, the router can buy: its offers are read, and its sellers read what is signed."""

from __future__ import annotations

import hashlib
from typing import Any, ClassVar

import pytest

from router.access.assets import USDC
from router.access.demands import mpp_demands, x402_demands
from router.access.mpp import Mpp, Way
from router.access.terms import Asked, Method, Quote
from router.access.wallet_key import key_of
from router.access.x402 import X402

ASSET = USDC["eip155:84532"]
PAY_TO = "0x" + "ab" * 20
BODY, ROUTE, NOW = b'{"model": "auto"}', b"r" * 32, 1_795_000_000.0
URL = "https://seller.example/v1/chat/completions"
SECRET = b"s" * 32
QUOTE = Quote(10_000_000, hashlib.sha256(BODY).digest(), ROUTE, "abcdef012345", 1_795_000_300)


class Open:
    """A settler that is there; nothing is settled here."""

    available = True
    address = "0x" + "11" * 20
    extensions: ClassVar[tuple[str, ...]] = ()


def x402(wait_s: float) -> Method:
    settler: Any = Open()
    return X402(
        pay_to=PAY_TO,
        asset=ASSET,
        schemes=("upto", "exact"),
        secret=SECRET,
        facilitator=settler,
        longest_s=wait_s,
        max_nusd=10**12,
        open_nusd=10**12,
    )


def mpp(wait_s: float) -> Method:
    settler: Any = Open()
    return Mpp(SECRET, "seller.example", PAY_TO, {"evm": Way(ASSET, settler)}, first_byte_s=wait_s)


def asked(headers: dict[str, str] | None = None, authorization: bytes | None = None) -> Asked:
    return Asked(headers or {}, authorization, QUOTE.body, ROUTE, URL, NOW)


@pytest.mark.parametrize("key_sent", [False, True])
@pytest.mark.parametrize("protocol", ["x402", "mpp"])
def test_a_payment_of_ours_is_read_by_a_seller_of_ours(protocol: str, key_sent: bool) -> None:
    seller = {"x402": x402, "mpp": mpp}[protocol](200.0)
    held = b"Bearer rk_key" if key_sent else None
    offers = seller.offers(QUOTE, asked(authorization=held), None)
    demand = (x402_demands(offers, URL) if protocol == "x402" else mpp_demands(offers, BODY))[0]
    key = key_of("11" * 32)
    transfer = demand.transfer(NOW)
    name, value = demand.answer(transfer, key.address, key.sign(transfer))

    headers = {} if name == b"authorization" else {name.decode(): value.decode()}
    credential = seller.read(asked(headers, value if name == b"authorization" else held))

    assert credential is not None
    assert credential.claim.payer == key.address.lower()
    assert credential.claim.amount == demand.amount == 10_000
    assert credential.when == "before"
    assert (name == b"authorization") == (protocol == "mpp" and not key_sent)
