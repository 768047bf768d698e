"""Each alert rule fires when what it names happens, and only then: Prometheus' own promtool decides."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from router.history.record import FAILED, SERVED
from tests.prometheus import needs

RULES = Path(__file__).parents[2] / "deploy" / "prometheus" / "alerts.yml"
ALERTS = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
HERE, JOB = 'instance="router-1:8402"', 'job="llm-router"'
# Series, a value a minute (`a+bxn` is a, a+b, ... n more): those of the trouble, then the same in order.
TROUBLE: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "RouterDown": ({f"up{{{HERE},{JOB}}}": "0x600"}, {f"up{{{HERE},{JOB}}}": "1x600"}),
    "RouterFailing": (
        {
            f'router_requests_total{{{HERE},outcome="ok"}}': "0+90x600",
            f'router_requests_total{{{HERE},outcome="settlement_unknown"}}': "0+10x600",
            f'router_requests_total{{{HERE},outcome="rate_limit_exceeded"}}': "0+900x600",  # hides nothing
        },
        {
            f'router_requests_total{{{HERE},outcome="ok"}}': "0+90x600",
            f'router_requests_total{{{HERE},outcome="models_at_limit"}}': "0+4x600",
            f'router_requests_total{{{HERE},outcome="invalid_request"}}': "0+60x600",
        },
    ),
    "RouterProviderFailing": (
        {
            f'router_upstream_attempts_total{{{HERE},provider="groq",outcome="ok"}}': "0+4x600",
            f'router_upstream_attempts_total{{{HERE},provider="groq",outcome="auth"}}': "0+6x600",
        },
        {
            f'router_upstream_attempts_total{{{HERE},provider="groq",outcome="ok"}}': "0+6x600",
            f'router_upstream_attempts_total{{{HERE},provider="groq",outcome="auth"}}': "0+4x600",
        },
    ),
    "RouterNeedsOperator": ({f"router_alerts{{{HERE}}}": "2x600"}, {f"router_alerts{{{HERE}}}": "0x600"}),
    "RouterNothingToServe": (
        {f"router_catalog_offers{{{HERE}}}": "0x600"},
        {f"router_catalog_offers{{{HERE}}}": "1x600"},
    ),
    "RouterCatalogRejected": (
        {f"router_catalog_rejected{{{HERE}}}": "1x600"},
        {f"router_catalog_rejected{{{HERE}}}": "0x600"},
    ),
    "RouterPricesOld": (
        {f"router_catalog_price_age_seconds{{{HERE}}}": "5270400+60x600"},
        {f"router_catalog_price_age_seconds{{{HERE}}}": "86400+60x600"},
    ),
    "RouterSlow": (
        {
            f'router_overhead_seconds_bucket{{{HERE},le="0.1"}}': "0+50x600",
            f'router_overhead_seconds_bucket{{{HERE},le="0.5"}}': "0+100x600",
            f'router_overhead_seconds_bucket{{{HERE},le="+Inf"}}': "0+100x600",
        },
        {
            f'router_overhead_seconds_bucket{{{HERE},le="0.1"}}': "0+100x600",
            f'router_overhead_seconds_bucket{{{HERE},le="+Inf"}}': "0+100x600",
        },
    ),
    "RouterQueueLong": ({f"router_waiting{{{HERE}}}": "51x600"}, {f"router_waiting{{{HERE}}}": "50x600"}),
    "RouterLimitsNotShared": (
        {f"router_limits_shared{{{HERE}}}": "0x600"},
        {f"router_limits_shared{{{HERE}}}": "1x600"},
    ),
    "RouterMoneyHeld": (
        {f"router_ledger_held_nusd{{{HERE}}}": "5x600", f'router_inflight{{{HERE},model="none"}}': "0x600"},
        {f"router_ledger_held_nusd{{{HERE}}}": "5x600", f'router_inflight{{{HERE},model="none"}}': "1x600"},
    ),
    "RouterDearerThanBaseline": (
        {
            f"router_overspent_nusd_total{{{HERE}}}": "0+10000000x600",
            f"router_saved_nusd_total{{{HERE}}}": "0+1000000x600",
        },
        {
            f"router_overspent_nusd_total{{{HERE}}}": "0+1000000x600",
            f"router_saved_nusd_total{{{HERE}}}": "0+1000000x600",
        },
    ),
}


def test_each_alert_has_its_trouble() -> None:
    assert {rule["alert"] for rule in ALERTS} == set(TROUBLE)


def asked(alert: str, series: dict[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Ask promtool whether an alert, and no other, fires eight hours into some series."""
    question = {
        "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
        "eval_time": "8h",
        "exp_samples": [{"labels": f'{{alertname="{alert}"}}', "value": 1}] if alert else [],
    }
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [question],
    }
    file = folder / "test.yml"
    file.write_text(
        yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": [test]})
    )
    return subprocess.run(
        [needs("promtool"), "test", "rules", str(file)], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("alert", TROUBLE)
def test_an_alert_fires_at_its_trouble_and_no_other_does(alert: str, tmp_path: Path) -> None:
    trouble, _ = TROUBLE[alert]
    done = asked(alert, trouble, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("alert", TROUBLE)
def test_nothing_fires_where_all_is_well(alert: str, tmp_path: Path) -> None:
    _, order = TROUBLE[alert]
    done = asked("", order, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_failure_of_ours_counts_as_one() -> None:
    (expression,) = [rule["expr"] for rule in ALERTS if rule["alert"] == "RouterFailing"]
    failed, counted = (set(words.split("|")) for words in re.findall(r'outcome=~"([^"]+)"', expression))
    assert failed == FAILED - {"cut", "interrupted"}  # which are no outcomes that are counted
    assert counted == failed | set(SERVED)
