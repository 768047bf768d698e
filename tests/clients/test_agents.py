"""Coding agents and command-line clients, with the settings that `router init` wrote into an empty HOME."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.agents import ANSWERING, Bench, bench, calls, steps
from tests.clients.packages import aider, npm_packages
from tests.installed import NotInstalled, needs, node
from tests.upstream import answer, stream

pytestmark = pytest.mark.clients

WHOLE_FILE = "hello.py\n```\nprint('hello')\n```\n"


@pytest.fixture
def paid(tmp_path: Path) -> Iterator[Bench]:
    with bench(tmp_path, access="paid") as running:
        yield running


def outcomes(bench: Bench) -> list[tuple[str, str]]:
    return [(line["asked"], line["outcome"]) for line in bench.router.logged()]


@pytest.fixture
def opencode() -> str:
    program = npm_packages("opencode") / "opencode-linux-x64" / "bin" / "opencode"

    def find() -> str:
        if not program.is_file():
            raise NotInstalled("OpenCode's lock has its program for Linux on x64 only")
        return str(program)

    return needs(find)


def test_opencode_writes_a_file_and_names_the_talk_cheaply(paid: Bench, opencode: str) -> None:
    paid.init("opencode", "--key", paid.new_key("--credit", "5"))
    file = paid.home / "hello.txt"
    paid.upstream.on(ANSWERING, steps(calls("write", filePath=str(file), content="hi"), stream("Written.")))
    done = paid.run(opencode, "run", "Write hello.txt")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("Written.")
    assert file.read_text() == "hi"
    assert sorted(outcomes(paid)) == [("auto", "ok"), ("auto", "ok"), ("simple", "ok")]
    found = [
        (line["need"]["asked"]["name"], line["need"]["pinned"] is not None) for line in paid.decisions(3)
    ]
    assert sorted(found) == [("auto", False), ("auto", True), ("simple", False)]


def test_opencode_shows_a_wrong_keys_error(paid: Bench, opencode: str) -> None:
    paid.init("opencode", "--key", paid.new_key("--credit", "5"))
    file = paid.home / ".config/opencode/opencode.json"
    key = file.read_text().partition('"apiKey": "')[2].partition('"')[0]
    file.write_text(file.read_text().replace(key, "sk-wrong"))
    done = paid.run(opencode, "run", "Write hello.txt")
    assert "Invalid API key" in done.stdout + done.stderr
    assert paid.upstream.requests == []


def test_continue_reads_a_file_and_answers(paid: Bench) -> None:
    program = npm_packages("continue") / "@continuedev/cli" / "dist" / "cn.js"
    paid.init("continue", "--key", paid.new_key("--credit", "5"))
    file = paid.home / "notes.txt"
    file.write_text("buy milk\n")
    paid.upstream.on(ANSWERING, steps(calls("Read", filepath=str(file)), stream("Milk.")))
    done = paid.run(str(node()), str(program), "-p", "What do my notes say?")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "Milk."
    assert outcomes(paid) == [("auto", "ok"), ("auto", "ok")]
    assert "buy milk" in str(paid.upstream.requests[-1].json["messages"][-1]["content"])


def test_aider_edits_a_file_without_asking_about_an_unknown_model(paid: Bench) -> None:
    paid.init("aider", "--key", paid.new_key("--credit", "5"))
    paid.upstream.on(ANSWERING, answer(WHOLE_FILE))
    options = ["--yes-always", "--no-stream", "--no-git", "--no-check-update", "--analytics-disable"]
    done = paid.run(str(aider()), *options, "--message", "Write hello.py")
    assert done.returncode == 0, done.stderr
    assert (paid.home / "hello.py").read_text() == "print('hello')\n"
    assert "Warning for openai/" not in done.stdout
    assert outcomes(paid) == [("auto", "ok")]
