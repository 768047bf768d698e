"""Everything that sells to wallets, built from the settings: the seller, the till, the settlements."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from router.access.methods import methods_of, unit_nusd_of
from router.access.selling import Seller
from router.access.terms import Away, Method, Refused
from router.errors import RouterError
from router.ledger.ledger import Ledger
from router.ledger.money import usd_to_nusd
from router.ledger.payments import PaymentClaim
from router.settings import Settings, SettingsError
from router.settling import Settling
from router.till import Till
from router.upstream.transport import FastTransport

QUOTE_SECRET = "quote"  # noqa: S105 - the name of a secret
RETRY_S = (1.0, 2.0, 5.0, 15.0)
"""After how long who could not be asked is tried again; the last of them from then on."""
_log = logging.getLogger("router.payments")


@dataclass(slots=True)
class Shop:
    """Sell from `start` to `close`; `run` runs beside the requests."""

    till: Till
    _seller: Seller
    _settling: Settling
    _ledger: Ledger
    _methods: Callable[[bytes], list[Method]]

    async def start(self) -> None:
        """Begin to sell where the facilitator and the chains can be asked; else nothing is offered yet."""
        secret = await self._ledger.payments.secret(QUOTE_SECRET)
        self._seller.sell_by(self._methods(secret))
        await self._learn()
        await self._settling.adopt()

    async def run(self) -> None:
        """Go on with what dead processes left, and try again to reach who could not be asked."""
        settling = asyncio.create_task(self._settling.run())
        try:
            for tries in itertools.count():
                if self._seller.started:
                    break
                await asyncio.sleep(RETRY_S[min(tries, len(RETRY_S) - 1)])
                await self._learn()
            await settling
        finally:
            settling.cancel()

    async def close(self, wait_s: float) -> None:
        """Wait for settlements that are under way, then close the connections."""
        await self._settling.close(wait_s)
        await self._seller.aclose()

    async def _learn(self) -> None:
        try:
            await self._seller.start()
        except Away:
            _log.warning("who settles wallet payments cannot be reached; nothing is offered until it answers")
        except Refused as no:
            _log.error("wallet payments are not offered: %s", no.reason)


def open_shop(
    settings: Settings,
    ledger: Ledger,
    *,
    count: Callable[[PaymentClaim, str], None],
    now: Callable[[], datetime],
    monotonic: Callable[[], float],
) -> Shop:
    """Return a shop that sells by what is switched on; `count` is told the outcome of each settlement."""
    seller = Seller(
        unit_nusd=unit_nusd_of(settings), floor_nusd=usd_to_nusd(format(settings.payment_min_usd, "f"))
    )
    settling = Settling(seller, ledger, now, count)
    till = Till(seller, ledger, settling, now, settings.public_url)
    return Shop(
        till,
        seller,
        settling,
        ledger,
        # httpx's own transport would cost three times the rest of a payment, twice.
        lambda secret: methods_of(settings, secret, monotonic, lambda: now().timestamp(), FastTransport()),
    )


async def try_selling(settings: Settings, monotonic: Callable[[], float]) -> str | None:
    """Ask the facilitator and the chains whether they settle what is switched on, before anything is served.

    Returns a warning where one cannot be reached now. Raises ValueError with the operator's fix.
    """
    if not settings.sells:
        return None
    seller = Seller(unit_nusd=1, floor_nusd=0)
    try:
        seller.sell_by(methods_of(settings, bytes(32), monotonic, time.time, FastTransport()))
        await seller.start()
    except Refused as no:
        raise ValueError(no.reason) from None
    except SettingsError as fault:
        raise ValueError(str(fault)) from None
    except Away:
        return (
            "wallet payments: who settles them (ROUTER_X402_FACILITATOR, ROUTER_MPP_TEMPO_RPC) cannot be"
            " reached now; nothing is offered until it answers"
        )
    except RouterError as fault:
        raise ValueError(fault.message) from None
    finally:
        await seller.aclose()
    return None
