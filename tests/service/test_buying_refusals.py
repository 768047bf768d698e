"""What an upstream asks for and the wallet does not pay: nothing is signed, and the log says why."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.selling import PRICE, Shop, signatures
from tests.service.buying import MODEL, PROTOCOLS, buyer, changed, wallet
from tests.service.walking import wait_all_ended
from tests.upstream import ScriptedUpstream, redirect


@pytest.fixture
def up() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as server:
        yield server


@pytest.fixture
def other() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as server:
        yield server


BASE_DAI = "0x50c5725949A6F0c72E6C4a641F24049A917DB0Cb"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (changed(amount=str(PRICE * 1_000)), "by the catalog the call costs at most"),
        (changed(asset=BASE_DAI), "a token or a network that this wallet does not pay with"),
        (changed(network="eip155:1"), "a token or a network that this wallet does not pay with"),
        (changed(network="eip155:8453"), "a token or a network that this wallet does not pay with"),
        (changed(extra={"decimals": 8}), "wrong about the token's decimals"),
        (changed(extra={"assetTransferMethod": "permit2"}), "by Permit2 only"),
        (changed(scheme="upto"), "a scheme other than `exact`"),
        (changed(maxTimeoutSeconds=0), "void within 10 s"),
        (changed(payTo="everyone"), "payee is not an address"),
        *[
            (changed(amount=amount), "not a positive whole number")
            for amount in ("", "0", "-1", "1e3", "0x10", "10.0", " 10", "١", "1" * 40)
        ],
        (changed(amount=10_000), "malformed"),
        (changed(whole={"x402Version": 1}), "x402 version 1"),
        (changed(whole={"accepts": []}), "nothing to sign"),
        (changed(whole={"resource": {"url": "https://elsewhere.example/v1"}}), "another host's resource"),
    ],
)
def test_a_demand_that_is_not_ours_to_pay_is_not_paid(
    up: ScriptedUpstream, tmp_path: Path, change: Any, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    check_unpaid(up, tmp_path, "x402", Shop("x402", change=change), says, caplog)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (changed(amount=str(PRICE * 1_000)), "by the catalog the call costs at most"),
        (changed(currency=BASE_DAI), "a token or a network"),
        (changed(methodDetails={"chainId": 84532, "decimals": 8}), "wrong about the token's decimals"),
        (changed(methodDetails={"chainId": 84532, "credentialTypes": ["hash"]}), "no credential of type"),
        (changed(amount="ten"), "not a positive whole number"),
        (changed(parameters={"expires": "2020-01-01T00:00:00Z"}), "has expired"),
        (changed(parameters={"digest": "sha-256=:AAAA:"}), "for another body"),
        (changed(parameters={"method": "tempo"}), "other than `evm/charge`"),
        (changed(parameters={"request": "%%%"}), "malformed"),
        (changed(parameters={"id": ""}), "no id"),
    ],
)
def test_a_challenge_that_is_not_ours_to_pay_is_not_paid(
    up: ScriptedUpstream, tmp_path: Path, change: Any, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    check_unpaid(up, tmp_path, "mpp", Shop("mpp", change=change), says, caplog)


def check_unpaid(
    up: ScriptedUpstream, folder: Path, pays: str, shop: Shop, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    up.on(MODEL, shop)
    with buyer(up, folder, pays) as router:
        got = router.chat(model=MODEL)
        assert wallet(router)["payments"] == []
        wait_all_ended(router)

    assert (got.status, got.error["name"]) == (502, "upstream_error")
    assert signatures(up.requests) == 0
    assert says in caplog.text
    assert "402" not in got.body.decode()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_402_of_the_other_protocol_is_not_paid(
    up: ScriptedUpstream, tmp_path: Path, protocol: Any, caplog: pytest.LogCaptureFixture
) -> None:
    pays = {"x402": "mpp", "mpp": "x402"}[protocol]
    says = {"x402": "nothing to sign", "mpp": "PAYMENT-REQUIRED 0 times"}[protocol]
    check_unpaid(up, tmp_path, pays, Shop(protocol), says, caplog)


def test_a_redirect_is_neither_followed_nor_paid(
    up: ScriptedUpstream, other: ScriptedUpstream, tmp_path: Path
) -> None:
    other.on(MODEL, Shop())
    up.on(MODEL, redirect(f"{other.base_url}/chat/completions"))
    with buyer(up, tmp_path) as router:
        assert router.chat(model=MODEL).status == 502
        assert wallet(router)["payments"] == []
    assert other.requests == []
