"""The buyers of `pay`: each signs once, and comes with that signature until it was answered or refused."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from msgspec.structs import replace

from benchmarks.faults.book import Entry, Plan, Route, mixed_plan
from benchmarks.faults.client import exchange, request_with
from benchmarks.faults.oracle import Oracle
from benchmarks.faults.service import Service
from router.access.assets import BASE_SEPOLIA, USDC
from router.ledger.payments import PAYER
from tests.mpp_wallet import MppWallet, parse_challenge
from tests.wallets import Wallet, decoded

SCHEMES = ("exact", "upto", "evm")
UNITS = 10_000_000
TRIES = 40
PAUSE_S = 0.05
DRAINED = 0.03  # the share of payers who empty their wallet once their signature was verified
LEAVING = 0.05  # ... who go away, at any moment, and do not come back
AGAIN = 0.2  # the share of answered buyers who come once more
_HEADER = re.compile(rb"\r\n([^:\r\n]+): ([^\r\n]*)")
_RECEIPT = re.compile(rb"\r\n(payment-response|payment-receipt): |\n?: payment-response ")


@dataclass(slots=True)
class Purchase:
    """One signature of a wallet of its own, and every request that came with it."""

    name: str
    scheme: str
    plan: Plan
    payer: str = ""  # in lower case
    drained: bool = False
    first: bool = False  # it pays the whole quote before the upstream is asked
    tries: list[Entry] = field(default_factory=list)

    @property
    def served(self) -> int:
        """Count the requests that gave anything of an answer."""
        return sum(entry.tokens > 0 for entry in self.tries)

    @property
    def whole(self) -> bool:
        """Say whether an answer came to its end."""
        return any(entry.outcome == "whole" for entry in self.tries)

    @property
    def receipts(self) -> int:
        """Count the answers with a receipt."""
        return sum(
            entry.status == 200 and bool(_RECEIPT.search(entry.head) or _RECEIPT.search(entry.body))
            for entry in self.tries
        )


class Buyers:
    """Buy so many answers, so many at once; nothing is sent while nobody is ready."""

    def __init__(
        self,
        service: Service,
        oracle: Oracle,
        book: dict[str, Entry],
        random_: random.Random,
        route: Route = "chat",
        *,
        first: bool = False,
    ) -> None:
        """`first` lets all of them pay before the upstream is asked, as after a refused settlement."""
        self._service = service
        self._oracle = oracle
        self._book = book
        self._random = random_
        self._route = route
        self._first = first
        self.purchases: list[Purchase] = []
        self.started = 0
        self.over = False

    async def buy(self, count: int, at_once: int) -> None:
        """Buy, and wait for all ends."""
        numbers = iter(range(count))
        try:
            await asyncio.gather(*(self._work(numbers) for _ in range(at_once)))
        finally:
            self.over = True

    async def _work(self, numbers: Iterator[int]) -> None:
        for number in numbers:
            scheme = SCHEMES[number % len(SCHEMES)]
            plan = mixed_plan(self._random, leaving=LEAVING, route=self._route)
            purchase = Purchase(f"buy-{number}", scheme, plan, first=self._first)
            purchase.drained = self._random.random() < DRAINED
            again = self._random.random() < AGAIN
            self.purchases.append(purchase)
            self.started += 1
            paid = await self._sign(purchase)
            if paid is None:
                continue
            await self._pay(purchase, paid, again=again)

    async def _pay(self, purchase: Purchase, paid: str, *, again: bool) -> None:
        for _ in range(TRIES):
            entry = await self._try(purchase, paid)
            if entry.status in (429, 503):
                await asyncio.sleep(PAUSE_S)
            elif entry.outcome == "left":
                return
            elif entry.status == 200 and entry.outcome == "whole":
                break
            elif entry.status in (402, 403):
                # Who is told that the first request runs comes again, until that one has ended.
                if entry.status == 402 or b"still runs" not in entry.body:
                    return
                await asyncio.sleep(PAUSE_S)
        if again:
            await self._try(purchase, paid)

    async def _sign(self, purchase: Purchase) -> str | None:
        """Ask for the price and return the header that pays it; None where nobody offers one."""
        wallet = Wallet()
        purchase.payer = wallet.address.lower()
        await asyncio.to_thread(self._furnish, wallet.address, purchase)
        if purchase.first:
            await self._service.note_refusal(f"{PAYER}{BASE_SEPOLIA}:{purchase.payer}")
        for _ in range(TRIES):
            await self._service.ready.wait()
            sent = request_with(Entry(f"{purchase.name}-price", purchase.plan), "")
            entry = Entry(f"{purchase.name}-price", replace(purchase.plan, leave=None))
            await exchange(entry, self._service.port, sent)
            if entry.status == 402:
                return _paying(entry.head, wallet, purchase.scheme)
            await asyncio.sleep(PAUSE_S)
        return None

    def _furnish(self, address: str, purchase: Purchase) -> None:
        self._oracle.fund(address, UNITS)
        self._oracle.allow(address)
        if purchase.drained:
            self._oracle.draining.add(address.lower())

    async def _try(self, purchase: Purchase, paid: str) -> Entry:
        await self._service.ready.wait()
        entry = Entry(f"{purchase.name}.{len(purchase.tries) + 1}", purchase.plan)
        purchase.tries.append(entry)
        self._book[entry.id] = entry
        with contextlib.suppress(ValueError):
            await exchange(entry, self._service.port, request_with(entry, paid))
        return entry


def _paying(head: bytes, wallet: Wallet, scheme: str) -> str:
    """Return the line that pays a 402's offer."""
    found = [(name.decode().lower(), value.decode()) for name, value in _HEADER.findall(head)]
    if scheme == "evm":
        challenge = next(parse_challenge(value) for name, value in found if name == "www-authenticate")
        return f"authorization: {MppWallet(wallet.key).evm(challenge, USDC[BASE_SEPOLIA])}\r\n"
    required = dict(found)
    assert decoded(required["payment-required"])["x402Version"] == 2
    header = wallet.pays(required, scheme)
    return "".join(f"{name}: {value}\r\n" for name, value in header.items())
