"""Wallet payments: what can be told of their settings without asking anybody."""

from __future__ import annotations

from collections.abc import Iterator

from router.doctor.finding import Finding, note, ok, warning
from router.settings import Settings

_TESTING = {"eip155:84532": "Base Sepolia"}
_TEMPO_TEST = 42431


def payments(settings: Settings) -> Iterator[Finding]:
    """Check what wallets may pay, and what the router's own wallet may spend."""
    names = [name for name, on in (("x402", settings.x402_pay_to), ("MPP", settings.mpp_secret)) if on]
    if not names:
        yield ok("payments", "off: no wallet can pay here")
    else:
        yield ok("payments", f"{' and '.join(names)} to {settings.x402_pay_to or settings.mpp_pay_to}")
        yield from _testing(settings)
        if settings.public_url is None and not settings.loopback:
            yield note(
                "payments",
                "payers are told the address that they asked",
                "set ROUTER_PUBLIC_URL where a proxy stands before the router",
            )
    request_usd, day_usd = settings.wallet_cap_request_usd, settings.wallet_cap_day_usd
    if request_usd > day_usd:
        yield warning(
            "wallet",
            f"a request may cost {request_usd} USD, the day {day_usd}: the day's cap always decides",
            "lower ROUTER_WALLET_CAP_REQUEST_USD or raise ROUTER_WALLET_CAP_DAY_USD",
        )


def _testing(settings: Settings) -> Iterator[Finding]:
    network = settings.x402_network
    if network in _TESTING:
        yield warning(
            "payments",
            f"{_TESTING[network]} is a test network: what comes in is worth nothing",
            "set ROUTER_X402_NETWORK=eip155:8453 for real payments",
        )
    if settings.mpp_secret and settings.mpp_tempo_rpc and settings.mpp_tempo_chain_id == _TEMPO_TEST:
        yield warning(
            "payments",
            "Tempo's chain 42431 is its test network: what comes in is worth nothing",
            "set ROUTER_MPP_TEMPO_CHAIN_ID=4217 for real payments",
        )
