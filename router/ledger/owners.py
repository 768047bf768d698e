"""Tell the holds of a living process from those of a dead one.

Each process that holds money keeps an exclusive lock on a file of its own beside the database. The kernel
drops the lock when the process ends, however it ends, so a lock that can be taken belongs to the dead: no
process number that is used again, no clock, no lease to renew. The lock is SQLite's own, so it works wherever
the database works, and across containers that share the volume. Beside it lies the process's flight journal.
"""

from __future__ import annotations

import re
import sqlite3
import uuid
from collections.abc import Iterable, Mapping
from contextlib import closing, suppress
from pathlib import Path

from router.errors import Unavailable
from router.ledger.journal import SUFFIX, Journal, delivered_in
from router.ledger.ledger import RETRY_AFTER_S
from router.ledger.rows import Progress
from router.ledger.sqlite import is_busy

FOLDER = "owners"
_ID = re.compile(r"[0-9a-f]{32}")  # other files may lie beside the locks


class Owner:
    """Hold the lock that says "this process lives" until `close`, or until the process ends.

    `journal` is where this process notes what its answers deliver.
    """

    def __init__(self, folder: Path) -> None:
        """Take a new lock in `folder`. Raises sqlite3.Error and OSError."""
        folder.mkdir(mode=0o700, exist_ok=True)
        self._folder = folder
        self.id, self._lock = self._take()
        try:
            self.journal = Journal(self._journal_of(self.id))
        except OSError:
            self._lock.close()
            raise

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

    def died(self, owner: str) -> bool:
        """Say whether the process with that id ran here and is dead; one of another folder did not."""
        return (self._folder / owner).exists() and not self.lives(owner)

    def dead(self) -> list[str]:
        """Return the ids of processes that left a lock file here and do not hold it any more."""
        found = []
        for path in self._folder.iterdir():
            if path.name != self.id and _ID.fullmatch(path.name):
                with suppress(sqlite3.Error), closing(_lock(path, "rw")):
                    found.append(path.name)
        return found

    def delivered(self, dead: str) -> Mapping[str, Progress]:
        """Return what a dead process had delivered on its open holds. Raises OSError."""
        return delivered_in(self._journal_of(dead))

    def clear(self, dead: Iterable[str]) -> None:
        """Remove the files of these processes, each while its lock is held (see `_take`)."""
        for owner in dead:
            path = self._folder / owner
            with suppress(sqlite3.Error), closing(_lock(path, "rw")):
                self._journal_of(owner).unlink(missing_ok=True)
                path.unlink(missing_ok=True)

    def close(self, *, holds_left: bool = False) -> None:
        """Give the lock up; the files stay for who ends the holds that are left."""
        self.journal.close()
        if not holds_left:
            self._journal_of(self.id).unlink(missing_ok=True)
            (self._folder / self.id).unlink(missing_ok=True)
        self._lock.close()

    def _journal_of(self, owner: str) -> Path:
        return self._folder / f"{owner}{SUFFIX}"

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


def living(data: Path) -> int:
    """Return how many processes serve from a service's folder now, as far as that can be read."""
    count = 0
    with suppress(OSError):  # no folder, or none of ours; the start says what is wrong with it
        for path in (data / FOLDER).iterdir():
            if _ID.fullmatch(path.name):
                try:
                    _lock(path, "rw").close()
                except sqlite3.Error as fault:
                    count += is_busy(fault)
    return count


def owner_in(data: Path) -> Owner:
    """Return the owner of this process, in the service's folder. Raises Unavailable with the fix."""
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        return Owner(data / FOLDER)
    except (sqlite3.Error, OSError) as fault:
        raise Unavailable(
            f"cannot use the folder {data / FOLDER}: {fault}; make it writable for this user, or choose"
            " another folder with --data or ROUTER_DATA",
            name="storage_unavailable",
            retry_after_s=RETRY_AFTER_S,
        ) from fault


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
