"""The keys of a SQLite database."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

from router.ledger.accounts import Account
from router.ledger.keystore import KeyChange, KeyRecord, Opening, changed, revoked_key, unknown_key
from router.ledger.sqlite import Database, read_account, storage
from router.ledger.sqlite_books import topup


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
            connection.execute(_ADD, _columns(record))
            if opening.credit_nusd:
                topup(
                    connection,
                    record.id,
                    opening.credit_nusd,
                    source="create",
                    external_id=record.id,
                    now=record.created_at,
                )
        return True

    async def find(self, digest: bytes) -> KeyRecord | None:
        """Return the key with that digest, revoked and expired ones too."""
        with storage():
            row = self._database.connection.execute(_FIND, (digest,)).fetchone()
        return _record(row) if row else None

    async def all(self) -> list[tuple[KeyRecord, Account]]:
        """Return every key with its account, oldest first."""
        with storage():
            records = [_record(row) for row in self._database.connection.execute(_ALL)]
            return [
                (record, read_account(self._database.connection, record.id) or Account(record.id))
                for record in records
            ]

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
    return _record(row), read_account(connection, key_id) or Account(key_id)


def _columns(record: KeyRecord) -> tuple[str | bytes | int | None, ...]:
    return (
        record.id,
        record.digest,
        record.hint,
        record.name,
        int(record.prepaid),
        record.concurrency,
        record.rpm,
        record.tpm,
        json.dumps(record.models),
        record.expires_at,
        record.revoked_at,
        record.created_at,
    )


def _record(row: tuple[Any, ...]) -> KeyRecord:
    id_, digest, hint, name, prepaid, concurrency, rpm, tpm, models, expires_at, revoked_at, created_at = row
    return KeyRecord(
        id=id_,
        digest=digest,
        hint=hint,
        name=name,
        prepaid=bool(prepaid),
        concurrency=concurrency,
        rpm=rpm,
        tpm=tpm,
        models=tuple(json.loads(models)),
        expires_at=expires_at,
        revoked_at=revoked_at,
        created_at=created_at,
    )


_ADD_ACCOUNT = """
INSERT INTO accounts (id, budget_day_nusd, budget_month_nusd, created_at) VALUES (?, ?, ?, ?)
"""
_ADD = """
INSERT INTO api_keys (id, digest, hint, name, prepaid, concurrency, rpm, tpm, models, expires_at, revoked_at,
    created_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_FIND = """
SELECT id, digest, hint, name, prepaid, concurrency, rpm, tpm, models, expires_at, revoked_at, created_at
FROM api_keys WHERE digest = ?
"""
_ONE = """
SELECT id, digest, hint, name, prepaid, concurrency, rpm, tpm, models, expires_at, revoked_at, created_at
FROM api_keys WHERE id = ?
"""
_CHANGE = """
UPDATE api_keys SET name = ?, concurrency = ?, rpm = ?, tpm = ?, models = ?, expires_at = ? WHERE id = ?
"""
_BUDGETS = "UPDATE accounts SET budget_day_nusd = ?, budget_month_nusd = ? WHERE id = ?"
_ALL = """
SELECT id, digest, hint, name, prepaid, concurrency, rpm, tpm, models, expires_at, revoked_at, created_at
FROM api_keys ORDER BY created_at, id
"""
