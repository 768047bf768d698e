"""Build what wallets can pay by from the settings."""

from __future__ import annotations

from collections.abc import Callable

import httpx2 as httpx

from router.access.assets import asset_for_sale, checksummed
from router.access.facilitator import Facilitator
from router.access.mpp import Mpp, Name, Way
from router.access.rpc import Node
from router.access.tempo import Tempo
from router.access.terms import Asset, Method
from router.access.x402 import X402
from router.ledger.money import NUSD_PER_USD, usd_to_nusd
from router.settings import Settings

PATH_USD = "0x20c0000000000000000000000000000000000000"
"""The stable coin that every network of Tempo has."""
TIP20_DECIMALS = 6
FIRST_BYTE_S = 300.0
"""How long an answer that is paid at its first byte may take to begin; payers sign for ten minutes."""
LONGEST_S = 1_800.0
"""How long an answer is expected to take at most, from its request to its last byte."""


def methods_of(
    settings: Settings,
    secret: bytes,
    monotonic: Callable[[], float],
    now: Callable[[], float],
    transport: httpx.AsyncBaseTransport,
) -> list[Method]:
    """Return the protocols that are switched on; one facilitator serves both, and is asked over `transport`.

    `secret` signs x402's quotes, `now` gives seconds since 1970. Raises SettingsError for a token that is not
    described, ValueError for a realm that some client could not read.
    """
    found: list[Method] = []
    facilitator = _facilitator(settings, monotonic, now, transport)
    if settings.x402_pay_to is not None and facilitator is not None:
        found.append(
            X402(
                pay_to=checksummed(settings.x402_pay_to),
                asset=asset_for_sale(settings),
                schemes=settings.x402_schemes,
                secret=secret,
                facilitator=facilitator,
                longest_s=max(settings.deadline_s, LONGEST_S),
                first_byte_s=_first_byte_s(settings),
                max_nusd=usd_to_nusd(format(settings.payment_max_usd, "f")),
                open_nusd=_open_nusd(settings),
            )
        )
    if settings.mpp_secret is not None:
        found.append(_mpp(settings, facilitator, monotonic, now))
    return found


def unit_nusd_of(settings: Settings) -> int:
    """Return the coarsest unit of the assets that are taken, in nano-USD; what is finer counts as one.

    Raises SettingsError for a token that is not described.
    """
    return max(-(-NUSD_PER_USD // int(10**asset.decimals)) for asset in _assets(settings))


def _assets(settings: Settings) -> list[Asset]:
    assets = []
    if settings.x402_facilitator is not None:
        assets.append(asset_for_sale(settings))
    if settings.mpp_secret is not None and "tempo" in settings.usable_mpp_methods:
        assets.append(_tempo_asset(settings))
    return assets


def _open_nusd(settings: Settings) -> int:
    return usd_to_nusd(format(settings.payment_open_usd, "f"))


def _first_byte_s(settings: Settings) -> float:
    return min(settings.deadline_s, FIRST_BYTE_S)


def _tempo_asset(settings: Settings) -> Asset:
    """Return the token that is taken on Tempo; no EIP-712 message is signed there."""
    network = f"eip155:{settings.mpp_tempo_chain_id}"
    return Asset(network, settings.mpp_tempo_currency or PATH_USD, "", "", TIP20_DECIMALS)


def _facilitator(
    settings: Settings,
    monotonic: Callable[[], float],
    now: Callable[[], float],
    transport: httpx.AsyncBaseTransport,
) -> Facilitator | None:
    """Return the client of the facilitator, for every scheme that is settled by it."""
    schemes = list(settings.x402_schemes) if settings.x402_pay_to is not None else []
    if settings.mpp_secret is not None and "evm" in settings.usable_mpp_methods:
        schemes.append("exact")
    if settings.x402_facilitator is None or not schemes:
        return None
    return Facilitator(
        settings.x402_facilitator,
        settings.x402_network,
        list(dict.fromkeys(schemes)),
        headers=settings.facilitator_headers,
        clock=monotonic,
        now=now,
        transport=transport,
    )


def _mpp(
    settings: Settings,
    facilitator: Facilitator | None,
    monotonic: Callable[[], float],
    now: Callable[[], float],
) -> Mpp:
    ways: dict[Name, Way] = {}
    for name in settings.usable_mpp_methods:
        if name == "evm" and facilitator is not None:
            ways["evm"] = Way(asset_for_sale(settings), facilitator)
        elif name == "tempo" and settings.mpp_tempo_rpc is not None:
            asset = _tempo_asset(settings)
            node = Node(settings.mpp_tempo_rpc, clock=monotonic)
            ways["tempo"] = Way(asset, Tempo(node, asset.chain_id))
    secret = b"" if settings.mpp_secret is None else settings.mpp_secret.get_secret_value().encode()
    pay_to = settings.mpp_pay_to or settings.x402_pay_to or ""
    return Mpp(
        secret,
        settings.mpp_realm,
        checksummed(pay_to),
        ways,
        first_byte_s=_first_byte_s(settings),
        open_nusd=_open_nusd(settings),
    )
