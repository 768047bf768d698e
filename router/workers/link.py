"""A worker's side: its limits, its colleagues' numbers and their reloads, all asked of the supervisor."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Self, TypeVar, cast
from weakref import WeakKeyDictionary

from router.catalog.snapshot import Limits
from router.errors import Unavailable
from router.gate import Listing, Place, Turn
from router.limits import MAX_WAITING, Full, Standing, Subject, Way
from router.workers.messages import (
    Ask,
    Begin,
    Crew,
    Do,
    Done,
    EndTurn,
    Enter,
    Entered,
    Fulls,
    Gather,
    Gathered,
    Leave,
    Line,
    Listed,
    Look,
    Looked,
    Message,
    Ready,
    ReloadOthers,
    ToWorker,
    Wait,
    WireWay,
    Woken,
)

Reply = TypeVar("Reply", bound=Message)
Deed = Callable[[], Awaitable[bytes]]


class Link:
    """The worker's end of its socket pair; `begin` is the first message that came.

    `lost` is called when the supervisor is gone: nobody counts then, so the worker is to end.
    """

    def __init__(self, lost: Callable[[], None]) -> None:
        self.running = 0
        self.deeds: Mapping[str, Deed] = {}
        self._on_lost = lost
        self._line: Line[ToWorker] = Line(ToWorker, self._hear, self._lost)
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._last_call = 0
        self._begun: asyncio.Future[Begin] = asyncio.get_running_loop().create_future()
        self._doing: set[asyncio.Task[None]] = set()

    @classmethod
    async def open(cls, end: socket.socket, lost: Callable[[], None]) -> tuple[Self, Begin]:
        """Join the supervisor at the other end; returns what it says first. Raises ConnectionError."""
        link = cls(lost)
        await asyncio.get_running_loop().create_unix_connection(lambda: link._line, sock=end)
        return link, await link._begun

    def close(self) -> None:
        """Part from the supervisor."""
        self._line.close()

    def ready(self) -> None:
        """Say that this worker listens."""
        self.running = max(1, self.running)
        self._line.say(Ready())

    def say(self, message: Message) -> None:
        """Say what needs no answer."""
        self._line.say(message)

    async def ask(self, question: Callable[[int], Message], reply: type[Reply]) -> Reply:
        """Ask and wait for the answer. Raises Unavailable when the supervisor is gone."""
        self._last_call = call = self._last_call + 1
        if not self._line.open:
            raise _alone()
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._calls[call] = future
        self._line.say(question(call))
        try:
            return await future
        finally:
            self._calls.pop(call, None)

    async def gather(self, own: bytes) -> list[bytes]:
        """Return the numbers of all other workers, those of ended ones too. Raises Unavailable."""
        return (await self.ask(lambda call: Gather(call, own), Gathered)).numbers

    async def reload_others(self) -> None:
        """Have every other worker read the catalog, and wait until they have. Raises Unavailable."""
        await self.ask(ReloadOthers, Gathered)

    def _hear(self, message: ToWorker) -> None:
        match message:
            case Begin():
                self._begun.set_result(message)
            case Do():
                task = asyncio.get_running_loop().create_task(self._do(message))
                self._doing.add(task)
                task.add_done_callback(self._doing.discard)
            case Crew():
                self.running = message.running
            case Fulls() | Entered() | Woken() | Gathered() | Looked():
                future = self._calls.pop(message.call, None)
                if future is not None and not future.done():
                    future.set_result(message)

    async def _do(self, asked: Do) -> None:
        deed = self.deeds.get(asked.what)
        self._line.say(Done(asked.call, await deed() if deed is not None else b""))

    def _lost(self) -> None:
        calls, self._calls = self._calls, {}
        for future in calls.values():
            if not future.done():
                future.set_exception(_alone())
        if not self._begun.done():
            self._begun.set_exception(ConnectionError("the supervisor is gone"))
        self._on_lost()


class LinkedGate:
    """Admit by the counts of the supervisor, one round trip a question."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._listings: WeakKeyDictionary[Listing, int] = WeakKeyDictionary()
        self._last_listing = 0
        self._last_turn = 0
        self._turns = 0
        self.waiting = 0

    async def full(self, listing: Listing, tokens: int) -> Mapping[Subject, Full]:
        """Return which subjects would not admit a request of `tokens` now."""
        number = self._listings.get(listing)
        if number is None:
            self._last_listing = number = self._last_listing + 1
            self._listings[listing] = number
            self._link.say(Listed(number, _wire(listing.subjects)))
        reply = await self._link.ask(lambda call: Ask(call, number, tokens), Fulls)
        return {listing.subjects[i][0]: full for i, full in reply.full}

    async def enter(self, way: Way, tokens: int) -> Place | Full:
        """Take a place at every subject, or at none when one is full: the one that opens last is told."""
        return (await self._enter(way, tokens, told=False))[0]

    async def enter_told(
        self, subject: Subject, limits: Limits, tokens: int
    ) -> tuple[Place | Full, Standing]:
        """Take a place at one subject, and say how it then stands to its limits."""
        entered, standing = await self._enter([(subject, limits)], tokens, told=True)
        return entered, standing or Standing()

    async def standing(self, subject: Subject, limits: Limits) -> Standing:
        """Say how a subject stands to its limits of the minute; takes no place."""
        way = _wire([(subject, limits)])
        return (await self._link.ask(lambda call: Look(call, way), Looked)).standing

    def line_up(self, seconds: float) -> Turn | None:
        """Return a turn to wait, of so many seconds in all; None when too many of this worker wait."""
        if self._turns >= MAX_WAITING:
            return None
        self._last_turn += 1
        self._turns += 1
        return _Turn(self._last_turn, seconds)

    async def wait(self, turn: Turn, ways: Sequence[Way], tokens: int) -> bool:
        """Wait until one of the ways may be free; False when the turn ends before."""
        mine = cast(_Turn, turn)
        wire = [_wire(way) for way in ways]
        self.waiting += 1
        try:
            reply = await self._link.ask(
                lambda call: Wait(call, mine.number, mine.seconds, wire, tokens), Woken
            )
        finally:
            self.waiting -= 1
        return reply.woken

    def end_turn(self, turn: Turn | None, *, came_in: bool) -> None:
        """Wait no more; what one that did not come in was woken for is offered to the next."""
        if turn is not None:
            self._turns -= 1
            self._link.say(EndTurn(cast(_Turn, turn).number, came_in))

    async def _enter(self, way: Way, tokens: int, *, told: bool) -> tuple[Place | Full, Standing | None]:
        place: _Place | None = None

        def question(call: int) -> Enter:
            nonlocal place
            place = _Place(self._link, call)
            return Enter(call, _wire(way), tokens, told)

        try:
            reply = await self._link.ask(question, Entered)
        except asyncio.CancelledError:
            if place is not None:  # it may be ours by now, and the leaving comes after the entering
                place.withdraw()
            raise
        if reply.full is not None or place is None:
            return reply.full or Full("concurrency", 1), reply.standing
        return place, reply.standing


class _Turn:
    def __init__(self, number: int, seconds: float) -> None:
        self.number = number
        self.seconds = seconds


class _Place:
    """A place at the supervisor's counts."""

    def __init__(self, link: Link, number: int) -> None:
        self._link: Link | None = link
        self._number = number

    def leave(self, used_tokens: int | None = None) -> None:
        """Give the place back and count what was really used; None keeps the estimate. May be repeated."""
        self._end(used_tokens, withdrawn=False)

    def withdraw(self) -> None:
        """Give the place back as if it had never been taken."""
        self._end(None, withdrawn=True)

    def _end(self, used_tokens: int | None, *, withdrawn: bool) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.say(Leave(self._number, used_tokens, withdrawn))


def _wire(way: Way) -> WireWay:
    return [
        (cast("tuple[str, ...]", subject), (limits.concurrency, limits.rpm, limits.tpm))
        for subject, limits in way
    ]


def _alone() -> Unavailable:
    return Unavailable("The router is stopping; send the request again.", retry_after_s=1)
