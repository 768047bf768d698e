"""What `/metrics` shows is what the table of families says, by name, kind and label."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from router.telemetry.families import FAMILIES
from tests.router import Offered, RouterServer, write_catalog
from tests.service.walking import Client, question, request_id, wait_end, wait_for
from tests.upstream import Gate, ScriptedUpstream, answer, status, stream

# What only services of several processes, or those that sell, have to tell.
ELSEWHERE = {"router_workers", "router_limits_shared", "router_replicas"}
CHEAP, DEAR, BASELINE = "test/cheap", "test/dear", "test/baseline"
POLICY = f'baseline = "{BASELINE}"\n'


@pytest.fixture(scope="module")
def up() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as server:
        yield server


@pytest.fixture(params=[0, 64], ids=["no decision log", "a decision log"])
def router(up: ScriptedUpstream, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[RouterServer]:
    models = [
        Offered(CHEAP, price=(1.0, 1.0)),
        Offered(DEAR, price=(9.0, 9.0)),
        Offered(BASELINE, price=(3.0, 3.0)),
    ]
    catalog = write_catalog(tmp_path / "catalog", {"scripted": up.base_url}, models, policy=POLICY)
    with RouterServer(catalog, tmp_path / "data", decision_log_mib=request.param) as server:
        for model in (CHEAP, DEAR, BASELINE):
            up.on(model, answer())
        yield server


def families(router: RouterServer) -> dict[str, Metric]:
    text = router.request("GET", "/metrics").body.decode()
    return {found.name: found for found in text_string_to_metric_families(text)}


def value(router: RouterServer, name: str, **labels: str) -> float:
    family = families(router)[name.removesuffix("_total")]
    return sum(s.value for s in family.samples if s.name == name and labels.items() <= s.labels.items())


def test_each_metric_has_the_name_kind_and_labels_of_the_table(
    router: RouterServer, up: ScriptedUpstream
) -> None:
    up.on(DEAR, status(500))
    router.chat(model=DEAR)
    router.chat()
    found = families(router)
    assert set(found) == set(FAMILIES) - ELSEWHERE
    for name, metric in found.items():
        family = FAMILIES[name]
        assert (metric.type, metric.documentation) == (family.kind, family.text)
        for sample in metric.samples:
            assert set(sample.labels) == family.series[sample.name]


def test_what_was_saved_is_the_baselines_price_less_the_upstreams(router: RouterServer) -> None:
    cheap = wait_end(router, request_id(router.chat(model=CHEAP)))
    wait_for(lambda: True if value(router, "router_saved_nusd_total") else None, "the saving")
    assert value(router, "router_saved_nusd_total") == 2 * cheap.upstream_cost_nusd
    assert value(router, "router_overspent_nusd_total") == 0
    dear = wait_end(router, request_id(router.chat(model=DEAR)))
    wait_for(lambda: True if value(router, "router_overspent_nusd_total") else None, "the loss")
    assert value(router, "router_overspent_nusd_total") == dear.upstream_cost_nusd * 2 // 3
    assert value(router, "router_saved_nusd_total") == 2 * cheap.upstream_cost_nusd


def test_a_running_request_is_counted_at_its_model_and_holds_money(
    router: RouterServer, up: ScriptedUpstream
) -> None:
    gate = Gate()
    up.on(CHEAP, stream("first second", gate=gate, gate_after=2))
    client = Client(router, question(model=CHEAP, stream=True))
    client.head()
    assert value(router, "router_inflight", model=CHEAP) == 1
    assert value(router, "router_ledger_held_nusd") > 0
    gate.open()
    client.read_rest()
    wait_for(lambda: True if value(router, "router_ledger_held_nusd") == 0 else None, "the release")
    assert value(router, "router_inflight") == 0
    assert value(router, "router_inflight", model=CHEAP) == 0


def test_a_key_is_told_from_open_access(router: RouterServer) -> None:
    router.chat(model=CHEAP)
    router.chat(model=CHEAP, headers={"authorization": "Bearer rk_wrong"})
    assert value(router, "router_requests_total", payer="open", outcome="ok") == 1
    assert value(router, "router_requests_total", payer="none", outcome="invalid_api_key") == 1


def test_the_catalogs_age_and_a_rejected_edit_show(router: RouterServer) -> None:
    router.step(100)
    assert value(router, "router_catalog_age_seconds") >= 100
    assert value(router, "router_catalog_offers") == 3
    assert value(router, "router_catalog_price_age_seconds") >= 86_400
    assert value(router, "router_catalog_rejected") == 0
    (router.settings.catalog or Path()).joinpath("policy.toml").write_text("mode = 3\n")
    wait_for(lambda: True if value(router, "router_catalog_rejected") == 1 else None, "the rejection")
