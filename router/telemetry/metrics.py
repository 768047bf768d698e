"""Prometheus metrics: counted in plain numbers while serving, put into families when they are scraped.

Label values come from small fixed sets. prometheus-client's own counters take a lock and several microseconds
for each of the dozen figures of a request; one event loop needs neither. Workers add their numbers up.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping

from msgspec import Struct
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_OVERHEAD_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5)
_SHARES = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
_SPREADS = {
    "router_request_seconds": ("Whole time of a request", _SECONDS),
    "router_time_to_first_token_seconds": ("Time to the first piece of the answer", _SECONDS),
    "router_overhead_seconds": ("Time before the upstream was called", _OVERHEAD_SECONDS),
    "router_classifier_confidence": ("Probability of the category", _SHARES),
}


class Spread:
    """Count values by the smallest bound that holds them."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.sum += value


class Gauge(Struct, frozen=True):
    """A figure of the service as a whole."""

    name: str
    text: str
    value: float


class Numbers(Struct, array_like=True):
    """The figures of one process, or of several added up, as processes tell them to each other."""

    requests: list[tuple[tuple[str, str, str], int]] = []
    attempts: list[tuple[tuple[str, str], int]] = []
    spreads: list[tuple[list[int], float]] = []
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_nusd: int = 0
    upstream_cost_nusd: int = 0
    inflight: int = 0
    waiting: int = 0
    alerts: int = 0
    resting: list[tuple[str, str, str]] = []

    def ended(self) -> Numbers:
        """Return what is left of a process that has ended: what it counted, nothing that it was doing."""
        return Numbers(
            *(self.requests, self.attempts, self.spreads, self.prompt_tokens, self.completion_tokens),
            *(self.cost_nusd, self.upstream_cost_nusd),
        )


class Metrics:
    """Hold every figure of a router; each counter is a dictionary from label values to a number.

    `breakers` gives the state of each offer that rests, by provider and upstream model, `alerts` the number
    of matters that need the operator, `waiting` that of requests without a place, `gauges` more figures; all
    are asked when the figures are scraped.
    """

    def __init__(
        self,
        breakers: Callable[[], Mapping[tuple[str, str], str]] = dict,
        alerts: Callable[[], int] = int,
        waiting: Callable[[], int] = int,
        gauges: Callable[[], Iterable[Gauge]] = tuple,
    ) -> None:
        self._breakers = breakers
        self._alerts = alerts
        self._waiting = waiting
        self._gauges = gauges
        self.requests: dict[tuple[str, str, str], int] = defaultdict(int)  # category, model, outcome
        self.attempts: dict[tuple[str, str], int] = defaultdict(int)  # provider, outcome
        self.seconds = Spread(_SECONDS)
        self.first_token = Spread(_SECONDS)
        self.overhead = Spread(_OVERHEAD_SECONDS)
        self.confidence = Spread(_SHARES)
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.cost_nusd = 0
        self.upstream_cost_nusd = 0
        self.inflight = 0

    def numbers(self) -> Numbers:
        """Return the figures of this process."""
        spreads = (self.seconds, self.first_token, self.overhead, self.confidence)
        return Numbers(
            requests=list(self.requests.items()),
            attempts=list(self.attempts.items()),
            spreads=[(list(spread.counts), spread.sum) for spread in spreads],
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            cost_nusd=self.cost_nusd,
            upstream_cost_nusd=self.upstream_cost_nusd,
            inflight=self.inflight,
            waiting=self._waiting(),
            alerts=self._alerts(),
            resting=[(*offer, state) for offer, state in self._breakers().items()],
        )

    def render(self, others: Iterable[Numbers] = ()) -> bytes:
        """Return the exposition text of this process's figures and those of its colleagues."""
        registry = CollectorRegistry()
        registry.register(_Families(added([self.numbers(), *others]), list(self._gauges())))
        return generate_latest(registry)


def added(all_numbers: Iterable[Numbers]) -> Numbers:
    """Return the sum over processes; an offer that rests in one of them rests."""
    requests: Counter[tuple[str, str, str]] = Counter()
    attempts: Counter[tuple[str, str]] = Counter()
    spreads = [([0] * (len(bounds) + 1), 0.0) for _, bounds in _SPREADS.values()]
    total = Numbers()
    for each in all_numbers:
        requests.update(dict(each.requests))
        attempts.update(dict(each.attempts))
        spreads = [
            ([a + b for a, b in zip(counts, more, strict=True)], summed + more_sum)
            for (counts, summed), (more, more_sum) in zip(spreads, each.spreads, strict=True)
        ]
        total.prompt_tokens += each.prompt_tokens
        total.completion_tokens += each.completion_tokens
        total.cost_nusd += each.cost_nusd
        total.upstream_cost_nusd += each.upstream_cost_nusd
        total.inflight += each.inflight
        total.waiting += each.waiting
        total.alerts = max(total.alerts, each.alerts)
        total.resting = list(dict.fromkeys([*total.resting, *each.resting]))
    total.requests, total.attempts, total.spreads = list(requests.items()), list(attempts.items()), spreads
    return total


class _Families(Collector):
    """Put numbers into Prometheus' families."""

    def __init__(self, numbers: Numbers, gauges: list[Gauge]) -> None:
        self._numbers = numbers
        self._gauges = gauges

    def collect(self) -> Iterator[Metric]:
        """Yield the families."""
        numbers = self._numbers
        requests = CounterMetricFamily(
            "router_requests", "Requests by result", labels=("category", "model", "outcome")
        )
        for labels, count in numbers.requests:
            requests.add_metric(labels, count)
        yield requests
        attempts = CounterMetricFamily(
            "router_upstream_attempts", "Calls to upstreams by result", labels=("provider", "outcome")
        )
        for pair, count in numbers.attempts:
            attempts.add_metric(pair, count)
        yield attempts
        tokens = CounterMetricFamily("router_tokens", "Tokens billed", labels=("direction",))
        tokens.add_metric(("prompt",), numbers.prompt_tokens)
        tokens.add_metric(("completion",), numbers.completion_tokens)
        yield tokens
        for (name, (text, bounds)), (counts, summed) in zip(_SPREADS.items(), numbers.spreads, strict=True):
            yield _histogram(name, text, bounds, counts, summed)
        for name, text, value in (
            ("router_cost_nusd", "Charged to customers, nano-USD", numbers.cost_nusd),
            ("router_upstream_cost_nusd", "Asked by upstreams, nano-USD", numbers.upstream_cost_nusd),
        ):
            yield CounterMetricFamily(name, text, value=value)
        yield GaugeMetricFamily("router_inflight", "Requests in progress", value=numbers.inflight)
        yield GaugeMetricFamily("router_waiting", "Requests that wait for a place", value=numbers.waiting)
        resting = GaugeMetricFamily(
            "router_breaker_open", "Offers that rest after failures", labels=("provider", "model", "state")
        )
        for offer in numbers.resting:
            resting.add_metric(offer, 1)
        yield resting
        yield GaugeMetricFamily("router_alerts", "Matters that need the operator", value=numbers.alerts)
        for gauge in self._gauges:
            yield GaugeMetricFamily(gauge.name, gauge.text, value=gauge.value)


def _histogram(
    name: str, text: str, bounds: tuple[float, ...], counts: list[int], summed: float
) -> HistogramMetricFamily:
    """Return the histogram, its counts added up as Prometheus wants them."""
    total, buckets = 0, []
    for bound, count in zip((*map(str, bounds), "+Inf"), counts, strict=True):
        total += count
        buckets.append((bound, float(total)))
    return HistogramMetricFamily(name, text, buckets=buckets, sum_value=summed)
