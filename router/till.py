"""Let a wallet pay for a request: the offer, the claim, the settlement, and what is left after a crash.

Money moves at one of two moments. `exact` and MPP's charges are settled when the answer's first piece is in
hand and before the client gets it: an upstream that fails costs the payer nothing, and a payer who takes the
signature back gets nothing. `upto` is settled for what was used, after the last piece of a stream, whether or
not the client is still there.

Who left us with an answer that nobody pays for pays first for a time: when an offer has given it a place, and
before the upstream is asked.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Coroutine, Mapping
from datetime import datetime
from typing import Any, TypeVar

from router.access import reasons
from router.access.keys import Caller
from router.access.selling import Seller, route_of
from router.access.terms import Asked, Away, Credential, Headers, Refused, Settled, Unknown
from router.errors import (
    InternalError,
    NotFound,
    OutOfCredit,
    PaymentRefused,
    PaymentRequired,
    RouterError,
    SettlementUnknown,
    Unavailable,
)
from router.ledger.ledger import Ledger
from router.ledger.money import nusd_to_usd
from router.ledger.payments import PaymentClaim, account_of
from router.ledger.rows import Release
from router.settling import Settling
from router.walk import Walk

NOBODY = Caller("", None, require_credit=False)
"""Who asks without key and payment, where wallets can pay."""
NO_STORE = (b"cache-control", b"no-store")
_AWAY_S = 5
SETTLE_ROOM_S = 8
"""How long before a signature is void it is settled at the latest; facilitators want 6 s."""
_HOST_CHARS = 253 + len(":65535")  # RFC 1035, with a port
FIRST_S, FIRST_AT_MOST_S, DOUBLINGS = 3_600.0, 24 * 3_600.0, 10
"""How long a payer pays before its answers after a refused settlement: twice as long after each more."""
RECEIPT_S = 30
"""How long the end of a stream waits for its receipt."""
T = TypeVar("T")
_log = logging.getLogger("router.payments")


class Till:
    """Take payments of requests; `now` is the time of day."""

    def __init__(
        self,
        seller: Seller,
        ledger: Ledger,
        settling: Settling,
        now: Callable[[], datetime],
        public_url: str | None = None,
    ) -> None:
        """`public_url` is the service's own address as payers know it; None: the one that was asked."""
        self._public_url = public_url
        self._seller = seller
        self._ledger = ledger
        self._settling = settling
        self._now = now

    def asked(self, headers: Mapping[str, str], authorization: bytes | None, body: bytes, path: str) -> Asked:
        """Return what payments look at of a request to a path of this service."""
        host = headers.get("host", "localhost")
        if len(host) > _HOST_CHARS:  # it stands in the 402, whose headers every proxy must let through
            host = "localhost"
        origin = self._public_url or f"http://{host}"
        now = self._now().timestamp()
        digest = hashlib.sha256(body).digest()
        return Asked(headers, authorization, digest, route_of(headers, path), f"{origin}{path}", now)

    def read(self, walk: Walk, asked: Asked) -> None:
        """Take down the payment that came with a request, or what is wrong with it.

        Raises BadRequest, and PaymentRefused where paying anew does not help.
        """
        walk.asked = asked
        try:
            walk.credential = self._seller.read(asked)
        except Refused as no:
            if not no.fresh:
                raise PaymentRefused(f"This payment cannot be used: {no.reason}.", name=no.reason) from None
            walk.unpaid = no

    def payer(self, credential: Credential) -> Caller:
        """Return who a payment speaks for."""
        return Caller(account_of(credential.claim), None, require_credit=False)

    def left_s(self, walk: Walk) -> float:
        """Return how long a payment that is settled at the first byte can still wait for it."""
        if walk.credential is None or walk.credential.when != "before" or walk.pays_first:
            return float("inf")
        return max(1.0, walk.credential.claim.expires_at - SETTLE_ROOM_S - self._now().timestamp())

    def agree(self, walk: Walk, credential: Credential) -> None:
        """Let the answer be metered as its payment goes: a fixed amount, or whole units of its token."""
        walk.fixed_nusd = credential.quote.nusd if credential.when != "after" else None
        walk.unit_nusd = self._seller.unit_nusd

    def due(self, walk: Walk, no: Refused | None = None) -> RouterError:
        """Return the 402 with the offers for a request that has been decided; 503 while nobody can settle."""
        decision = walk.decision
        if decision is None or decision.chosen is None or walk.asked is None:
            raise ValueError("an offer needs a decision")
        return self.offer(walk.asked, decision.chosen.max_nusd, decision.catalog, no)

    def offer(
        self, asked: Asked, nusd: int, catalog: str, no: Refused | None, headers: Headers | None = None
    ) -> RouterError:
        """Return the 402 that asks so much for a body; `no` is what was wrong with the payment that came."""
        if not self._seller.available:
            return _away()
        quote = self._seller.quote(nusd, asked, catalog)
        told = f"The payment that came does not do ({no.reason}). " if no else ""
        error = PaymentRequired(
            f"{told}This request costs up to {nusd_to_usd(quote.nusd)} USD: pay by wallet (the headers of"
            " this answer say how), or send an API key with credit as `Authorization: Bearer rk_...`.",
            name="payment_refused" if no else None,
            problem=no.problem if no else "payment-required",
        )
        why = no.reason if no else None
        error.told = [*self._seller.offers(quote, asked, why), *(headers or ()), NO_STORE]
        return error

    def offer_beside(self, error: OutOfCredit, walk: Walk) -> None:
        """Let a customer whose credit is used up pay this request by wallet."""
        if error.name == OutOfCredit.name and walk.decision is not None and walk.decision.chosen is not None:
            error.told = [*error.told, *self.due(walk).told]

    async def verify(self, walk: Walk) -> None:
        """Have the signature checked, now that it is claimed; where it is no good it is free again.

        Whoever pays first is to pay the whole quote, since nobody knows yet what it will cost.
        Raises PaymentRequired with fresh offers, PaymentRefused, Unavailable.
        """
        credential = walk.credential
        if credential is None:
            return
        try:
            walk.pays_first = credential.when != "at once" and await self._pays_first(credential.claim)
            await self._verify(credential)
        except Refused as no:
            await self._give_up(walk)
            raise self._refusal(walk, no) from None
        except Away:
            await self._give_up(walk)
            raise _away() from None
        if walk.pays_first:
            walk.fixed_nusd = credential.quote.nusd

    async def take_moved(self, walk: Walk) -> None:
        """Book what its payer has moved already, place or not: it is here, and has to stand somewhere.

        Raises what `take` does.
        """
        if walk.credential is not None and walk.credential.when == "at once":
            walk.receipt = await self.take(walk, walk.credential.quote.nusd)

    async def take_first(self, walk: Walk) -> None:
        """Have the whole quote moved, of who pays first and has a place now. Raises what `take` does."""
        if walk.credential is not None:
            walk.receipt = await self.take(walk, walk.credential.quote.nusd)

    async def prove(self, walk: Walk) -> None:
        """Have the signature checked of who asks for a kept answer. Raises PaymentRefused, Unavailable."""
        if walk.credential is None:
            return
        try:
            await self._verify(walk.credential)
        except Refused as no:
            raise PaymentRefused(f"This payment cannot be used: {no.reason}.", name=no.reason) from None
        except Away:
            raise _away() from None

    async def take(self, walk: Walk, charge_nusd: int, *, owed: bool = False) -> Headers:
        """Have the charge moved, and return the receipt; goes on to its end when the client leaves.

        Raises PaymentRequired and PaymentRefused for a definite no, SettlementUnknown.
        """
        credential = walk.credential
        if credential is None:
            return []
        walk.taken = True
        claim, amount = credential.claim, amount_of(credential, charge_nusd)
        try:
            made = not owed and walk.first_piece_s is not None
            settled = await self._settling.take(claim, amount, charge_nusd, owed=owed, made=made)
        except Refused as no:
            walk.withheld = True
            raise self._refusal(walk, no, self._seller.method_of(claim).failure(claim, no.reason)) from None
        except RouterError:  # storage is away, and nothing was sent
            walk.withheld = True
            raise
        except asyncio.CancelledError:  # the client has left: what it is to pay for was not given, or it was
            walk.withheld = not owed
            raise
        except Away:
            walk.withheld = True
            raise _away() from None
        except Unknown:
            walk.withheld = True
            raise SettlementUnknown(
                "Your payment was sent and it is not known yet whether it went through. Do not pay again: ask"
                f" GET /v1/receipts/{walk.request_id} what became of it.",
                retry_after_s=60,
            ) from None
        return [self._receipt(walk, claim, settled)]

    async def finish(self, work: Coroutine[Any, Any, T]) -> T:
        """Do what must come to its end once money moves, whether or not the client stays."""
        return await self._settling.finish(work)

    async def booked(self, write: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Write what was paid for until storage takes it. Raises what makes it impossible."""
        return await self._settling.until_written(write, unless=(NotFound, InternalError))

    async def receipt_of_stream(self, walk: Walk) -> bytes:
        """Settle a stream that has been charged; return the receipt as the comments of an event stream.

        Nothing where the settlement takes longer than a client would wait: it goes on.
        """
        credential = walk.credential
        if credential is None or walk.taken or not walk.charged_nusd:
            return b""
        try:
            async with asyncio.timeout(RECEIPT_S):
                receipt = await self.take(walk, walk.charged_nusd, owed=True)
        except TimeoutError:
            return b""
        except Unavailable:
            walk.taken = False
            self.collect(walk)
            return b""
        except RouterError as error:  # the answer is out already; the ledger says what is owed
            _log.warning("%s was served, and is not paid for yet: %s", walk.request_id, error.name)
            why = reasons.PENDING if isinstance(error, SettlementUnknown) else error.name
            receipt = self._seller.method_of(credential.claim).failure(credential.claim, why)
        return b"".join(b": %b %b\n\n" % header for header in receipt)

    def collect(self, walk: Walk) -> None:
        """Settle for what was delivered to a client that has left."""
        credential = walk.credential
        if credential is None or walk.taken or credential.when != "after" or not walk.charged_nusd:
            return
        walk.taken = True
        amount = amount_of(credential, walk.charged_nusd)
        self._settling.collect(credential.claim, amount, walk.charged_nusd)

    async def _pays_first(self, claim: PaymentClaim) -> bool:
        """Say whether a payer's last settlement was refused so lately that it is asked for before an answer.

        An hour, and twice as long for each time; a day at most.
        """
        found = await self._ledger.payments.refusals(account_of(claim))
        if found is None:
            return False
        rests_s = min(FIRST_S * (1 << min(found.times - 1, DOUBLINGS)), FIRST_AT_MOST_S)
        since_s = self._now().timestamp() - datetime.fromisoformat(found.last_at).timestamp()
        return since_s < rests_s

    async def _verify(self, credential: Credential) -> None:
        claim = credential.claim
        await self._seller.method_of(claim).settler_of(claim).verify(claim)

    def _receipt(self, walk: Walk, claim: PaymentClaim, settled: Settled) -> tuple[bytes, bytes]:
        method = self._seller.method_of(claim)
        return method.receipt(claim, settled, walk.request_id, self._now().timestamp())

    def _refusal(self, walk: Walk, no: Refused, headers: Headers | None = None) -> RouterError:
        paid, asked = walk.credential, walk.asked
        if no.fresh and paid is not None and asked is not None:
            return self.offer(asked, paid.quote.nusd, paid.quote.catalog, no, headers)
        error = PaymentRefused(f"This payment cannot be used: {no.reason}.", name=no.reason)
        error.told = list(headers or ())
        return error

    async def _give_up(self, walk: Walk) -> None:
        """End the hold, so that the payer may use the signature again."""
        if walk.hold_id is not None:
            hold_id, walk.hold_id = walk.hold_id, None
            await self._ledger.settle(Release(hold_id))


def pays(authorization: bytes | None) -> bool:
    """Say whether an `Authorization` header carries a payment and no API key."""
    return authorization is not None and authorization[:8].lower() == b"payment "


def amount_of(credential: Credential, charge_nusd: int) -> int:
    """Return a charge in atomic units: the claim's amount is that of the whole quote, without a rest."""
    return credential.claim.amount * charge_nusd // credential.quote.nusd


def _away() -> Unavailable:
    return Unavailable(
        "Wallet payments cannot be taken right now, so nothing was started or charged; try again shortly, or"
        " send an API key with credit.",
        name="payments_unavailable",
        retry_after_s=_AWAY_S,
    )
