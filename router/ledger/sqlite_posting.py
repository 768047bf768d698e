"""Post a batch in one SQLite transaction.

Each account is written once a batch, and read only when someone else may have written since; rows go in by
`executemany`.
"""

from __future__ import annotations

from collections.abc import Sequence

from router.ledger.accounts import Account
from router.ledger.claims import Known
from router.ledger.posting import Entry, HoldEnded, Outcome, Posting
from router.ledger.sqlite import Database, read_account
from router.ledger.sqlite_answers import read_key, write_keys
from router.ledger.sqlite_claims import StoredClaims, write_claims

ACCOUNTS = 1_024
"""How many accounts are remembered; with more of them the memory starts anew."""


class Poster(Posting):
    """Write the batches of one process; `owner` names it in `open_holds`.

    The sums of accounts are remembered from batch to batch. They are read again when another connection has
    committed (`PRAGMA data_version`, sqlite.org/pragma.html#pragma_data_version), when this one has by
    `Database.transaction`, and when a batch failed. All are asked inside the transaction, under its lock.
    """

    def __init__(self, database: Database, owner: str) -> None:
        super().__init__(owner)
        self._database = database
        self._cursor = database.connection.cursor()
        self._seen = (0, 0)
        self._remembered: dict[str, Account] = {}

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

    def write(self, entries: Sequence[Entry], now: str) -> None:
        """Write every entry inside the caller's transaction, in which nobody else can have ended one.

        Raises sqlite3.Error.
        """
        self._begin(now)
        for entry in entries:
            self._apply(entry.hold, entry.end)
        if self._rows:
            self._write()

    def _begin(self, now: str) -> None:
        """Take the remembered sums, if they still hold; a batch that fails does not give them back."""
        self._now = now
        version = self._cursor.execute("PRAGMA data_version").fetchone()[0]
        seen = (version, self._database.transactions)
        if seen == self._seen and len(self._remembered) <= ACCOUNTS:
            self._accounts = self._remembered
        self._seen = seen
        self._remembered = {}

    def _read(self, account_id: str) -> Account:
        return read_account(self._database.connection, account_id) or Account(account_id)

    def _read_key(self, account_id: str, key: str) -> str | None:
        return read_key(self._cursor, account_id, key)

    def _known(self) -> Known:
        return StoredClaims(self._cursor)

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
        if self._key_claims or self._key_ends:
            write_keys(self._cursor, self._key_claims, self._key_ends)
        if self._claims is not None:
            write_claims(self._cursor, self._claims)

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


_BEGIN_HOLD = """
INSERT INTO open_holds (request_id, account, amount_nusd, owner, require_credit) VALUES (?, ?, ?, ?, ?)
"""
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
