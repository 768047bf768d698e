"""Sum requests up by minute, hour and day: what a batch adds, and what the sums of a range say.

Logical requests and calls of upstreams are counted apart. Times are spread over buckets of 12 % width, so a
quantile is exact to that; they are added up over processes and hours, which averages of quantiles cannot be.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from msgspec import Struct

from router.history.record import ABANDONED, GROUPS, Group, Record, group_of

MINUTE_S, HOUR_S, DAY_S = 60, 3_600, 86_400
STEPS_S = (MINUTE_S, HOUR_S, DAY_S)
# What is kept of each: enough for the range that is drawn from it, and some more.
KEPT_S = {MINUTE_S: 2 * DAY_S, HOUR_S: 40 * DAY_S}
Span = Literal["total", "first"]
_GROWTH = 1.12
BOUNDS_MS: tuple[float, ...] = tuple(_GROWTH**power for power in range(1, 121))
"""Upper bounds of the buckets: 1.12 ms to 804 s; the last bucket holds what is beyond."""
NAMED = "named"
NOBODY = "none"
STRANGERS = 20

FigureKey = tuple[int, int, str, str, str, str]
"""step_s, start_s, category, model, outcome, baseline."""
LatencyKey = tuple[int, int, Span, int]
"""step_s, start_s, span, bucket."""
CallKey = tuple[int, int, str, str, str]
"""step_s, start_s, provider, model, outcome."""
SpentKey = tuple[str, int, str]
"""account, start_s of the day, model."""


@dataclass(slots=True)
class Sums:
    """What requests added up to, nano-USD and tokens.

    `compared_nusd` is the upstream cost of those that have a `baseline_nusd`.
    """

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    charged_nusd: int = 0
    upstream_nusd: int = 0
    baseline_nusd: int = 0
    compared_nusd: int = 0

    def add(self, other: Sums) -> None:
        """Add others' sums."""
        self.requests += other.requests
        self.prompt_tokens += other.prompt_tokens
        self.completion_tokens += other.completion_tokens
        self.charged_nusd += other.charged_nusd
        self.upstream_nusd += other.upstream_nusd
        self.baseline_nusd += other.baseline_nusd
        self.compared_nusd += other.compared_nusd

    def take(self, record: Record) -> None:
        """Add a request."""
        self.requests += 1
        self.prompt_tokens += record.prompt_tokens
        self.completion_tokens += record.completion_tokens
        self.charged_nusd += record.charged_nusd
        self.upstream_nusd += record.upstream_nusd
        if record.baseline_nusd is not None:
            self.baseline_nusd += record.baseline_nusd
            self.compared_nusd += record.upstream_nusd

    @property
    def saved_nusd(self) -> int:
        """Return what the baseline would have cost more than what was chosen."""
        return self.baseline_nusd - self.compared_nusd

    def columns(self) -> tuple[int, ...]:
        """Return the figures in the order of the tables' columns."""
        return (
            *(self.requests, self.prompt_tokens, self.completion_tokens, self.charged_nusd),
            *(self.upstream_nusd, self.baseline_nusd, self.compared_nusd),
        )


@dataclass(slots=True)
class Batch:
    """What some requests add to the tables, and the requests themselves."""

    records: Sequence[Record]
    figures: dict[FigureKey, Sums] = field(default_factory=lambda: defaultdict(Sums))
    latencies: Counter[LatencyKey] = field(default_factory=Counter)
    calls: dict[CallKey, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0]))
    spent: dict[SpentKey, Sums] = field(default_factory=lambda: defaultdict(Sums))

    def rows(self) -> dict[str, list[tuple[int | str, ...]]]:
        """Return what is added to each table of sums, keys first."""
        return {
            "history_figures": [(*key, *sums.columns()) for key, sums in self.figures.items()],
            "history_latencies": [(*key, number) for key, number in self.latencies.items()],
            "history_calls": [(*key, *sums) for key, sums in self.calls.items()],
            "history_spent": [(*key, *sums.columns()[:4]) for key, sums in self.spent.items()],
        }


def batch_of(records: Sequence[Record]) -> Batch:
    """Sum requests up.

    Of those that named no account, which anybody can send, a few are kept one by one; all are counted.
    """
    strangers = [record for record in records if record.account is None]
    dropped = {record.request_id for record in strangers[STRANGERS:]}
    batch = Batch([record for record in records if record.request_id not in dropped])
    for record in records:
        end_s = record.ended_ms // 1000
        start_s = end_s - end_s % MINUTE_S
        model = record.model or NOBODY
        names = (record.category or NAMED, model, record.outcome, record.baseline or "")
        batch.figures[MINUTE_S, start_s, *names].take(record)
        if record.outcome == "ok":  # how fast an error came says nothing of how fast answers come
            batch.latencies[MINUTE_S, start_s, "total", bucket(record.ms)] += 1
            if record.first_ms is not None:
                batch.latencies[MINUTE_S, start_s, "first", bucket(record.first_ms)] += 1
        for attempt in record.attempts:
            call = batch.calls[MINUTE_S, start_s, attempt.provider, attempt.model, attempt.outcome]
            call[0] += 1
            call[1] += attempt.ms
        if record.account is not None:
            batch.spent[record.account, end_s - end_s % DAY_S, model].take(record)
    _add_up(batch)
    return batch


def _add_up(batch: Batch) -> None:
    """Add the minutes up to hours and days."""
    figures, latencies, calls = (
        list(batch.figures.items()),
        list(batch.latencies.items()),
        list(batch.calls.items()),
    )
    for step_s in STEPS_S[1:]:
        for (_, start_s, *names), sums in figures:
            category, model, outcome, baseline = names
            batch.figures[step_s, start_s - start_s % step_s, category, model, outcome, baseline].add(sums)
        for (_, start_s, span, number), requests in latencies:
            batch.latencies[step_s, start_s - start_s % step_s, span, number] += requests
        for (_, start_s, provider, model, outcome), (number, ms) in calls:
            call = batch.calls[step_s, start_s - start_s % step_s, provider, model, outcome]
            call[0] += number
            call[1] += ms


def bucket(ms: float) -> int:
    """Return the bucket of a time."""
    return bisect_left(BOUNDS_MS, ms)


def quantile_s(counts: dict[int, int], share: float) -> float | None:
    """Return the time that a share of the requests took at most, in seconds; None without any.

    Within its bucket a time is taken to lie where its rank does.
    """
    total = sum(counts.values())
    if not total:
        return None
    rank, below = share * total, 0
    for number in sorted(counts):
        if below + counts[number] >= rank:
            lower = BOUNDS_MS[number - 1] if number else 0.0
            upper = BOUNDS_MS[min(number, len(BOUNDS_MS) - 1)]
            return (lower + (upper - lower) * (rank - below) / counts[number]) / 1e3
        below += counts[number]
    return BOUNDS_MS[-1] / 1e3


class Range(Struct, frozen=True):
    """A stretch of time that is drawn as `bars` bars of `bar_s`, from the sums of `step_s`."""

    name: str
    title: str
    step_s: int
    bar_s: int
    bars: int

    def start_s(self, now_s: float) -> int:
        """Return where the first bar begins, so that the last one holds this moment."""
        return (int(now_s) // self.bar_s - self.bars + 1) * self.bar_s


RANGES = {
    each.name: each
    for each in (
        Range("1h", "1 hour", MINUTE_S, 2 * MINUTE_S, 30),
        Range("24h", "24 hours", HOUR_S, HOUR_S, 24),
        Range("7d", "7 days", HOUR_S, 6 * HOUR_S, 28),
        Range("30d", "30 days", DAY_S, DAY_S, 30),
    )
}


class Spread(Struct, frozen=True):
    """How long requests took, in seconds; None where none was measured."""

    p50_s: float | None
    p95_s: float | None


class Upstream(Struct, frozen=True):
    """What the calls of one provider came to; `outcomes` counts them by what came of them."""

    provider: str
    calls: int
    outcomes: dict[str, int]
    mean_ms: float

    @property
    def failed(self) -> int:
        """Return the calls that failed; one that was given up did not."""
        return self.calls - self.outcomes.get("ok", 0) - self.outcomes.get(ABANDONED, 0)


@dataclass(slots=True)
class Summary:
    """What a range came to; lists by bar have one entry a bar."""

    start_s: int
    total: Sums
    groups: dict[Group, int]
    outcomes: dict[str, int]
    categories: list[dict[str, int]]
    models: dict[str, Sums]
    baselines: dict[str, Sums]
    spreads: dict[Span, Spread]
    spreads_by_bar: dict[Span, list[Spread]]
    upstreams: list[Upstream]

    @property
    def success(self) -> tuple[int, int]:
        """Return the requests that were served, and those that could have been."""
        served = self.groups["served"]
        return served, served + self.groups["failed"]


def summed(
    range_: Range,
    now_s: float,
    figures: Iterable[Sequence[Any]],
    latencies: Iterable[Sequence[Any]],
    calls: Iterable[Sequence[Any]],
) -> Summary:
    """Put the rows of a range together.

    `figures` are (bar, category, model, outcome, baseline, *sums), `latencies` (bar, span, bucket, requests),
    `calls` (provider, outcome, calls, ms); bars count from 0.
    """
    start_s = range_.start_s(now_s)
    made = Summary(
        start_s=start_s,
        total=Sums(),
        groups=dict.fromkeys(GROUPS, 0),
        outcomes=defaultdict(int),
        categories=[defaultdict(int) for _ in range(range_.bars)],
        models=defaultdict(Sums),
        baselines=defaultdict(Sums),
        spreads={},
        spreads_by_bar={},
        upstreams=[],
    )
    for bar, category, model, outcome, baseline, *columns in figures:
        sums = Sums(*columns)
        made.total.add(sums)
        made.groups[group_of(outcome)] += sums.requests
        made.outcomes[outcome] += sums.requests
        made.models[model].add(sums)
        if baseline:
            made.baselines[baseline].add(sums)
        if bar < range_.bars:  # a clock that was ahead wrote later ones
            made.categories[bar][category] += sums.requests
    _spread(range_, made, latencies)
    made.upstreams = _upstreams(calls)
    return made


def _spread(range_: Range, made: Summary, latencies: Iterable[Sequence[Any]]) -> None:
    spans: tuple[Span, ...] = ("total", "first")
    whole: dict[Span, Counter[int]] = {span: Counter() for span in spans}
    bars: dict[Span, list[Counter[int]]] = {span: [Counter() for _ in range(range_.bars)] for span in spans}
    for bar, span, number, requests in latencies:
        whole[span][number] += requests
        if bar < range_.bars:
            bars[span][bar][number] += requests
    for span in spans:
        made.spreads[span] = _quantiles(whole[span])
        made.spreads_by_bar[span] = [_quantiles(counts) for counts in bars[span]]


def _quantiles(counts: Counter[int]) -> Spread:
    return Spread(quantile_s(counts, 0.5), quantile_s(counts, 0.95))


def _upstreams(calls: Iterable[Sequence[Any]]) -> list[Upstream]:
    outcomes: dict[str, Counter[str]] = defaultdict(Counter)
    times: Counter[str] = Counter()
    for provider, outcome, number, ms in calls:
        outcomes[provider][outcome] += number
        times[provider] += ms
    found = [
        Upstream(provider, total, dict(counts), times[provider] / total if total else math.nan)
        for provider, counts in outcomes.items()
        for total in (counts.total(),)
    ]
    return sorted(found, key=lambda each: -each.calls)
