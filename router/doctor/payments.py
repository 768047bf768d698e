"""Wallet payments: what can be told of their settings without asking anybody.

`plain` holds every setting by name (`Settings.plain`), so that one that this version does not have is absent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from router.doctor.finding import Finding, note, ok, warning

_TESTING = {"eip155:84532": "Base Sepolia"}
_TEMPO_TEST = 42431


def payments(plain: Mapping[str, Any]) -> Iterator[Finding]:
    """Check what wallets may pay, and what the router's own wallet may spend."""
    x402, mpp = plain.get("x402_pay_to"), plain.get("mpp_secret")
    if x402 is None and mpp is None:
        yield ok("payments", "off: no wallet can pay here")
    else:
        names = [name for name, on in (("x402", x402), ("MPP", mpp)) if on is not None]
        yield ok("payments", f"{' and '.join(names)} to {x402 or plain.get('mpp_pay_to')}")
        yield from _testing(plain, mpp)
        if plain.get("public_url") is None and plain.get("host") not in ("127.0.0.1", "::1", "localhost"):
            yield note(
                "payments",
                "payers are told the address that they asked",
                "set ROUTER_PUBLIC_URL where a proxy stands before the router",
            )
    request, day = plain.get("wallet_cap_request_usd"), plain.get("wallet_cap_day_usd")
    if isinstance(request, Decimal) and isinstance(day, Decimal) and request > day:
        yield warning(
            "wallet",
            f"a request may cost {request} USD, the day {day}: the day's cap always decides",
            "lower ROUTER_WALLET_CAP_REQUEST_USD or raise ROUTER_WALLET_CAP_DAY_USD",
        )


def _testing(plain: Mapping[str, Any], mpp: object) -> Iterator[Finding]:
    network = plain.get("x402_network")
    if network in _TESTING:
        yield warning(
            "payments",
            f"{_TESTING[network]} is a test network: what comes in is worth nothing",
            "set ROUTER_X402_NETWORK=eip155:8453 for real payments",
        )
    if mpp is not None and plain.get("mpp_tempo_rpc") and plain.get("mpp_tempo_chain_id") == _TEMPO_TEST:
        yield warning(
            "payments",
            "Tempo's chain 42431 is its test network: what comes in is worth nothing",
            "set ROUTER_MPP_TEMPO_CHAIN_ID=4217 for real payments",
        )
