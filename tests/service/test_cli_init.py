"""`router init`: a client's files in an empty HOME from a running router, and a starter for operators."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from router.access.keys import well_formed
from router.cli import main
from router.cli.init_starter import settings_file
from router.settings import Settings, load_settings
from tests.router import Offered, RouterServer, write_catalog

WRITTEN = {
    "openclaw": [".openclaw/openclaw.json"],
    "opencode": [".config/opencode/opencode.json"],
    "llm": [".config/io.datasette.llm/extra-openai-models.yaml", ".config/io.datasette.llm/keys.json"],
    "aider": [".aider.conf.yml", ".aider.model.metadata.json"],
    "openwebui": ["../openwebui.env"],
    "continue": [".continue/config.yaml"],
    "codex": [".codex/config.toml"],
}


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    models = [Offered("vendor/model", context=64_000, max_output=4_000)]
    return write_catalog(tmp_path_factory.mktemp("init"), {"scripted": "http://127.0.0.1:9/v1"}, models)


@pytest.fixture(scope="module")
def router(catalog: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RouterServer]:
    with RouterServer(catalog, tmp_path_factory.mktemp("data") / "data") as running:
        yield running


@pytest.fixture
def paid(catalog: Path, tmp_path: Path) -> Iterator[RouterServer]:
    with RouterServer(catalog, tmp_path / "data", access="paid") as running:
        yield running


def run(folder: Path, *arguments: str, stdin: str | None = None) -> Result:
    """Run a command of `router` in a folder, with a HOME below it and none of the clients' variables."""
    environ: dict[str, str | None] = dict.fromkeys(os.environ)
    environ |= {"PATH": os.environ["PATH"], "HOME": str(folder / "home")}
    with contextlib.chdir(folder):
        done = CliRunner().invoke(main, arguments, input=stdin, env=environ)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exc_info
    return done


def files(folder: Path) -> dict[str, str]:
    return {str(f.relative_to(folder)): f.read_text() for f in folder.rglob("*") if f.is_file()}


def openclaw(folder: Path) -> Any:
    return json.loads((folder / "home/.openclaw/openclaw.json").read_text())


@pytest.mark.parametrize("client", WRITTEN)
def test_a_client_is_connected_and_a_second_time_changes_nothing(
    client: str, router: RouterServer, tmp_path: Path
) -> None:
    done = run(tmp_path, "init", client, "--url", router.origin)
    assert done.exit_code == 0, done.stderr
    first = files(tmp_path)
    assert sorted(first) == sorted(
        str(Path("home", name)).replace("home/../", "") for name in WRITTEN[client]
    )
    assert router.origin in "".join(first.values())
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in first}
    assert modes == {0o600}  # they hold a key
    again = run(tmp_path, "init", client, "--url", router.origin)
    assert (again.exit_code, files(tmp_path)) == (0, first)
    assert "nothing to change" in again.stdout


def test_what_is_printed_is_what_is_written(router: RouterServer, tmp_path: Path) -> None:
    printed = run(tmp_path, "init", "openclaw", "--url", f"{router.origin}/v1", "--print")
    assert files(tmp_path) == {}
    run(tmp_path, "init", "openclaw", "--url", router.origin)
    assert files(tmp_path) == {"home/.openclaw/openclaw.json": printed.stdout}


def test_the_window_is_what_the_router_can_serve(router: RouterServer, tmp_path: Path) -> None:
    run(tmp_path, "init", "openclaw", "--url", router.origin)
    model = openclaw(tmp_path)["models"]["providers"]["router"]["models"][0]
    assert (model["id"], model["contextWindow"], model["maxTokens"]) == ("auto", 64_000, 4_000)
    assert model["input"] == ["text", "image"]
    assert model["compat"] == {"supportsUsageInStreaming": True}


def test_an_existing_file_is_asked_for_copied_and_keeps_its_own(router: RouterServer, tmp_path: Path) -> None:
    own = "// mine\n{\n  gateway: { port: 1 }, // a port\n  agents: { defaults: { workspace: '~/w' } },\n}\n"
    file = tmp_path / "home/.openclaw/openclaw.json"
    file.parent.mkdir(parents=True)
    file.write_text(own)
    file.chmod(0o640)
    ask = ("init", "openclaw", "--url", router.origin)
    dry = run(tmp_path, *ask, "--dry-run")
    assert '+    "providers": {' in dry.stdout
    assert "\n-" not in dry.stdout.partition("@@")[2].replace("\n-  agents: { defaults: {", "")
    refused = run(tmp_path, *ask, stdin="n\n")
    assert "Nothing was changed." in refused.stdout
    nobody = run(tmp_path, *ask, stdin="")
    assert nobody.exit_code == 1
    assert "--yes" in nobody.stderr
    assert files(tmp_path) == {"home/.openclaw/openclaw.json": own}
    assert run(tmp_path, *ask, stdin="y\n").exit_code == 0
    (copy,) = file.parent.glob("openclaw.json.bak-*")
    assert copy.read_text() == own
    assert stat.S_IMODE(file.stat().st_mode) == stat.S_IMODE(copy.stat().st_mode) == 0o640
    text = file.read_text()
    assert text.startswith("// mine\n{\n  gateway: { port: 1 }, // a port\n")
    assert "workspace: '~/w'" in text


def test_line_ends_stay(router: RouterServer, tmp_path: Path) -> None:
    file = tmp_path / "home/.aider.conf.yml"
    file.parent.mkdir()
    file.write_bytes(b"# mine\r\ndark-mode: true\r\n")
    assert run(tmp_path, "init", "aider", "--yes", "--url", router.origin).exit_code == 0
    written = file.read_bytes()
    assert written.startswith(b"# mine\r\ndark-mode: true\r\nmodel: openai/auto\r\n")
    assert written.count(b"\r\n") == written.count(b"\n")
    assert "nothing to change" in run(tmp_path, "init", "aider", "--url", router.origin).stdout


def test_a_link_stays_a_link(router: RouterServer, tmp_path: Path) -> None:
    target = tmp_path / "dotfiles.yml"
    target.write_text("dark-mode: true\n")
    link = tmp_path / "home/.aider.conf.yml"
    link.parent.mkdir()
    link.symlink_to(target)
    assert run(tmp_path, "init", "aider", "--yes", "--url", router.origin).exit_code == 0
    assert link.is_symlink()
    assert yaml.safe_load(target.read_text())["dark-mode"] is True
    assert yaml.safe_load(target.read_text())["model"] == "openai/auto"


def test_credit_makes_one_key_that_works_and_is_kept(paid: RouterServer, tmp_path: Path) -> None:
    ask = ("init", "openclaw", "--url", paid.origin, "--data", str(tmp_path / "data"))
    without = run(tmp_path, *ask)
    assert without.exit_code == 1
    assert "asks for an API key: pass --key, or --credit 5" in without.stderr
    dry = run(tmp_path, *ask, "--credit", "5", "--dry-run")
    assert '"apiKey": "A_NEW_KEY"' in dry.stdout
    assert run(tmp_path, *ask, "--credit", "5").exit_code == 0
    key = openclaw(tmp_path)["models"]["providers"]["router"]["apiKey"]
    assert well_formed(key)
    usage = paid.request("GET", "/v1/usage", headers={"authorization": f"Bearer {key}"})
    assert usage.json["balance_usd"] == 5
    again = run(tmp_path, *ask, "--credit", "5")
    assert "nothing to change" in again.stdout
    listed = run(tmp_path, "keys", "list", "--json", "--data", str(tmp_path / "data"))
    assert len(json.loads(listed.stdout)) == 1


def test_a_key_for_another_router_is_not_shown_to_this_one(paid: RouterServer, tmp_path: Path) -> None:
    elsewhere = run(tmp_path, "init", "llm", "--url", "127.0.0.1:9", "--key", "sk-elsewhere")
    assert elsewhere.exit_code == 0
    done = run(tmp_path, "init", "llm", "--url", paid.origin, "--yes")
    assert "asks for an API key" in done.stderr


def test_a_key_of_another_storage_is_told_from_one_that_works(paid: RouterServer, tmp_path: Path) -> None:
    done = run(tmp_path, "init", "llm", "--url", paid.origin, "--credit", "5", "--data", "elsewhere")
    assert done.exit_code == 1
    assert "does not know the new key" in done.stderr
    wrong = run(tmp_path, "init", "llm", "--url", paid.origin, "--key", "sk-wrong")
    assert wrong.exit_code == 1
    assert "does not take this key" in wrong.stderr
    assert not (tmp_path / "home").is_dir() or files(tmp_path / "home") == {}


def test_a_router_that_is_not_there_or_is_another_program(router: RouterServer, tmp_path: Path) -> None:
    alone = run(tmp_path, "init", "llm", "--url", "127.0.0.1:9", "--key", "sk-x", "--print")
    assert alone.exit_code == 0
    assert "No router answers at http://127.0.0.1:9" in alone.stderr
    assert '"router": "sk-x"' in alone.stdout
    other = run(tmp_path, "init", "llm", "--url", f"{router.origin}/health")
    assert other.exit_code == 1
    assert "is not this router" in other.stderr
    far = run(tmp_path, "init", "llm", "--url", "https://router.example.com", "--credit", "5")
    assert far.exit_code == 1
    assert "not at https://router.example.com: pass --key" in far.stderr


def test_a_file_that_cannot_be_edited_is_left_and_the_settings_are_shown(
    router: RouterServer, tmp_path: Path
) -> None:
    file = tmp_path / "home/.continue/config.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("models: [{name: mine}]\n")
    done = run(tmp_path, "init", "continue", "--yes", "--url", router.origin)
    assert done.exit_code == 1
    assert f"apiBase: {router.base_url}" in done.stderr
    assert file.read_text() == "models: [{name: mine}]\n"


def test_a_file_that_is_read_only_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "opencode.json"
    file.write_text("{}\n")
    file.chmod(0o444)
    done = run(tmp_path, "init", "opencode", "--url", "http://127.0.0.1:1", "--file", str(file), "--yes")

    assert done.exit_code == 1
    assert f"{file} is read-only" in done.stderr
    assert f"chmod u+w {file}" in done.stderr
    assert [each.name for each in tmp_path.glob("opencode*")] == ["opencode.json"]
    assert file.read_text() == "{}\n"


def test_a_key_in_a_file_that_others_can_read_is_told(tmp_path: Path) -> None:
    file = tmp_path / "opencode.json"
    file.write_text("{}\n")
    wish = ("init", "opencode", "--url", "http://127.0.0.1:1", "--file", str(file), "--yes")
    file.chmod(0o644)
    free = run(tmp_path, *wish)  # no key: access is open
    assert (free.exit_code, "can read the key" in free.output) == (0, False)
    assert f"chmod 600 {file}" in run(tmp_path, *wish, "--key", "rk_mine").output
    file.chmod(0o600)
    assert "can read the key" not in run(tmp_path, *wish, "--key", "rk_other").output


def test_a_key_with_a_quote_is_refused(router: RouterServer, tmp_path: Path) -> None:
    done = run(tmp_path, "init", "aider", "--url", router.origin, "--key", 'a"b')
    assert done.exit_code == 1
    assert files(tmp_path) == {}


def test_codexs_own_settings_stay(router: RouterServer, tmp_path: Path) -> None:
    file = tmp_path / "home/.codex/config.toml"
    file.parent.mkdir(parents=True)
    before = '# mine\n\nmodel = "gpt-6"  # the best\n\n[mcp_servers.docs]\ncommand = "docs" # local\n'
    file.write_text(before)
    assert run(tmp_path, "init", "codex", "--url", router.origin, "--dry-run").exit_code == 0
    assert file.read_text() == before
    done = run(tmp_path, "init", "codex", "--url", router.origin, stdin="y\n")
    assert done.exit_code == 0
    assert file.read_text() == (
        '# mine\n\nmodel = "auto"  # the best\nmodel_provider = "router"\nmodel_context_window = 64000\n\n'
        '[mcp_servers.docs]\ncommand = "docs" # local\n\n[model_providers.router]\nname = "LLM router"\n'
        f'base_url = "{router.base_url}"\nwire_api = "responses"\nexperimental_bearer_token = "unused"\n'
    )
    (copy,) = file.parent.glob("config.toml.bak-*")
    assert copy.read_text() == before
    again = run(tmp_path, "init", "codex", "--url", router.origin)
    assert "nothing to change" in again.output


def test_alone_it_writes_a_starter_and_asks_before_it_changes_one(tmp_path: Path) -> None:
    assert run(tmp_path, "init").exit_code == 0
    assert run(tmp_path, "catalog", "check").exit_code == 0
    first = files(tmp_path)
    assert run(tmp_path, "init").exit_code == 0
    assert files(tmp_path) == first
    policy = tmp_path / "models_catalog/policy.toml"
    policy.write_text("# mine\n")
    own = tmp_path / "models_catalog/models/mine.toml"
    own.write_text("# mine too\n")
    assert run(tmp_path, "init", stdin="n\n").exit_code == 0
    assert policy.read_text() == "# mine\n"
    assert run(tmp_path, "init", stdin="y\n").exit_code == 0
    assert policy.read_text() == first["models_catalog/policy.toml"]
    assert own.read_text() == "# mine too\n"
    (copy,) = tmp_path.glob("models_catalog.bak-*")
    assert (copy / "policy.toml").read_text() == "# mine\n"


def test_the_starters_settings_are_the_defaults(tmp_path: Path) -> None:
    text = settings_file()
    assert tomllib.loads(text) == {}
    set_lines = [
        line.removeprefix("#") for line in text.splitlines() if line.startswith("#") and line[1] != " "
    ]
    names = [line.partition(" =")[0] for line in set_lines]
    assert names == list(Settings.model_fields)
    file = tmp_path / "router.toml"
    file.write_text("\n".join(line for line in set_lines if not line.endswith('= ""')))
    assert load_settings(file).model_dump() == Settings().model_dump()
