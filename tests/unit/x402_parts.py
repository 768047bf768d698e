"""A seller by x402 and a payer whose clocks stand still, for the tests without sockets."""

from __future__ import annotations

import hashlib
from typing import Any

from msgspec.structs import replace

from router.access.assets import BASE_SEPOLIA, USDC, checksummed
from router.access.facilitator import Facilitator
from router.access.facilitator_answers import Supported
from router.access.terms import Asked, Asset, Credential, Headers, Quote
from router.access.x402 import X402
from tests.wallets import Json, Wallet, decoded, encoded

NOW = 1_800_000_000.0
PAY_TO = checksummed("0x12AbC00000000000000000000000000000000001")
FACILITATOR = checksummed("0xFac1110000000000000000000000000000000001")
OTHER = "0x" + "d" * 40
AMOUNT = 4_322
BODY, ROUTE = hashlib.sha256(b"body").digest(), hashlib.sha256(b"route").digest()
QUOTE = Quote(4_321_987, BODY, ROUTE, "0123456789ab", int(NOW) + 200)
URL = "https://router.example/v1/chat/completions"
LONGEST_S = 600
MAX_TIMEOUT_S = 900
PAYER = Wallet("0x" + "42" * 32, now=lambda: NOW)


def seller(
    *,
    schemes: tuple[str, ...] = ("upto", "exact"),
    extensions: frozenset[str] = frozenset({"eip2612GasSponsoring"}),
    asset: Asset = USDC[BASE_SEPOLIA],
    secret: bytes = b"s" * 32,
    address: str = FACILITATOR,
    addresses: frozenset[str] = frozenset(),
    pay_to: str = PAY_TO,
) -> X402:
    facilitator = Facilitator(
        "http://127.0.0.1:9", asset.network, schemes, headers={}, clock=lambda: 0.0, now=lambda: NOW
    )
    known = frozenset({address.lower()}) | addresses
    facilitator.learn(Supported(frozenset({"upto", "exact"}), address, known, extensions))
    return X402(
        pay_to=pay_to,
        asset=asset,
        schemes=schemes,
        secret=secret,
        facilitator=facilitator,
        longest_s=LONGEST_S,
        first_byte_s=LONGEST_S,
        max_nusd=10**10,
        open_nusd=2 * 10**10,
    )


SELLER = seller()


def asked(header: str | None = None, *, now: float = NOW, **other: Any) -> Asked:
    headers = {} if header is None else {"payment-signature": header}
    return replace(Asked(headers, None, BODY, ROUTE, URL, now), **other)


def told(headers: Headers) -> Any:
    ((name, value),) = headers
    assert name == b"payment-required"
    return decoded(value)


def offers(x402: X402 = SELLER, quote: Quote = QUOTE) -> Any:
    return told(x402.offers(quote, asked(), None))


def payment(scheme: str, x402: X402 = SELLER, quote: Quote = QUOTE, **signed: Any) -> Json:
    required = offers(x402, quote)
    offer = next(offer for offer in required["accepts"] if offer["scheme"] == scheme)
    return PAYER.payment(required, offer, **signed)


def read(paid: Any, x402: X402 = SELLER, **request: Any) -> Credential:
    credential = x402.read(asked(encoded(paid), **request))
    assert credential is not None
    return credential
