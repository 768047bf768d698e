"""Read and repair the books: export, check, sums, top-ups, holds of dead processes."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from router.ledger.accounts import Account, read_account
from router.ledger.owners import Owner
from router.ledger.rows import Difference, Row
from router.ledger.sqlite import Database, storage

PAGE_ROWS = 1_000
_log = logging.getLogger("router.ledger")


def rows(database: Database) -> Iterator[Row]:
    """Yield every row of the ledger, oldest first, in short reads that hold up no writer and no checkpoint.

    Raises Unavailable.
    """
    last = 0
    while True:
        with storage():
            page = database.connection.execute(_PAGE, (last, PAGE_ROWS)).fetchall()
        if not page:
            return
        last = page[-1][0]
        yield from (_row(values[1:]) for values in page)


def rows_of(database: Database, request_id: str) -> list[Row]:
    """Return the rows of one request, oldest first. Raises Unavailable."""
    with storage():
        found = database.connection.execute(_REQUEST, (request_id,)).fetchall()
    return [_row(values[1:]) for values in found]


def account(database: Database, account_id: str, now: str) -> Account:
    """Return the sums of one account at `now`, zeros for one that was never used. Raises Unavailable."""
    with storage():
        found = read_account(database.connection, account_id) or Account(account_id)
    found.roll(now)
    return found


def check(database: Database) -> list[Difference]:
    """Recompute every sum from the rows and return what differs, in one consistent read.

    balance = everything that rows did to it; held = holds without an end, which must also be the open holds;
    charged = settles; and each row's `balance_after_nusd` follows from the one before. Raises Unavailable.
    """
    connection = database.connection
    found: list[Difference] = []
    with storage():
        connection.execute("BEGIN")
        try:
            for query in (_CHECK_SUMS, _CHECK_OPEN, _CHECK_CHAIN):
                found += [Difference(*values) for values in connection.execute(query)]
        finally:
            connection.execute("ROLLBACK")
    return found


def topup(
    connection: sqlite3.Connection,
    account_id: str,
    amount_nusd: int,
    *,
    source: str,
    external_id: str,
    now: str,
) -> bool:
    """Add credit inside the caller's transaction; return False when this payment was booked before.

    `source` and `external_id` name the payment. Raises ValueError unless the amount is positive.
    """
    if amount_nusd <= 0:
        raise ValueError("a top-up must be more than 0 USD")
    known = connection.execute(
        "SELECT 1 FROM ledger WHERE kind = 'topup' AND source = ? AND external_id = ?", (source, external_id)
    )
    if known.fetchone():
        return False
    connection.execute(_ENSURE_ACCOUNT, (account_id, now))
    balance = connection.execute(
        "UPDATE accounts SET balance_nusd = balance_nusd + ? WHERE id = ? RETURNING balance_nusd",
        (amount_nusd, account_id),
    ).fetchone()[0]
    connection.execute(_TOPUP, (account_id, amount_nusd, amount_nusd, balance, source, external_id, now))
    return True


def release_dead(database: Database, owner: Owner, now: str) -> int:
    """Release the holds whose process is dead and return how many. Raises Unavailable."""
    with storage():
        holders = [row[0] for row in database.connection.execute("SELECT DISTINCT owner FROM open_holds")]
    dead = [holder for holder in holders if not owner.lives(holder)]
    count = 0
    if dead:
        with database.transaction() as connection:
            for holder in dead:
                count += connection.execute(_RELEASE_ROWS, (now, holder)).rowcount
                connection.execute(_RELEASE_SUMS, (holder,))
                connection.execute("DELETE FROM open_holds WHERE owner = ?", (holder,))
        _log.warning("released %d holds that dead processes had left open", count)
    owner.clear()
    return count


def _row(values: tuple[Any, ...]) -> Row:
    row = Row(*values)
    return replace(row, estimated=bool(row.estimated))


_PAGE = """
SELECT seq, request_id, client_request_id, account, kind, amount_nusd, upstream_cost_nusd, balance_after_nusd,
    prompt_tokens, completion_tokens, model, provider, catalog, estimated, idempotency_key, created_at
FROM ledger WHERE seq > ? ORDER BY seq LIMIT ?
"""
_REQUEST = """
SELECT seq, request_id, client_request_id, account, kind, amount_nusd, upstream_cost_nusd, balance_after_nusd,
    prompt_tokens, completion_tokens, model, provider, catalog, estimated, idempotency_key, created_at
FROM ledger WHERE request_id = ? ORDER BY seq
"""
_ENSURE_ACCOUNT = "INSERT INTO accounts (id, created_at) VALUES (?, ?) ON CONFLICT DO NOTHING"
_TOPUP = """
INSERT INTO ledger (request_id, account, kind, amount_nusd, delta_nusd, balance_after_nusd, source,
    external_id, created_at)
VALUES ('topup-' || lower(hex(randomblob(16))), ?, 'topup', ?, ?, ?, ?, ?, ?)
"""
_CHECK_SUMS = """
WITH ended AS (SELECT request_id FROM ledger WHERE kind IN ('settle', 'release')),
real AS (
    SELECT account, sum(delta_nusd) AS balance,
        sum(amount_nusd) FILTER (WHERE kind = 'settle') AS charged,
        sum(amount_nusd) FILTER (WHERE kind = 'hold' AND request_id NOT IN ended) AS held
    FROM ledger GROUP BY account
),
both AS (
    SELECT id, balance_nusd, held_nusd, charged_nusd, coalesce(balance, 0) AS balance,
        coalesce(held, 0) AS held, coalesce(charged, 0) AS charged
    FROM accounts LEFT JOIN real ON real.account = accounts.id
)
SELECT id, 'balance_nusd', balance_nusd, balance FROM both WHERE balance_nusd <> balance
UNION ALL SELECT id, 'held_nusd', held_nusd, held FROM both WHERE held_nusd <> held
UNION ALL SELECT id, 'charged_nusd', charged_nusd, charged FROM both WHERE charged_nusd <> charged
"""
_CHECK_OPEN = """
SELECT id, 'open_holds', coalesce(sum(amount_nusd), 0), held_nusd
FROM accounts LEFT JOIN open_holds ON open_holds.account = accounts.id
GROUP BY id HAVING coalesce(sum(amount_nusd), 0) <> held_nusd
"""
_CHECK_CHAIN = """
WITH chain AS (
    SELECT account, balance_after_nusd, sum(delta_nusd) OVER (PARTITION BY account ORDER BY seq) AS recomputed
    FROM ledger
)
SELECT account, 'balance_after_nusd', balance_after_nusd, recomputed
FROM chain WHERE balance_after_nusd <> recomputed
"""
_RELEASE_ROWS = """
INSERT INTO ledger (request_id, client_request_id, account, kind, amount_nusd, delta_nusd, balance_after_nusd,
    model, provider, catalog, idempotency_key, created_at)
SELECT hold.request_id, hold.client_request_id, hold.account, 'release', hold.amount_nusd, 0,
    accounts.balance_nusd, hold.model, hold.provider, hold.catalog, hold.idempotency_key, ?
FROM open_holds
JOIN ledger AS hold ON hold.request_id = open_holds.request_id AND hold.kind = 'hold'
JOIN accounts ON accounts.id = open_holds.account
WHERE open_holds.owner = ?
"""
_RELEASE_SUMS = """
UPDATE accounts SET held_nusd = held_nusd - gone.amount
FROM (SELECT account, sum(amount_nusd) AS amount FROM open_holds WHERE owner = ? GROUP BY account) AS gone
WHERE accounts.id = gone.account
"""
