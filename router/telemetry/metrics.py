"""Prometheus metrics, in a registry of their own; label values come from small fixed sets."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_OVERHEAD_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5)


class Metrics:
    """Hold every metric of a router."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self.requests = Counter(
            "router_requests", "Requests by result", ("category", "model", "outcome"), registry=registry
        )
        self.seconds = Histogram(
            "router_request_seconds", "Whole time of a request", registry=registry, buckets=_SECONDS
        )
        self.first_token = Histogram(
            "router_time_to_first_token_seconds",
            "Time to the first piece of the answer",
            registry=registry,
            buckets=_SECONDS,
        )
        self.overhead = Histogram(
            "router_overhead_seconds",
            "Time before the upstream was called",
            registry=registry,
            buckets=_OVERHEAD_SECONDS,
        )
        self.tokens = Counter("router_tokens", "Tokens billed", ("direction",), registry=registry)
        self.cost_nusd = Counter("router_cost_nusd", "Charged to customers, nano-USD", registry=registry)
        self.upstream_cost_nusd = Counter(
            "router_upstream_cost_nusd", "Asked by upstreams, nano-USD", registry=registry
        )
        self.attempts = Counter(
            "router_upstream_attempts", "Calls to upstreams", ("provider", "outcome"), registry=registry
        )
        self.inflight = Gauge("router_inflight", "Requests in progress", registry=registry)
        self.confidence = Histogram(
            "router_classifier_confidence",
            "Probability of the category",
            registry=registry,
            buckets=(0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0),
        )

    def render(self) -> bytes:
        """Return the exposition text."""
        return generate_latest(self.registry)
