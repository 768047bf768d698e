"""Prometheus metrics: counted in plain numbers while serving, put into families when they are scraped.

Label values come from small fixed sets. prometheus-client's own counters take a lock and several microseconds
for each of the dozen figures of a request; one event loop needs neither. Workers add their numbers up.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol

from msgspec import Struct
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from router import __version__
from router.telemetry.families import FAMILIES

CONTENT_TYPE = CONTENT_TYPE_LATEST
NO_MODEL = "none"
_SPREADS = tuple(family for family in FAMILIES.values() if family.kind == "histogram")


class Spread:
    """Count values by the smallest bound that holds them."""

    def __init__(self, name: str) -> None:
        self._bounds = FAMILIES[name].bounds
        self.counts = [0] * (len(self._bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.sum += value


class Gauge(Struct, frozen=True):
    """A figure of the service as a whole; its name is one of FAMILIES."""

    name: str
    value: float


class Spent(Struct, array_like=True):
    """What was billed at one model."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_nusd: int = 0
    upstream_cost_nusd: int = 0

    def add(self, more: Spent) -> None:
        """Add what was billed elsewhere."""
        self.prompt_tokens += more.prompt_tokens
        self.completion_tokens += more.completion_tokens
        self.cost_nusd += more.cost_nusd
        self.upstream_cost_nusd += more.upstream_cost_nusd


class Running(Protocol):
    """A request in progress."""

    @property
    def model_id(self) -> str | None:
        """Return the catalog model that it is at now."""
        ...


class Numbers(Struct, array_like=True):
    """The figures of one process, or of several added up, as processes tell them to each other."""

    requests: list[tuple[tuple[str, str, str, str], int]] = []
    attempts: list[tuple[tuple[str, str], int]] = []
    payments: list[tuple[tuple[str, str, str], int]] = []
    spreads: list[tuple[list[int], float]] = []
    spent: list[tuple[str, Spent]] = []
    saved_nusd: int = 0
    overspent_nusd: int = 0
    inflight: list[tuple[str, int]] = []
    waiting: int = 0
    alerts: int = 0
    held_nusd: int = 0
    resting: list[tuple[str, str, str]] = []

    def ended(self) -> Numbers:
        """Return what is left of a process that has ended: what it counted, nothing that it was doing."""
        return Numbers(
            *(self.requests, self.attempts, self.payments, self.spreads, self.spent),
            *(self.saved_nusd, self.overspent_nusd),
        )


class Metrics:
    """Hold every figure of a router; each counter is a dictionary from label values to a number.

    `breakers` gives the state of each offer that rests, by provider and upstream model, `alerts` the number
    of matters that need the operator, `waiting` that of requests without a place, `held` the nano-USD set
    aside, `gauges` more figures; all are asked when the figures are scraped. `running` holds the requests in
    progress by their ids.
    """

    def __init__(
        self,
        breakers: Callable[[], Mapping[tuple[str, str], str]] = dict,
        alerts: Callable[[], int] = int,
        waiting: Callable[[], int] = int,
        held: Callable[[], int] = int,
        gauges: Callable[[], Iterable[Gauge]] = tuple,
    ) -> None:
        self._breakers = breakers
        self._alerts = alerts
        self._waiting = waiting
        self._held = held
        self._gauges = gauges
        self.requests: dict[tuple[str, str, str, str], int] = defaultdict(int)  # as the family's labels
        self.attempts: dict[tuple[str, str], int] = defaultdict(int)  # provider, outcome
        self.payments: dict[tuple[str, str, str], int] = defaultdict(int)  # protocol, scheme, outcome
        self.seconds = Spread("router_request_seconds")
        self.first_token = Spread("router_time_to_first_token_seconds")
        self.overhead = Spread("router_overhead_seconds")
        self.confidence = Spread("router_classifier_confidence")
        self.spent: dict[str, Spent] = defaultdict(Spent)  # by model
        self.saved_nusd = 0
        self.overspent_nusd = 0
        self.running: dict[str, Running] = {}

    def compare(self, cost_nusd: int, baseline_nusd: int) -> None:
        """Count what an upstream asks beside what the baseline would have."""
        if cost_nusd < baseline_nusd:
            self.saved_nusd += baseline_nusd - cost_nusd
        else:
            self.overspent_nusd += cost_nusd - baseline_nusd

    def numbers(self) -> Numbers:
        """Return the figures of this process."""
        spreads = (self.seconds, self.first_token, self.overhead, self.confidence)
        inflight = Counter([request.model_id or NO_MODEL for request in self.running.values()])
        return Numbers(
            requests=list(self.requests.items()),
            attempts=list(self.attempts.items()),
            payments=list(self.payments.items()),
            spreads=[(list(spread.counts), spread.sum) for spread in spreads],
            spent=list(self.spent.items()),
            saved_nusd=self.saved_nusd,
            overspent_nusd=self.overspent_nusd,
            inflight=list(inflight.items()),
            waiting=self._waiting(),
            alerts=self._alerts(),
            held_nusd=self._held(),
            resting=[(*offer, state) for offer, state in self._breakers().items()],
        )

    def render(self, numbers: Numbers) -> bytes:
        """Return the exposition text of these figures, and of what only this process tells."""
        registry = CollectorRegistry()
        registry.register(_Families(numbers, list(self._gauges())))
        return generate_latest(registry)


def added(all_numbers: Iterable[Numbers]) -> Numbers:
    """Return the sum over processes; an offer that rests in one of them rests."""
    requests: Counter[tuple[str, str, str, str]] = Counter()
    attempts: Counter[tuple[str, str]] = Counter()
    payments: Counter[tuple[str, str, str]] = Counter()
    inflight: Counter[str] = Counter()
    spent: dict[str, Spent] = defaultdict(Spent)
    spreads = [([0] * (len(family.bounds) + 1), 0.0) for family in _SPREADS]
    total = Numbers()
    for each in all_numbers:
        requests.update(dict(each.requests))
        attempts.update(dict(each.attempts))
        payments.update(dict(each.payments))
        inflight.update(dict(each.inflight))
        for model, more in each.spent:
            spent[model].add(more)
        spreads = [
            ([a + b for a, b in zip(counts, more, strict=True)], summed + more_sum)
            for (counts, summed), (more, more_sum) in zip(spreads, each.spreads, strict=True)
        ]
        total.saved_nusd += each.saved_nusd
        total.overspent_nusd += each.overspent_nusd
        total.waiting += each.waiting
        total.held_nusd += each.held_nusd
        total.alerts = max(total.alerts, each.alerts)
        total.resting = list(dict.fromkeys([*total.resting, *each.resting]))
    total.requests, total.attempts, total.spreads = list(requests.items()), list(attempts.items()), spreads
    total.payments, total.spent, total.inflight = (
        list(payments.items()),
        list(spent.items()),
        [*inflight.items()],
    )
    return total


class _Families(Collector):
    """Put numbers into Prometheus' families."""

    def __init__(self, numbers: Numbers, gauges: list[Gauge]) -> None:
        self._numbers = numbers
        self._gauges = gauges

    def collect(self) -> Iterator[Metric]:
        """Yield the families."""
        numbers = self._numbers
        yield _counter("router_requests", numbers.requests)
        yield _counter("router_upstream_attempts", numbers.attempts)
        yield _counter("router_payments", numbers.payments)
        yield from self._spent()
        for family, (counts, summed) in zip(_SPREADS, numbers.spreads, strict=True):
            yield _histogram(family.name, family.text, family.bounds, counts, summed)
        yield _counter("router_saved_nusd", [((), numbers.saved_nusd)])
        yield _counter("router_overspent_nusd", [((), numbers.overspent_nusd)])
        # A model that has nothing to do is at 0, and does not vanish from the graph.
        inflight = {NO_MODEL: 0, **dict.fromkeys((model for (_, model, *_), _ in numbers.requests), 0)}
        inflight.update(numbers.inflight)
        yield _gauge("router_inflight", [((model,), count) for model, count in inflight.items()])
        yield _gauge("router_waiting", [((), numbers.waiting)])
        yield _gauge("router_breaker_open", [(offer, 1) for offer in numbers.resting])
        yield _gauge("router_alerts", [((), numbers.alerts)])
        yield _gauge("router_ledger_held_nusd", [((), numbers.held_nusd)])
        yield _gauge("router_build_info", [((__version__,), 1)])
        for gauge in self._gauges:
            yield _gauge(gauge.name, [((), gauge.value)])

    def _spent(self) -> Iterator[Metric]:
        spent = self._numbers.spent
        tokens = [(("prompt", model), each.prompt_tokens) for model, each in spent]
        tokens += [(("completion", model), each.completion_tokens) for model, each in spent]
        yield _counter("router_tokens", tokens)
        yield _counter("router_cost_nusd", [((model,), each.cost_nusd) for model, each in spent])
        upstream = [((model,), each.upstream_cost_nusd) for model, each in spent]
        yield _counter("router_upstream_cost_nusd", upstream)


def _counter(name: str, samples: Iterable[tuple[tuple[str, ...], float]]) -> CounterMetricFamily:
    family = FAMILIES[name]
    counter = CounterMetricFamily(name, family.text, labels=family.labels)
    for labels, value in samples:
        counter.add_metric(labels, value)
    return counter


def _gauge(name: str, samples: Iterable[tuple[tuple[str, ...], float]]) -> GaugeMetricFamily:
    family = FAMILIES[name]
    gauge = GaugeMetricFamily(name, family.text, labels=family.labels)
    for labels, value in samples:
        gauge.add_metric(labels, value)
    return gauge


def _histogram(
    name: str, text: str, bounds: tuple[float, ...], counts: list[int], summed: float
) -> HistogramMetricFamily:
    """Return the histogram, its counts added up as Prometheus wants them."""
    total, buckets = 0, []
    for bound, count in zip((*map(str, bounds), "+Inf"), counts, strict=True):
        total += count
        buckets.append((bound, float(total)))
    return HistogramMetricFamily(name, text, buckets=buckets, sum_value=summed)
