"""nginx with the configuration of deploy/, before servers on loopback ports."""

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

CONFIGURATION = Path(__file__).parents[1] / "deploy" / "nginx.conf"
START_S = 10.0


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


class Nginx(Asking):
    """Run it until the `with` block ends."""

    def __init__(self, folder: Path, servers: list[int]) -> None:
        self._program = needs_nginx()
        self._folder = folder
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        (folder / "nginx.conf").write_text(configured(folder, self.port, servers))

    def check(self) -> subprocess.CompletedProcess[str]:
        """Have nginx read its configuration."""
        return subprocess.run([*self._command(), "-t"], capture_output=True, text=True, check=False)

    def _command(self) -> list[str]:
        return [self._program, "-p", str(self._folder), "-c", "nginx.conf", "-e", "stderr"]

    def __enter__(self) -> Self:
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [*self._command(), "-g", "daemon off;"], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        end_s = time.monotonic() + START_S
        while not self._listens():
            assert self._process.poll() is None, (self._folder / "log").read_text()
            assert time.monotonic() < end_s, "nginx did not start"
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
