"""Tell the holds of a living process from those of a dead one.

Each process that holds money keeps an exclusive lock on a file of its own beside the database. The kernel
drops the lock when the process ends, however it ends, so a lock that can be taken belongs to the dead: no
process number that is used again, no clock, no lease to renew. The lock is SQLite's own, so it works wherever
the database works, and across containers that share the volume.
"""

from __future__ import annotations

import sqlite3
import uuid
from contextlib import closing, suppress
from pathlib import Path

from router.ledger.sqlite import is_busy

FOLDER = "owners"


class Owner:
    """Hold the lock that says "this process lives" until `close`, or until the process ends."""

    def __init__(self, folder: Path) -> None:
        """Take a new lock in `folder`. Raises sqlite3.Error and OSError."""
        folder.mkdir(mode=0o700, exist_ok=True)
        self._folder = folder
        self.id, self._lock = self._take()

    def lives(self, owner: str) -> bool:
        """Say whether the process with that id still runs; a process whose lock file is gone does not."""
        if owner == self.id:
            return True
        path = self._folder / owner
        try:
            with closing(_lock(path, "rw")):
                return False
        except sqlite3.Error:
            # Locked. A file that cannot be read counts as locked: a hold that stays is the safe mistake.
            return path.exists()

    def clear(self) -> None:
        """Remove the lock files of dead processes, each while its lock is held (see `_take`)."""
        for path in self._folder.iterdir():
            if path.name != self.id:
                with suppress(sqlite3.Error), closing(_lock(path, "rw")):
                    path.unlink(missing_ok=True)

    def close(self) -> None:
        """Give the lock up."""
        (self._folder / self.id).unlink(missing_ok=True)
        self._lock.close()

    def _take(self) -> tuple[str, sqlite3.Connection]:
        while True:
            name = uuid.uuid4().hex
            try:
                lock = _lock(self._folder / name, "rwc")
            except sqlite3.OperationalError as fault:
                if is_busy(fault):
                    continue  # `clear` or `lives` of another process came between making and locking it
                raise
            if (self._folder / name).exists():
                return name, lock
            lock.close()  # `clear` of another process has removed it


def _lock(path: Path, mode: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}", uri=True, timeout=0, isolation_level=None
    )
    try:
        connection.execute("PRAGMA journal_mode = OFF")  # so that the lock makes no second file
        connection.execute("BEGIN EXCLUSIVE")
    except sqlite3.Error:
        connection.close()
        raise
    return connection
