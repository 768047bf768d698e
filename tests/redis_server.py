"""A private redis-server on a Unix socket, for tests; it keeps nothing on disk and ends with its test."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as Refused

START_S = 10.0


class RedisServer:
    """Serve until the `with` block ends; `kill` and `start` as often as a test wants."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="redis-"))
        self._socket = self._folder / "redis.sock"
        self.url = f"unix://{self._socket}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        shutil.rmtree(self._folder)

    @property
    def pid(self) -> int:
        """Return the process id."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start with nothing in memory, and wait until it answers."""
        command = [
            "redis-server",
            "--port",
            "0",
            "--unixsocket",
            str(self._socket),
            "--dir",
            str(self._folder),
        ]
        self._process = subprocess.Popen(
            [*command, "--save", "", "--appendonly", "no"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
        )
        end_s = time.monotonic() + START_S
        with self.client() as client:
            while True:
                try:
                    client.ping()
                except Refused:
                    assert time.monotonic() < end_s, "redis-server did not start"
                    time.sleep(0.01)
                else:
                    return

    def kill(self) -> None:
        """End it as a crash does: everything in its memory is lost."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Let it hang: it takes connections and answers nobody."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def client(self) -> Redis:
        """Return a client."""
        return Redis(unix_socket_path=str(self._socket))


def needs_redis() -> None:
    """Skip where there is no redis-server; CI has one."""
    if shutil.which("redis-server") is None:
        assert "CI" not in os.environ, "CI must have redis-server (Debian: apt-get install redis-server)"
        pytest.skip("no redis-server here (Debian: apt-get install redis-server)")
