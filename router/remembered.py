"""Turn a request that has ended into what the history keeps of it."""

from __future__ import annotations

from itertools import islice

from msgspec.structs import replace

from router.catalog.snapshot import Offer
from router.history.record import ABANDONED, BROKE, INTERRUPTED, Attempt, Choice, Lost, Record, Why
from router.ledger.posting import charge_of
from router.ledger.rows import End, HoldRequest, Release
from router.routing.decide import Decision
from router.walk import Walk

FULL_A_SECOND = 20
CHOICES = 5
LOSERS = 12
_WHOLE = frozenset(("ok", "replayed", "client_gone"))


class Remembering:
    """Make the records of one process.

    To rank what came behind the winner takes longer than to decide, so at most FULL_A_SECOND records have
    their choices and losers; `router explain` recomputes those of the others.
    """

    def __init__(self) -> None:
        self._second = -1
        self._full = 0

    def record(self, walk: Walk, now_s: float, baseline_nusd: int | None) -> Record:
        """Return the record of a request that ended at `now_s` of the monotonic clock.

        `baseline_nusd` is what its tokens cost at the baseline of its catalog.
        """
        decision, bill, offer = walk.decision, walk.bill, walk.candidate.offer if walk.candidate else None
        tokens = bill.tokens if bill is not None else None
        ended_s = walk.at.timestamp() + now_s - walk.began_s
        compared = walk.catalog if baseline_nusd is not None else None
        return Record(
            request_id=walk.request_id,
            client_request_id=walk.client_request_id,
            ended_ms=round(ended_s * 1e3),
            account=walk.caller.account if walk.caller is not None else None,
            outcome=walk.outcome,
            asked=decision.need.asked.name if decision is not None else None,
            category=decision.categorised.category if decision is not None else None,
            model=offer.model if offer is not None else None,
            provider=offer.provider if offer is not None else None,
            stream=walk.stream,
            ms=round((now_s - walk.began_s) * 1e3),
            first_ms=None if walk.first_piece_s is None else round((walk.first_piece_s - walk.began_s) * 1e3),
            prompt_tokens=tokens.prompt if tokens is not None else 0,
            completion_tokens=tokens.completion if tokens is not None else 0,
            estimated=bill.estimated if bill is not None else False,
            charged_nusd=walk.charged_nusd or 0,
            upstream_nusd=bill.upstream_nusd if bill is not None else 0,
            baseline=None if compared is None else compared.policy.baseline,
            baseline_nusd=baseline_nusd,
            attempts=_attempts(walk, now_s),
            why=None if decision is None else self._why(walk, decision, int(ended_s)),
            # Who has named no account could fill the disk, and pays for nothing.
            words=walk.talk.words()
            if walk.talk is not None and walk.caller and walk.caller.account
            else None,
        )

    def _why(self, walk: Walk, decision: Decision, second: int) -> Why:
        if second != self._second:
            self._second, self._full = second, 0
        self._full += 1
        full = self._full <= FULL_A_SECOND
        chosen, need, categorised = decision.chosen, decision.need, decision.categorised
        first = list(decision.candidates[:CHOICES]) if full else []
        return Why(
            reason=decision.reason,
            mode=need.mode,
            catalog=decision.catalog,
            confidence=categorised.confidence,
            probabilities=categorised.probabilities,
            max_nusd=chosen.max_nusd if chosen is not None else 0,
            stripped=walk.stripped,
            images=need.images,
            media=need.media,
            tools=need.tools,
            choices=tuple([_choice(c.offer, c.expected_nusd, c.seconds, c.quality) for c in first]),
            choices_total=len(decision.candidates),
            losers=_losers(decision) if full else (),
            losers_total=decision.losers_total,
            answered_model=walk.answered_model,
        )


def interrupted(hold: HoldRequest, end: End, now_s: float) -> Record:
    """Return the record of a request whose process died: what the ledger knows, as it ended the hold.

    `now_s` counts from 1970. How long it had run is not known.
    """
    settled = None if isinstance(end, Release) else end
    return Record(
        request_id=hold.request_id.partition(".")[0],
        client_request_id=hold.client_request_id,
        ended_ms=round(now_s * 1e3),
        account=hold.account,
        outcome=INTERRUPTED,
        asked=None,
        category=None,
        model=hold.model,
        provider=hold.provider,
        stream=False,
        ms=0,
        first_ms=None,
        prompt_tokens=settled.prompt_tokens if settled is not None else 0,
        completion_tokens=settled.completion_tokens if settled is not None else 0,
        estimated=settled is not None,
        charged_nusd=charge_of(hold, end),
        upstream_nusd=settled.upstream_cost_nusd if settled is not None else 0,
        baseline=None,
        baseline_nusd=None,
    )


def _attempts(walk: Walk, now_s: float) -> tuple[Attempt, ...]:
    """Return what came of each attempt, the one that ended with the request too."""
    calls, candidate = walk.calls, walk.candidate
    if candidate is None:
        return tuple(calls)
    if walk.attempts > len(calls):  # the client left before it began to answer, or the time was up
        ms = round((now_s - walk.attempt_s) * 1e3)
        return (*calls, Attempt(candidate.offer.provider, candidate.model.id, ABANDONED, None, ms))
    if calls and calls[-1].outcome == "ok" and walk.outcome not in _WHOLE:
        return (*calls[:-1], replace(calls[-1], outcome=BROKE))
    return tuple(calls)


def _choice(offer: Offer, expected_nusd: int, seconds: float, quality: float | None) -> Choice:
    return Choice(offer.model, offer.provider, expected_nusd, seconds, quality)


def _losers(decision: Decision) -> tuple[Lost, ...]:
    first = islice(decision.each_loser(), LOSERS)
    return tuple([Lost(x.model, x.provider, x.reason, x.detail) for x in first])
