"""Caddy with the configuration of deploy/, before servers on loopback ports."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from tests.router import Asking

CONFIGURATION = Path(__file__).parents[1] / "deploy" / "Caddyfile"
START_S = 10.0


def needs_caddy() -> str:
    """Return the program; skip where there is none. CI has one."""
    found = shutil.which("caddy")
    if found is None:
        assert "CI" not in os.environ, "CI must have Caddy (Debian: apt-get install caddy)"
        pytest.skip("no Caddy here (Debian: apt-get install caddy)")
    return found


class Caddy(Asking):
    """Run it until the `with` block ends; nothing of the file is replaced but the replicas' addresses."""

    def __init__(self, folder: Path, servers: list[int]) -> None:
        self._program = needs_caddy()
        self._folder = folder
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
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

    def __enter__(self) -> Self:
        with (self._folder / "caddy.log").open("wb") as log:
            self._process = subprocess.Popen(
                self.command("run"), env=self.environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        end_s = time.monotonic() + START_S
        while not self._listens():
            assert self._process.poll() is None, (self._folder / "caddy.log").read_text()
            assert time.monotonic() < end_s, "Caddy did not start"
            time.sleep(0.01)
        return self

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(START_S)
