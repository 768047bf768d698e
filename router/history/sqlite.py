"""The history in a SQLite file of its own, beside the ledger's: the two never wait for each other's lock.

All of it happens in worker threads, one that writes and one that reads: the loop serves meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from router.errors import Unavailable
from router.history import queries
from router.history.figures import KEPT_S, Batch
from router.history.store import Rows, Store
from router.ledger.sqlite import statements

FILE = "history.db"
_SCHEMA = ("0001_history.sql", "0002_words.sql")
WAIT_MS = 5_000
FORGET_ROWS = 5_000
T = TypeVar("T")
_log = logging.getLogger("router.history")


class SqliteStore(Store):
    """One file, for any number of processes of one machine."""

    def __init__(self, data: Path) -> None:
        self._path = data / FILE
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="history-write")
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="history-read")
        self._write: sqlite3.Connection | None = None
        self._read: sqlite3.Connection | None = None

    async def start(self) -> None:
        """Open the file, make it (0600) when it is not there."""
        await self._run(self._writer, self._open)

    async def write(self, batch: Batch) -> None:
        """Add a batch in one transaction."""
        await self._run(self._writer, lambda: self._add(batch))

    async def forget(self, keep_requests: int, now_s: float) -> None:
        """Delete what is too old, a few rows a transaction."""
        more = True
        while more:
            more = await self._run(self._writer, lambda: self._forget_some(keep_requests, int(now_s)))

    async def close(self) -> None:
        """Close the connections in their threads."""
        await self._run(self._reader, lambda: self._read.close() if self._read is not None else None)
        await self._run(self._writer, lambda: self._write.close() if self._write is not None else None)
        self._reader.shutdown()
        self._writer.shutdown()

    async def _fetch(self, sql: str, *values: Any) -> Rows:
        return await self._run(self._reader, lambda: self._select(sql, values))

    async def _run(self, worker: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(worker, work)
        except (sqlite3.Error, OSError) as fault:
            raise Unavailable(
                f"The history of requests cannot be used: {self._path}: {fault}. Free disk space, make the"
                " file writable, or stop the router and delete it: it is kept for the pages alone.",
                retry_after_s=5,
            ) from fault

    def _open(self) -> sqlite3.Connection:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))
        run = sqlite3.connect(self._path, timeout=WAIT_MS / 1e3, isolation_level=None)
        run.execute("PRAGMA journal_mode = WAL")
        run.execute("PRAGMA synchronous = NORMAL")
        run.execute("BEGIN IMMEDIATE")
        version: int = run.execute("PRAGMA user_version").fetchone()[0]
        for number, name in enumerate(_SCHEMA[version:], version + 1):
            schema = resources.files("router.history") / "sqlite_schema" / name
            for statement in statements(schema.read_text("utf-8")):
                run.execute(statement)
            run.execute(f"PRAGMA user_version = {number}")
        run.execute("COMMIT")
        self._write = run
        return run

    def _add(self, batch: Batch) -> None:
        run = self._write or self._open()
        run.execute("BEGIN IMMEDIATE")
        try:
            run.executemany(_INSERT, map(queries.values_of, batch.records))
            run.executemany(_INSERT_WORDS, queries.words_of(batch.records))
            for table, rows in batch.rows().items():
                run.executemany(_UPSERTS[table], rows)
            run.execute("COMMIT")
        finally:
            if run.in_transaction:
                run.execute("ROLLBACK")

    def _forget_some(self, keep_requests: int, now_s: int) -> bool:
        run = self._write or self._open()
        lowest, highest = run.execute(queries.BOUNDS).fetchone()
        more: bool = highest is not None and lowest <= highest - keep_requests
        if more:
            last = min(lowest + FORGET_ROWS, highest - keep_requests)
            for statement in (queries.FORGET_WORDS, queries.FORGET_REQUESTS):
                run.execute(_own(statement), (last,))
        for step_s, kept_s in KEPT_S.items():
            for statement in queries.FORGET_SUMS:
                run.execute(_own(statement), (step_s, now_s - kept_s))
        return more

    def _select(self, sql: str, values: tuple[Any, ...]) -> Rows:
        if self._read is None:
            self._read = sqlite3.connect(self._path, timeout=WAIT_MS / 1e3, isolation_level=None)
            self._read.execute("PRAGMA query_only = ON")
            self._read.execute("PRAGMA mmap_size = 268435456")
        return self._read.execute(_own(sql), values).fetchall()


def _own(sql: str) -> str:
    """Write parameters as SQLite numbers them."""
    return re.sub(r"\$(\d+)", r"?\1", sql)


_INSERT = (
    f"INSERT INTO history_requests ({', '.join(queries.COLUMNS)})"
    f" VALUES ({', '.join('?' * len(queries.COLUMNS))}) ON CONFLICT DO NOTHING"
)
_INSERT_WORDS = "INSERT INTO history_words (request_id, words) VALUES (?, ?) ON CONFLICT DO NOTHING"
_UPSERTS = {table: _own(queries.upsert(table)) for table in queries.TABLES}
