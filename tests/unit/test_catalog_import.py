"""`router catalog import`: price lists in their packages' own forms become drafts that pass the check."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from router.catalog.files import check_catalog
from router.catalog.snapshot import Model, Price, PriceRule
from router.cli.catalog import catalog
from tests.unit.price_lists import GENAI, GENAI_DATA, GENAI_TYPES, LITELLM

DAY = "2026-11-20"
PROVIDERS = ("openai", "groq", "deepinfra", "novita", "google", "alibaba", "anthropic", "fireworks")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write a catalog of providers without models, and the two lists."""
    for name in PROVIDERS:
        file = tmp_path / "catalog/providers" / f"{name}.toml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f'name = "{name}"\nbase_url = "https://{name}.example/v1"\nkey_env = "A_KEY"\n')
    (tmp_path / "litellm.json").write_text(json.dumps(LITELLM))
    (tmp_path / "genai.json").write_text(json.dumps(GENAI))
    return tmp_path


def run(folder: Path, *arguments: str, source: str = "litellm.json") -> Result:
    options = ["--from", str(folder / source), "--as-of", DAY, "--catalog", str(folder / "catalog")]
    return CliRunner().invoke(catalog, ["import", *options, *arguments])


def imported(folder: Path, *arguments: str, source: str = "litellm.json") -> dict[str, Model]:
    """Write the drafts into the catalog, check it, and return its models."""
    result = run(folder, "--out", str(folder / "catalog"), *arguments, source=source)
    assert result.exit_code == 0, result.output
    today = date.fromisoformat(DAY)
    snapshot, faults, warnings = check_catalog(folder / "catalog", environ={"A_KEY": "k"}, today=today)
    assert faults == []
    assert snapshot is not None
    unrated = {w.path for w in warnings}
    assert unrated == {f"bands.{category}" for category in ("simple", "coding", "reasoning", "vision")}
    return snapshot.models


def test_everything_at_a_known_provider_is_drafted_and_passes_the_check(folder: Path) -> None:
    assert sorted(imported(folder)) == [
        "fireworks/kimi",
        "google/gemini-9-pro",
        "openai/gpt-oss-20b",
        "qwen/qwen-plus",
    ]


def test_a_model_at_two_hosts_is_one_file_with_exact_prices(folder: Path) -> None:
    model = imported(folder, "openai/gpt-oss-20b")["openai/gpt-oss-20b"]
    groq, deepinfra = model.offers

    assert (groq.provider, groq.upstream_model) == ("groq", "openai/gpt-oss-20b")
    assert groq.price == Price(input=75_000, output=300_000, cache_read=37_500, cache_write=75_000)
    assert groq.features == {"tools", "forced_tools", "json_schema", "json_mode", "reasoning"}
    assert groq.max_output == 32_768
    assert deepinfra.price == Price(30_000, 140_000, 30_000, 30_000)  # the float's noise is gone
    assert deepinfra.features == {"tools"}
    assert {offer.price_as_of for offer in model.offers} == {date(2026, 11, 20)}
    text = (folder / "catalog" / model.file).read_text()
    assert text.startswith("#:schema ../../schema/model.json\n\n")
    assert '# Price: litellm.json, "groq/openai/gpt-oss-20b".' in text
    assert "# Left out: max_output = 131_072" in text


def test_tiers_become_rules(folder: Path) -> None:
    models = imported(folder)
    gemini = models["google/gemini-9-pro"]
    assert gemini.offers[0].when == (
        PriceRule(
            above_input=200_000, input=4_000_000, output=18_000_000, cache_read=400_000, cache_write=4_000_000
        ),
    )
    assert (gemini.input, gemini.retires) == (frozenset({"text", "image"}), date(2027, 6, 1))
    (qwen,) = models["qwen/qwen-plus"].offers
    assert qwen.price.input == 400_000
    assert [(rule.above_input, rule.input) for rule in qwen.when] == [(256_000, 1_200_000)]


def test_a_cache_price_above_the_input_is_left_out_with_a_word(folder: Path) -> None:
    (offer,) = imported(folder)["fireworks/kimi"].offers
    assert offer.upstream_model == "accounts/fireworks/models/kimi"
    assert offer.price.cache_read == offer.price.input
    assert "# Left out: cache_read = 0.70" in (folder / "catalog/models/fireworks/kimi.toml").read_text()


def test_the_drafts_are_printed_without_a_folder(folder: Path) -> None:
    result = run(folder, "groq/*")
    assert result.exit_code == 0
    assert result.stdout.startswith("# --- models/openai/gpt-oss-20b.toml\n#:schema")
    assert 'provider = "groq"' in result.stdout
    assert "deepinfra" not in result.stdout  # an id of the list asks for that offer alone
    assert not (folder / "catalog/models").exists()


def test_a_file_is_never_overwritten(folder: Path) -> None:
    mine = folder / "out/models/openai/gpt-oss-20b.toml"
    mine.parent.mkdir(parents=True)
    mine.write_text("# mine\n")
    result = run(folder, "--out", str(folder / "out"), "openai/gpt-oss-20b", "google/*")
    assert result.exit_code == 1
    assert mine.read_text() == "# mine\n"
    assert f"{mine} exists and is left as it is" in result.stderr
    assert (folder / "out/models/google/gemini-9-pro.toml").is_file()


def test_a_folder_that_cannot_be_written_is_named(folder: Path) -> None:
    (folder / "out").mkdir()
    (folder / "out/models").symlink_to(folder / "nowhere/models")
    result = run(folder, "--out", str(folder / "out"), "google/*")
    assert result.exit_code == 1
    assert f"{folder}/out/models/google/gemini-9-pro.toml cannot be written: " in result.stderr


def test_an_offer_of_the_catalog_keeps_its_models_id(folder: Path) -> None:
    own = folder / "catalog/models/mine/small.toml"
    own.parent.mkdir(parents=True)
    offer = '[[offers]]\nprovider = "groq"\nmodel = "openai/gpt-oss-20b"\nprice = { input = 1, output = 1 }\n'
    own.write_text(f'name = "S"\ncontext = 9\ninput = ["text"]\n{offer}')
    assert "# --- models/mine/small.toml" in run(folder, "groq/*").stdout


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("gpt-old", "deprecated on 2026-11-20"),
        ("gpt-free", "its price is 0"),
        ("gpt-fine", "finer than six digits"),
        ("openai/gpt-boundless", "the list does not say its context"),
        ("dashscope/odd", "a form that is not known here"),
        ("bedrock/x.y", "the catalog has no providers/bedrock.toml"),
    ],
)
def test_what_cannot_be_drafted_says_why(folder: Path, model: str, reason: str) -> None:
    result = run(folder, model)
    assert result.exit_code == 1
    assert f"skipped {model}: " in result.stderr
    assert reason in result.stderr


def test_without_names_the_reasons_are_counted(folder: Path) -> None:
    assert "skipped 1: the catalog has no providers/bedrock.toml" in run(folder).stderr


def test_an_unknown_model_gets_a_hint(folder: Path) -> None:
    result = run(folder, "openai/gpt-oss-2b")
    assert (result.exit_code, 'did you mean "openai/gpt-oss-20b"?' in result.stderr) == (1, True)


def test_genai_prices_have_conditions_and_scheduled_changes(folder: Path) -> None:
    models = imported(folder, source="genai.json")
    (opus,) = models["anthropic/claude-opus-4-6"].offers
    assert (models["anthropic/claude-opus-4-6"].name, opus.context) == ("Claude Opus 4.6", 200_000)
    assert opus.price == Price(5_000_000, 25_000_000, 500_000, 5_000_000)
    (change,) = opus.when
    assert (str(change.starts), change.input) == ("2027-01-01 00:00:00+00:00", 4_000_000)
    (haiku,) = models["anthropic/claude-haiku"].offers
    assert [(rule.above_input, rule.utc, rule.output) for rule in haiku.when] == [
        (9, None, 6_000_000),
        (None, (30, 990), 10_000_000),
    ]
    assert "anthropic/claude-v1" not in models


def test_the_second_form_of_genai_prices_is_read_too(folder: Path) -> None:
    (folder / "v2.json").write_text(json.dumps({"units": {}, "providers": GENAI}))
    first, second = (run(folder, source=name).stdout for name in ("genai.json", "v2.json"))
    assert first.replace("genai.json", "v2.json") == second


@pytest.mark.parametrize(
    ("text", "said"), [("{", "is not JSON"), ('{"a": 1}', "is neither"), (None, "cannot be")]
)
def test_a_list_that_cannot_be_read_is_named(folder: Path, text: str | None, said: str) -> None:
    if text is not None:
        (folder / "odd.json").write_text(text)
    result = run(folder, source="odd.json")
    assert result.exit_code == 1
    assert said in result.stderr


def installed(site: Path, folder: Path, package: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process that finds packages in `site`."""
    options = ["--from", package, "--as-of", DAY, "--catalog", str(folder / "catalog"), *arguments]
    return subprocess.run(
        [sys.executable, "-m", "router", "catalog", "import", *options],
        cwd=Path(__file__).parents[2],
        env={"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def package(site: Path, name: str, version: str, files: dict[str, str]) -> None:
    for file, text in {
        **files,
        f"{name}-{version}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
    }.items():
        (site / file).parent.mkdir(parents=True, exist_ok=True)
        (site / file).write_text(text)


def test_an_installed_litellm_is_read_and_not_imported(folder: Path) -> None:
    prices = {"litellm/model_prices_and_context_window_backup.json": json.dumps(LITELLM)}
    init = {"litellm/__init__.py": "raise SystemExit('imported')"}
    package(folder / "site", "litellm", "1.109.1", {**prices, **init})
    result = installed(folder / "site", folder, "litellm", "openai/gpt-oss-20b")
    assert result.returncode == 0, result.stderr
    assert '# Price: litellm 1.109.1, "groq/openai/gpt-oss-20b".' in result.stdout


def test_an_installed_genai_prices_is_read(folder: Path) -> None:
    code = {"__init__": "", "types": GENAI_TYPES, "data": GENAI_DATA}
    package(
        folder / "site", "genai_prices", "0.2.3", {f"genai_prices/{n}.py": text for n, text in code.items()}
    )
    result = installed(folder / "site", folder, "genai-prices")
    assert result.returncode == 0, result.stderr
    assert "price = { input = 0.0028, output = 25.00 }" in result.stdout
    assert "{ above_input = 200_000, input = 10.00 }," in result.stdout
    assert "{ starts = 2027-01-01T00:00:00Z, input = 4.00, output = 20.00 }," in result.stdout


def test_a_package_that_is_not_there_is_named_with_the_fix(folder: Path) -> None:
    result = installed(folder / "nothing", folder, "genai-prices")
    assert result.returncode == 1
    assert "genai-prices is not installed" in result.stderr
    assert "--from FILE" in result.stderr


def test_the_day_of_the_list_is_its_files_day(folder: Path) -> None:
    os.utime(folder / "litellm.json", (1_700_000_000, 1_700_000_000))
    options = ["--from", str(folder / "litellm.json"), "--catalog", str(folder / "catalog")]
    result = CliRunner().invoke(catalog, ["import", *options, "google/*"])
    assert "price_as_of = 2023-11-14" in result.stdout
