"""The ledger of a running service over PostgreSQL, for any number of replicas.

Group commit: one task writes, one transaction at a time; what arrives meanwhile goes into the next one. Who
waits is told after `wait_s` that storage is unavailable, whatever the database does; what was or may have
been written for them is given back. A commit whose outcome is unknown is looked for when the database is
there again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from router.errors import InternalError
from router.ledger.accounts import Account
from router.ledger.jobs import Job, Jobs
from router.ledger.ledger import Delivered, TellEnd, unavailable
from router.ledger.owners import Owner, owner_in
from router.ledger.postgres import AWAY, RARE_S, READ_S, REFUSED, STATEMENT_S, Line, Link, prepare
from router.ledger.postgres_answers import PostgresAnswers
from router.ledger.postgres_books import PostgresBooks, Undertaker
from router.ledger.postgres_keys import PostgresKeys
from router.ledger.postgres_lease import Lease, Pace, process_of
from router.ledger.postgres_payments import PostgresPayments
from router.ledger.postgres_posting import LeaseLost, PostgresPoster
from router.ledger.postgres_spending import PostgresSpending
from router.ledger.posting import HoldEnded, Outcome
from router.ledger.rows import HoldRequest, Release, utc_text
from router.ledger.together import Together

BATCH = 256
END_DELAY_S = 0.005
RETRY_S = 0.25
CLOSE_S = 5.0
WAIT_S = 1.5
POST_S = 4 * STATEMENT_S
PACE = Pace()
_log = logging.getLogger("router.ledger")


class PostgresLedger(Jobs):
    """A `Ledger` in a database that replicas share.

    Measured by benchmarks/ledger.py on two shared cores, the server and its disk beside it, CPU us of
    the loop for a hold and its end at 1, 16 and 64 at once: 265, 31, 21, and 0.6, 1.3, 3.1 ms until a hold is
    confirmed while the disk is idle, 3, 4, 5 ms while others write to it.
    """

    def __init__(
        self,
        link: Link,
        owner: Owner,
        clock: Callable[[], float],
        wait_s: float,
        post_s: float,
        pace: Pace,
    ) -> None:
        super().__init__(owner.journal)
        self._link = link
        self._owner = owner
        self._clock = clock
        self._wait_s = wait_s
        self._post_s = post_s
        self._pace = pace
        self._writer, self._reader, self._rare, self._keeper, self._payer = (Line(link) for _ in range(5))
        self.keys = PostgresKeys(link, self._reader, self._rare)
        self.books = PostgresBooks(link, self._reader, self._rare)
        self.answers = PostgresAnswers(link, self._reader, self._rare)
        self.spending = PostgresSpending(link, self._reader, self._rare)
        self._accounts = Together(self._read_accounts)
        self._lease = Lease(owner.id, time.monotonic, pace)
        self.payments = PostgresPayments(link, self._reader, self._payer, lambda: self._lease.id)
        self._poster = PostgresPoster("")
        self._wake = asyncio.Event()
        self._end_timer: asyncio.TimerHandle | None = None
        self._writing = False
        self._tasks: list[asyncio.Task[None]] = []

    @classmethod
    def of(
        cls,
        url: str,
        data: Path,
        *,
        clock: Callable[[], float],
        wait_s: float = WAIT_S,
        post_s: float = POST_S,
        pace: Pace = PACE,
    ) -> Self:
        """Return the ledger of the database at `url`; `start` connects.

        `data` is this process's own folder, where its lock file tells the next one that it is dead. `clock`
        gives seconds since 1970; `post_s` bounds the writing of a batch, connecting included.
        Raises Unavailable with the operator's fix.
        """
        return cls(Link(url), owner_in(data), clock, wait_s, post_s, pace)

    @property
    def owner(self) -> str:
        """Return the id under which this process holds."""
        return self._owner.id

    @property
    def side(self) -> tuple[Link, Line]:
        """Return the connection for what is rare, for others that keep something in this database."""
        return self._link, self._rare

    async def start(self) -> None:
        """Connect, bring the schema forward, take a lease. Raises Unavailable with the operator's fix."""
        try:
            await prepare(self._link)
            with self._link.storage():
                await self._take_lease("")
        except BaseException:
            self._owner.close()
            raise
        create = self._running_loop().create_task
        self._tasks = [create(self._write_all()), create(self._keep_lease())]

    async def hold(self, request: HoldRequest) -> None:
        """Set money aside; it is recorded when this returns."""
        loop = self._running_loop()
        job = Job(request, None, loop.create_future())
        self._jobs.append(job)
        self._wake.set()
        patience = loop.call_later(self._wait_s, job.answer, unavailable())
        try:
            if job.future is not None:
                await job.future
        except asyncio.CancelledError:
            self.end(Release(request.request_id))  # where it is written; else `_posted` sees that we left
            raise
        finally:
            patience.cancel()

    async def end_open_holds(self, delivered: Delivered | None = None, tell: TellEnd | None = None) -> int:
        """End the holds that dead processes of this database left open, `tell` of each; return how many."""
        dead = self._owner.dead()  # before the holds are read: what is dead by now adds none
        with self._link.storage():  # after a fault the next round finds what is left
            async with self._rare.use(RARE_S) as connection:
                others = await self._lease.others(connection)
                died = [lease for lease in others if self._owner.died(process_of(lease))]
                await self._lease.bury(connection, died)
                told = delivered or self._owner.delivered
                undertaker = Undertaker(connection, told, utc_text(self._clock()), tell)
                await undertaker.end_all()
        self._owner.clear(set(dead) - undertaker.unread)
        return undertaker.ended

    async def account(self, account_id: str) -> Account:
        """Return the sums of an account as of now."""
        account = await self._accounts.get(account_id) or Account(account_id)
        account.roll(utc_text(self._clock()))
        return account

    async def close(self) -> None:
        """Write what waits, give up the lease and the connections; holds still open are logged."""
        loop = asyncio.get_running_loop()
        end_s = loop.time() + CLOSE_S
        while self._tasks and (self._jobs or self._writing) and loop.time() < end_s:
            self._wake.set()
            await asyncio.sleep(END_DELAY_S)
        if self._end_timer is not None:
            self._end_timer.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for job in self._jobs:
            job.answer(InternalError("the ledger was closed before this could be written"))
        if self._jobs or self._opened:
            _log.error("closed with %d holds open; others end them", len(self._opened))
        if self._tasks:
            with contextlib.suppress(*AWAY):
                async with self._keeper.use(READ_S) as connection:
                    await self._lease.give_up(connection)
        lines = (self._writer, self._reader, self._rare, self._keeper, self._payer)
        await asyncio.gather(*(line.close() for line in lines))
        self._owner.close(holds_left=bool(self._opened))

    def _end_came(self, job: Job) -> None:
        """Leave an end to the next request's hold for a moment, unless somebody waits for it."""
        if job.future is not None:
            self._wake.set()
            self._running_loop().call_later(self._wait_s, job.answer, unavailable())
        elif self._end_timer is None and not self._wake.is_set():
            self._end_timer = self._running_loop().call_later(END_DELAY_S, self._end_waited)

    def _end_waited(self) -> None:
        self._end_timer = None
        self._wake.set()

    async def _write_all(self) -> None:
        """Write until cancelled; a fault that nobody foresaw ends the batch, not the writing."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._jobs:
                batch, self._jobs = self._jobs[:BATCH], self._jobs[BATCH:]
                self._writing = True
                try:
                    # A hold whose caller has left is not begun; what may be written is looked for.
                    await self._post([job for job in batch if job.unsure or not job.left])
                except Exception as fault:  # noqa: BLE001 - answers for a background task, which must not end
                    _log.exception("a batch of the ledger failed")
                    await self._give_up(batch, fault)
                finally:
                    self._writing = False

    async def _give_up(self, batch: Sequence[Job], fault: Exception) -> None:
        """Refuse the holds of a batch; its ends are owed, what may be written is looked for: both again."""
        begun = [job for job in batch if job.end is None and job.hold.request_id not in self._opened]
        for job in begun:
            if not job.unsure:
                self._refuse(job, fault)
        owed = [job for job in batch if job.end is not None and job.hold.request_id in self._ending]
        self._jobs[:0] = [*(job for job in begun if job.unsure), *owed]
        await asyncio.sleep(RETRY_S)

    async def _post(self, batch: Sequence[Job]) -> None:
        if not batch:
            return
        lease = self._poster.owner
        try:
            async with self._writer.use(self._post_s) as connection:
                outcomes = await self._poster.post(connection, batch, utc_text(self._clock()))
        except (HoldEnded, *REFUSED) as fault:
            if len(batch) == 1:
                self._refuse(batch[0], fault)
            else:  # find the one, keep it from harming the others
                await self._post(batch[: len(batch) // 2])
                await self._post(batch[len(batch) // 2 :])
        except LeaseLost:
            _log.warning("the lease %s has ended: this process was taken for dead", lease)
            try:
                await self._take_lease(lease)
                self._jobs[:0] = batch
            except AWAY as fault:
                await self._defer(batch, fault)
        except AWAY as fault:
            await self._defer(batch, fault)
        else:
            self._posted(batch, outcomes)

    def _posted(self, batch: Sequence[Job], outcomes: Sequence[Outcome]) -> None:
        for job, outcome in zip(batch, outcomes, strict=True):
            left = job.left
            if job.end is not None:
                self._ended(job.hold, job.end, outcome)
            elif outcome is None:
                self._opened[job.hold.request_id] = job.hold
            job.answer(outcome)
            if left:  # nobody is left to end it
                self.end(Release(job.hold.request_id))

    async def _defer(self, batch: Sequence[Job], fault: BaseException) -> None:
        """Keep what must be written and what may have been; try again soon."""
        self._link.lost(fault)
        self._jobs = [job for job in (*batch, *self._jobs) if job.unsure or not job.left]
        await asyncio.sleep(RETRY_S)

    async def _keep_lease(self) -> None:
        """Renew the lease until cancelled, and see which of the others' have expired."""
        while True:
            lease = self._lease.id
            try:
                changed = self.journal.changed()
                async with self._keeper.use(STATEMENT_S) as connection:
                    mine = await self._lease.renew(connection, changed)
                    await self._lease.look(connection)
                self.journal.told(changed)
                if not mine:
                    _log.warning("the lease %s has ended: this process was taken for dead", lease)
                    await self._take_lease(lease)
                await asyncio.sleep(self._pace.renew_s)
            except (*AWAY, *REFUSED) as fault:
                self._link.lost(fault)
                await asyncio.sleep(RETRY_S)
            except Exception:  # noqa: BLE001 - answers for a background task, which must not end
                _log.exception("the lease could not be renewed")
                await asyncio.sleep(RETRY_S)

    async def _take_lease(self, lost: str) -> None:
        async with self._keeper.use(STATEMENT_S) as connection:
            if self._lease.id == lost:  # else the other task was faster
                await self._lease.take(connection)
                self._poster.owner = self._lease.id

    async def _read_accounts(self, ids: Sequence[str]) -> dict[str, Account]:
        with self._link.storage():
            async with self._reader.use(READ_S) as connection:
                rows = await connection.fetch(_ACCOUNTS, ids)
        return {row[0]: Account(*row) for row in rows}


class PostgresStorage:
    """The `Storage` of a command: no lease, no task of its own."""

    def __init__(self, link: Link) -> None:
        self._line = Line(link)
        self.keys = PostgresKeys(link, self._line, self._line)
        self.books = PostgresBooks(link, self._line, self._line)
        self.answers = PostgresAnswers(link, self._line, self._line)
        self.payments = PostgresPayments(link, self._line, self._line)
        self.spending = PostgresSpending(link, self._line, self._line)

    @classmethod
    async def open(cls, url: str) -> Self:
        """Connect and bring the schema forward. Raises Unavailable with the operator's fix."""
        link = Link(url)
        await prepare(link)
        return cls(link)

    async def close(self) -> None:
        """Give the connection up."""
        await self._line.close()


_ACCOUNTS = """
SELECT id, balance_nusd, held_nusd, charged_nusd, requests, prompt_tokens, completion_tokens,
    day, day_charged_nusd, month, month_charged_nusd, budget_day_nusd, budget_month_nusd
FROM accounts WHERE id = ANY($1::text[])
"""
