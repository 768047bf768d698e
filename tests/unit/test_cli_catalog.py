"""`router catalog` as an operator types it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from router.cli.catalog import catalog

MODEL = (
    'name = "Kimi"\ncontext = 262_144\ninput = ["text"]\n'
    "[[offers]]\nprovider = 'novita'\nmodel = 'upstream-kimi'\nprice = { input = 0.8, output = 3.4 }\n"
)
PROVIDER = 'name = "Novita"\nbase_url = "https://api.novita.ai/openai"\nkey_env = "NOVITA_KEY_OF_THIS_TEST"\n'


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    files = {
        "providers/novita.toml": PROVIDER,
        "models/moonshotai/kimi.toml": MODEL,
        "models/moonshotai/kimi-2.toml": MODEL,
        "models/z-ai/glm.toml": MODEL,
        "models/openai/gpt.toml": MODEL,
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def run(*arguments: str | Path, **environ: str) -> Result:
    return CliRunner().invoke(catalog, [str(argument) for argument in arguments], env=environ)


def test_check_counts_what_it_found(directory: Path) -> None:
    result = run("check", directory, NOVITA_KEY_OF_THIS_TEST="x")
    assert result.exit_code == 0
    last = result.stdout.splitlines()[-1]
    assert last.startswith("4 models, 4 offers, revision ")
    assert len(last.rpartition(" ")[2]) == 12


def test_check_prints_warnings_and_succeeds(directory: Path) -> None:
    result = run("check", directory)
    assert result.exit_code == 0
    expected = (
        f"{directory}/providers/novita.toml:3: key_env: NOVITA_KEY_OF_THIS_TEST is not set; 4 offers are off"
    )
    assert f"{expected} (warning)" in result.stdout.splitlines()


def test_check_prints_every_fault_and_fails(directory: Path) -> None:
    (directory / "models/z-ai/glm.toml").write_text(MODEL.replace("context", "contxt").replace("0.8", "-1"))
    (directory / "policy.toml").write_text('mode = "fast"\n')
    result = run("check", directory)
    assert result.exit_code == 1
    places = [line.removeprefix(f"{directory}/").split(": ")[:2] for line in result.stdout.splitlines()]
    assert ["models/z-ai/glm.toml:1", "context"] in places
    assert ["models/z-ai/glm.toml:2", "contxt"] in places
    assert ["models/z-ai/glm.toml:7", "offers[0].price.input"] in places
    assert ["policy.toml:1", "mode"] in places
    assert "4 faults" in result.stderr


def test_check_against_another_state_shows_moved_prices(
    directory: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    edited = shutil.copytree(directory, tmp_path_factory.mktemp("edited") / "catalog")
    (edited / "models/z-ai/glm.toml").write_text(MODEL.replace("0.8", "0.08"))
    result = run("check", edited, "--against", directory, NOVITA_KEY_OF_THIS_TEST="x")
    assert result.exit_code == 0
    said = "input moved from 0.8 to 0.08 USD per million tokens; is it meant?"
    assert f"{edited}/models/z-ai/glm.toml:7: offers[0].price.input: {said} (warning)" in result.stdout
    (directory / "policy.toml").write_text('mode = "fast"\n')
    assert run("check", edited, "--against", directory).exit_code == 1


def test_check_of_no_directory_fails_in_words(tmp_path: Path) -> None:
    result = run("check", tmp_path / "nowhere")
    assert result.exit_code == 1
    assert f"{tmp_path}/nowhere:1: no such directory; a catalog's folder holds policy.toml" in result.stdout
    assert "--catalog" not in result.output  # which this command does not have


def test_check_against_no_directory_fails_in_words(directory: Path) -> None:
    result = run("check", directory, "--against", directory / "nowhere")
    assert result.exit_code == 2
    assert "Invalid value for --against" in result.stderr
    assert f"{directory}/nowhere is not a folder" in " ".join(result.stderr.split())


def test_the_variable_names_the_catalog(directory: Path) -> None:
    assert "4 models" in run("check", ROUTER_CATALOG=str(directory)).stdout


def test_show_lists_the_models(directory: Path) -> None:
    result = run("show", "--catalog", directory, NOVITA_KEY_OF_THIS_TEST="x")
    assert result.exit_code == 0
    (row,) = (line for line in result.stdout.splitlines() if "moonshotai/kimi " in line)
    assert row.split() == ["moonshotai/kimi", "0.80", "3.40", "1/1"]


def test_show_one_model_says_why_an_offer_is_off(directory: Path) -> None:
    result = run("show", "moonshotai/kimi", "--catalog", directory)
    assert result.exit_code == 0
    assert "set NOVITA_KEY_OF_THIS_TEST" in result.stdout
    assert "upstream-kimi" in result.stdout
    assert "262,144 tokens" in result.stdout
    assert "models/moonshotai/kimi.toml" in result.stdout


def test_show_names_the_three_nearest_models(directory: Path) -> None:
    result = run("show", "kimi", "--catalog", directory)
    assert result.exit_code == 1
    nearest = result.stderr.partition("nearest: ")[2].strip().split(", ")
    assert len(nearest) == 3
    assert set(nearest[:2]) == {"moonshotai/kimi", "moonshotai/kimi-2"}


def test_show_of_a_name_of_the_routers_own_says_where_to_look(directory: Path) -> None:
    result = run("show", "auto", "--catalog", directory)
    assert (result.exit_code, "auto is no model: `router explain`" in result.stderr) == (1, True)


def test_show_of_a_faulty_catalog_prints_its_faults(directory: Path) -> None:
    (directory / "policy.toml").write_text('mode = "fast"\n')
    result = run("show", "--catalog", directory)
    assert result.exit_code == 1
    assert f"{directory}/policy.toml:1: mode: " in result.stderr


@pytest.mark.parametrize(
    ("kind", "required"),
    [("model", ["name", "context", "input"]), ("provider", ["name", "base_url"]), ("policy", None)],
)
def test_schema_is_json_schema(kind: str, required: list[str] | None) -> None:
    printed = json.loads(run("schema", kind).stdout)
    assert printed.get("required") == required
    assert printed["additionalProperties"] is False


def test_the_model_schema_requires_little_of_an_offer() -> None:
    offer = json.loads(run("schema").stdout)["$defs"]["OfferTable"]
    assert offer["required"] == ["provider", "model", "price"]


def test_defaults_in_the_schema_are_numbers() -> None:
    properties = json.loads(run("schema", "policy").stdout)["properties"]
    assert (properties["markup"]["default"], properties["time_value_usd_per_s"]["default"]) == (1.0, 0.0001)
