"""A private Prometheus with the configuration and the rules of deploy/, for tests."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode

import pytest

from tests.router import Asking
from tests.service.walking import wait_for

DEPLOY = Path(__file__).parents[1] / "deploy" / "prometheus"
START_S = 20.0


def needs(program: str) -> str:
    """Return a program of Prometheus; skip where there is none. CI has it."""
    found = shutil.which(program)
    if found is None:
        assert "CI" not in os.environ, f"CI must have {program} (Debian: apt-get install prometheus)"
        pytest.skip(f"no {program} here (Debian: apt-get install prometheus)")
    return found


def configured(ports: list[int]) -> str:
    """Return deploy's prometheus.yml with its targets replaced, and scraping often."""
    targets = json.dumps([f"127.0.0.1:{port}" for port in ports])
    text, named = re.subn(r"targets: \[.*\]", f"targets: {targets}", (DEPLOY / "prometheus.yml").read_text())
    text, often = re.subn(r"interval: 15s", "interval: 200ms", text)
    assert (named, often) == (1, 2)
    return text


class Prometheus(Asking):
    """Scrape routers until the `with` block ends."""

    def __init__(self, folder: Path, ports: list[int]) -> None:
        self._folder = folder
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        (folder / "prometheus.yml").write_text(configured(ports))
        shutil.copy(DEPLOY / "alerts.yml", folder)
        self._command = [
            needs("prometheus"),
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
        ]

    def __enter__(self) -> Self:
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self._folder
            )
        wait_for(self._ready, "Prometheus", START_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(START_S)

    def _ready(self) -> bool | None:
        assert self._process.poll() is None, (self._folder / "log").read_text()
        try:
            return self.request("GET", "/-/ready").status == 200 or None
        except ConnectionRefusedError:
            return None

    def ask(self, query: str) -> list[tuple[dict[str, str], float]]:
        """Return the labels and the value of each series that a query has now."""
        found = self.request("GET", f"/api/v1/query?{urlencode({'query': query})}").json
        assert found["status"] == "success", found
        return [(each["metric"], float(each["value"][1])) for each in found["data"]["result"]]

    def rules(self) -> list[dict[str, Any]]:
        """Return the state of each alert rule."""
        groups = self.request("GET", "/api/v1/rules").json["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]
