"""docs/operations.md says what the code says: its tables, its alerts, its commands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import yaml
from click.testing import CliRunner

from router.cli import main
from tests.fuzz.__main__ import NAMES

HERE = Path(__file__).parents[2]
PAGE = (HERE / "docs" / "operations.md").read_text()


def test_the_tables_are_as_the_code_writes_them() -> None:
    done = subprocess.run(
        [sys.executable, ".ci/tables.py", "--check"],
        cwd=HERE,
        env={"PYTHONPATH": str(HERE)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_each_alert_is_explained_in_the_order_of_its_file() -> None:
    rules = yaml.safe_load((HERE / "deploy" / "prometheus" / "alerts.yml").read_text())
    names = [rule["alert"] for group in rules["groups"] for rule in group["rules"]]
    assert re.findall(r"^\| (Router\w+) \|", PAGE, re.MULTILINE) == names


def test_each_command_that_the_pages_name_is_one() -> None:
    for page in ("operations", "deployment", "security"):
        text = (HERE / "docs" / f"{page}.md").read_text()
        for words in re.findall(r"`router ([a-z]+(?: [a-z]+)?)", text):
            named = words.split()
            done = CliRunner().invoke(main, [*named, "--help"])
            assert done.exit_code == 0, f"{page}: router {words}"


def test_every_command_has_help_that_ends_with_a_full_stop() -> None:
    from click import Context

    context = Context(main)
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        assert command is not None
        first = (command.help or "").strip().split("\n\n")[0]
        assert first, name
        assert first.rstrip().endswith((".", ":")), name
        for option in command.params:
            if option.param_type_name == "option":
                assert getattr(option, "help", None), f"{name} {option.opts}"


def test_the_fuzzers_that_security_names_are_there() -> None:
    assert len(NAMES) >= 4
