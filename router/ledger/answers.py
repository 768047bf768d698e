"""Answers that are kept for a retry with the same `Idempotency-Key`, and who may use a key now.

A key belongs to an account, and its row names the hold that was made with it last: while that hold is open
its request runs, and whoever comes with the key waits. The row is written in the transaction of the hold, and
what becomes of it in that of the hold's end:

    ended well, and the answer is not too large   the answer is kept: a retry gets it, nothing is charged
    charged, but no whole answer is kept          `cover_nusd` is what a retry need not pay again
    nothing was delivered                         as before the hold: a first use frees the key
"""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct

KEEP_S = 24 * 3_600
SWEEP_ROWS = 100


class StoredAnswer(Struct, frozen=True, gc=False):
    """An answer as it was sent: status, head (a line a header), and the body deflated (zlib)."""

    status: int
    head: bytes
    body: bytes


class Claim(Struct, frozen=True, gc=False):
    """Reserve an account's key for a hold.

    `body` is the SHA-256 of the request's body. `after` is the hold that its row named when it was looked
    at, None where there was no row: should it name another one by now, somebody else has the key.
    `cover_nusd` and `begun_at` are kept from that row.
    """

    body: bytes
    after: str | None = None
    cover_nusd: int = 0
    begun_at: str | None = None


class Kept(Struct, frozen=True, gc=False):
    """The row of a key; `request_id` is the hold that was made with it last, `running` while that is open."""

    request_id: str
    body: bytes
    running: bool
    cover_nusd: int
    begun_at: str
    answer: StoredAnswer | None


class Answers(Protocol):
    """The keys of one database. Each method raises Unavailable."""

    async def find(self, account: str, key: str) -> Kept | None:
        """Return the row of a key, also one that is too old."""
        ...

    async def sweep(self, before: str, most: int = SWEEP_ROWS) -> int:
        """Forget up to so many keys that were first used before then and do not run; return how many."""
        ...


CHECK_KEYS = """
SELECT hold.account, hold.idempotency_key, 'its request runs without having the key'
FROM open_holds JOIN ledger AS hold ON hold.request_id = open_holds.request_id AND hold.kind = 'hold'
WHERE hold.idempotency_key IS NOT NULL AND NOT EXISTS (
    SELECT 1 FROM idempotency_keys AS keys WHERE keys.account = hold.account
        AND keys.key = hold.idempotency_key AND keys.request_id = hold.request_id
)
UNION ALL
SELECT account, key, 'it neither runs, nor keeps an answer, nor what was paid'
FROM idempotency_keys WHERE status IS NULL AND cover_nusd = 0 AND request_id NOT IN (
    SELECT request_id FROM open_holds
)
UNION ALL
SELECT account, key, 'it keeps an answer, and its request has not ended'
FROM idempotency_keys AS keys WHERE status IS NOT NULL AND NOT EXISTS (
    SELECT 1 FROM ledger WHERE ledger.request_id = keys.request_id AND kind IN ('settle', 'release')
)
LIMIT 10
"""
"""What is wrong with the keys of a database, ten at the most: rows (account, key, what)."""
