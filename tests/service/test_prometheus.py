"""A real Prometheus scrapes real routers: no query of the dashboard is empty, and the counts are right."""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.paying import MODEL, Shop, counter
from tests.prometheus import Prometheus, needs
from tests.redis_server import RedisServer
from tests.router import Asking
from tests.service.walking import question, wait_for
from tests.upstream import answer, status, stream
from tests.workers import Workers

DASHBOARD = Path(__file__).parents[2] / "deploy" / "grafana" / "llm-router.json"
QUERIES = [
    (panel["title"], target["expr"])
    for panel in json.loads(DASHBOARD.read_text())["panels"]
    for target in panel.get("targets", ())
]
SCRAPED_S = 20.0


def traffic(shop: Shop, workers: Asking) -> None:
    """Send three paid answers, one of them a stream, four without a key, and what fails."""
    shop.upstream.on(MODEL, answer())
    assert shop.pay(shop.payer(), "exact", question()).status == 200
    assert shop.pay(shop.payer(), "upto", question()).status == 200
    for _ in range(4):
        assert workers.chat().status == 200
    shop.upstream.on(MODEL, stream("some words"))
    assert shop.pay(shop.payer(), "upto", question(stream=True)).status == 200


def failure(shop: Shop) -> None:
    shop.upstream.on(MODEL, status(500))
    assert shop.pay(shop.payer(), "upto", question()).status == 502


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    needs("prometheus")
    folder = tmp_path_factory.mktemp("scraped")
    (folder / "workers").mkdir()
    (folder / "prometheus").mkdir()
    with (
        counter(folder / "shop") as shop,
        RedisServer() as redis,
        Workers(folder / "workers", folder / "shop" / "catalog", 2, ROUTER_SHARED_URL=redis.url) as workers,
        Prometheus(folder / "prometheus", [shop.router.port, workers.port]) as prometheus,
    ):
        traffic(shop, workers)
        failure(shop)  # what appears for the first time has no rate yet
        ended(prometheus, 8)
        shop.router.skip(60)
        traffic(shop, workers)
        failure(shop)
        shop.upstream.on(MODEL, status(401))  # an offer whose key is refused rests at once
        assert shop.pay(shop.payer(), "upto", question()).status == 502
        ended(prometheus, 17)
        yield prometheus


def ended(prometheus: Prometheus, wanted: int) -> None:
    """Wait until so many requests, the unpaid askings left out, are in what was scraped."""
    query = 'sum(router_requests_total{outcome!="payment_required"})'
    wait_for(lambda: total(prometheus, query) == wanted or None, f"{wanted} requests", SCRAPED_S)


@pytest.mark.parametrize(("title", "query"), QUERIES)
def test_no_query_of_the_dashboard_is_empty(scraped: Prometheus, title: str, query: str) -> None:
    asked = query.replace("$instance", ".*").replace("$__rate_interval", "1m").replace("$__range", "1h")
    found = scraped.ask(asked)
    assert found, title
    assert not any(math.isnan(value) for _, value in found), (title, found)


def total(scraped: Prometheus, query: str) -> float:
    return sum(value for _, value in scraped.ask(query))


def test_what_is_counted_is_what_was_sent(scraped: Prometheus) -> None:
    assert total(scraped, 'router_requests_total{outcome="ok",payer="wallet"}') == 6
    assert total(scraped, 'router_requests_total{outcome="ok",payer="open"}') == 8
    assert total(scraped, 'router_requests_total{outcome="upstream_error"}') == 3
    assert total(scraped, 'router_payments_total{outcome="settled",scheme="exact"}') == 2
    assert total(scraped, 'router_payments_total{outcome="settled",scheme="upto"}') == 4
    assert total(scraped, "router_workers") == 2
    assert total(scraped, 'router_upstream_attempts_total{outcome="ok"}') == 14


def test_prometheus_takes_every_rule_and_none_fires_at_what_is_in_order(scraped: Prometheus) -> None:
    def evaluated() -> bool | None:
        return all(rule["health"] == "ok" for rule in scraped.rules()) or None

    wait_for(evaluated, "every rule", SCRAPED_S)
    assert {rule["lastError"] for rule in scraped.rules() if "lastError" in rule} == set()
    assert "RouterDown" not in {rule["name"] for rule in scraped.rules() if rule["state"] != "inactive"}


def test_promtool_finds_nothing_to_say_of_the_metrics(scraped: Prometheus) -> None:
    for metrics, _ in scraped.ask("up"):
        router = Asking()
        router.port = int(metrics["instance"].rsplit(":", 1)[1])
        text = router.request("GET", "/metrics").body
        done = subprocess.run(
            [needs("promtool"), "check", "metrics"], input=text, capture_output=True, check=False
        )
        assert (done.returncode, done.stderr, done.stdout) == (0, b"", b"")
