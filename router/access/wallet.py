"""The wallet that pays upstreams: its key, what it may pay with, what it has spent, what it has left."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from router.access.assets import USDC
from router.access.described import usd_number
from router.access.terms import Asset
from router.access.wallet_key import FILE, WalletFault, WalletKey, fault_of, key_of, make_key, read_key
from router.access.wallet_rpc import Chain, RpcAway
from router.errors import Unavailable
from router.ledger.rows import utc_text
from router.ledger.spending import Caps, DaySums, Spending, SpendState, Spent
from router.payment_settings import PaymentSettings

RECONCILE_S: Final = 30.0
SETTLED_S: Final = 60
"""How long after a signature became void the chain is asked: its last block may still be replaced."""
BALANCE_CACHE_S: Final = 10.0
NETWORKS: Final = {"eip155:8453": "Base", "eip155:84532": "Base Sepolia"}
_log = logging.getLogger("router.wallet")


def caps_of(settings: PaymentSettings) -> Caps:
    """Return the operator's caps."""
    return Caps(_nusd_down(settings.wallet_cap_request_usd), _nusd_down(settings.wallet_cap_day_usd))


def unpayable(settings: PaymentSettings, data: Path) -> str | None:
    """Say in one sentence what keeps the wallet from paying; None where it can, or could be made."""
    for name in ("wallet_cap_request_usd", "wallet_cap_day_usd"):
        if getattr(settings, name) <= 0:
            return f"set ROUTER_{name.upper()} above 0: the wallet may pay nothing"
    return fault_of(_setting(settings), data / FILE)


class Wallet:
    """One wallet over one database; `monotonic` times the cache of its balances."""

    def __init__(
        self,
        settings: PaymentSettings,
        data: Path,
        spending: Spending,
        *,
        monotonic: Callable[[], float],
        chain: Chain | None = None,
    ) -> None:
        self.spending = spending
        self._setting = _setting(settings)
        self._path = data / FILE
        self._key: WalletKey | None = None
        self._reading = asyncio.Lock()
        self._asking = asyncio.Lock()
        self._monotonic = monotonic
        rpc = settings.wallet_rpc
        self._chain = chain or (None if rpc is None else Chain(rpc.get_secret_value()))
        self._balances: tuple[float, dict[str, int]] | None = None

    async def key(self) -> WalletKey:
        """Return the key; without a setting and a file it is made now. Raises WalletFault."""
        return await self._read(make=True)

    async def address(self) -> str | None:
        """Return the address, None while there is no key; makes nothing. Raises WalletFault."""
        try:
            return (await self._read(make=False)).address
        except _NoKey:
            return None

    async def balances(self) -> dict[str, int]:
        """Return atomic units by network, of those that the RPC knows; at most BALANCE_CACHE_S old."""
        address = await self.address()
        if self._chain is None or address is None:
            return {}
        async with self._asking:
            now_s = self._monotonic()
            if self._balances is None or now_s - self._balances[0] >= BALANCE_CACHE_S:
                self._balances = (now_s, await self._ask_balances(self._chain, address))
            return self._balances[1]

    async def reconcile(self, now_s: float) -> int:
        """Ask the chain what became of signatures that are void by now; return of how many it is known.

        Without an RPC they stay as they are, which counts them as spent. Raises Unavailable.
        """
        if self._chain is None:
            return 0
        known = 0
        try:
            network = await self._chain.network()
            overdue = await self.spending.overdue(network, int(now_s) - SETTLED_S)
            # Not before the chain itself is past it: until then a block may come that uses it.
            chain_s = await self._chain.time() if overdue else 0
            for spend in [spent.spend for spent in overdue if spent.spend.valid_before + SETTLED_S < chain_s]:
                used = await self._chain.used(spend.asset, spend.payer, spend.nonce)
                state: SpendState = "spent" if used else "freed"
                known += await self.spending.end(spend.nonce, state, None, now=utc_text(now_s))
        except RpcAway:
            _log.warning("ROUTER_WALLET_RPC does not answer: what became of signatures is not known yet")
        return known

    async def watch(self, now: Callable[[], datetime]) -> None:
        """Reconcile from time to time, until cancelled."""
        while True:
            try:
                await self.reconcile(now().timestamp())
            except Unavailable as fault:
                _log.warning("the wallet's books are not reconciled: %s", fault.message)
            await asyncio.sleep(RECONCILE_S)

    async def aclose(self) -> None:
        """Close the connections."""
        if self._chain is not None:
            await self._chain.aclose()

    async def _read(self, *, make: bool) -> WalletKey:
        async with self._reading:
            if self._key is None:
                self._key = await asyncio.to_thread(self._load, make)
            return self._key

    def _load(self, make: bool) -> WalletKey:
        if self._setting is not None:
            return key_of(self._setting)
        found = read_key(self._path)
        if found is None and make:
            found = make_key(self._path)
            _log.warning("made a wallet, %s, with its key in %s: back it up", found.address, self._path)
        if found is None:
            raise _NoKey
        return found

    async def _ask_balances(self, chain: Chain, address: str) -> dict[str, int]:
        try:
            network = await chain.network()
            return {network: await chain.balance(USDC[network], address)} if network in USDC else {}
        except RpcAway:
            return {}


async def wallet_document(
    wallet: Wallet, caps: Caps, blocked: str | None, now: datetime, *, payments: bool
) -> dict[str, Any]:
    """Return what may be told of the wallet; `payments` adds the newest ones. Raises Unavailable.

    `blocked` says what keeps it from paying.
    """
    try:
        address, balances = await wallet.address(), await wallet.balances()
    except WalletFault as fault:
        address, balances, blocked = None, {}, str(fault)
    day = utc_text(now.timestamp())[:10]
    document = plain_document(address, balances, caps, blocked, day, await wallet.spending.day(day))
    if payments:
        document["payments"] = [_payment(spent) for spent in await wallet.spending.recent()]
    return document


def plain_document(
    address: str | None,
    balances: dict[str, int],
    caps: Caps,
    blocked: str | None,
    day: str,
    sums: DaySums,
) -> dict[str, Any]:
    """Return the document of a wallet, whose books may not even exist."""
    used_nusd = sums.spent_nusd + sums.open_nusd
    return {
        "object": "wallet",
        "address": address,
        "can_pay": blocked is None,
        "blocked": blocked,
        "networks": [_network(asset, balances.get(asset.network)) for asset in USDC.values()],
        "caps": {"request_usd": usd_number(caps.request_nusd), "day_usd": usd_number(caps.day_nusd)},
        "today": {
            "day": day,
            "spent_usd": usd_number(sums.spent_nusd),
            "reserved_usd": usd_number(sums.open_nusd),
            "left_usd": usd_number(max(0, caps.day_nusd - used_nusd)),
        },
    }


class _NoKey(Exception):
    """There is no key yet."""


def _nusd_down(usd: Decimal) -> int:
    return int(usd.scaleb(9))


def _setting(settings: PaymentSettings) -> str | None:
    return None if settings.wallet_key is None else settings.wallet_key.get_secret_value()


def _network(asset: Asset, balance: int | None) -> dict[str, Any]:
    return {
        "network": asset.network,
        "name": NETWORKS.get(asset.network, asset.network),
        "token": "USDC",
        "asset": asset.address,
        "decimals": asset.decimals,
        "balance": None if balance is None else str(balance),
        # A transfer is worth its units rounded up; what one has is rounded down.
        "balance_usd": None if balance is None else usd_number(balance * 10**9 // int(10**asset.decimals)),
    }


def _payment(spent: Spent) -> dict[str, Any]:
    spend = spent.spend
    return {
        "request_id": spend.request_id,
        "provider": spend.provider,
        "network": spend.network,
        "asset": spend.asset,
        "pay_to": spend.pay_to,
        "amount": str(spend.amount),
        "usd": usd_number(spend.nusd),
        "state": spent.state,
        "transaction": spent.transaction,
        "valid_before": spend.valid_before,
        "created_at": spent.created_at,
        "updated_at": spent.updated_at,
    }
