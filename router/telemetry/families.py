"""Every metric that `/metrics` may show: name, kind, labels and meaning, in one table.

The exposition, the table of docs/operations.md and the checks of the dashboard and the alert rules come from
it. Label values are from small fixed sets: categories, models and providers of the catalog, fixed words.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_OVERHEAD_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5)
_SHARES = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)


class Family(NamedTuple):
    """One metric; a counter is shown with `_total`, a histogram as `_bucket`, `_sum` and `_count`."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    text: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()

    @property
    def shown(self) -> str:
        """Return the name as queries write it."""
        return f"{self.name}_total" if self.kind == "counter" else self.name

    @property
    def series(self) -> dict[str, frozenset[str]]:
        """Return the names of its samples, each with its labels."""
        labels = frozenset(self.labels)
        if self.kind != "histogram":
            return {self.shown: labels}
        return {
            f"{self.name}_bucket": labels | {"le"},
            f"{self.name}_sum": labels,
            f"{self.name}_count": labels,
        }


_ALL = (
    Family(
        "router_requests",
        "counter",
        "Requests that ended: `outcome` is ok or the error's name, `payer` open, key, wallet or none",
        ("category", "model", "outcome", "payer"),
    ),
    Family(
        "router_upstream_attempts",
        "counter",
        "Calls to upstreams: `outcome` is ok or the kind of the fault. One request may make several",
        ("provider", "outcome"),
    ),
    Family(
        "router_payments",
        "counter",
        "Settlements of wallet payments",
        ("protocol", "scheme", "outcome"),
    ),
    Family(
        "router_tokens",
        "counter",
        "Tokens billed; `direction` is prompt or completion",
        ("direction", "model"),
    ),
    Family("router_request_seconds", "histogram", "Whole time of a request", bounds=_SECONDS),
    Family(
        "router_time_to_first_token_seconds",
        "histogram",
        "Time to the first piece of the answer; of a whole answer, to all of it",
        bounds=_SECONDS,
    ),
    Family(
        "router_overhead_seconds",
        "histogram",
        "Time before the upstream was called, waiting for a place not counted",
        bounds=_OVERHEAD_SECONDS,
    ),
    Family(
        "router_classifier_confidence",
        "histogram",
        "Probability of the category, of requests for auto",
        bounds=_SHARES,
    ),
    Family("router_cost_nusd", "counter", "Charged to customers, nano-USD", ("model",)),
    Family("router_upstream_cost_nusd", "counter", "Asked by upstreams, nano-USD", ("model",)),
    Family(
        "router_saved_nusd",
        "counter",
        "What requests cost less than at the policy's baseline, nano-USD",
    ),
    Family(
        "router_overspent_nusd",
        "counter",
        "What requests cost more than at the policy's baseline, nano-USD; saved - overspent is the saving",
    ),
    Family("router_inflight", "gauge", "Requests in progress; none has no model yet", ("model",)),
    Family("router_waiting", "gauge", "Requests that wait for a place"),
    Family(
        "router_breaker_open",
        "gauge",
        "1 for an offer that rests after failures; `model` is the upstream's id",
        ("provider", "model", "state"),
    ),
    Family("router_alerts", "gauge", "Matters that need the operator; the log names each"),
    Family("router_ledger_held_nusd", "gauge", "Set aside for requests in progress, nano-USD"),
    Family("router_catalog_age_seconds", "gauge", "Time since the catalog that serves was taken"),
    Family("router_catalog_rejected", "gauge", "1 while an edit of the catalog is rejected"),
    Family("router_catalog_offers", "gauge", "Offers that can be used"),
    Family("router_catalog_price_age_seconds", "gauge", "Age of the oldest price of an offer that is used"),
    Family("router_build_info", "gauge", "1, with the version", ("version",)),
    Family("router_workers", "gauge", "Worker processes that listen; only with several"),
    Family(
        "router_limits_shared",
        "gauge",
        "1 while limits are shared through Redis, 0 while each replica goes by its part; only with Redis",
    ),
    Family("router_replicas", "gauge", "Processes that share limits; only with Redis"),
)
FAMILIES = {family.name: family for family in _ALL}


def table() -> str:
    """Return all metrics as a table in Markdown."""
    rows = ["| metric | kind | labels | meaning |", "|---|---|---|---|"]
    for family in _ALL:
        labels = ", ".join(f"`{label}`" for label in family.labels)
        rows.append(f"| `{family.shown}` | {family.kind} | {labels} | {family.text} |")
    return "\n".join(rows)
