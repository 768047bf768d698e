"""The keys of a PostgreSQL database."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import asyncpg

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
from router.ledger.postgres import RARE_S, READ_S, Line, Link
from router.ledger.postgres_books import topup
from router.ledger.together import Together


class PostgresKeys:
    """A `KeyStore`; what is looked up at the same time is asked for in one query."""

    def __init__(self, link: Link, reader: Line, rare: Line) -> None:
        self._link = link
        self._reader = reader
        self._rare = rare
        self._finding = Together(self._find)

    async def add(self, record: KeyRecord, opening: Opening) -> bool:
        """Store a key, its account and its first credit in one transaction; False when its id is taken."""
        with self._link.storage():
            async with self._rare.use(RARE_S) as connection:
                await connection.execute("BEGIN")
                budgets = opening.budget_day_nusd, opening.budget_month_nusd
                if await connection.fetchval(_ADD_ACCOUNT, record.id, *budgets, record.created_at) is None:
                    return False
                await connection.execute(_ADD, *values_of(record))
                if opening.credit_nusd:
                    await topup(
                        connection,
                        record.id,
                        opening.credit_nusd,
                        source=opening.source,
                        external_id=opening.external_id or record.id,
                        now=record.created_at,
                    )
                await connection.execute("COMMIT")
        return True

    async def find(self, digest: bytes) -> KeyRecord | None:
        """Return the key with that digest, revoked and expired ones too."""
        return await self._finding.get(digest)

    async def all(self) -> list[tuple[KeyRecord, Account]]:
        """Return every key with its account, oldest first."""
        with self._link.storage():
            async with self._rare.use(RARE_S) as connection:
                rows = await connection.fetch(_ALL)
        return [with_account(tuple(row)) for row in rows]

    async def search(self, wish: KeyWish, now: str, limit: int, offset: int) -> tuple[Listed, int]:
        """Return the newest keys that match, after `offset` others, and how many match in all."""
        rows, ((number,),) = await self._read(
            keysearch.page(wish, now, _INSIDE, limit, offset), keysearch.count(wish, now, _INSIDE)
        )
        return [with_account(tuple(row)) for row in rows], number

    async def low(self, bounds: Low, now: str, limit: int) -> tuple[Listed, int]:
        """Return the first active keys that run low, oldest first, and how many do."""
        rows, ((number,),) = await self._read(*keysearch.low(bounds, now, limit))
        return [with_account(tuple(row)) for row in rows], number

    async def totals(self, now: str) -> KeyTotals:
        """Return the sums of all keys."""
        ((row,),) = await self._read(keysearch.totals(now))
        return keysearch.totals_of(row)

    async def _read(self, *queries: tuple[str, list[Any]]) -> list[Any]:
        with self._link.storage():
            async with self._rare.use(RARE_S) as connection:
                return [await connection.fetch(sql, *values) for sql, values in queries]

    async def one(self, key_id: str) -> tuple[KeyRecord, Account]:
        """Return a key with its account, a revoked one too. Raises NotFound."""
        with self._link.storage():
            async with self._rare.use(RARE_S) as connection:
                return await _one(connection, key_id)

    async def change(self, key_id: str, change: KeyChange) -> None:
        """Change a key and its budgets. Raises NotFound for an unknown or revoked key."""
        with self._link.storage():
            async with self._rare.use(RARE_S) as connection:
                await connection.execute("BEGIN")
                await _expect(connection, key_id)
                record, account = changed(*await _one(connection, key_id), change)
                columns = record.name, record.concurrency, record.rpm, record.tpm, json.dumps(record.models)
                await connection.execute(_CHANGE, key_id, *columns, record.expires_at)
                budgets = account.budget_day_nusd, account.budget_month_nusd
                await connection.execute(_BUDGETS, key_id, *budgets)
                await connection.execute("COMMIT")

    async def topup(
        self, key_id: str, amount_nusd: int, *, source: str, external_id: str, now: str
    ) -> tuple[bool, int]:
        """Add credit and make the key prepaid; return whether it was new, and the balance in nano-USD."""
        with self._link.storage():
            async with self._rare.use(RARE_S) as connection:
                await connection.execute("BEGIN")
                await _expect(connection, key_id)
                added = await topup(
                    connection, key_id, amount_nusd, source=source, external_id=external_id, now=now
                )
                await connection.execute("UPDATE api_keys SET prepaid = true WHERE id = $1", key_id)
                balance = await connection.fetchval(_BALANCE, key_id)
                await connection.execute("COMMIT")
        return added, int(balance)

    async def revoke(self, key_id: str, now: str) -> None:
        """Stop a key for good."""
        with self._link.storage():
            async with self._rare.use(RARE_S) as connection:
                await connection.execute("BEGIN")
                await _expect(connection, key_id)
                await connection.execute("UPDATE api_keys SET revoked_at = $2 WHERE id = $1", key_id, now)
                await connection.execute("COMMIT")

    async def _find(self, digests: Sequence[bytes]) -> dict[bytes, KeyRecord]:
        with self._link.storage():
            async with self._reader.use(READ_S) as connection:
                records = [record_of(tuple(row)) for row in await connection.fetch(_FIND, digests)]
        return {record.digest: record for record in records}


async def _one(connection: asyncpg.Connection, key_id: str) -> tuple[KeyRecord, Account]:
    row = await connection.fetchrow(_ONE, key_id)
    if row is None:
        raise unknown_key(key_id)
    return with_account(tuple(row))


async def _expect(connection: asyncpg.Connection, key_id: str) -> None:
    row = await connection.fetchrow("SELECT revoked_at FROM api_keys WHERE id = $1 FOR UPDATE", key_id)
    if row is None:
        raise unknown_key(key_id)
    if row[0] is not None:
        raise revoked_key(key_id, row[0])


_ADD_ACCOUNT = """
INSERT INTO accounts (id, budget_day_nusd, budget_month_nusd, created_at) VALUES ($1, $2, $3, $4)
ON CONFLICT DO NOTHING RETURNING id
"""
_ADD = f"""
INSERT INTO api_keys ({KEY}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
"""  # noqa: S608 - names of ours alone
_FIND = f"SELECT {KEY} FROM api_keys WHERE digest = ANY($1::bytea[])"  # noqa: S608 - as above
# Where the database's locale knows ASCII alone, other letters are found as they are written.
_INSIDE = "(strpos(lower(name), $3) > 0 OR strpos(name, $2) > 0)"
_ALL = f"{SELECT_KEYS} ORDER BY api_keys.created_at, api_keys.id"
_ONE = f"{SELECT_KEYS} WHERE api_keys.id = $1"
_CHANGE = """
UPDATE api_keys SET name = $2, concurrency = $3, rpm = $4, tpm = $5, models = $6, expires_at = $7
WHERE id = $1
"""
_BUDGETS = "UPDATE accounts SET budget_day_nusd = $2, budget_month_nusd = $3 WHERE id = $1"
_BALANCE = "SELECT balance_nusd FROM accounts WHERE id = $1"
