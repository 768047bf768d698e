"""Caddy with the configuration of deploy/, before servers on loopback ports."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

from tests.proxy import Proxy

CONFIGURATION = Path(__file__).parents[1] / "deploy" / "Caddyfile"


def needs_caddy() -> str:
    """Return the program; skip where there is none. CI has one."""
    found = shutil.which("caddy")
    if found is None:
        assert "CI" not in os.environ, "CI must have Caddy (Debian: apt-get install caddy)"
        pytest.skip("no Caddy here (Debian: apt-get install caddy)")
    return found


class Caddy(Proxy):
    """Run it until the `with` block ends; nothing of the file is replaced but the replicas' addresses."""

    def __init__(self, folder: Path, servers: list[int]) -> None:
        super().__init__(folder)
        self._program = needs_caddy()
        self._folder = folder
        text = CONFIGURATION.read_text()
        for number, server in enumerate(servers, start=1):
            text, named = re.subn(rf"\brouter-{number}:8402\b", f"127.0.0.1:{server}", text)
            assert named == 1
        # Its own admin port would be one for all tests of this machine.
        (folder / "Caddyfile").write_text(
            re.sub(r"^\{$", "{\n\tadmin off", text, count=1, flags=re.MULTILINE)
        )

    def command(self, verb: str) -> list[str]:
        """Return a command of Caddy on the configuration."""
        return [self._program, verb, "--adapter", "caddyfile", "--config", str(self._folder / "Caddyfile")]

    @property
    def environ(self) -> dict[str, str]:
        """Return its environment: where it listens, and a home of its own."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self._folder),
            "SITE": f"http://127.0.0.1:{self.port}",
        }

    @property
    def serving(self) -> list[str]:
        """Return the command that serves in the foreground."""
        return self.command("run")
