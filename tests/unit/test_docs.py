"""The documents say what the code says: words of losers and winners, the breaker's figures, the settings."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import router
from router.routing import breaker, live
from router.routing.losers import FILTERS
from router.routing.pool import TIE
from router.routing.quality import SURE
from router.settings import Settings

PACKAGE = Path(router.__file__).parent
DOCUMENTS = PACKAGE.parent
DECIDES = (DOCUMENTS / "docs" / "how-routing-decides.md").read_text()
README = (DOCUMENTS / "README.md").read_text()


def section(title: str) -> str:
    """Return the text of one section of how-routing-decides.md."""
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", DECIDES, re.DOTALL | re.MULTILINE)
    assert found is not None, title
    return found[1]


def first_cells(title: str) -> list[str]:
    """Return the words of the first column of a section's table, in their order."""
    rows = re.findall(r"^\| (`.*?) \|", section(title), re.MULTILINE)
    return [word for cell in rows for word in re.findall(r"`(\w+)`", cell)]


def functions(file: str, *names: str) -> Iterator[ast.FunctionDef]:
    for node in ast.walk(ast.parse((PACKAGE / file).read_text())):
        if isinstance(node, ast.FunctionDef) and (not names or node.name in names):
            yield node


def words(node: ast.AST) -> set[str]:
    """Return the string constants of one word below a node; keys of dicts are none."""
    keys = {id(key) for found in ast.walk(node) if isinstance(found, ast.Dict) for key in found.keys}
    return {
        found.value
        for found in ast.walk(node)
        if isinstance(found, ast.Constant) and isinstance(found.value, str) and id(found) not in keys
        if re.fullmatch(r"[a-z_]+", found.value)
    }


def returned_first(file: str) -> set[str]:
    """Return the words that functions of a file return as the first of a tuple: those of the losers."""
    returned = [node.value for f in functions(file) for node in ast.walk(f) if isinstance(node, ast.Return)]
    tuples = [value for value in returned if isinstance(value, ast.Tuple)]
    return {
        word for found in tuples for word in words(found.elts[0]) if isinstance(found.elts[0], ast.Constant)
    }


def blocking(file: str) -> set[str]:
    """Return the reasons with which a file blocks offers."""
    calls = [node for node in ast.walk(ast.parse((PACKAGE / file).read_text())) if isinstance(node, ast.Call)]
    blocked = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "Blocked"]
    return {word for call in blocked for word in words(call.args[0])}


def test_every_word_of_a_loser_has_its_meaning_and_no_other_is_listed() -> None:
    listed = first_cells("Why the others lost")
    load = blocking("places.py") | blocking("routing/breaker.py")
    assert load == {"at_limit", "rate_limited", "cooling"}
    assert sorted(listed) == sorted(returned_first("routing/losers.py") | load)


def test_the_filters_are_listed_in_the_order_in_which_they_run() -> None:
    assert first_cells("Why the others lost")[: len(FILTERS)] == list(FILTERS)


def test_every_word_of_a_winner_has_its_meaning() -> None:
    decided = {
        word
        for function in functions("routing/decide.py", "_choose", "_word")
        for node in ast.walk(function)
        if isinstance(node, ast.Return)
        for word in words(node)
    }
    served = {
        word for function in functions("walk.py", "head") for word in words(function) if "fallback" in word
    }
    assert sorted(first_cells("Why it won")) == sorted(decided | served)


@pytest.mark.parametrize(
    "said",
    [
        f"Retry-After, else {breaker.RATE_WAIT_S:g} s",
        f"{breaker.LEAST_CALLS} calls or more in {breaker.WINDOW_S} s, half of them failed",
        f"| {breaker.FAILURES_WAIT_S:g} s, doubled",
        f"401, 402 at {breaker.PROVIDERS_OFFERS} offers of a provider",
        f"| {breaker.AUTH_WAIT_S:g} s, with an alert",
        f"No wait of the router's own is longer than {breaker.LONGEST_WAIT_S:g} s",
        f"none that a provider asks for longer than {breaker.LONGEST_ASKED_S:g} s",
    ],
)
def test_the_breakers_figures_are_those_of_the_code(said: str) -> None:
    assert breaker.FAILED_SHARE == 0.5
    assert said in " ".join(section("Who rests").split())


@pytest.mark.parametrize(
    "said",
    [
        f"half their weight in {live.HALF_LIFE_S:g} s",
        f"as if that had been seen {live.PRIOR_WEIGHT:g} times",
        f"from {live.LEAST_TOKENS} tokens on",
        f"Every {live.TICK_S:g} s",
        f"more than {live.MOVES_BY:.0%} three times",
        f"less than {SURE:.0%} sure",
        f"Within {TIE - 1:.0%} of the lowest score",
    ],
)
def test_the_measured_figures_are_those_of_the_code(said: str) -> None:
    assert live.MOVES_AFTER == 3
    assert said in " ".join(DECIDES.split())


@pytest.mark.parametrize("name", Settings.model_fields)
def test_the_readme_lists_every_setting(name: str) -> None:
    assert f"`ROUTER_{name.upper()}`" in README


@pytest.mark.parametrize(
    "page",
    ["README.md", "models_catalog/README.md", *(f"docs/{p.name}" for p in (DOCUMENTS / "docs").iterdir())],
)
def test_every_link_to_a_file_leads_to_one(page: str) -> None:
    links = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", (DOCUMENTS / page).read_text())
    assert links
    assert [link for link in links if not (DOCUMENTS / page).parent.joinpath(link).exists()] == []
