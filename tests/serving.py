"""The `router` command as a process of its own, in an empty folder and with nothing in its environment."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

WATCHDOG_S = 60.0


def bare_environment(folder: Path, **more: str) -> dict[str, str]:
    """Return PATH, an empty HOME below `folder`, and what the test adds."""
    home = folder / "home"
    home.mkdir(exist_ok=True)
    return {"PATH": os.environ["PATH"], "HOME": str(home), **more}


def run_router(
    folder: Path, *arguments: str, stdin: str | None = None, **more: str
) -> subprocess.CompletedProcess[str]:
    """Run a command of `router` to its end in `folder`."""
    return subprocess.run(
        [sys.executable, "-m", "router", *arguments],
        cwd=folder,
        env=bare_environment(folder, **more),
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        text=True,
        timeout=WATCHDOG_S,
        check=False,
    )


class Serving:
    """A serving process; what it prints, on both streams and in its order, is read line by line.

    Whatever hangs is killed after `watchdog_s`, so that reading ends and the test fails.
    """

    def __init__(
        self, command: list[str], cwd: Path, environ: Mapping[str, str], watchdog_s: float = WATCHDOG_S
    ) -> None:
        self.printed: list[str] = []
        self._process = subprocess.Popen(
            command,
            cwd=cwd,
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._drain: threading.Thread | None = None
        self._watchdog = threading.Timer(watchdog_s, self._kill_all)

    def __enter__(self) -> Self:
        self._watchdog.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watchdog.cancel()
        self._kill_all()
        self._process.wait()
        if self._drain is not None:
            self._drain.join()
        assert self._process.stdout is not None
        self._process.stdout.close()

    @property
    def text(self) -> str:
        """Return what has been read so far."""
        return "".join(self.printed)

    @property
    def port(self) -> int:
        """Return the port of the printed address."""
        found = re.search(r"on http://[^\s/]+:(\d+)", self.text)
        assert found is not None, self.text
        return int(found[1])

    @property
    def pid(self) -> int:
        """Return the process that was started."""
        return self._process.pid

    def read_until(self, part: str) -> str:
        """Read up to the line that holds `part`; fails with everything printed when it never comes."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.printed.append(line)
            if part in line:
                return line
        raise AssertionError(f"{part!r} was not printed before the end:\n{self.text}")

    def drain(self) -> None:
        """Read what comes from now on in a thread, so that a service that says much is never held up."""
        self._drain = threading.Thread(target=self._read_all, name="drain")
        self._drain.start()

    def _read_all(self) -> None:
        assert self._process.stdout is not None
        self.printed.extend(self._process.stdout)

    def memory_bytes(self) -> int:
        """Return what the process has in memory now, and begin to watch for its peak (Linux)."""
        Path(f"/proc/{self._process.pid}/clear_refs").write_text("5")
        return self._memory("VmRSS")

    def peak_bytes(self) -> int:
        """Return the most that it has had in memory since `memory_bytes`."""
        return self._memory("VmHWM")

    def _memory(self, name: str) -> int:
        text = Path(f"/proc/{self._process.pid}/status").read_text()
        found = re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)
        assert found is not None, text
        return int(found[1]) * 1024

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._process.send_signal(signal.SIGTERM)

    def hang_up(self) -> None:
        """Send SIGHUP."""
        self._process.send_signal(signal.SIGHUP)

    def send(self, wanted: signal.Signals) -> None:
        """Send a signal."""
        self._process.send_signal(wanted)

    def terminate_all(self) -> None:
        """Send SIGTERM to the process and to those it started, as a terminal or a container does."""
        os.killpg(self._process.pid, signal.SIGTERM)

    def interrupt_all(self) -> None:
        """Send SIGINT to the process and to those it started, as Ctrl-C in a terminal does."""
        os.killpg(self._process.pid, signal.SIGINT)

    @property
    def running(self) -> bool:
        """Tell whether the process that was started has not ended."""
        return self._process.poll() is None

    def wait(self) -> int:
        """Read what is left and return the exit status."""
        if self._drain is None:
            self._read_all()
        else:
            self._drain.join()
        return self._process.wait()

    def _kill_all(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)


def serve(folder: Path, *arguments: str, **more: str) -> Serving:
    """Start `python -m router serve` on a free port with its data below `folder`."""
    command = [sys.executable, "-m", "router", "serve", "--port", "0", "--data", "data", *arguments]
    return Serving(command, folder, bare_environment(folder, **more))
