"""Pay upstreams that answer 402: what is asked for, whether we pay it, and what became of each signature.

Before anything is signed the amount is compared with our own estimate of the call, and set aside in the
database within the caps. From then on it counts as spent until it is proven not to be: a signature that left
this process can be cashed by whoever has it until it is void, whatever they answer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from datetime import datetime
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from router.access.demands import Demanded, NotPayable, mpp_demands, transaction_of, x402_demands
from router.access.wallet import Wallet
from router.access.wallet_key import Transfer, WalletFault
from router.catalog.local import is_loopback
from router.catalog.snapshot import Provider
from router.errors import RouterError
from router.ledger.money import nusd_to_usd
from router.ledger.rows import utc_text
from router.ledger.spending import Caps, Refusal, Spend, SpendState

ASK_FACTOR: Final = 2
"""How many times our own estimate of a call an upstream may ask for ..."""
ASK_FLOOR_NUSD: Final = 1_000_000
"""... and this much beside it: sellers have a least price, and estimates of short prompts are tiny."""
_KEY_HEADERS = frozenset((b"authorization", b"api-key", b"x-api-key"))
_Headers = Sequence[tuple[bytes, bytes]]
_log = logging.getLogger("router.wallet")


class Signature:
    """One signature on its way."""

    def __init__(
        self,
        spend: Spend,
        header: tuple[bytes, bytes],
        note: Callable[[str, SpendState, str | None], None],
    ) -> None:
        self._spend = spend
        self._note = note
        self.nusd = spend.nusd
        self.headers = (header,)
        # Two `authorization` make no sense, and a key has no business beside a payment that takes its place.
        self.replaces = _KEY_HEADERS if header[0] == b"authorization" else frozenset[bytes]()

    def ended(self, outcome: Literal["unsent", "answered", "unknown"], headers: _Headers) -> None:
        """Take note of how the call went; a 200 without a receipt may yet be settled, or never."""
        transaction = transaction_of(headers) if outcome == "answered" else None
        if outcome == "unsent":
            self._note(self._spend.nonce, "freed", None)
        elif transaction is not None:
            self._note(self._spend.nonce, "spent", transaction)
        else:
            self._note(self._spend.nonce, "unknown", None)


class Buyer:
    """Decide about demands, and keep the books of the wallet; `now` is the wall clock."""

    def __init__(self, wallet: Wallet, caps: Caps, now: Callable[[], datetime]) -> None:
        self._wallet = wallet
        self._caps = caps
        self._now = now
        self._tasks: set[asyncio.Task[Any]] = set()

    async def pay(
        self,
        provider: Provider,
        url: str,
        headers: _Headers,
        body: bytes,
        *,
        estimate_nusd: int,
        request_id: str,
    ) -> Signature | None:
        """Set the amount of a 402 aside, durably, then sign; None where it is not paid: the log says why."""
        try:
            _check_way(url)
            demand = _best(provider, headers, url, body)
            nusd = self._check_amount(demand, estimate_nusd)
            # A client that leaves meanwhile must leave no money set aside for a signature that nobody has.
            task = self._spawn(self._sign(provider, url, demand, nusd, request_id))
            try:
                return await asyncio.shield(task)
            except asyncio.CancelledError:
                task.add_done_callback(_unsent)
                raise
        except (NotPayable, WalletFault) as reason:
            _log.warning("%s is not paid: %s", provider.name, reason)
        except RouterError as fault:
            _log.warning("%s is not paid: %s", provider.name, fault.message)
        return None

    async def aclose(self) -> None:
        """Wait until what became of the last signatures is written."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _check_amount(self, demand: Demanded, estimate_nusd: int) -> int:
        """Return what is asked for in nano-USD. Raises NotPayable when it is too dear."""
        nusd = demand.asset.nusd_up(demand.amount)
        most_nusd = ASK_FACTOR * estimate_nusd + ASK_FLOOR_NUSD
        if nusd > most_nusd:
            raise NotPayable(
                f"it asks for {nusd_to_usd(nusd)} USD, and by the catalog the call costs at most"
                f" {nusd_to_usd(estimate_nusd)}: correct the price of its offer if that is wrong"
            )
        if nusd > self._caps.request_nusd:
            raise NotPayable(_capped("request_cap", nusd, self._caps))
        return nusd

    async def _sign(
        self, provider: Provider, url: str, demand: Demanded, nusd: int, request_id: str
    ) -> Signature:
        key = await self._wallet.key()
        now = self._now()
        transfer = demand.transfer(now.timestamp())
        spend = _spend(provider, url, demand, transfer, key.address, nusd, request_id)
        refusal = await self._wallet.spending.reserve(
            spend, self._caps, pinned=provider.pay_to is not None, now=utc_text(now.timestamp())
        )
        if refusal is not None:
            raise NotPayable(_capped(refusal, nusd, self._caps))
        header = demand.answer(transfer, key.address, key.sign(transfer))
        return Signature(spend, header, self._note)

    def _note(self, nonce: str, state: SpendState, transaction: str | None) -> None:
        self._spawn(self._write(nonce, state, transaction))

    async def _write(self, nonce: str, state: SpendState, transaction: str | None) -> None:
        """Write what became of a signature; where storage is away it stays reserved: the safe side."""
        now = utc_text(self._now().timestamp())
        try:
            await self._wallet.spending.end(nonce, state, transaction, now=now)
        except RouterError as fault:
            _log.error("what became of the signature %s is not written: %s", nonce, fault.message)

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _unsent(task: asyncio.Task[Signature]) -> None:
    """Give back what was set aside for a caller that is gone."""
    if not task.cancelled() and task.exception() is None:
        task.result().ended("unsent", ())


def _check_way(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme != "https" and not is_loopback(parts.hostname or ""):
        raise NotPayable("money goes over https, or to this machine: correct its base_url")


def _best(provider: Provider, headers: _Headers, url: str, body: bytes) -> Demanded:
    """Return the cheapest demand that goes to the payee of the provider's file, where that names one."""
    found = x402_demands(headers, url) if provider.pays == "x402" else mpp_demands(headers, body)
    pinned = None if provider.pay_to is None else provider.pay_to.lower()
    best = next((demand for demand in found if pinned in (None, demand.pay_to)), None)
    if best is None:
        raise NotPayable(f"it wants the money for {found[0].pay_to}, its file says pay_to = {pinned}")
    return best


def _spend(
    provider: Provider,
    url: str,
    demand: Demanded,
    transfer: Transfer,
    payer: str,
    nusd: int,
    request_id: str,
) -> Spend:
    parts = urlsplit(url)
    return Spend(
        nonce="0x" + transfer.nonce.hex(),
        payer=payer.lower(),
        provider=provider.name,
        origin=f"{parts.scheme}://{parts.netloc}".lower(),
        network=demand.asset.network,
        asset=demand.asset.address.lower(),
        pay_to=demand.pay_to,
        amount=demand.amount,
        nusd=nusd,
        valid_before=transfer.valid_before,
        request_id=request_id,
    )


def _capped(refusal: Refusal, nusd: int, caps: Caps) -> str:
    usd = nusd_to_usd(nusd)
    if refusal == "request_cap":
        cap = nusd_to_usd(caps.request_nusd)
        return f"{usd} USD more for one request is over ROUTER_WALLET_CAP_REQUEST_USD = {cap}"
    if refusal == "day_cap":
        cap = nusd_to_usd(caps.day_nusd)
        return f"{usd} USD more today (UTC) is over ROUTER_WALLET_CAP_DAY_USD = {cap}"
    if refusal == "payee":
        return (
            "its payee or network is another one than at first: if that is right, set pay_to in its file to"
            " the new payee"
        )
    return "it sent a challenge that was paid before"
