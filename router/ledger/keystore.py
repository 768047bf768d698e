"""API keys as they are stored: a digest, never the key; limits, and the account of the same id."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from typing import Any

from router.errors import NotFound
from router.ledger.accounts import Account, read_account
from router.ledger.books import topup
from router.ledger.sqlite import Database, storage


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """One stored key; `prepaid` needs credit in every access mode, times are `created_at` texts."""

    id: str
    digest: bytes
    hint: str
    name: str
    prepaid: bool
    concurrency: int | None
    rpm: int | None
    tpm: int | None
    models: tuple[str, ...]
    expires_at: str | None
    revoked_at: str | None
    created_at: str


@dataclass(frozen=True, slots=True)
class Opening:
    """What a new key's account begins with, in nano-USD."""

    credit_nusd: int
    budget_day_nusd: int | None
    budget_month_nusd: int | None


class KeyStore:
    """Keys of one database; every write is on the disk when it returns. Each method raises Unavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, record: KeyRecord, opening: Opening) -> None:
        """Store a key, its account and its first credit in one transaction."""
        with self._database.transaction() as connection:
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

    def find(self, digest: bytes) -> KeyRecord | None:
        """Return the key with that digest, revoked and expired ones too."""
        with storage():
            row = self._database.connection.execute(_FIND, (digest,)).fetchone()
        return _record(row) if row else None

    def all(self) -> list[tuple[KeyRecord, Account]]:
        """Return every key with its account, oldest first."""
        with storage():
            records = [_record(row) for row in self._database.connection.execute(_ALL)]
            return [
                (record, read_account(self._database.connection, record.id) or Account(record.id))
                for record in records
            ]

    def topup(
        self, key_id: str, amount_nusd: int, *, source: str, external_id: str, now: str
    ) -> tuple[bool, int]:
        """Add credit and make the key prepaid; return whether it was new, and the balance in nano-USD.

        The same (source, external_id) again changes nothing. Raises NotFound for an unknown or revoked key,
        ValueError unless the amount is positive.
        """
        with self._database.transaction() as connection:
            _expect(connection, key_id)
            added = topup(connection, key_id, amount_nusd, source=source, external_id=external_id, now=now)
            connection.execute("UPDATE api_keys SET prepaid = 1 WHERE id = ?", (key_id,))
            balance = connection.execute(
                "SELECT balance_nusd FROM accounts WHERE id = ?", (key_id,)
            ).fetchone()[0]
        return added, int(balance)

    def revoke(self, key_id: str, now: str) -> None:
        """Stop a key for good. Raises NotFound for an unknown or revoked key."""
        with self._database.transaction() as connection:
            _expect(connection, key_id)
            connection.execute("UPDATE api_keys SET revoked_at = ? WHERE id = ?", (now, key_id))


def _expect(connection: sqlite3.Connection, key_id: str) -> None:
    row = connection.execute("SELECT revoked_at FROM api_keys WHERE id = ?", (key_id,)).fetchone()
    if row is None:
        raise NotFound(f"no key has the id {key_id!r}; `router keys list` shows the ids")
    if row[0] is not None:
        raise NotFound(f"the key {key_id} was revoked at {row[0]}; make a new one with `router keys create`")


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
_ALL = """
SELECT id, digest, hint, name, prepaid, concurrency, rpm, tpm, models, expires_at, revoked_at, created_at
FROM api_keys ORDER BY created_at, id
"""
