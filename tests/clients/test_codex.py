"""Codex as its authors publish it, with the settings that `router init codex` wrote into an empty HOME.

Its own sandbox is off: the tests run where no nested one can be made.
"""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.clients.agents import ANSWERING, Bench, bench, calls, steps
from tests.clients.packages import node, npm_packages
from tests.upstream import error_event_after, stream

pytestmark = pytest.mark.clients

FREE = ("--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox")
RULES = "Prove that the square root of two is irrational, and refactor the parser.\n"
MCP = """
import json, sys
for line in sys.stdin:
    asked = json.loads(line)
    if "id" not in asked:
        continue
    told = {}
    if asked["method"] == "initialize":
        told = {"protocolVersion": asked["params"]["protocolVersion"], "capabilities": {"tools": {}}}
        told["serverInfo"] = {"name": "words", "version": "1"}
    elif asked["method"] == "tools/list":
        schema = {"type": "object", "properties": {}}
        told = {"tools": [{"name": "secret_word", "description": "Tell it.", "inputSchema": schema}]}
    elif asked["method"] == "tools/call":
        told = {"content": [{"type": "text", "text": "xyzzy"}]}
    print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": told}), flush=True)
"""


@pytest.fixture
def paid(tmp_path: Path) -> Iterator[Bench]:
    with bench(tmp_path, access="paid") as running:
        running.init("codex", "--key", running.new_key("--credit", "5"))
        yield running


def png() -> bytes:
    """Return a white dot; Codex decodes images and leaves out what is none."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0\xff\xff\xff")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def codex(bench: Bench, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = npm_packages("codex") / "@openai" / "codex" / "bin" / "codex.js"
    return bench.run(str(node()), str(program), "exec", *FREE, *arguments)


def messages(bench: Bench) -> list[dict[str, Any]]:
    """Return the messages of the last request that reached the upstream."""
    found: list[dict[str, Any]] = bench.upstream.requests[-1].json["messages"]
    return found


def test_codex_is_answered_and_goes_on_with_the_talk(paid: Bench) -> None:
    (paid.home / "AGENTS.md").write_text(RULES)
    paid.upstream.on(ANSWERING, stream("Paris."), stream("Berlin."))
    question = "What is the capital of France?"
    done = codex(paid, question)
    assert (done.returncode, done.stdout) == (0, "Paris.\n"), done.stderr
    assert RULES in str(messages(paid)[-2]["content"][0]["text"])
    assert [message["role"] for message in messages(paid)] == ["system", "user", "user"]
    again = codex(paid, "resume", "--last", "And of Germany?")
    assert (again.returncode, again.stdout) == (0, "Berlin.\n"), again.stderr
    assert [message["content"] for message in messages(paid)[-3:]] == [question, "Paris.", "And of Germany?"]
    first, second = paid.decisions(2)
    key = {"authorization": f"Bearer {paid.new_key('--credit', '5')}"}
    asked = {"model": "auto", "messages": [{"role": "user", "content": question}]}
    plain = paid.router.request("POST", "/v1/route", asked, key).json
    assert first["probabilities"] == pytest.approx(plain["probabilities"], abs=1e-6)
    assert first["stripped"] is True
    assert [line["need"]["pinned"] is not None for line in (first, second)] == [False, True]
    assert paid.outcomes(2) == ["ok", "ok"]


def test_codex_runs_a_command_that_writes_a_file(paid: Bench) -> None:
    writing = calls("exec_command", thoughts="A file, then.", cmd="echo hi > hello.txt")
    paid.upstream.on(ANSWERING, steps(writing, stream("Written.")))
    done = codex(paid, "Write hi into hello.txt")
    assert (done.returncode, done.stdout) == (0, "Written.\n"), done.stderr
    assert (paid.home / "hello.txt").read_text() == "hi\n"
    call, output = messages(paid)[-2:]
    assert call["tool_calls"][0]["function"]["name"] == "exec_command"
    assert call["reasoning_content"] == "A file, then."
    assert (output["role"], output["tool_call_id"]) == ("tool", call["tool_calls"][0]["id"])
    assert "exited with code 0" in output["content"]


def test_a_tool_of_an_mcp_server_is_called_by_its_namespace(paid: Bench) -> None:
    server = paid.home / "words.py"
    server.write_text(MCP)
    settings = paid.home / ".codex" / "config.toml"
    told = f'\n[mcp_servers.words]\ncommand = "{sys.executable}"\nargs = ["{server}"]\n'
    settings.write_text(settings.read_text() + told)
    paid.upstream.on(ANSWERING, steps(calls("mcp__words__secret_word"), stream("It is xyzzy.")))
    done = codex(paid, "Tell me the secret word")
    assert (done.returncode, done.stdout) == (0, "It is xyzzy.\n"), done.stderr
    assert "xyzzy" in messages(paid)[-1]["content"]


def test_an_image_and_one_that_a_tool_shows_are_seen(paid: Bench) -> None:
    picture = paid.home / "dot.png"
    picture.write_bytes(png())
    paid.upstream.on(ANSWERING, steps(calls("view_image", path=str(picture)), stream("A dot.")))
    done = codex(paid, "What does it show?", "-i", str(picture))
    assert (done.returncode, done.stdout) == (0, "A dot.\n"), done.stderr
    sent, shown = messages(paid)[2], messages(paid)[-1]
    assert [part["type"] for part in sent["content"]] == ["text", "image_url", "text", "text"]
    assert [part["type"] for part in shown["content"]] == ["text", "image_url"]
    assert {line["category"] for line in paid.decisions(2)} == {"vision"}


def test_a_talk_that_is_summed_up_is_still_about_the_persons_task(paid: Bench) -> None:
    counts = {"prompt_tokens": 5_000, "completion_tokens": 10, "total_tokens": 5_010}
    command = replace(calls("exec_command", cmd="true"), counts=counts)
    paid.upstream.on(ANSWERING, command, stream("A summary.", counts=counts), stream("Done."))
    done = codex(paid, "What is the capital of France?", "-c", "model_auto_compact_token_limit=1000")
    assert (done.returncode, done.stdout) == (0, "Done.\n"), done.stderr
    assert "A summary." in messages(paid)[-1]["content"]
    first, *others = paid.decisions(3)
    assert [line["probabilities"] for line in others] == [first["probabilities"]] * 2


def test_a_stream_that_breaks_is_asked_again(paid: Bench) -> None:
    paid.upstream.on(ANSWERING, error_event_after(2), stream("Whole."))
    done = codex(paid, "Say hello")
    assert (done.returncode, done.stdout) == (0, "Whole.\n"), done.stderr
    assert paid.outcomes(2) == ["upstream_error", "ok"]


def test_a_wrong_key_is_told(paid: Bench) -> None:
    settings = paid.home / ".codex" / "config.toml"
    key = settings.read_text().partition('experimental_bearer_token = "')[2].partition('"')[0]
    settings.write_text(settings.read_text().replace(key, "sk-wrong"))
    done = codex(paid, "Say hello")
    assert done.returncode == 1
    assert "Invalid API key" in done.stdout + done.stderr
    assert paid.upstream.requests == []
