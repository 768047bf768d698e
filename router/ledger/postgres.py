"""A PostgreSQL database: how it is reached, what its faults mean, its schema at the newest migration.

A process has a fixed number of connections (`Line`), each used by one task at a time. One that failed, or
whose user was cancelled, is dropped and made anew for its next user: what a server that hangs still does with
a statement is never guessed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from urllib.parse import urlsplit

import asyncpg

from router.errors import RouterError, Unavailable
from router.ledger.ledger import RETRY_AFTER_S, unavailable
from router.ledger.migrations import migrations

CONNECT_S = 1.5
STATEMENT_S = 3.0
READ_S = 1.5
RARE_S = 10.0
LONG_S = 3_600.0

REFUSED = (asyncpg.IntegrityConstraintViolationError, asyncpg.DataError)
"""The entry is wrong, not the database: the same again is refused again."""

AWAY = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""The database did not do it now (a TimeoutError is an OSError); look for REFUSED first."""

FOLDER = "postgres_migrations"
_LOCK = 0x726F75746572  # "router": whoever migrates holds this advisory lock
# The server ends a statement before our own patience does, and a transaction whose process has stopped. Each
# of our statements finds its rows by an index whatever the sizes are, so it is planned once a connection.
_SESSION = f"""
SET statement_timeout = '{int(STATEMENT_S * 1000) - 500}ms';
SET idle_in_transaction_session_timeout = '{int(STATEMENT_S * 1000)}ms';
SET default_transaction_isolation = 'read committed';
SET plan_cache_mode = force_generic_plan;
SET enable_seqscan = off;
SET jit = off;
SET client_min_messages = warning;
SET application_name = 'llm-router'
"""
_log = logging.getLogger("router.ledger")


class Gone(Exception):
    """An expected end of a transaction that leaves its connection as good as it was."""


class Link:
    """The way to one database; its log tells once when it is away, and once when it is back."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._away = False
        self.shown = shown(url)

    async def connect(self, within_s: float = CONNECT_S) -> asyncpg.Connection:
        """Return a new connection. Raises AWAY."""
        connection = await asyncpg.connect(self._url, timeout=within_s, command_timeout=STATEMENT_S)
        try:
            await connection.execute(_SESSION)
        except BaseException:
            connection.terminate()
            raise
        if self._away:
            self._away = False
            _log.info("PostgreSQL at %s is back", self.shown)
        return connection

    def lost(self, fault: BaseException) -> None:
        """Note that the database failed."""
        if not self._away:
            self._away = True
            _log.error("storage is unavailable: PostgreSQL at %s: %s", self.shown, said(fault))

    @contextmanager
    def storage(self) -> Iterator[None]:
        """Turn a fault of the database into Unavailable; the log gets the detail, the client does not."""
        try:
            yield
        except REFUSED:
            raise
        except AWAY as fault:
            self.lost(fault)
            raise unavailable() from fault


class Line:
    """One connection to a database, for one user at a time."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._free = asyncio.Lock()
        self._connection: asyncpg.Connection | None = None

    @asynccontextmanager
    async def use(self, within_s: float) -> AsyncIterator[asyncpg.Connection]:
        """Give the connection for so many seconds, the wait for it included. Raises AWAY.

        A transaction that the block leaves open is undone.
        """
        async with asyncio.timeout(within_s), self._free:
            connection = self._connection
            if connection is None or connection.is_closed():
                self._connection = connection = await self._link.connect()
            try:
                yield connection
            except (*REFUSED, Gone, RouterError):
                await self._undo(connection)
                raise
            except BaseException:
                self.drop()
                raise

    async def _undo(self, connection: asyncpg.Connection) -> None:
        try:
            if connection.is_in_transaction():
                await connection.execute("ROLLBACK")
        except BaseException:
            self.drop()
            raise

    def drop(self) -> None:
        """Close the connection without a word to the server, which may not be listening."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    async def close(self) -> None:
        """Close the connection in good order, if the server takes part in that."""
        connection, self._connection = self._connection, None
        if connection is not None and not connection.is_closed():
            try:
                await connection.close(timeout=1.0)
            except AWAY:
                connection.terminate()


async def prepare(link: Link) -> None:
    """Bring the schema forward. Raises Unavailable with the operator's fix."""
    try:
        connection = await link.connect(RARE_S)
        try:
            await migrate(connection)
        finally:
            connection.terminate()
    except AWAY as fault:
        raise Unavailable(
            f"cannot use the PostgreSQL database {link.shown}: {said(fault)}; check that the server runs and"
            " that ROUTER_DATABASE_URL names a database whose owner the user is (`createdb -O USER NAME`)",
            name="storage_unavailable",
            retry_after_s=RETRY_AFTER_S,
        ) from fault


async def migrate(connection: asyncpg.Connection) -> None:
    """Bring the schema forward, one transaction a migration; replicas that start together migrate once.

    Use the connection for nothing else. Raises AWAY, and Unavailable for a database that a newer router has
    written.
    """
    known = migrations(FOLDER)
    newest = known[-1][0]
    if await schema_version(connection) < newest:
        await connection.execute("SET statement_timeout = 0")
        # Held until the connection ends. A transaction's own lock would not do: one that waited for it would
        # look with what it knew of the tables before.
        await connection.execute(f"SELECT pg_advisory_lock({_LOCK})", timeout=LONG_S)
        for number, sql in known:
            if await schema_version(connection) < number:
                await connection.execute("BEGIN")
                await connection.execute(sql, timeout=LONG_S)
                await connection.execute("INSERT INTO router_schema (version) VALUES ($1)", number)
                await connection.execute("COMMIT")
    if await schema_version(connection) > newest:
        raise Unavailable(
            "the database was written by a newer router; upgrade this one",
            name="storage_unavailable",
            retry_after_s=RETRY_AFTER_S,
        )


async def schema_version(connection: asyncpg.Connection) -> int:
    """Return the number of the last migration, 0 for an empty database. Raises AWAY."""
    if await connection.fetchval("SELECT to_regclass('router_schema') IS NULL"):
        return 0
    return int(await connection.fetchval("SELECT max(version) FROM router_schema"))


def shown(url: str) -> str:
    """Return who and where a URL names, without its password and its options."""
    parts = urlsplit(url)
    user = f"{parts.username}@" if parts.username else ""
    port = f":{parts.port}" if parts.port else ""
    return f"{user}{parts.hostname or 'its socket'}{port}{parts.path}"


def said(fault: BaseException) -> str:
    """Return a fault in a few words; a time-out has none of its own."""
    return str(fault).splitlines()[0] if str(fault) else "it does not answer in time"


def columns(rows: list[tuple[Any, ...]], count: int) -> list[list[Any]]:
    """Turn rows into the arrays that `unnest` makes rows of again."""
    return [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(count)]
