"""What `router top` makes of two readings of the metrics."""

from __future__ import annotations

import pytest

from router.cli.scrape import Between, Scrape, Unreachable, scrape
from router.telemetry.metrics import Metrics


def reading(at_s: float, **figures: float) -> Scrape:
    return Scrape(at_s, {(name, ()): value for name, value in figures.items()})


def spread(at_s: float, counts: dict[str, float]) -> Scrape:
    return Scrape(at_s, {("x_bucket", (("le", bound),)): count for bound, count in counts.items()})


def test_a_rate_is_of_the_time_between_two_readings() -> None:
    seen = Between(reading(10.0, x_total=5), reading(14.0, x_total=13))
    assert (seen.grown("x_total"), seen.rate("x_total")) == (8, 2)


def test_a_router_that_started_anew_has_grown_from_nothing() -> None:
    assert Between(reading(10.0, x_total=500), reading(11.0, x_total=3)).grown("x_total") == 3


@pytest.mark.parametrize(
    ("share", "value"), [(0.25, 0.05), (0.5, 0.1), (0.75, 0.55), (0.875, 0.775), (0.99, 1.0)]
)
def test_a_quantile_is_linear_inside_a_bucket(share: float, value: float) -> None:
    nothing = spread(0.0, {"0.1": 0, "1.0": 0, "+Inf": 0})
    seen = Between(nothing, spread(1.0, {"0.1": 4, "1.0": 8, "+Inf": 8}))
    assert seen.quantile(share, "x") == pytest.approx(value, abs=0.03)
    assert Between(nothing, spread(1.0, {"0.1": 0, "1.0": 0, "+Inf": 3})).quantile(share, "x") == 1.0
    assert Between(nothing, nothing).quantile(share, "x") is None


def test_what_the_metrics_count_is_what_is_read() -> None:
    from prometheus_client.parser import text_string_to_metric_families

    metrics = Metrics()
    for seconds in [0.02] * 90 + [4.0] * 10:
        metrics.seconds.observe(seconds)
    figures = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.render(metrics.numbers()).decode())
        for sample in family.samples
    }
    seen = Between(Scrape(0.0, {}), Scrape(1.0, figures))
    half, most = seen.quantile(0.5, "router_request_seconds"), seen.quantile(0.95, "router_request_seconds")
    assert half is not None
    assert most is not None
    assert half < 0.05 < 2.5 < most <= 5


@pytest.mark.parametrize("address", ["localhost:8402", "ftp://x", "http://127.0.0.1:1"])
def test_an_address_where_no_router_is_says_what_to_do(address: str) -> None:
    with pytest.raises(Unreachable, match=r"http://127|router serve"):
        scrape(address, 0.0)


@pytest.mark.parametrize(
    "address", ["127.0.0.1:8402", "http://[::1", "http://127.0.0.1:99999", "http://", "ftp://127.0.0.1"]
)
def test_what_is_no_address_is_told_how_one_is_written(address: str) -> None:
    with pytest.raises(
        Unreachable, match=r"is no address: write it as http://127\.0\.0\.1:8402 or http://\["
    ):
        scrape(address, 0.0)
