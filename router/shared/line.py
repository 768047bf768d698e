"""Requests of this replica that wait for a place in counts which others change too.

Nobody tells when a place at another replica comes free, so the first in line are looked after every POLL_S
and whenever a place was given back here. The order holds within a replica, not over all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
from bisect import insort
from collections.abc import Awaitable, Callable, Mapping, Sequence

from router.gate import Listing
from router.limits import MAX_WAITING, Full, Subject, Way

POLL_S = 0.05
_LOOKED_AFTER = 16


class Waiting:
    """One request's turn, which it keeps while it waits again."""

    def __init__(self, number: int, until_s: float) -> None:
        self.number = number
        self.until_s = until_s
        self.ways: Sequence[Way] = ()
        self.listing = Listing(())
        self.tokens = 0
        self.woken: asyncio.Future[None] | None = None


class Line:
    """The turns of one replica; `full` asks which subjects are full, `clock` is monotonic."""

    def __init__(
        self,
        full: Callable[[Listing, int], Awaitable[Mapping[Subject, Full]]],
        clock: Callable[[], float],
    ) -> None:
        self._full = full
        self._clock = clock
        self._last_number = 0
        self._turns = 0
        self._waiting: list[Waiting] = []
        self._poked = asyncio.Event()
        self._polling: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def up(self, seconds: float) -> Waiting | None:
        """Return a turn of so many seconds, None when too many have one."""
        if self._turns >= MAX_WAITING:
            return None
        self._turns += 1
        self._last_number += 1
        return Waiting(self._last_number, self._clock() + seconds)

    async def wait(self, turn: Waiting, ways: Sequence[Way], tokens: int) -> bool:
        """Wait until one of the ways may be free; False when the turn ends before."""
        loop = asyncio.get_running_loop()
        turn.ways, turn.tokens = ways, tokens
        turn.listing = Listing(tuple({subject: limits for way in ways for subject, limits in way}.items()))
        turn.woken = woken = loop.create_future()
        insort(self._waiting, turn, key=_number)
        if self._polling is None or self._polling.done():
            self._polling = loop.create_task(self._poll())
        try:
            await asyncio.wait({woken}, timeout=max(0.0, turn.until_s - self._clock()))
        finally:
            if not woken.done():
                self._waiting.remove(turn)
        return woken.done()

    def leave(self, turn: Waiting) -> None:
        """End a turn."""
        self._turns -= 1

    def poke(self) -> None:
        """Look at once: a place was given back here."""
        if self._waiting:
            self._poked.set()

    async def _poll(self) -> None:
        while self._waiting:
            self._poked.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._poked.wait(), POLL_S)
            first = self._waiting[:_LOOKED_AFTER]
            answers = await asyncio.gather(*(self._full(turn.listing, turn.tokens) for turn in first))
            for turn, full in zip(first, answers, strict=True):
                free = any(all(subject not in full for subject, _ in way) for way in turn.ways)
                if free and turn.woken is not None and not turn.woken.done():
                    self._waiting.remove(turn)
                    turn.woken.set_result(None)
                    break


def _number(turn: Waiting) -> int:
    return turn.number
