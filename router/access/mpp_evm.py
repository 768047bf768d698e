"""MPP's `evm/charge` by EIP-3009 authorization: the signature of x402's `exact`, settled the same way.

Source: draft-evm-charge as mppx 0.11.0 and pympp 0.16.0 write it.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec
from eth_hash.auto import keccak
from msgspec import Raw, Struct

from router.access import evm, reasons
from router.access.challenge import Ask, malformed
from router.access.orders import exact_order
from router.access.signer import check_transfer_signer
from router.access.terms import Asset, Refused
from router.ledger.payments import PaymentClaim

KIND = "authorization"


class Authorized(Struct, frozen=True, gc=False):
    """An authorization and its signature, which stand side by side in a payload."""

    signed: evm.Authorization
    signature: evm.Signature65


class _Signature(Struct, frozen=True, gc=False):
    signature: evm.Signature65


_authorization = msgspec.json.Decoder(evm.Authorization)
_signature = msgspec.json.Decoder(_Signature)


def details(asset: Asset) -> dict[str, Any]:
    """Return what a challenge says of the way to pay."""
    return {"chainId": asset.chain_id, "credentialTypes": [KIND], "decimals": asset.decimals}


def read_payload(payload: Raw) -> Authorized:
    """Decode a payload of the kind `authorization`. Raises BadRequest."""
    try:
        return Authorized(_authorization.decode(payload), _signature.decode(payload).signature)
    except msgspec.MsgspecError:
        raise malformed("its payload is not an EIP-3009 authorization with a 65-byte signature") from None


def claim(ask: Ask, paid: Authorized, source: str, now: float, room_s: float) -> PaymentClaim:
    """Return the claim of an authorization that pays what was asked, and is good for `room_s` from now.

    Raises Refused, BadRequest.
    """
    signed, asset = paid.signed, ask.asset
    payer = ask.payer(source, signed.from_)
    if int(signed.value) < ask.amount:
        raise Refused(reasons.INSUFFICIENT, problem="payment-insufficient")
    evm.check_authorization(signed, pay_to=ask.pay_to, amount=ask.amount, now=now, room_s=room_s)
    if signed.nonce.lower() not in _nonces(ask):
        raise Refused(reasons.NONCE)
    check_transfer_signer(asset, signed, paid.signature)
    valid_before = int(signed.valid_before)
    return PaymentClaim(
        key=evm.authorization_key(asset, signed),
        challenge=ask.id,
        protocol="mpp",
        scheme="evm/charge",
        network=asset.network,
        asset=asset.address.lower(),
        payer=payer,
        pay_to=ask.pay_to.lower(),
        amount=ask.amount,
        expires_at=valid_before,
        order=exact_order(asset, ask.pay_to, ask.amount, int(valid_before - now), signed, paid.signature),
    )


def _nonces(ask: Ask) -> list[str]:
    """Return the two nonces that bind an authorization to its challenge.

    The specification's and mppx's is keccak256(id || realm), pympp's that of the JSON list of both.
    """
    listed = json.dumps([ask.id, ask.realm], separators=(",", ":"))
    return ["0x" + keccak(text.encode()).hex() for text in (ask.id + ask.realm, listed)]
