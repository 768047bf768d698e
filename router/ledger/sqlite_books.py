"""Read and repair the books of a SQLite database: export, check, sums, top-ups, holds of dead processes."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from router.ledger.accounts import Account
from router.ledger.answers import CHECK_KEYS, Claim
from router.ledger.claims import CHECK_PAYMENTS, CLAIM, claim_of
from router.ledger.ledger import Delivered, TellEnd
from router.ledger.money import credited
from router.ledger.owners import Owner
from router.ledger.payments import WALLET
from router.ledger.posting import Entry, end_of
from router.ledger.rows import ROLL_UP_ROWS, ROW, Difference, HoldRequest, Rolled, Row, Settlement, Topup
from router.ledger.sqlite import Database, read_account, storage
from router.ledger.sqlite_posting import Poster
from router.ledger.sqlite_rollup import roll_up

PAGE_ROWS = 1_000
_log = logging.getLogger("router.ledger")


class SqliteBooks:
    """The `Books` of one database; nothing is ever awaited."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def rows(self) -> AsyncIterator[Row]:
        """Yield every row, oldest first, in short reads that hold up no writer and no checkpoint."""
        last = 0
        while True:
            with storage():
                page = self._database.connection.execute(_PAGE, (last, PAGE_ROWS)).fetchall()
            if not page:
                return
            last = page[-1][0]
            for values in page:
                yield _row(values[1:])

    async def rows_of(self, request_id: str) -> list[Row]:
        """Return the rows of one request, oldest first."""
        with storage():
            found = self._database.connection.execute(_REQUEST, (request_id,)).fetchall()
        return [_row(values) for values in found]

    async def request_rows(self, account_id: str, request_id: str) -> list[Row]:
        """Return the rows of an account's request, of all of its holds, oldest first."""
        run = self._database.connection.execute
        with storage():
            found = run(_HOLDS_OF, (account_id, request_id, request_id, request_id)).fetchall()
            if not found:
                newest = run(_NEWEST, (request_id, account_id)).fetchone()
                ours = None if newest is None else newest[0].partition(".")[0]  # its second hold is `ours.2`
                found = run(_HOLDS_OF, (account_id, ours, ours, ours)).fetchall() if ours else []
        return [_row(values) for values in found]

    async def topups(self, account_id: str, limit: int) -> list[Topup]:
        """Return the newest payments into an account, newest first."""
        with storage():
            found = self._database.connection.execute(_TOPUPS, (account_id, limit)).fetchall()
        return [Topup(*values) for values in found]

    async def check(self) -> list[Difference]:
        """Recompute every sum from the rows and return what differs, in one consistent read."""
        connection = self._database.connection
        found: list[Difference] = []
        with storage():
            connection.execute("BEGIN")
            try:
                for query in (_CHECK_SUMS, _CHECK_OPEN, _CHECK_CHAIN):
                    found += [Difference(*values) for values in connection.execute(query)]
            finally:
                connection.execute("ROLLBACK")
        return found

    async def faults(self) -> list[str]:
        """Say what is wrong beside the sums: in the file, in idempotency keys and payments."""
        run = self._database.connection.execute
        with storage():
            found = [f"the file: {text}" for (text,) in run("PRAGMA integrity_check(10)") if text != "ok"]
            broken = run("PRAGMA foreign_key_check").fetchall()
            found += [f"{row[0]}: row {row[1]} refers to a row that {row[2]} has not" for row in broken[:10]]
            found += [
                f"idempotency key {key!r} of {account}: {what}" for account, key, what in run(CHECK_KEYS)
            ]
            return found + [
                f"payment {key} of {account}: {what}" for key, account, what in run(CHECK_PAYMENTS)
            ]

    async def roll_up(self, before: str, window_rows: int = ROLL_UP_ROWS) -> Rolled:
        """Fold the requests that ended before a day."""
        return await roll_up(self._database, before, window_rows)

    async def topup(
        self, account_id: str, amount_nusd: int, *, source: str, external_id: str, now: str
    ) -> bool:
        """Add credit, on the disk; return False when this payment was booked before."""
        with self._database.transaction() as connection:
            return topup(connection, account_id, amount_nusd, source=source, external_id=external_id, now=now)


def account(database: Database, account_id: str, now: str) -> Account:
    """Return the sums of one account at `now`, zeros for one that was never used. Raises Unavailable."""
    with storage():
        found = read_account(database.connection, account_id) or Account(account_id)
    found.roll(now)
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

    `source` and `external_id` name the payment. Raises ValueError for an amount that
    cannot be added.
    """
    known = connection.execute(
        "SELECT 1 FROM ledger WHERE kind = 'topup' AND source = ? AND external_id = ?", (source, external_id)
    )
    if known.fetchone():
        return False
    connection.execute(_ENSURE_ACCOUNT, (account_id, now))
    read = connection.execute("SELECT balance_nusd FROM accounts WHERE id = ?", (account_id,))
    balance = credited(read.fetchone()[0], amount_nusd)
    connection.execute("UPDATE accounts SET balance_nusd = ? WHERE id = ?", (balance, account_id))
    connection.execute(_TOPUP, (account_id, amount_nusd, amount_nusd, balance, source, external_id, now))
    return True


def end_dead(
    database: Database, owner: Owner, delivered: Delivered, now: str, tell: TellEnd | None = None
) -> int:
    """End the holds whose process is dead, `tell` of each, and return how many. Raises Unavailable."""
    dead = owner.dead()  # before the holds are read: what is dead by now adds none
    with storage():
        holders = [row[0] for row in database.connection.execute("SELECT DISTINCT owner FROM open_holds")]
    gone = [holder for holder in holders if holder in dead or not owner.lives(holder)]
    count = settled = 0
    unread = set()
    for holder in gone:
        try:
            progress = delivered(holder)
        except OSError as fault:  # holds that stay are the safe mistake: whoever can read this ends them
            _log.error("cannot read what process %s had delivered, its holds stay open: %s", holder, fault)
            unread.add(holder)
            continue
        with database.transaction() as connection:
            holds = [(_hold(values), values[-1]) for values in connection.execute(_HOLDS, (holder,))]
            entries = [Entry(hold, end_of(hold, progress, credited=done)) for hold, done in holds]
            Poster(database, owner.id).write(entries, now)
        for entry in entries:
            if tell is not None and entry.end is not None:
                tell(entry.hold, entry.end)
        count += len(entries)
        settled += sum(isinstance(entry.end, Settlement) for entry in entries)
    if count:
        _log.warning("ended %d holds that dead processes had left open, %d with a charge", count, settled)
    owner.clear(set(dead) - unread)
    return count


def _hold(values: tuple[Any, ...]) -> HoldRequest:
    *columns, require_credit, body, cover_nusd, begun_at = values[:12]
    claim = None if body is None else Claim(body, None, cover_nusd, begun_at)
    return HoldRequest(*(*columns, bool(require_credit), claim, claim_of(values[12:-1])))


def _row(values: tuple[Any, ...]) -> Row:
    row = Row(*values)
    return replace(row, estimated=bool(row.estimated))


_PAGE = f"SELECT seq, {ROW} FROM ledger WHERE seq > ? ORDER BY seq LIMIT ?"  # noqa: S608 - names of ours alone
_REQUEST = f"SELECT {ROW} FROM ledger WHERE request_id = ? ORDER BY seq"  # noqa: S608 - as above
# "/" follows "." in ASCII.
_HOLDS_OF = f"""
SELECT {ROW} FROM ledger
WHERE account = ? AND kind IN ('hold', 'settle', 'release')
    AND (request_id = ? OR (request_id > ? || '.' AND request_id < ? || '/'))
ORDER BY seq
"""  # noqa: S608 - as above
_NEWEST = """
SELECT request_id FROM ledger WHERE client_request_id = ? AND account = ? AND kind = 'hold'
ORDER BY seq DESC LIMIT 1
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
_TOPUPS = """
SELECT created_at, amount_nusd, source, external_id FROM ledger
WHERE account = ? AND kind = 'topup' ORDER BY seq DESC LIMIT ?
"""
_HOLDS = f"""
SELECT hold.request_id, hold.client_request_id, hold.account, hold.amount_nusd, hold.model, hold.provider,
    hold.catalog, hold.idempotency_key, open_holds.require_credit, keys.body, keys.cover_nusd, keys.begun_at,
    {", ".join(f"payments.{name}" for name in CLAIM.split(", "))},
    EXISTS (SELECT 1 FROM ledger WHERE kind = 'topup' AND source = '{WALLET}' AND external_id = payments.key)
FROM open_holds JOIN ledger AS hold ON hold.request_id = open_holds.request_id AND hold.kind = 'hold'
LEFT JOIN idempotency_keys AS keys ON keys.account = hold.account AND keys.key = hold.idempotency_key
    AND keys.request_id = hold.request_id
LEFT JOIN payments ON payments.request_id = hold.request_id
WHERE open_holds.owner = ? ORDER BY hold.seq
"""  # noqa: S608 - as above
