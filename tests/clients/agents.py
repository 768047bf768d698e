"""Agents against a scripted upstream: what it says step by step, and the programs as processes."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from router.cli import main
from tests.clients.packages import environment
from tests.router import Offered, RouterServer, write_catalog
from tests.service.walking import wait_for
from tests.upstream import Behaviour, ScriptedUpstream, Turn, stream

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    "1f15c4890000000d49444154789c6360000002000001e221bc330000000049454e44ae426082"
)
ANSWERING = "answering"
WATCHDOG_S = 300.0  # a start of OpenClaw alone takes 20 s of CPU


def calls(tool: str, thoughts: str = "", **arguments: Any) -> Behaviour:
    """Call one tool, after thoughts that are shown."""
    function = {"name": tool, "arguments": json.dumps(arguments)}
    call = {"index": 0, "id": "call_ae1e15c5", "type": "function", "function": function}
    thinking = [{"reasoning_content": thoughts}] if thoughts else []
    return stream([*thinking, {"tool_calls": [call]}], finish="tool_calls")


def steps(*behaviours: Behaviour, title: str = "A title") -> Behaviour:
    """Behave by how many tool results follow the last words; give a title where no tools are sent."""

    async def behave(turn: Turn) -> None:
        body = turn.request.json
        results = 0
        for message in reversed(body["messages"]):
            if message["role"] == "assistant" and not message.get("tool_calls"):
                break
            results += message["role"] == "tool"
        await (behaviours[min(results, len(behaviours) - 1)] if body.get("tools") else stream(title))(turn)

    return behave


@dataclass
class Bench:
    """A router with an upstream behind it, and a HOME for the client."""

    router: RouterServer
    upstream: ScriptedUpstream
    home: Path

    def init(self, client: str, *options: str, **environ: str) -> str:
        """Run `router init` for the client; return what it printed."""
        command = ["init", client, "--yes", "--url", self.router.origin, *options]
        done = CliRunner().invoke(main, command, env={"HOME": str(self.home), **environ})
        assert done.exit_code == 0, done.output
        return done.output

    def elsewhere(self, home: Path) -> Bench:
        """Return the same in another HOME, where no earlier run of the client is known."""
        home.mkdir()
        return replace(self, home=home)

    def run(self, *command: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run the client to its end in its HOME."""
        return subprocess.run(
            command,
            cwd=self.home,
            env=environment(self.home, **environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=WATCHDOG_S,
            check=False,
        )

    def new_key(self, *options: str) -> str:
        """Make an API key."""
        command = ["keys", "create", "--name", "me", "--json", "--data", str(self.router.data), *options]
        key: str = json.loads(CliRunner().invoke(main, command).stdout)["key"]
        return key

    def outcomes(self, count: int) -> list[str]:
        """Return how the requests in the log ended, once it has so many."""

        def look() -> list[str] | None:
            found = [line["outcome"] for line in self.router.logged()]
            return found if len(found) >= count else None

        return wait_for(look, f"{count} outcomes")

    def decisions(self, count: int = 0) -> list[dict[str, Any]]:
        """Return the decision log's records, once it has so many: they are written in batches."""

        def look() -> list[dict[str, Any]] | None:
            files = sorted((self.router.data / "decisions").glob("*"))
            lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
            found = [line for line in lines if "request_id" in line]
            return found if len(found) >= count else None

        return wait_for(look, f"{count} decisions")


@contextmanager
def bench(folder: Path, **settings: Any) -> Iterator[Bench]:
    """Serve until the block ends."""
    home = folder / "home"
    home.mkdir()
    model = Offered("vendor/model", upstream=ANSWERING, context=200_000, max_output=30_000)
    with ScriptedUpstream() as up:
        catalog = write_catalog(folder / "catalog", {"scripted": up.base_url}, [model])
        with RouterServer(catalog, folder / "data", **settings) as router:
            yield Bench(router, up, home)
