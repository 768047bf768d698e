"""Hold the worst case before an upstream is called, and end the hold exactly once, whatever happened."""

from __future__ import annotations

import contextlib

from router.access.keys import Caller
from router.errors import RouterError
from router.ledger.accounts import Account
from router.ledger.answers import StoredAnswer
from router.ledger.journal import Flight, Tariff
from router.ledger.ledger import Ledger
from router.ledger.money import MAX_NUSD
from router.ledger.rows import End, HoldRequest, Release, Settlement
from router.routing.decide import Candidate
from router.upstream.usage import Bill
from router.walk import Walk, charge_nusd


def spendable_nusd(account: Account, caller: Caller, cover_nusd: int) -> int | None:
    """Return the largest worst case that `hold` would get past credit and budgets; None: no bound."""
    spendable = account.spendable_nusd(require_credit=caller.require_credit)
    if spendable is None or not cover_nusd:
        return spendable
    return min(MAX_NUSD, max(0, spendable) + cover_nusd)


async def hold(ledger: Ledger, walk: Walk, candidate: Candidate) -> None:
    """Hold a candidate's worst case, less what the idempotency key has paid before, or a wallet's payment.

    A hold that is too small for it is given back first.

    Each new hold of a request has an id of its own, since every hold has one settle or one release.
    Raises `OutOfCredit` and `Unavailable`.
    """
    paid = walk.credential
    amount_nusd = max(0, candidate.max_nusd - walk.cover_nusd) if paid is None else paid.quote.nusd
    if walk.hold_id is not None:
        if amount_nusd <= walk.held_nusd:
            return
        hold_id, walk.hold_id = walk.hold_id, None
        ledger.end(Release(hold_id))
        if walk.once is not None:
            walk.once.released(hold_id)
    if walk.caller is None or walk.decision is None:
        raise ValueError("a hold needs a caller and a decision")
    once = walk.once
    hold_id = walk.request_id if walk.holds == 0 else f"{walk.request_id}.{walk.holds + 1}"
    await ledger.hold(
        HoldRequest(
            request_id=hold_id,
            client_request_id=walk.client_request_id,
            account=walk.caller.account,
            amount_nusd=amount_nusd,
            model=candidate.model.id,
            provider=candidate.offer.provider,
            catalog=walk.decision.catalog,
            idempotency_key=once.key if once is not None else None,
            require_credit=walk.caller.require_credit,
            claim=once.claim if once is not None else None,
            payment=None if paid is None else paid.claim,
        )
    )
    walk.holds += 1  # one that was refused was not written, and leaves its id to the next
    walk.hold_id, walk.held_nusd = hold_id, amount_nusd


def note(ledger: Ledger, walk: Walk, tariff: Tariff, tokens: int) -> Flight:
    """Note that an answer delivers so many tokens, before their bytes go out: a crash makes none free."""
    if walk.hold_id is None or walk.candidate is None:
        raise ValueError("an answer needs a hold and an offer")
    model, provider = walk.answered_model or walk.candidate.model.id, walk.candidate.offer.provider
    return ledger.journal.begin(walk.hold_id, model, provider, tariff, tokens)


def note_bill(ledger: Ledger, walk: Walk, bill: Bill) -> None:
    """Note that an answer whose bill is known now goes out to its end."""
    tokens = bill.tokens
    tariff = Tariff.of_bill(tokens.prompt, bill.charge_nusd, bill.upstream_nusd)
    note(ledger, walk, tariff, tokens.completion)


def settle(ledger: Ledger, walk: Walk) -> None:
    """End the hold: charge what was delivered, give everything back where nothing was.

    The ledger writes the end within milliseconds, and keeps one that storage refuses until it is written.
    """
    if walk.hold_id is None:
        return
    end, walk.hold_id = _end(walk, walk.hold_id, None), None
    charged = ledger.end(end)
    if isinstance(end, Settlement):
        walk.charged_nusd = charged


async def store(ledger: Ledger, walk: Walk, answer: StoredAnswer | None) -> None:
    """End the hold and keep the answer for a retry, before the last of it is handed out.

    When storage fails the answer is handed out all the same: the ledger writes both as soon as it can.
    """
    if walk.hold_id is None:
        return
    end, walk.hold_id = _end(walk, walk.hold_id, answer), None
    if isinstance(end, Settlement):
        walk.charged_nusd = end.charge_nusd  # also when the client leaves while it is written
    with contextlib.suppress(RouterError):
        charged = await ledger.settle(end)
        if isinstance(end, Settlement):
            walk.charged_nusd = charged


def _loss(walk: Walk, hold_id: str) -> Settlement | None:
    """Return what our wallet has paid for nothing, which the customer is not charged for."""
    if walk.purse is None or not walk.purse.nusd or walk.candidate is None:
        return None
    model, provider = walk.candidate.model.id, walk.candidate.offer.provider
    return Settlement(hold_id, 0, 0, 0, walk.purse.nusd, model, provider)


def _end(walk: Walk, hold_id: str, answer: StoredAnswer | None) -> End:
    bill, candidate = walk.bill, walk.candidate
    if bill is None or candidate is None or bill.tokens.completion == 0:
        return Release(hold_id, answer, delivered=_loss(walk, hold_id))
    settlement = Settlement(
        request_id=hold_id,
        prompt_tokens=bill.tokens.prompt,
        completion_tokens=bill.tokens.completion,
        charge_nusd=0 if walk.withheld else charge_nusd(walk),
        upstream_cost_nusd=bill.upstream_nusd,
        model=walk.answered_model or candidate.model.id,
        provider=candidate.offer.provider,
        estimated=bill.estimated,
        answer=answer,
        metered_nusd=bill.metered_nusd if walk.credential is not None else None,
    )
    if walk.withheld:
        return Release(hold_id, delivered=settlement)
    if settlement.charge_nusd == 0 and walk.cover_nusd:
        return Release(hold_id, answer, covered=True, delivered=settlement)
    return settlement
