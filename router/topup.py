"""`POST /v1/credits/topup`: credit for an API key, paid by wallet; without a key, a new key that has it."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
from msgspec import Raw, Struct

from router.access.keys import ApiKey, Keys, NewKey
from router.access.terms import Credential, Headers
from router.chat import Incoming
from router.errors import BadRequest, RouterError
from router.ledger.ledger import Ledger
from router.ledger.money import NUSD_PER_USD, nusd_to_usd, usd_to_nusd
from router.ledger.payments import WALLET
from router.ledger.rows import HoldRequest, Release, Settlement
from router.till import Till, pays
from router.walk import Walk

CREDITS = "credits"
"""What stands in the ledger as the model of a top-up, and in its quote in place of the catalog's revision."""
LEAST_NUSD = NUSD_PER_USD // 100
MOST_NUSD = 10_000 * NUSD_PER_USD


class _Wish(Struct):
    amount_usd: Raw


@dataclass(frozen=True, slots=True)
class Topups:
    """Sell credit; `now` is the time of day."""

    till: Till
    keys: Keys
    ledger: Ledger
    now: Callable[[], datetime]

    async def sell(self, incoming: Incoming) -> tuple[dict[str, Any], Headers]:
        """Take the payment and return what the customer has now, and the receipt's headers.

        Raises BadRequest, InvalidKey, PaymentRequired with the offers, and what a payment may raise.
        """
        bearer = None if pays(incoming.authorization) else incoming.authorization
        key = (await self.keys.identify(bearer, "open")).key
        amount_nusd = wanted_nusd(incoming.body)
        walk = Walk(incoming.request_id, incoming.client_request_id, incoming.began_s, self.now())
        asked = self.till.asked(incoming.headers, incoming.authorization, incoming.body, incoming.path)
        self.till.read(walk, asked)
        paid = walk.credential
        if paid is None or paid.quote.catalog != CREDITS:
            raise self.till.offer(asked, amount_nusd, CREDITS, walk.unpaid)
        await self._claim(walk, paid)
        return await self.till.finish(self._complete(walk, paid, key))

    async def _claim(self, walk: Walk, paid: Credential) -> None:
        """Claim the signature, and have it checked."""
        await self.ledger.hold(
            HoldRequest(
                request_id=walk.request_id,
                client_request_id=walk.client_request_id,
                account=self.till.payer(paid).account,
                amount_nusd=paid.quote.nusd,
                model=CREDITS,
                provider=WALLET,
                catalog=CREDITS,
                idempotency_key=None,
                require_credit=False,
                payment=paid.claim,
            )
        )
        walk.hold_id, walk.held_nusd = walk.request_id, paid.quote.nusd
        try:
            await self.till.verify(walk)
        except BaseException:  # the customer left
            self.ledger.end(Release(walk.request_id))
            raise

    async def _complete(
        self, walk: Walk, paid: Credential, key: ApiKey | None
    ) -> tuple[dict[str, Any], Headers]:
        """Have the money moved, and credit it; the payer's own account passes it on.

        Money that came and cannot be credited stays with the payer's account, as paid and not served. It is
        credited first: who ends the hold of a process that died in between looks whether it was.
        """
        nusd, seed = paid.quote.nusd, secrets.token_bytes(32)
        try:
            receipt = await self.till.take(walk, nusd)
            told = await self.till.booked(lambda: self._credit(paid, key, seed))
        except asyncio.CancelledError:  # the service ends, and the next start looks
            raise
        except BaseException:
            self.ledger.end(Release(walk.request_id))
            raise
        settlement = Settlement(
            request_id=walk.request_id,
            prompt_tokens=0,
            completion_tokens=0,
            charge_nusd=nusd,
            upstream_cost_nusd=0,
            model=CREDITS,
            provider=WALLET,
            metered_nusd=nusd,
        )
        with contextlib.suppress(RouterError):  # it is written later; a new key's text is told only now
            await self.ledger.settle(settlement)
        return {"object": "topup", "request_id": walk.request_id, **told}, receipt

    async def _credit(self, paid: Credential, key: ApiKey | None, seed: bytes) -> dict[str, Any]:
        """Credit a key, a new one from `seed` where there is none; return what the customer is told of it.

        Once, however often it is tried.
        """
        nusd = balance_nusd = paid.quote.nusd
        told: dict[str, Any] = {}
        if key is None:
            name = f"wallet {paid.claim.payer[:12]}"
            new = NewKey(name=name, credit_nusd=nusd, payment=paid.claim.key)
            told["key"], key = await self.keys.create(new, seed)
        else:
            _, balance_nusd = await self.keys.topup(key.id, nusd, source=WALLET, external_id=paid.claim.key)
        return told | {
            "account": key.id,
            "amount_usd": Raw(nusd_to_usd(nusd).encode()),
            "balance_usd": Raw(nusd_to_usd(balance_nusd).encode()),
        }


def wanted_nusd(body: bytes) -> int:
    """Return the credit that a body asks for. Raises BadRequest."""
    try:
        text = bytes(msgspec.json.decode(body, type=_Wish).amount_usd).decode().strip('"')
        amount_nusd = usd_to_nusd(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise BadRequest('Send a JSON object such as {"amount_usd": 5}.', param="amount_usd") from None
    except ValueError as fault:
        raise BadRequest(f"amount_usd: {fault}.", param="amount_usd") from None
    if not LEAST_NUSD <= amount_nusd <= MOST_NUSD:
        raise BadRequest(
            f"amount_usd must be {nusd_to_usd(LEAST_NUSD)} to {nusd_to_usd(MOST_NUSD)}.", param="amount_usd"
        )
    return amount_nusd
