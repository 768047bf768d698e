"""The walk of a request: one straight path from the body to the bill.

1 read      `api` hands in the body, bounded
2 who       the API key, or open access
3 words     what a person wrote, without what clients wrap around it
4 category  and its probabilities, only for `auto`
5 decide    ranked offers, and why the others lost
6 hold      the worst-case price, durable
7 place     at the key, the offer and its provider; lost to another, the next offer is tried. Where the
            policy lets requests queue, one that only limits stop waits, and goes again from 2
8 send      until the first content the next offer may take over
9 relay     and watch what was used
10 settle   whatever happened: one settle or release, one log line, the metrics
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from router import idempotency
from router.access.keys import Access, Keys
from router.attempts import Attempts
from router.billing import hold, note, note_bill, settle, spendable_nusd, store
from router.catalog.snapshot import Snapshot
from router.deadline import Deadline
from router.decider import Decider
from router.ended import Ended
from router.errors import InternalError, LimitReached, OutOfCredit, RouterError, UpstreamTimeout
from router.gate import Place
from router.learning import Learning
from router.ledger.journal import Flight
from router.ledger.ledger import Ledger
from router.places import KeyAtLimit, Places
from router.routing.decide import Decision
from router.routing.explain import record, refusal
from router.routing.live import LiveTable
from router.routing.sessions import Session
from router.settings import Settings
from router.telemetry.metrics import Metrics
from router.upstream.answer import Answer
from router.upstream.send import Sender
from router.upstream.stream import StreamRelay
from router.walk import Walk, cost_header, head, standing_headers, trace_headers
from router.wire import RequestBody, parse_request

_log = logging.getLogger("router.chat")


@dataclass(slots=True)
class Incoming:
    """One request as it came in: lower-case header names, the `Authorization` value, in the end the body."""

    request_id: str
    client_request_id: str | None
    headers: Mapping[str, str]
    authorization: bytes | None
    body: bytes
    began_s: float


class Client(Protocol):
    """The other end: a head, then the body."""

    async def start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Send the head."""
        ...

    async def send(self, data: bytes, *, more: bool) -> None:
        """Send a part of the body, waiting while the client does not read."""
        ...


class CatalogSource(Protocol):
    """Where the running catalog is: one reference, swapped whole."""

    current: Snapshot


@dataclass(frozen=True, slots=True)
class Rooms:
    """Everything that a walk goes through; handed in, so that tests hand in their own."""

    settings: Settings
    catalog: CatalogSource
    decider: Decider
    keys: Keys
    ledger: Ledger
    places: Places
    sender: Sender
    live: LiveTable
    learning: Learning
    metrics: Metrics
    ended: Ended
    recall: Callable[[str, Session | None], Awaitable[None] | None] | None
    now: Callable[[], datetime]
    monotonic: Callable[[], float]

    @property
    def access(self) -> Access:
        """Who may ask: anybody, or who has a key."""
        return "paid" if self.settings.asks_for_key else "open"


class Chat:
    """Serve chat completions."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self._attempts = Attempts(
            rooms.settings,
            rooms.ledger,
            rooms.places,
            rooms.sender,
            rooms.live,
            rooms.metrics,
            rooms.monotonic,
        )

    async def complete(self, incoming: Incoming, client: Client) -> None:
        """Answer one chat completion.

        Raises `RouterError` while nothing has been sent; after that an error is part of the answer.
        """
        walk, rooms = self._begin(incoming), self._rooms
        rooms.metrics.inflight += 1
        try:
            try:
                await self._walk(walk, incoming, client)
            except LimitReached as refused:
                await self._queue(walk, incoming, client, refused)
        except RouterError as error:
            walk.outcome = error.name
            if walk.standing is not None:
                error.told = standing_headers(walk.standing)
            raise
        except asyncio.CancelledError:
            walk.outcome = "client_gone"
            raise
        except BaseException:
            walk.outcome = InternalError.name
            raise
        finally:
            rooms.metrics.inflight -= 1
            rooms.ended.note(walk, rooms.monotonic())

    async def route(self, incoming: Incoming) -> tuple[dict[str, Any], list[tuple[bytes, bytes]]]:
        """Return the decision for a request and its headers: nobody is called, nothing is charged."""
        walk = self._begin(incoming)
        body = await self._identify_and_parse(walk, incoming)
        catalog = self._rooms.catalog.current
        decision = await self._decide(walk, body, incoming, catalog)
        if walk.caller is not None and (walk.caller.require_credit or walk.caller.key is not None):
            # Who can pay for nobody is told what the first choice would cost.
            with contextlib.suppress(OutOfCredit):
                decision = await self._within_credit(walk, decision, catalog)
        return record(decision, walk.request_id, stripped=walk.stripped), head(walk)

    async def _walk(self, walk: Walk, incoming: Incoming, client: Client) -> None:
        body = await self._identify_and_parse(walk, incoming)  # 2
        rooms, catalog = self._rooms, self._rooms.catalog.current
        if idempotency.HEADER in incoming.headers and await self._replay(walk, incoming, client):
            return
        decision = await self._decide(walk, body, incoming, catalog)  # 3, 4, 5
        key = walk.caller.key if walk.caller else None
        key_place, walk.standing = await rooms.places.at_key(key, decision.need)
        try:
            await self._hold(walk, catalog)  # 6
            trace = trace_headers(walk, incoming.headers)
            with Deadline(rooms.settings.deadline_s):
                answer = await self._attempts.first_answer(walk, body, catalog, trace)  # 7, 8
            await self._relay(walk, answer, client)  # 9
        except LimitReached:
            if key_place is not None and not walk.attempts:
                key_place.withdraw()  # it did nothing yet, and may come again
                walk.standing = None  # so that is no longer how the key stands
            raise
        except TimeoutError:
            raise UpstreamTimeout("No upstream answered in time.") from None
        finally:
            _leave(walk, key_place)
            if walk.once is None:
                settle(rooms.ledger, walk)  # 10
            else:  # a retry must find the key as it is left here
                await store(rooms.ledger, walk, None)
        rooms.learning.answered(walk, catalog.policy)

    async def _replay(self, walk: Walk, incoming: Incoming, client: Client) -> bool:
        """Give the answer that is kept for the request's key; else False, and the walk may take the key."""
        settings = self._rooms.settings
        found = await idempotency.once(
            self._rooms.ledger.answers,
            walk.caller.account if walk.caller is not None else "",
            incoming.headers,
            incoming.body,
            now=walk.at,
            limit_bytes=settings.idempotency_mib * 2**20,
        )
        if isinstance(found, idempotency.Once):
            walk.once = found
            return False
        status, headers, body = idempotency.replay(found, walk.client_request_id)
        walk.outcome = "replayed"
        await client.start(status, headers)
        await client.send(body, more=False)
        return True

    async def _queue(self, walk: Walk, incoming: Incoming, client: Client, refused: LimitReached) -> None:
        """Walk again whenever a place may be free, for `queue_s` in all; then raise the last refusal."""
        rooms = self._rooms
        queue_s = rooms.catalog.current.policy.queue_s
        began_s = rooms.monotonic()
        ticket = rooms.places.line_up(queue_s) if queue_s and _may_wait(walk, refused) else None
        try:
            while True:
                decision, catalog = walk.decision, walk.catalog
                if ticket is None or decision is None or catalog is None:
                    raise refused
                if not await rooms.places.wait(ticket, catalog, decision):
                    raise refused
                walk.at = rooms.now()
                walk.timings_ms["queue"] = (rooms.monotonic() - began_s) * 1e3
                try:
                    await self._walk(walk, incoming, client)
                except LimitReached as again:
                    if not _may_wait(walk, again):
                        raise
                    refused = again
                else:
                    return
        finally:
            rooms.places.end_turn(ticket, walk.place)
            del refused  # an error and a frame of its own traceback would keep each other

    async def _hold(self, walk: Walk, catalog: Snapshot) -> None:
        """Hold the winner's worst case; where credit does not reach, that of the best that it reaches."""
        ledger = self._rooms.ledger
        try:
            await hold(ledger, walk, walk.candidates[0])
        except OutOfCredit:
            if walk.decision is None:
                raise
            await self._within_credit(walk, walk.decision, catalog)
            await hold(ledger, walk, walk.candidates[0])

    async def _within_credit(self, walk: Walk, decision: Decision, catalog: Snapshot) -> Decision:
        """Return the decision, or another one where the customer's credit or budget does not cover it.

        Raises `OutOfCredit` when only money stands in the way.
        """
        rooms, caller = self._rooms, walk.caller
        if caller is None:
            return decision
        account = await rooms.ledger.account(caller.account)
        spendable = spendable_nusd(account, caller, walk.cover_nusd)
        if spendable is None or decision.candidates[0].max_nusd <= spendable:
            return decision
        within = rooms.decider.within(decision, catalog, walk.live, spendable)
        if not within.candidates:
            costs = [loser.figure for loser in within.losers if loser.reason == "credit"]
            due_nusd = max(0, min(costs, default=0) - walk.cover_nusd)
            broke = account.refuses(due_nusd, require_credit=caller.require_credit)
            raise refusal(within) if within.blocked or broke is None else broke
        walk.decision = within
        return within

    def _begin(self, incoming: Incoming) -> Walk:
        return Walk(incoming.request_id, incoming.client_request_id, incoming.began_s, self._rooms.now())

    async def _identify_and_parse(self, walk: Walk, incoming: Incoming) -> RequestBody:
        walk.caller = await self._rooms.keys.identify(incoming.authorization, self._rooms.access)
        body = parse_request(incoming.body)
        walk.stream = body.stream
        return body

    async def _decide(self, walk: Walk, body: RequestBody, incoming: Incoming, catalog: Snapshot) -> Decision:
        """Rank the offers; raises the refusal when nothing fits."""
        rooms = self._rooms
        caller = walk.caller
        key = caller.key if caller is not None else None
        reading = rooms.decider.read(
            body,
            incoming.headers,
            catalog,
            at=walk.at,
            account=caller.account if caller is not None else "",
            key_models=key.models if key is not None else (),
        )
        recalled = rooms.recall(reading.account, reading.session) if rooms.recall is not None else None
        at_limit = await rooms.places.full(catalog, reading.need)
        if recalled is not None:
            await recalled
        judgement = rooms.decider.decide(reading, catalog, at_limit)
        walk.decision = decision = judgement.decision
        walk.catalog, walk.live = catalog, judgement.live
        walk.session, walk.said = judgement.session, judgement.said
        walk.stripped = judgement.prompt.stripped
        walk.timings_ms.update(judgement.timings_ms)
        if not decision.candidates:
            raise refusal(decision)
        return decision

    async def _keep(
        self,
        walk: Walk,
        once: idempotency.Once,
        piece: bytes,
        headers: list[tuple[bytes, bytes]],
        answer: Answer | StreamRelay,
    ) -> None:
        """Take the answer down for a retry; with its last part, settle before that is handed out.

        One that broke off is not kept.
        """
        once.add(piece)
        if answer.bill is not None:
            walk.bill = answer.bill
            whole = isinstance(answer, Answer) or answer.fault is None
            await store(self._rooms.ledger, walk, once.answer(200, headers) if whole else None)

    async def _relay(self, walk: Walk, answer: Answer | StreamRelay, client: Client) -> None:
        rooms = self._rooms
        walk.answered_model = _other_model(walk, answer.model)
        headers = head(walk)
        walk.first_piece_s = rooms.monotonic()
        if isinstance(answer, Answer):
            walk.bill = answer.bill
            note_bill(rooms.ledger, walk, answer.bill)
            rooms.learning.whole(walk, answer.bill)
            length = (b"content-length", b"%d" % len(answer.body))
            headers = [_JSON, length, cost_header(walk), *headers]
            if walk.once is not None:
                await self._keep(walk, walk.once, answer.body, headers, answer)
            await client.start(200, headers)
            await client.send(answer.body, more=False)
            return
        client_s = 0.0
        flight: Flight | None = None
        try:
            headers = [*_STREAM_HEADERS, *headers]
            await client.start(200, headers)
            while piece := await answer.next():
                if answer.bill is not None:
                    if walk.hold_id is not None:
                        note_bill(rooms.ledger, walk, answer.bill)
                elif flight is None:
                    flight = note(rooms.ledger, walk, answer.tariff(), answer.delivered.tokens)
                else:
                    flight.delivered(answer.delivered.tokens)
                if walk.once is not None:
                    await self._keep(walk, walk.once, piece, headers, answer)
                before_s = rooms.monotonic()
                await client.send(piece, more=True)
                client_s += rooms.monotonic() - before_s
            ended_s = rooms.monotonic()
            await client.send(b"", more=False)
            rooms.learning.stream(walk, answer, ended_s, client_s)
        finally:
            walk.bill = answer.bill_so_far()
            if answer.fault is not None:
                walk.outcome = answer.fault.name
            await answer.aclose()


def _may_wait(walk: Walk, refused: LimitReached) -> bool:
    """Tell whether limits of offers alone stopped a request, before anything was sent."""
    return not walk.attempts and not isinstance(refused, KeyAtLimit)


def _leave(walk: Walk, key_place: Place | None) -> None:
    """Give the places back, with the tokens that were really used."""
    used = 0 if walk.bill is None else walk.bill.tokens.prompt + walk.bill.tokens.completion
    for place in (walk.place, key_place):
        if place is not None:
            place.leave(used)


_JSON = (b"content-type", b"application/json")
_EVENTS = (b"content-type", b"text/event-stream; charset=utf-8")
# nginx would hold a stream back otherwise
_STREAM_HEADERS = (_EVENTS, (b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no"))


def _other_model(walk: Walk, named: str | None) -> str | None:
    """Return the model that the upstream says answered, where that is not the one that was asked for."""
    if not named or walk.candidate is None:
        return None
    asked = walk.candidate.offer.upstream_model.lower().rsplit("/", 1)[-1]
    said = named.lower().rsplit("/", 1)[-1]
    # A dated snapshot of the model that was asked for ("gpt-6-2026-09-01" for "gpt-6") is that model.
    if said.startswith(asked) or asked.startswith(said):
        return None
    _log.warning("%s was asked for, the upstream names %.80r as the model that answered", asked, named)
    return "".join(letter if letter.isprintable() else "?" for letter in named[:200])
