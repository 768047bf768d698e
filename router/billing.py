"""Hold the worst case before an upstream is called, and end the hold exactly once, whatever happened."""

from __future__ import annotations

from router.ledger.ledger import Ledger
from router.ledger.rows import HoldRequest, Release, Settlement
from router.routing.decide import Candidate
from router.walk import Walk


async def hold(ledger: Ledger, walk: Walk, candidate: Candidate) -> None:
    """Hold a candidate's worst case; a hold that is too small for it is given back first.

    Each new hold of a request has an id of its own, since every hold has one settle or one release.
    Raises `OutOfCredit` and `Unavailable`.
    """
    if walk.hold_id is not None:
        if candidate.max_nusd <= walk.held_nusd:
            return
        hold_id, walk.hold_id = walk.hold_id, None
        ledger.end(Release(hold_id))
    if walk.caller is None or walk.decision is None:
        raise ValueError("a hold needs a caller and a decision")
    hold_id = walk.request_id if walk.holds == 0 else f"{walk.request_id}.{walk.holds + 1}"
    await ledger.hold(
        HoldRequest(
            request_id=hold_id,
            client_request_id=walk.client_request_id,
            account=walk.caller.account,
            amount_nusd=candidate.max_nusd,
            model=candidate.model.id,
            provider=candidate.offer.provider,
            catalog=walk.decision.catalog,
            idempotency_key=None,
            require_credit=walk.caller.require_credit,
        )
    )
    walk.holds += 1  # one that was refused was not written, and leaves its id to the next
    walk.hold_id, walk.held_nusd = hold_id, candidate.max_nusd


def settle(ledger: Ledger, walk: Walk) -> None:
    """End the hold: charge what was delivered, give everything back where nothing was.

    The ledger writes the end within milliseconds, and keeps one that storage refuses until it is written.
    """
    if walk.hold_id is None:
        return
    hold_id, walk.hold_id = walk.hold_id, None
    bill, candidate = walk.bill, walk.candidate
    if bill is None or candidate is None or (bill.tokens.completion == 0 and bill.estimated):
        ledger.end(Release(hold_id))
        return
    walk.charged_nusd = ledger.end(
        Settlement(
            request_id=hold_id,
            prompt_tokens=bill.tokens.prompt,
            completion_tokens=bill.tokens.completion,
            charge_nusd=bill.charge_nusd,
            upstream_cost_nusd=bill.upstream_nusd,
            model=walk.answered_model or candidate.model.id,
            provider=candidate.offer.provider,
            estimated=bill.estimated,
        )
    )
