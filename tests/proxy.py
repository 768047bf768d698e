"""A reverse proxy of deploy/ as a process, before servers on loopback ports."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.router import Asking

START_S = 10.0


class Proxy(Asking, ABC):
    """Run a program that listens on `port` until the `with` block ends; its log is in the folder."""

    def __init__(self, folder: Path) -> None:
        self._log = folder / "log"
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]

    @property
    @abstractmethod
    def serving(self) -> list[str]:
        """Return the command that serves in the foreground."""

    @property
    def environ(self) -> dict[str, str] | None:
        """Return its environment, None for that of the tests."""
        return None

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self.serving, env=self.environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        end_s = time.monotonic() + START_S
        while not self._listens():
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < end_s, f"{self.serving[0]} did not start"
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
