"""OpenClaw itself, headless, in an empty HOME that `router init openclaw` wrote into."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients.agents import ANSWERING, PNG, Bench, bench, calls, steps
from tests.clients.packages import npm_packages
from tests.installed import node
from tests.upstream import Received, stream

pytestmark = pytest.mark.openclaw

CREDIT_USD = 5


@pytest.fixture(scope="module")
def paid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with bench(tmp_path_factory.mktemp("openclaw"), access="paid") as running:
        yield running


@pytest.fixture(scope="module")
def connected(paid: Bench) -> Bench:
    paid.init("openclaw", "--credit", str(CREDIT_USD), "--data", str(paid.router.data))
    return paid


def openclaw(bench: Bench, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = npm_packages("openclaw") / "openclaw" / "openclaw.mjs"
    return bench.run(str(node()), str(program), *arguments)


def say(bench: Bench, message: str, session: str = "agent:main:s1") -> Any:
    """Send a message in a session; return the texts of the answer and what OpenClaw counts."""
    done = openclaw(
        bench, "agent", "--local", "--agent", "main", "--session-key", session, "--json", "--message", message
    )
    assert done.returncode == 0, done.stderr[-3_000:]
    told = json.loads(done.stdout)
    return [payload["text"] for payload in told["payloads"]], told["meta"]["agentMeta"]


def said_by_user(request: Received) -> list[str]:
    return [str(message["content"]) for message in request.json["messages"] if message["role"] == "user"]


def test_a_conversation_with_a_tool_and_an_image(connected: Bench) -> None:
    """One test of three turns, because each start takes 20 s of CPU and the turns need one another."""
    valid = openclaw(connected, "config", "validate", "--json")
    assert json.loads(valid.stdout) | {"path": ""} == {"valid": True, "path": "", "warnings": []}
    up, router = connected.upstream, connected.router

    up.on(ANSWERING, steps(stream("Bonjour tout le monde")))
    texts, counted = say(connected, "Say hello in French")
    assert texts == ["Bonjour tout le monde"]
    (first,) = router.logged()
    assert (first["asked"], first["category"], first["outcome"], first["stream"]) == (
        "auto",
        "simple",
        "ok",
        True,
    )
    assert "estimated" not in first  # the upstream was asked for usage, and OpenClaw for the bill
    assert counted["usage"]["input"] == first["prompt_tokens"]
    assert counted["usage"]["output"] == first["completion_tokens"]
    assert counted["usage"]["cost"]["totalOrigin"] == "provider-billed"
    assert counted["usage"]["cost"]["total"] == pytest.approx(first["charged_nusd"] / 1e9)
    assert counted["contextTokens"] == 128_000

    up.on(ANSWERING, steps(calls("exec", command="echo ran > ran.txt; cat ran.txt"), stream("It ran.")))
    texts, _ = say(connected, "Run the command")
    assert texts == ["It ran."]
    assert (connected.home / ".openclaw/workspace/ran.txt").read_text() == "ran\n"
    result = next(m for m in up.requests[-1].json["messages"] if m["role"] == "tool")
    assert "ran" in str(result["content"])
    assert "Say hello in French" in said_by_user(up.requests[-1])[0]  # the same session

    (connected.home / ".openclaw/workspace/pic.png").write_bytes(PNG)
    up.on(ANSWERING, steps(stream("A dot.")))
    texts, _ = say(connected, f"What is in {connected.home}/.openclaw/workspace/pic.png")
    assert texts == ["A dot."]
    assert "data:image/png;base64," in said_by_user(up.requests[-1])[-2]

    decisions = connected.decisions(4)
    assert [line["category"] for line in decisions][-1] == "vision"
    assert all(line["stripped"] for line in decisions)
    assert [line["need"]["pinned"] is not None for line in decisions] == [False, True, True, True]
    assert len(up.requests) == len(decisions) == 4  # no title, no warm-up, no retry


# A HOME each: after a refusal OpenClaw leaves the provider alone for a while, whatever its key is then.
def test_a_wrong_key_is_told_as_one_and_asked_once(paid: Bench, tmp_path: Path) -> None:
    here = paid.elsewhere(tmp_path / "home")
    key = here.new_key("--credit", "5")
    here.init("openclaw", "--key", key)
    file = here.home / ".openclaw/openclaw.json"
    file.write_text(file.read_text().replace(key, "sk-wrong"))
    before = len(here.router.logged())
    done = openclaw(here, "agent", "--local", "--agent", "main", "--message", "Say hello")
    assert done.returncode == 1
    assert "Authentication failed" in done.stderr
    assert [line["outcome"] for line in here.router.logged()[before:]] == ["invalid_api_key"]


def test_a_spent_budget_is_told_as_a_limit_that_resets_and_asked_once(paid: Bench, tmp_path: Path) -> None:
    """Any other 402 makes OpenClaw leave the provider alone for ten minutes."""
    here = paid.elsewhere(tmp_path / "home")
    here.init("openclaw", "--key", here.new_key("--credit", "5", "--budget-day", "0.0001"))
    before = len(here.router.logged())
    done = openclaw(here, "agent", "--local", "--agent", "main", "--message", "Say hello")
    assert done.returncode == 1
    assert "reason=rate_limit" in done.stderr
    assert "Daily usage limit reached, try again in the next day" in done.stderr
    assert [line["outcome"] for line in here.router.logged()[before:]] == ["budget_exceeded"]


def test_the_bundled_clawrouter_plugin_chats_and_shows_the_balance(paid: Bench) -> None:
    key = paid.new_key("--credit", str(CREDIT_USD))
    paid.init("openclaw", "--plugin", "--key", key)
    paid.upstream.on(ANSWERING, steps(stream("Hello by the plugin")))
    before = len(paid.router.logged())
    texts, counted = say(paid, "Say hello", session="agent:main:s2")
    assert texts == ["Hello by the plugin"]
    assert (counted["provider"], counted["model"]) == ("clawrouter", "auto")
    (line,) = paid.router.logged()[before:]
    assert line["client_request_id"].endswith(":model:1")
    assert paid.upstream.requests[-1].header("x-request-id") == line["client_request_id"]
    status = openclaw(paid, "status", "--usage")
    assert status.returncode == 0, status.stderr[-3_000:]
    assert "ClawRouter" in status.stdout
    assert f"1 requests · {line['prompt_tokens'] + line['completion_tokens']:,} tokens" in status.stdout
