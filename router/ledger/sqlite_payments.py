"""The payments of a SQLite database.

A write is one short transaction on the loop's own thread, as a batch of the ledger is: the lock of another
process is tried again from a timer, and nothing waits for the disk but where holds do.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeVar

from router.ledger.claims import STORED, check_taken, check_transaction, owed_of, payment_of
from router.ledger.ledger import unavailable
from router.ledger.money import credited
from router.ledger.owners import Owner
from router.ledger.payments import Payment, Refusals
from router.ledger.sqlite import LOCK_RETRY_S, RARE_WAIT_S, Database, is_busy, storage
from router.ledger.sqlite_books import topup

PAGE_ROWS = 500
_log = logging.getLogger("router.ledger")
T = TypeVar("T")


class SqlitePayments:
    """The `Payments` of one database; `owner` is this process, None for a command, which adopts nothing.

    `confirm` sees to it that what was written comes to the disk, and raises OSError.
    """

    def __init__(
        self,
        database: Database,
        owner: Owner | None,
        confirm: Callable[[], Awaitable[None]],
        wait_s: float = RARE_WAIT_S,
    ) -> None:
        self._database = database
        self._owner = owner
        self._confirm = confirm
        self._wait_s = wait_s

    async def find(self, key: str) -> Payment | None:
        """Return the payment with a claim's key, None where there is none."""
        with storage():
            return _find(self._database.connection, key)

    async def of_request(self, request_id: str) -> Payment | None:
        """Return the payment of one of our request ids, of whichever of its holds."""
        with storage():
            row = self._database.connection.execute(_OF_REQUEST, (request_id,)).fetchone()
        return None if row is None else payment_of(row)

    async def settling(self, key: str, taken: int, taken_nusd: int, *, now: str) -> bool:
        """Note that so much is about to be asked of the payer; False when the row is not `claimed`."""

        def write(connection: sqlite3.Connection) -> bool:
            payment = _find(connection, key)
            if payment is None or payment.state != "claimed":
                return False
            check_taken(payment.claim, taken, taken_nusd)
            connection.execute(_SETTLING, (str(taken), taken_nusd, now, key))
            return True

        return await self._write(write)

    async def settled(self, key: str, transaction: str, *, now: str) -> bool:
        """Note that the money came, and credit the payer's account with `taken_nusd`: one transaction."""
        return await self._write(lambda connection: _settle(connection, key, transaction, now))

    async def failed(self, key: str, reason: str, *, now: str) -> None:
        """Note a definite no: what was delivered for it is owed; where nothing was, the row goes away."""
        await self._write(lambda connection: _fail(connection, key, reason, now))

    async def note_refusal(self, account: str, *, now: str, before: str) -> None:
        """Note that a payer's settlement was refused when its answer had been made."""

        def write(connection: sqlite3.Connection) -> None:
            connection.execute(_FORGET_REFUSALS, (before,))
            connection.execute(_REFUSED, (account, now))

        await self._write(write)

    async def refusals(self, account: str) -> Refusals | None:
        """Return what is noted of a payer's refused settlements."""
        with storage():
            row = self._database.connection.execute(_REFUSALS, (account,)).fetchone()
        return None if row is None else Refusals(*row)

    async def unknown(self, key: str, reason: str, *, now: str) -> None:
        """Note that it could not be learnt before the signature became void."""
        await self._write(lambda connection: connection.execute(_UNKNOWN, (reason, now, key)).rowcount)

    async def orphans(self) -> Sequence[Payment]:
        """Return what is `claimed` or `settling`, not running, and whose process is dead; oldest first."""
        if self._owner is None:
            return ()
        with storage():
            found = [payment_of(row) for row in self._database.connection.execute(_WAITING)]
        dead = {name for name in {payment.owner for payment in found} if not self._owner.lives(name)}
        return [payment for payment in found if payment.owner in dead]

    async def adopt(self, key: str, before: str) -> bool:
        """Make this process the owner in place of `before`; False when another one was faster."""
        if self._owner is None:
            return False
        mine = self._owner.id
        return await self._write(
            lambda connection: connection.execute(_ADOPT, (mine, key, before)).rowcount > 0
        )

    async def all(self, *, open_only: bool = False) -> AsyncIterator[Payment]:
        """Yield payments, oldest first; `open_only` leaves out what was delivered and paid, or forgiven."""
        last = 0
        while True:
            with storage():
                page = self._database.connection.execute(_PAGE, (last, open_only, PAGE_ROWS)).fetchall()
            if not page:
                return
            last = page[-1][0]
            for row in page:
                yield payment_of(row[1:])

    async def forgive(self, key: str, *, now: str) -> int:
        """Write off what a `failed` or `unknown` payment left owing; return the nano-USD."""
        return await self._write(lambda connection: _forgive(connection, key, now))

    async def secret(self, name: str) -> bytes:
        """Return 32 random bytes that all processes of this database share under a name, made once."""

        def write(connection: sqlite3.Connection) -> bytes:
            connection.execute(_MAKE_SECRET, (name, secrets.token_bytes(32)))
            return bytes(connection.execute(_SECRET, (name,)).fetchone()[0])

        with storage():
            row = self._database.connection.execute(_SECRET, (name,)).fetchone()
        return bytes(row[0]) if row is not None else await self._write(write)

    async def _write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do some work in one transaction; whatever it raises undoes it."""
        connection = self._database.connection
        with storage():
            await self._begin()
            try:
                done = work(connection)
                connection.execute("COMMIT")
            finally:
                if connection.in_transaction:
                    connection.rollback()
            self._database.transactions += 1  # who remembers sums reads them again
        try:
            await self._confirm()
        except OSError as fault:
            _log.error("the disk did not confirm what was written: %s", fault)
            raise unavailable() from fault
        return done

    async def _begin(self) -> None:
        """Take the lock; nothing is awaited between this and the commit. Raises sqlite3.Error."""
        loop = asyncio.get_running_loop()
        end_s = loop.time() + self._wait_s
        while True:
            try:
                self._database.connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as fault:
                if not is_busy(fault) or loop.time() >= end_s:
                    raise
            else:
                return
            await asyncio.sleep(LOCK_RETRY_S)


def _find(connection: sqlite3.Connection, key: str) -> Payment | None:
    row = connection.execute(_FIND, (key,)).fetchone()
    return None if row is None else payment_of(row)


def _settle(connection: sqlite3.Connection, key: str, transaction: str, now: str) -> bool:
    payment = _find(connection, key)
    if payment is None or payment.taken is None or payment.state == "settled":
        return False
    check_transaction(payment, transaction)
    if transaction and connection.execute(_PAID_FOR, (transaction.lower(),)).fetchone() is not None:
        _fail(connection, key, "transaction_used", now)
        return False
    if payment.taken_nusd:
        topup(
            connection,
            payment.account,
            payment.taken_nusd,
            source=payment.claim.protocol,
            external_id=key,
            now=now,
        )
    connection.execute(_SETTLED, (transaction, now, key))
    return True


def _fail(connection: sqlite3.Connection, key: str, reason: str, now: str) -> None:
    payment = _find(connection, key)
    if payment is None or payment.state == "settled":
        return
    if payment.served_nusd is None and not payment.running:
        connection.execute("DELETE FROM payments WHERE key = ?", (key,))
    else:  # while it runs, its hold's end says whether anything was delivered
        connection.execute(_FAILED, (reason, now, key))


def _forgive(connection: sqlite3.Connection, key: str, now: str) -> int:
    payment = _find(connection, key)
    owed_nusd = owed_of(payment, key)
    if payment is not None and owed_nusd:
        read = connection.execute("SELECT balance_nusd FROM accounts WHERE id = ?", (payment.account,))
        balance = credited(read.fetchone()[0], owed_nusd)
        connection.execute("UPDATE accounts SET balance_nusd = ? WHERE id = ?", (balance, payment.account))
        adjust = payment.request_id, payment.account, owed_nusd, owed_nusd, balance
        connection.execute(_ADJUST, (*adjust, payment.claim.protocol, key, now))
    connection.execute(_FORGIVEN, (owed_nusd, now, key))
    return owed_nusd


_SELECT = f"SELECT {STORED} FROM payments"  # noqa: S608 - made of names alone, as those below
_FIND = f"{_SELECT} WHERE key = ?"
# A request's second hold is `id.2`; "/" follows "." in ASCII.
_OF_REQUEST = f"""
{_SELECT} WHERE request_id = ?1 OR (request_id > ?1 || '.' AND request_id < ?1 || '/')
ORDER BY seq DESC LIMIT 1
"""
_WAITING = f"""
{_SELECT} INDEXED BY payments_open
WHERE state <> 'settled' AND (state = 'claimed' OR state = 'settling') AND NOT running ORDER BY seq
"""
_PAGE = f"""
SELECT seq, {STORED} FROM payments
WHERE seq > ?1 AND NOT (?2 AND (forgiven_nusd IS NOT NULL OR (state = 'settled' AND served_nusd IS NOT NULL)))
ORDER BY seq LIMIT ?3
"""  # noqa: S608 - as above
_SETTLING = """
UPDATE payments SET state = 'settling', taken = ?, taken_nusd = ?, updated_at = ? WHERE key = ?
"""
_PAID_FOR = "SELECT 1 FROM payments WHERE lower(transaction_id) = ? AND transaction_id <> ''"
_SETTLED = """
UPDATE payments SET state = 'settled', transaction_id = ?, reason = NULL, updated_at = ? WHERE key = ?
"""
_FAILED = "UPDATE payments SET state = 'failed', reason = ?, updated_at = ? WHERE key = ?"
_UNKNOWN = """
UPDATE payments SET state = 'unknown', reason = ?, updated_at = ?
WHERE key = ? AND (state = 'claimed' OR state = 'settling')
"""
_ADOPT = """
UPDATE payments SET owner = ? WHERE key = ? AND owner = ? AND (state = 'claimed' OR state = 'settling')
"""
_FORGIVEN = "UPDATE payments SET forgiven_nusd = ?, updated_at = ? WHERE key = ?"
_ADJUST = """
INSERT INTO ledger (request_id, account, kind, amount_nusd, delta_nusd, balance_after_nusd, source,
    external_id, created_at)
VALUES (?, ?, 'adjust', ?, ?, ?, ?, ?, ?)
"""
_FORGET_REFUSALS = "DELETE FROM payer_refusals WHERE last_at < ?"
_REFUSED = """
INSERT INTO payer_refusals (account, times, last_at) VALUES (?, 1, ?)
ON CONFLICT (account) DO UPDATE SET times = payer_refusals.times + 1, last_at = excluded.last_at
"""
_REFUSALS = "SELECT times, last_at FROM payer_refusals WHERE account = ?"
_SECRET = "SELECT value FROM secrets WHERE name = ?"  # noqa: S105 - SQL
_MAKE_SECRET = "INSERT INTO secrets (name, value) VALUES (?, ?) ON CONFLICT DO NOTHING"  # noqa: S105 - as above
