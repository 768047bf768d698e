"""`router explain` and the command line's own manners, on the packaged catalog with nothing to serve from."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import click
import httpx2 as httpx
import pytest
from click.testing import CliRunner, Result

from router import __version__
from router.catalog.files import default_directory, read_providers
from router.cli import main
from tests.serving import Serving, run_router, serve

Run = Callable[..., Result]
RECORD = {
    "request_id",
    "category",
    "probabilities",
    "confidence",
    "stripped",
    "mode",
    "catalog",
    "live",
    "chosen",
    "fallbacks",
    "losers",
    "quote",
}
PIXEL = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}


@pytest.fixture
def run(tmp_path: Path, nobody_local: None) -> Iterator[Run]:
    """Run a command in an empty folder, without any provider's key and without settings."""
    keys = {provider.key_env for provider in read_providers(default_directory(tmp_path)).values()}
    settings = {name for name in os.environ if name.startswith("ROUTER_")}
    runner = CliRunner(env=dict.fromkeys(filter(None, keys | settings)))

    def invoke(*arguments: str, stdin: str | bytes | None = None) -> Result:
        result = runner.invoke(main, arguments, input=stdin, prog_name="router")
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    with chdir(tmp_path):
        yield invoke


def explained(run: Run, *arguments: str, stdin: str | None = None) -> dict[str, Any]:
    result = run("explain", "--json", *arguments, stdin=stdin)
    assert result.exit_code == 0, result.output
    said: dict[str, Any] = json.loads(result.stdout)
    return said


def body(content: Any = "Say hello", **fields: Any) -> str:
    return json.dumps({"model": "auto", "messages": [{"role": "user", "content": content}], **fields})


@pytest.mark.parametrize(
    ("prompt", "category", "model"),
    [
        ("What is the capital of France?", "simple", "demo/small"),
        ("Say hello in French", "simple", "demo/small"),
        ("Wie viele Einwohner hat Berlin?", "simple", "demo/small"),
        ("Write a Python function that parses ISO dates, with unit tests", "coding", "demo/coder"),
        ("Why does this segfault? int *p = NULL; *p = 1;", "coding", "demo/coder"),
        ("Prove that the square root of 2 is irrational", "reasoning", "demo/thinker"),
        (
            "Three boxes are labelled wrongly. One holds apples, one pears, one both. "
            "How few fruits must be drawn to relabel all boxes? Explain each step of the deduction.",
            "reasoning",
            "demo/thinker",
        ),
    ],
)
def test_auto_chooses_by_what_is_asked(run: Run, prompt: str, category: str, model: str) -> None:
    said = explained(run, prompt)
    assert said["category"] == category
    assert said["chosen"]["model"] == model
    assert said["confidence"] == said["probabilities"][category] == max(said["probabilities"].values())


def test_the_record_has_the_contracts_fields(run: Run) -> None:
    said = explained(run, "Say hello")
    assert said.keys() >= RECORD
    assert set(said["chosen"]) == {"model", "provider", "expected_cost_usd", "expected_seconds", "quality"}
    assert 0 < said["quote"]["usd"] < said["quote"]["max_usd"]
    assert sum(said["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    ranked = [(o["model"], o["provider"]) for o in [said["chosen"], *said["fallbacks"]]]
    assert len(ranked) == len(set(ranked)) > 1
    assert all(loser["reason"] and loser["detail"] for loser in said["losers"])


def test_people_see_the_choice_the_price_and_the_losers(run: Run) -> None:
    text = run("explain", "Write a Python function that reverses a list").stdout
    assert "demo/coder at demo" in text
    assert "█" in text
    assert "because of" in text
    assert "at worst" in text
    assert "demo/thinker" in text
    assert "_API_KEY" in text


def test_an_image_needs_a_model_that_sees(run: Run) -> None:
    parts = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": PIXEL}}]
    said = explained(run, "--body", "-", stdin=body(parts))
    assert (said["category"], said["chosen"]["model"]) == ("vision", "demo/seer")


def test_the_prompt_and_the_body_may_come_from_a_file_or_standard_input(run: Run) -> None:
    Path("request.json").write_text(body("Prove that there are infinitely many primes"))
    records = [
        explained(run, "Prove that there are infinitely many primes"),
        explained(run, "-", stdin="Prove that there are infinitely many primes"),
        explained(run, stdin="Prove that there are infinitely many primes"),
        explained(run, "--body", "request.json"),
        explained(run, "--body", "-", stdin=body("Prove that there are infinitely many primes")),
    ]
    for said in records:
        said.pop("request_id")
    assert all(said == records[0] for said in records)


def test_the_mode_changes_the_choice_and_a_wrong_one_is_named(run: Run) -> None:
    assert explained(run, "Say hello", "--mode", "quality")["mode"] == "quality"
    cheapest = explained(run, "Prove that pi is irrational", "--mode", "floor")
    assert cheapest["chosen"]["model"] == "demo/small"
    wrong = run("explain", "Say hello", "--mode", "best")
    assert wrong.exit_code == 2
    assert "'best'" in wrong.stderr
    assert "balanced" in wrong.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "JSON"),
        ("{", "JSON"),
        ("[]", "JSON object"),
        ("null", "JSON object"),
        ('{"model": "auto"}', "messages"),
        ('{"model": "auto", "messages": []}', "messages"),
        ('{"messages": [{"role": "user", "content": "hi"}]}', "model"),
        (body(n=0), "n"),
        (body(router={"moed": "cost"}), "moed"),
    ],
)
def test_a_wrong_body_is_one_line_that_names_the_fault(run: Run, text: str, said: str) -> None:
    result = run("explain", "--body", "-", stdin=text)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    assert said in line


def test_a_body_file_that_is_not_there_is_named(run: Run) -> None:
    result = run("explain", "--body", "missing.json")
    assert result.exit_code == 2
    assert "missing.json" in result.stderr


def test_a_prompt_beside_a_body_is_refused(run: Run) -> None:
    result = run("explain", "Say hello", "--body", "-", stdin=body())
    assert result.exit_code == 2
    assert "--body" in result.stderr


def test_an_unknown_model_is_answered_with_the_nearest(run: Run) -> None:
    result = run("explain", "hi", "--model", "demo/smal")
    assert result.exit_code == 1
    assert "'demo/smal'" in result.stderr
    assert "demo/small" in result.stderr


def test_a_model_without_a_key_names_it_unless_every_key_is_assumed(run: Run) -> None:
    result = run("explain", "hi", "--model", "anthropic/claude-haiku-4.5")
    assert result.exit_code == 1
    assert "ANTHROPIC_API_KEY" in result.output
    said = explained(run, "hi", "--model", "anthropic/claude-haiku-4.5", "--any-key")
    assert said["chosen"]["model"] == "anthropic/claude-haiku-4.5"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serve(tmp_path_factory.mktemp("empty")) as serving:
        serving.read_until("router.app: ready")
        yield serving


@pytest.mark.parametrize(
    "asked",
    [
        body("Write a Rust program that sorts a file"),
        body("Say hello", tools=[TOOL], max_tokens=100),
        body("Say hello", response_format={"type": "json_object"}, model="auto:cost"),
        body([{"type": "image_url", "image_url": {"url": PIXEL}}], model="vision"),
        body("Prove it", model="router/reasoning", models=["demo/coder"]),
        body("hi", model="demo/thinker", router={"mode": "quality", "deny": ["demo/small"]}),
        body("[Sun 2026-11-22 08:44 UTC] continue", n=3),
    ],
)
def test_it_says_what_the_service_says(run: Run, demo: Serving, asked: str) -> None:
    answer = httpx.post(f"http://127.0.0.1:{demo.port}/v1/route", content=asked, trust_env=False)
    assert answer.status_code == 200, answer.text
    served = answer.json()
    said = explained(run, "--body", "-", stdin=asked)
    assert served.keys() >= RECORD
    for record in (said, served):
        record.pop("request_id")
    assert {name: said[name] for name in served} == served


def test_the_version_and_the_help(run: Run) -> None:
    assert __version__ in run("--version").stdout
    text = run("--help").stdout
    for name in ("serve", "explain", "catalog", "keys", "ledger", "train", "evaluate"):
        assert f"\n  {name} " in text


def commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    if isinstance(command, click.Group):
        with click.Context(command) as context:
            found = [(name, command.get_command(context, name)) for name in command.list_commands(context)]
        for name, inner in found:
            assert inner is not None
            yield from commands(inner, (*path, name))


@pytest.mark.parametrize("path", list(commands(main)), ids=lambda path: " ".join(path) or "router")
def test_every_command_has_help_that_says_what_it_does(run: Run, path: tuple[str, ...]) -> None:
    result = run(*path, "--help")
    assert result.exit_code == 0
    usage, _, rest = result.stdout.partition("\n\n")
    assert usage.startswith(f"Usage: {' '.join(('router', *path))} ")
    assert len(rest.split("\n\n")[0].strip()) > 20


def test_an_unknown_command_is_refused(run: Run) -> None:
    result = run("sevre")
    assert result.exit_code == 2
    assert "sevre" in result.stderr


def test_in_a_pipe_every_name_stays_whole(run: Run) -> None:
    prompt = "Prove that the square root of 2 is irrational"
    losers = explained(run, "--any-key", prompt)["losers"]
    shown = run("explain", "--any-key", "--all-losers", prompt).output.split("not chosen")[1]
    assert {line.split()[0] for line in shown.splitlines()[1:] if "  " in line} >= {
        x["model"] for x in losers
    }


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_terminal_without_unicode_is_told_all_the_same(tmp_path: Path, encoding: str) -> None:
    done = run_router(tmp_path, "explain", "Скажи привет ☃", PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    assert "####" in done.stdout
    assert "\\u043f" in done.stdout  # a word that weighed, by its numbers


def test_a_prompt_is_read_in_a_locale_without_utf8(tmp_path: Path) -> None:
    plain = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    prompt = "Доказать, что корень из двух иррационален"
    done = run_router(tmp_path, "explain", "--json", prompt, **plain)
    assert json.loads(done.stdout)["category"] == "reasoning", done.stderr


@pytest.mark.parametrize("group", [(), ("catalog",), ("keys",), ("ledger",)])
def test_help_says_in_a_line_what_each_command_does(run: Run, group: tuple[str, ...]) -> None:
    lines = run(*group, "--help").output.split("Commands:")[1].splitlines()
    assert not [line for line in lines if line.endswith("...")]


def ask(server: Serving, content: str, **headers: str) -> str:
    """Return the request id of an answer."""
    fields = {"model": "auto", "messages": [{"role": "user", "content": content}]}
    url = f"http://127.0.0.1:{server.port}/v1/chat/completions"
    got = httpx.post(url, json=fields, headers=headers, timeout=60, trust_env=False)
    assert got.status_code == 200, got.text
    return got.headers["x-request-id"]


def test_the_decision_behind_an_answer_is_shown_by_its_id(tmp_path: Path) -> None:
    with serve(tmp_path, "--port", "0", "--demo", "--data", "books") as server:
        server.read_until("ready")
        ours = ask(server, "Say hello in French")
        ask(server, "Write a Python function that parses ISO dates", **{"x-request-id": 'mine "1"'})
        server.terminate()
        assert server.wait() == 0
    shown = run_router(tmp_path, "explain", "--request", ours, "--data", "books")
    assert shown.returncode == 0, shown.stderr
    assert "demo/small at demo  (cheapest_in_band, balanced)" in shown.stdout
    assert "e-0" not in shown.stdout  # amounts are written out
    assert shown.stdout.splitlines()[-1].endswith(ours)
    theirs = run_router(tmp_path, "explain", "--request", 'mine "1"', "--data", "books", "--json")
    assert json.loads(theirs.stdout)["chosen"]["model"] == "demo/coder"
    unknown = run_router(tmp_path, "explain", "--request", "req_0", "--data", "books")
    assert (unknown.returncode, "has no request 'req_0'" in unknown.stderr) == (1, True)


def test_a_logged_decision_is_asked_for_alone(run: Run) -> None:
    for more in (["hello"], ["--mode", "cost"], ["--any-key"], ["--catalog", "x"]):
        assert run("explain", "--request", "req_0", *more).exit_code == 2


def test_a_table_in_a_pipe_keeps_each_key_and_request_on_its_line(tmp_path: Path) -> None:
    name = "the integration tests of the billing team"
    made = run_router(tmp_path, "keys", "create", "--name", name, "--credit", "12.5", "--json")
    account = json.loads(made.stdout)["id"]
    (key,) = [line for line in run_router(tmp_path, "keys", "list").stdout.splitlines() if account in line]
    assert name in key
    (topup,) = run_router(tmp_path, "ledger", "export").stdout.splitlines()[3:4]
    assert account in topup
    folded = run_router(tmp_path, "keys", "list", COLUMNS="60").stdout
    assert name not in folded  # who names a width gets it
