"""Fold old rows of a PostgreSQL ledger, by the rules of `sqlite_rollup`; a service beside it never waits."""

from __future__ import annotations

import asyncpg

from router.errors import InternalError
from router.ledger.postgres import LONG_S
from router.ledger.rows import Rolled

_LOCK = 0x726F6C6C7570  # "rollup": one at a time


async def roll_up(connection: asyncpg.Connection, before: str, window_rows: int) -> Rolled:
    """Fold what ended before the day `before`, a window of rows a transaction.

    Raises InternalError when the sums would differ.
    """
    folded = made = 0
    at: int | None = 0
    while True:
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
            at = await connection.fetchval(_FIRST, at, before, timeout=LONG_S)
            if at is None:
                return Rolled(folded, made)
            rows, sums = await _fold(connection, at, before, window_rows)
        folded += rows
        made += sums


async def _fold(connection: asyncpg.Connection, first: int, before: str, window_rows: int) -> tuple[int, int]:
    async def run(statement: str, *values: object) -> int:
        """Return how many rows it wrote: the last word of its tag."""
        return int((await connection.execute(statement, *values, timeout=LONG_S)).rpartition(" ")[2])

    for table in _TABLES:
        await connection.execute(table)
    await connection.execute("INSERT INTO rollup_before (day) VALUES ($1)", before)
    await run(_GOING, first, window_rows, before)
    await run(_ENDS, first, window_rows)
    await run(_SUMS)
    if await connection.fetchval(_WRONG, timeout=LONG_S):
        raise InternalError("the sums differ from their rows; nothing was changed")
    rows = await run(
        "DELETE FROM ledger WHERE kind = 'hold' AND request_id IN (SELECT request_id FROM going)"
    )
    rows += await run("DELETE FROM ledger WHERE seq IN (SELECT seq FROM ends)")
    sums = await run(_WRITE)
    await connection.execute("DELETE FROM rollup_before")
    return rows, sums


_FIRST = """
SELECT min(seq) FROM ledger
WHERE seq >= $1 AND kind IN ('settle', 'release') AND created_at COLLATE "C" < $2
    AND NOT starts_with(request_id, 'rollup:')
    AND NOT EXISTS (SELECT FROM idempotency_keys AS keys WHERE keys.request_id = ledger.request_id)
"""
_TABLES = (
    'CREATE TEMP TABLE going (request_id text COLLATE "C" PRIMARY KEY) ON COMMIT DROP',
    """
    CREATE TEMP TABLE ends ON COMMIT DROP AS
    SELECT seq, request_id, account, kind, 0::bigint AS part, delta_nusd, amount_nusd, upstream_cost_nusd,
        balance_after_nusd, prompt_tokens, completion_tokens, model, provider, catalog, estimated, created_at
    FROM ledger LIMIT 0
    """,
    """
    CREATE TEMP TABLE sums ON COMMIT DROP AS
    SELECT account, part, model, seq, created_at, amount_nusd, upstream_cost_nusd, prompt_tokens,
        completion_tokens, provider, catalog, estimated, balance_after_nusd
    FROM ends LIMIT 0
    """,
)
# The ends of the first row's day within a window of rows.
_GOING = """
INSERT INTO going
SELECT request_id FROM (SELECT * FROM ledger WHERE seq >= $1 ORDER BY seq LIMIT $2) AS near
WHERE kind IN ('settle', 'release') AND created_at COLLATE "C" < $3
    AND NOT starts_with(request_id, 'rollup:')
    AND left(created_at, 10) = (SELECT left(created_at, 10) FROM ledger WHERE seq = $1)
    AND NOT EXISTS (SELECT FROM idempotency_keys AS keys WHERE keys.request_id = near.request_id)
"""
# A part is what lies between two rows of an account that stay: each of them tells the balance of its moment.
_ENDS = """
INSERT INTO ends
WITH marked AS (
    SELECT near.*, going.request_id IS NOT NULL AS goes
    FROM (SELECT * FROM ledger WHERE seq >= $1 ORDER BY seq LIMIT $2) AS near
    LEFT JOIN going ON going.request_id = near.request_id
),
parted AS (
    SELECT *, count(*) FILTER (WHERE NOT goes) OVER (PARTITION BY account ORDER BY seq) AS part FROM marked
)
SELECT seq, request_id, account, kind, part, delta_nusd, amount_nusd, upstream_cost_nusd, balance_after_nusd,
    prompt_tokens, completion_tokens, model, provider, catalog, estimated, created_at
FROM parted WHERE goes AND kind IN ('settle', 'release')
"""
_SUMS = """
INSERT INTO sums
WITH begun AS (
    SELECT DISTINCT ON (account, part) account, part, balance_after_nusd - delta_nusd AS balance_nusd
    FROM ends ORDER BY account, part, seq
),
grouped AS (
    SELECT account, part, model, max(seq) AS seq, max(created_at COLLATE "C") AS created_at,
        sum(-delta_nusd)::bigint AS amount_nusd, sum(upstream_cost_nusd)::bigint AS upstream_cost_nusd,
        sum(prompt_tokens)::bigint AS prompt_tokens, sum(completion_tokens)::bigint AS completion_tokens,
        CASE WHEN min(provider) = max(provider) THEN min(provider) END AS provider,
        CASE WHEN min(catalog) = max(catalog) THEN min(catalog) END AS catalog,
        bool_or(estimated) AS estimated
    FROM ends WHERE kind = 'settle' OR upstream_cost_nusd IS NOT NULL GROUP BY account, part, model
)
SELECT grouped.*, begun.balance_nusd - sum(amount_nusd) OVER (
        PARTITION BY grouped.account, grouped.part ORDER BY grouped.seq
    )
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
last AS (
    SELECT DISTINCT ON (account, part) account, part, balance_after_nusd AS balance
    FROM ends ORDER BY account, part, seq DESC
)
SELECT EXISTS (
    SELECT FROM rows LEFT JOIN folded USING (account, part) JOIN last USING (account, part)
    WHERE (coalesce(folded.charged, 0), coalesce(folded.cost, 0), coalesce(folded.tokens, 0))
            <> (rows.charged, rows.cost, rows.tokens)
        OR coalesce(folded.balance, last.balance) <> last.balance
)
"""
_WRITE = """
INSERT INTO ledger (seq, request_id, account, kind, amount_nusd, delta_nusd, upstream_cost_nusd,
    balance_after_nusd, prompt_tokens, completion_tokens, model, provider, catalog, estimated, created_at)
OVERRIDING SYSTEM VALUE
SELECT seq, format('rollup:%s:%s:%s:%s', left(created_at, 10), account, model, seq), account, 'settle',
    amount_nusd, -amount_nusd, upstream_cost_nusd, balance_after_nusd, prompt_tokens,
    completion_tokens, model, provider, catalog, estimated, created_at
FROM sums
"""
