"""What a facilitator says, read strictly: an answer that does not fit the question is no answer.

Forms of x402 v2's facilitator interface: /supported, /verify, /settle.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final, TypeGuard, TypeVar

import msgspec

from router.access.evm import ADDRESS, same
from router.ledger.payments import PaymentClaim

TRANSACTION: Final = re.compile(r"0x[0-9a-fA-F]{64}", re.ASCII)
_VERSION: Final = 2
_Form = TypeVar("_Form")


class NoAnswer(Exception):
    """What came back is not an answer to what was asked; `word` says why, for the log."""

    def __init__(self, word: str) -> None:
        super().__init__(word)
        self.word = word


@dataclass(frozen=True, slots=True)
class Supported:
    """What a facilitator supports on one network: schemes, the address that `upto` binds to, extensions.

    `addresses` are all of its own there, in lower case.
    """

    schemes: frozenset[str]
    address: str | None
    addresses: frozenset[str]
    extensions: frozenset[str]


@dataclass(frozen=True, slots=True)
class Outcome:
    """A settlement: its transaction, and the facilitator's reason where it failed."""

    transaction: str
    failed: str | None


class _Kind(msgspec.Struct, rename="camel"):
    version: int = msgspec.field(name="x402Version")
    scheme: str
    network: str
    extra: dict[str, Any] | None = None


class _Listing(msgspec.Struct):
    kinds: list[dict[str, Any]]
    extensions: list[Any] | None = None
    signers: dict[str, Any] | None = None


class _Verified(msgspec.Struct, rename="camel"):
    is_valid: bool
    invalid_reason: str | None = None
    payer: str | None = None


class _Settled(msgspec.Struct, rename="camel"):
    success: bool
    transaction: str | None = None
    network: str | None = None
    payer: str | None = None
    amount: str | None = None
    error_reason: str | None = None


def read_supported(status: int, body: bytes, network: str) -> Supported:
    """Return what a listing says of one network. Raises NoAnswer."""
    if status != 200:
        raise NoAnswer(f"status_{status}")
    listing = _decoded(body, _Listing)
    kinds = []
    for raw in listing.kinds:
        try:
            kind = msgspec.convert(raw, _Kind)
        except msgspec.ValidationError:
            continue  # a kind of another version has another form
        if kind.version == _VERSION and kind.network == network:
            kinds.append(kind)
    named = next(
        (
            address
            for kind in kinds
            if kind.scheme == "upto" and _is_address(address := (kind.extra or {}).get("facilitatorAddress"))
        ),
        None,
    )
    signers = listing.signers or {}
    listed = [*_list(signers.get("eip155:*")), *_list(signers.get(network)), named]
    return Supported(
        schemes=frozenset(kind.scheme for kind in kinds if kind.scheme != "upto" or named is not None),
        address=named,
        addresses=frozenset(address.lower() for address in listed if _is_address(address)),
        extensions=frozenset(word for word in listing.extensions or () if isinstance(word, str)),
    )


def read_verified(status: int, body: bytes, claim: PaymentClaim) -> str | None:
    """Return None for a good signature, else the facilitator's reason. Raises NoAnswer."""
    told = _decoded(body, _Verified)
    if not told.is_valid:
        return told.invalid_reason or ""
    if status != 200:
        raise NoAnswer(f"status_{status}")
    if told.payer is not None and not same(told.payer, claim.payer):
        raise NoAnswer("other_payer")
    return None


def read_settled(status: int, body: bytes, claim: PaymentClaim, amount: int) -> Outcome:
    """Return what became of a settlement. Raises NoAnswer.

    A success must be about this payment: its network, its payer and amount where they are told (x402 leaves
    both optional), and a transaction.
    """
    told = _decoded(body, _Settled)
    if not told.success:
        return Outcome(told.transaction or "", told.error_reason or "")
    if status != 200:
        raise NoAnswer(f"status_{status}")
    if told.network != claim.network:
        raise NoAnswer("other_network")
    if told.payer is not None and not same(told.payer, claim.payer):
        raise NoAnswer("other_payer")
    if told.amount is not None and told.amount != str(amount):
        raise NoAnswer("other_amount")
    if told.transaction is None or TRANSACTION.fullmatch(told.transaction) is None:
        raise NoAnswer("no_transaction")
    return Outcome(told.transaction.lower(), None)


def _decoded(body: bytes, form: type[_Form]) -> _Form:
    try:
        return msgspec.json.decode(body, type=form)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise NoAnswer("not_json") from None


def _is_address(value: Any) -> TypeGuard[str]:
    return isinstance(value, str) and ADDRESS.fullmatch(value) is not None


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
