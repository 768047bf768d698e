"""The seam to whoever keeps the counts: this process, the supervisor of several, or Redis.

A request asks three things of it: which of many subjects are full (before it decides), a place at some of
them, and, where the policy lets it wait, a turn in the queue. The gate of one process answers without giving
the loop away; the others take one round trip for each question.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from router.catalog.snapshot import Limits
from router.limits import Admission, Full, Standing, Subject, Ticket, Way


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Listing:
    """The subjects that questions are about; one object for as long as they are the same."""

    subjects: tuple[tuple[Subject, Limits], ...]


class Place(Protocol):
    """A request's place at its subjects, until it leaves."""

    def leave(self, used_tokens: int | None = None) -> None:
        """Give the place back and count what was really used; None keeps the estimate. May be repeated."""
        ...

    def withdraw(self) -> None:
        """Give the place back as if it had never been taken."""
        ...


class Turn(Protocol):
    """A request's turn in the queue."""


class Gate(Protocol):
    """Admit requests. No method raises for want of a counterpart: each gate has its own way to go on."""

    @property
    def waiting(self) -> int:
        """Return how many requests wait here."""
        ...

    async def full(self, listing: Listing, tokens: int) -> Mapping[Subject, Full]:
        """Return which subjects would not admit a request of `tokens` now."""
        ...

    async def enter(self, way: Way, tokens: int) -> Place | Full:
        """Take a place at every subject, or at none when one is full: the one that opens last is told."""
        ...

    async def enter_told(
        self, subject: Subject, limits: Limits, tokens: int
    ) -> tuple[Place | Full, Standing]:
        """Take a place at one subject, and say how it then stands to its limits."""
        ...

    async def standing(self, subject: Subject, limits: Limits) -> Standing:
        """Say how a subject stands to its limits of the minute; takes no place."""
        ...

    def line_up(self, seconds: float) -> Turn | None:
        """Return a turn to wait, of so many seconds in all; None when too many wait."""
        ...

    async def wait(self, turn: Turn, ways: Sequence[Way], tokens: int) -> bool:
        """Wait until one of the ways may be free; False when the turn ends before."""
        ...

    def end_turn(self, turn: Turn | None, *, came_in: bool) -> None:
        """Wait no more; what one that did not come in was woken for is offered to the next."""
        ...


class LocalGate:
    """Admit by the counts of this process; nothing here waits but `wait`."""

    def __init__(self, admission: Admission, clock: Callable[[], float]) -> None:
        self._admission = admission
        self._clock = clock

    @property
    def waiting(self) -> int:
        """Return how many requests wait here."""
        return len(self._admission.queue.waiting)

    async def full(self, listing: Listing, tokens: int) -> Mapping[Subject, Full]:
        """Return which subjects would not admit a request of `tokens` now."""
        return self._admission.full(listing.subjects, tokens, self._clock())

    async def enter(self, way: Way, tokens: int) -> Place | Full:
        """Take a place at every subject, or at none when one is full: the one that opens last is told."""
        return self._admission.admit(way, tokens)

    async def enter_told(
        self, subject: Subject, limits: Limits, tokens: int
    ) -> tuple[Place | Full, Standing]:
        """Take a place at one subject, and say how it then stands to its limits."""
        entered = self._admission.admit([(subject, limits)], tokens)
        return entered, self._admission.standing(subject, limits, self._clock())

    async def standing(self, subject: Subject, limits: Limits) -> Standing:
        """Say how a subject stands to its limits of the minute; takes no place."""
        return self._admission.standing(subject, limits, self._clock())

    def line_up(self, seconds: float) -> Ticket | None:
        """Return a turn to wait, of so many seconds in all; None when too many wait."""
        return self._admission.queue.line_up(seconds)

    async def wait(self, turn: Turn, ways: Sequence[Way], tokens: int) -> bool:
        """Wait until one of the ways may be free; False when the turn ends before."""
        if not isinstance(turn, Ticket):
            raise TypeError("this turn is another gate's")
        return await self._admission.queue.wait(turn, ways, tokens)

    def end_turn(self, turn: Turn | None, *, came_in: bool) -> None:
        """Wait no more; what one that did not come in was woken for is offered to the next."""
        if not came_in:
            self._admission.queue.wake([])
