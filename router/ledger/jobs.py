"""What a ledger keeps in memory: the holds that are open, and the holds and ends that wait to be written."""

from __future__ import annotations

import asyncio
import logging
from typing import cast

from router.errors import InternalError, RouterError
from router.ledger.journal import Journal
from router.ledger.posting import Entry, HoldEnded, Outcome, charge_of
from router.ledger.rows import End, HoldRequest, Release, Settlement

_log = logging.getLogger("router.ledger")


class Job(Entry, eq=False):
    """One entry on its way into the database."""

    future: asyncio.Future[Outcome] | None  # None: nobody waits for it
    deadline_s: float | None = None  # until when it is waited for
    overdue: bool = False  # it was logged, and who waited was told
    unsure: bool = False  # a commit was sent that may have written it

    @property
    def left(self) -> bool:
        """Say whether this is a hold whose caller has gone."""
        return self.end is None and self.future is not None and self.future.done()

    def answer(self, outcome: Outcome) -> None:
        """Tell who waits, if anybody still does."""
        if self.future is None or self.future.done():
            return
        if isinstance(outcome, RouterError):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)


class Jobs:
    """Take ends for the holds of this process, the first one of each; an engine writes `_jobs`."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self._loop: asyncio.AbstractEventLoop | None = None
        self._opened: dict[str, HoldRequest] = {}  # as the database has them
        self._ending: set[str] = set()  # those of them whose end waits to be written
        self._jobs: list[Job] = []

    @property
    def held_nusd(self) -> int:
        """Return what this process holds for requests in progress."""
        return sum([hold.amount_nusd for hold in self._opened.values()])

    async def settle(self, end: End) -> int | None:
        """End a hold; return the nano-USD charged, 0 for a release, None when it had already ended."""
        job = self._submit(end, self._running_loop().create_future())
        return None if job is None or job.future is None else cast("int | None", await job.future)

    async def release(self, request_id: str) -> bool:
        """End a hold without a charge; return False when it had already ended."""
        job = self._submit(Release(request_id), self._running_loop().create_future())
        return False if job is None or job.future is None else await job.future is not None

    def end(self, end: End) -> int | None:
        """End a hold without waiting until it is written; return what it charges."""
        job = self._submit(end, None)
        return None if job is None else charge_of(job.hold, end)

    def _end_came(self, job: Job) -> None:
        """See to it that an end is written."""
        raise NotImplementedError

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:  # kept, since asking for it is a system call on Python 3.11
            self._loop = asyncio.get_running_loop()
        return self._loop

    def _submit(self, end: End, future: asyncio.Future[Outcome] | None) -> Job | None:
        request_id = end.request_id
        hold = self._opened.get(request_id)
        if hold is None or request_id in self._ending:
            return None
        self._ending.add(request_id)
        job = Job(hold, end, future)
        self._jobs.append(job)
        self._end_came(job)
        return job

    def _ended(self, hold: HoldRequest, end: End, outcome: Outcome) -> None:
        del self._opened[hold.request_id]
        self._ending.discard(hold.request_id)
        self.journal.end(hold.request_id)
        if outcome is None:
            _log.warning("%s had ended already: nothing came of %r", hold.request_id, end)
        elif isinstance(end, Settlement) and outcome != end.charge_nusd:
            _log.warning("%s cost more than its hold: the charge was cut", hold.request_id)

    def _refuse(self, job: Job, fault: Exception) -> None:
        """Give up an entry that the database will never take."""
        request_id = job.hold.request_id
        if job.end is not None:
            self._ending.discard(request_id)
        if isinstance(fault, HoldEnded):
            _log.warning("%s had ended already: nothing came of %r", request_id, job.end)
            self._opened.pop(request_id, None)
            self.journal.end(request_id)
            job.answer(None)
        else:
            _log.error("the ledger refused %s: %r", job.end or job.hold, fault)
            job.answer(InternalError("The ledger refused this entry; the log says why."))
