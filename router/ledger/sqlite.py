"""The embedded database: one SQLite file in WAL mode, private to its user, at the newest migration.

The hot path (`router.ledger.sqlite_ledger`) writes with `synchronous = NORMAL` and never waits for a lock or
a disk on the event loop; rare writes (keys, top-ups) go through `transaction`, which waits for both.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from router.errors import Unavailable
from router.ledger.accounts import Account
from router.ledger.ledger import RETRY_AFTER_S, unavailable
from router.ledger.migrations import migrations

FILE = "router.db"
MIGRATIONS = "sqlite_migrations"
RARE_WAIT_S = 5.0
LOCK_RETRY_S = 0.001

_log = logging.getLogger("router.ledger")


class Database:
    """One open database; use it from one thread, except for `sync_wal` and `checkpoint`."""

    def __init__(self, path: Path) -> None:
        """Open `path`, make it (0600, its folder 0700) when it is not there, and migrate it.

        Raises Unavailable with the operator's fix when that is impossible.
        """
        self.path = path
        self.transactions = 0
        try:
            _make_private(path)
            with ExitStack() as undo:
                self.connection = undo.enter_context(closing(_connect(path)))
                self._side = undo.enter_context(closing(_connect(path, any_thread=True)))
                self._side.execute("PRAGMA busy_timeout = 1000")
                self._prepare()
                self._wal = os.open(f"{path}-wal", os.O_RDWR)
                undo.pop_all()
        except (sqlite3.Error, OSError) as fault:
            newer = isinstance(fault, sqlite3.NotSupportedError)
            fix = "" if newer else "make its folder writable for this user, free disk space, or "
            raise Unavailable(
                f"cannot use the database {path}: {fault}; {fix}choose another folder with --data or"
                " ROUTER_DATA",
                name="storage_unavailable",
                retry_after_s=RETRY_AFTER_S,
            ) from fault

    def _prepare(self) -> None:
        run = self.connection.execute
        run(f"PRAGMA busy_timeout = {int(RARE_WAIT_S * 1000)}")
        run("PRAGMA journal_mode = WAL")
        migrate(self.connection)
        run("PRAGMA synchronous = NORMAL")
        # The loop never checkpoints and never waits for a lock: `checkpoint` runs in a thread, and the
        # writer tries again later.
        run("PRAGMA wal_autocheckpoint = 0")
        run("PRAGMA busy_timeout = 0")

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Run a rare write: it waits for other writers, and is on the disk when the block has ended.

        `transactions` counts them, for whoever remembers what it has read. Raises Unavailable when storage
        fails; anything that the block raises undoes it and goes on up.
        """
        self.transactions += 1
        run = self.connection.execute
        with storage():
            run("PRAGMA synchronous = FULL")
            run(f"PRAGMA busy_timeout = {int(RARE_WAIT_S * 1000)}")
            try:
                run("BEGIN IMMEDIATE")
                yield self.connection
                run("COMMIT")
            finally:
                if self.connection.in_transaction:
                    self.connection.rollback()
                run("PRAGMA synchronous = NORMAL")
                run("PRAGMA busy_timeout = 0")

    def try_write(self) -> None:
        """Write what is there already, to see whether the disk takes it. Raises Unavailable."""
        with self.transaction() as connection:
            connection.execute(f"PRAGMA user_version = {_version(connection)}")

    def sync_wal(self) -> None:
        """Wait until every commit so far is on the disk. For a worker thread; raises OSError.

        Only the WAL file may be opened beside SQLite: closing a second descriptor of the database file itself
        would drop this process's locks on it (sqlite.org/howtocorrupt.html, 2.2).
        """
        _datasync(self._wal)

    def checkpoint(self, *, finish: bool) -> int:
        """Copy the WAL into the database file and return the frames that are left. For a worker thread.

        `finish` holds writers off until all is copied, so that the WAL starts anew and stays small.
        Raises sqlite3.Error.
        """
        mode = "RESTART" if finish else "PASSIVE"
        _, frames, copied = self._side.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
        return int(frames) - int(copied)

    def close(self) -> None:
        """Close every descriptor."""
        os.close(self._wal)
        self._side.close()
        self.connection.close()


@contextmanager
def storage() -> Iterator[None]:
    """Turn a fault of the database into Unavailable; the log gets the detail, the client does not."""
    try:
        yield
    except sqlite3.IntegrityError:
        raise
    except sqlite3.Error as fault:
        _log.error("storage is unavailable: %s", fault)
        raise unavailable() from fault


def is_busy(fault: sqlite3.Error) -> bool:
    """Say whether another connection's lock is all that stands in the way."""
    return getattr(fault, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY


def read_account(connection: sqlite3.Connection, account_id: str) -> Account | None:
    """Return an account as it is stored, None for one that was never used. Raises sqlite3.Error."""
    row = connection.execute(_READ, (account_id,)).fetchone()
    return Account(*row) if row else None


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the schema forward, one transaction a migration; never back.

    `PRAGMA user_version` is the number of the last one. Raises sqlite3.Error, also for a database that a
    newer router has written.
    """
    known = migrations(MIGRATIONS)
    for number, sql in known:
        if _version(connection) >= number:
            continue
        connection.execute("BEGIN IMMEDIATE")
        try:
            # Read under the lock: another process may have migrated while this one waited for it.
            if _version(connection) < number:
                for statement in statements(sql):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {number}")
            connection.execute("COMMIT")
        except sqlite3.Error:
            connection.rollback()
            raise
    if _version(connection) > known[-1][0]:
        raise sqlite3.NotSupportedError("it was written by a newer router; upgrade this one")


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def statements(sql: str) -> Iterator[str]:
    """Split a script: `executescript` would commit the transaction around it."""
    statement = ""
    for line in sql.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _make_private(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        return  # opening it would be wrong, see sync_wal


def _connect(path: Path, *, any_thread: bool = False) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=not any_thread)
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


_datasync = getattr(os, "fdatasync", os.fsync)  # macOS and Windows have no fdatasync
_READ = """
SELECT id, balance_nusd, held_nusd, charged_nusd, requests, prompt_tokens, completion_tokens,
    day, day_charged_nusd, month, month_charged_nusd, budget_day_nusd, budget_month_nusd
FROM accounts WHERE id = ?
"""
