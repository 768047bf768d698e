"""The wallet's key: where it comes from, what is refused, what it signs."""

from __future__ import annotations

import copy
import pickle
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from eth_account import Account
from eth_account.messages import encode_typed_data
from hypothesis import given
from hypothesis import strategies as st

from router.access.assets import USDC
from router.access.wallet_key import (
    Transfer,
    WalletFault,
    checksummed,
    fault_of,
    key_of,
    make_key,
    read_key,
)
from tests.selling import TYPES

KEY = "0x" + "11" * 32
ORDER = "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141"


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_a_key_is_made_once_for_its_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "data" / "wallet.key"
    assert read_key(path) is None
    made = make_key(path)
    before = path.read_bytes()

    assert make_key(path).address == made.address
    assert path.read_bytes() == before
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [file.name for file in path.parent.iterdir()] == ["wallet.key"]
    assert Account.from_key(before.decode().strip()).address == made.address


def test_processes_that_make_one_at_once_have_the_same(tmp_path: Path) -> None:
    path = tmp_path / "wallet.key"
    with ThreadPoolExecutor(8) as pool:
        addresses = {key.address for key in pool.map(lambda _: make_key(path), range(32))}
    assert len(addresses) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["wallet.key"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601, 0o777])
def test_a_file_that_is_open_to_others_is_refused_with_the_fix(tmp_path: Path, mode: int) -> None:
    path = write(tmp_path / "wallet.key", KEY, mode)
    for use in (read_key, make_key):
        with pytest.raises(WalletFault, match=f"chmod 600 {path}"):
            use(path)
    assert path.read_text() == KEY
    assert "chmod 600" in (fault_of(None, path) or "")


@pytest.mark.parametrize(
    "text",
    ["", "\n", "0x12", "11" * 31, "11" * 33, "zz" * 32, "00" * 32, ORDER, "ff" * 32, f"{KEY} {KEY}", "é"],
)
def test_a_malformed_file_is_refused_and_left_as_it_is(tmp_path: Path, text: str) -> None:
    path = write(tmp_path / "wallet.key", text)
    for use in (read_key, make_key):
        with pytest.raises(WalletFault, match="left as it is") as caught:
            use(path)
        assert len(text) < 8 or text not in str(caught.value)
    assert path.read_text() == text
    with pytest.raises(WalletFault, match="ROUTER_WALLET_KEY must be"):
        key_of(text)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "wallet.key").mkdir()
    with pytest.raises(WalletFault, match="cannot be read"):
        make_key(tmp_path / "wallet.key")
    (tmp_path / "file").write_text("")
    with pytest.raises(WalletFault, match="cannot be read"):
        make_key(tmp_path / "file" / "wallet.key")


def test_the_setting_goes_before_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "wallet.key", "broken", 0o644)
    assert fault_of(KEY, path) is None
    assert key_of(f" {KEY[2:].upper()}\n").address == key_of(KEY).address


def test_nothing_prints_or_copies_a_key() -> None:
    key = key_of(KEY)
    assert "11" * 8 not in f"{key!r} {key} {vars(type(key)).keys()}"
    for copied in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError):
            copied(key)


@given(
    secret=st.integers(1, int(ORDER, 16) - 1),
    to=st.binary(min_size=20, max_size=20),
    value=st.integers(0, 2**256 - 1),
    before=st.integers(0, 2**64),
    nonce=st.binary(min_size=32, max_size=32),
    network=st.sampled_from(sorted(USDC)),
)
def test_a_signature_is_what_eip_712_says(
    secret: int, to: bytes, value: int, before: int, nonce: bytes, network: str
) -> None:
    asset, key = USDC[network], key_of(f"{secret:064x}")
    transfer = Transfer(asset, "0x" + to.hex(), value, 0, before, nonce)
    domain = {
        "name": asset.name,
        "version": asset.version,
        "chainId": asset.chain_id,
        "verifyingContract": asset.address,
    }
    message = {
        "from": key.address,
        "to": checksummed(transfer.to),
        "value": value,
        "validAfter": 0,
        "validBefore": before,
        "nonce": nonce,
    }
    signable = encode_typed_data(domain, TYPES, message)
    assert key.sign(transfer) == "0x" + Account.sign_message(signable, secret.to_bytes(32)).signature.hex()
    assert Account.from_key(secret.to_bytes(32)).address == key.address
