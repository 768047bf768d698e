"""What the service and the command line ask of storage: one interface, whichever engine keeps the books."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Protocol

from router.errors import Unavailable
from router.ledger.accounts import Account
from router.ledger.answers import Answers
from router.ledger.journal import Journal
from router.ledger.keystore import KeyStore
from router.ledger.payments import Payments
from router.ledger.rows import ROLL_UP_ROWS, Difference, End, HoldRequest, Progress, Rolled, Row, Topup
from router.ledger.spending import Spending

RETRY_AFTER_S = 2

Delivered = Callable[[str], Mapping[str, Progress]]
"""Return what an owner that is dead now had delivered, by request id. Raises OSError."""
TellEnd = Callable[[HoldRequest, End], None]
"""Take a dead process's hold and how it was ended, after that is durable."""


class Books(Protocol):
    """Read and top up the books. Each method raises Unavailable."""

    def rows(self) -> AsyncIterator[Row]:
        """Yield every row of the ledger, oldest first, while others write."""
        ...

    async def rows_of(self, request_id: str) -> list[Row]:
        """Return the rows of one request, oldest first."""
        ...

    async def request_rows(self, account_id: str, request_id: str) -> list[Row]:
        """Return the rows of an account's request, of all of its holds, oldest first.

        `request_id` is ours, or else the client's own: then it is the newest request that had it.
        """
        ...

    async def topups(self, account_id: str, limit: int) -> list[Topup]:
        """Return the newest payments into an account, newest first."""
        ...

    async def check(self) -> list[Difference]:
        """Recompute every sum from the rows and return what differs, in one consistent read.

        balance = everything that rows did to it; held = holds without an end, which must also be the open
        holds; charged = settles; and each row's `balance_after_nusd` follows from the one before.
        """
        ...

    async def faults(self) -> list[str]:
        """Say what is wrong beside the sums: in the database's structure, in keys and payments."""
        ...

    async def roll_up(self, before: str, window_rows: int = ROLL_UP_ROWS) -> Rolled:
        """Fold the requests that ended before a day (`2026-11-22`) into one settle a day, account and model.

        Payments and what is open stay; sums and balances are compared before and after, in the transaction
        that folds `window_rows`. Raises InternalError when they differ.
        """
        ...

    async def topup(
        self, account_id: str, amount_nusd: int, *, source: str, external_id: str, now: str
    ) -> bool:
        """Add credit, durably; return False when this payment was booked before.

        `source` and `external_id` name the payment. Raises ValueError unless the amount is positive.
        """
        ...


class Storage(Protocol):
    """One open database: its keys and its books."""

    @property
    def keys(self) -> KeyStore:
        """Its API keys."""
        ...

    @property
    def books(self) -> Books:
        """Its rows and sums."""
        ...

    @property
    def answers(self) -> Answers:
        """Its answers that are kept for retries."""
        ...

    @property
    def payments(self) -> Payments:
        """Its payments by wallets; only a service finds and adopts those of dead processes."""
        ...

    @property
    def spending(self) -> Spending:
        """What its wallet has signed for upstreams."""
        ...

    async def close(self) -> None:
        """Give the database up."""
        ...


class Ledger(Storage, Protocol):
    """Write holds and their ends for one process, from one event loop.

    Every call of `hold` that returned is followed by exactly one end: `settle`, `release`, or `end` for those
    who do not wait. A second one changes nothing. An end that storage refuses is kept and tried again until
    it is written: money that is owed is not forgotten because a database was away for a minute.
    """

    @property
    def owner(self) -> str:
        """The id under which this process holds, as `end_open_holds` names the dead."""
        ...

    @property
    def held_nusd(self) -> int:
        """What this process holds for requests in progress, in nano-USD."""
        ...

    @property
    def journal(self) -> Journal:
        """Where an answer is noted before its first byte goes out; the ledger takes it out at the end."""
        ...

    async def start(self) -> None:
        """Begin, on the loop that will serve. Raises Unavailable with the operator's fix."""
        ...

    async def hold(self, request: HoldRequest) -> None:
        """Set money aside; it is recorded when this returns, whatever happens to this process then.

        Raises OutOfCredit, KeyInUse when another request has its idempotency key, PaymentRefused when its
        payment was used before or its payer owes, LimitReached when the payer has too much open, Unavailable,
        and InternalError for a request id that was used before.
        """
        ...

    async def settle(self, end: End) -> int | None:
        """End a hold; return the nano-USD charged, 0 for a release, None when the hold had already ended.

        The charge is cut to the hold, with a warning in the log: the customer agreed to no more, and no
        balance and no budget is overrun. `upstream_cost_nusd` is kept as it is.
        Raises Unavailable when it cannot be written yet; it is then tried again every second.
        """
        ...

    async def release(self, request_id: str) -> bool:
        """End a hold without a charge; return False when it had already ended.

        Raises Unavailable like `settle`.
        """
        ...

    def end(self, end: End) -> int | None:
        """End a hold like `settle` or `release`, without waiting until it is written.

        Returns the nano-USD that it charges, 0 for a release, None when this process had ended it already.
        What cannot be written yet is logged once and tried again every second; `close` writes what waits.
        """
        ...

    async def end_open_holds(self, delivered: Delivered | None = None, tell: TellEnd | None = None) -> int:
        """End the holds that dead processes of this database left open, `tell` of each; return how many.

        Those that `delivered` (by default their journals) knows of are settled as `estimated`, the charge cut
        to the hold, less what their keys have paid; the others are released. A running process's holds are
        never touched. Call it at start, and from time to time where several processes share the database.
        Raises Unavailable.
        """
        ...

    async def account(self, account_id: str) -> Account:
        """Return the sums of an account as of now, zeros for one never used. Raises Unavailable."""
        ...

    async def close(self) -> None:
        """Write what waits, give up the database; holds still open are logged."""
        ...


def unavailable() -> Unavailable:
    """Return the 503 for a storage fault; the detail belongs into the log."""
    return Unavailable(
        "The ledger cannot be used right now, so nothing was started or charged; try again shortly.",
        name="storage_unavailable",
        retry_after_s=RETRY_AFTER_S,
    )
