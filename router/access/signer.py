"""Who signed a payment: recovered here, before anything is done in a payer's name.

A claim counts against its payer (what is open, what is owed, the idempotency key), so nobody may make one for
another: the facilitator would say so too, but after the claim. Sources: EIP-712, EIP-3009, Permit2's
SignatureTransfer with the witness of x402's `upto`; coincurve recovers in 0.3 ms.
"""

from __future__ import annotations

from typing import Final

from coincurve import PublicKey
from eth_hash.auto import keccak

from router.access import reasons
from router.access.evm import PERMIT2, Authorization, Permit, same
from router.access.terms import Asset, Refused
from router.access.wallet_key import Transfer, transfer_digest

_DOMAIN: Final = keccak(b"EIP712Domain(string name,uint256 chainId,address verifyingContract)")
_NAME: Final = keccak(b"Permit2")
_TOKEN_FORM: Final = b"TokenPermissions(address token,uint256 amount)"
_WITNESS_FORM: Final = b"Witness(address to,address facilitator,uint256 validAfter)"
_TOKEN: Final = keccak(_TOKEN_FORM)
_WITNESS: Final = keccak(_WITNESS_FORM)
_PERMIT: Final = keccak(
    b"PermitWitnessTransferFrom(TokenPermissions permitted,address spender,uint256 nonce,uint256 deadline,"
    b"Witness witness)" + _TOKEN_FORM + _WITNESS_FORM
)
_RECOVERY: Final = {0: 0, 1: 1, 27: 0, 28: 1}


def check_transfer_signer(asset: Asset, signed: Authorization, signature: str) -> None:
    """Raise Refused unless an authorization, whose numbers have been checked, is by its own payer."""
    transfer = Transfer(
        asset=asset,
        to=signed.to,
        value=int(signed.value),
        valid_after=int(signed.valid_after),
        valid_before=int(signed.valid_before),
        nonce=bytes.fromhex(signed.nonce[2:]),
    )
    _check(transfer_digest(transfer, signed.from_), signature, signed.from_)


def check_permit_signer(asset: Asset, signed: Permit, signature: str) -> None:
    """Raise Refused unless a permit, whose numbers have been checked, is by its own payer."""
    domain = keccak(_DOMAIN + _NAME + _uint(asset.chain_id) + _address(PERMIT2))
    permitted, witness = signed.permitted, signed.witness
    message = keccak(
        _PERMIT
        + keccak(_TOKEN + _address(permitted.token) + _uint(int(permitted.amount)))
        + _address(signed.spender)
        + _uint(int(signed.nonce))
        + _uint(int(signed.deadline))
        + keccak(
            _WITNESS + _address(witness.to) + _address(witness.facilitator) + _uint(int(witness.valid_after))
        )
    )
    _check(keccak(b"\x19\x01" + domain + message), signature, signed.from_)


def _check(digest: bytes, signature: str, payer: str) -> None:
    raw = bytes.fromhex(signature[2:])
    recovery = _RECOVERY.get(raw[64])
    if recovery is None:
        raise Refused(reasons.SIGNATURE)
    try:
        key = PublicKey.from_signature_and_message(raw[:64] + bytes((recovery,)), digest, hasher=None)
    except ValueError:  # no point of the curve
        raise Refused(reasons.SIGNATURE) from None
    if not same("0x" + keccak(key.format(compressed=False)[1:])[-20:].hex(), payer):
        raise Refused(reasons.SIGNATURE)


def _uint(value: int) -> bytes:
    return value.to_bytes(32)


def _address(text: str) -> bytes:
    return bytes.fromhex(text[2:]).rjust(32, b"\0")
