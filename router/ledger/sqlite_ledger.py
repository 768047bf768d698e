"""The ledger of a running service over SQLite.

Group commit: what arrives in one turn of the event loop is written in one transaction, on the loop's own
thread (a thread hop a request costs more than the transaction). What must wait, waits elsewhere: a lock
of another process is tried again from a timer, the disk is awaited and the WAL is copied in worker threads.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

from router.errors import InternalError, Unavailable
from router.ledger.accounts import Account
from router.ledger.jobs import Job, Jobs
from router.ledger.ledger import Delivered, TellEnd, unavailable
from router.ledger.owners import Owner, owner_in
from router.ledger.posting import HoldEnded, Outcome
from router.ledger.rows import HoldRequest, Release, utc_text
from router.ledger.sqlite import FILE, LOCK_RETRY_S, Database, is_busy
from router.ledger.sqlite_answers import SqliteAnswers
from router.ledger.sqlite_books import SqliteBooks, account, end_dead
from router.ledger.sqlite_keys import SqliteKeys
from router.ledger.sqlite_payments import SqlitePayments
from router.ledger.sqlite_posting import Poster
from router.ledger.sqlite_spending import SqliteSpending

BATCH = 64
STORAGE_RETRY_S = 1.0
END_DELAY_S = 0.002
SYNC_S = 0.1
CHECKPOINT_COMMITS = 1_000

_REFUSED = (
    sqlite3.IntegrityError,
    sqlite3.ProgrammingError,
    sqlite3.InterfaceError,
    OverflowError,
    TypeError,
    ValueError,
)
_log = logging.getLogger("router.ledger")


class SqliteLedger(Jobs):
    """A `Ledger` in one file, for any number of processes of one machine.

    Every write is in the kernel's hands when it is confirmed, so the death of this process at any moment
    loses nothing. What a power cut may lose is the operator's choice: by default what was written since the
    last confirmation of the disk, which is asked for every SYNC_S; with `sync_hold` a hold that needs credit
    or has a payment waits for the disk, and so does what is noted of payments.

    Measured by benchmarks/ledger.py on two shared cores, CPU us of the loop for a hold and its end at 1, 16
    and 64 at once: 46, 18, 16, and 40, 265, 525 us until a hold is confirmed; with `sync_hold` 108, 24, 19
    and 230, 550, 1,400 us. `synchronous = FULL` would stop the loop for each disk write.
    """

    def __init__(
        self, database: Database, owner: Owner, clock: Callable[[], float], wait_s: float, sync_hold: bool
    ) -> None:
        super().__init__(owner.journal)
        self.database = database
        self.keys = SqliteKeys(database)
        self.books = SqliteBooks(database)
        self.answers = SqliteAnswers(database)
        self.payments = SqlitePayments(database, owner, self._confirm, wait_s)
        self.spending = SqliteSpending(database.path)
        self._sync_hold = sync_hold
        self._sync_timer: asyncio.TimerHandle | None = None
        self._owner = owner
        self._poster = Poster(database, owner.id)
        self._clock = clock
        self._wait_s = wait_s
        self._workers = ThreadPoolExecutor(2, thread_name_prefix="ledger")
        self._timer: asyncio.Handle | None = None
        self._end_timer: asyncio.TimerHandle | None = None
        self._unsynced: list[Job] = []
        self._syncing: asyncio.Future[None] | None = None
        self._checkpointing: asyncio.Task[None] | None = None
        self._held_off = False
        self._commits = 0
        self._refused = False  # the last write failed, and no lock was the reason

    @classmethod
    def open(
        cls, data: Path, *, clock: Callable[[], float], wait_s: float = 5.0, sync_hold: bool = False
    ) -> Self:
        """Open the ledger in the folder `data`; `clock` gives seconds since 1970.

        `wait_s` bounds how long a hold or an end waits for another process that writes; `sync_hold` makes
        holds that need credit wait for the disk.
        Raises Unavailable with the operator's fix.
        """
        database = Database(data / FILE)
        try:
            owner = owner_in(data)
        except Unavailable:
            database.close()
            raise
        return cls(database, owner, clock, wait_s, sync_hold)

    @property
    def owner(self) -> str:
        """Return the id under which this process holds."""
        return self._owner.id

    async def start(self) -> None:
        """Do nothing: a ledger that was made is open."""

    async def hold(self, request: HoldRequest) -> None:
        """Set money aside; it is recorded when this returns."""
        loop = self._running_loop()
        future: asyncio.Future[Outcome] = loop.create_future()
        self._jobs.append(Job(request, None, future))
        if self._timer is None and not self._held_off:
            self._timer = loop.call_soon(self._flush)
        try:
            await future
        except asyncio.CancelledError:
            self.end(Release(request.request_id))  # it may be written already, and nobody is left to end it
            raise

    async def end_open_holds(self, delivered: Delivered | None = None, tell: TellEnd | None = None) -> int:
        """End the holds that dead processes of this database left open, `tell` of each; return how many."""
        told = delivered or self._owner.delivered
        return end_dead(self.database, self._owner, told, utc_text(self._clock()), tell)

    async def account(self, account_id: str) -> Account:
        """Return the sums of an account as of now; a database that refused to be written is tried first."""
        if self._refused:
            self.database.try_write()
            self._refused = False
        return account(self.database, account_id, utc_text(self._clock()))

    async def close(self) -> None:
        """Write what waits, finish the disk work, give up the database; holds still open are logged."""
        loop = asyncio.get_running_loop()
        end_s = loop.time() + self._wait_s
        while (self._jobs or self._syncing or self._checkpointing) and loop.time() < end_s:
            if self._jobs:
                self._flush()
            await asyncio.sleep(LOCK_RETRY_S)
        for timer in (self._timer, self._end_timer, self._sync_timer):
            if timer is not None:
                timer.cancel()
        for job in self._jobs:
            job.answer(InternalError("the ledger was closed before this could be written"))
        if self._jobs or self._opened:
            _log.error("closed with %d holds open; the next start ends them", len(self._opened))
        self._workers.shutdown()
        self._owner.close(holds_left=bool(self._opened))
        self.database.close()

    async def _confirm(self) -> None:
        """See to it that a write beside the batches comes to the disk as they do. Raises OSError."""
        loop = self._running_loop()
        if self._sync_hold:
            await loop.run_in_executor(self._workers, self.database.sync_wal)
        elif self._sync_timer is None and self._syncing is None:
            self._sync_timer = loop.call_later(SYNC_S, self._sync)

    def _end_came(self, job: Job) -> None:
        if job.future is not None:  # somebody waits for it
            if self._timer is None and not self._held_off:
                self._timer = self._running_loop().call_soon(self._flush)
        elif self._timer is None and self._end_timer is None:
            self._wait_for_holds()

    def _wait_for_holds(self) -> None:
        """Leave ends to the next request's hold, which as a rule takes them into its transaction."""
        self._end_timer = self._running_loop().call_later(END_DELAY_S, self._flush_ends, self._commits)

    def _flush_ends(self, commits: int) -> None:
        """Write ends that no hold took along; younger ones wait once more, which saves a timer an end."""
        self._end_timer = None
        if not self._jobs or self._timer is not None:
            return
        if self._commits == commits:
            self._flush()
        else:
            self._wait_for_holds()

    def _flush(self) -> None:
        """Write up to BATCH jobs; more wait for the next turn, so that others have the loop in between."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._held_off:
            return
        batch, self._jobs = self._jobs[:BATCH], self._jobs[BATCH:]
        # A hold whose caller has left is not begun; an end is written whoever has left.
        batch = [job for job in batch if not job.left]
        try:
            self._commit(batch)
        finally:
            if self._jobs and self._timer is None:
                self._timer = self._running_loop().call_soon(self._flush)
        if self._unsynced:
            self._sync()
        elif self._sync_timer is None and self._syncing is None:
            self._sync_timer = self._running_loop().call_later(SYNC_S, self._sync)
        self._checkpoint()

    def _commit(self, batch: list[Job]) -> None:
        if not batch:
            return
        try:
            outcomes = self._poster.post(batch, utc_text(self._clock()))
        except (*_REFUSED, HoldEnded) as fault:
            if len(batch) > 1:  # find the one, keep it from harming the others
                for job in batch:
                    self._commit([job])
            else:
                self._refuse(batch[0], fault)
        except sqlite3.Error as fault:
            self._defer(batch, fault)
        else:
            self._commits += 1
            self._refused = False
            for job, outcome in zip(batch, outcomes, strict=True):
                if job.end is not None:
                    self._ended(job.hold, job.end, outcome)
                elif outcome is None:
                    self._opened[job.hold.request_id] = job.hold
                    if self._sync_hold and (job.hold.require_credit or job.hold.payment is not None):
                        self._unsynced.append(job)
                        continue
                job.answer(outcome)

    def _defer(self, batch: list[Job], fault: sqlite3.Error) -> None:
        """Try again soon while another process writes; else answer 503 and keep only the ends."""
        loop = self._running_loop()
        locked = is_busy(fault)
        self._refused = not locked
        kept: list[Job] = []
        for job in batch:
            if job.deadline_s is None:
                job.deadline_s = loop.time() + self._wait_s
            waits = locked and loop.time() < job.deadline_s
            if not waits and not job.overdue:
                job.overdue = True
                _log.error("storage is unavailable for %s: %s", job.hold.request_id, fault)
                job.answer(unavailable())
            if waits or job.end is not None:
                kept.append(job)
        self._jobs[:0] = kept
        if self._jobs and self._timer is None:
            self._timer = loop.call_later(LOCK_RETRY_S if locked else STORAGE_RETRY_S, self._flush)

    def _sync(self) -> None:
        """Have the disk confirm the commits so far; those made meanwhile share the next confirmation."""
        if self._sync_timer is not None:
            self._sync_timer.cancel()
            self._sync_timer = None
        if self._syncing is None:
            jobs, self._unsynced = self._unsynced, []
            loop = self._running_loop()
            self._syncing = loop.run_in_executor(self._workers, self.database.sync_wal)
            self._syncing.add_done_callback(lambda done: self._synced(jobs, done))

    def _synced(self, jobs: list[Job], done: asyncio.Future[None]) -> None:
        self._syncing = None
        fault = done.exception()
        if fault is not None:
            _log.error("the disk did not confirm what was written: %s", fault)
        for job in jobs:
            if isinstance(fault, OSError):
                job.answer(unavailable())
                self.end(Release(job.hold.request_id))
            else:
                job.answer(None)
        if self._unsynced:
            self._sync()

    def _checkpoint(self) -> None:
        if self._commits >= CHECKPOINT_COMMITS and self._checkpointing is None:
            self._commits = 0
            self._checkpointing = asyncio.get_running_loop().create_task(self._copy_wal())

    async def _copy_wal(self) -> None:
        """Copy while writing goes on, then hold new batches off for the small rest."""
        run = asyncio.get_running_loop().run_in_executor
        try:
            await run(self._workers, lambda: self.database.checkpoint(finish=False))
            self._held_off = True
            await run(self._workers, lambda: self.database.checkpoint(finish=True))
        except sqlite3.Error as fault:
            _log.warning("the WAL could not be copied, trying again later: %s", fault)
        finally:
            self._held_off = False
            self._checkpointing = None
            if self._jobs:
                self._flush()
