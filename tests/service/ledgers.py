"""Ledgers over real files for tests: a clock that ticks, entries, credit."""

import asyncio
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path

from router.ledger import books
from router.ledger.ledger import Ledger
from router.ledger.rows import HoldRequest, Settlement
from router.ledger.sqlite import FILE, Database

NOW = "2026-11-01T12:00:00.000Z"


class Ticks:
    """A wall clock that is a second later each time it is read; the ledger reads it once a transaction."""

    def __init__(self, start_s: float = 1_793_534_400.0) -> None:
        self._seconds = count(int(start_s))

    def __call__(self) -> float:
        return float(next(self._seconds))


def request(
    number: int | str, amount: int = 10, *, account: str = "key_a", credit: bool = True
) -> HoldRequest:
    return HoldRequest(
        request_id=f"req-{number}",
        client_request_id="theirs",
        account=account,
        amount_nusd=amount,
        model="m/x",
        provider="p",
        catalog="abcdef012345",
        idempotency_key=None,
        require_credit=credit,
    )


def settlement(number: int | str, charge: int = 4, *, estimated: bool = False) -> Settlement:
    return Settlement(f"req-{number}", 100, 20, charge, 3, "m/y", "q", estimated)


def with_credit(data: Path, amount: int, account: str = "key_a") -> None:
    with closing(Database(data / FILE)) as database, database.transaction() as connection:
        books.topup(connection, account, amount, source="test", external_id=account, now=NOW)


@contextmanager
def running(ledger: Ledger) -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        try:
            yield runner
        finally:
            runner.run(ledger.close())


def open_ledger(data: Path, *, wait_s: float = 5.0) -> Ledger:
    return Ledger.open(data, clock=Ticks(), wait_s=wait_s)


def clean(data: Path) -> None:
    with closing(Database(data / FILE)) as database:
        assert books.check(database) == []
