"""Admit by counts that several machines share in Redis, and by a part of the limits while it is away.

What this replica admitted is kept here as well. While Redis is away it is all there is: each replica then
admits its part, the limits divided by the number of replicas last seen. When Redis is back, each tells it
what runs and what the last minute admitted, so nothing is forgotten, also when Redis has lost its memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, cast
from weakref import WeakKeyDictionary

import msgspec

from router.catalog.snapshot import Limits
from router.gate import Listing, Turn
from router.gate import Place as AnyPlace
from router.limits import Admission, Full, Place, Standing, Subject, Way, Window
from router.shared.line import Line, Waiting
from router.shared.wire import Away, Wire

BEAT_S = 1.0
PROBE_S = 0.5
# More than a beat and the longest step that limits.lua lets its time make: no clock ends a lease early.
LEASE_S = 6.0
_JOIN_ENTRIES = 500
_US = 1_000_000
_AS_ESTIMATED, _WITHDRAWN = -1, -2
_pack = msgspec.msgpack.Encoder().encode
_log = logging.getLogger("router.shared")


class SharedGate:
    """One replica's gate; `run` keeps it in touch with Redis. `clock` is monotonic, in seconds."""

    def __init__(self, url: str, clock: Callable[[], float]) -> None:
        """Take the URL of a Redis. Raises ValueError for one that cannot be used."""
        self.wire = Wire(url, self._lost)
        self.name = secrets.token_hex(6)
        self.replicas = 1
        self.shared = False
        self._clock = clock
        self._admission = Admission(clock)
        self._life = 0
        self._last_number = 0
        self._joining: asyncio.Future[None] | None = None
        self._again = asyncio.Event()
        self._tried = asyncio.Event()
        self._told_away = False
        self._packed: WeakKeyDictionary[Listing, bytes] = WeakKeyDictionary()
        self._line = Line(self.full, clock)

    @property
    def replica(self) -> str:
        """Return the name under which this replica holds places; it is new each time Redis was away."""
        return f"{self.name}.{self._life}"

    @property
    def waiting(self) -> int:
        """Return how many requests wait here."""
        return len(self._line)

    async def full(self, listing: Listing, tokens: int) -> Mapping[Subject, Full]:
        """Return which subjects would not admit a request of `tokens` now."""
        if await self._is_shared():
            packed = self._packed.get(listing)
            if packed is None:
                packed = self._packed[listing] = _packed(listing.subjects)
            with contextlib.suppress(Away):
                found = await self.wire.deed("ask", tokens, packed)
                return {listing.subjects[i][0]: _full(wait_us, word) for i, wait_us, word in found}
        return self._admission.full(self._part(listing.subjects), tokens, self._clock())

    async def enter(self, way: Way, tokens: int) -> AnyPlace | Full:
        """Take a place at every subject, or at none when one is full: the one that opens last is told."""
        return (await self._enter(way, tokens))[0]

    async def enter_told(
        self, subject: Subject, limits: Limits, tokens: int
    ) -> tuple[AnyPlace | Full, Standing]:
        """Take a place at one subject, and say how it then stands to its limits."""
        return await self._enter([(subject, limits)], tokens)

    async def standing(self, subject: Subject, limits: Limits) -> Standing:
        """Say how a subject stands to its limits of the minute; takes no place."""
        if await self._is_shared():
            with contextlib.suppress(Away):
                count, used, reset_us = await self.wire.deed("look", _name(subject))
                return _standing(limits, count, used, reset_us / _US)
        [(_, part)] = self._part([(subject, limits)])
        return self._admission.standing(subject, part, self._clock())

    def line_up(self, seconds: float) -> Turn | None:
        """Return a turn to wait, of so many seconds in all; None when too many wait here."""
        return self._line.up(seconds)

    async def wait(self, turn: Turn, ways: Sequence[Way], tokens: int) -> bool:
        """Wait until one of the ways may be free; False when the turn ends before."""
        return await self._line.wait(cast(Waiting, turn), ways, tokens)

    def end_turn(self, turn: Turn | None, *, came_in: bool) -> None:
        """Wait no more; what one that did not come in was woken for is offered to the next."""
        if turn is not None:
            self._line.leave(cast(Waiting, turn))

    async def tried(self) -> None:
        """Wait until `run` has joined, or has found that Redis is away."""
        await self._tried.wait()

    async def run(self) -> None:
        """Join, keep the lease, and join again after Redis was away; until cancelled."""
        carrying = asyncio.create_task(self.wire.run())
        try:
            while True:
                if not self.shared:
                    await self._join()
                self._tried.set()
                self._again.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._again.wait(), BEAT_S if self.shared else PROBE_S)
                if self.shared:
                    await self._beat()
        finally:
            if self.shared:
                self.shared = False
                with contextlib.suppress(Away):
                    await self.wire.deed("part", self.replica)
            carrying.cancel()
            await asyncio.gather(carrying, return_exceptions=True)

    async def _beat(self) -> None:
        """Renew the lease; who lost it was thought dead, and must say anew what it holds."""
        with contextlib.suppress(Away):
            had, count = await self.wire.deed("beat", self.replica, int(LEASE_S * _US))
            self.replicas = max(1, count)
            if not had:
                self._lost()

    async def _join(self) -> None:
        """Tell Redis what this replica holds; requests that come meanwhile wait for the end of it."""
        try:
            await self.wire.submit(("PING",))
        except Away as fault:
            self._tell_away(str(fault))
            return
        before, self._life = self.replica, self._life + 1
        self._joining = asyncio.get_running_loop().create_future()
        lease_us = int(LEASE_S * _US)
        try:
            parts = [
                self.wire.deed("join", self.replica, before, lease_us, _pack(part)) for part in self._held()
            ]
            for each in parts:
                self.replicas = max(1, await each)
            self.shared = True
        except Away as fault:
            self._tell_away(str(fault))
        finally:
            self._joining.set_result(None)
            self._joining = None
        if self.shared:
            _log.info("limits are shared through Redis with %d replicas in all", self.replicas)
            self._told_away = False

    def _held(self) -> Iterator[list[tuple[str, int, list[tuple[str, int, int]]]]]:
        """Yield what runs here and what the last minute admitted, in parts that Redis takes at once."""
        part: list[tuple[str, int, list[tuple[str, int, int]]]] = []
        size = 0
        for subject, running, entries in list(self._admission.held()):
            named = [(self._entry(number), int(age_s * _US), tokens) for number, age_s, tokens in entries]
            for at in range(0, max(1, len(named)), _JOIN_ENTRIES):
                some = named[at : at + _JOIN_ENTRIES]
                part.append((_name(subject), 0 if at else running, some))
                size += 1 + len(some)
                if size >= _JOIN_ENTRIES:
                    yield part
                    part, size = [], 0
        yield part

    def _lost(self) -> None:
        """Go on alone at once; `run` sees to the rest."""
        if self.shared:
            self.shared = False
            self._again.set()

    def _tell_away(self, why: str) -> None:
        if not self._told_away:
            self._told_away = True
            _log.error(
                "Redis does not answer (%s): this replica goes on with its part of the limits, one of %d",
                why or "no reason given",
                self.replicas,
            )

    async def _is_shared(self) -> bool:
        if self._joining is not None:
            await asyncio.shield(self._joining)
        return self.shared

    def _entry(self, number: int) -> str:
        return f"{self.name}/{number}"

    def _part(self, way: Way) -> Way:
        """Return this replica's part of the limits."""
        return [(subject, _divided(limits, self.replicas)) for subject, limits in way]

    async def _enter(self, way: Way, tokens: int) -> tuple[AnyPlace | Full, Standing]:
        self._last_number = number = self._last_number + 1
        if not await self._is_shared():
            return self._enter_alone(way, tokens, number)
        replica, subject_limits = self.replica, way[0][1]

        def apply(reply: Any) -> tuple[AnyPlace | Full, Standing] | None:
            state, word, wait_us, count, used, reset_us = reply
            if state < 0:
                self._lost()
                return None
            standing = _standing(subject_limits, count, used, reset_us / _US)
            if not state:
                return _full(word, wait_us), standing
            place = _SharedPlace(self, self._admission.take(way, tokens, number), number, way)
            if asked.cancelled():
                place.withdraw()
            return place, standing

        asked = self.wire.deed("enter", replica, self._entry(number), tokens, _packed(way), apply=apply)
        try:
            entered: tuple[AnyPlace | Full, Standing] | None = await asked
        except Away:
            entered = None
        except asyncio.CancelledError:
            if asked.done() and not asked.cancelled() and asked.exception() is None and asked.result():
                entered_place = asked.result()[0]
                if not isinstance(entered_place, Full):
                    entered_place.withdraw()
            raise
        return entered or self._enter_alone(way, tokens, number)

    def _enter_alone(self, way: Way, tokens: int, number: int) -> tuple[AnyPlace | Full, Standing]:
        """Admit by this replica's part of the limits."""
        part = self._part(way)
        entered = self._admission.admit(part, tokens, number)
        standing = self._admission.standing(*part[0], self._clock())
        if isinstance(entered, Full):
            return entered, standing
        return _SharedPlace(self, entered, number, way), standing

    def left(self, number: int, names: list[str], used: int) -> None:
        """Tell Redis that a place was given back; what was held before a join is this replica's since it."""
        if self.shared or self._joining is not None:
            self.wire.deed("leave", self.replica, self._entry(number), used, _pack(names))
        self._line.poke()


class _SharedPlace:
    """A place here and in Redis."""

    def __init__(self, gate: SharedGate, place: Place, number: int, way: Way) -> None:
        self._gate: SharedGate | None = gate
        self._place = place
        self._number = number
        self._names = [_name(subject) for subject, _ in way]

    def leave(self, used_tokens: int | None = None) -> None:
        """Give the place back and count what was really used; None keeps the estimate. May be repeated."""
        self._place.leave(used_tokens)
        self._end(_AS_ESTIMATED if used_tokens is None else used_tokens)

    def withdraw(self) -> None:
        """Give the place back as if it had never been taken."""
        self._place.withdraw()
        self._end(_WITHDRAWN)

    def _end(self, used: int) -> None:
        gate, self._gate = self._gate, None
        if gate is not None:
            gate.left(self._number, self._names, used)


def _name(subject: Subject) -> str:
    return ":".join(cast("tuple[str, ...]", subject))


def _packed(way: Way) -> bytes:
    return _pack(
        [
            (_name(subject), limits.concurrency or False, limits.rpm or False, limits.tpm or False)
            for subject, limits in way
        ]
    )


def _full(word: bytes, wait_us: int) -> Full:
    return Full(word.decode(), max(1, math.ceil(wait_us / _US)))


def _standing(limits: Limits, count: int, used: int, reset_s: float) -> Standing:
    rpm, tpm = limits.rpm, limits.tpm
    return Standing(
        None if rpm is None else Window(rpm, max(0, rpm - count), reset_s),
        None if tpm is None else Window(tpm, max(0, tpm - used), reset_s),
    )


@lru_cache(maxsize=4_096)
def _divided(limits: Limits, count: int) -> Limits:
    return Limits(*(_share(each, count) for each in (limits.concurrency, limits.rpm, limits.tpm)))


def _share(limit: int | None, count: int) -> int | None:
    return None if limit is None else max(1, limit // count)
