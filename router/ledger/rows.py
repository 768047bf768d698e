"""What the ledger is asked to write and what it gives back: frozen rows, in nano-USD and tokens."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import UTC, datetime
from functools import lru_cache
from typing import Literal

from msgspec import Struct

from router.ledger.answers import Claim, StoredAnswer
from router.ledger.payments import PaymentClaim

Kind = Literal["hold", "settle", "release", "topup", "refund", "adjust"]


def utc_text(unix_s: float) -> str:
    """Return a moment as rows carry it: UTC, ISO 8601, milliseconds, Z."""
    second, us = divmod(round(unix_s * 1_000_000), 1_000_000)
    return f"{_second_text(second)}.{us // 1_000:03d}Z"


@lru_cache(maxsize=4)  # many rows a second ask for the same one
def _second_text(unix_s: int) -> str:
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="seconds").removesuffix("+00:00")


class HoldRequest(Struct, frozen=True, gc=False):
    """Ask to set money aside before an upstream is called.

    `amount_nusd` is the worst case of the chosen offer, less what `claim` covers; a settle never exceeds it.
    `require_credit` refuses the hold when the account's free credit is smaller. `claim` reserves
    `idempotency_key` for it, `payment` a wallet's signature.
    """

    request_id: str
    client_request_id: str | None
    account: str
    amount_nusd: int
    model: str
    provider: str
    catalog: str
    idempotency_key: str | None
    require_credit: bool
    claim: Claim | None = None
    payment: PaymentClaim | None = None


class Settlement(Struct, frozen=True, gc=False):
    """End a hold with a charge: real usage, and the model and provider that answered.

    Where the hold has an idempotency key: `answer` is kept for a retry; without one a retry need not pay
    `cover_nusd` again, None for what is charged here. Where it has a payment, `metered_nusd` is what the
    usage comes to; `charge_nusd` is more where the payer had to pay the quoted bound.
    """

    request_id: str
    prompt_tokens: int
    completion_tokens: int
    charge_nusd: int
    upstream_cost_nusd: int
    model: str
    provider: str
    estimated: bool = False
    answer: StoredAnswer | None = None
    cover_nusd: int | None = None
    metered_nusd: int | None = None


class Release(Struct, frozen=True, gc=False):
    """End a hold without a charge.

    Where the hold has an idempotency key: `answer` is kept for a retry; `delivered` is what an earlier charge
    of the key has paid for, written with the release so that a key has one settle and no cost is lost;
    `covered` says that this has used that charge up.
    """

    request_id: str
    answer: StoredAnswer | None = None
    covered: bool = False
    delivered: Settlement | None = None


End = Settlement | Release


class Progress(Struct, frozen=True, gc=False):
    """How much of an answer had been delivered when its process died, and what it is worth by then."""

    request_id: str
    prompt_tokens: int
    completion_tokens: int
    charge_nusd: int
    upstream_cost_nusd: int
    model: str
    provider: str


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the ledger as CONTRACT section 7 shows it."""

    request_id: str
    client_request_id: str | None
    account: str
    kind: Kind
    amount_nusd: int
    upstream_cost_nusd: int | None
    balance_after_nusd: int
    prompt_tokens: int | None
    completion_tokens: int | None
    model: str | None
    provider: str | None
    catalog: str | None
    estimated: bool
    idempotency_key: str | None
    created_at: str


ROW = ", ".join(each.name for each in fields(Row))
"""The columns of the table `ledger` that make a Row, in its order."""


@dataclass(frozen=True, slots=True)
class Topup:
    """Credit that was added: `source` says who knows of the payment, `external_id` is its id there."""

    created_at: str
    amount_nusd: int
    source: str
    external_id: str


ROLL_UP_ROWS = 50_000


@dataclass(frozen=True, slots=True)
class Rolled:
    """How many rows of the ledger were folded, into how many."""

    folded: int
    made: int


@dataclass(frozen=True, slots=True)
class Difference:
    """One sum that the rows do not add up to."""

    account: str
    column: str
    stored_nusd: int
    recomputed_nusd: int
