"""What `router serve` says of wallet payments before it is ready, and when they could never work."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.facilitator import ScriptedFacilitator
from tests.router import Offered, write_catalog
from tests.serving import Serving, run_router, serve

READY = "router.app: ready"
PAYEE = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
SHORT = "0x7099...79C8"
SECRET = "a secret of the tests, 32 bytes or more"
SEPOLIA = {"ROUTER_X402_PAY_TO": PAYEE, "ROUTER_X402_NETWORK": "eip155:84532"}


@pytest.fixture
def facilitator() -> Iterator[ScriptedFacilitator]:
    with ScriptedFacilitator() as running:
        yield running


def lines(serving: Serving) -> dict[str, str]:
    """Return what stands behind each word of the banner, once the service is ready."""
    with serving:
        serving.read_until(READY)
        return dict(re.findall(r"^  (\w+) +(\S.*)$", serving.text, re.MULTILINE))


def test_who_sells_by_x402_is_told_how_and_to_whom(facilitator: ScriptedFacilitator, tmp_path: Path) -> None:
    said = lines(serve(tmp_path, "--demo", ROUTER_X402_FACILITATOR=facilitator.url, **SEPOLIA))
    assert said["access"] == (
        "paid: an API key with credit is asked for (router keys create --name me --credit 5),"
        " or a wallet payment"
    )
    assert said["x402"] == f"upto and exact on Base Sepolia (eip155:84532) to {SHORT}, settled by 127.0.0.1"
    assert "mpp" not in said
    assert "wallet" not in said


def test_who_sells_by_mpp_is_told_the_methods_that_can_be_used(
    facilitator: ScriptedFacilitator, tmp_path: Path
) -> None:
    said = lines(
        serve(
            tmp_path,
            "--demo",
            ROUTER_X402_FACILITATOR=facilitator.url,
            ROUTER_X402_NETWORK="eip155:84532",
            ROUTER_MPP_SECRET=SECRET,
            ROUTER_MPP_PAY_TO=PAYEE,
            ROUTER_MPP_REALM="pay.example",
        )
    )
    assert said["mpp"] == f"evm/charge on Base Sepolia (eip155:84532) to {SHORT}, realm pay.example"
    assert "x402" not in said
    assert SECRET not in str(said)


def test_open_access_beside_selling_is_said_to_make_nobody_pay(
    facilitator: ScriptedFacilitator, tmp_path: Path
) -> None:
    said = lines(serve(tmp_path, "--access", "open", ROUTER_X402_FACILITATOR=facilitator.url, **SEPOLIA))
    assert said["access"] == (
        "open: no API key is asked for, and no payment: only ROUTER_ACCESS=paid makes wallets pay"
    )


def test_who_buys_is_told_from_whom_and_within_which_caps(tmp_path: Path) -> None:
    catalog = write_catalog(
        tmp_path / "catalog",
        {"seller": "https://seller.example/v1"},
        [Offered("test/model", provider="seller")],
        provider='pays = "x402"',
    )
    said = lines(serve(tmp_path, "--catalog", str(catalog), ROUTER_WALLET_CAP_DAY_USD="2.50"))
    assert said["wallet"] == "pays seller, at most 0.5 USD a request and 2.50 USD a day (router wallet)"
    assert said["access"] == "open: no API key is asked for"


@pytest.mark.parametrize(
    ("more", "fix"),
    [
        ({"ROUTER_X402_NETWORK": "eip155:1"}, "ROUTER_X402_ASSET is not set"),
        ({"ROUTER_X402_ASSET": "0x" + "1" * 40}, "ROUTER_X402_ASSET_DECIMALS to what its contract says"),
        ({"ROUTER_X402_ASSET_DECIMALS": "18"}, "ROUTER_X402_ASSET_DECIMALS is 6"),
        ({"ROUTER_X402_NETWORK": "eip155:8453"}, "set ROUTER_X402_NETWORK to one of its"),
    ],
)
def test_payments_that_could_never_be_settled_keep_it_from_starting_with_the_fix_in_one_line(
    facilitator: ScriptedFacilitator, tmp_path: Path, more: dict[str, str], fix: str
) -> None:
    settings = {**SEPOLIA, "ROUTER_X402_FACILITATOR": facilitator.url, **more}
    refused = run_router(tmp_path, "serve", "--demo", "--port", "0", **settings)
    assert refused.returncode == 1
    assert fix in refused.stderr
    assert re.fullmatch(r"Error: [^\n]+\n", refused.stderr)
