"""The tokens that are taken: our own table of decimals and EIP-712 names, never what somebody else says."""

from __future__ import annotations

from functools import lru_cache

from eth_hash.auto import keccak

from router.access.terms import Asset
from router.payment_settings import PaymentSettings
from router.settings import SettingsError

BASE = "eip155:8453"
BASE_SEPOLIA = "eip155:84532"

USDC: dict[str, Asset] = {
    BASE: Asset(BASE, "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913", "USD Coin", "2", 6),
    BASE_SEPOLIA: Asset(BASE_SEPOLIA, "0x036CbD53842c5426634e7929541eC2318f3dCF7e", "USDC", "2", 6),
}
"""USDC by network; its EIP-712 name is not the same on both."""


def asset_for_sale(settings: PaymentSettings) -> Asset:
    """Return the token that x402 and MPP's evm are paid in.

    One of our table needs no description; what is said of it anyway must agree with the table, since wrong
    decimals change every price by powers of ten. Raises SettingsError.
    """
    known = USDC.get(settings.x402_network)
    address = settings.x402_asset
    if address is None and known is None:
        raise SettingsError(
            f"ROUTER_X402_ASSET is not set, and no token of {settings.x402_network} is built in: set it to"
            " the token's address, and describe it by ROUTER_X402_ASSET_NAME, _VERSION and _DECIMALS"
        )
    if known is not None and (address is None or address.lower() == known.address.lower()):
        _check_agrees(settings, known)
        return known
    return _described(settings, address or "")


def _check_agrees(settings: PaymentSettings, known: Asset) -> None:
    said = {
        "NAME": (settings.x402_asset_name, known.name),
        "VERSION": (settings.x402_asset_version, known.version),
        "DECIMALS": (settings.x402_asset_decimals, known.decimals),
    }
    wrong = [
        f"ROUTER_X402_ASSET_{word} is {known}"
        for word, (mine, known) in said.items()
        if mine not in {None, known}
    ]
    if wrong:
        raise SettingsError(
            f"{known.address} on {known.network} is built in, where {' and '.join(wrong)}: leave the settings"
            " ROUTER_X402_ASSET_NAME, _VERSION and _DECIMALS out"
        )


def _described(settings: PaymentSettings, address: str) -> Asset:
    name, version, decimals = (
        settings.x402_asset_name,
        settings.x402_asset_version,
        settings.x402_asset_decimals,
    )
    if not name or not version or decimals is None:
        said = {"NAME": name, "VERSION": version, "DECIMALS": decimals}
        missing = [f"ROUTER_X402_ASSET_{word}" for word, value in said.items() if value in {None, ""}]
        raise SettingsError(
            f"the token {address} on {settings.x402_network} is not built in: set {', '.join(missing)} to"
            " what its contract says (name and version as in its EIP-712 domain)"
        )
    return Asset(settings.x402_network, checksummed(address), name, version, decimals)


@lru_cache(maxsize=1_024)
def checksummed(address: str) -> str:
    """Return an address in the mixed case of EIP-55, which some clients and facilitators insist on."""
    digits = address[2:].lower()
    marks = keccak(digits.encode()).hex()
    cased = [digit.upper() if int(marks[at], 16) > 7 else digit for at, digit in enumerate(digits)]
    return "0x" + "".join(cased)
