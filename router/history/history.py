"""Take ended requests in while serving, and write them together from time to time."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from pathlib import Path

from msgspec.structs import replace

from router.errors import Unavailable
from router.history.figures import batch_of
from router.history.record import Record
from router.history.store import Store
from router.ledger.ledger import Ledger

FLUSH_S = 1.0
FORGET_S = 60.0
MOST_WAITING = 20_000
MOST_WORDS = 2_000
BATCH = 500  # summed up between two turns of the loop: 2,000 would stop it for 4 ms
_log = logging.getLogger("router.history")


class History:
    """The history of one process's requests; `store` reads those of all.

    What waits to be written is lost when the process is killed: the last second. The ledger loses nothing.
    `clock` gives seconds since 1970. While storage is away the newest MOST_WAITING wait.
    """

    def __init__(self, store: Store, keep_requests: int, clock: Callable[[], float]) -> None:
        self.store = store
        self._keep_requests = keep_requests
        self._clock = clock
        self._waiting: deque[Record] = deque(maxlen=MOST_WAITING)
        self._writing = asyncio.Lock()
        self._away = False

    def note(self, record: Record) -> None:
        """Take a request that has ended; its words only while few wait, for they are large."""
        if record.words is not None and len(self._waiting) >= MOST_WORDS:
            record = replace(record, words=None)
        self._waiting.append(record)

    async def start(self) -> None:
        """Open the store; a service whose pages have no figures serves all the same."""
        try:
            await self.store.start()
        except Unavailable as fault:
            self._lost(fault)

    async def run(self) -> None:
        """Write and forget until cancelled."""
        since_forget_s = FORGET_S
        while True:
            await asyncio.sleep(FLUSH_S)
            since_forget_s += FLUSH_S
            try:
                await self.flush()
                if since_forget_s >= FORGET_S:
                    since_forget_s = 0.0
                    await self.store.forget(self._keep_requests, self._clock())
            except Unavailable as fault:
                self._lost(fault)
            except Exception:  # noqa: BLE001 - answers for a background task, which must not end
                _log.exception("what requests came to could not be written")

    async def flush(self) -> None:
        """Write what waits. Raises Unavailable; it then waits on."""
        async with self._writing:
            while self._waiting:
                records = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
                try:
                    await self.store.write(batch_of(records))
                except Unavailable:
                    room = MOST_WAITING - len(self._waiting)
                    self._waiting.extendleft(reversed(records[-room:] if room else []))
                    raise
                if self._away:
                    self._away = False
                    _log.info("what requests came to is written again")

    async def close(self) -> None:
        """Write what waits and close."""
        try:
            await self.flush()
            await self.store.close()
        except Unavailable as fault:
            self._lost(fault)

    def _lost(self, fault: Unavailable) -> None:
        if not self._away:
            self._away = True
            _log.error("%s Requests are served; the newest %d wait for it.", fault.message, MOST_WAITING)


def open_history(
    data: Path,
    database_url: str | None,
    keep_requests: int,
    clock: Callable[[], float],
    ledger: Ledger | None = None,
) -> History | None:
    """Return the history where the ledger is kept, None where none is wanted.

    A `ledger` of PostgreSQL shares its connection; close the history before it.
    """
    if not keep_requests:
        return None
    if database_url is not None:
        from router.history.postgres import PostgresStore
        from router.ledger.postgres import Link
        from router.ledger.postgres_ledger import PostgresLedger

        if isinstance(ledger, PostgresLedger):
            return History(PostgresStore(*ledger.side), keep_requests, clock)
        return History(PostgresStore(Link(database_url)), keep_requests, clock)
    from router.history.sqlite import SqliteStore

    return History(SqliteStore(data), keep_requests, clock)
