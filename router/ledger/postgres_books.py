"""Read, top up and repair the books of a PostgreSQL database."""

from __future__ import annotations

import logging
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from router.ledger.answers import CHECK_KEYS, Claim
from router.ledger.claims import CHECK_PAYMENTS, CLAIM, claim_of
from router.ledger.ledger import Delivered, TellEnd
from router.ledger.money import credited
from router.ledger.payments import WALLET
from router.ledger.postgres import LONG_S, RARE_S, READ_S, REFUSED, Line, Link
from router.ledger.postgres_lease import process_of
from router.ledger.postgres_posting import PostgresPoster
from router.ledger.postgres_rollup import roll_up
from router.ledger.posting import Entry, HoldEnded, end_of
from router.ledger.rows import (
    ROLL_UP_ROWS,
    ROW,
    Difference,
    HoldRequest,
    Progress,
    Rolled,
    Row,
    Settlement,
    Topup,
)

PAGE_ROWS = 1_000
BATCH = 256
_log = logging.getLogger("router.ledger")


class PostgresBooks:
    """The `Books` of one database; reading all of them takes a connection of its own."""

    def __init__(self, link: Link, reader: Line, rare: Line) -> None:
        self._link = link
        self._reader = reader
        self._rare = rare

    async def rows(self) -> AsyncIterator[Row]:
        """Yield every row, oldest first, as of one moment."""
        with self._link.storage():
            async with self._snapshot() as connection:
                async for values in connection.cursor(_ALL, prefetch=PAGE_ROWS):
                    yield Row(*values)

    async def rows_of(self, request_id: str) -> list[Row]:
        """Return the rows of one request, oldest first."""
        with self._link.storage():
            async with self._reader.use(READ_S) as connection:
                try:
                    found = await connection.fetch(_REQUEST, request_id)
                except asyncpg.DataError:
                    return []  # a text that no row can hold
        return [Row(*values) for values in found]

    async def request_rows(self, account_id: str, request_id: str) -> list[Row]:
        """Return the rows of an account's request, of all of its holds, oldest first."""
        with self._link.storage():
            async with self._reader.use(READ_S) as connection:
                found = await connection.fetch(_HOLDS_OF, account_id, request_id)
                if not found:
                    newest = await connection.fetchval(_NEWEST, request_id, account_id)
                    ours = "" if newest is None else newest.partition(".")[0]  # its second hold is `ours.2`
                    found = await connection.fetch(_HOLDS_OF, account_id, ours) if ours else []
        return [Row(*values) for values in found]

    async def topups(self, account_id: str, limit: int) -> list[Topup]:
        """Return the newest payments into an account, newest first."""
        with self._link.storage():
            async with self._reader.use(READ_S) as connection:
                found = await connection.fetch(_TOPUPS, account_id, limit)
        return [Topup(*values) for values in found]

    async def check(self) -> list[Difference]:
        """Recompute every sum from the rows and return what differs, in one consistent read."""
        with self._link.storage():
            async with self._snapshot() as connection:
                return [
                    Difference(*values)
                    for query in (_CHECK_SUMS, _CHECK_OPEN, _CHECK_CHAIN)
                    for values in await connection.fetch(query, timeout=LONG_S)
                ]

    async def faults(self) -> list[str]:
        """Say what is wrong beside the sums: in keys and payments; the rest is the server's to check."""
        with self._link.storage():
            async with self._snapshot() as connection:
                found = await connection.fetch(CHECK_KEYS, timeout=LONG_S)
                payments = await connection.fetch(CHECK_PAYMENTS, timeout=LONG_S)
        said = [f"idempotency key {key!r} of {account}: {what}" for account, key, what in found]
        return said + [f"payment {key} of {account}: {what}" for key, account, what in payments]

    async def roll_up(self, before: str, window_rows: int = ROLL_UP_ROWS) -> Rolled:
        """Fold the requests that ended before a day."""
        with self._link.storage():
            connection = await self._link.connect()
            try:
                await connection.execute(_LONG_SESSION)
                return await roll_up(connection, before, window_rows)
            finally:
                connection.terminate()

    async def topup(
        self, account_id: str, amount_nusd: int, *, source: str, external_id: str, now: str
    ) -> bool:
        """Add credit; return False when this payment was booked before."""
        with self._link.storage():
            async with self._rare.use(RARE_S) as connection:
                await connection.execute("BEGIN")
                added = await topup(
                    connection, account_id, amount_nusd, source=source, external_id=external_id, now=now
                )
                await connection.execute("COMMIT")
                return added

    @asynccontextmanager
    async def _snapshot(self) -> AsyncIterator[asyncpg.Connection]:
        connection = await self._link.connect()
        try:
            await connection.execute(_LONG_SESSION)
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                yield connection
        finally:
            connection.terminate()


async def topup(
    connection: asyncpg.Connection,
    account_id: str,
    amount_nusd: int,
    *,
    source: str,
    external_id: str,
    now: str,
) -> bool:
    """Add credit inside the caller's transaction; return False when this payment was booked before.

    `source` and `external_id` name the payment. Raises ValueError for an amount that
    cannot be added.
    """
    await connection.execute(_ENSURE_ACCOUNT, account_id, now)
    before = await connection.fetchval(_BALANCE, account_id)
    if await connection.fetchval(_KNOWN, source, external_id):
        return False
    balance = credited(before, amount_nusd)
    values = f"topup-{uuid.uuid4().hex}", account_id, amount_nusd, balance, source, external_id, now
    # The same payment at the same moment waits here for the first one's commit, and is known then.
    if await connection.fetchval(_TOPUP, *values) is None:
        return False
    await connection.execute("UPDATE accounts SET balance_nusd = $2 WHERE id = $1", account_id, balance)
    return True


class Undertaker:
    """End the holds that no lease stands behind."""

    def __init__(
        self, connection: asyncpg.Connection, delivered: Delivered, now: str, tell: TellEnd | None = None
    ) -> None:
        self._connection = connection
        self._tell = tell
        self._delivered = delivered
        self._now = now
        self._known: dict[str, Mapping[str, Progress]] = {}
        self._poster = PostgresPoster("")
        self.ended = 0
        self.settled = 0
        self.unread: set[str] = set()  # processes whose journal cannot be read: their holds stay

    async def end_all(self) -> None:
        """End them, a batch a transaction; those of processes that ended in good order are there too."""
        last = 0
        while found := await self._connection.fetch(_ORPHANS, last, BATCH):
            last = found[-1][0]
            entries = [self._entry(values) for values in found]
            await self._end([entry for entry in entries if entry is not None])
        if self.ended:
            _log.warning(
                "ended %d holds that dead processes had left open, %d with a charge", self.ended, self.settled
            )

    async def _end(self, entries: Sequence[Entry]) -> None:
        if not entries:
            return
        try:
            await self._poster.post(self._connection, entries, self._now)
        except (HoldEnded, *REFUSED) as fault:
            if self._connection.is_in_transaction():
                await self._connection.execute("ROLLBACK")
            if len(entries) > 1:
                for half in (entries[: len(entries) // 2], entries[len(entries) // 2 :]):
                    await self._end(half)
            elif not isinstance(fault, HoldEnded):  # else another replica was faster
                _log.error("%s cannot be ended: %s", entries[0].hold.request_id, fault)
        else:
            for entry in entries:
                if self._tell is not None and entry.end is not None:
                    self._tell(entry.hold, entry.end)
            self.ended += len(entries)
            self.settled += sum(isinstance(entry.end, Settlement) for entry in entries)

    def _entry(self, values: Any) -> Entry | None:
        _, owner, *values = values
        noted, (body, cover_nusd, begun_at), payment = values[9:15], values[15:18], claim_of(values[18:-1])
        claim = None if body is None else Claim(body, None, cover_nusd, begun_at)
        hold = HoldRequest(*(*values[:9], claim, payment))
        delivered = self._delivered_by(process_of(owner))
        if delivered is None:
            return None
        if hold.request_id not in delivered and noted[0] is not None:
            delivered = {hold.request_id: Progress(hold.request_id, *noted)}
        return Entry(hold, end_of(hold, delivered, credited=values[-1]))

    def _delivered_by(self, process: str) -> Mapping[str, Progress] | None:
        """Return what a process had delivered, None where that cannot be read now."""
        if process not in self._known and process not in self.unread:
            try:
                self._known[process] = self._delivered(process)
            except OSError as fault:  # holds that stay are the safe mistake: whoever can read this ends them
                _log.error(
                    "cannot read what process %s had delivered, its holds stay open: %s", process, fault
                )
                self.unread.add(process)
        return self._known.get(process)


_TOPUPS = """
SELECT created_at, amount_nusd, source, external_id FROM ledger
WHERE account = $1 AND kind = 'topup' ORDER BY seq DESC LIMIT $2
"""
_ALL = f"SELECT {ROW} FROM ledger ORDER BY seq"  # noqa: S608 - names of ours alone
_REQUEST = f"SELECT {ROW} FROM ledger WHERE request_id = $1 ORDER BY seq"  # noqa: S608 - as above
_LONG_SESSION = "SET statement_timeout = 0; RESET enable_seqscan; RESET plan_cache_mode"
# "/" follows "." in ASCII.
_HOLDS_OF = f"""
SELECT {ROW} FROM ledger
WHERE account = $1 AND kind IN ('hold', 'settle', 'release')
    AND (request_id = $2 OR (request_id > $2 || '.' AND request_id < $2 || '/'))
ORDER BY seq
"""  # noqa: S608 - as above
_NEWEST = """
SELECT request_id FROM ledger WHERE client_request_id = $1 AND account = $2 AND kind = 'hold'
ORDER BY seq DESC LIMIT 1
"""
_ENSURE_ACCOUNT = "INSERT INTO accounts (id, created_at) VALUES ($1, $2) ON CONFLICT DO NOTHING"
_BALANCE = "SELECT balance_nusd FROM accounts WHERE id = $1 FOR UPDATE"
_KNOWN = "SELECT true FROM ledger WHERE kind = 'topup' AND source = $1 AND external_id = $2"
_TOPUP = """
INSERT INTO ledger (request_id, account, kind, amount_nusd, delta_nusd, balance_after_nusd, source,
    external_id, created_at)
VALUES ($1, $2, 'topup', $3, $3, $4, $5, $6, $7)
ON CONFLICT (source, external_id) WHERE kind = 'topup' DO NOTHING RETURNING seq
"""
_CHECK_SUMS = """
WITH real AS (
    SELECT row.account, sum(row.delta_nusd)::bigint AS balance,
        sum(row.amount_nusd) FILTER (WHERE row.kind = 'settle')::bigint AS charged,
        sum(row.amount_nusd) FILTER (WHERE row.kind = 'hold' AND ended.request_id IS NULL)::bigint AS held
    FROM ledger AS row LEFT JOIN ledger AS ended
        ON row.kind = 'hold' AND ended.request_id = row.request_id AND ended.kind IN ('settle', 'release')
    GROUP BY row.account
),
both_sums AS (
    SELECT id, balance_nusd, held_nusd, charged_nusd, coalesce(balance, 0) AS balance,
        coalesce(held, 0) AS held, coalesce(charged, 0) AS charged
    FROM accounts LEFT JOIN real ON real.account = accounts.id
)
SELECT id, 'balance_nusd', balance_nusd, balance FROM both_sums WHERE balance_nusd <> balance
UNION ALL SELECT id, 'held_nusd', held_nusd, held FROM both_sums WHERE held_nusd <> held
UNION ALL SELECT id, 'charged_nusd', charged_nusd, charged FROM both_sums WHERE charged_nusd <> charged
"""
_CHECK_OPEN = """
SELECT id, 'open_holds', coalesce(sum(amount_nusd), 0)::bigint, held_nusd
FROM accounts LEFT JOIN open_holds ON open_holds.account = accounts.id
GROUP BY id HAVING coalesce(sum(amount_nusd), 0) <> held_nusd
"""
_CHECK_CHAIN = """
WITH chain AS (
    SELECT account, balance_after_nusd,
        (sum(delta_nusd) OVER (PARTITION BY account ORDER BY seq))::bigint AS recomputed
    FROM ledger
)
SELECT account, 'balance_after_nusd', balance_after_nusd, recomputed
FROM chain WHERE balance_after_nusd <> recomputed
"""
_ORPHANS = f"""
SELECT hold.seq, open_holds.owner, hold.request_id, hold.client_request_id, hold.account, hold.amount_nusd,
    hold.model, hold.provider, hold.catalog, hold.idempotency_key, open_holds.require_credit,
    open_holds.prompt_tokens, open_holds.completion_tokens, open_holds.charge_nusd,
    open_holds.upstream_cost_nusd, open_holds.model, open_holds.provider,
    keys.body, keys.cover_nusd, keys.begun_at, {", ".join(f"payments.{name}" for name in CLAIM.split(", "))},
    EXISTS (SELECT FROM ledger WHERE kind = 'topup' AND source = '{WALLET}' AND external_id = payments.key)
FROM open_holds JOIN ledger AS hold ON hold.request_id = open_holds.request_id AND hold.kind = 'hold'
LEFT JOIN idempotency_keys AS keys ON keys.account = hold.account AND keys.key = hold.idempotency_key
    AND keys.request_id = hold.request_id
LEFT JOIN payments ON payments.request_id = hold.request_id
WHERE NOT EXISTS (SELECT FROM owners WHERE owners.id = open_holds.owner) AND hold.seq > $1
ORDER BY hold.seq LIMIT $2
"""  # noqa: S608 - as above
