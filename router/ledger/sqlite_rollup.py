"""Fold old rows of a SQLite ledger: one settle a day, account and model in place of their requests' rows.

Only requests that ended before the given day are folded, with their holds; payments and what is still open
stay. A sum stands where the last of its rows stood, and never reaches across a payment, so that every balance
follows from the rows before it as it did. Each window of rows is one transaction that compares the sums
before and after; a service beside it waits for as long as one window takes
(14 us a row).
"""

from __future__ import annotations

import asyncio
import sqlite3

from router.errors import InternalError
from router.ledger.rows import Rolled
from router.ledger.sqlite import Database

PAUSE_S = 0.1


async def roll_up(database: Database, before: str, window_rows: int) -> Rolled:
    """Fold what ended before the day `before` (like `2026-11-22`).

    Raises Unavailable, and InternalError when the sums would differ.
    """
    folded = made = 0
    at: int | None = 0
    while True:
        with database.transaction() as connection:
            at = connection.execute(_FIRST, (at, before)).fetchone()[0]
            if at is None:
                return Rolled(folded, made)
            rows, sums = _fold(connection, at, before, window_rows)
        folded += rows
        made += sums
        await asyncio.sleep(PAUSE_S)  # whoever waits for the lock comes first


def _fold(connection: sqlite3.Connection, first: int, before: str, window_rows: int) -> tuple[int, int]:
    """Fold a window within the caller's transaction; return (rows folded, rows made)."""
    run = connection.execute
    run("INSERT INTO rollup_before (day) VALUES (?)", (before,))
    for statement in _NEW_TABLES:
        run(statement)
    run(_GOING, (first, window_rows, before, first))
    run(_ENDS, (first, window_rows))
    run(_SUMS)
    if run(_WRONG).fetchone() is not None:
        raise InternalError("the sums differ from their rows; nothing was changed")
    rows = run(
        "DELETE FROM ledger WHERE kind = 'hold' AND request_id IN (SELECT request_id FROM going)"
    ).rowcount
    rows += run("DELETE FROM ledger WHERE seq IN (SELECT seq FROM ends)").rowcount
    sums = run(_WRITE).rowcount
    run("DELETE FROM rollup_before")
    return rows, sums


_FIRST = """
SELECT min(seq) FROM ledger
WHERE seq >= ? AND kind IN ('settle', 'release') AND created_at < ? AND substr(request_id, 1, 7) <> 'rollup:'
    AND request_id NOT IN (SELECT request_id FROM idempotency_keys)
"""
_NEW_TABLES = (
    "DROP TABLE IF EXISTS temp.going",
    "DROP TABLE IF EXISTS temp.ends",
    "DROP TABLE IF EXISTS temp.sums",
)
# The ends of the first row's day within a window of rows.
_GOING = """
CREATE TEMP TABLE going AS
SELECT request_id FROM (SELECT * FROM ledger WHERE seq >= ? ORDER BY seq LIMIT ?)
WHERE kind IN ('settle', 'release') AND created_at < ? AND substr(request_id, 1, 7) <> 'rollup:'
    AND substr(created_at, 1, 10) = (SELECT substr(created_at, 1, 10) FROM ledger WHERE seq = ?)
    AND request_id NOT IN (SELECT request_id FROM idempotency_keys)
"""
# A part is what lies between two rows of an account that stay: each of them tells the balance of its moment.
_ENDS = """
CREATE TEMP TABLE ends AS
WITH marked AS (
    SELECT *, request_id IN (SELECT request_id FROM going) AS goes
    FROM (SELECT * FROM ledger WHERE seq >= ? ORDER BY seq LIMIT ?)
),
parted AS (
    SELECT *, count(*) FILTER (WHERE NOT goes) OVER (PARTITION BY account ORDER BY seq) AS part FROM marked
)
SELECT seq, request_id, account, kind, part, delta_nusd, amount_nusd, upstream_cost_nusd, balance_after_nusd,
    prompt_tokens, completion_tokens, model, provider, catalog, estimated, created_at
FROM parted WHERE goes AND kind IN ('settle', 'release')
"""
_SUMS = """
CREATE TEMP TABLE sums AS
WITH begun AS (
    SELECT account, part, balance_after_nusd - delta_nusd AS balance_nusd, min(seq)
    FROM ends GROUP BY account, part
),
grouped AS (
    SELECT account, part, model, max(seq) AS seq, max(created_at) AS created_at,
        sum(-delta_nusd) AS amount_nusd, sum(upstream_cost_nusd) AS upstream_cost_nusd,
        sum(prompt_tokens) AS prompt_tokens, sum(completion_tokens) AS completion_tokens,
        CASE WHEN min(provider) = max(provider) THEN min(provider) END AS provider,
        CASE WHEN min(catalog) = max(catalog) THEN min(catalog) END AS catalog,
        max(estimated) AS estimated
    FROM ends WHERE kind = 'settle' OR upstream_cost_nusd IS NOT NULL GROUP BY account, part, model
)
SELECT grouped.*, begun.balance_nusd - sum(amount_nusd) OVER (
        PARTITION BY grouped.account, grouped.part ORDER BY grouped.seq
    ) AS balance_after_nusd
FROM grouped JOIN begun ON begun.account = grouped.account AND begun.part = grouped.part
"""
# What was charged, what it cost, the tokens, and the balance that each part ends with.
_WRONG = """
WITH rows AS (
    SELECT account, part, sum(-delta_nusd) AS charged, coalesce(sum(upstream_cost_nusd), 0) AS cost,
        coalesce(sum(prompt_tokens + completion_tokens), 0) AS tokens
    FROM ends GROUP BY account, part
),
folded AS (
    SELECT account, part, sum(amount_nusd) AS charged, coalesce(sum(upstream_cost_nusd), 0) AS cost,
        coalesce(sum(prompt_tokens + completion_tokens), 0) AS tokens, min(balance_after_nusd) AS balance
    FROM sums GROUP BY account, part
),
last AS (SELECT account, part, balance_after_nusd AS balance, max(seq) FROM ends GROUP BY account, part)
SELECT 1 FROM rows LEFT JOIN folded USING (account, part) JOIN last USING (account, part)
WHERE (coalesce(folded.charged, 0), coalesce(folded.cost, 0), coalesce(folded.tokens, 0))
        <> (rows.charged, rows.cost, rows.tokens)
    OR coalesce(folded.balance, last.balance) <> last.balance
LIMIT 1
"""
_WRITE = """
INSERT INTO ledger (seq, request_id, account, kind, amount_nusd, delta_nusd, upstream_cost_nusd,
    balance_after_nusd, prompt_tokens, completion_tokens, model, provider, catalog, estimated, created_at)
SELECT seq, format('rollup:%s:%s:%s:%d', substr(created_at, 1, 10), account, model, seq), account, 'settle',
    amount_nusd, -amount_nusd, upstream_cost_nusd, balance_after_nusd, prompt_tokens,
    completion_tokens, model, provider, catalog, estimated, created_at
FROM sums
"""
