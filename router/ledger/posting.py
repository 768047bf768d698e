"""Post a batch of holds, settles and releases in one transaction: the arithmetic of accounts.

Each account is read once and written once a batch, rows go in by `executemany`. The caller opens and commits
the transaction; the batch is all or nothing, but for refusals (no credit, unknown hold), which are outcomes.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence

from router.errors import OutOfCredit, RouterError
from router.ledger.accounts import Account, read_account
from router.ledger.rows import HoldRequest, Kind, Release, Settlement

Operation = HoldRequest | Settlement | Release
Outcome = RouterError | int | bool | None
"""hold: None or the refusal; settle: the charge, None when the hold had ended; release: done or not."""


class HoldEnded(Exception):
    """Another process ended one of these holds; post the batch one by one."""


class Posting:
    """One batch under way; `opened` are this process's open holds by request id."""

    def __init__(
        self, connection: sqlite3.Connection, owner: str, opened: Mapping[str, HoldRequest], now: str
    ) -> None:
        self._connection = connection
        self._owner = owner
        self._opened = opened
        self._now = now
        self._accounts: dict[str, Account] = {}
        self._rows: list[tuple[str | int | None, ...]] = []
        self._begun: list[tuple[str, str, int, str]] = []
        self._ended: dict[str, None] = {}

    def post(self, operations: Sequence[Operation]) -> list[Outcome]:
        """Apply every operation and write the result.

        Raises HoldEnded, sqlite3.IntegrityError for a request id that was used before, and sqlite3.Error.
        """
        outcomes = [self._apply(operation) for operation in operations]
        if self._rows:
            self._write()
        return outcomes

    def _apply(self, operation: Operation) -> Outcome:
        if isinstance(operation, HoldRequest):
            return self._hold(operation)
        if isinstance(operation, Settlement):
            return self._settle(operation)
        return self._release(operation.request_id)

    def _hold(self, hold: HoldRequest) -> OutOfCredit | None:
        account = self._account(hold.account)
        refusal = account.refusal(hold)
        if refusal is None:
            account.held_nusd += hold.amount_nusd
            self._begun.append((hold.request_id, hold.account, hold.amount_nusd, self._owner))
            self._row(hold, "hold", hold.amount_nusd, None)
        return refusal

    def _settle(self, end: Settlement) -> int | None:
        hold = self._end(end.request_id)
        if hold is None:
            return None
        charge = min(end.charge_nusd, hold.amount_nusd) if hold.require_credit else end.charge_nusd
        account = self._account(hold.account)
        account.held_nusd -= hold.amount_nusd
        account.charge(charge, end.prompt_tokens, end.completion_tokens)
        self._row(hold, "settle", charge, end)
        return charge

    def _release(self, request_id: str) -> bool:
        hold = self._end(request_id)
        if hold is None:
            return False
        self._account(hold.account).held_nusd -= hold.amount_nusd
        self._row(hold, "release", hold.amount_nusd, None)
        return True

    def _end(self, request_id: str) -> HoldRequest | None:
        hold = self._opened.get(request_id)
        if hold is None or request_id in self._ended:
            return None
        self._ended[request_id] = None
        return hold

    def _account(self, account_id: str) -> Account:
        account = self._accounts.get(account_id)
        if account is None:
            account = read_account(self._connection, account_id) or Account(account_id)
            account.roll(self._now)
            self._accounts[account_id] = account
        return account

    def _row(self, hold: HoldRequest, kind: Kind, amount: int, end: Settlement | None) -> None:
        self._rows.append(
            (
                hold.request_id,
                hold.client_request_id,
                hold.account,
                kind,
                amount,
                -amount if kind == "settle" else 0,
                end.upstream_cost_nusd if end else None,
                self._accounts[hold.account].balance_nusd,
                end.prompt_tokens if end else None,
                end.completion_tokens if end else None,
                end.model if end else hold.model,
                end.provider if end else hold.provider,
                hold.catalog,
                int(end.estimated) if end else 0,
                hold.idempotency_key,
                self._now,
            )
        )

    def _write(self) -> None:
        many = self._connection.executemany
        many(_WRITE_ACCOUNT, [_columns(account, self._now) for account in self._accounts.values()])
        if self._begun:
            many(_BEGIN_HOLD, self._begun)
        if self._ended:
            gone = many("DELETE FROM open_holds WHERE request_id = ?", [(ended,) for ended in self._ended])
            if gone.rowcount != len(self._ended):
                raise HoldEnded
        many(_WRITE_ROW, self._rows)


def _columns(account: Account, now: str) -> tuple[str | int, ...]:
    return (
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
        now,
    )


_BEGIN_HOLD = "INSERT INTO open_holds (request_id, account, amount_nusd, owner) VALUES (?, ?, ?, ?)"
_WRITE_ACCOUNT = """
INSERT INTO accounts (id, balance_nusd, held_nusd, charged_nusd, requests, prompt_tokens, completion_tokens,
    day, day_charged_nusd, month, month_charged_nusd, created_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET balance_nusd = excluded.balance_nusd, held_nusd = excluded.held_nusd,
    charged_nusd = excluded.charged_nusd, requests = excluded.requests,
    prompt_tokens = excluded.prompt_tokens, completion_tokens = excluded.completion_tokens,
    day = excluded.day, day_charged_nusd = excluded.day_charged_nusd,
    month = excluded.month, month_charged_nusd = excluded.month_charged_nusd
"""
_WRITE_ROW = """
INSERT INTO ledger (request_id, client_request_id, account, kind, amount_nusd, delta_nusd, upstream_cost_nusd,
    balance_after_nusd, prompt_tokens, completion_tokens, model, provider, catalog, estimated,
    idempotency_key, created_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
