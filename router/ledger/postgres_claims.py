"""What a PostgreSQL batch reads and writes of payments."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence

import asyncpg

from router.ledger.claims import NEW, UNPAID, Claims, Payer, Standing
from router.ledger.payments import PaymentClaim
from router.ledger.posting import Entry

_NAMES = 0x70617973  # "pays": the advisory locks of what serves once


class StoredClaims:
    """What is `Known`: the rows with a batch's keys and challenges, and its payers."""

    def __init__(self, rows: Sequence[tuple[str | None, Standing]], payers: Mapping[str, Payer]) -> None:
        """Take rows with their challenges, and payers by account."""
        self._rows = rows
        self._payers = payers

    def standing(self, claim: PaymentClaim) -> Sequence[Standing]:
        """Return the payments with a claim's key or challenge."""
        return [
            row
            for challenge, row in self._rows
            if row.key == claim.key or (challenge is not None and challenge == claim.challenge)
        ]

    def payer(self, account: str) -> Payer:
        """Return what an account owes and has open."""
        return self._payers.get(account, _NOTHING)


async def read_claims(connection: asyncpg.Connection, entries: Sequence[Entry]) -> StoredClaims:
    """Return what is stored of what a batch's new holds claim; their accounts are locked.

    What they claim is locked too: two payers may come with one challenge.
    """
    asked = [
        (entry.hold.account, entry.hold.payment)
        for entry in entries
        if entry.end is None and entry.hold.payment is not None
    ]
    if not asked:
        return StoredClaims((), {})
    keys = [claim.key for _, claim in asked]
    challenges = [claim.challenge for _, claim in asked if claim.challenge is not None]
    await lock_names(connection, (*keys, *challenges))
    rows = [
        (challenge, Standing(key, request_id, state, runs, transaction))
        for key, challenge, request_id, state, runs, transaction in await connection.fetch(
            _STANDING, keys, challenges
        )
    ]
    sums = await connection.fetch(_PAYERS, list({account for account, _ in asked}))
    return StoredClaims(rows, {account: Payer(owed, open_) for account, owed, open_ in sums})


async def lock_names(connection: asyncpg.Connection, names: Iterable[str]) -> None:
    """Lock what serves once until the transaction ends, after its accounts and in one order for all."""
    numbers = sorted({zlib.crc32(name.encode()) - 2**31 for name in names})
    await connection.execute(_LOCK, _NAMES, numbers)


async def write_claims(connection: asyncpg.Connection, claims: Claims) -> None:
    """Write what a batch has come to in the caller's transaction."""
    if claims.freed:
        await connection.executemany(_FREE, claims.freed)
    if claims.served:
        await connection.executemany(_SERVE, claims.served)
    if claims.claimed:
        await connection.executemany(_CLAIM, claims.claimed)


_NOTHING = Payer(0, 0)
_LOCK = "SELECT pg_advisory_xact_lock($1, name) FROM unnest($2::int[]) AS names (name)"
_STANDING = """
SELECT key, challenge, request_id, state,
    EXISTS (SELECT FROM open_holds WHERE open_holds.request_id = payments.request_id), transaction_id
FROM payments WHERE key = ANY($1::text[]) OR challenge = ANY($2::text[])
"""
_PAYERS = """
SELECT account,
    coalesce(sum(served_nusd) FILTER (WHERE state = 'failed' AND forgiven_nusd IS NULL), 0)::bigint,
    coalesce(sum(amount_nusd) FILTER (WHERE state IN ('claimed', 'settling')
        OR (state = 'unknown' AND served_nusd > 0 AND forgiven_nusd IS NULL)), 0)::bigint
FROM payments WHERE account = ANY($1::text[]) AND state <> 'settled' GROUP BY account
"""
_FREE = f"DELETE FROM payments WHERE key = $1 AND request_id = $2 AND state IN {UNPAID!r}"  # noqa: S608 - constants
_SERVE = """
UPDATE payments SET served_nusd = $1, metered_nusd = $2, updated_at = $3 WHERE key = $4 AND request_id = $5
"""
_CLAIM = f"""
INSERT INTO payments ({NEW}, state, updated_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, 'claimed', $16)
"""  # noqa: S608 - made of the names above alone
