"""What became of one request's money: its rows, of however many holds, folded into one receipt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from router.ledger.rows import Row

Status = Literal["held", "settled", "released"]


@dataclass(frozen=True, slots=True)
class Receipt:
    """The final cost of a request; `held` while it runs, `released` when it cost nothing.

    `held_nusd` is the last of its holds, which are more than one where a dearer offer took over.
    """

    request_id: str
    client_request_id: str | None
    account: str
    status: Status
    model: str | None
    provider: str | None
    catalog: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    estimated: bool
    holds: int
    held_nusd: int
    charge_nusd: int
    idempotency_key: str | None
    created_at: str
    ended_at: str | None


def receipt(rows: Sequence[Row]) -> Receipt | None:
    """Fold the rows of one request, oldest first; None when there are none."""
    holds = [row for row in rows if row.kind == "hold"]
    ends = [row for row in rows if row.kind in ("settle", "release")]
    if not holds:
        return None
    settle = next((row for row in ends if row.kind == "settle"), None)
    told = settle or next((row for row in ends if row.completion_tokens is not None), None)
    first, last = holds[0], told or holds[-1]
    status: Status = "settled" if settle else "held" if len(ends) < len(holds) else "released"
    return Receipt(
        request_id=first.request_id,
        client_request_id=first.client_request_id,
        account=first.account,
        status=status,
        model=last.model,
        provider=last.provider,
        catalog=last.catalog,
        prompt_tokens=last.prompt_tokens,
        completion_tokens=last.completion_tokens,
        estimated=last.estimated,
        holds=len(holds),
        held_nusd=holds[-1].amount_nusd,
        charge_nusd=settle.amount_nusd if settle else 0,
        idempotency_key=first.idempotency_key,
        created_at=first.created_at,
        ended_at=None if status == "held" else ends[-1].created_at,
    )
