"""A router whose ledger keeps nothing: what `benchmarks.ledger_share` compares the real one with.

    python -m benchmarks.nothing_kept --port 8402 --catalog DIR --data DIR

The same program as `router serve`, with another ledger handed to it: keys are read from the same database,
and a hold and its end cost nothing. It is for measurements alone: whoever uses it gives everything away.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import time
from pathlib import Path

from router.app import World
from router.cli.options import sources_of
from router.cli.server import accepting, server_of
from router.ledger.accounts import Account
from router.ledger.answers import Answers
from router.ledger.journal import Flight, Journal, Slot, Tariff
from router.ledger.keystore import KeyStore
from router.ledger.ledger import Books, Delivered, TellEnd
from router.ledger.payments import Payments
from router.ledger.rows import End, HoldRequest, Release
from router.ledger.spending import NoSpending, Spending
from router.ledger.sqlite_ledger import SqliteLedger
from router.running import RunningCatalog, probe
from router.settings import load_settings
from router.telemetry.log import configure_logging

PLENTY_NUSD = 10**15
BACKLOG = 2_048


class NoJournal(Journal):
    """Give every answer the same slot, which no file has."""

    def __init__(self) -> None:
        """Make no file."""
        tariff = Tariff.of_bill(0, 0, 0)
        self._flight = Flight(Slot.spare(), "", "", "", tariff)

    def begin(self, hold_id: str, model: str, provider: str, tariff: Tariff, tokens: int) -> Flight:
        """Note nothing."""
        return self._flight

    def end(self, hold_id: str) -> None:
        """Note nothing."""


class NothingKept:
    """A `Ledger` that says yes and forgets; its keys are those of a database."""

    def __init__(self, database: SqliteLedger) -> None:
        self._database = database
        self.journal: Journal = NoJournal()
        self.owner = "nobody"
        self.keys: KeyStore = database.keys
        self.books: Books = database.books
        self.answers: Answers = database.answers
        self.payments: Payments = database.payments
        self.spending: Spending = NoSpending()

    @property
    def held_nusd(self) -> int:
        """Hold nothing."""
        return 0

    async def start(self) -> None:
        """Do nothing."""

    async def hold(self, request: HoldRequest) -> None:
        """Set nothing aside."""

    async def settle(self, end: End) -> int | None:
        """Charge nobody."""
        return self.end(end)

    async def release(self, request_id: str) -> bool:
        """Give nothing back."""
        return True

    def end(self, end: End) -> int | None:
        """Return what would be charged."""
        return 0 if isinstance(end, Release) else end.charge_nusd

    async def end_open_holds(self, delivered: Delivered | None = None, tell: TellEnd | None = None) -> int:
        """Find none."""
        return 0

    async def account(self, account_id: str) -> Account:
        """Return plenty."""
        return Account(account_id, balance_nusd=PLENTY_NUSD)

    async def close(self) -> None:
        """Close the database."""
        await self._database.close()


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.nothing_kept",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--catalog", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    given = parser.parse_args()
    settings = load_settings(port=given.port, catalog=given.catalog, data=given.data)
    sources = sources_of(settings)
    running = RunningCatalog(sources, asyncio.run(probe(sources.directory)))
    configure_logging(settings.log)
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((settings.host, settings.port))
    listener.listen(BACKLOG)
    world = World(ledger=NothingKept(SqliteLedger.open(settings.data, clock=time.time)))
    server_of(settings, running, world=world).run(sockets=accepting(listener))


if __name__ == "__main__":
    main()
