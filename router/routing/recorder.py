"""Make the lines of the decision log of requests that have ended, with what they cost beside the baseline."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime
from itertools import islice

import msgspec
from msgspec import Struct

from router.catalog.price import Tokens, cost_nusd, price_at
from router.catalog.snapshot import Offer, Snapshot
from router.routing.decide import Candidate, Decision, Live
from router.routing.need import Need
from router.routing.recorded import (
    FALLBACKS_KEPT,
    LOSERS_KEPT,
    NO_TABLE,
    Actual,
    Baseline,
    DecisionLine,
    Lost,
    OffersLine,
    Quote,
    Ranked,
    TableLine,
    usd,
)
from router.telemetry.decisions import DecisionLog

_CATALOGS_KEPT = 8


class _Known(Struct, frozen=True):
    """What the recorder keeps of a snapshot."""

    snapshot: Snapshot
    offers: str
    baseline: tuple[Offer, ...]


class Recorder:
    """Write ended requests into the decision log; one for each process, from its event loop.

    To rank what came behind the winner, and say why, takes longer than to decide. So `full_a_second`
    bounds how many lines in a second have their fallbacks and losers; those beyond have the totals alone, and
    a replay recomputes the rest.
    """

    def __init__(self, log: DecisionLog, *, full_a_second: int = 20) -> None:
        self._log = log
        self._full_a_second = full_a_second
        self._second = -1
        self._full = 0
        self._known: dict[int, _Known] = {}

    def note(
        self,
        decision: Decision,
        catalog: Snapshot,
        live: Live,
        actual: Actual,
        *,
        request_id: str,
        stripped: bool,
        account: str | None = None,
        client_request_id: str | None = None,
    ) -> int | None:
        """Write the line of a request; `catalog` and `live` are those that `decide` was given.

        Returns what the answer costs at the baseline, in nano-USD; None without a bill or a baseline.
        """
        known = self._known.get(id(catalog)) or self._learn(catalog)
        if live.id != NO_TABLE and not self._log.has_live(live.id):
            self._log.live(live.id, table_line(live))
        need, categorised, chosen = decision.need, decision.categorised, decision.chosen
        fallbacks: tuple[Ranked, ...] = ()
        losers: tuple[Lost, ...] = ()
        if self._is_full(int(need.at.timestamp() + actual.seconds)):
            fallbacks = tuple([ranked_of(c) for c in decision.candidates[1 : FALLBACKS_KEPT + 1]])
            losers = _first_losers(decision)
        baseline = _baseline(known, need, actual)
        self._log.write(
            DecisionLine(
                request_id,
                categorised.category,
                categorised.probabilities,
                categorised.confidence,
                stripped,
                need.mode,
                decision.catalog,
                known.offers,
                decision.live,
                decision.reason,
                None if chosen is None else ranked_of(chosen),
                fallbacks,
                max(0, len(decision.candidates) - 1),
                losers,
                decision.losers_total,
                None if chosen is None else Quote(usd(chosen.expected_nusd), usd(chosen.max_nusd)),
                need,
                actual,
                _blocked(live) if live.blocked else (),
                baseline,
                account,
                client_request_id,
            )
        )
        return None if baseline is None else baseline.cost_nusd

    def _is_full(self, second: int) -> bool:
        """Tell whether another line of this second, in which a request ended, may be a full one."""
        if second != self._second:
            self._second, self._full = second, 0
        self._full += 1
        return self._full <= self._full_a_second

    def _learn(self, catalog: Snapshot) -> _Known:
        """Look at a snapshot once; the reference that is kept keeps its `id` from being given anew."""
        side = offers_line(catalog)
        self._log.catalog(side.offers, side)
        if len(self._known) >= _CATALOGS_KEPT:
            del self._known[next(iter(self._known))]
        known = self._known[id(catalog)] = _Known(catalog, side.offers, baseline_offers(catalog))
        return known


def _first_losers(decision: Decision) -> tuple[Lost, ...]:
    first = islice(decision.each_loser(), LOSERS_KEPT)
    return tuple([Lost(x.model, x.provider, x.reason, x.detail) for x in first])


def _blocked(live: Live) -> tuple[tuple[str, str, str, int, str], ...]:
    return tuple((*key, b.reason, b.retry_after_s, b.detail) for key, b in live.blocked.items())


def ranked_of(candidate: Candidate) -> Ranked:
    """Return a candidate as the log has it."""
    offer = candidate.offer
    return Ranked(
        offer.model,
        offer.provider,
        offer.upstream_model,
        usd(candidate.expected_nusd),
        candidate.seconds,
        candidate.quality,
    )


def table_line(live: Live) -> TableLine:
    """Return the side line of a live table."""
    speeds = tuple((*key, *speed) for key, speed in live.speeds.items())
    return TableLine(live.id, speeds, live.output_tokens)


def offers_line(catalog: Snapshot) -> OffersLine:
    """Return the side line of a catalog; its id is a hash of all that it says."""
    models = catalog.models.values()
    usable = tuple((o.model, *o.key) for m in models for o in m.offers if o.unusable is None)
    unfiled = tuple(m for m in models if not m.file.endswith(".toml"))
    line = OffersLine(catalog.revision, "", catalog.policy.mode, usable, unfiled)
    # Sets have no order: sorted, so that the same offers have the same id in every process.
    text = msgspec.json.encode(line, order="deterministic")
    return msgspec.structs.replace(line, offers=hashlib.sha256(text).hexdigest()[:12])


def baseline_offers(catalog: Snapshot) -> tuple[Offer, ...]:
    """Return the offers of the policy's baseline: those that can be used, else all of them."""
    model = catalog.models.get(catalog.policy.baseline or "")
    return model.usable_or_all if model is not None else ()


def baseline_nusd(offers: Sequence[Offer], at: datetime, tokens: Tokens) -> int | None:
    """Return what the tokens cost at the cheapest of the baseline's offers; None without a baseline.

    The price is that of the moment and of the prompt's size, without markup: (prompt - cached - written) x
    input + cached x cache_read + written x cache_write + completion x output. Tokens that the serving offer
    had cached count as cached at the baseline too: a conversation that had always gone there would have
    found as much. What a request saved is this less what its upstream asks.
    """
    return min((cost_nusd(price_at(o, at, tokens.prompt), tokens) for o in offers), default=None)


def _baseline(known: _Known, need: Need, actual: Actual) -> Baseline | None:
    tokens = actual.tokens
    cost = None if tokens is None else baseline_nusd(known.baseline, need.at, tokens)
    return None if cost is None else Baseline(known.baseline[0].model, cost)
