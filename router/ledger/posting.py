"""Post a batch of holds, settles and releases in one transaction: the arithmetic of accounts.

Each account is written once a batch, and read only when someone else may have written since; rows go in by
`executemany`. The batch is all or nothing, but for refused holds, which are outcomes.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from router.errors import OutOfCredit, RouterError
from router.ledger.accounts import Account, read_account
from router.ledger.rows import HoldRequest, Release, Settlement
from router.ledger.sqlite import Database

ACCOUNTS = 1_024
"""How many accounts are remembered; with more of them the memory starts anew."""

End = Settlement | Release
Outcome = RouterError | int | None
"""hold: None or the refusal; settle: the charge in nano-USD; release: 0."""


class HoldEnded(Exception):
    """Another process ended one of these holds; post the batch one by one."""


class Entry(Struct, eq=False):
    """A hold to begin (`end` is None), or one that is open and how it ends; each ends once."""

    hold: HoldRequest
    end: End | None


def charge_of(hold: HoldRequest, end: End) -> int:
    """Return what ending a hold charges, in nano-USD: where credit is required, no more than was held."""
    if isinstance(end, Release):
        return 0
    return min(end.charge_nusd, hold.amount_nusd) if hold.require_credit else end.charge_nusd


class Poster:
    """Write the batches of one process; `owner` names it in `open_holds`.

    The sums of accounts are remembered from batch to batch. They are read again when another connection has
    committed (`PRAGMA data_version`, sqlite.org/pragma.html#pragma_data_version), when this one has by
    `Database.transaction`, and when a batch failed. All are asked inside the transaction, under its lock.
    """

    def __init__(self, database: Database, owner: str) -> None:
        self._database = database
        self._cursor = database.connection.cursor()
        self._owner = owner
        self._seen = (0, 0)
        self._remembered: dict[str, Account] = {}
        self._forget()

    def post(self, entries: Sequence[Entry], now: str) -> list[Outcome]:
        """Write every entry in one transaction, or none; `now` is their `created_at`.

        Raises HoldEnded, sqlite3.IntegrityError for a request id that was used before, and sqlite3.Error.
        """
        run = self._cursor.execute
        run("BEGIN IMMEDIATE")
        try:
            self._begin(now)
            outcomes = [self._apply(entry.hold, entry.end) for entry in entries]
            if self._rows:
                self._write()
            run("COMMIT")
            if self._rows:  # else a new day may have begun in memory alone
                self._remembered = self._accounts
        finally:
            self._forget()
            if self._database.connection.in_transaction:
                run("ROLLBACK")
        return outcomes

    def _forget(self) -> None:
        self._accounts: dict[str, Account] = {}
        self._touched: dict[str, Account] = {}
        self._begun: list[tuple[str, str, int, str]] = []
        self._ended: list[tuple[str]] = []
        self._rows: list[tuple[str | int | None, ...]] = []

    def _begin(self, now: str) -> None:
        """Take the remembered sums, if they still hold; a batch that fails does not give them back."""
        self._now = now
        version = self._cursor.execute("PRAGMA data_version").fetchone()[0]
        seen = (version, self._database.transactions)
        if seen == self._seen and len(self._remembered) <= ACCOUNTS:
            self._accounts = self._remembered
        self._seen = seen
        self._remembered = {}

    def _apply(self, hold: HoldRequest, end: End | None) -> Outcome:
        account = self._touched.get(hold.account) or self._touch(hold.account)
        if end is None:
            return self._hold(account, hold)
        account.held_nusd -= hold.amount_nusd
        self._ended.append((hold.request_id,))
        if isinstance(end, Settlement):
            return self._settle(account, hold, end)
        self._release(account, hold)
        return 0

    def _touch(self, account_id: str) -> Account:
        account = self._accounts.get(account_id)
        if account is None:
            account = read_account(self._database.connection, account_id) or Account(account_id)
            self._accounts[account_id] = account
        account.roll(self._now)
        self._touched[account_id] = account
        return account

    def _hold(self, account: Account, hold: HoldRequest) -> OutOfCredit | None:
        refusal = account.refusal(hold)
        if refusal is not None:
            return refusal
        amount = hold.amount_nusd
        account.held_nusd += amount
        self._begun.append((hold.request_id, account.id, amount, self._owner))
        self._rows.append(
            (
                hold.request_id,
                hold.client_request_id,
                account.id,
                "hold",
                amount,
                0,
                None,
                account.balance_nusd,
                None,
                None,
                hold.model,
                hold.provider,
                hold.catalog,
                0,
                hold.idempotency_key,
                self._now,
            )
        )
        return None

    def _settle(self, account: Account, hold: HoldRequest, end: Settlement) -> int:
        charge = charge_of(hold, end)
        account.charge(charge, end.prompt_tokens, end.completion_tokens)
        self._rows.append(
            (
                hold.request_id,
                hold.client_request_id,
                account.id,
                "settle",
                charge,
                -charge,
                end.upstream_cost_nusd,
                account.balance_nusd,
                end.prompt_tokens,
                end.completion_tokens,
                end.model,
                end.provider,
                hold.catalog,
                int(end.estimated),
                hold.idempotency_key,
                self._now,
            )
        )
        return charge

    def _release(self, account: Account, hold: HoldRequest) -> None:
        self._rows.append(
            (
                hold.request_id,
                hold.client_request_id,
                account.id,
                "release",
                hold.amount_nusd,
                0,
                None,
                account.balance_nusd,
                None,
                None,
                hold.model,
                hold.provider,
                hold.catalog,
                0,
                hold.idempotency_key,
                self._now,
            )
        )

    def _write(self) -> None:
        many = self._cursor.executemany
        # First, since a hold that another process has ended would spoil the account's sums too.
        if self._ended and many(_END_HOLD, self._ended).rowcount != len(self._ended):
            raise HoldEnded
        for account in self._touched.values():
            self._write_account(account)
        if self._begun:
            many(_BEGIN_HOLD, self._begun)
        many(_WRITE_ROW, self._rows)

    def _write_account(self, account: Account) -> None:
        run = self._cursor.execute
        columns = (
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
            account.id,
        )
        if run(_WRITE_ACCOUNT, columns).rowcount == 0:
            run("INSERT INTO accounts (id, created_at) VALUES (?, ?)", (account.id, self._now))
            run(_WRITE_ACCOUNT, columns)


_BEGIN_HOLD = "INSERT INTO open_holds (request_id, account, amount_nusd, owner) VALUES (?, ?, ?, ?)"
_END_HOLD = "DELETE FROM open_holds WHERE request_id = ?"
_WRITE_ACCOUNT = """
UPDATE accounts SET balance_nusd = ?, held_nusd = ?, charged_nusd = ?, requests = ?, prompt_tokens = ?,
    completion_tokens = ?, day = ?, day_charged_nusd = ?, month = ?, month_charged_nusd = ?
WHERE id = ?
"""
_WRITE_ROW = """
INSERT INTO ledger (request_id, client_request_id, account, kind, amount_nusd, delta_nusd, upstream_cost_nusd,
    balance_after_nusd, prompt_tokens, completion_tokens, model, provider, catalog, estimated,
    idempotency_key, created_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
