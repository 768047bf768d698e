"""The supervisor's side of one worker's limits: the same counts for all, answered in the order of asking."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from router.catalog.snapshot import Limits
from router.limits import Admission, Full, Place, Subject, Ticket, Way
from router.workers.messages import (
    Ask,
    EndTurn,
    Enter,
    Entered,
    Fulls,
    Leave,
    Listed,
    Look,
    Looked,
    Message,
    Wait,
    WireWay,
    Woken,
)

_MOST_LISTINGS = 512


class Desk:
    """Admit one worker's requests; what it holds is given back when it is `close`d."""

    def __init__(
        self, admission: Admission, clock: Callable[[], float], answer: Callable[[Message], None]
    ) -> None:
        self._admission = admission
        self._clock = clock
        self._answer = answer
        self._listings: dict[int, tuple[Way, dict[Subject, int]]] = {}
        self._places: dict[int, Place] = {}
        self._turns: dict[int, Ticket] = {}
        self._waits: dict[int, asyncio.Task[None]] = {}

    def hear(self, message: Listed | Ask | Enter | Leave | Wait | EndTurn | Look) -> None:
        """Do what a worker asks for."""
        match message:
            case Ask():
                self._ask(message)
            case Enter():
                self._enter(message)
            case Leave():
                self._leave(message)
            case Look():
                standing = self._admission.standing(*_way(message.way)[0], self._clock())
                self._answer(Looked(message.call, standing))
            case Listed():
                way = _way(message.subjects)
                self._listings[message.listing] = way, {subject: i for i, (subject, _) in enumerate(way)}
                if len(self._listings) > _MOST_LISTINGS:
                    del self._listings[next(iter(self._listings))]
            case Wait():
                self._waits[message.turn] = asyncio.get_running_loop().create_task(self._wait(message))
            case EndTurn():
                self._end_turn(message.turn, message.came_in)

    def close(self) -> None:
        """Give everything back: the worker is gone."""
        for turn in {*self._waits, *self._turns}:
            self._end_turn(turn, came_in=False)
        for place in self._places.values():
            place.leave()
        self._places.clear()
        self._admission.queue.wake([])

    def _ask(self, message: Ask) -> None:
        way, numbers = self._listings.get(message.listing, ((), {}))
        full = self._admission.full(way, message.tokens, self._clock())
        self._answer(Fulls(message.call, [(numbers[subject], why) for subject, why in full.items()]))

    def _enter(self, message: Enter) -> None:
        way = _way(message.way)
        entered = self._admission.admit(way, message.tokens)
        standing = self._admission.standing(*way[0], self._clock()) if message.told else None
        if isinstance(entered, Full):
            self._answer(Entered(message.call, entered, standing))
        else:
            self._places[message.call] = entered
            self._answer(Entered(message.call, None, standing))

    def _leave(self, message: Leave) -> None:
        place = self._places.pop(message.place, None)
        if place is None:
            return
        if message.withdrawn:
            place.withdraw()
        else:
            place.leave(message.used_tokens)

    async def _wait(self, message: Wait) -> None:
        queue = self._admission.queue
        ticket = self._turns.get(message.turn) or queue.line_up(message.seconds)
        woken = False
        if ticket is not None:
            self._turns[message.turn] = ticket
            woken = await queue.wait(ticket, [_way(way) for way in message.ways], message.tokens)
        self._waits.pop(message.turn, None)
        self._answer(Woken(message.call, woken))

    def _end_turn(self, turn: int, came_in: bool) -> None:
        task = self._waits.pop(turn, None)
        if task is not None:
            task.cancel()
        self._turns.pop(turn, None)
        if not came_in:
            self._admission.queue.wake([])


def _way(wire: WireWay) -> list[tuple[Subject, Limits]]:
    return [(subject, Limits(*limits)) for subject, limits in wire]
