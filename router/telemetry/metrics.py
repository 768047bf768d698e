"""Prometheus metrics: counted in plain numbers while serving, put into families when they are scraped.

Label values come from small fixed sets. prometheus-client's own counters take a lock and several microseconds
for each of the dozen figures of a request; one event loop needs neither.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_OVERHEAD_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5)
_SHARES = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)


class Spread:
    """Count values by the smallest bound that holds them."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def family(self, name: str, text: str) -> HistogramMetricFamily:
        """Return the histogram, its counts added up as Prometheus wants them."""
        total, buckets = 0, []
        for bound, count in zip((*map(str, self._bounds), "+Inf"), self._counts, strict=True):
            total += count
            buckets.append((bound, float(total)))
        return HistogramMetricFamily(name, text, buckets=buckets, sum_value=self._sum)


class Metrics(Collector):
    """Hold every figure of a router; each counter is a dictionary from label values to a number.

    `breakers` gives the state of each offer that rests, by provider and upstream model, and `alerts` the
    number of matters that need the operator; both are asked when the figures are scraped.
    """

    def __init__(
        self,
        breakers: Callable[[], Mapping[tuple[str, str], str]] = dict,
        alerts: Callable[[], int] = int,
    ) -> None:
        self._breakers = breakers
        self._alerts = alerts
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
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """Yield the families."""
        requests = CounterMetricFamily(
            "router_requests", "Requests by result", labels=("category", "model", "outcome")
        )
        for labels, count in self.requests.items():
            requests.add_metric(labels, count)
        yield requests
        attempts = CounterMetricFamily(
            "router_upstream_attempts", "Calls to upstreams by result", labels=("provider", "outcome")
        )
        for pair, count in self.attempts.items():
            attempts.add_metric(pair, count)
        yield attempts
        tokens = CounterMetricFamily("router_tokens", "Tokens billed", labels=("direction",))
        tokens.add_metric(("prompt",), self.prompt_tokens)
        tokens.add_metric(("completion",), self.completion_tokens)
        yield tokens
        yield self.seconds.family("router_request_seconds", "Whole time of a request")
        yield self.first_token.family(
            "router_time_to_first_token_seconds", "Time to the first piece of the answer"
        )
        yield self.overhead.family("router_overhead_seconds", "Time before the upstream was called")
        yield self.confidence.family("router_classifier_confidence", "Probability of the category")
        for name, text, value in (
            ("router_cost_nusd", "Charged to customers, nano-USD", self.cost_nusd),
            ("router_upstream_cost_nusd", "Asked by upstreams, nano-USD", self.upstream_cost_nusd),
        ):
            yield CounterMetricFamily(name, text, value=value)
        yield GaugeMetricFamily("router_inflight", "Requests in progress", value=self.inflight)
        resting = GaugeMetricFamily(
            "router_breaker_open", "Offers that rest after failures", labels=("provider", "model", "state")
        )
        for offer, state in self._breakers().items():
            resting.add_metric((*offer, state), 1)
        yield resting
        yield GaugeMetricFamily("router_alerts", "Matters that need the operator", value=self._alerts())

    def render(self) -> bytes:
        """Return the exposition text."""
        return generate_latest(self._registry)
