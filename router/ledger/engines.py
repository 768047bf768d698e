"""Open the engine that the settings name: SQLite in the data folder, or PostgreSQL by its URL.

The driver of PostgreSQL is imported where it is used: who needs none does not wait for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from router.ledger.ledger import Ledger, Storage
from router.ledger.sqlite import FILE, Database
from router.ledger.sqlite_answers import SqliteAnswers
from router.ledger.sqlite_books import SqliteBooks
from router.ledger.sqlite_keys import SqliteKeys
from router.ledger.sqlite_ledger import SqliteLedger
from router.ledger.sqlite_payments import SqlitePayments
from router.ledger.sqlite_spending import SqliteSpending


def open_ledger(
    data: Path,
    database_url: str | None,
    *,
    clock: Callable[[], float],
    sync_hold: bool = False,
) -> Ledger:
    """Return the ledger of a service; `clock` gives seconds since 1970, `start` it before its first use.

    `sync_hold` makes holds that need credit wait for the disk, as on PostgreSQL they always do.
    Raises Unavailable with the operator's fix.
    """
    if database_url is not None:
        from router.ledger.postgres_ledger import PostgresLedger

        return PostgresLedger.of(database_url, data, clock=clock)
    return SqliteLedger.open(data, clock=clock, sync_hold=sync_hold)


async def open_storage(data: Path, database_url: str | None) -> Storage:
    """Open the database for a command, beside a running service or before its first start.

    Raises Unavailable with the operator's fix.
    """
    if database_url is not None:
        from router.ledger.postgres_ledger import PostgresStorage

        return await PostgresStorage.open(database_url)
    return _SqliteStorage(Database(data / FILE))


async def check_storage(database_url: str | None) -> None:
    """Try the server that a service will keep its books in; SQLite is tried when the ledger is opened.

    Raises Unavailable with the operator's fix.
    """
    if database_url is not None:
        from router.ledger.postgres import Link, prepare

        await prepare(Link(database_url))


def has_storage(data: Path, database_url: str | None) -> bool:
    """Tell whether a database is there; what keeps one from being looked for, its opening tells."""
    if database_url is not None:
        return True
    try:
        (data / FILE).stat()
    except FileNotFoundError:
        return False
    except OSError:
        pass
    return True


class _SqliteStorage:
    def __init__(self, database: Database) -> None:
        self._database = database
        self.keys = SqliteKeys(database)
        self.books = SqliteBooks(database)
        self.answers = SqliteAnswers(database)
        self.payments = SqlitePayments(database, None, self._confirm)
        self.spending = SqliteSpending(database.path)

    async def close(self) -> None:
        self._database.close()

    async def _confirm(self) -> None:
        await asyncio.to_thread(self._database.sync_wal)
