"""The signatures of the paying wallet in a PostgreSQL database."""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg

from router.ledger.postgres import RARE_S, READ_S, Line, Link
from router.ledger.spending import (
    COLUMNS,
    RECENT,
    Caps,
    DaySums,
    Refusal,
    Spend,
    SpendState,
    Spent,
    spent_of,
    values_of,
)

_LOCK = 0x77616C6C6574  # "wallet": whoever compares a cap holds this advisory lock until it has reserved


class PostgresSpending:
    """The `Spending` of one database."""

    def __init__(self, link: Link, reader: Line, rare: Line) -> None:
        self._link = link
        self._reader = reader
        self._rare = rare

    async def reserve(self, spend: Spend, caps: Caps, *, pinned: bool, now: str) -> Refusal | None:
        """Write a row as `reserved`, or say what stands in the way."""
        with self._link.storage():
            async with self._rare.use(RARE_S) as connection:
                await connection.execute("BEGIN")
                # A statement of its own: the ones after it see what the holder before has written.
                await connection.execute(f"SELECT pg_advisory_xact_lock({_LOCK})")
                refusal = await _refusal(connection, spend, caps, pinned=pinned, day=now[:10])
                if refusal is None:
                    if not pinned:
                        at = (spend.provider, spend.origin, spend.network, spend.pay_to, now)
                        await connection.execute(_PIN, *at)
                    await connection.execute(_RESERVE, *values_of(spend), now[:10], now)
                await connection.execute("COMMIT")
                return refusal

    async def end(self, nonce: str, state: SpendState, transaction: str | None, *, now: str) -> bool:
        """Say what became of a signature; False when that was known already."""
        with self._link.storage():
            async with self._rare.use(RARE_S) as connection:
                return bool(await connection.fetch(_END, state, transaction, now, nonce))

    async def day(self, day: str) -> DaySums:
        """Return the sums of a UTC day."""
        with self._link.storage():
            async with self._reader.use(READ_S) as connection:
                return DaySums(*await connection.fetchrow(_DAY, day))

    async def recent(self, most: int = RECENT) -> Sequence[Spent]:
        """Return the newest signatures, newest first."""
        return await self._read(_RECENT, most)

    async def overdue(self, network: str, before: int) -> Sequence[Spent]:
        """Return what is reserved or unknown on a network and became void before then."""
        return await self._read(_OVERDUE, network, before)

    async def _read(self, query: str, *values: str | int) -> list[Spent]:
        with self._link.storage():
            async with self._reader.use(READ_S) as connection:
                return [spent_of(tuple(row)) for row in await connection.fetch(query, *values)]


async def _refusal(
    connection: asyncpg.Connection, spend: Spend, caps: Caps, *, pinned: bool, day: str
) -> Refusal | None:
    if await connection.fetchval("SELECT 1 FROM wallet_spends WHERE nonce = $1", spend.nonce):
        return "nonce"
    if not pinned:
        kept = await connection.fetchrow(_PAYEE, spend.provider, spend.origin)
        if kept is not None and tuple(kept) != (spend.network, spend.pay_to):
            return "payee"
    if await connection.fetchval(_OF_REQUEST, spend.request_id) + spend.nusd > caps.request_nusd:
        return "request_cap"
    if sum(await connection.fetchrow(_DAY, day)) + spend.nusd > caps.day_nusd:
        return "day_cap"
    return None


_PAYEE = "SELECT network, pay_to FROM wallet_payees WHERE provider = $1 AND origin = $2"
_PIN = """
INSERT INTO wallet_payees (provider, origin, network, pay_to, created_at) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (provider, origin) DO NOTHING
"""
_OF_REQUEST = """
SELECT coalesce(sum(nusd), 0)::bigint FROM wallet_spends WHERE request_id = $1 AND state <> 'freed'
"""
_DAY = """
SELECT coalesce(sum(nusd) FILTER (WHERE state = 'spent'), 0)::bigint,
    coalesce(sum(nusd) FILTER (WHERE state IN ('reserved', 'unknown')), 0)::bigint
FROM wallet_spends WHERE day = $1
"""
_RESERVE = """
INSERT INTO wallet_spends (nonce, payer, provider, origin, network, asset, pay_to, amount, nusd, valid_before,
    request_id, state, day, created_at, updated_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, 'reserved', $12, $13, $13)
"""
_END = """
UPDATE wallet_spends SET state = $1, tx = $2, updated_at = $3
WHERE nonce = $4 AND state IN ('reserved', 'unknown') RETURNING 1
"""
_RECENT = f"SELECT {COLUMNS} FROM wallet_spends ORDER BY seq DESC LIMIT $1"  # noqa: S608 - a constant
_OVERDUE = f"""
SELECT {COLUMNS} FROM wallet_spends
WHERE state IN ('reserved', 'unknown') AND network = $1 AND valid_before < $2
ORDER BY valid_before LIMIT 100
"""  # noqa: S608 - a constant
