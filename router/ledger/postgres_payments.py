"""The payments of a PostgreSQL database, over a connection of their own that is made when it is needed."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import asyncpg

from router.ledger.claims import STORED, check_taken, check_transaction, owed_of, payment_of
from router.ledger.money import credited
from router.ledger.payments import Payment, Refusals
from router.ledger.postgres import RARE_S, READ_S, Line, Link
from router.ledger.postgres_books import topup
from router.ledger.postgres_claims import lock_names

PAGE_ROWS = 500


class PostgresPayments:
    """The `Payments` of one database; `owner` names this process's lease, None for a command."""

    def __init__(self, link: Link, reader: Line, line: Line, owner: Callable[[], str] | None = None) -> None:
        self._link = link
        self._reader = reader
        self._line = line
        self._owner = owner

    async def find(self, key: str) -> Payment | None:
        """Return the payment with a claim's key, None where there is none."""
        with self._link.storage():
            async with self._reader.use(READ_S) as connection:
                return await _find(connection, key)

    async def of_request(self, request_id: str) -> Payment | None:
        """Return the payment of one of our request ids, of whichever of its holds."""
        with self._link.storage():
            async with self._reader.use(READ_S) as connection:
                row = await connection.fetchrow(_OF_REQUEST, request_id)
        return None if row is None else payment_of(tuple(row))

    async def settling(self, key: str, taken: int, taken_nusd: int, *, now: str) -> bool:
        """Note that so much is about to be asked of the payer; False when the row is not `claimed`."""
        with self._link.storage():
            async with self._line.use(RARE_S) as connection:
                payment = await _find(connection, key)
                if payment is None or payment.state != "claimed":
                    return False
                check_taken(payment.claim, taken, taken_nusd)
                done = await connection.execute(_SETTLING, str(taken), taken_nusd, now, key)
                return bool(done == "UPDATE 1")

    async def settled(self, key: str, transaction: str, *, now: str) -> bool:
        """Note that the money came, and credit the payer's account with `taken_nusd`: one transaction."""
        async with self._locked(key) as (connection, payment):
            if payment is None or payment.taken is None or payment.state == "settled":
                return False
            check_transaction(payment, transaction)
            if transaction:
                await lock_names(connection, [transaction.lower()])
                if await connection.fetchval(_PAID_FOR, transaction.lower()):
                    await _fail(connection, payment, "transaction_used", now)
                    return False
            if payment.taken_nusd:
                await topup(
                    connection,
                    payment.account,
                    payment.taken_nusd,
                    source=payment.claim.protocol,
                    external_id=key,
                    now=now,
                )
            await connection.execute(_SETTLED, transaction, now, key)
            return True

    async def failed(self, key: str, reason: str, *, now: str) -> None:
        """Note a definite no: what was delivered for it is owed; where nothing was, the row goes away."""
        async with self._locked(key) as (connection, payment):
            if payment is not None and payment.state != "settled":
                await _fail(connection, payment, reason, now)

    async def note_refusal(self, account: str, *, now: str, before: str) -> None:
        """Note that a payer's settlement was refused when its answer had been made."""
        with self._link.storage():
            async with self._line.use(RARE_S) as connection:
                await connection.execute(_FORGET_REFUSALS, before)
                await connection.execute(_REFUSED, account, now)

    async def refusals(self, account: str) -> Refusals | None:
        """Return what is noted of a payer's refused settlements."""
        with self._link.storage():
            async with self._reader.use(READ_S) as connection:
                row = await connection.fetchrow(_REFUSALS, account)
        return None if row is None else Refusals(*row)

    async def unknown(self, key: str, reason: str, *, now: str) -> None:
        """Note that it could not be learnt before the signature became void."""
        with self._link.storage():
            async with self._line.use(RARE_S) as connection:
                await connection.execute(_UNKNOWN, reason, now, key)

    async def orphans(self) -> Sequence[Payment]:
        """Return what is `claimed` or `settling`, not running, and whose process is dead; oldest first.

        A process is dead when its lease has ended, which `end_open_holds` sees to.
        """
        if self._owner is None:
            return ()
        with self._link.storage():
            async with self._reader.use(READ_S) as connection:
                return [payment_of(tuple(row)) for row in await connection.fetch(_ORPHANS)]

    async def adopt(self, key: str, before: str) -> bool:
        """Make this process the owner in place of `before`; False when another one was faster."""
        if self._owner is None:
            return False
        with self._link.storage():
            async with self._line.use(RARE_S) as connection:
                return bool(await connection.execute(_ADOPT, self._owner(), key, before) == "UPDATE 1")

    async def all(self, *, open_only: bool = False) -> AsyncIterator[Payment]:
        """Yield payments, oldest first; `open_only` leaves out what was delivered and paid, or forgiven."""
        last = 0
        while True:
            with self._link.storage():
                async with self._line.use(RARE_S) as connection:
                    page = await connection.fetch(_PAGE, last, open_only, PAGE_ROWS)
            if not page:
                return
            last = page[-1][0]
            for row in page:
                yield payment_of(tuple(row)[1:])

    async def forgive(self, key: str, *, now: str) -> int:
        """Write off what a `failed` or `unknown` payment left owing; return the nano-USD."""
        async with self._locked(key) as (connection, payment):
            owed_nusd = owed_of(payment, key)
            if payment is not None and owed_nusd:
                balance = credited(await connection.fetchval(_BALANCE, payment.account), owed_nusd)
                await connection.execute(_CREDIT, balance, payment.account)
                adjust = payment.request_id, payment.account, owed_nusd, balance
                await connection.execute(_ADJUST, *adjust, payment.claim.protocol, key, now)
            await connection.execute(_FORGIVEN, owed_nusd, now, key)
            return owed_nusd

    async def secret(self, name: str) -> bytes:
        """Return 32 random bytes that all processes of this database share under a name, made once."""
        with self._link.storage():
            async with self._line.use(RARE_S) as connection:
                value = await connection.fetchval(_SECRET, name)
                if value is None:
                    await connection.execute(_MAKE_SECRET, name, secrets.token_bytes(32))
                    value = await connection.fetchval(_SECRET, name)
                return bytes(value)

    @asynccontextmanager
    async def _locked(self, key: str) -> AsyncIterator[tuple[asyncpg.Connection, Payment | None]]:
        """Give a payment whose account is locked, in a transaction that commits when the block is left."""
        with self._link.storage():
            async with self._line.use(RARE_S) as connection:
                await connection.execute("BEGIN")
                await connection.execute(_LOCK, key)
                yield connection, await _find(connection, key)
                await connection.execute("COMMIT")


async def _find(connection: asyncpg.Connection, key: str) -> Payment | None:
    row = await connection.fetchrow(_FIND, key)
    return None if row is None else payment_of(tuple(row))


async def _fail(connection: asyncpg.Connection, payment: Payment, reason: str, now: str) -> None:
    if payment.served_nusd is None and not payment.running:
        await connection.execute("DELETE FROM payments WHERE key = $1", payment.claim.key)
    else:  # while it runs, its hold's end says whether anything was delivered
        await connection.execute(_FAILED, reason, now, payment.claim.key)


_SELECT = f"SELECT {STORED} FROM payments"  # noqa: S608 - made of names alone, as those below
_FIND = f"{_SELECT} WHERE key = $1"
_LOCK = """
SELECT FROM accounts JOIN payments ON payments.account = accounts.id WHERE payments.key = $1
FOR UPDATE OF accounts
"""
# A request's second hold is `id.2`; "/" follows "." in ASCII.
_OF_REQUEST = f"""
{_SELECT} WHERE request_id = $1 OR (request_id > $1 || '.' AND request_id < $1 || '/')
ORDER BY seq DESC LIMIT 1
"""
_ORPHANS = f"""
{_SELECT} WHERE state <> 'settled' AND state IN ('claimed', 'settling')
    AND NOT EXISTS (SELECT FROM open_holds WHERE open_holds.request_id = payments.request_id)
    AND NOT EXISTS (SELECT FROM owners WHERE owners.id = payments.owner)
ORDER BY seq
"""  # noqa: S608 - as above
_PAGE = f"""
SELECT seq, {STORED} FROM payments
WHERE seq > $1
    AND NOT ($2::boolean AND (forgiven_nusd IS NOT NULL OR (state = 'settled' AND served_nusd IS NOT NULL)))
ORDER BY seq LIMIT $3
"""  # noqa: S608 - as above
_SETTLING = """
UPDATE payments SET state = 'settling', taken = $1, taken_nusd = $2, updated_at = $3
WHERE key = $4 AND state = 'claimed'
"""
_PAID_FOR = "SELECT true FROM payments WHERE lower(transaction_id) = $1 AND transaction_id <> ''"
_SETTLED = """
UPDATE payments SET state = 'settled', transaction_id = $1, reason = NULL, updated_at = $2 WHERE key = $3
"""
_FAILED = "UPDATE payments SET state = 'failed', reason = $1, updated_at = $2 WHERE key = $3"
_UNKNOWN = """
UPDATE payments SET state = 'unknown', reason = $1, updated_at = $2
WHERE key = $3 AND state IN ('claimed', 'settling')
"""
_ADOPT = """
UPDATE payments SET owner = $1
WHERE key = $2 AND owner = $3 AND state IN ('claimed', 'settling')
    AND EXISTS (SELECT FROM owners WHERE owners.id = $1)
"""
_FORGIVEN = "UPDATE payments SET forgiven_nusd = $1, updated_at = $2 WHERE key = $3"
_BALANCE = "SELECT balance_nusd FROM accounts WHERE id = $1"
_CREDIT = "UPDATE accounts SET balance_nusd = $1 WHERE id = $2"
_ADJUST = """
INSERT INTO ledger (request_id, account, kind, amount_nusd, delta_nusd, balance_after_nusd, source,
    external_id, created_at)
VALUES ($1, $2, 'adjust', $3, $3, $4, $5, $6, $7)
"""
_FORGET_REFUSALS = "DELETE FROM payer_refusals WHERE last_at < $1"
_REFUSED = """
INSERT INTO payer_refusals (account, times, last_at) VALUES ($1, 1, $2)
ON CONFLICT (account) DO UPDATE SET times = payer_refusals.times + 1, last_at = excluded.last_at
"""
_REFUSALS = "SELECT times, last_at FROM payer_refusals WHERE account = $1"
_SECRET = "SELECT value FROM secrets WHERE name = $1"  # noqa: S105 - SQL
_MAKE_SECRET = "INSERT INTO secrets (name, value) VALUES ($1, $2) ON CONFLICT DO NOTHING"  # noqa: S105 - as above
