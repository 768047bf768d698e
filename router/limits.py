"""Admission: how much may run at once and a minute, per offer, per provider and per API key.

A subject is any hashable name of one of them. The windows are exact: they keep the moment of each admission,
so that in no 60 seconds, wherever they begin, more than `rpm` requests or `tpm` tokens are admitted (a full
token bucket admits nearly twice as many in its first minute). All of it is in this process's memory.

Who may wait for a place does so in the `Queue`, first come first served.
"""

from __future__ import annotations

import asyncio
import math
from bisect import insort
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from msgspec import Struct

from router.catalog.snapshot import Limits

WINDOW_S = 60.0
MAX_WAITING = 1_000
# A place that is free already has no event to come; and who could not use one should not ask in a circle.
RECHECK_S = 0.05
Subject = Hashable
Way = Sequence[tuple[Subject, Limits]]


class Full(Struct, frozen=True, gc=False):
    """Say that a subject admits nobody now: the limit that opens last, and in how many whole seconds."""

    word: str
    wait_s: int


class Window(Struct, frozen=True, gc=False):
    """One limit of the minute: how much of it is left, and in how many seconds all of it is."""

    limit: int
    left: int
    reset_s: float


class Standing(Struct, frozen=True, gc=False):
    """Say how a subject stands to its limits of the minute; None where there is none."""

    requests: Window | None = None
    tokens: Window | None = None


@dataclass(slots=True, eq=False)
class _Entry:
    at_s: float
    tokens: int
    number: int = 0


@dataclass(slots=True)
class _Counts:
    """What runs at a subject, and what it admitted in the last minute; `tokens` is the sum over `entries`."""

    active: int = 0
    tokens: int = 0
    entries: deque[_Entry] = field(default_factory=deque)

    def expire(self, now_s: float) -> None:
        while self.entries and self.entries[0].at_s + WINDOW_S <= now_s:
            self.tokens -= self.entries.popleft().tokens

    def windows(self, limits: Limits, tokens: int) -> list[tuple[float, str]]:
        """Return when each limit of the minute that is reached opens for `tokens`, once it is expired."""
        reached: list[tuple[float, str]] = []
        if limits.rpm is not None and len(self.entries) >= limits.rpm:
            reached.append((self.entries[-limits.rpm].at_s + WINDOW_S, "rpm"))
        if limits.tpm is not None and self.tokens > 0:
            excess = self.tokens + min(tokens, limits.tpm) - limits.tpm
            if excess > 0:
                reached.append((self.opens_for_tokens_s(excess), "tpm"))
        return reached

    def opens_for_tokens_s(self, excess: int) -> float:
        """Return when `excess` tokens will have left the window."""
        for entry in self.entries:
            excess -= entry.tokens
            if excess <= 0:
                return entry.at_s + WINDOW_S
        return self.entries[-1].at_s + WINDOW_S


class Admission:
    """Count requests and tokens per subject; `clock` is monotonic, in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._counts: dict[Subject, _Counts] = {}
        self._swept_s = clock()
        self.queue = Queue(self, clock)

    def blocked(self, subject: Subject, limits: Limits, tokens: int, now_s: float) -> tuple[str, int] | None:
        """Return why a request of `tokens` is not admitted and the seconds until it may be, or None.

        `now_s` is a reading of the clock. The reason is "concurrency", "rpm" or "tpm", the one that opens
        last; the seconds are whole and at least 1 (a place that a running request holds may open at any
        time: 1). A request of more tokens than `tpm` waits for an empty window, else it could never run.
        """
        counts = self._counts.get(subject)
        if counts is None:
            return None
        counts.expire(now_s)
        reasons = counts.windows(limits, tokens)
        if limits.concurrency is not None and counts.active >= limits.concurrency:
            reasons.append((now_s + 1, "concurrency"))
        if not reasons:
            return None
        opens_s, reason = max(reasons)
        return reason, max(1, math.ceil(opens_s - now_s))

    def full(self, way: Way, tokens: int, now_s: float) -> dict[Subject, Full]:
        """Return those of many subjects that do not admit a request of `tokens`."""
        found: dict[Subject, Full] = {}
        known = self._counts
        if known:
            for subject, limits in way:
                if subject in known and (why := self.blocked(subject, limits, tokens, now_s)) is not None:
                    found[subject] = Full(*why)
        return found

    def standing(self, subject: Subject, limits: Limits, now_s: float) -> Standing:
        """Return what is left of a subject's limits of the minute."""
        counts = self._counts.get(subject) or _Counts()
        counts.expire(now_s)
        reset_s = counts.entries[-1].at_s + WINDOW_S - now_s if counts.entries else 0.0
        return Standing(
            None
            if limits.rpm is None
            else Window(limits.rpm, max(0, limits.rpm - len(counts.entries)), reset_s),
            None if limits.tpm is None else Window(limits.tpm, max(0, limits.tpm - counts.tokens), reset_s),
        )

    def opens_s(self, subject: Subject, limits: Limits, tokens: int, now_s: float) -> float:
        """Return when the minute admits a request of `tokens`, whatever runs; `now_s` when it does."""
        counts = self._counts.get(subject)
        if counts is None:
            return now_s
        counts.expire(now_s)
        return max((opens_s for opens_s, _ in counts.windows(limits, tokens)), default=now_s)

    def enter(self, subjects: Iterable[tuple[Subject, Limits]], tokens: int, number: int = 0) -> Place | None:
        """Take a place at every subject, or at none and return None when one of them is full.

        `tokens` is the estimate that counts until `Place.leave` says what was used.
        """
        now_s = self._clock()
        wanted = list(subjects)
        if any(self.blocked(subject, limits, tokens, now_s) for subject, limits in wanted):
            return None
        return self.take(wanted, tokens, number)

    def admit(self, way: Way, tokens: int, number: int = 0) -> Place | Full:
        """Take a place like `enter`, say what opens last where one is full, and see to who waits."""
        place = self.enter(way, tokens, number)
        if self.queue.handed:  # who was woken came in, or another: is there room yet?
            self.queue.wake([])
        if place is not None:
            return place
        reasons = self.full(way, tokens, self._clock()).values()
        # One that opened in between is a place that was given back this moment.
        return max(reasons, key=lambda each: each.wait_s, default=Full("concurrency", 1))

    def take(self, subjects: Iterable[tuple[Subject, Limits]], tokens: int, number: int = 0) -> Place:
        """Take a place at every subject whether it is full or not: somebody else has admitted the request.

        `number` is that of the entries in `held`.
        """
        now_s = self._clock()
        self._sweep(now_s)
        taken: list[_Taken] = []
        for subject, limits in subjects:
            counts = self._counts.setdefault(subject, _Counts())
            counts.active += 1
            entry = None
            # An entry costs memory for a minute, so only what is limited by the minute is remembered.
            if limits.rpm is not None or limits.tpm is not None:
                entry = _Entry(now_s, tokens, number)
                counts.entries.append(entry)
                counts.tokens += tokens
            taken.append((subject, counts, entry))
        return Place(taken, self._clock, self.queue)

    def active(self, subject: Subject) -> int:
        """Return how many requests run at a subject."""
        counts = self._counts.get(subject)
        return counts.active if counts else 0

    def held(self) -> Iterator[tuple[Subject, int, list[tuple[int, float, int]]]]:
        """Yield what runs at each subject and what its minute admitted: (number, age in seconds, tokens)."""
        now_s = self._clock()
        for subject, counts in self._counts.items():
            counts.expire(now_s)
            entries = [(entry.number, now_s - entry.at_s, entry.tokens) for entry in counts.entries]
            if counts.active or entries:
                yield subject, counts.active, entries

    def _sweep(self, now_s: float) -> None:
        """Forget, once a minute, the subjects at which nothing runs or counts any more."""
        if now_s - self._swept_s < WINDOW_S:
            return
        self._swept_s = now_s
        for counts in self._counts.values():
            counts.expire(now_s)
        self._counts = {
            subject: counts for subject, counts in self._counts.items() if counts.active or counts.entries
        }


_Taken = tuple[Subject, _Counts, _Entry | None]


class Place:
    """A request's place at its subjects, until it leaves."""

    def __init__(self, taken: list[_Taken], clock: Callable[[], float], queue: Queue) -> None:
        self._taken = taken
        self._clock = clock
        self._queue = queue

    def leave(self, used_tokens: int | None = None) -> None:
        """Give the place back and count what was really used; None keeps the estimate. May be repeated."""
        taken, self._taken = self._taken, []
        now_s = self._clock()
        for _, counts, entry in taken:
            counts.active -= 1
            counts.expire(now_s)
            # An entry that has left the window has left the sum too.
            if entry is not None and used_tokens is not None and now_s < entry.at_s + WINDOW_S:
                counts.tokens += used_tokens - entry.tokens
                entry.tokens = used_tokens
        if self._queue.waiting:
            self._queue.wake([subject for subject, _, _ in taken])

    def withdraw(self) -> None:
        """Give the place back as if it had never been taken: the minute forgets the request too."""
        for _, counts, entry in self._taken:
            if entry is not None and entry in counts.entries:
                counts.entries.remove(entry)
                counts.tokens -= entry.tokens
        self.leave()


@dataclass(slots=True, eq=False)
class Ticket:
    """A request's turn in the queue, which it keeps while it waits again; times are the clock's.

    It waits for the first of its `ways` that is free at every subject, until `until_s`.
    """

    number: int
    until_s: float
    ways: Sequence[Way] = ()
    tokens: int = 0
    ways_at: dict[Subject, list[Way]] = field(default_factory=dict)
    rests_until_s: float = 0.0
    looks_s: float = math.inf
    woken: asyncio.Future[None] | None = None


class Queue:
    """Let requests wait for a place, first come first served; from one event loop.

    A place that is given back wakes the first who could take it. Nothing is kept for who was woken: it asks
    again, and that its place is taken, or is not what it wants, wakes the next. What opens with the minute
    has a timer. `handed` are the subjects for which somebody was woken and may still come.
    """

    def __init__(self, admission: Admission, clock: Callable[[], float], most: int = MAX_WAITING) -> None:
        self._admission = admission
        self._clock = clock
        self._most = most
        self._last_number = 0
        self._timer: asyncio.TimerHandle | None = None
        self.waiting: list[Ticket] = []  # by number
        self.handed: set[Subject] = set()

    def line_up(self, seconds: float) -> Ticket | None:
        """Return a turn that ends in so many seconds, None when too many wait."""
        if len(self.waiting) >= self._most:
            return None
        self._last_number += 1
        return Ticket(self._last_number, self._clock() + seconds)

    async def wait(self, ticket: Ticket, ways: Sequence[Way], tokens: int) -> bool:
        """Wait until one of the ways may be free; False when the turn ends before."""
        now_s = self._clock()
        ticket.ways, ticket.tokens = ways, tokens
        ticket.ways_at = {}
        for way in ways:
            for subject, _ in way:
                ticket.ways_at.setdefault(subject, []).append(way)
        ticket.rests_until_s = 0.0
        if self._free_way(ticket, ways, now_s, {}):
            ticket.rests_until_s = now_s + RECHECK_S
        ticket.looks_s = self._looks_s(ticket, now_s)
        ticket.woken = woken = asyncio.get_running_loop().create_future()
        insort(self.waiting, ticket, key=_number)
        self._arm(now_s)
        self.wake([])  # what this one was woken for and could not use
        try:
            await asyncio.wait({woken}, timeout=max(0.0, ticket.until_s - now_s))
        finally:
            if not woken.done():
                self.waiting.remove(ticket)
        return woken.done()

    def wake(self, subjects: Iterable[Subject]) -> None:
        """Wake the first who may use what is free at these subjects, or at those handed on before."""
        self.handed.update(subjects)
        if not self.handed:
            return
        now_s = self._clock()
        full: dict[Subject, int] = {}
        for ticket in self.waiting:
            ways = [way for subject in self.handed for way in ticket.ways_at.get(subject, ())]
            if self._free_way(ticket, ways, now_s, full):
                self._rouse(ticket)
                return
        self.handed.clear()

    def _rouse(self, ticket: Ticket) -> None:
        self.waiting.remove(ticket)
        if ticket.woken is not None:
            ticket.woken.set_result(None)

    def _free_way(
        self, ticket: Ticket, ways: Iterable[Way], now_s: float, full: dict[Subject, int]
    ) -> Way | None:
        """Return a way that is free; `full` remembers from how many tokens on a subject takes nothing."""
        if now_s < ticket.rests_until_s:
            return None
        tokens = ticket.tokens
        for way in ways:
            for subject, limits in way:
                least_tokens = full.get(subject)
                if least_tokens is not None and tokens >= least_tokens:
                    break
                if self._admission.blocked(subject, limits, tokens, now_s):
                    full[subject] = tokens
                    break
            else:
                return way
        return None

    def _looks_s(self, ticket: Ticket, now_s: float) -> float:
        """Return when the minute next opens one of a request's ways; places that run tell by themselves."""
        opens_s, tokens = self._admission.opens_s, ticket.tokens
        soonest_s = ticket.rests_until_s if now_s < ticket.rests_until_s else math.inf
        for way in ticket.ways:
            way_s = max(opens_s(subject, limits, tokens, now_s) for subject, limits in way)
            if now_s < way_s < soonest_s:
                soonest_s = way_s
        return soonest_s

    def _arm(self, now_s: float) -> None:
        """Set the timer for the next opening."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        looks_s = min((ticket.looks_s for ticket in self.waiting), default=math.inf)
        if looks_s < math.inf:
            self._timer = asyncio.get_running_loop().call_later(max(0.001, looks_s - now_s), self._look)

    def _look(self) -> None:
        """Wake the first for whom the minute has opened; its coming in wakes the next."""
        now_s = self._clock()
        first: Ticket | None = None
        full: dict[Subject, int] = {}
        for ticket in self.waiting:
            if ticket.looks_s > now_s:
                continue
            way = self._free_way(ticket, ticket.ways, now_s, full)
            if way is not None and first is None:
                first = ticket
                self.handed.update(subject for subject, _ in way)
            else:
                ticket.looks_s = now_s + RECHECK_S if way is not None else self._looks_s(ticket, now_s)
        if first is not None:
            self._rouse(first)
        self._arm(now_s)


def _number(ticket: Ticket) -> int:
    return ticket.number
