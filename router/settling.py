"""Have payments settled, whatever happens to the request or the process that took them.

A settlement is a task of its own: a client that leaves does not stop it. What nobody could answer for is
asked about until it is known or the signature is void; what a dead process left is taken over.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from datetime import datetime
from typing import Any, TypeVar

from router.access.selling import Seller
from router.access.terms import Away, Refused, Settled, Settler, Unknown
from router.errors import RouterError
from router.ledger.ledger import Ledger
from router.ledger.payments import Payment, PaymentClaim, account_of
from router.ledger.rows import utc_text

T = TypeVar("T")
LOOK_S = 2.0
ASK_S = (2.0, 5.0, 15.0, 60.0)
STORAGE_RETRY_S = 1.0
FORGET_S = 7 * 24 * 3_600.0
"""How long a refused settlement is remembered of its payer."""
_log = logging.getLogger("router.payments")


class Settling:
    """Settle claims; `now` is the time of day, `count` is told the outcome of each."""

    def __init__(
        self,
        seller: Seller,
        ledger: Ledger,
        now: Callable[[], datetime],
        count: Callable[[PaymentClaim, str], None],
        pause: Callable[[float], Coroutine[Any, Any, None]] = asyncio.sleep,
    ) -> None:
        self._seller = seller
        self._payments = ledger.payments
        self._now = now
        self._count = count
        self._pause = pause
        self._tasks: set[asyncio.Task[Any]] = set()
        self._resting: set[asyncio.Task[Any]] = set()
        self._closing = False

    async def take(
        self, claim: PaymentClaim, amount: int, nusd: int, *, owed: bool, made: bool = False
    ) -> Settled:
        """Have so many atomic units moved, worth `nusd`; goes on when the caller is cancelled.

        `owed` says that the answer is out already: what cannot be asked now is asked again then. `made` says
        that there is one, which a refusal leaves us with. Raises Refused for a definite no, Unknown, Away
        where nothing was sent, Unavailable where storage is away.
        """
        return await asyncio.shield(self._spawn(self._settle(claim, amount, nusd, owed=owed, made=made)))

    async def finish(self, work: Coroutine[Any, Any, T]) -> T:
        """Do some work to its end, also when the caller is cancelled."""
        task: asyncio.Task[T] = self._spawn(work)
        return await asyncio.shield(task)

    async def until_written(
        self,
        write: Callable[[], Coroutine[Any, Any, T]],
        *,
        unless: tuple[type[RouterError], ...] = (),
    ) -> T:
        """Write until storage takes it. Raises what is in `unless`."""
        while True:
            try:
                return await write()
            except unless:
                raise
            except RouterError as fault:
                _log.error("a settlement could not be booked, trying again: %s", fault.name)
                await self._pause(STORAGE_RETRY_S)

    def collect(self, claim: PaymentClaim, amount: int, nusd: int) -> None:
        """Have it settled without waiting, however long storage is away."""
        self._spawn(self._settle(claim, amount, nusd, owed=True, patient=True))

    async def run(self) -> None:
        """Take over what dead processes left, until cancelled."""
        while True:
            with contextlib.suppress(RouterError):  # storage is away; the next round comes
                await self.adopt()
            await self._pause(LOOK_S)

    async def adopt(self) -> None:
        """Take over what dead processes left, once. Raises Unavailable."""
        for payment in await self._payments.orphans():
            if not self._seller.sells(payment.claim):
                continue  # its protocol is switched off: it waits until that is on again
            if await self._payments.adopt(payment.claim.key, payment.owner):
                _log.warning("payment of %s was left %s; going on with it", payment.request_id, payment.state)
                self._spawn(self._resume(payment))

    async def close(self, wait_s: float) -> None:
        """Wait for settlements that are under way; the next start goes on with the others.

        Who only waits to ask again is not waited for: that may take as long as a signature is good.
        """
        self._closing = True
        for task in self._resting:
            task.cancel()
        deadline_s = asyncio.get_running_loop().time() + wait_s
        while self._tasks and (left_s := deadline_s - asyncio.get_running_loop().time()) > 0:
            await asyncio.wait(self._tasks, timeout=left_s)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        fault = None if task.cancelled() else task.exception()  # asked, since its caller may have left
        if fault is not None and not isinstance(fault, Refused | Unknown | Away | RouterError):
            _log.error("a settlement failed", exc_info=fault)

    def _settler(self, claim: PaymentClaim) -> Settler:
        return self._seller.method_of(claim).settler_of(claim)

    async def _settle(
        self,
        claim: PaymentClaim,
        amount: int,
        nusd: int,
        *,
        owed: bool,
        patient: bool = False,
        made: bool = False,
    ) -> Settled:
        if not await self._begin(claim, amount, nusd, owed=owed, patient=patient):
            raise Refused("payment_replayed", fresh=False)
        try:
            return await self._ask(claim, amount, owed=owed, made=made)
        except Away:
            if not owed:
                await self._failed(claim, "not_reached")
                raise
            self._spawn(self._ask_again(claim, amount))
            raise Unknown("not_reached") from None

    async def _begin(self, claim: PaymentClaim, amount: int, nusd: int, *, owed: bool, patient: bool) -> bool:
        """Note what is about to be asked of the payer; False where that is not open to be asked.

        Where storage goes away it may have been noted: who is patient takes the note for its own, since one
        task alone settles what has been served; else what is not owed is taken back, as nothing was sent.
        """

        async def note() -> bool:
            return await self._payments.settling(claim.key, amount, nusd, now=self._stamp())

        if not patient:
            try:
                return await note()
            except RouterError:
                if not owed:
                    self._spawn(self._failed(claim, "not_reached"))
                raise
        if await self.until_written(note):
            return True
        found = await self.until_written(lambda: self._payments.find(claim.key))
        return found is not None and found.state == "settling" and found.taken == amount

    async def _ask(self, claim: PaymentClaim, amount: int, *, owed: bool, made: bool = False) -> Settled:
        """Ask for the settlement, and book what comes of it. Raises Away where nothing was sent."""
        try:
            settled = await self._settler(claim).settle(claim, amount)
        except Refused as no:
            await self._failed(claim, no.reason, made=made)
            raise
        except Unknown:
            self._count(claim, "unknown")
            self._spawn(self._find_out(claim, amount, owed=owed, made=made))
            raise
        if not await self._settled(claim, settled):
            raise Refused("transaction_used", fresh=False)
        return settled

    async def _ask_again(self, claim: PaymentClaim, amount: int) -> None:
        """Ask for what is owed until somebody can be asked, or the signature is void."""
        tries = 0
        while self._now().timestamp() < claim.expires_at:
            await self._rest(ASK_S[min(tries, len(ASK_S) - 1)])
            tries += 1
            with contextlib.suppress(Away):
                await self._ask(claim, amount, owed=True)
                return
        await self._failed(claim, "expired")

    async def _settled(self, claim: PaymentClaim, settled: Settled) -> bool:
        """Book what came; a database that is away does not make it unpaid."""
        booked = await self.until_written(
            lambda: self._payments.settled(claim.key, settled.transaction, now=self._stamp())
        )
        self._count(claim, "settled" if booked else "transaction_used")
        return booked

    async def _failed(self, claim: PaymentClaim, reason: str, *, made: bool = False) -> None:
        self._count(claim, "refused")
        if made:
            now_s = self._now().timestamp()
            stamps = {"now": utc_text(now_s), "before": utc_text(now_s - FORGET_S)}
            await self.until_written(lambda: self._payments.note_refusal(account_of(claim), **stamps))
        await self.until_written(lambda: self._payments.failed(claim.key, reason, now=self._stamp()))

    async def _find_out(self, claim: PaymentClaim, amount: int, *, owed: bool, made: bool = False) -> None:
        """Ask what became of a settlement until that is known, or nothing more can be learnt."""
        tries = 0
        while True:
            await self._rest(ASK_S[min(tries, len(ASK_S) - 1)])
            tries += 1
            try:
                settled = await self._learn(claim, amount, owed=owed)
            except Unknown:
                if self._now().timestamp() < claim.expires_at:
                    continue
                await self.until_written(
                    lambda: self._payments.unknown(claim.key, "nobody_knows", now=self._stamp())
                )
                self._count(claim, "never_known")
                return
            if settled is None:
                await self._failed(claim, "expired", made=made)
            else:
                await self._settled(claim, settled)
            return

    async def _rest(self, seconds: float) -> None:
        """Pause before it is asked again. Raises CancelledError where the service ends meanwhile."""
        task = asyncio.current_task()
        if self._closing or task is None:
            raise asyncio.CancelledError
        self._resting.add(task)
        try:
            await self._pause(seconds)
        finally:
            self._resting.discard(task)

    async def _learn(self, claim: PaymentClaim, amount: int, *, owed: bool) -> Settled | None:
        """Ask once. Raises Unknown.

        Of a permit that is used up a facilitator says what it says of one that is no good, so `upto` is asked
        for again: it moves once at most, and a transfer that happened is the answer. Not for an answer that
        nobody got: that would move what had not moved yet.
        """
        settler = self._settler(claim)
        if claim.scheme != "upto" or not owed:
            return await settler.moved(claim)
        try:
            return await settler.settle(claim, amount)
        except (Refused, Away):
            raise Unknown from None

    async def _resume(self, payment: Payment) -> None:
        """Go on where a dead process stopped: what was served is settled, what was sent is asked about."""
        claim, served_nusd = payment.claim, payment.served_nusd or 0
        if payment.state == "settling":
            await self._find_out(claim, payment.taken or 0, owed=bool(served_nusd))
        elif served_nusd:
            # Rounded up: a crash bills by estimate, to the nano-dollar.
            amount = min(claim.amount, -(-claim.amount * served_nusd // payment.amount_nusd))
            nusd = -(-amount * payment.amount_nusd // claim.amount)
            await self._settle(claim, amount, nusd, owed=True, patient=True)
        else:
            await self._failed(claim, "nothing_delivered")

    def _stamp(self) -> str:
        return utc_text(self._now().timestamp())
