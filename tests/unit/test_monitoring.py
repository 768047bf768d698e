"""Every query of the dashboard and of the alert rules asks for metrics and labels that the router has."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser as promql
import pytest
import yaml

import router
from router.history.record import FAILED, SERVED
from router.telemetry.families import FAMILIES

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana" / "llm-router.json").read_text())
RULES = [
    rule
    for group in yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
SOURCES = "".join(path.read_text() for path in Path(router.__file__).parent.rglob("*.py"))
SERIES = {name: labels for family in FAMILIES.values() for name, labels in family.series.items()}
COUNTERS = {family.shown for family in FAMILIES.values() if family.kind == "counter"}
# What Prometheus itself adds to each sample, and its own metric of whether a scrape worked.
SCRAPED = {"instance", "job"}
KNOWN = {**{name: labels | SCRAPED for name, labels in SERIES.items()}, "up": frozenset(SCRAPED)}


def panel_queries() -> list[tuple[str, str, str]]:
    return [
        (panel["title"], target["expr"], target["legendFormat"])
        for panel in DASHBOARD["panels"]
        for target in panel.get("targets", ())
    ]


QUERIES = [
    *(
        (title, query.replace("$__rate_interval", "5m").replace("$__range", "1h"))
        for title, query, _ in panel_queries()
    ),
    *((rule["alert"], rule["expr"]) for rule in RULES),
]


def nodes(expression: Any, inside: tuple[str, ...] = ()) -> Iterator[tuple[Any, tuple[str, ...]]]:
    """Yield every part of a query, each with the functions that it stands in."""
    yield expression, inside
    if isinstance(expression, promql.Call):
        inside = (*inside, expression.func.name)
    for name in ("expr", "lhs", "rhs", "vector_selector", "param"):
        part = getattr(expression, name, None)
        if part is not None:
            yield from nodes(part, inside)
    for part in getattr(expression, "args", None) or ():
        yield from nodes(part, inside)


def asked(query: str) -> list[tuple[Any, tuple[str, ...]]]:
    found = [
        (node, inside)
        for node, inside in nodes(promql.parse(query))
        if isinstance(node, promql.VectorSelector)
    ]
    assert found, "it asks for nothing"
    return found


@pytest.mark.parametrize(("title", "query"), QUERIES)
def test_a_query_asks_for_what_there_is(title: str, query: str) -> None:
    for selector, inside in asked(query):
        assert selector.name in KNOWN, f"{title}: the router has no {selector.name}"
        labels = {matcher.name for matcher in selector.matchers.matchers}
        assert labels <= KNOWN[selector.name], f"{title}: {selector.name} has no {labels}"
        if selector.name in COUNTERS:
            assert inside[-1] in ("rate", "increase"), f"{title}: a counter alone says nothing"


@pytest.mark.parametrize(("title", "query"), QUERIES)
def test_a_query_groups_by_labels_that_its_metrics_have(title: str, query: str) -> None:
    for node, _ in nodes(promql.parse(query)):
        if isinstance(node, promql.AggregateExpr) and node.modifier is not None:
            for selector, _ in asked(str(node.expr)):
                assert set(node.modifier.labels) <= KNOWN[selector.name], title


@pytest.mark.parametrize(("title", "query"), QUERIES)
def test_a_quantile_is_of_a_histogram(title: str, query: str) -> None:
    for node, _ in nodes(promql.parse(query)):
        if isinstance(node, promql.Call) and node.func.name == "histogram_quantile":
            assert {selector.name for selector, _ in asked(query)} <= {
                f"{family.name}_bucket" for family in FAMILIES.values() if family.kind == "histogram"
            }, title


@pytest.mark.parametrize(("title", "query"), QUERIES)
def test_the_words_that_a_query_compares_with_are_the_routers(title: str, query: str) -> None:
    for selector, _ in asked(query):
        for matcher in selector.matchers.matchers:
            if matcher.name not in SCRAPED:
                for word in matcher.value.split("|"):
                    assert f'"{word}"' in SOURCES, f"{title}: nothing is called {word}"


def test_success_is_of_all_that_should_have_been_served() -> None:
    (query,) = [query for title, query, _ in panel_queries() if title == "Success"]
    served, counted = (set(words.split("|")) for words in re.findall(r'outcome=~"([^"]+)"', query))
    assert served == set(SERVED)
    assert counted == served | FAILED - {"cut", "interrupted"}  # which are no outcomes that are counted


def test_the_legends_name_labels_of_their_queries() -> None:
    for title, query, legend in panel_queries():
        said = set(re.findall(r"\{\{(\w+)\}\}", legend))
        assert all(re.search(rf"by \([^)]*\b{label}\b", query) for label in said), title


def test_each_metric_is_on_the_dashboard() -> None:
    shown = {selector.name for _, query in QUERIES for selector, _ in asked(query)}
    assert {name for name, family in FAMILIES.items() if not shown & set(family.series)} == set()


def test_the_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_each_alert_says_what_it_saw_and_what_to_do() -> None:
    assert len({rule["alert"] for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"].endswith(".")
        assert rule["for"]
