"""docs/clients.md and docs/openclaw.md say what `router init` writes, and which versions the tests run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from router.cli.init_clients import Values, clients

ROOT = Path(__file__).parents[2]
CLIENTS = (ROOT / "docs" / "clients.md").read_text()
OPENCLAW = (ROOT / "docs" / "openclaw.md").read_text()
SCRIPTS = sorted((ROOT / "tests" / "clients" / "python").glob("*.py"))
TEMPLATES = {
    file.template: file.rendered(Values("http://127.0.0.1:8402"))
    for client in clients().values()
    for file in client.files
}
FENCE = re.compile(r"^```(?:json|yaml|sh|toml) (\S+)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks() -> dict[str, str]:
    """Return the settings in both documents by the template's name after the fence."""
    return {
        name if "." in name else f"{name}.json": text
        for document in (CLIENTS, OPENCLAW)
        for name, text in FENCE.findall(document)
    }


@pytest.mark.parametrize("template", sorted(TEMPLATES))
def test_the_settings_are_what_init_prints(template: str) -> None:
    assert blocks()[template] == TEMPLATES[template]


def test_every_client_of_init_is_in_the_documents() -> None:
    names = [name for name in clients() if f"router init {name}" not in CLIENTS + OPENCLAW]
    assert [name for name in names if f"{name}" not in CLIENTS] == ["openclaw-plugin"]


def pinned() -> list[tuple[str, str]]:
    """Return what the tests install: name and version."""
    found = [
        (name, version)
        for script in SCRIPTS
        for name, version in re.findall(r'"([\w-]+)(?:\[\w+\])?==([\d.]+)"', script.read_text())
    ]
    for lock in sorted((ROOT / "tests" / "clients").glob("*/package.json")):
        found += json.loads(lock.read_text())["dependencies"].items()
    for module in ("packages.py", "test_openwebui.py"):
        found += re.findall(r'"([\w-]+)==([\d.]+)"', (ROOT / "tests" / "clients" / module).read_text())
    return [(name.removesuffix("-linux-x64"), version) for name, version in found if name != "zod"]


@pytest.mark.parametrize(("name", "version"), pinned())
def test_the_table_names_what_the_tests_install(name: str, version: str) -> None:
    rows = [line for line in CLIENTS.splitlines() if line.startswith("| ") and name in line.split("|")[2]]
    assert any(version in row.split("|")[2] for row in rows), (name, version)


def test_locks_name_no_address_of_a_registry() -> None:
    locks = list((ROOT / "tests" / "clients").glob("*/package-lock.json"))
    assert len(locks) == 5
    for lock in locks:
        packages = json.loads(lock.read_text())["packages"]
        assert [name for name, entry in packages.items() if "resolved" in entry] == []
        bundled = {
            name for name, entry in packages.items() if entry.get("inBundle")
        }  # hashed with its parent
        assert {name for name, entry in packages.items() if "integrity" not in entry} - bundled == {""}
