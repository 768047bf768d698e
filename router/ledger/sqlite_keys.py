"""The keys of a SQLite database."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
from contextlib import closing
from typing import Any

from router.ledger import keysearch
from router.ledger.accounts import Account
from router.ledger.keysearch import SELECT_KEYS, KeyTotals, KeyWish, Low
from router.ledger.keystore import (
    KEY,
    KeyChange,
    KeyRecord,
    Listed,
    Opening,
    changed,
    record_of,
    revoked_key,
    unknown_key,
    values_of,
    with_account,
)
from router.ledger.sqlite import Database, storage
from router.ledger.sqlite_books import topup

READ_S = 5.0
_INSIDE = "instr(lower_of(name), $3) > 0"
_NUMBERED = re.compile(r"\$(\d)")


class SqliteKeys:
    """A `KeyStore`; every write is on the disk when it returns, nothing is ever awaited."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, record: KeyRecord, opening: Opening) -> bool:
        """Store a key, its account and its first credit in one transaction; False when its id is taken."""
        with self._database.transaction() as connection:
            if connection.execute("SELECT 1 FROM accounts WHERE id = ?", (record.id,)).fetchone():
                return False
            connection.execute(
                _ADD_ACCOUNT,
                (record.id, opening.budget_day_nusd, opening.budget_month_nusd, record.created_at),
            )
            connection.execute(_ADD, values_of(record))
            if opening.credit_nusd:
                topup(
                    connection,
                    record.id,
                    opening.credit_nusd,
                    source=opening.source,
                    external_id=opening.external_id or record.id,
                    now=record.created_at,
                )
        return True

    async def find(self, digest: bytes) -> KeyRecord | None:
        """Return the key with that digest, revoked and expired ones too."""
        with storage():
            row = self._database.connection.execute(_FIND, (digest,)).fetchone()
        return record_of(row) if row else None

    async def all(self) -> list[tuple[KeyRecord, Account]]:
        """Return every key with its account, oldest first."""
        with storage():
            return [with_account(row) for row in self._database.connection.execute(_ALL)]

    async def search(self, wish: KeyWish, now: str, limit: int, offset: int) -> tuple[Listed, int]:
        """Return the newest keys that match, after `offset` others, and how many match in all."""
        rows, ((number,),) = await self._aside(
            keysearch.page(wish, now, _INSIDE, limit, offset), keysearch.count(wish, now, _INSIDE)
        )
        return [with_account(row) for row in rows], number

    async def low(self, bounds: Low, now: str, limit: int) -> tuple[Listed, int]:
        """Return the first active keys that run low, oldest first, and how many do."""
        rows, ((number,),) = await self._aside(*keysearch.low(bounds, now, limit))
        return [with_account(row) for row in rows], number

    async def totals(self, now: str) -> KeyTotals:
        """Return the sums of all keys."""
        ((row,),) = await self._aside(keysearch.totals(now))
        return keysearch.totals_of(row)

    async def one(self, key_id: str) -> tuple[KeyRecord, Account]:
        """Return a key with its account, a revoked one too. Raises NotFound."""
        with storage():
            return _one(self._database.connection, key_id)

    async def change(self, key_id: str, change: KeyChange) -> None:
        """Change a key and its budgets. Raises NotFound for an unknown or revoked key."""
        with self._database.transaction() as connection:
            _expect(connection, key_id)
            record, account = changed(*_one(connection, key_id), change)
            connection.execute(
                _CHANGE,
                (
                    record.name,
                    record.concurrency,
                    record.rpm,
                    record.tpm,
                    json.dumps(record.models),
                    record.expires_at,
                    key_id,
                ),
            )
            connection.execute(_BUDGETS, (account.budget_day_nusd, account.budget_month_nusd, key_id))

    async def topup(
        self, key_id: str, amount_nusd: int, *, source: str, external_id: str, now: str
    ) -> tuple[bool, int]:
        """Add credit and make the key prepaid; return whether it was new, and the balance in nano-USD."""
        with self._database.transaction() as connection:
            _expect(connection, key_id)
            added = topup(connection, key_id, amount_nusd, source=source, external_id=external_id, now=now)
            connection.execute("UPDATE api_keys SET prepaid = 1 WHERE id = ?", (key_id,))
            balance = connection.execute(
                "SELECT balance_nusd FROM accounts WHERE id = ?", (key_id,)
            ).fetchone()[0]
        return added, int(balance)

    async def revoke(self, key_id: str, now: str) -> None:
        """Stop a key for good. Raises NotFound for an unknown or revoked key."""
        with self._database.transaction() as connection:
            _expect(connection, key_id)
            connection.execute("UPDATE api_keys SET revoked_at = ? WHERE id = ?", (now, key_id))

    async def _aside(self, *queries: tuple[str, list[Any]]) -> list[list[Any]]:
        """Return the rows of queries that look at every key: in a thread, the loop serves meanwhile."""

        def read() -> list[list[Any]]:
            with closing(sqlite3.connect(self._database.path, timeout=READ_S, isolation_level=None)) as run:
                run.execute("PRAGMA query_only = ON")
                run.create_function("lower_of", 1, str.lower, deterministic=True)
                run.execute("BEGIN")  # the rows and their number are of one moment
                return [run.execute(_NUMBERED.sub(r"?\1", sql), values).fetchall() for sql, values in queries]

        with storage():
            return await asyncio.to_thread(read)


def _expect(connection: sqlite3.Connection, key_id: str) -> None:
    row = connection.execute("SELECT revoked_at FROM api_keys WHERE id = ?", (key_id,)).fetchone()
    if row is None:
        raise unknown_key(key_id)
    if row[0] is not None:
        raise revoked_key(key_id, row[0])


def _one(connection: sqlite3.Connection, key_id: str) -> tuple[KeyRecord, Account]:
    row = connection.execute(_ONE, (key_id,)).fetchone()
    if row is None:
        raise unknown_key(key_id)
    return with_account(row)


_ADD_ACCOUNT = """
INSERT INTO accounts (id, budget_day_nusd, budget_month_nusd, created_at) VALUES (?, ?, ?, ?)
"""
_ADD = f"""
INSERT INTO api_keys ({KEY}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""  # noqa: S608 - names of ours alone
_FIND = f"SELECT {KEY} FROM api_keys WHERE digest = ?"  # noqa: S608 - as above
_ALL = f"{SELECT_KEYS} ORDER BY api_keys.created_at, api_keys.id"
_ONE = f"{SELECT_KEYS} WHERE api_keys.id = ?"
_CHANGE = """
UPDATE api_keys SET name = ?, concurrency = ?, rpm = ?, tpm = ?, models = ?, expires_at = ? WHERE id = ?
"""
_BUDGETS = "UPDATE accounts SET budget_day_nusd = ?, budget_month_nusd = ? WHERE id = ?"
