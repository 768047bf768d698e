"""A private PostgreSQL for tests and benchmarks: made in a temporary folder, reached by its socket there."""

from __future__ import annotations

import asyncio
import glob
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import asyncpg

START_S = 30.0
_NOBODY = 65_534


def binaries() -> Path | None:
    """Return the folder that holds `initdb` and `postgres`, None where PostgreSQL is not installed."""
    found = shutil.which("initdb")
    folders = [Path(found).parent] if found else []
    folders += [Path(path) for path in sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True)]
    complete = (folder for folder in folders if all((folder / n).exists() for n in ("initdb", "postgres")))
    return next(complete, None)


class Cluster:
    """Run a server of its own until the `with` block ends; a root runs it as another user, as it demands."""

    def __init__(self, folder: Path, **settings: str) -> None:
        """Name the folder of the binaries, and settings of the server."""
        self._binaries = folder
        self._settings = settings
        self._user = _unprivileged() if os.geteuid() == 0 else None
        self._server: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="pg-"))  # short: a socket's path has 107 bytes at most
        if self._user is not None:
            os.chown(self._folder, self._user, self._user)
        options = ["-D", str(self._folder / "data"), "-U", "router", "-A", "trust", "-E", "UTF8", "--no-sync"]
        try:
            self._run("initdb", *options, "--locale=C").check_returncode()
            self.start()
        except BaseException:
            shutil.rmtree(self._folder)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.resume()
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self._folder)

    @property
    def pid(self) -> int:
        """Return the server's first process."""
        assert self._server is not None
        return self._server.pid

    def url(self, database: str = "postgres") -> str:
        """Return how to connect."""
        return f"postgresql://router@/{database}?host={self._folder}"

    def make_database(self) -> str:
        """Make an empty database and return its URL."""
        name = f"test_{uuid.uuid4().hex[:12]}"
        execute(self.url(), f"CREATE DATABASE {name}")
        return self.url(name)

    def start(self) -> None:
        """Start the server and wait until it answers."""
        options = ["-D", str(self._folder / "data"), "-k", str(self._folder), "-c", "listen_addresses="]
        for name, value in self._settings.items():
            options += ["-c", f"{name}={value}"]
        with (self._folder / "log").open("ab") as log:
            self._server = subprocess.Popen(
                [self._binaries / "postgres", *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                **self._as_user(),
            )
        end_s = time.monotonic() + START_S
        while True:
            try:
                return execute(self.url(), "SELECT 1")
            except (OSError, asyncpg.PostgresError) as fault:
                if self._server.poll() is not None or time.monotonic() > end_s:
                    raise RuntimeError(f"PostgreSQL did not start: {self.log()}") from fault
                time.sleep(0.02)

    def stop(self, how: signal.Signals = signal.SIGQUIT) -> None:
        """End the server: SIGQUIT as in a crash, SIGINT in good order."""
        if self._server is not None:
            self._server.send_signal(how)
            self._server.wait(START_S)
            self._server = None

    def kill(self) -> None:
        """End every process of the server at once, as a machine that loses its power."""
        pids = self._pids()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        if self._server is not None:
            self._server.wait(START_S)
            self._server = None
        end_s = time.monotonic() + START_S
        while any(_runs(pid) for pid in pids) and time.monotonic() < end_s:
            time.sleep(0.01)  # the next server may not start beside one of them

    def pause(self) -> None:
        """Let no process of the server go on: it is there, and does not answer."""
        for pid in self._pids():
            os.kill(pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let them go on."""
        for pid in self._pids():
            os.kill(pid, signal.SIGCONT)

    def log(self) -> str:
        """Return what the server has said."""
        return (self._folder / "log").read_text("utf-8", "replace")

    def _pids(self) -> list[int]:
        if self._server is None:
            return []
        pid = self._server.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [pid, *map(int, children)]

    def _run(self, name: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [self._binaries / name, *arguments],
            capture_output=True,
            cwd=self._folder,
            timeout=START_S,
            check=False,
            **self._as_user(),
        )

    def _as_user(self) -> dict[str, Any]:
        if self._user is None:
            return {}
        return {
            "user": self._user,
            "group": self._user,
            "extra_groups": [],
            "env": {"PATH": os.environ["PATH"]},
        }


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def execute(url: str, sql: str) -> None:
    """Run statements over a connection of their own."""

    async def run() -> None:
        connection = await asyncpg.connect(url, timeout=5)
        try:
            await connection.execute(sql)
        finally:
            await connection.close()

    asyncio.run(run())


def fetch(url: str, sql: str) -> list[tuple[Any, ...]]:
    """Run one statement over a connection of its own and return its rows."""

    async def run() -> list[tuple[Any, ...]]:
        connection = await asyncpg.connect(url, timeout=5)
        try:
            return [tuple(row) for row in await connection.fetch(sql)]
        finally:
            await connection.close()

    return asyncio.run(run())


def _unprivileged() -> int:
    try:
        return pwd.getpwnam("postgres").pw_uid
    except KeyError:
        return _NOBODY
