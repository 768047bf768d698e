"""The README's two commands, as printed there, from a clean clone with an empty HOME and a fresh Python."""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.serving import Serving

ROOT = Path(__file__).parents[2]
PROMISED = ["pip install uv && uv run router serve", "pip install uv && uv run pytest"]
# How this machine reaches a package index; nothing else of its environment is handed on.
INDEX = re.compile(
    r"(PIP|UV)_(.*INDEX.*|FIND_LINKS|CERT|DEFAULT_TIMEOUT|.*HOST)|.*_PROXY|SSL_CERT_.*", re.IGNORECASE
)
INSTALL_AND_TEST_S = 900.0


@dataclass(frozen=True)
class Fresh:
    """A clone, and an environment with a Python that has nothing but pip."""

    clone: Path
    environ: Mapping[str, str]

    def command(self, number: int) -> list[str]:
        """Return a shell that runs a line of the README and passes SIGTERM on by outliving it."""
        return ["sh", "-c", f"trap : TERM; {readme_commands(self.clone)[number]}"]


def readme_commands(folder: Path) -> list[str]:
    """Return the lines of the README's first code block, without their comments."""
    block = re.search(r"^```\w*\n(.*?)^```", (folder / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    assert block is not None, "the README has no code block"
    return [line.partition("#")[0].strip() for line in block[1].splitlines() if line.strip()]


def environment(folder: Path) -> dict[str, str]:
    home = folder / "home"
    home.mkdir()
    subprocess.run([sys.executable, "-m", "venv", str(folder / "python")], check=True)
    index = {name: value for name, value in os.environ.items() if INDEX.fullmatch(name)}
    path = f"{folder / 'python' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return {**index, "PATH": path, "HOME": str(home), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


@pytest.fixture
def fresh(tmp_path: Path) -> Fresh:
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(clone)], check=True)
    return Fresh(clone, environment(tmp_path))


def test_the_readme_prints_the_promised_commands() -> None:
    assert readme_commands(ROOT) == PROMISED


@pytest.mark.fresh
def test_the_first_command_starts_a_router_that_answers(fresh: Fresh) -> None:
    environ = {**fresh.environ, "ROUTER_PORT": "0"}  # 8402 may be taken where the tests run
    with Serving(fresh.command(0), fresh.clone, environ, watchdog_s=INSTALL_AND_TEST_S) as serving:
        serving.read_until("router.app: ready")
        connection = http.client.HTTPConnection("127.0.0.1", serving.port, timeout=30)
        with closing(connection):
            body = {"model": "auto", "messages": [{"role": "user", "content": "Say hello in French"}]}
            connection.request(
                "POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"}
            )
            answer = json.load(connection.getresponse())
        serving.terminate_all()
        assert serving.wait() == 0, serving.text
    assert answer["choices"][0]["message"]["content"]
    assert answer["usage"]["cost"] > 0


@pytest.mark.fresh
def test_the_second_command_passes_the_tests(fresh: Fresh) -> None:
    done = subprocess.run(
        fresh.command(1),
        cwd=fresh.clone,
        env=dict(fresh.environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=INSTALL_AND_TEST_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5_000:]
    changed = subprocess.run(
        ["git", "-C", str(fresh.clone), "status", "--porcelain"], capture_output=True, text=True, check=True
    )
    assert changed.stdout == "", "the commands leave files that git would add"
