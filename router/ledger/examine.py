"""Look at a database without changing it: can it be written, its journal, schema and structure."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from router.ledger.migrations import migrations
from router.ledger.sqlite import FILE, MIGRATIONS, is_busy

LOCK_S = 1.0
# Reading every page of a large file takes minutes; `router ledger check` does.
QUICK_CHECK_BYTES = 256 * 2**20


class Trouble(Exception):
    """The database cannot be used; the message says why."""


class Newer(Trouble):
    """A newer router has written the database: nothing is wrong with it."""


def examine_sqlite(data: Path) -> Iterator[str]:
    """Yield what is right with the file in `data`, which is there. Raises Trouble."""
    path = data / FILE
    try:
        with closing(
            sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=LOCK_S)
        ) as found:
            yield from _examine(found, path)
    except sqlite3.Error as fault:
        raise Trouble(f"{path}: {fault}") from fault


def _examine(found: sqlite3.Connection, path: Path) -> Iterator[str]:
    found.isolation_level = None
    try:
        found.execute("BEGIN IMMEDIATE")  # what cannot be written refuses this
        found.execute("ROLLBACK")
        yield "writable"
    except sqlite3.OperationalError as fault:
        if not is_busy(fault):
            raise
        yield "written by a service right now"
    mode = found.execute("PRAGMA journal_mode").fetchone()[0]
    if mode != "wal":
        raise Trouble(f"{path}: its journal is {mode}, not WAL: the file system may not have what WAL needs")
    yield "WAL"
    version, newest = int(found.execute("PRAGMA user_version").fetchone()[0]), migrations(MIGRATIONS)[-1][0]
    if version > newest:
        raise Newer(f"{path}: a newer router has written it (schema {version}, this one knows {newest})")
    yield f"schema {version}" + (f", the next start brings it to {newest}" if version < newest else "")
    size_bytes = path.stat().st_size
    if size_bytes > QUICK_CHECK_BYTES:
        yield f"{size_bytes / 2**20:,.0f} MiB, structure not read (`router ledger check` does)"
        return
    said = found.execute("PRAGMA quick_check(1)").fetchone()[0]
    if said != "ok":
        raise Trouble(f"{path}: {said}")
    yield "sound"


def examine_postgres(url: str) -> str:
    """Return the version and the schema of the server that `url` names. Raises Trouble."""
    return asyncio.run(_examine_postgres(url))


async def _examine_postgres(url: str) -> str:
    from router.ledger.postgres import AWAY, FOLDER, RARE_S, Link, said, schema_version

    link = Link(url)
    try:
        connection = await link.connect(RARE_S)
        try:
            server = str(await connection.fetchval("SHOW server_version")).split()[0]
            read_only = await connection.fetchval("SHOW transaction_read_only")
            version = await schema_version(connection)
        finally:
            connection.terminate()
    except AWAY as fault:
        raise Trouble(f"PostgreSQL at {link.shown}: {said(fault)}") from fault
    newest = migrations(FOLDER)[-1][0]
    if read_only == "on":
        raise Trouble(f"PostgreSQL at {link.shown} takes no writes: it is a standby or read-only")
    if version > newest:
        raise Newer(f"PostgreSQL at {link.shown}: a newer router has written it (schema {version})")
    more = "" if version == newest else f", the next start brings it to {newest}"
    return f"PostgreSQL {server} at {link.shown}: writable, schema {version}{more}"
