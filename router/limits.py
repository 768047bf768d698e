"""Admission: how much may run at once and a minute, per offer, per provider and per API key.

A subject is any hashable name of one of them. The windows are exact: they keep the moment of each admission,
so that in no 60 seconds, wherever they begin, more than `rpm` requests or `tpm` tokens are admitted (a full
token bucket admits nearly twice as many in its first minute). All of it is in this process's memory.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field

from router.catalog.snapshot import Limits

WINDOW_S = 60.0
Subject = Hashable


@dataclass(slots=True, eq=False)
class _Entry:
    at_s: float
    tokens: int


@dataclass(slots=True)
class _Counts:
    """What runs at a subject, and what it admitted in the last minute; `tokens` is the sum over `entries`."""

    active: int = 0
    tokens: int = 0
    entries: deque[_Entry] = field(default_factory=deque)

    def expire(self, now_s: float) -> None:
        while self.entries and self.entries[0].at_s + WINDOW_S <= now_s:
            self.tokens -= self.entries.popleft().tokens

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
        reasons: list[tuple[float, str]] = []
        if limits.concurrency is not None and counts.active >= limits.concurrency:
            reasons.append((now_s + 1, "concurrency"))
        if limits.rpm is not None and len(counts.entries) >= limits.rpm:
            reasons.append((counts.entries[-limits.rpm].at_s + WINDOW_S, "rpm"))
        if limits.tpm is not None and counts.tokens > 0:
            excess = counts.tokens + min(tokens, limits.tpm) - limits.tpm
            if excess > 0:
                reasons.append((counts.opens_for_tokens_s(excess), "tpm"))
        if not reasons:
            return None
        opens_s, reason = max(reasons)
        return reason, max(1, math.ceil(opens_s - now_s))

    def enter(self, subjects: Iterable[tuple[Subject, Limits]], tokens: int) -> Place | None:
        """Take a place at every subject, or at none and return None when one of them is full.

        `tokens` is the estimate that counts until `Place.leave` says what was used.
        """
        now_s = self._clock()
        self._sweep(now_s)
        wanted = list(subjects)
        if any(self.blocked(subject, limits, tokens, now_s) for subject, limits in wanted):
            return None
        taken: list[tuple[_Counts, _Entry | None]] = []
        for subject, limits in wanted:
            counts = self._counts.setdefault(subject, _Counts())
            counts.active += 1
            entry = None
            # An entry costs memory for a minute, so only what is limited by the minute is remembered.
            if limits.rpm is not None or limits.tpm is not None:
                entry = _Entry(now_s, tokens)
                counts.entries.append(entry)
                counts.tokens += tokens
            taken.append((counts, entry))
        return Place(taken, self._clock)

    def active(self, subject: Subject) -> int:
        """Return how many requests run at a subject."""
        counts = self._counts.get(subject)
        return counts.active if counts else 0

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


class Place:
    """A request's place at its subjects, until it leaves."""

    def __init__(self, taken: list[tuple[_Counts, _Entry | None]], clock: Callable[[], float]) -> None:
        self._taken = taken
        self._clock = clock

    def leave(self, used_tokens: int | None = None) -> None:
        """Give the place back and count what was really used; None keeps the estimate. May be repeated."""
        taken, self._taken = self._taken, []
        now_s = self._clock()
        for counts, entry in taken:
            counts.active -= 1
            counts.expire(now_s)
            # An entry that has left the window has left the sum too.
            if entry is not None and used_tokens is not None and now_s < entry.at_s + WINDOW_S:
                counts.tokens += used_tokens - entry.tokens
                entry.tokens = used_tokens
