"""Where a measurement happens: cores, folders, environment, and the one form every measured server has."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import processes

CHAT = "/v1/chat/completions"
KEPT_ENVIRONMENT = frozenset(
    {"PATH", "LANG", "LC_ALL", "VIRTUAL_ENV", "PYTHONPATH", "LD_LIBRARY_PATH", "TMPDIR"}
)


class Unavailable(Exception):
    """A target cannot be had or does not answer properly; the message is the reason in its row."""


@dataclass(frozen=True, slots=True)
class Site:
    """The machine as one run uses it; `home` is a temporary folder, `peers` the cache of installed peers.

    A core that is None is all of them.
    """

    home: Path
    peers: Path
    gateway_core: int | None
    load_core: int | None

    def environ(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return an environment without anybody's keys or router settings."""
        kept = {name: value for name, value in os.environ.items() if name in KEPT_ENVIRONMENT}
        return kept | {"HOME": str(self.home)} | dict(more or {})

    def folder(self, name: str) -> Path:
        """Make a folder of this name, or name-1, name-2 ... below `home`."""
        for path in (self.home / f"{name}{f'-{n}' if n else ''}" for n in range(10_000)):
            with contextlib.suppress(FileExistsError):
                path.mkdir()
                return path
        raise FileExistsError(self.home / name)

    @contextmanager
    def upstream(self) -> Iterator[int]:
        """Run the bare upstream on the load's core; gives its port."""
        port, log = processes.free_port(), self.folder("upstream") / "log"
        command = [sys.executable, "-m", "benchmarks.upstream", "--port", str(port)]
        with processes.running(command, self.load_core, self.environ(), log) as process:
            processes.wait_ready(process, port, "/v1/models", log, timeout_s=20)
            yield port

    @contextmanager
    def gateway(
        self,
        command: Sequence[str],
        log: Path,
        *,
        port: int | None,
        ready: str | None,
        environ: Mapping[str, str] | None = None,
        timeout_s: float = 60,
    ) -> Iterator[tuple[int, int, float]]:
        """Run a gateway alone on its core; gives its port, process id and seconds from start to readiness.

        A gateway that chooses its port itself (`port` None) prints its address when it is ready; else `ready`
        is the path to ask. Raises `Unavailable`.
        """
        started_s = time.monotonic()
        try:
            with processes.running(command, self.gateway_core, self.environ(environ), log) as process:
                port = port or _printed_port(process, log, timeout_s)
                if ready is not None:
                    processes.wait_ready(process, port, ready, log, timeout_s)
                yield port, process.pid, time.monotonic() - started_s
        except processes.NotReady as failed:
            raise Unavailable(str(failed)) from None


def _printed_port(process: subprocess.Popen[bytes], log: Path, timeout_s: float) -> int:
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s and process.poll() is None:
        if found := re.search(r"listening on http://127\.0\.0\.1:(\d+)", log.read_text(errors="replace")):
            return int(found[1])
        time.sleep(0.01)
    raise processes.NotReady(f"no address was printed; the output ends with:\n{log.read_text()[-2000:]}")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A running server as the load sees it; `pid` is None where nothing but the upstream is measured."""

    port: int
    pid: int | None = None
    path: str = CHAT
    model: str = "auto"
    authorization: str | None = None
    start_s: float = 0.0

    @property
    def url(self) -> str:
        """Return the address of the chat route."""
        return f"http://127.0.0.1:{self.port}{self.path}"


@dataclass(frozen=True, slots=True)
class Target:
    """Something to measure: `prepare` installs it and gives its version, `start` runs it before an upstream.

    Both raise `Unavailable` with the reason.
    """

    name: str
    does: str
    prepare: Callable[[Site], str]
    start: Callable[[Site, int], AbstractContextManager[Endpoint]]
