"""`router serve --workers N` for tests: the command as a process of its own, and its worker processes."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.router import Asking
from tests.service.walking import wait_for
from tests.serving import WATCHDOG_S, Serving, serve


class Workers(Asking):
    """Serve a catalog with several workers until the `with` block ends."""

    def __init__(self, folder: Path, catalog: Path, count: int, *arguments: str, **environ: str) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.database_url = environ.get("ROUTER_DATABASE_URL")
        self._count = count
        flags = ("--catalog", str(catalog), "--workers", str(count), *arguments)
        self.serving: Serving = serve(folder, *flags, **environ)

    def __enter__(self) -> Self:
        self.serving.__enter__()
        self.serving.read_until(f"{self._count} workers are ready")
        self.port = self.serving.port
        self.serving.drain()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.serving.__exit__(kind, fault, trace)

    def pids(self) -> list[int]:
        """Return the workers' process ids (Linux)."""
        pid = self.serving.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def kill(self, pid: int) -> None:
        """End a worker as nothing can be caught, and wait until another one is in its place."""
        seen = len(self.serving.printed)
        os.kill(pid, signal.SIGKILL)
        self.said("another one starts", seen)
        self.said(f"{self._count} workers are ready", seen)

    def said(self, part: str, seen: int = 0) -> None:
        """Wait for a line that holds `part`, after the first `seen` lines."""

        def look() -> bool | None:
            return any(part in line for line in self.serving.printed[seen:]) or None

        wait_for(look, f"{part!r}", WATCHDOG_S)

    def served_by(self) -> set[int]:
        """Return the processes that have written decisions, by the names of their files."""
        files = (self.data / "decisions").glob("*.jsonl")
        return {int(file.stem.rsplit("-", 1)[1]) for file in files}
