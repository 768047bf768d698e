"""The ledger of a running service: durable holds before the upstream call, one settle or release after it.

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
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from router.errors import InternalError, RouterError, Unavailable
from router.ledger.accounts import Account
from router.ledger.books import account, release_dead
from router.ledger.owners import FOLDER, Owner
from router.ledger.posting import HoldEnded, Operation, Outcome, Posting
from router.ledger.rows import HoldRequest, Release, Settlement, utc_text
from router.ledger.sqlite import FILE, RETRY_AFTER_S, Database, is_busy, unavailable

BATCH = 64
LOCK_RETRY_S = 0.001
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


@dataclass(slots=True, eq=False)
class _Job:
    operation: Operation
    future: asyncio.Future[Outcome]
    deadline_s: float

    def answer(self, outcome: Outcome) -> None:
        if self.future.done():
            return
        if isinstance(outcome, RouterError):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)


class Ledger:
    """Write holds and their ends for one process, from one event loop.

    Every call of `hold` that returned is followed by exactly one `settle` or `release`; a second end changes
    nothing. An end that storage refuses is kept and tried again until it is written: money that is owed is
    not forgotten because a disk was full for a minute.

    Every write is in the kernel's hands when it is confirmed, so the death of this process at any moment
    loses nothing. What a power cut may lose is the operator's choice: by default what was written since the
    last confirmation of the disk, which is asked for every SYNC_S; with `sync_hold` a hold that needs credit
    waits for the disk.

    Measured on two shared cores, CPU us for a hold and its settle at 1, 16 and 64 at once: 108, 31, 25; with
    `sync_hold` 300, 50, 31 and 270, 600, 1,200 us of waiting. `synchronous = FULL` would cost 420, 65, 36 and
    stop the loop for each disk write.
    """

    def __init__(
        self, database: Database, owner: Owner, clock: Callable[[], float], wait_s: float, sync_hold: bool
    ) -> None:
        self.database = database
        self._sync_hold = sync_hold
        self._sync_timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._owner = owner
        self._clock = clock
        self._wait_s = wait_s
        self._workers = ThreadPoolExecutor(2, thread_name_prefix="ledger")
        self._opened: dict[str, HoldRequest] = {}
        self._jobs: list[_Job] = []
        self._timer: asyncio.Handle | None = None
        self._unhurried = False  # the timer is that of an end, which a hold overtakes
        self._unsynced: list[_Job] = []
        self._syncing: asyncio.Future[None] | None = None
        self._checkpointing: asyncio.Task[None] | None = None
        self._held_off = False
        self._commits = 0

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
            owner = Owner(data / FOLDER)
        except (sqlite3.Error, OSError) as fault:
            database.close()
            raise Unavailable(
                f"cannot use the folder {data / FOLDER}: {fault}; make it writable for this user",
                name="storage_unavailable",
                retry_after_s=RETRY_AFTER_S,
            ) from fault
        return cls(database, owner, clock, wait_s, sync_hold)

    async def hold(self, request: HoldRequest) -> None:
        """Set money aside; it is recorded when this returns, whatever happens to this process then.

        Raises OutOfCredit, Unavailable, and InternalError for a request id that was used before.
        """
        job = self._submit(request)
        try:
            await job.future
        except asyncio.CancelledError:
            # The hold may be written already and nobody is left to end it.
            self._submit(Release(request.request_id)).future.cancel()
            raise

    async def settle(self, settlement: Settlement) -> int | None:
        """End a hold with a charge; return the nano-USD charged, None when the hold had already ended.

        Where credit is required the charge is cut to the hold, with a warning in the log: the customer agreed
        to no more, and the balance never falls below zero. `upstream_cost_nusd` is kept as it is.
        Raises Unavailable when it cannot be written yet; it is then tried again every second.
        """
        outcome = await self._submit(settlement).future
        return outcome if isinstance(outcome, int) else None

    async def release(self, request_id: str) -> bool:
        """End a hold without a charge; return False when it had already ended.

        Raises Unavailable like `settle`.
        """
        return bool(await self._submit(Release(request_id)).future)

    async def end_open_holds(self) -> int:
        """Release the holds that dead processes of this database left open; return how many.

        A running process's holds are never touched. Call it at start, and again from time to time where
        several processes share the database. Raises Unavailable.
        """
        return release_dead(self.database, self._owner, utc_text(self._clock()))

    def account(self, account_id: str) -> Account:
        """Return the sums of an account as of now. Raises Unavailable."""
        return account(self.database, account_id, utc_text(self._clock()))

    async def close(self) -> None:
        """Write what waits, finish the disk work, give up the database; holds still open are logged."""
        loop = asyncio.get_running_loop()
        end_s = loop.time() + self._wait_s
        while (self._jobs or self._syncing or self._checkpointing) and loop.time() < end_s:
            if self._jobs:
                self._flush()
            await asyncio.sleep(LOCK_RETRY_S)
        for timer in (self._timer, self._sync_timer):
            if timer is not None:
                timer.cancel()
        for job in self._jobs:
            job.answer(InternalError("the ledger was closed before this could be written"))
        if self._jobs or self._opened:
            _log.error("closed with %d holds open; the next start releases them", len(self._opened))
        self._workers.shutdown()
        self._owner.close()
        self.database.close()

    def _submit(self, operation: Operation) -> _Job:
        loop = self._loop
        if loop is None:  # kept, since asking for it is a system call on Python 3.11
            loop = self._loop = asyncio.get_running_loop()
        job = _Job(operation, loop.create_future(), loop.time() + self._wait_s)
        self._jobs.append(job)
        if self._held_off:
            return job
        if isinstance(operation, HoldRequest):
            if self._unhurried:
                self._cancel_timer()
            if self._timer is None:
                self._timer = loop.call_soon(self._flush)
        elif self._timer is None:
            # Nobody waits for an end: as a rule the next request's hold takes it into its transaction.
            self._timer, self._unhurried = loop.call_later(END_DELAY_S, self._flush), True
        return job

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._unhurried = None, False

    def _submitted_on(self) -> asyncio.AbstractEventLoop:
        return self._loop or asyncio.get_running_loop()

    def _flush(self) -> None:
        """Write up to BATCH jobs; more wait for the next turn, so that others have the loop in between."""
        self._cancel_timer()
        if self._held_off:
            return
        batch, self._jobs = self._jobs[:BATCH], self._jobs[BATCH:]
        # A hold whose caller has left is not begun; an end is written whoever has left.
        batch = [job for job in batch if not (isinstance(job.operation, HoldRequest) and job.future.done())]
        try:
            self._commit(batch)
        finally:
            if self._jobs and self._timer is None:
                self._timer = self._submitted_on().call_soon(self._flush)
        if self._unsynced:
            self._sync()
        elif self._sync_timer is None and self._syncing is None:
            self._sync_timer = self._submitted_on().call_later(SYNC_S, self._sync)
        self._checkpoint()

    def _commit(self, batch: list[_Job]) -> None:
        if not batch:
            return
        try:
            outcomes = self._post([job.operation for job in batch])
        except (*_REFUSED, HoldEnded) as fault:
            if len(batch) > 1:  # find the one, keep it from harming the others
                for job in batch:
                    self._commit([job])
            else:
                self._refuse(batch[0], fault)
        except sqlite3.Error as fault:
            self._defer(batch, fault)
        else:
            for job, outcome in zip(batch, outcomes, strict=True):
                self._written(job, outcome)

    def _post(self, operations: list[Operation]) -> list[Outcome]:
        connection = self.database.connection
        posting = Posting(connection, self._owner.id, self._opened, utc_text(self._clock()))
        connection.execute("BEGIN IMMEDIATE")
        try:
            outcomes = posting.post(operations)
            connection.execute("COMMIT")
            self._commits += 1
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        return outcomes

    def _written(self, job: _Job, outcome: Outcome) -> None:
        operation = job.operation
        if isinstance(operation, HoldRequest):
            if outcome is None:
                self._opened[operation.request_id] = operation
                if operation.require_credit and self._sync_hold:
                    self._unsynced.append(job)
                    return
        else:
            self._opened.pop(operation.request_id, None)
            if (
                isinstance(operation, Settlement)
                and isinstance(outcome, int)
                and outcome < operation.charge_nusd
            ):
                _log.warning("%s cost more than its hold: the charge was cut", operation.request_id)
        job.answer(outcome)

    def _refuse(self, job: _Job, fault: Exception) -> None:
        operation = job.operation
        _log.error("the ledger refused %s: %r", operation, fault)
        if isinstance(fault, HoldEnded):
            self._opened.pop(operation.request_id, None)
            job.answer(False if isinstance(operation, Release) else None)
        else:
            job.answer(InternalError("The ledger refused this entry; the log says why."))

    def _defer(self, batch: list[_Job], fault: sqlite3.Error) -> None:
        """Try again soon while another process writes; else answer 503 and keep only the ends."""
        loop = asyncio.get_running_loop()
        locked = is_busy(fault)
        kept: list[_Job] = []
        for job in batch:
            waits = locked and loop.time() < job.deadline_s
            if not waits and not job.future.done():
                _log.error("storage is unavailable for %s: %s", job.operation.request_id, fault)
                job.answer(unavailable())
            if waits or not isinstance(job.operation, HoldRequest):
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
            loop = asyncio.get_running_loop()
            self._syncing = loop.run_in_executor(self._workers, self.database.sync_wal)
            self._syncing.add_done_callback(lambda done: self._synced(jobs, done))

    def _synced(self, jobs: list[_Job], done: asyncio.Future[None]) -> None:
        self._syncing = None
        fault = done.exception()
        if fault is not None:
            _log.error("the disk did not confirm what was written: %s", fault)
        for job in jobs:
            if isinstance(fault, OSError):
                job.answer(unavailable())
                self._submit(Release(job.operation.request_id)).future.cancel()
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
