"""The history in the database of the ledger, for replicas that share it."""

from __future__ import annotations

from typing import Any

import asyncpg

from router.history import queries
from router.history.figures import KEPT_S, Batch
from router.history.store import Rows, Store
from router.ledger.postgres import RARE_S, Line, Link, columns, prepare

FORGET_ROWS = 2_000


class PostgresStore(Store):
    """The tables `history_*`; the ledger's migrations make them.

    `line` is the ledger's own for what is rare: a process needs no further connection, and what requests wait
    for has others. Without one the store has its own.
    """

    def __init__(self, link: Link, line: Line | None = None) -> None:
        self._link = link
        self._own = line is None
        self._line = line or Line(link)

    async def start(self) -> None:
        """Bring the schema forward."""
        await prepare(self._link)

    async def write(self, batch: Batch) -> None:
        """Add a batch in one transaction; keys are in order, so that replicas never block each other."""
        with self._link.storage():
            async with self._line.use(RARE_S) as connection:
                await connection.execute("BEGIN")
                if batch.records:
                    await connection.execute(_INSERT, *columns([*map(queries.values_of, batch.records)], 0))
                if words := queries.words_of(batch.records):
                    await connection.execute(_INSERT_WORDS, *columns(words, 0))
                for table, rows in batch.rows().items():
                    if rows:
                        await connection.execute(_UPSERTS[table], *columns(sorted(rows), 0))
                await connection.execute("COMMIT")

    async def forget(self, keep_requests: int, now_s: float) -> None:
        """Delete what is too old, a few rows a statement."""
        with self._link.storage():
            async with self._line.use(RARE_S) as connection:
                lowest, highest = await connection.fetchrow(queries.BOUNDS)
                while highest is not None and lowest <= highest - keep_requests:
                    lowest = min(lowest + FORGET_ROWS, highest - keep_requests) + 1
                    for statement in (queries.FORGET_WORDS, queries.FORGET_REQUESTS):
                        await connection.execute(statement, lowest - 1)
                for step_s, kept_s in KEPT_S.items():
                    for statement in queries.FORGET_SUMS:
                        await connection.execute(statement, step_s, int(now_s) - kept_s)

    async def close(self) -> None:
        """Give the connection up, where it is the store's own."""
        if self._own:
            await self._line.close()

    async def _fetch(self, sql: str, *values: Any) -> Rows:
        with self._link.storage():
            async with self._line.use(RARE_S) as connection:
                try:
                    rows: Rows = await connection.fetch(sql, *values)
                except asyncpg.DataError:
                    return []  # a text that no row can hold
                return rows


_TEXTS = {
    *("request_id", "client_request_id", "account", "outcome", "asked", "category", "model", "provider"),
    *("baseline", "detail", "span", "words"),
}


def _insert(table: str, names: tuple[str, ...], clause: str) -> str:
    arrays = ", ".join(
        f"${number + 1}::{'text' if name in _TEXTS else 'bigint'}[]" for number, name in enumerate(names)
    )
    return f"INSERT INTO {table} ({', '.join(names)}) SELECT * FROM unnest({arrays}) {clause}"


_INSERT = _insert("history_requests", queries.COLUMNS, "ON CONFLICT DO NOTHING")
_INSERT_WORDS = _insert("history_words", ("request_id", "words"), "ON CONFLICT DO NOTHING")
_UPSERTS = {
    table: _insert(table, keys + sums, queries.added(table)) for table, (keys, sums) in queries.TABLES.items()
}
