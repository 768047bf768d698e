"""`router top`, `router logs -f` and the completion of commands, in a real terminal where they need one."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.router import Offered, RouterServer, write_catalog
from tests.serving import bare_environment, run_router
from tests.upstream import ScriptedUpstream, answer

WATCHDOG_S = 20.0


@pytest.fixture(scope="module")
def up() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as server:
        yield server


@pytest.fixture(scope="module")
def router(up: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RouterServer]:
    folder = tmp_path_factory.mktemp("router")
    catalog = write_catalog(folder / "catalog", {"scripted": up.base_url}, [Offered("test/a")])
    with RouterServer(catalog, folder / "data") as server:
        up.on("test/a", answer())
        for _ in range(3):
            assert server.chat(model="test/a").status == 200
        yield server


class Terminal:
    """A command in a terminal of its own, 150 columns wide."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self._main, side = pty.openpty()
        environ = bare_environment(folder, COLUMNS="150", LINES="50", TERM="xterm")
        self._process = subprocess.Popen(
            ["setsid", "--ctty", sys.executable, "-m", "router", *arguments],
            cwd=folder,
            env=environ,
            stdin=side,
            stdout=side,
            stderr=side,
        )
        os.close(side)
        self.shown = b""

    def read_until(self, part: bytes) -> None:
        while part not in self.shown:
            ready, _, _ = select.select([self._main], [], [], WATCHDOG_S)
            assert ready, self.shown
            self.shown += os.read(self._main, 65_536)

    def press(self, key: bytes) -> None:
        os.write(self._main, key)

    def wait(self) -> int:
        try:
            return self._process.wait(WATCHDOG_S)
        finally:
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()
            os.close(self._main)


def test_one_view_shows_models_money_and_the_last_requests(router: RouterServer, tmp_path: Path) -> None:
    arguments = ("--address", router.origin, "--data", str(router.data), "--once", "--every", "0.1")
    done = run_router(tmp_path, "top", *arguments, COLUMNS="150")
    assert done.returncode == 0, done.stderr
    (row,) = re.findall(r"test/a .*", done.stdout.split("running")[1].split("\n20")[0])
    assert row.split()[6] == "3"
    assert len(re.findall(r"ok  test/a -> test/a at scripted", done.stdout)) == 3
    assert "3 requests" in done.stdout


def test_what_is_no_terminal_gets_one_view_and_what_is_no_router_the_fix(
    router: RouterServer, up: ScriptedUpstream, tmp_path: Path
) -> None:
    assert run_router(tmp_path, "top", "--address", router.origin, "--every", "0.1").returncode == 0
    for address in ("http://127.0.0.1:1", up.base_url):
        done = run_router(tmp_path, "top", "--address", address)
        assert done.returncode == 1
        assert "Error: " in done.stderr


def test_in_a_terminal_q_ends_it(router: RouterServer, tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, "top", "--address", router.origin, "--every", "0.1")
    terminal.read_until(b"test/a")
    terminal.press(b"q")
    assert terminal.wait() == 0


def test_in_a_terminal_control_c_ends_it_well(router: RouterServer, tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, "top", "--address", router.origin, "--every", "0.1")
    terminal.read_until(b"test/a")
    terminal.press(b"\x03")
    terminal.read_until(b"\x1b[?1049l")  # the screen from before is back
    assert terminal.wait() == 0


def test_logs_follow_each_request_as_it_ends(router: RouterServer, tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, "logs", "-f", "-n", "1", "--data", str(router.data))
    terminal.read_until(b"ok  test/a")  # the last one from before: it follows now
    for _ in range(2):
        terminal.shown = b""
        assert router.chat(model="test/a").status == 200
        terminal.read_until(b"ok  test/a")
    terminal.press(b"\x03")
    assert terminal.wait() == 0
