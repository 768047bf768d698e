"""Tokens: the built-in table, those that the settings describe, and what is asked for when one is not."""

from __future__ import annotations

from typing import Any

import pytest

from router.access.assets import BASE, BASE_SEPOLIA, USDC, asset_for_sale
from router.access.terms import Asset
from router.payment_settings import PaymentSettings
from router.settings import SettingsError

TOKEN = "0x" + "7" * 40


def settings(**given: Any) -> PaymentSettings:
    names = ("network", "asset", "asset_name", "asset_version", "asset_decimals")
    return PaymentSettings(**{f"x402_{name}": given[name] for name in names if name in given})


@pytest.mark.parametrize(
    ("given", "asset"),
    [
        ({}, USDC[BASE]),
        ({"network": BASE_SEPOLIA}, USDC[BASE_SEPOLIA]),
        ({"asset": USDC[BASE].address.lower()}, USDC[BASE]),
        ({"asset_name": "USD Coin", "asset_version": "2", "asset_decimals": 6}, USDC[BASE]),
        (
            {"asset": TOKEN, "asset_name": "Coin", "asset_version": "1", "asset_decimals": 0},
            Asset(BASE, TOKEN, "Coin", "1", 0),
        ),
        (
            {
                "network": "eip155:137",
                "asset": TOKEN,
                "asset_name": "Coin",
                "asset_version": "1",
                "asset_decimals": 18,
            },
            Asset("eip155:137", TOKEN, "Coin", "1", 18),
        ),
    ],
)
def test_finds_the_token(given: dict[str, Any], asset: Asset) -> None:
    assert asset_for_sale(settings(**given)) == asset


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"network": "eip155:137"}, "ROUTER_X402_ASSET is not set"),
        ({"asset": TOKEN}, "ROUTER_X402_ASSET_NAME, ROUTER_X402_ASSET_VERSION, ROUTER_X402_ASSET_DECIMALS"),
        ({"asset": TOKEN, "asset_name": "Coin", "asset_version": "1"}, "set ROUTER_X402_ASSET_DECIMALS to"),
        ({"asset_decimals": 18}, "ROUTER_X402_ASSET_DECIMALS is 6"),
        ({"network": BASE_SEPOLIA, "asset_name": "USD Coin"}, "ROUTER_X402_ASSET_NAME is USDC"),
    ],
)
def test_says_what_a_token_needs(given: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        asset_for_sale(settings(**given))
