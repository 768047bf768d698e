"""What a SQLite batch reads and writes of payments, and how they are checked."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from router.ledger.claims import NEW, UNPAID, Claims, Payer, Standing
from router.ledger.payments import PaymentClaim


class StoredClaims:
    """What is `Known` inside the transaction of a cursor. Raises sqlite3.Error."""

    def __init__(self, cursor: sqlite3.Cursor) -> None:
        self._cursor = cursor

    def standing(self, claim: PaymentClaim) -> Sequence[Standing]:
        """Return the payments with a claim's key or challenge."""
        rows = self._cursor.execute(_STANDING, (claim.key, claim.challenge)).fetchall()
        return [Standing(key, id_, state, bool(runs), hash_) for key, id_, state, runs, hash_ in rows]

    def payer(self, account: str) -> Payer:
        """Return what an account owes and has open."""
        return Payer(*self._cursor.execute(_PAYER, (account,)).fetchone())


def write_claims(cursor: sqlite3.Cursor, claims: Claims) -> None:
    """Write what a batch has come to in the caller's transaction. Raises sqlite3.Error."""
    cursor.executemany(_FREE, claims.freed)
    cursor.executemany(_SERVE, claims.served)
    cursor.executemany(_CLAIM, claims.claimed)


_STANDING = """
SELECT key, request_id, state,
    EXISTS (SELECT 1 FROM open_holds WHERE open_holds.request_id = payments.request_id), transaction_id
FROM payments WHERE key = ? OR challenge = ?
"""
_PAYER = """
SELECT coalesce(sum(served_nusd) FILTER (WHERE state = 'failed' AND forgiven_nusd IS NULL), 0),
    coalesce(sum(amount_nusd) FILTER (WHERE state IN ('claimed', 'settling')
        OR (state = 'unknown' AND served_nusd > 0 AND forgiven_nusd IS NULL)), 0)
FROM payments WHERE account = ? AND state <> 'settled'
"""
_FREE = f"DELETE FROM payments WHERE key = ? AND request_id = ? AND state IN {UNPAID!r}"  # noqa: S608 - constants
_SERVE = """
UPDATE payments SET served_nusd = ?, metered_nusd = ?, updated_at = ? WHERE key = ? AND request_id = ?
"""
_CLAIM = f"""
INSERT INTO payments ({NEW}, state, updated_at)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, 'claimed', ?16)
"""  # noqa: S608 - made of the names above alone
