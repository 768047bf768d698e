"""The idempotency keys of a SQLite database, and the answers that are kept with them."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from router.ledger.answers import SWEEP_ROWS, Kept, StoredAnswer
from router.ledger.posting import KeyEnd
from router.ledger.sqlite import Database, is_busy, storage


class SqliteAnswers:
    """The `Answers` of one database; nothing is ever awaited."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, account: str, key: str) -> Kept | None:
        """Return the row of a key, also one that is too old."""
        with storage():
            row = self._database.connection.execute(_FIND, (account, key)).fetchone()
        if row is None:
            return None
        request_id, body, running, cover_nusd, begun_at, status, head, answer = row
        stored = None if status is None else StoredAnswer(status, head, answer)
        return Kept(request_id, body, bool(running), cover_nusd, begun_at, stored)

    async def sweep(self, before: str, most: int = SWEEP_ROWS) -> int:
        """Forget up to so many keys that were first used before then and do not run; return how many.

        One short write that waits for nobody: while another process writes, nothing is forgotten.
        """
        with storage():
            try:
                return self._database.connection.execute(_SWEEP, (before, most)).rowcount
            except sqlite3.OperationalError as fault:
                if is_busy(fault):
                    return 0
                raise


def read_key(cursor: sqlite3.Cursor, account: str, key: str) -> str | None:
    """Return the hold that the row of a key names, None where there is no row. Raises sqlite3.Error."""
    row = cursor.execute(_HOLDER, (account, key)).fetchone()
    return None if row is None else str(row[0])


def write_keys(
    cursor: sqlite3.Cursor, claims: Sequence[tuple[str, str, bytes, str, int, str]], ends: Sequence[KeyEnd]
) -> None:
    """Write claims, and what becomes of keys whose hold still has them, in the caller's transaction.

    Raises sqlite3.Error.
    """
    cursor.executemany(_CLAIM, claims)
    for end in ends:
        at = (end.account, end.key, end.request_id)
        if end.answer is not None:
            cursor.execute(_STORE, (end.answer.status, end.answer.head, end.answer.body, *at))
        elif end.cover_nusd:
            cursor.execute(_COVER, (end.cover_nusd, *at))
        else:
            cursor.execute(_FREE, at)


_HOLDER = "SELECT request_id FROM idempotency_keys WHERE account = ? AND key = ?"
_FIND = """
SELECT request_id, body, EXISTS (SELECT 1 FROM open_holds WHERE open_holds.request_id = keys.request_id),
    cover_nusd, begun_at, status, head, answer
FROM idempotency_keys AS keys WHERE account = ? AND key = ?
"""
# The caller has read under the same lock that the key is free, or whose row it takes over.
_CLAIM = """
INSERT INTO idempotency_keys (account, key, body, request_id, cover_nusd, begun_at) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (account, key) DO UPDATE SET body = excluded.body, request_id = excluded.request_id,
    cover_nusd = excluded.cover_nusd, begun_at = excluded.begun_at, status = NULL, head = NULL, answer = NULL
"""
_STORE = """
UPDATE idempotency_keys SET cover_nusd = 0, status = ?, head = ?, answer = ?
WHERE account = ? AND key = ? AND request_id = ?
"""
_COVER = "UPDATE idempotency_keys SET cover_nusd = ? WHERE account = ? AND key = ? AND request_id = ?"
_FREE = "DELETE FROM idempotency_keys WHERE account = ? AND key = ? AND request_id = ?"
_SWEEP = """
DELETE FROM idempotency_keys WHERE rowid IN (
    SELECT rowid FROM idempotency_keys AS keys
    WHERE begun_at < ? AND NOT EXISTS (SELECT 1 FROM open_holds WHERE open_holds.request_id = keys.request_id)
    ORDER BY begun_at LIMIT ?
)
"""
