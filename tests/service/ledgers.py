"""Ledgers over real databases for tests: both engines, a clock that ticks, entries, credit."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TypeVar

import asyncpg

from router.ledger.accounts import Account
from router.ledger.engines import open_storage
from router.ledger.ledger import Ledger, Storage
from router.ledger.postgres_ledger import PostgresLedger
from router.ledger.rows import Difference, HoldRequest, Row, Settlement
from router.ledger.sqlite import FILE
from router.ledger.sqlite_ledger import SqliteLedger
from tests import postgres

NOW = "2026-11-01T12:00:00.000Z"
REFUSED = (sqlite3.IntegrityError, asyncpg.IntegrityConstraintViolationError)
T = TypeVar("T")


class Ticks:
    """A wall clock that is a second later each time it is read; the ledger reads it once a transaction."""

    def __init__(self, start_s: float = 1_793_534_400.0) -> None:
        self._seconds = count(int(start_s))

    def __call__(self) -> float:
        return float(next(self._seconds))


@dataclass(frozen=True)
class Books:
    """One database, and how a test opens it: SQLite in `data`, PostgreSQL where there is a URL."""

    data: Path
    url: str | None = None

    def open(
        self, clock: Callable[[], float] | None = None, *, wait_s: float = 5.0, sync_hold: bool = False
    ) -> Ledger:
        """Return a ledger that has not been started."""
        clock = clock or Ticks()
        if self.url is None:
            return SqliteLedger.open(self.data, clock=clock, wait_s=wait_s, sync_hold=sync_hold)
        return PostgresLedger.of(self.url, self.data, clock=clock, wait_s=wait_s)

    def ask(self, question: Callable[[Storage], Awaitable[T]]) -> T:
        """Ask over a connection of its own, as another process would."""

        async def run() -> T:
            storage = await open_storage(self.data, self.url)
            try:
                return await question(storage)
            finally:
                await storage.close()

        return asyncio.run(run())

    def execute(self, sql: str) -> None:
        """Change the database behind the router's back."""
        if self.url is not None:
            postgres.execute(self.url, sql)
        else:
            with closing(sqlite3.connect(self.data / FILE)) as connection:
                connection.executescript(sql)

    def dump(self) -> str:
        """Return everything that is stored, as text."""
        if self.url is None:
            with closing(sqlite3.connect(self.data / FILE)) as connection:
                return "\n".join(connection.iterdump())
        tables = ("accounts", "api_keys", "ledger", "open_holds")
        stored = [postgres.fetch(self.url, f"SELECT whole::text FROM {table} AS whole") for table in tables]
        return "\n".join(text for rows in stored for (text,) in rows)

    def add_credit(self, amount: int, account: str = "key_a", payment: str = "") -> None:
        """Top an account up; the same payment again adds nothing."""
        payment = payment or account
        self.ask(lambda it: it.books.topup(account, amount, source="test", external_id=payment, now=NOW))

    def rows(self) -> list[Row]:
        """Return every row, oldest first."""

        async def read(storage: Storage) -> list[Row]:
            return [row async for row in storage.books.rows()]

        return self.ask(read)

    def rows_of(self, request_id: str) -> list[Row]:
        """Return the rows of one request, oldest first."""
        return self.ask(lambda storage: storage.books.rows_of(request_id))

    def kinds_of(self, request_id: str) -> list[str]:
        """Return the kinds of one request's rows, oldest first."""
        return [row.kind for row in self.rows_of(request_id)]

    def account(self, account_id: str = "key_a") -> Account:
        """Return an account that is a key's, or else what the database has of it."""
        columns = "id, balance_nusd, held_nusd, charged_nusd, requests, prompt_tokens, completion_tokens"
        sql = f"SELECT {columns} FROM accounts WHERE id = '{account_id}'"
        if self.url is not None:
            (row,) = postgres.fetch(self.url, sql)
        else:
            with closing(sqlite3.connect(self.data / FILE)) as connection:
                (row,) = connection.execute(sql)
        return Account(*row)

    def differences(self) -> list[Difference]:
        """Return what does not add up."""
        return self.ask(lambda storage: storage.books.check())


def request(
    number: int | str, amount: int = 10, *, account: str = "key_a", credit: bool = True
) -> HoldRequest:
    return HoldRequest(
        request_id=f"req-{number}",
        client_request_id="theirs",
        account=account,
        amount_nusd=amount,
        model="m/x",
        provider="p",
        catalog="abcdef012345",
        idempotency_key=None,
        require_credit=credit,
    )


def settlement(number: int | str, charge: int = 4, *, estimated: bool = False) -> Settlement:
    return Settlement(f"req-{number}", 100, 20, charge, 3, "m/y", "q", estimated)


@contextmanager
def running(ledger: Ledger) -> Iterator[asyncio.Runner]:
    """Start a ledger, and close it when the block ends."""
    with asyncio.Runner() as runner:
        runner.run(ledger.start())
        try:
            yield runner
        finally:
            runner.run(ledger.close())
