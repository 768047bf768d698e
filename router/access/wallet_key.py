"""The private key of the wallet that pays upstreams: where it comes from, and the one thing that it signs.

The setting goes before the file; the file is made only where there is none, whole or not at all, and is never
written again. secp256k1 is libsecp256k1's (coincurve), Keccak-256 is pycryptodome's; both are imported when a
key is first used, which takes 0.14 s and 13 MiB.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from msgspec import Struct

from router.access.terms import Asset

FILE: Final = "wallet.key"
_KEY = re.compile(r"(?:0x)?([0-9a-fA-F]{64})", re.ASCII)
_ORDER: Final = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141  # SEC 2, secp256k1's n
_MAX_FILE_BYTES: Final = 1_024
_DOMAIN: Final = b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
_TRANSFER: Final = (
    b"TransferWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,"
    b"bytes32 nonce)"
)


class WalletFault(Exception):
    """The wallet cannot be used; the message names the fix and never the key."""


class Transfer(Struct, frozen=True, gc=False):
    """EIP-3009's TransferWithAuthorization, from the key's own address."""

    asset: Asset
    to: str
    value: int
    valid_after: int
    valid_before: int
    nonce: bytes


class WalletKey:
    """One private key. What prints or pickles it gets its address."""

    __slots__ = ("_secret", "address")

    def __init__(self, secret: bytes) -> None:
        from coincurve import PrivateKey

        self._secret = secret
        point = PrivateKey(secret).public_key.format(compressed=False)
        self.address = checksummed("0x" + keccak(point[1:])[-20:].hex())

    def __repr__(self) -> str:
        return f"WalletKey({self.address})"

    def __reduce__(self) -> str:
        raise TypeError("a wallet's key is not copied")

    def sign(self, transfer: Transfer) -> str:
        """Return the 65-byte signature of a transfer, in hex with 0x."""
        from coincurve import PrivateKey

        digest = transfer_digest(transfer, self.address)
        signature = PrivateKey(self._secret).sign_recoverable(digest, hasher=None)
        return "0x" + (signature[:64] + bytes([27 + signature[64]])).hex()


def transfer_digest(transfer: Transfer, payer: str) -> bytes:
    """Return what EIP-712 has signed for a transfer (EIP-3009 names the type)."""
    asset = transfer.asset
    domain = keccak(
        keccak(_DOMAIN)
        + keccak(asset.name.encode())
        + keccak(asset.version.encode())
        + _uint(asset.chain_id)
        + _address(asset.address)
    )
    message = keccak(
        keccak(_TRANSFER)
        + _address(payer)
        + _address(transfer.to)
        + _uint(transfer.value)
        + _uint(transfer.valid_after)
        + _uint(transfer.valid_before)
        + transfer.nonce
    )
    return keccak(b"\x19\x01" + domain + message)


def keccak(data: bytes) -> bytes:
    """Return the Keccak-256 of some bytes."""
    from eth_hash.auto import keccak as hashed

    return hashed(data)


def checksummed(address: str) -> str:
    """Write an address with EIP-55's capitals."""
    digits = address[2:].lower()
    marks = keccak(digits.encode()).hex()
    return "0x" + "".join(
        c.upper() if int(mark, 16) >= 8 else c for c, mark in zip(digits, marks, strict=False)
    )


def key_of(text: str) -> WalletKey:
    """Return the key of ROUTER_WALLET_KEY. Raises WalletFault."""
    secret = _secret_of(text)
    if secret is None:
        raise WalletFault(_MALFORMED_SETTING)
    return WalletKey(secret)


def read_key(path: Path) -> WalletKey | None:
    """Return the key of a file, None where there is no file. Raises WalletFault."""
    secret = _read_secret(path)
    return None if secret is None else WalletKey(secret)


def make_key(path: Path) -> WalletKey:
    """Return the key of a file, which is made where there is none. Raises WalletFault.

    The new file is written beside its place and linked there: it is whole when it can be seen, and of several
    processes that make one at once all get the first.
    """
    found = read_key(path)
    if found is not None:
        return found
    draft = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write_new(draft, f"0x{_new_secret().hex()}\n".encode())
        try:
            with suppress(FileExistsError):
                os.link(draft, path)
        finally:
            draft.unlink()
        _sync_folder(path.parent)
    except OSError as fault:
        raise WalletFault(
            f"the wallet's key cannot be written to {path}: {fault.strerror}; make its folder writable for"
            " this user, or set ROUTER_WALLET_KEY"
        ) from None
    made = read_key(path)
    if made is None:
        raise WalletFault(f"{path} was removed while it was made; start again")
    return made


def fault_of(setting: str | None, path: Path) -> str | None:
    """Say what keeps the key from being used, None where it can be, or could be made; makes nothing."""
    if setting is not None:
        return None if _secret_of(setting) is not None else _MALFORMED_SETTING
    try:
        _read_secret(path)
    except WalletFault as fault:
        return str(fault)
    return None


def _read_secret(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read(_MAX_FILE_BYTES)
    except FileNotFoundError:
        return None
    except OSError as fault:
        raise WalletFault(
            f"the wallet's key {path} cannot be read: {fault.strerror}; it must be a file that only this user"
            " can read (mode 0600)"
        ) from None
    if not stat.S_ISREG(mode):
        raise WalletFault(f"the wallet's key {path} is not a file")
    if mode & 0o077:
        raise WalletFault(
            f"the wallet's key {path} is open to others (mode {mode & 0o777:04o}): chmod 600 {path}, and if"
            " others may have read it, move its funds to a new wallet"
        )
    secret = _secret_of(text.decode("ascii", "replace"))
    if secret is None:
        raise WalletFault(
            f"the wallet's key {path} does not hold 64 hexadecimal digits. It is left as it is: put the key"
            " back from a backup, or move the file away if it never held one"
        )
    return secret


def _secret_of(text: str) -> bytes | None:
    found = _KEY.fullmatch(text.strip())
    if found is None or not 0 < int(found[1], 16) < _ORDER:
        return None
    return bytes.fromhex(found[1])


def _new_secret() -> bytes:
    return (secrets.randbelow(_ORDER - 1) + 1).to_bytes(32)


def _write_new(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _uint(value: int) -> bytes:
    return value.to_bytes(32)


def _address(address: str) -> bytes:
    return bytes(12) + bytes.fromhex(address[2:])


_MALFORMED_SETTING = "ROUTER_WALLET_KEY must be a private key: 64 hexadecimal digits, with or without 0x"
