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
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from router.access.keys import Access, Keys
from router.attempts import Attempts
from router.billing import hold, settle
from router.catalog.snapshot import Snapshot
from router.deadline import Deadline
from router.decider import Decider
from router.ended import Ended
from router.errors import InternalError, LimitReached, OutOfCredit, RouterError, UpstreamTimeout
from router.learning import Learning
from router.ledger.ledger import Ledger
from router.limits import Place
from router.places import KeyAtLimit, Places
from router.routing.decide import Decision
from router.routing.explain import record, refusal
from router.routing.live import LiveTable
from router.settings import Settings
from router.telemetry.metrics import Metrics
from router.upstream.answer import Answer
from router.upstream.send import Sender
from router.upstream.stream import StreamRelay
from router.walk import Walk, cost_header, head, trace_headers
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
    now: Callable[[], datetime]
    monotonic: Callable[[], float]


class Chat:
    """Serve chat completions."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self._access: Access = "paid" if rooms.settings.asks_for_key else "open"
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

    def route(self, incoming: Incoming) -> tuple[dict[str, Any], list[tuple[bytes, bytes]]]:
        """Return the decision for a request and its headers: nobody is called, nothing is charged."""
        walk = self._begin(incoming)
        body = self._identify_and_parse(walk, incoming)
        catalog = self._rooms.catalog.current
        decision = self._decide(walk, body, incoming, catalog)
        if walk.caller is not None and (walk.caller.require_credit or walk.caller.key is not None):
            # Who can pay for nobody is told what the first choice would cost.
            with contextlib.suppress(OutOfCredit):
                decision = self._within_credit(walk, decision, catalog)
        return record(decision, walk.request_id, stripped=walk.stripped), head(walk)

    async def _walk(self, walk: Walk, incoming: Incoming, client: Client) -> None:
        body = self._identify_and_parse(walk, incoming)  # 2
        rooms, catalog = self._rooms, self._rooms.catalog.current
        decision = self._decide(walk, body, incoming, catalog)  # 3, 4, 5
        key_place = rooms.places.at_key(walk.caller.key if walk.caller else None, decision.need)
        try:
            await self._hold(walk, catalog)  # 6
            trace = trace_headers(walk, incoming.headers)
            with Deadline(rooms.settings.deadline_s):
                answer = await self._attempts.first_answer(walk, body, catalog, trace)  # 7, 8
            await self._relay(walk, answer, client)  # 9
        except LimitReached:
            if key_place is not None and not walk.attempts:
                key_place.withdraw()  # it did nothing yet, and may come again
            raise
        except TimeoutError:
            raise UpstreamTimeout("No upstream answered in time.") from None
        finally:
            _leave(walk, key_place)
            settle(rooms.ledger, walk)  # 10
        rooms.learning.answered(walk, catalog.policy)

    async def _queue(self, walk: Walk, incoming: Incoming, client: Client, refused: LimitReached) -> None:
        """Walk again whenever a place may be free, for `queue_s` in all; then raise the last refusal."""
        rooms = self._rooms
        queue_s = rooms.catalog.current.policy.queue_s
        began_s = rooms.monotonic()
        try:
            ticket = rooms.places.line_up(queue_s) if queue_s and _may_wait(walk, refused) else None
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
            rooms.places.pass_on()
            del refused  # an error and a frame of its own traceback would keep each other

    async def _hold(self, walk: Walk, catalog: Snapshot) -> None:
        """Hold the winner's worst case; where credit does not reach, that of the best that it reaches."""
        ledger = self._rooms.ledger
        try:
            await hold(ledger, walk, walk.candidates[0])
        except OutOfCredit:
            if walk.decision is None:
                raise
            self._within_credit(walk, walk.decision, catalog)
            await hold(ledger, walk, walk.candidates[0])

    def _within_credit(self, walk: Walk, decision: Decision, catalog: Snapshot) -> Decision:
        """Return the decision, or another one where the customer's credit or budget does not cover it.

        Raises `OutOfCredit` when only money stands in the way.
        """
        rooms, caller = self._rooms, walk.caller
        if caller is None:
            return decision
        account = rooms.ledger.account(caller.account)
        spendable = account.spendable_nusd(require_credit=caller.require_credit)
        if spendable is None or decision.candidates[0].max_nusd <= spendable:
            return decision
        within = rooms.decider.within(decision, catalog, walk.live, spendable)
        if not within.candidates:
            costs = [loser.figure for loser in within.losers if loser.reason == "credit"]
            broke = account.refuses(min(costs, default=0), require_credit=caller.require_credit)
            raise refusal(within) if within.blocked or broke is None else broke
        walk.decision = within
        return within

    def _begin(self, incoming: Incoming) -> Walk:
        return Walk(incoming.request_id, incoming.client_request_id, incoming.began_s, self._rooms.now())

    def _identify_and_parse(self, walk: Walk, incoming: Incoming) -> RequestBody:
        walk.caller = self._rooms.keys.identify(incoming.authorization, self._access)
        body = parse_request(incoming.body)
        walk.stream = body.stream
        return body

    def _decide(self, walk: Walk, body: RequestBody, incoming: Incoming, catalog: Snapshot) -> Decision:
        """Rank the offers; raises the refusal when nothing fits."""
        rooms = self._rooms
        caller = walk.caller
        key = caller.key if caller is not None else None
        judgement = rooms.decider.judge(
            body,
            incoming.headers,
            catalog,
            at=walk.at,
            account=caller.account if caller is not None else "",
            key_models=key.models if key is not None else (),
            blocked=rooms.places.blocked,
        )
        walk.decision = decision = judgement.decision
        walk.catalog, walk.live = catalog, judgement.live
        walk.session, walk.said = judgement.session, judgement.said
        walk.stripped = judgement.prompt.stripped
        walk.timings_ms.update(judgement.timings_ms)
        if not decision.candidates:
            raise refusal(decision)
        return decision

    async def _relay(self, walk: Walk, answer: Answer | StreamRelay, client: Client) -> None:
        rooms = self._rooms
        walk.answered_model = _other_model(walk, answer.model)
        headers = head(walk)
        walk.first_piece_s = rooms.monotonic()
        if isinstance(answer, Answer):
            walk.bill = answer.bill
            rooms.learning.whole(walk, answer.bill)
            length = (b"content-length", b"%d" % len(answer.body))
            await client.start(200, [_JSON, length, cost_header(walk), *headers])
            await client.send(answer.body, more=False)
            return
        client_s = 0.0
        try:
            await client.start(200, [*_STREAM_HEADERS, *headers])
            while piece := await answer.next():
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
_STREAM_HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx would hold a stream back otherwise
)


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
    return named[:200]
