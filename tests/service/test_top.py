"""`router top`, `router logs -f` and the completion of commands, in a real terminal where they need one."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.router import Offered, RouterServer, write_catalog
from tests.service.walking import bearer, make_key
from tests.serving import bare_environment, run_router
from tests.upstream import ScriptedUpstream, answer, status

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

    def __init__(self, folder: Path, *arguments: str, hung_up: bool = True) -> None:
        leads = ["setsid", "--ctty"] if hung_up else ["setsid"]  # without: no SIGHUP comes from the terminal
        self._main, side = pty.openpty()
        environ = bare_environment(folder, COLUMNS="150", LINES="50", TERM="xterm")
        self._process = subprocess.Popen(
            [*leads, sys.executable, "-m", "router", *arguments],
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

    def signal(self, wanted: signal.Signals) -> None:
        self._process.send_signal(wanted)

    def close(self) -> int:
        """Close the terminal's window; return how the command ended."""
        os.close(self._main)
        self._main = -1
        return self.wait()

    def wait(self) -> int:
        try:
            return self._process.wait(WATCHDOG_S)
        finally:
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()
            if self._main != -1:
                os.close(self._main)


def test_one_view_shows_models_money_and_the_last_requests(router: RouterServer, tmp_path: Path) -> None:
    arguments = ("--address", router.origin, "--data", str(router.data), "--once", "--every", "0.1")
    done = run_router(tmp_path, "top", *arguments, COLUMNS="150")
    assert done.returncode == 0, done.stderr
    (row,) = re.findall(r"test/a .*", done.stdout.split("success")[1].split("\n20")[0])
    assert row.split()[-2] == "3"
    assert len(re.findall(r"ok  test/a -> test/a at scripted", done.stdout)) == 3
    assert "3 requests" in done.stdout


def test_eighty_columns_hold_every_figure(router: RouterServer, tmp_path: Path) -> None:
    arguments = ("--address", router.origin, "--data", str(router.data), "--once", "--every", "0.1")
    done = run_router(tmp_path, "top", *arguments, COLUMNS="80")
    assert done.returncode == 0, done.stderr
    head = done.stdout.splitlines()[1:6]
    assert [line.split()[0] for line in head] == ["0.0", "charged", "whole", "first", "router's"]
    assert re.search(r"(?m)^ test/a +0\.0 .* 3 +\d+\.\d{4} *$", done.stdout)


def test_what_is_no_terminal_gets_one_view_and_what_is_no_router_the_fix(
    router: RouterServer, up: ScriptedUpstream, tmp_path: Path
) -> None:
    assert run_router(tmp_path, "top", "--address", router.origin, "--every", "0.1").returncode == 0
    for address in ("http://127.0.0.1:1", up.base_url):
        done = run_router(tmp_path, "top", "--address", address)
        assert done.returncode == 1
        assert "Error: " in done.stderr


def test_success_is_of_all_that_should_have_been_served(up: ScriptedUpstream, tmp_path: Path) -> None:
    catalog = write_catalog(tmp_path / "catalog", {"scripted": up.base_url}, [Offered("test/b")])
    up.on("test/b", answer(), status(500), answer())
    with RouterServer(catalog, tmp_path / "data") as router:
        key = bearer(make_key(router, "--rpm", "1")[0])
        terminal = Terminal(tmp_path, "top", "--address", router.origin, "--every", "0.1")
        terminal.read_until(b"none ended")
        assert [router.chat(model="test/b", headers=key).status for _ in range(2)] == [200, 429]
        terminal.read_until(b"100.0%")
        assert router.chat(model="test/b").status == 502
        terminal.read_until(b"50.0%")
        terminal.press(b"q")
        assert terminal.wait() == 0


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


@pytest.mark.parametrize("hung_up", [True, False])
def test_top_ends_with_its_terminal_even_where_no_signal_says_so(
    router: RouterServer, tmp_path: Path, hung_up: bool
) -> None:
    terminal = Terminal(tmp_path, "top", "--address", router.origin, "--every", "0.1", hung_up=hung_up)
    terminal.read_until(b"test/a")
    assert terminal.close() == 128 + signal.SIGHUP


@pytest.mark.parametrize("wanted", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_top_and_gives_the_terminal_back(
    router: RouterServer, tmp_path: Path, wanted: signal.Signals
) -> None:
    terminal = Terminal(tmp_path, "top", "--address", router.origin, "--every", "0.1")
    terminal.read_until(b"test/a")
    terminal.signal(wanted)
    terminal.read_until(b"\x1b[?1049l")
    assert terminal.wait() == 128 + wanted


@pytest.mark.parametrize("hung_up", [True, False])
def test_followed_logs_end_with_their_terminal(router: RouterServer, tmp_path: Path, hung_up: bool) -> None:
    terminal = Terminal(tmp_path, "logs", "-f", "-n", "1", "--data", str(router.data), hung_up=hung_up)
    terminal.read_until(b"ok  test/a")
    assert terminal.close() in ({0, -signal.SIGHUP} if hung_up else {0})  # by what it notices first


def test_followed_logs_end_with_their_reader_without_another_request(
    router: RouterServer, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "router", "logs", "-f", "--data", str(router.data)]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env=bare_environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as following:
        assert following.stdout is not None
        assert following.stderr is not None
        assert "ok  test/a" in following.stdout.readline()
        following.stdout.close()
        assert following.stderr.read() == ""
        assert following.wait(WATCHDOG_S) in (0, 1)  # 1: it was about to write


@pytest.mark.parametrize(
    "arguments",
    [("catalog", "show"), ("catalog", "schema"), ("explain", "--json", "hi"), ("serve", "--help")],
)
def test_output_that_nobody_takes_ends_a_command_without_a_traceback(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    command = [sys.executable, "-m", "router", *arguments]
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed, open("/dev/full", "wb") as full:
        ended = [
            subprocess.run(
                command,
                cwd=tmp_path,
                env=bare_environment(tmp_path),
                stdout=output,
                stderr=subprocess.PIPE,
                text=True,
                timeout=WATCHDOG_S,
                check=False,
            )
            for output in (closed, full)
        ]
    assert [done.returncode for done in ended] == [1, 1]
    assert [done.stderr for done in ended] == ["", "Error: No space left on device\n"]
