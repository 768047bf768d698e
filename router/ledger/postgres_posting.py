"""Post a batch in one PostgreSQL transaction of four messages: begin, lock and read, write, commit.

The rows of the batch's accounts are locked in the order of their ids, so that no two replicas can wait for
each other; whoever holds the locks decides with the sums that it has read, and only then writes. So rules and
sums are those of `router.ledger.accounts`, for one process as for many.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import asyncpg

from router.ledger.accounts import Account
from router.ledger.claims import Known
from router.ledger.jobs import Job
from router.ledger.ledger import unavailable
from router.ledger.postgres import REFUSED, Gone, columns
from router.ledger.postgres_answers import read_keys, write_keys
from router.ledger.postgres_claims import StoredClaims, read_claims, write_claims
from router.ledger.posting import Entry, HoldEnded, Outcome, Posting
from router.ledger.rows import Settlement

_ENDS = ("settle", "release")


class Ended(HoldEnded, Gone):
    """Another process ended one of these holds."""


class LeaseLost(Gone):
    """This process was taken for dead: others end its open holds, and it needs a lease for new ones."""


class PostgresPoster(Posting):
    """Write batches for the lease `owner`, one after another."""

    def __init__(self, owner: str) -> None:
        super().__init__(owner)
        self._stored = StoredClaims((), {})

    @property
    def owner(self) -> str:
        """Return the lease that new holds belong to."""
        return self._owner

    @owner.setter
    def owner(self, lease: str) -> None:
        self._owner = lease

    async def post(self, connection: asyncpg.Connection, entries: Sequence[Entry], now: str) -> list[Outcome]:
        """Write every entry in one transaction, or none; `now` is their `created_at`.

        Jobs that are unsure are looked for first: the locks are those that their lost transaction held, so it
        has ended by then, one way or the other. From the commit on jobs are unsure, however this ends.
        Raises HoldEnded, LeaseLost, REFUSED, AWAY.
        """
        self._forget()
        self._now = now
        await self._lock(connection, sorted({entry.hold.account for entry in entries}), now)
        self._keyed = await read_keys(connection, entries)
        self._stored = await read_claims(connection, entries)
        written = await self._written(connection, entries)
        outcomes = [self._outcome(entry, written) for entry in entries]
        if self._rows:
            await self._write(connection)
            await write_keys(connection, self._key_claims, self._key_ends)
            if self._claims is not None:
                await write_claims(connection, self._claims)
        for entry in entries:
            if isinstance(entry, Job):
                entry.unsure = True  # set before: a time-out of the whole post comes as a cancellation here
        await connection.execute("COMMIT")
        return outcomes

    async def _lock(self, connection: asyncpg.Connection, ids: list[str], now: str) -> None:
        await connection.execute("BEGIN")
        rows = await connection.fetch(_LOCK, ids)
        if len(rows) < len(ids):
            # Made in a transaction of its own: locks that are taken in between would have no order.
            await connection.execute("ROLLBACK")
            await connection.execute(_MAKE_ACCOUNTS, ids, now)
            await connection.execute("BEGIN")
            rows = await connection.fetch(_LOCK, ids)
        self._accounts = {row[0]: Account(*row) for row in rows}

    async def _written(
        self, connection: asyncpg.Connection, entries: Sequence[Entry]
    ) -> dict[str, dict[str, int]]:
        """Return what is there of the unsure jobs: by request id, by kind, the amount in nano-USD."""
        ids = [entry.hold.request_id for entry in entries if isinstance(entry, Job) and entry.unsure]
        found: dict[str, dict[str, int]] = {}
        if ids:
            for request_id, kind, amount_nusd in await connection.fetch(_WRITTEN, ids):
                found.setdefault(request_id, {})[kind] = amount_nusd
        return found

    def _outcome(self, entry: Entry, written: dict[str, dict[str, int]]) -> Outcome:
        if isinstance(entry, Job) and entry.unsure:
            kinds = written.get(entry.hold.request_id, {})
            if entry.end is None and "hold" in kinds:
                return None
            if entry.end is not None and any(kind in kinds for kind in _ENDS):
                wanted = "settle" if isinstance(entry.end, Settlement) else "release"
                return (kinds[wanted] if wanted == "settle" else 0) if wanted in kinds else None
            if entry.left:
                return unavailable()  # it was not written, and nobody waits for it any more
        return self._apply(entry.hold, entry.end)

    async def _write(self, connection: asyncpg.Connection) -> None:
        sums = [
            (
                account.id,
                account.balance_nusd,
                account.held_nusd,
                account.charged_nusd,
                account.requests,
                account.prompt_tokens,
                account.completion_tokens,
                account.day,
                account.day_charged_nusd,
                account.month,
                account.month_charged_nusd,
            )
            for account in self._touched.values()
        ]
        begun, rows = columns(self._begun, 5), columns(self._rows, 16)
        begun[4], rows[_ESTIMATED] = ([flag == 1 for flag in flags] for flags in (begun[4], rows[_ESTIMATED]))
        ending = [request_id for (request_id,) in self._ended]
        arrays = (*(begun[i] for i in (0, 1, 2, 4)), *columns(sums, 11), *rows)
        try:
            ended, leased = await connection.fetchrow(_WRITE, self._owner, ending, *arrays)
        except REFUSED as fault:
            # A hold that has ended already breaks other rules too.
            await connection.execute("ROLLBACK")
            if await connection.fetchval(_OPEN, ending) != len(ending):
                raise Ended from fault
            raise
        if ended != len(ending):
            raise Ended
        if self._begun and not leased:
            raise LeaseLost

    def _known(self) -> Known:
        return self._stored

    def _read_key(self, account_id: str, key: str) -> str | None:
        raise KeyError(key)  # every key of the batch's new holds was read

    def _read(self, account_id: str) -> Account:
        raise KeyError(account_id)  # every account of the batch was locked and read


def _unnest(first: int, types: Sequence[str]) -> str:
    return ", ".join(f"${first + place}::{kind}[]" for place, kind in enumerate(types))


def _columns_of(names: str, types: str) -> dict[str, Any]:
    return dict(zip(names.split(), types.split(), strict=True))


_HELD = _columns_of("request_id account amount_nusd require_credit", "text text bigint boolean")
_SUMS = _columns_of(
    "id balance_nusd held_nusd charged_nusd requests prompt_tokens completion_tokens day day_charged_nusd"
    " month month_charged_nusd",
    "text bigint bigint bigint bigint bigint bigint text bigint text bigint",
)
_ROW = _columns_of(
    "request_id client_request_id account kind amount_nusd delta_nusd upstream_cost_nusd balance_after_nusd"
    " prompt_tokens completion_tokens model provider catalog estimated idempotency_key created_at",
    "text text text text bigint bigint bigint bigint bigint bigint text text text boolean text text",
)
_ESTIMATED = list(_ROW).index("estimated")
_LOCK = """
SELECT id, balance_nusd, held_nusd, charged_nusd, requests, prompt_tokens, completion_tokens,
    day, day_charged_nusd, month, month_charged_nusd, budget_day_nusd, budget_month_nusd
FROM accounts WHERE id = ANY($1::text[]) ORDER BY id FOR UPDATE
"""
_MAKE_ACCOUNTS = """
INSERT INTO accounts (id, created_at) SELECT id, $2 FROM unnest($1::text[]) AS new (id) ORDER BY id
ON CONFLICT DO NOTHING
"""
_OPEN = "SELECT count(*) FROM open_holds WHERE request_id = ANY($1::text[])"
_WRITTEN = "SELECT request_id, kind, amount_nusd FROM ledger WHERE request_id = ANY($1::text[])"
# The owner's row is locked against its deletion, by which others take this process for dead.
_WRITE = f"""
WITH leased AS (SELECT FROM owners WHERE id = $1 FOR KEY SHARE),
ended AS (DELETE FROM open_holds WHERE request_id = ANY($2::text[]) RETURNING request_id),
begun AS (
    INSERT INTO open_holds (owner, {", ".join(_HELD)})
    SELECT $1, {", ".join(_HELD)} FROM unnest({_unnest(3, list(_HELD.values()))}) AS new ({", ".join(_HELD)})
),
summed AS (
    UPDATE accounts SET {", ".join(f"{name} = new.{name}" for name in _SUMS if name != "id")}
    FROM unnest({_unnest(7, list(_SUMS.values()))}) AS new ({", ".join(_SUMS)}) WHERE accounts.id = new.id
),
written AS (
    INSERT INTO ledger ({", ".join(_ROW)})
    SELECT {", ".join(_ROW)} FROM unnest({_unnest(18, list(_ROW.values()))})
    WITH ORDINALITY AS new ({", ".join(_ROW)}, place) ORDER BY place
)
SELECT (SELECT count(*) FROM ended), EXISTS (SELECT FROM leased)
"""  # noqa: S608 - made of the names above alone
