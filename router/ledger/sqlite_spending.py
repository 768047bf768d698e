"""The signatures of the paying wallet in a SQLite database.

Each call runs in a worker thread on a connection of its own: it waits for the disk and for other writers,
and the event loop waits for neither.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeVar

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
from router.ledger.sqlite import RARE_WAIT_S, storage

T = TypeVar("T")


class SqliteSpending:
    """The `Spending` of one database."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def reserve(self, spend: Spend, caps: Caps, *, pinned: bool, now: str) -> Refusal | None:
        """Write a row as `reserved`, or say what stands in the way."""
        return await self._run(lambda connection: _reserve(connection, spend, caps, pinned=pinned, now=now))

    async def end(self, nonce: str, state: SpendState, transaction: str | None, *, now: str) -> bool:
        """Say what became of a signature; False when that was known already."""
        values = (state, transaction, now, nonce)
        return await self._run(lambda connection: connection.execute(_END, values).rowcount == 1)

    async def day(self, day: str) -> DaySums:
        """Return the sums of a UTC day."""
        return await self._run(lambda connection: DaySums(*connection.execute(_DAY, (day,)).fetchone()))

    async def recent(self, most: int = RECENT) -> Sequence[Spent]:
        """Return the newest signatures, newest first."""
        return await self._run(lambda connection: _read(connection, _RECENT, most))

    async def overdue(self, network: str, before: int) -> Sequence[Spent]:
        """Return what is reserved or unknown on a network and became void before then."""
        return await self._run(lambda connection: _read(connection, _OVERDUE, network, before))

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await asyncio.to_thread(self._transact, work)

    def _transact(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with storage(), closing(sqlite3.connect(self._path, RARE_WAIT_S, isolation_level=None)) as connection:
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA wal_autocheckpoint = 0")  # the ledger copies the WAL, in its time
            with _transaction(connection):
                return work(connection)


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.rollback()


def _reserve(
    connection: sqlite3.Connection, spend: Spend, caps: Caps, *, pinned: bool, now: str
) -> Refusal | None:
    run = connection.execute
    if run(_KNOWN, (spend.nonce,)).fetchone() is not None:
        return "nonce"
    payee = (spend.network, spend.pay_to)
    if not pinned:
        at = (spend.provider, spend.origin)
        kept = run(_PAYEE, at).fetchone()
        if kept is not None and tuple(kept) != payee:
            return "payee"
    if run(_OF_REQUEST, (spend.request_id,)).fetchone()[0] + spend.nusd > caps.request_nusd:
        return "request_cap"
    if sum(run(_DAY, (now[:10],)).fetchone()) + spend.nusd > caps.day_nusd:
        return "day_cap"
    if not pinned:
        run(_PIN, (*at, *payee, now))
    run(_RESERVE, (*values_of(spend), now[:10], now, now))
    return None


def _read(connection: sqlite3.Connection, query: str, *values: str | int) -> list[Spent]:
    return [spent_of(row) for row in connection.execute(query, values)]


_KNOWN = "SELECT 1 FROM wallet_spends WHERE nonce = ?"
_PAYEE = "SELECT network, pay_to FROM wallet_payees WHERE provider = ? AND origin = ?"
_PIN = """
INSERT INTO wallet_payees (provider, origin, network, pay_to, created_at) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (provider, origin) DO NOTHING
"""
_OF_REQUEST = """
SELECT coalesce(sum(nusd), 0) FROM wallet_spends WHERE request_id = ? AND state <> 'freed'
"""
_DAY = """
SELECT coalesce(sum(CASE WHEN state = 'spent' THEN nusd END), 0),
    coalesce(sum(CASE WHEN state IN ('reserved', 'unknown') THEN nusd END), 0)
FROM wallet_spends WHERE day = ?
"""
_RESERVE = """
INSERT INTO wallet_spends (nonce, payer, provider, origin, network, asset, pay_to, amount, nusd, valid_before,
    request_id, state, day, created_at, updated_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'reserved', ?, ?, ?)
"""
_END = """
UPDATE wallet_spends SET state = ?, tx = ?, updated_at = ?
WHERE nonce = ? AND state IN ('reserved', 'unknown')
"""
_RECENT = f"SELECT {COLUMNS} FROM wallet_spends ORDER BY seq DESC LIMIT ?"  # noqa: S608 - a constant
_OVERDUE = f"""
SELECT {COLUMNS} FROM wallet_spends
WHERE state IN ('reserved', 'unknown') AND network = ? AND valid_before < ?
ORDER BY valid_before LIMIT 100
"""  # noqa: S608 - a constant
