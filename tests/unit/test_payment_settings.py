"""The settings of wallet payments: each bad one is one line that names it and what it must be."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from router.settings import Settings, SettingsError, load_settings

PAYEE = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
X402 = {"x402_pay_to": PAYEE, "x402_facilitator": "https://facilitator.example"}
MPP = {"mpp_secret": "a secret of the tests, 32 bytes or more", "mpp_pay_to": PAYEE}
URL = "it must be an https:// URL (http:// on this machine alone)"
ADDRESS = "it must be an address: 0x and 40 hexadecimal digits"
TEXTS = 'it must be a JSON object of texts, as in {"authorization": "Bearer ..."}'
REALM = (
    "it must be plain ASCII without quotes, backslashes or the word Payment before a space; the service's"
    " host name is a good one"
)
CAPITALS = (
    "its capitals are not those of this address (EIP-55), so a digit of it may be wrong: copy it again from"
    " your wallet; an address in small letters is not checked"
)
BAD = [
    ("x402_pay_to", "0x12", ADDRESS),
    ("x402_pay_to", PAYEE[:-1], ADDRESS),
    ("x402_pay_to", "0x" + "0" * 40, "it is the zero address: what is paid to it is lost"),
    ("x402_pay_to", PAYEE.replace("5181", "5182"), CAPITALS),
    ("mpp_pay_to", PAYEE.replace("A0", "a0"), CAPITALS),
    ("x402_asset", "USDC", ADDRESS),
    ("mpp_tempo_currency", "pathUSD", ADDRESS),
    ("x402_facilitator", "x402.org/facilitator", URL),
    ("x402_facilitator", "http://x402.org/facilitator", URL),
    ("x402_facilitator", "https://x402.org:99999", URL),
    ("x402_facilitator", "https://[::1", URL),
    (
        "x402_facilitator",
        "https://x.example/v1?key=1",
        "it must end before any ? or #: paths are put behind it",
    ),
    ("public_url", 'https://x.example/"', "it holds a character that no URL has: write it as %XX"),
    ("public_url", "http://router.example", URL),
    ("mpp_tempo_rpc", "ws://rpc.example", URL),
    ("wallet_rpc", "http://rpc.example/secret-path", URL),
    (
        "x402_network",
        "base",
        "it must be an EVM network by CAIP-2: eip155:8453 (Base), eip155:84532 (Base Sepolia)",
    ),
    ("x402_schemes", "exact,batch", "it must be upto or exact, or both: upto,exact"),
    ("x402_schemes", "", "it must be upto or exact, or both: upto,exact"),
    ("mpp_methods", "stripe", "it must be evm or tempo, or both: evm,tempo"),
    ("x402_asset_decimals", "six", "Input should be a valid integer, unable to parse string as an integer"),
    ("x402_asset_decimals", "19", "Input should be less than or equal to 18"),
    ("facilitator_headers", "Bearer secret-token", TEXTS),
    ("facilitator_headers", '{"x-key": 1}', TEXTS),
    ("facilitator_headers", '{"x key": "secret-token"}', "'x key' cannot be the name of a header"),
    (
        "facilitator_headers",
        '{"x-key": "secret-token\\n"}',
        "the value of 'x-key' must be plain ASCII in one line",
    ),
    ("mpp_secret", "secret-token", "it must be 32 bytes or more, as `openssl rand -hex 32` makes them"),
    ("mpp_realm", "", REALM),
    ("mpp_realm", 'my "shop"', REALM),
    ("mpp_realm", "back\\slash", REALM),
    ("mpp_realm", "my payment shop", REALM),
    ("mpp_realm", "caf\u00e9.example", REALM),
    ("mpp_tempo_chain_id", "0", "Input should be greater than 0"),
    ("payment_min_usd", "-1", "Input should be greater than or equal to 0"),
    ("payment_min_usd", "0.00000000001", "it may have 9 decimals at most"),
    ("payment_max_usd", "0", "Input should be greater than 0"),
    ("payment_open_usd", "a lot", "Input should be a valid decimal"),
    ("wallet_cap_request_usd", "-0.1", "Input should be greater than or equal to 0"),
    ("wallet_cap_day_usd", "1e9", "Input should be less than or equal to 1000000"),
]


@pytest.fixture(autouse=True)
def _empty_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in an empty folder and without the variables of whoever runs the tests."""
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(f"ROUTER_{name.upper()}", raising=False)


def fault(**flags: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        load_settings(**flags)
    return str(caught.value)


@pytest.mark.parametrize(("name", "value", "said"), BAD)
def test_each_bad_setting_is_one_line_with_its_name_and_what_it_must_be(
    name: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"ROUTER_{name.upper()}", value)
    text = fault()
    assert text == f"{name} (ROUTER_{name.upper()}): {said}"
    assert "secret-" not in text


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"x402_pay_to": PAYEE}, "needs ROUTER_X402_FACILITATOR"),
        ({"mpp_secret": MPP["mpp_secret"]}, "needs ROUTER_MPP_PAY_TO"),
        (MPP, "evm needs ROUTER_X402_FACILITATOR, tempo needs ROUTER_MPP_TEMPO_RPC"),
        (
            {**X402, "payment_min_usd": "11"},
            "ROUTER_PAYMENT_MIN_USD (11) is more than ROUTER_PAYMENT_MAX_USD (10): `upto` could never be",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_one_line_that_names_them(
    flags: dict[str, str], said: str
) -> None:
    text = fault(**flags)
    assert said in text
    assert "\n" not in text


@pytest.mark.parametrize(
    "address", [PAYEE, PAYEE.lower(), "0x" + PAYEE[2:].upper(), f" {PAYEE} ", "0x" + "1" * 40]
)
def test_an_address_is_taken_with_its_capitals_or_without_any(address: str) -> None:
    assert load_settings(**{**X402, "x402_pay_to": address}).x402_pay_to == address.strip()


def test_nothing_is_switched_on_by_blank_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    blank = ("x402_pay_to", "x402_facilitator", "mpp_secret", "mpp_pay_to", "wallet_key", "wallet_rpc")
    for name in (*blank, "facilitator_headers", "x402_asset_name"):
        monkeypatch.setenv(f"ROUTER_{name.upper()}", " " if name != "x402_asset_name" else "")
    settings = load_settings()
    assert not settings.sells
    assert {getattr(settings, name) for name in (*blank, "x402_asset_name")} == {None}
    assert settings.facilitator_headers == {}


def test_good_settings_are_what_was_written_and_hide_their_secrets() -> None:
    settings = load_settings(
        **X402,
        **MPP,
        x402_schemes="exact, exact",
        mpp_realm="pay.example",
        mpp_tempo_rpc="http://127.0.0.1:8545/?key=1",
        public_url="https://router.example/",
        facilitator_headers='{"authorization": "Bearer secret-token"}',
        payment_min_usd="0.000000001",
    )
    assert (settings.x402_schemes, settings.usable_mpp_methods) == (("exact",), ("evm", "tempo"))
    assert (settings.public_url, settings.mpp_realm) == ("https://router.example", "pay.example")
    assert settings.payment_min_usd == Decimal("1e-9")
    assert settings.facilitator_headers["authorization"].get_secret_value() == "Bearer secret-token"
    assert "secret-token" not in repr(settings)
    assert "32 bytes or more" not in repr(settings)
    assert Settings(**settings.plain()).plain() == settings.plain()
