"""What the paying wallet has signed, one row a signature, and the caps that no signature gets past.

    reserved    written before anything is signed, in the transaction that compares the caps
    spent       the upstream served it and told the transaction, or the chain says that it was used
    unknown     it was sent, and nobody can say what became of it
    freed       it never left, or its time is over and the chain says that it was not used

All but `freed` count against the caps of the day on which they were made: a signature that is out there can
be cashed until it is void, whatever its receiver says. Without a chain to ask, `unknown` counts for good.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from msgspec import Struct

SpendState = Literal["reserved", "spent", "freed", "unknown"]
Refusal = Literal["request_cap", "day_cap", "payee", "nonce"]
RECENT = 20


class Spend(Struct, frozen=True, gc=False):
    """One signature: who gets how much of what from whom, until when.

    Addresses and the nonce are lower-case hex; `origin` is scheme, host and port of the provider; `amount`
    counts atomic units, `nusd` nano-USD; after `valid_before` (seconds since 1970) it is void.
    """

    nonce: str
    payer: str
    provider: str
    origin: str
    network: str
    asset: str
    pay_to: str
    amount: int
    nusd: int
    valid_before: int
    request_id: str


class Caps(Struct, frozen=True, gc=False):
    """The most that may be paid for one request and in one UTC day, in nano-USD."""

    request_nusd: int
    day_nusd: int

    @property
    def allow_any(self) -> bool:
        """Tell whether anything may be paid at all."""
        return self.request_nusd > 0 and self.day_nusd > 0


@dataclass(frozen=True, slots=True)
class Spent:
    """One signature as it stands; `transaction` is known where its receiver told it."""

    spend: Spend
    state: SpendState
    transaction: str | None
    created_at: str
    updated_at: str


class DaySums(Struct, frozen=True, gc=False):
    """What a day's signatures come to, in nano-USD; `open_nusd` is what is reserved or unknown."""

    spent_nusd: int = 0
    open_nusd: int = 0


class Spending(Protocol):
    """The signatures of one database. Each method raises Unavailable; each change is on the disk."""

    async def reserve(self, spend: Spend, caps: Caps, *, pinned: bool, now: str) -> Refusal | None:
        """Write a row as `reserved`, or say what stands in the way; exact over all processes.

        Unless the operator has `pinned` the payee, the first one that a provider's origin names is kept with
        its network, and another one is refused from then on.
        """
        ...

    async def end(self, nonce: str, state: SpendState, transaction: str | None, *, now: str) -> bool:
        """Say what became of a signature; False when that was known already: spent and freed are final."""
        ...

    async def day(self, day: str) -> DaySums:
        """Return the sums of a UTC day, such as `2026-11-22`."""
        ...

    async def recent(self, most: int = RECENT) -> Sequence[Spent]:
        """Return the newest signatures, newest first."""
        ...

    async def overdue(self, network: str, before: int) -> Sequence[Spent]:
        """Return what is reserved or unknown on a network and void since before then (in Unix seconds)."""
        ...


COLUMNS = (
    "nonce, payer, provider, origin, network, asset, pay_to, amount, nusd, valid_before, request_id,"
    " state, tx, created_at, updated_at"
)


def values_of(spend: Spend) -> tuple[str | int, ...]:
    """Return the first of `COLUMNS`, as both engines take them."""
    return (
        spend.nonce,
        spend.payer,
        spend.provider,
        spend.origin,
        spend.network,
        spend.asset,
        spend.pay_to,
        str(spend.amount),
        spend.nusd,
        spend.valid_before,
        spend.request_id,
    )


def spent_of(row: Sequence[str | int | None]) -> Spent:
    """Return a row of either engine, in the order of `COLUMNS`."""
    nonce, payer, provider, origin, network, asset, pay_to, amount, nusd, valid_before, request_id, *rest = (
        row
    )
    spend = Spend(
        nonce=str(nonce),
        payer=str(payer),
        provider=str(provider),
        origin=str(origin),
        network=str(network),
        asset=str(asset),
        pay_to=str(pay_to),
        amount=int(amount or 0),
        nusd=int(nusd or 0),
        valid_before=int(valid_before or 0),
        request_id=str(request_id),
    )
    return Spent(spend, *rest)  # type: ignore[arg-type] # state, transaction and times, as the schema has them


class NoSpending:
    """The `Spending` of a database that has not been made yet: nothing was signed, and nothing can be."""

    async def reserve(self, spend: Spend, caps: Caps, *, pinned: bool, now: str) -> Refusal | None:
        """Refuse."""
        return "day_cap"

    async def end(self, nonce: str, state: SpendState, transaction: str | None, *, now: str) -> bool:
        """Know nothing of it."""
        return False

    async def day(self, day: str) -> DaySums:
        """Return nothing."""
        return DaySums()

    async def recent(self, most: int = RECENT) -> Sequence[Spent]:
        """Return nothing."""
        return ()

    async def overdue(self, network: str, before: int) -> Sequence[Spent]:
        """Return nothing."""
        return ()
