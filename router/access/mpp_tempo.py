"""MPP's `tempo/charge`: a signed transfer that we send (pull), or the hash of one that was sent (push).

Source: draft-tempo-charge as mppx 0.5.12 and 0.11.0 and pympp 0.16.0 write it.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from eth_hash.auto import keccak
from msgspec import Meta, Raw, Struct

from router.access import reasons
from router.access.challenge import Ask, malformed
from router.access.tempo_transaction import (
    OtherSignature,
    Sponsored,
    Transaction,
    read_transaction,
    transfer_of,
)
from router.access.terms import Asset, Refused
from router.ledger.payments import PaymentClaim

PULL, PUSH = "transaction", "hash"
MAX_VALID_S = 600
"""How long a transaction may be valid at most: its row is kept until then."""
ROOM_S = 2
"""How long it must still be valid: one to two blocks."""
TAG = keccak(b"mpp")[:4]
VERSION = 1


class Pull(Struct, frozen=True, gc=False):
    """A signed transaction that we are to send."""

    signature: Annotated[str, Meta(pattern=r"^0x(?:[0-9a-fA-F]{2})+\Z")]


class Push(Struct, frozen=True, gc=False):
    """The hash of a transaction that the client has sent."""

    hash: Annotated[str, Meta(pattern=r"^0x[0-9a-fA-F]{64}\Z")]


class Order(Struct, frozen=True, gc=False):
    """What settling needs: the transaction's hash, the transaction where we send it, and the memo's realm."""

    hash: str
    realm: str
    raw: str | None = None


_pull = msgspec.json.Decoder(Pull)
_push = msgspec.json.Decoder(Push)


def details(asset: Asset) -> dict[str, Any]:
    """Return what a challenge says of the way to pay.

    Only `pull` is asked for: an answer that fails before its first byte must cost the payer nothing, and
    what a client has sent by itself cannot be left unsent. One that knows no `supportedModes` may push.
    """
    return {"chainId": asset.chain_id, "supportedModes": ["pull"]}


def read_payload(kind: str, payload: Raw) -> Pull | Push:
    """Decode a payload of one of our two kinds. Raises BadRequest."""
    try:
        return _pull.decode(payload) if kind == PULL else _push.decode(payload)
    except msgspec.MsgspecError:
        raise malformed("its payload is neither a signed transaction nor the hash of one") from None


def claim(ask: Ask, paid: Pull | Push, source: str, now: float) -> PaymentClaim:
    """Return the claim of a transaction that pays what was asked. Raises Refused, BadRequest.

    One that was signed is read here; of one that was sent only the hash is known, the chain tells the rest.
    """
    if isinstance(paid, Push):
        order = Order(paid.hash.lower(), ask.realm)
        return _claim(ask, order, ask.payer(source), ask.until)
    try:
        transaction = read_transaction(bytes.fromhex(paid.signature[2:]))
    except Sponsored:
        raise Refused(reasons.FEE_PAYER, problem="method-unsupported") from None
    except OtherSignature:
        raise Refused(reasons.SIGNER, problem="method-unsupported") from None
    except ValueError:
        raise malformed("its transaction cannot be read") from None
    payer = ask.payer(source, transaction.sender)
    valid_before = _check(ask, transaction, now)
    return _claim(ask, Order(transaction.hash, ask.realm, paid.signature), payer, valid_before)


def is_memo(memo: bytes, realm: str, challenge: str) -> bool:
    """Say whether a memo names our realm and this challenge; the client's own part of it is free.

    The form is tag (4 bytes), version, keccak256(realm)[:10], the client's [:10], keccak256(id)[:7].
    """
    ours = TAG + bytes((VERSION,)) + keccak(realm.encode())[:10]
    return len(memo) == 32 and memo[:15] == ours and memo[25:] == keccak(challenge.encode())[:7]


def _check(ask: Ask, transaction: Transaction, now: float) -> int:
    """Return until when a transaction that pays what was asked, and does nothing else, is valid.

    Only what is one transfer can be tried before it is sent: behind another call it may fail when the
    upstream has been paid already, and cost the payer nothing. Raises Refused.
    """
    if transaction.chain_id != ask.asset.chain_id:
        raise Refused(reasons.NETWORK)
    if len(transaction.calls) > 1 or transaction.authorizes:
        raise Refused(reasons.MORE, problem="method-unsupported")
    paid = transfer_of(transaction.calls[0]) if transaction.calls else None
    if paid is None or (paid.token, paid.recipient) != (ask.asset.address.lower(), ask.pay_to.lower()):
        raise Refused(reasons.RECIPIENT)
    if paid.amount < ask.amount:
        raise Refused(reasons.INSUFFICIENT, problem="payment-insufficient")
    if paid.amount != ask.amount:
        raise Refused(reasons.AMOUNT)
    if not is_memo(paid.memo, ask.realm, ask.id):
        raise Refused(reasons.MEMO)
    if transaction.valid_after is not None and transaction.valid_after > now:
        raise Refused(reasons.EARLY)
    # Without an end nobody could ever say that it will not be mined any more.
    if transaction.valid_before is None or transaction.valid_before > now + MAX_VALID_S:
        raise Refused(reasons.LONG)
    if transaction.valid_before < now + ROOM_S:
        raise Refused(reasons.EXPIRED, problem="payment-expired")
    return transaction.valid_before


def _claim(ask: Ask, order: Order, payer: str, expires_at: int) -> PaymentClaim:
    asset = ask.asset
    return PaymentClaim(
        # The hash alone names what is spent; who pays is only said by the client where it has sent it itself.
        key=f"tempo:{asset.network}:{asset.address}:{order.hash}".lower(),
        challenge=ask.id,
        protocol="mpp",
        scheme="tempo/charge",
        network=asset.network,
        asset=asset.address.lower(),
        payer=payer,
        pay_to=ask.pay_to.lower(),
        amount=ask.amount,
        expires_at=expires_at,
        order=msgspec.json.encode(order),
    )
