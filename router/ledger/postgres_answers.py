"""The idempotency keys of a PostgreSQL database, and the answers that are kept with them."""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg

from router.ledger.answers import SWEEP_ROWS, Kept, StoredAnswer
from router.ledger.postgres import RARE_S, READ_S, Line, Link
from router.ledger.posting import Entry, KeyEnd


class PostgresAnswers:
    """The `Answers` of one database."""

    def __init__(self, link: Link, reader: Line, rare: Line) -> None:
        self._link = link
        self._reader = reader
        self._rare = rare

    async def find(self, account: str, key: str) -> Kept | None:
        """Return the row of a key, also one that is too old."""
        with self._link.storage():
            async with self._reader.use(READ_S) as connection:
                row = await connection.fetchrow(_FIND, account, key)
        if row is None:
            return None
        *kept, status, head, answer = row
        return Kept(*(*kept, None if status is None else StoredAnswer(status, head, answer)))

    async def sweep(self, before: str, most: int = SWEEP_ROWS) -> int:
        """Forget up to so many keys that were first used before then and do not run; return how many.

        The rows of accounts that somebody holds with at this moment are left for the next time.
        """
        with self._link.storage():
            async with self._rare.use(RARE_S) as connection:
                return len(await connection.fetch(_SWEEP, before, most))


async def read_keys(
    connection: asyncpg.Connection, entries: Sequence[Entry]
) -> dict[tuple[str, str], str | None]:
    """Return which holds the keys of a batch's new holds name; their accounts are locked."""
    asked: dict[tuple[str, str], str | None] = {
        (entry.hold.account, entry.hold.idempotency_key or ""): None
        for entry in entries
        if entry.end is None and entry.hold.claim is not None
    }
    if asked:
        accounts, keys = zip(*asked, strict=True)
        for account, key, request_id in await connection.fetch(_HOLDERS, accounts, keys):
            asked[account, key] = request_id
    return asked


async def write_keys(
    connection: asyncpg.Connection,
    claims: Sequence[tuple[str, str, bytes, str, int, str]],
    ends: Sequence[KeyEnd],
) -> None:
    """Write claims, and what becomes of keys whose hold still has them, in the caller's transaction."""
    if claims:
        await connection.executemany(_CLAIM, claims)
    stored = [
        (end.account, end.key, end.request_id, end.answer.status, end.answer.head, end.answer.body)
        for end in ends
        if end.answer is not None
    ]
    if stored:
        await connection.executemany(_STORE, stored)
    rest = [(e.account, e.key, e.request_id, e.cover_nusd) for e in ends if e.answer is None]
    for statement, rows in (
        (_COVER, [row for row in rest if row[3]]),
        (_FREE, [row[:3] for row in rest if not row[3]]),
    ):
        if rows:
            await connection.executemany(statement, rows)


_FIND = """
SELECT request_id, body, EXISTS (SELECT FROM open_holds WHERE open_holds.request_id = keys.request_id),
    cover_nusd, begun_at, status, head, answer
FROM idempotency_keys AS keys WHERE account = $1 AND key = $2
"""
_HOLDERS = """
SELECT account, key, request_id FROM idempotency_keys
JOIN unnest($1::text[], $2::text[]) AS asked (account, key) USING (account, key)
"""
# The caller has read under the same lock that the key is free, or whose row it takes over.
_CLAIM = """
INSERT INTO idempotency_keys (account, key, body, request_id, cover_nusd, begun_at)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (account, key) DO UPDATE SET body = excluded.body, request_id = excluded.request_id,
    cover_nusd = excluded.cover_nusd, begun_at = excluded.begun_at, status = NULL, head = NULL, answer = NULL
"""
_STORE = """
UPDATE idempotency_keys SET cover_nusd = 0, status = $4, head = $5, answer = $6
WHERE account = $1 AND key = $2 AND request_id = $3
"""
_COVER = """
UPDATE idempotency_keys SET cover_nusd = $4 WHERE account = $1 AND key = $2 AND request_id = $3
"""
_FREE = "DELETE FROM idempotency_keys WHERE account = $1 AND key = $2 AND request_id = $3"
_SWEEP = """
WITH old AS (
    SELECT keys.account, keys.key FROM idempotency_keys AS keys
    JOIN accounts ON accounts.id = keys.account
    WHERE keys.begun_at < $1
        AND NOT EXISTS (SELECT FROM open_holds WHERE open_holds.request_id = keys.request_id)
    ORDER BY keys.begun_at LIMIT $2 FOR UPDATE OF accounts SKIP LOCKED
)
DELETE FROM idempotency_keys AS keys USING old WHERE keys.account = old.account AND keys.key = old.key
    AND keys.begun_at < $1
RETURNING 1
"""
