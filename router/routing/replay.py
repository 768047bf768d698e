"""Decide logged requests again: bit for bit on their own catalog, or against an edited one.

Pure: entries of the log and a catalog in, figures out. Each request is decided as it stood: the offer of its
conversation, the measured speeds and the offers that were full are those of its moment, whatever an edit
would have done to the requests before it.
"""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass, field, replace

from msgspec import Struct, structs

from router.catalog.local import local_program
from router.catalog.price import cost_nusd, price_at
from router.catalog.snapshot import Mode, Model, Offer, Snapshot
from router.routing.decide import Candidate, Decision, decide
from router.routing.explain import refusal
from router.routing.need import Need
from router.routing.recorded import (
    DecisionLine,
    Entry,
    OffersLine,
    Ranked,
    usd,
)
from router.routing.recorder import baseline_nusd, baseline_offers, ranked_of

MOVES_SHOWN = 10
EXAMPLES_SHOWN = 20
SAVINGS_FORMULA = (
    "the same tokens at the baseline's cheapest offer, (prompt - cached - written) x input"
    " + cached x cache_read + written x cache_write + completion x output, less what the upstreams ask"
)
_Key = tuple[str, str, str]


class Move(Struct, frozen=True, gc=False):
    """A request that another offer would serve; `to_offer` and `from_offer` read "model at provider"."""

    request_id: str
    category: str
    from_offer: str
    to_offer: str
    cost_before_nusd: int
    cost_after_nusd: int
    seconds_before: float
    seconds_after: float


class Unroutable(Struct, frozen=True, gc=False):
    """A request that was served and that nobody would serve, with the message that it would get."""

    request_id: str
    category: str
    from_offer: str
    reason: str


class Difference(Struct, frozen=True, gc=False):
    """A decision that its own catalog does not reproduce."""

    request_id: str
    what: str


@dataclass(slots=True)
class Tally:
    """Sums over requests; costs and seconds over those that were and would be served (`compared`).

    Costs are what upstreams ask for the tokens that were really used; seconds are the expected ones.
    """

    requests: int = 0
    moved: int = 0
    unroutable: int = 0
    compared: int = 0
    cost_before_nusd: int = 0
    cost_after_nusd: int = 0
    seconds_before: float = 0.0
    seconds_after: float = 0.0


@dataclass(slots=True)
class Savings:
    """What the compared requests that used tokens would have cost at the baseline, and what they cost."""

    baseline: str | None = None
    requests: int = 0
    baseline_before_nusd: int = 0
    baseline_after_nusd: int = 0
    cost_before_nusd: int = 0
    cost_after_nusd: int = 0


@dataclass(slots=True)
class Report:
    """What a replay found; lists hold the first or largest, the counts are whole."""

    same: int = 0
    reproduced: int = 0
    differences: list[Difference] = field(default_factory=list)
    revisions: Counter[str] = field(default_factory=Counter)
    total: Tally = field(default_factory=Tally)
    categories: dict[str, Tally] = field(default_factory=dict)
    savings: Savings = field(default_factory=Savings)
    moves: list[Move] = field(default_factory=list)
    unroutable: list[Unroutable] = field(default_factory=list)
    newly_routable: int = 0
    incomplete: int = 0


class Replay:
    """Decide entry after entry on one catalog and sum up; `mode` decides all of them in that mode.

    `catalog` is loaded as if every key were set, so that an offer that is off is off by its file; which
    others could be used is taken from the log (see `as_recorded`).
    """

    def __init__(self, catalog: Snapshot, mode: Mode | None = None) -> None:
        self._catalog = catalog
        self._mode = mode
        self._recorded: dict[str, _Recorded] = {}
        self._moves: list[tuple[int, float, int, Move]] = []
        self._report = Report()

    def add(self, entry: Entry) -> None:
        """Decide one logged request again."""
        line, report = entry.line, self._report
        if entry.live is None or entry.offers is None:
            report.incomplete += 1
            return
        recorded = self._recorded.get(line.offers)
        if recorded is None:
            recorded = self._recorded[line.offers] = _Recorded(as_recorded(self._catalog, entry.offers))
        snapshot = recorded.snapshot
        report.revisions[line.catalog] += 1
        decision: Decision | None = None
        need = adapted(line.need, entry.offers, snapshot, self._mode)
        if need is not None:
            decision = decide(need, line.categorised, snapshot, entry.live, snapshot.policy)
        if self._mode is None and line.catalog == self._catalog.revision:
            self._check(line, decision)
        self._compare(line, decision, recorded)

    def report(self) -> Report:
        """Return what was found so far."""
        report = self._report
        report.moves = [move for *_, move in sorted(self._moves, reverse=True)]
        report.savings.baseline = self._catalog.policy.baseline
        return report

    def _check(self, line: DecisionLine, decision: Decision | None) -> None:
        self._report.same += 1
        what = "its model is not in the catalog" if decision is None else difference(line, decision)
        if what is None:
            self._report.reproduced += 1
        elif len(self._report.differences) < EXAMPLES_SHOWN:
            self._report.differences.append(Difference(line.request_id, what))

    def _compare(self, line: DecisionLine, decision: Decision | None, recorded: _Recorded) -> None:
        report, before = self._report, line.chosen
        after = None if decision is None else decision.chosen
        category = line.category or "named"
        tallies = (report.total, report.categories.setdefault(category, Tally()))
        moved = before is not None and after is not None and _key(before) != _offer_key(after.offer)
        for tally in tallies:
            tally.requests += 1
            tally.moved += moved
            tally.unroutable += before is not None and after is None
        if before is None:
            report.newly_routable += after is not None
        elif after is None:
            if len(report.unroutable) < EXAMPLES_SHOWN:
                reason = _reason(line, decision)
                report.unroutable.append(Unroutable(line.request_id, category, _named(before), reason))
        else:
            cost_after = self._reprice(line, after, recorded, moved=moved)
            for tally in tallies:
                tally.compared += 1
                tally.cost_before_nusd += line.actual.upstream_nusd
                tally.cost_after_nusd += cost_after
                tally.seconds_before += before.expected_seconds
                tally.seconds_after += after.seconds
            if moved:
                self._keep_move(line, category, before, after, cost_after)

    def _reprice(self, line: DecisionLine, after: Candidate, recorded: _Recorded, *, moved: bool) -> int:
        """Return what the tokens that were used cost now, and add the request to the savings.

        Where the first choice failed and a fallback served, a request that does not move stays with it.
        """
        tokens, savings = line.actual.tokens, self._report.savings
        if tokens is None:
            return 0
        offer = after.offer
        if not moved and line.actual.model is not None:
            served = (line.actual.model, line.actual.provider or "", line.actual.upstream_model or "")
            offer = recorded.offers.get(served, after.offer)
        cost = cost_nusd(price_at(offer, line.need.at, tokens.prompt), tokens)
        baseline_after = baseline_nusd(recorded.baseline, line.need.at, tokens)
        if line.baseline is not None and baseline_after is not None:
            savings.requests += 1
            savings.baseline_before_nusd += line.baseline.cost_nusd
            savings.baseline_after_nusd += baseline_after
            savings.cost_before_nusd += line.actual.upstream_nusd
            savings.cost_after_nusd += cost
        return cost

    def _keep_move(
        self, line: DecisionLine, category: str, before: Ranked, after: Candidate, cost_after: int
    ) -> None:
        """Keep the largest moves: by money, then by seconds."""
        move = Move(
            line.request_id,
            category,
            _named(before),
            f"{after.model.id} at {after.offer.provider}",
            line.actual.upstream_nusd,
            cost_after,
            before.expected_seconds,
            after.seconds,
        )
        by_cost = abs(cost_after - line.actual.upstream_nusd)
        by_seconds = abs(after.seconds - before.expected_seconds)
        heapq.heappush(self._moves, (by_cost, by_seconds, -self._report.total.requests, move))
        if len(self._moves) > MOVES_SHOWN:
            heapq.heappop(self._moves)


class _Recorded:
    """A catalog with the offers that could be used, and what is looked up in it."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.offers = {_offer_key(o): o for m in snapshot.models.values() for o in m.offers}
        self.baseline = baseline_offers(snapshot)


def as_recorded(catalog: Snapshot, side: OffersLine) -> Snapshot:
    """Return the catalog with the offers that could be used when the log was written.

    On the logged revision these are exactly the logged ones. On another one, an offer that its file does not
    switch off could be used when it could be used then, or when its provider had an offer that could: so a
    new offer counts. A model that a local server had not loaded cannot be used.
    """
    usable = frozenset(side.usable)
    keys = frozenset((provider, upstream) for _, provider, upstream in usable)
    providers = frozenset(provider for _, provider, _ in usable)
    same = catalog.revision == side.catalog

    def seen(offer: Offer) -> Offer:
        local = local_program(catalog.providers[offer.provider]) is not None
        if same:
            could = _offer_key(offer) in usable
        elif offer.unusable is not None:
            return replace(offer, local=local)
        else:
            could = offer.key in keys or (offer.provider in providers and not local)
        unusable = None if could else f"no offer of {offer.provider} could be used then"
        return replace(offer, local=local, unusable=unusable)

    def changed(model: Model) -> Model:
        return replace(model, offers=tuple(seen(offer) for offer in model.offers))

    models = {name: changed(model) for name, model in catalog.models.items()}
    found = {model.id: model for model in side.models if model.id not in models}
    return replace(catalog, models={**models, **found})


def adapted(need: Need, side: OffersLine, catalog: Snapshot, mode: Mode | None) -> Need | None:
    """Return what a request needs under another catalog; None when its model is not there any more.

    A request in the mode that was the policy's default, and did not name it with its model, goes with the
    default: the log does not tell whether it asked for that mode by a header.
    """
    asked = need.asked
    if asked.model is not None and asked.model not in catalog.models:
        return None
    wanted = mode
    if wanted is None and asked.mode is None and need.mode == side.mode:
        wanted = catalog.policy.mode
    if wanted is not None and wanted != need.mode:
        need = structs.replace(need, mode=wanted)
    known = tuple(name for name in asked.fallbacks if name in catalog.models)
    if known != asked.fallbacks:
        need = structs.replace(need, asked=structs.replace(asked, fallbacks=known))
    return need


def difference(line: DecisionLine, decision: Decision) -> str | None:
    """Return the first thing in which a decision is not the logged one; None: it is bit for bit the same."""
    logged = () if line.chosen is None else (line.chosen, *line.fallbacks)
    for place, (was, candidate) in enumerate(zip(logged, decision.candidates, strict=False)):
        now = ranked_of(candidate)
        if was != now:
            name = "chosen" if place == 0 else f"fallback {place}"
            return f"{name} was {_figures(was)}, is {_figures(now)}"
    pairs = (
        ("is served", line.chosen is not None, decision.chosen is not None),
        ("fallbacks", line.fallbacks_total, max(0, len(decision.candidates) - 1)),
        ("losers", line.losers_total, decision.losers_total),
        ("reason", line.reason, decision.reason),
        (
            "worst case",
            None if line.quote is None else line.quote.max_usd,
            usd(decision.candidates[0].max_nusd) if decision.candidates else None,
        ),
    )
    for name, was_value, now_value in pairs:
        if was_value != now_value:
            return f"{name}: was {was_value}, is {now_value}"
    return None


def _key(ranked: Ranked) -> _Key:
    return (ranked.model, ranked.provider, ranked.upstream_model)


def _offer_key(offer: Offer) -> _Key:
    return (offer.model, offer.provider, offer.upstream_model)


def _named(ranked: Ranked) -> str:
    return f"{ranked.model} at {ranked.provider}"


def _figures(ranked: Ranked) -> str:
    figures = f"{ranked.expected_cost_usd!r} USD, {ranked.expected_seconds!r} s, quality {ranked.quality!r}"
    return f"{_named(ranked)} ({figures})"


def _reason(line: DecisionLine, decision: Decision | None) -> str:
    if decision is None:
        return f"The model {line.need.asked.model} is not in the catalog."
    return refusal(decision).message
