"""The catalog in this repository: sound, rated from a source, and wide enough for every category."""

from __future__ import annotations

import tomllib
from datetime import date
from pathlib import Path

import pytest

from router.catalog.files import check_catalog
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
    assert len(shipped.models) >= 45
    assert sum(len(model.offers) for model in shipped.models.values()) >= 150
    assert shipped.policy.baseline in shipped.models


def test_its_only_warnings_are_old_prices(shipped: Snapshot) -> None:
    others = [text for text in shipped.warnings if "price_as_of" not in text]
    assert others == []
    assert all("models.dev" in (DIRECTORY / text.partition(":")[0]).read_text() for text in shipped.warnings)


def test_every_rating_names_its_source_and_day() -> None:
    tables = [tomllib.loads(path.read_text()) for path in (DIRECTORY / "models").rglob("*.toml")]
    rated = [table["quality"] for table in tables if "quality" in table]
    assert len(rated) >= 17
    assert all(quality["source"] and isinstance(quality["as_of"], date) for quality in rated)


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
        assert text.count("# Price: ") == len(remote), path


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
