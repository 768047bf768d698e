"""The catalog in this repository: sound, rated from a source, and wide enough for every category."""

from __future__ import annotations

import re
import tomllib
from datetime import date
from pathlib import Path

import pytest

from router.catalog.files import check_catalog
from router.catalog.schema import KINDS, schema_text
from router.catalog.snapshot import CATEGORIES, Category, Snapshot

DIRECTORY = Path(__file__).parents[2] / "models_catalog"
READ_ON = date(2026, 11, 22)


@pytest.fixture(scope="module")
def shipped() -> Snapshot:
    keys = {
        name: "set"
        for path in (DIRECTORY / "providers").glob("*.toml")
        if (name := tomllib.loads(path.read_text()).get("key_env"))
    }
    snapshot, faults, _ = check_catalog(DIRECTORY, environ=keys, today=READ_ON)
    assert faults == []
    assert snapshot is not None
    return snapshot


def test_it_is_wide(shipped: Snapshot) -> None:
    offers = [offer for model in shipped.models.values() for offer in model.offers]
    assert len(shipped.models) >= 60
    assert len({name.partition("/")[0] for name in shipped.models}) >= 12
    assert len({offer.provider for offer in offers}) >= 15
    assert len(offers) >= 200
    assert shipped.policy.baseline in shipped.models


def test_its_only_warnings_are_old_prices(shipped: Snapshot) -> None:
    assert [str(w) for w in shipped.warnings if not w.path.endswith(".price_as_of")] == []
    assert all("models.dev" in (DIRECTORY / warning.file).read_text() for warning in shipped.warnings)


def test_every_rating_names_its_source_and_day() -> None:
    tables = [tomllib.loads(path.read_text()) for path in (DIRECTORY / "models").rglob("*.toml")]
    rated = [table["quality"] for table in tables if "quality" in table]
    assert len(rated) >= 17
    assert all(quality["source"] and isinstance(quality["as_of"], date) for quality in rated)


def test_every_rating_is_the_percentile_of_the_rank_beside_it() -> None:
    rated = 0
    for path in (DIRECTORY / "models").rglob("*.toml"):
        text = path.read_text()
        quality = tomllib.loads(text).get("quality", {})
        ranks = re.findall(r"^(\w+) = [\d.]+ +# rank (\d+) of (\d+)", text, re.MULTILINE)
        assert {category for category, _, _ in ranks} == {c for c in CATEGORIES if c in quality}, path
        for category, rank, ranked in ranks:
            percentile = 100 * (int(ranked) - int(rank)) / (int(ranked) - 1)
            assert quality[category] == pytest.approx(percentile, abs=0.051), path
            rated += 1
    assert rated >= 50


def test_a_model_without_a_rating_says_why_in_its_file() -> None:
    for path in (DIRECTORY / "models").rglob("*.toml"):
        text = path.read_text()
        assert ("\n# No [quality]: " in text) == ("quality" not in tomllib.loads(text)), path


@pytest.mark.parametrize("kind", KINDS)
def test_the_schemas_for_editors_are_those_of_the_program(kind: str) -> None:
    assert (DIRECTORY / f"schema/{kind}.json").read_text() == schema_text(kind)


def test_every_file_names_its_schema_where_editors_look() -> None:
    files = sorted(DIRECTORY.rglob("*.toml"))
    for path in files:
        directive, blank = path.read_text().splitlines()[:2]
        named, _, schema = directive.partition(" ")
        # Relative to the file, and with a blank line after it (taplo wants the first, tombi the second).
        assert (named, blank) == ("#:schema", ""), path
        kind = {"models": "model", "providers": "provider"}.get(
            path.relative_to(DIRECTORY).parts[0], "policy"
        )
        assert (path.parent / schema).resolve() == DIRECTORY.resolve() / f"schema/{kind}.json", path
    assert len(files) > 80


@pytest.mark.parametrize("category", CATEGORIES)
def test_every_category_has_models_at_very_different_prices(shipped: Snapshot, category: Category) -> None:
    rated = [model for model in shipped.models.values() if category in model.quality]
    prices = sorted(min(offer.price.output for offer in model.offers if not offer.free) for model in rated)
    assert len(rated) >= 8
    assert prices[-1] >= 50 * prices[0]


def test_every_priced_offer_has_a_day_and_a_comment_with_its_source() -> None:
    for path in (DIRECTORY / "models").rglob("*.toml"):
        text = path.read_text()
        offers = tomllib.loads(text)["offers"]
        remote = [offer for offer in offers if offer["provider"] != "ollama"]
        assert all("price_as_of" in offer for offer in remote), path
        comments = [line for line in text.splitlines() if line.startswith("# Price: ")]
        assert len(comments) == len(remote), path
        assert [" Speed: " in line for line in comments] == ["speed" in offer for offer in remote], path


def test_every_provider_serves_or_runs_here(shipped: Snapshot) -> None:
    serving = {offer.provider for model in shipped.models.values() for offer in model.offers}
    idle = {name for name in shipped.providers if name not in serving}
    assert idle == {"lmstudio", "vllm", "llamacpp"}
    assert {shipped.providers[name].key_env for name in idle} == {None}


def test_deepseek_costs_twice_as_much_at_peak_hours(shipped: Snapshot) -> None:
    (offer,) = (o for o in shipped.models["deepseek/deepseek-v4.1-flash"].offers if o.provider == "deepseek")
    assert (offer.price.input, offer.price.cache_read) == (150_000, 3_000)
    assert [(rule.utc, rule.multiply_ppm) for rule in offer.when] == [
        ((60, 240), 2_000_000),
        ((360, 600), 2_000_000),
    ]
    assert {rule.days for rule in offer.when} == {frozenset(range(5))}


def test_with_keys_only_what_needs_a_local_server_is_off(shipped: Snapshot) -> None:
    off = [offer for model in shipped.models.values() for offer in model.offers if offer.unusable]
    assert off
    assert {offer.unusable for offer in off} == {"nothing answers on 127.0.0.1:11434 (start Ollama)"}
