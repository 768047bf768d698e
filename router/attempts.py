"""Try the ranked offers in turn until one begins to answer; of a failed attempt the client sees nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from urllib.parse import urlsplit

from router.billing import hold
from router.catalog.price import Tokens, worst_cost_nusd
from router.catalog.snapshot import Offer, Provider, Snapshot
from router.deadline import Deadline
from router.errors import LimitReached, OutOfCredit, RouterError, Unavailable
from router.gate import Place
from router.history.record import Attempt
from router.ledger.ledger import Ledger
from router.limits import Full
from router.places import Places
from router.routing.decide import Candidate
from router.routing.live import LiveTable
from router.routing.need import Need
from router.settings import Settings
from router.telemetry import conventions as named
from router.telemetry.metrics import Metrics
from router.telemetry.traces import Trace
from router.till import Till
from router.upstream.answer import Answer
from router.upstream.faults import AttemptFault, as_error
from router.upstream.paying import Purse
from router.upstream.send import Ask, Sender
from router.upstream.stream import StreamRelay, usage_wish
from router.upstream.usage import Meter
from router.walk import Walk
from router.wire import RequestBody

_log = logging.getLogger("router.attempts")


class Attempts:
    """Stops 7 and 8 of the walk."""

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        places: Places,
        sender: Sender,
        live: LiveTable,
        metrics: Metrics,
        till: Till | None,
        monotonic: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._places = places
        self._sender = sender
        self._live = live
        self._metrics = metrics
        self._till = till
        self._monotonic = monotonic

    async def first_answer(
        self,
        walk: Walk,
        body: RequestBody,
        catalog: Snapshot,
        trace: Mapping[str, str],
        patience: Deadline,
    ) -> Answer | StreamRelay:
        """Return the first answer; `walk.place` is then taken at the offer that gives it.

        `patience` is how long the upstreams have; the settlement of who pays first has a time of its own.
        Raises `RouterError` that says what stood in the way when no offer answered.
        """
        faults: list[AttemptFault] = []
        refusal: RouterError | None = None
        alone = len(walk.candidates) == 1
        for candidate in self._worth_trying(walk, faults):
            key = candidate.offer.key
            entry = self._live.enter(key, alone)
            if entry is None:  # it began to rest since the decision, or another request is its trial
                refusal = Unavailable(f"{candidate.model.id} is resting; try again.", retry_after_s=1)
                continue
            try:
                await self._enter(walk, candidate, catalog, patience)
                answer = await self._attempt(walk, candidate, body, catalog, trace)
            except (OutOfCredit, LimitReached) as error:  # a cheaper or an emptier offer may still serve
                refusal = _sooner(refusal, error)
            except AttemptFault as fault:
                if walk.place is not None:
                    walk.place.leave(0)
                self._note(walk, candidate, fault)
                self._live.note_failure(key, fault.kind, fault.retry_after_s, alone, fault.status)
                faults.append(fault)
                if fault.final:
                    break
            else:
                self._live.note_success(key)
                self._metrics.attempts[candidate.offer.provider, "ok"] += 1
                walk.calls.append(_ended(walk, candidate, "ok", 200))
                return answer
            finally:
                self._live.release(entry)
        if faults:
            raise self._with_wait(as_error(faults), walk, alone)
        raise _soonest(refusal, walk)

    def _with_wait(self, error: RouterError, walk: Walk, alone: bool) -> RouterError:
        """Let an error that says when to return name no moment at which all of its offers still rest."""
        resting = self._live.blocked(alone)
        waits_s = [resting[c.offer.key].retry_after_s for c in walk.candidates if c.offer.key in resting]
        if error.retry_after_s is not None and len(waits_s) == len(walk.candidates):
            error.retry_after_s = max(error.retry_after_s, min(waits_s))
        return error

    async def _enter(self, walk: Walk, candidate: Candidate, catalog: Snapshot, patience: Deadline) -> None:
        """Hold, take a place and have paid who pays first; raises the `RouterError` that stood in the way."""
        await hold(self._ledger, walk, candidate)
        place = await self._places.at_offer(catalog, candidate.offer, walk.need)
        if isinstance(place, Full):
            raise LimitReached(
                f"{candidate.model.id} is at its {place.word} limit; try again in {place.wait_s} s.",
                retry_after_s=place.wait_s,
            )
        walk.place = place
        if self._till is not None and walk.pays_first and not walk.taken:
            await self._settle_first(self._till, walk, place, patience)
        walk.candidate = candidate
        walk.attempts += 1

    async def _settle_first(self, till: Till, walk: Walk, place: Place, patience: Deadline) -> None:
        """Have the quote moved now that nothing but the upstream can fail; else the place was never taken.

        A deadline that cut it short would tell a client to try again, and so to pay again.
        """
        patience.stop()
        try:
            await till.take_first(walk)
        except (RouterError, asyncio.CancelledError):
            place.withdraw()
            walk.place = None
            raise
        patience.restart()

    def _worth_trying(self, walk: Walk, faults: list[AttemptFault]) -> Iterator[Candidate]:
        """Yield candidates while attempts are left; after "too long", only those with a larger window."""
        too_small = 0
        last: Candidate | None = None
        for candidate in walk.candidates:
            if walk.attempts >= self._settings.attempts:
                return
            if last is not None and faults and faults[-1].kind == "too_long":
                too_small = max(too_small, last.offer.context)
            if candidate.offer.context > too_small:
                last = candidate
                yield candidate

    async def _attempt(
        self, walk: Walk, candidate: Candidate, body: RequestBody, catalog: Snapshot, trace: Mapping[str, str]
    ) -> Answer | StreamRelay:
        offer, need = candidate.offer, walk.need
        paid_nusd = walk.cover_nusd
        most_nusd = walk.held_nusd + paid_nusd
        provider = catalog.providers[offer.provider]
        lost_nusd = 0 if walk.purse is None else walk.purse.nusd
        meter = Meter(
            offer,
            catalog.policy,
            need.at,
            need.prompt_tokens,
            need.choices,
            most_nusd,
            paid_nusd,
            walk.fixed_nusd,
            walk.unit_nusd,
            lost_nusd=lost_nusd,
        )
        walk.attempt_s = sent_s = self._monotonic()
        walk.sent_s = walk.sent_s or sent_s
        if self._settings.otlp_endpoint is not None:
            trace = self._traced(walk, provider, offer, trace)
        try:
            asked = Ask(provider, offer, body, candidate.output_tokens)
            if provider.pays in ("x402", "mpp"):
                walk.purse = walk.purse or Purse(walk.request_id)
                asked = replace(asked, purse=walk.purse, worst_nusd=_worst_cost_nusd(candidate, need))
            if not body.stream:
                return await self._sender.answer(asked, trace, meter)
            wish = usage_wish(body.include_usage)
            return await self._sender.stream(asked, trace, meter, wish, self._settings.error_code)
        finally:
            walk.timings_ms["upstream"] = (self._monotonic() - sent_s) * 1e3

    def _traced(
        self, walk: Walk, provider: Provider, offer: Offer, headers: Mapping[str, str]
    ) -> Mapping[str, str]:
        """Begin the span of a call, and return the headers that make the upstream's its child."""
        if walk.trace is None:
            walk.trace = Trace.begin(walk.traceparent, self._settings.otlp_sample)
        parts = urlsplit(provider.base_url)
        call = walk.trace.call(
            walk.attempt_s,
            {
                named.OPERATION: named.CHAT,
                named.PROVIDER: provider.name,
                named.REQUEST_MODEL: offer.upstream_model,
                named.SERVER_ADDRESS: parts.hostname or "",
                named.SERVER_PORT: parts.port or (80 if parts.scheme == "http" else 443),
            },
        )
        return walk.trace.headers(call, headers)

    def _note(self, walk: Walk, candidate: Candidate, fault: AttemptFault) -> None:
        """Log a failed attempt; what only the operator can mend is an alert of the live table."""
        if walk.trace is not None and walk.trace.calls:
            call = walk.trace.calls[-1]
            call.ended_s, call.fault, call.status = self._monotonic(), fault.kind, fault.status
        provider = candidate.offer.provider
        self._metrics.attempts[provider, fault.kind] += 1
        walk.calls.append(_ended(walk, candidate, fault.kind, fault.status))
        _log.warning(
            "attempt at %s by %s failed: %s (%s)",
            candidate.model.id,
            provider,
            fault.kind,
            fault.status,
        )


def _worst_cost_nusd(candidate: Candidate, need: Need) -> int:
    """Return the most that an upstream can ask for by its list price: what its 402 is compared with."""
    offer = candidate.offer
    output = (candidate.output_tokens or offer.max_output) * need.choices
    prompt = min(need.prompt_tokens_bound, offer.context)
    return worst_cost_nusd(offer, need.at, Tokens(prompt, output))


def _ended(walk: Walk, candidate: Candidate, outcome: str, status: int | None) -> Attempt:
    """Say what came of the attempt that the walk has just made."""
    ms = round(walk.timings_ms.get("upstream", 0.0))
    return Attempt(candidate.offer.provider, candidate.model.id, outcome, status, ms)


def _sooner(before: RouterError | None, now: RouterError) -> RouterError:
    """Return the refusal to tell: of two limits the one that opens first."""
    if isinstance(before, LimitReached) and isinstance(now, LimitReached):
        return min(before, now, key=_wait_s)
    return now


def _soonest(refusal: RouterError | None, walk: Walk) -> RouterError:
    """Let a limit that was met name the soonest opening of all that the request could use."""
    if refusal is None:
        return LimitReached("Every fitting model is at its limit; try again.", retry_after_s=1)
    if isinstance(refusal, LimitReached) and walk.decision is not None:
        waits_s = [blocked.retry_after_s for blocked in walk.decision.blocked]
        refusal.retry_after_s = min([_wait_s(refusal), *waits_s])
    return refusal


def _wait_s(refusal: RouterError) -> int:
    return refusal.retry_after_s or 1
