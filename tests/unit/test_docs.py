"""The documents say what the code says: words of losers and winners, the breaker's figures, the settings."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

import router
from router.access import reasons
from router.access.buying import ASK_FACTOR, ASK_FLOOR_NUSD
from router.access.demands import LONGEST_S
from router.access.mpp import TEMPO_CHALLENGE_S
from router.access.terms import QUOTE_S
from router.errors import OutOfCredit, PaymentRefused, PaymentRequired, SettlementUnknown
from router.ledger.money import NUSD_PER_USD
from router.payment_settings import PaymentSettings
from router.routing import breaker, live
from router.routing.losers import FILTERS
from router.routing.pool import TIE
from router.routing.quality import SURE
from router.settings import Settings
from router.shop import RETRY_S
from router.till import RECEIPT_S
from router.topup import LEAST_NUSD, MOST_NUSD

PACKAGE = Path(router.__file__).parent
DOCUMENTS = PACKAGE.parent
DECIDES = (DOCUMENTS / "docs" / "how-routing-decides.md").read_text()
README = (DOCUMENTS / "README.md").read_text()
PAYMENTS = (DOCUMENTS / "docs" / "payments.md").read_text()


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


def names_raised(*files: str) -> set[str]:
    """Return the names that these files give to errors of payments: `name="..."` of a call or a class."""
    found = set()
    for file in files:
        for node in ast.walk(ast.parse((PACKAGE / file).read_text())):
            if isinstance(node, ast.keyword) and node.arg == "name" and isinstance(node.value, ast.Constant):
                found.add(str(node.value.value))
    return found


def test_every_reason_and_name_that_a_payer_can_see_is_explained() -> None:
    cells = re.findall(r"^\|(?: \d+ \|)? (`[^|]+`) \|", PAYMENTS, re.MULTILINE)
    listed = {word for cell in cells for word in re.findall(r"`(\w+)`", cell)}
    told = {
        text for text in vars(reasons).values() if isinstance(text, str) and re.fullmatch("[a-z0-9_]+", text)
    }
    named = names_raised("till.py", "ledger/claims.py", "access/challenge.py", "access/selling.py")
    classes = {PaymentRequired.name, PaymentRefused.name, SettlementUnknown.name, OutOfCredit.name}
    assert (told | named | classes) - listed == set()


@pytest.mark.parametrize("name", PaymentSettings.model_fields)
def test_the_page_on_payments_names_every_setting_of_theirs(name: str) -> None:
    ending = name.removeprefix("x402_asset").upper()
    assert f"ROUTER_{name.upper()}" in PAYMENTS or f"`{ending}`" in PAYMENTS


@pytest.mark.parametrize(
    "said",
    [
        f"within {RECEIPT_S} seconds",
        f"asks again, every {RETRY_S[-1]:g} seconds in the end",
        f"from {LEAST_NUSD / NUSD_PER_USD:g} to {MOST_NUSD // NUSD_PER_USD:,} USD",
        f"A challenge of `tempo` is good for {TEMPO_CHALLENGE_S} seconds",
    ],
)
def test_the_figures_of_payments_are_those_of_the_code(said: str) -> None:
    assert (ASK_FACTOR, ASK_FLOOR_NUSD, LONGEST_S, QUOTE_S) == (2, NUSD_PER_USD // 1_000, 600, 120)
    assert said in " ".join(PAYMENTS.split())


@pytest.mark.parametrize("name", Settings.model_fields)
def test_the_readme_lists_every_setting(name: str) -> None:
    assert f"`ROUTER_{name.upper()}`" in README


PAGES = [
    "README.md",
    "models_catalog/README.md",
    *(f"docs/{p.name}" for p in (DOCUMENTS / "docs").glob("*.md")),
]


def links(page: str) -> list[tuple[str, str]]:
    """Return the links of a page within the repository: (file or nothing, heading or nothing)."""
    text = re.sub(r"^```.*?^```", "", (DOCUMENTS / page).read_text(), flags=re.DOTALL | re.MULTILINE)
    found = re.findall(r"\]\(([^)\s]+)\)|(?:src|srcset|href)=\"([^\"]+)\"", text)
    inside = [link for pair in found for link in pair if link and "://" not in link]
    return [(link.partition("#")[0], link.partition("#")[2]) for link in inside]


def headings(page: Path) -> set[str]:
    """Return the names under which GitHub links the headings of a page."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    words = [re.sub(r"[^\w\- ]", "", re.sub(r"\]\([^)]*\)", "", title)).lower() for title in titles]
    return {title.replace(" ", "-") for title in words}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_file_and_a_heading_of_it(page: str) -> None:
    found = links(page)
    assert found
    here = DOCUMENTS / page
    assert [file for file, _ in found if not (here.parent / file).exists()] == []
    lost = [
        (file, heading)
        for file, heading in found
        if heading and heading not in headings(here.parent / file if file else here)
    ]
    assert lost == []


def test_the_index_and_the_readme_lead_to_every_page() -> None:
    pages = {path.name for path in (DOCUMENTS / "docs").glob("*.md")} - {"README.md"}
    assert pages - {file for file, _ in links("docs/README.md")} == set()
    assert pages - {Path(file).name for file, _ in links("README.md")} == set()


def test_the_architecture_has_every_room_in_the_order_of_the_import_rules() -> None:
    settings = tomllib.loads((DOCUMENTS / "pyproject.toml").read_text())
    layers = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    text = (DOCUMENTS / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", text.partition("## The rooms")[2], re.MULTILINE)
    listed = [room for row in rows for room in re.findall(r"\w+", row)]
    rooms = [room.removeprefix("router.") for layer in layers for room in layer.split(" | ")]
    below = [layer for layer in ("images", "rawjson", "payment_settings") if layer in rooms]
    assert sorted(listed) == sorted(rooms)
    assert [r for r in listed if r not in below] == [r for r in rooms if r not in below]


def test_the_architecture_names_no_file_that_is_not_there() -> None:
    text = (DOCUMENTS / "docs" / "architecture.md").read_text()
    named = re.findall(
        r"(?<![\w./])((?:\w+/)*\w+\.(?:py|toml))\b|(?<![\w./])((?:tests|classifier|cli)/\w+)", text
    )
    files = [name for pair in named for name in pair if name]
    assert len(files) > 20
    assert [f for f in files if not (PACKAGE / f).exists() and not (DOCUMENTS / f).exists()] == []


def test_the_recording_is_small_and_asks_the_network_for_nothing() -> None:
    drawn = (DOCUMENTS / "docs" / "demo.svg").read_bytes()
    assert len(drawn) < 150_000
    ElementTree.fromstring(drawn)
    assert re.findall(rb"@font-face|@import|<script|<image|href=|url\((?!\"?#)", drawn) == []
    assert re.findall(rb"/(?:home|root|tmp|Users)/", drawn) == []  # whose machine it was drawn on


@pytest.mark.parametrize(
    ("aim", "said"),
    [
        ("requests/s, 64 connections, 1 kB", "{} requests/s on one core"),
        ("... against LiteLLM (x)", "{} times LiteLLM's"),
        ("... against TensorZero (x)", "{} of TensorZero's"),
        ("added p50 at one connection, ms", "{} ms added"),
    ],
)
def test_the_readmes_speed_is_the_measured_one(aim: str, said: str) -> None:
    table = (DOCUMENTS / "benchmarks" / "README.md").read_text()
    (row,) = [line for line in table.splitlines() if line.startswith(f"| {aim} |")]
    assert said.format(row.split("|")[2].strip()) in README
