"""What is measured while serving: how fast offers are, how long answers are, and which offers rest.

A speed is an average of what was seen, each sighting worth half as much after HALF_LIFE_S, blended with the
catalog's prior as if that had been seen PRIOR_WEIGHT times: (10 x prior + n x live) / (10 + n). Tokens a
second are averaged as seconds per token, since seconds are what a decision adds up: one stream that comes in
a burst must not hide ten slow ones. Expected output tokens per category are learned in the same way.

What decisions read is a published table. A value in it moves only when the blend has differed by more than a
fifth on three ticks in a row, so that decisions do not follow noise and a replay needs few tables. Its id is
a hash of its content.

Nothing is restored from disk after a restart: what was measured before is worth half after five minutes, an
open breaker is found again by a few calls, and a fresh process decides by the catalog alone, which anyone can
read. One table a process, used from its event loop.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import msgspec
from msgspec import Struct

from router.catalog.snapshot import Category, Snapshot
from router.routing.breaker import Alert, Breakers, Entry, Key, State
from router.routing.decide import Blocked, Live

TICK_S = 10.0
HALF_LIFE_S = 300.0
PRIOR_WEIGHT = 10.0
# A value moves when it has differed by more than this share of the published one on so many ticks in a row.
MOVES_BY = 0.2
MOVES_AFTER = 3
# Shorter answers say little about speed: a few pieces of the network, not the model's pace.
LEAST_TOKENS = 32
# A stream whose client was waited for longer than this share of its time shows the client's pace.
CLIENTS_SHARE = 0.1
NO_TABLE = "none"
# What is beyond these is a clock's or an upstream's mistake, and is taken as the nearest bound.
_TTFT_S = (0.001, 600.0)
_TOK_S = (0.1, 10_000.0)
_MOST_TOKENS = 1_000_000
_LEAST_WEIGHT = 0.05  # of what other replicas are told
_NO_BLOCKS: Mapping[Key, Blocked] = {}
_NO_TOKENS: Mapping[Category, int] = {}


class Published(Struct, frozen=True, gc=False):
    """What decisions read: (ttft_s, tok_s) of offers, expected output tokens of categories.

    Only what has moved away from the catalog's prior is in it. The same content has the same id.
    """

    id: str = NO_TABLE
    speeds: Mapping[Key, tuple[float, float]] = {}
    output_tokens: Mapping[Category, int] = {}


class Measured(Struct, frozen=True):
    """What was seen of an offer lately, without the prior; None where nothing was.

    `samples` is the number of sightings behind `ttft_s`, old ones counted in part. `outcomes` are calls by
    result, "ok" or a fault's kind, counted likewise.
    """

    ttft_s: float | None
    tok_s: float | None
    samples: float
    outcomes: Mapping[str, float]


class Sightings(Struct, array_like=True):
    """What one process saw, for the others: sums and weights, (provider, upstream model) first.

    An offer's are of seconds to the first token and of seconds per token, a category's of output tokens.
    """

    offers: list[tuple[str, str, float, float, float, float]] = []
    categories: list[tuple[Category, float, float]] = []


@dataclass(slots=True)
class _Mean:
    """An average that forgets; what came since the last tick is not aged yet."""

    weight: float = 0.0
    total: float = 0.0

    def add(self, value: float) -> None:
        self.weight += 1.0
        self.total += value

    def age(self, factor: float) -> None:
        self.weight *= factor
        self.total *= factor

    def with_others(self, others: Iterable[tuple[float, float]]) -> _Mean:
        """Return the average of this one and of others, (total, weight), each by its weight."""
        mean = _Mean(self.weight, self.total)
        for total, weight in others:
            mean.total += total
            mean.weight += weight
        return mean

    @property
    def value(self) -> float | None:
        return self.total / self.weight if self.weight > 1e-6 else None


@dataclass(slots=True)
class _Offer:
    """What was seen of one offer; `differed` counts the ticks in a row on which its speed had moved."""

    ttft_s: _Mean = field(default_factory=_Mean)
    token_s: _Mean = field(default_factory=_Mean)
    outcomes: dict[str, float] = field(default_factory=dict)
    differed: int = 0

    @property
    def tok_s(self) -> float | None:
        token_s = self.token_s.value
        return None if token_s is None else 1 / token_s


@dataclass(slots=True)
class _Category:
    tokens: _Mean = field(default_factory=_Mean)
    differed: int = 0


class LiveTable:
    """Collect what attempts and answers show; `tick` publishes it.

    `clock` is monotonic, in seconds. `output_tokens` are the priors of categories that the policy names none
    for. A category without any prior is not learned.
    """

    def __init__(
        self,
        catalog: Snapshot,
        clock: Callable[[], float],
        output_tokens: Mapping[Category, int] = _NO_TOKENS,
    ) -> None:
        self.published = Published()
        self._clock = clock
        self._breakers = Breakers(clock)
        self._offers: dict[Key, _Offer] = {}
        self._categories: dict[Category, _Category] = {}
        self._default_output_tokens = output_tokens
        self._aged_s = clock()
        self._adopt(catalog)

    def note_success(self, key: Key) -> None:
        """Note an attempt that began to answer."""
        self._count(key, "ok")
        self._breakers.note_success(key)

    def note_failure(
        self, key: Key, kind: str, retry_after_s: float | None, alone: bool, status: int | None = None
    ) -> None:
        """Note a failed attempt: the `kind`, `retry_after_s` and `status` of its `AttemptFault`.

        `alone`: the request had no other offer. Also for a stream that breaks after it has begun.
        """
        self._count(key, kind)
        self._breakers.note_failure(key, kind, retry_after_s, alone, status)

    def note_speed(self, key: Key, ttft_s: float, tok_s: float | None) -> None:
        """Note the time to the first token and the tokens a second after it, None if those say nothing.

        Values that cannot be (zero, negative, not finite) are left out.
        """
        offer = self._offers.get(key) or self._offers.setdefault(key, _Offer())
        if 0 < ttft_s < math.inf:
            offer.ttft_s.add(_within(ttft_s, _TTFT_S))
        if tok_s is not None and 0 < tok_s < math.inf:
            offer.token_s.add(1 / _within(tok_s, _TOK_S))

    def note_stream(
        self,
        key: Key,
        sent_s: float,
        first_s: float,
        ended_s: float,
        completion_tokens: int,
        client_s: float = 0.0,
    ) -> None:
        """Note the speed of a stream from readings of the clock: call sent, first delta here, last one here.

        `client_s` is how long in between the router waited for the client, whose pace is not the offer's.
        """
        span_s = ended_s - first_s
        tells = completion_tokens >= LEAST_TOKENS and span_s > 0 and client_s <= CLIENTS_SHARE * span_s
        self.note_speed(key, first_s - sent_s, (completion_tokens - 1) / span_s if tells else None)

    def note_whole(self, key: Key, seconds: float, completion_tokens: int) -> None:
        """Note the speed of an answer that came in one piece, `seconds` after it was asked for.

        How long its first token took is unknown, so it moves both figures by what its time differs from the
        time to be expected by them.
        """
        expected = self.published.speeds.get(key) or self._priors.get(key)
        if expected is None or completion_tokens <= 0 or not 0 < seconds < math.inf:
            return
        ttft_s, tok_s = expected
        ratio = seconds / (ttft_s + completion_tokens / tok_s)
        self.note_speed(key, ttft_s * ratio, tok_s / ratio if completion_tokens >= LEAST_TOKENS else None)

    def note_output(self, category: Category | None, completion_tokens: int) -> None:
        """Note how long an answer (one choice) was; without a category nothing is learned."""
        if category is None or completion_tokens <= 0:
            return
        learned = self._categories.get(category) or self._categories.setdefault(category, _Category())
        learned.tokens.add(min(completion_tokens, _MOST_TOKENS))

    def live(self, at_limit: Mapping[Key, Blocked] = _NO_BLOCKS, alone: bool = False) -> Live:
        """Return what a decision reads; `at_limit` are the offers that are full at this moment."""
        published, blocked = self.published, self._breakers.blocked(alone)
        if at_limit:
            blocked = {**at_limit, **blocked} if blocked else at_limit
        return Live(
            id=published.id,
            speeds=published.speeds,
            output_tokens=published.output_tokens,
            blocked=blocked,
        )

    def blocked(self, alone: bool = False) -> Mapping[Key, Blocked]:
        """Return the offers that rest; with `alone`, those that rest for a request without another offer."""
        return self._breakers.blocked(alone)

    def may_try(self, key: Key, alone: bool = False) -> bool:
        """Tell whether `enter` would let an attempt through; changes nothing."""
        return self._breakers.may_try(key, alone)

    def enter(self, key: Key, alone: bool = False) -> Entry | None:
        """Return leave for one attempt, None while the offer rests or another request is its trial.

        Hand what it returns to `release` in a `finally`, after the attempt's success or failure was noted.
        """
        return self._breakers.enter(key, alone)

    def release(self, entry: Entry) -> None:
        """End an attempt, whatever came of it."""
        self._breakers.release(entry)

    def measured(self) -> dict[Key, Measured]:
        """Return what was seen of each offer that was called lately."""
        return {
            key: Measured(
                _rounded(offer.ttft_s.value, 3),
                _rounded(offer.tok_s, 1),
                round(offer.ttft_s.weight, 1),
                {kind: round(count, 1) for kind, count in offer.outcomes.items() if count >= 0.05},
            )
            for key, offer in self._offers.items()
        }

    def states(self) -> dict[Key, State]:
        """Return the state of each offer's breaker that is not closed."""
        return self._breakers.states()

    def alerts(self) -> tuple[Alert, ...]:
        """Return what needs the operator's attention, oldest first."""
        return self._breakers.alerts()

    def sightings(self) -> Sightings:
        """Return what was seen here lately."""
        return Sightings(
            [
                (*key, seen.ttft_s.total, seen.ttft_s.weight, seen.token_s.total, seen.token_s.weight)
                for key, seen in self._offers.items()
                if seen.ttft_s.weight >= _LEAST_WEIGHT
            ],
            [(name, seen.tokens.total, seen.tokens.weight) for name, seen in self._categories.items()],
        )

    def tick(self, catalog: Snapshot, others: Iterable[Sightings] = ()) -> Published | None:
        """Age what was seen and publish what has moved; to be called every TICK_S.

        `others` is what other replicas saw. Returns the new table when it changed. What is known of offers
        that left the catalog is dropped.
        """
        now_s = self._clock()
        factor = 0.5 ** (max(0.0, now_s - self._aged_s) / HALF_LIFE_S)
        self._aged_s = now_s
        self._adopt(catalog)
        elsewhere = _Elsewhere(others)
        for key in elsewhere.offers:
            if key in self._priors:
                self._offers.setdefault(key, _Offer())
        for category in elsewhere.categories:
            self._categories.setdefault(category, _Category())
        speeds = {key: value for key, value in self.published.speeds.items() if key in self._offers}
        for key, offer in self._offers.items():
            self._age(offer, factor)
            self._move_speed(key, offer, elsewhere.offers.get(key, []), speeds)
        output_tokens = dict(self.published.output_tokens)
        priors = {**self._default_output_tokens, **catalog.policy.expected_output_tokens}
        for category, learned in self._categories.items():
            learned.tokens.age(factor)
            if category in priors:
                seen = learned.tokens.with_others(elsewhere.categories.get(category, []))
                _move_tokens(category, learned, seen, priors[category], output_tokens)
        table_id = content_id(speeds, output_tokens)
        if table_id == self.published.id:
            return None
        self.published = Published(table_id, speeds, output_tokens)
        return self.published

    def _adopt(self, catalog: Snapshot) -> None:
        """Take a catalog's priors; forget the offers that it has not."""
        offers = {offer.key: offer for model in catalog.models.values() for offer in model.offers}
        self._priors = {key: (offer.ttft_s, offer.tok_s) for key, offer in offers.items()}
        self._offers = {key: seen for key, seen in self._offers.items() if key in offers}
        self._breakers.keep({key: offer.model for key, offer in offers.items()})

    def _count(self, key: Key, outcome: str) -> None:
        offer = self._offers.get(key) or self._offers.setdefault(key, _Offer())
        offer.outcomes[outcome] = offer.outcomes.get(outcome, 0.0) + 1.0

    def _age(self, offer: _Offer, factor: float) -> None:
        offer.ttft_s.age(factor)
        offer.token_s.age(factor)
        for kind in offer.outcomes:
            offer.outcomes[kind] *= factor

    def _move_speed(
        self, key: Key, offer: _Offer, others: list[_Seen], speeds: dict[Key, tuple[float, float]]
    ) -> None:
        prior = self._priors[key]
        shown = speeds.get(key, prior)
        first = offer.ttft_s.with_others([seen[0] for seen in others])
        token = offer.token_s.with_others([seen[1] for seen in others])
        ttft_s = round(_blend(prior[0], first.value, first.weight), 3)
        tok_s = round(_blend(prior[1], None if token.value is None else 1 / token.value, token.weight), 1)
        offer.differed = offer.differed + 1 if _differs(ttft_s, shown[0]) or _differs(tok_s, shown[1]) else 0
        if offer.differed >= MOVES_AFTER:
            speeds[key] = (ttft_s, tok_s)
            offer.differed = 0


_Seen = tuple[tuple[float, float], tuple[float, float]]


class _Elsewhere:
    """What other replicas saw, by offer and by category: (total, weight) of each."""

    def __init__(self, others: Iterable[Sightings]) -> None:
        self.offers: dict[Key, list[_Seen]] = {}
        self.categories: dict[Category, list[tuple[float, float]]] = {}
        for seen in others:
            for provider, model, ttft, ttft_weight, token, token_weight in seen.offers:
                pair = (ttft, ttft_weight), (token, token_weight)
                self.offers.setdefault((provider, model), []).append(pair)
            for category, total, weight in seen.categories:
                self.categories.setdefault(category, []).append((total, weight))


def _move_tokens(
    category: Category, learned: _Category, seen: _Mean, prior: int, output_tokens: dict[Category, int]
) -> None:
    shown = output_tokens.get(category, prior)
    tokens = round(_blend(prior, seen.value, seen.weight))
    learned.differed = learned.differed + 1 if _differs(tokens, shown) else 0
    if learned.differed >= MOVES_AFTER:
        output_tokens[category] = tokens
        learned.differed = 0


def content_id(speeds: Mapping[Key, tuple[float, float]], output_tokens: Mapping[Category, int]) -> str:
    """Return the id of a table: 12 hex of its content, in any order; "none" while it is empty."""
    if not speeds and not output_tokens:
        return NO_TABLE
    content = msgspec.json.encode((sorted(speeds.items()), sorted(output_tokens.items())))
    return hashlib.sha256(content).hexdigest()[:12]


def _blend(prior: float, live: float | None, weight: float) -> float:
    if live is None:
        return prior
    return (PRIOR_WEIGHT * prior + weight * live) / (PRIOR_WEIGHT + weight)


def _differs(new: float, shown: float) -> bool:
    return abs(new - shown) > MOVES_BY * shown


def _within(value: float, bounds: tuple[float, float]) -> float:
    return min(max(value, bounds[0]), bounds[1])


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
