"""nginx with the configuration of deploy/, before servers on loopback ports."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.proxy import Proxy

CONFIGURATION = Path(__file__).parents[1] / "deploy" / "nginx.conf"


def needs_nginx() -> str:
    """Return the program; skip where there is none. CI has one."""
    found = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if found is None:
        assert "CI" not in os.environ, "CI must have nginx (Debian: apt-get install nginx-light)"
        pytest.skip("no nginx here (Debian: apt-get install nginx-light)")
    return found


def configured(folder: Path, port: int, servers: list[int]) -> str:
    """Return deploy/nginx.conf with its addresses and its temporary folder replaced, and nothing else."""
    text = CONFIGURATION.read_text().replace("/tmp/", f"{folder}/")
    text, listens = re.subn(r"listen 8080\b", f"listen 127.0.0.1:{port}", text)
    for number, server in enumerate(servers, start=1):
        text, named = re.subn(rf"server router-{number}:8402\b", f"server 127.0.0.1:{server}", text)
        assert named == 1
    assert listens == 1
    assert ":8402" not in text
    return text


class Nginx(Proxy):
    """Run it until the `with` block ends."""

    def __init__(self, folder: Path, servers: list[int]) -> None:
        super().__init__(folder)
        self._program = needs_nginx()
        self._folder = folder
        (folder / "nginx.conf").write_text(configured(folder, self.port, servers))

    def check(self) -> subprocess.CompletedProcess[str]:
        """Have nginx read its configuration."""
        return subprocess.run([*self._command(), "-t"], capture_output=True, text=True, check=False)

    def _command(self) -> list[str]:
        return [self._program, "-p", str(self._folder), "-c", "nginx.conf", "-e", "stderr"]

    @property
    def serving(self) -> list[str]:
        """Return the command that serves in the foreground."""
        return [*self._command(), "-g", "daemon off;"]
