"""What wallets sign on EVM chains: EIP-3009 authorizations and Permit2 permits, as x402 carries them.

Wire forms of x402 v2's schemes `exact` (EIP-3009) and `upto` (Permit2) for eip155 networks. Numbers are
decimal texts, signatures 65 bytes: contract wallets (ERC-1271, ERC-6492) are not taken.
"""

from __future__ import annotations

import re
from typing import Annotated, Final

from msgspec import Meta, Struct, field

from router.access import reasons
from router.access.terms import Asset, Refused

PERMIT2: Final = "0x000000000022D473030F116dDEE9F6B43aC78BA3"
UPTO_PROXY: Final = "0x4020A4f3b7b90ccA423B9fabCc0CE57C6C240002"
"""x402's contract that takes at most the permitted amount; the same on every chain."""
WINDOW_S: Final = 86_400
"""The longest that a signature may stay good: its claim is kept, and asked about, until it is void."""
MAX_UINT: Final = 2**256 - 1

ADDRESS: Final = re.compile(r"0x[0-9a-fA-F]{40}", re.ASCII)

Address = Annotated[str, Meta(pattern=r"\A0x[0-9a-fA-F]{40}\Z")]
Uint = Annotated[str, Meta(pattern=r"\A[0-9]{1,78}\Z")]
Nonce32 = Annotated[str, Meta(pattern=r"\A0x[0-9a-fA-F]{64}\Z")]
Signature65 = Annotated[str, Meta(pattern=r"\A0x[0-9a-fA-F]{130}\Z")]


class Authorization(Struct, frozen=True, rename="camel"):
    """EIP-3009's TransferWithAuthorization."""

    from_: Address = field(name="from")
    to: Address
    value: Uint
    valid_after: Uint
    valid_before: Uint
    nonce: Nonce32


class ExactPayload(Struct, frozen=True):
    """What `exact` signs."""

    signature: Signature65
    authorization: Authorization


class Permitted(Struct, frozen=True):
    """The token and the most of it."""

    token: Address
    amount: Uint


class Witness(Struct, frozen=True, rename="camel"):
    """Who is paid, who may ask for it, since when."""

    to: Address
    facilitator: Address
    valid_after: Uint


class Permit(Struct, frozen=True):
    """Permit2's PermitWitnessTransferFrom with the witness of `upto`."""

    permitted: Permitted
    from_: Address = field(name="from")
    spender: Address
    nonce: Uint
    deadline: Uint
    witness: Witness


class UptoPayload(Struct, frozen=True, rename="camel"):
    """What `upto` signs."""

    signature: Signature65
    permit2_authorization: Permit


class GasPermit(Struct, frozen=True):
    """EIP-2612's permit for Permit2, which a facilitator sends for a payer without gas."""

    from_: Address = field(name="from")
    asset: Address
    spender: Address
    amount: Uint
    nonce: Uint
    deadline: Uint
    signature: Signature65
    version: Annotated[str, Meta(pattern=r"\A[0-9]{1,4}(\.[0-9]{1,4}){0,2}\Z")] = "1"


def check_authorization(
    signed: Authorization, *, pay_to: str, amount: int, now: float, room_s: float
) -> None:
    """Raise Refused unless an authorization pays exactly this, and long enough from now."""
    if not same(signed.to, pay_to):
        raise Refused(reasons.RECIPIENT)
    if int(signed.value) != amount:
        raise Refused(reasons.AMOUNT)
    _check_window(int(signed.valid_after), int(signed.valid_before), now, room_s)


def check_permit(
    signed: Permit, *, asset: Asset, pay_to: str, facilitator: str, amount: int, now: float, room_s: float
) -> None:
    """Raise Refused unless a permit lets x402's contract take so much for us, and long enough from now."""
    if not same(signed.permitted.token, asset.address):
        raise Refused(reasons.ASSET)
    if int(signed.permitted.amount) != amount:
        raise Refused(reasons.AMOUNT)
    if not same(signed.spender, UPTO_PROXY):
        raise Refused(reasons.SPENDER)
    if not same(signed.witness.to, pay_to):
        raise Refused(reasons.RECIPIENT)
    if not same(signed.witness.facilitator, facilitator):
        raise Refused(reasons.FACILITATOR)
    if int(signed.nonce) > MAX_UINT:
        raise Refused(reasons.INVALID)
    _check_window(int(signed.witness.valid_after), int(signed.deadline), now, room_s)


def fits_permit(permit: GasPermit, signed: Permit) -> bool:
    """Say whether a gas permit lets Permit2 take what the payment's own permit is about."""
    return (
        same(permit.from_, signed.from_)
        and same(permit.asset, signed.permitted.token)
        and same(permit.spender, PERMIT2)
        and int(signed.permitted.amount) <= int(permit.amount) <= MAX_UINT
        # A facilitator that breaks on a number that no chain knows would seem away, to everybody.
        and max(int(permit.nonce), int(permit.deadline)) <= MAX_UINT
    )


def authorization_key(asset: Asset, signed: Authorization) -> str:
    """Return what names an authorization, whichever protocol brings it."""
    return f"eip3009:{asset.network}:{asset.address}:{signed.from_}:{signed.nonce}".lower()


def permit_key(asset: Asset, signed: Permit) -> str:
    """Return what names a permit; its nonce as a plain number, since zeros before it change nothing."""
    return f"permit2:{asset.network}:{asset.address}:{signed.from_}:{int(signed.nonce)}".lower()


def same(one: str, other: str) -> bool:
    """Say whether two addresses are the same one."""
    return one.lower() == other.lower()


def _check_window(after: int, before: int, now: float, room_s: float) -> None:
    if after > now:
        raise Refused(reasons.EARLY)
    if before < now + room_s:
        raise Refused(reasons.EXPIRED)
    if before > now + WINDOW_S:
        raise Refused(reasons.LONG)
