"""The walk of a request: one straight path from the body to the bill.

1 read      `api` hands in the body, bounded
2 who       the API key, or open access
3 words     what a person wrote, without what clients wrap around it
4 category  and its probabilities, only for `auto`
5 decide    ranked offers, and why the others lost
6 hold      the worst-case price, durable
7 place     at the key, the offer and its provider; lost to another, the next offer is tried. Where the
            policy lets requests queue, one that only limits stop waits, and goes again from 2. A wallet
            that pays first is asked for its money here, once it has a place
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

from msgspec.structs import replace

from router import idempotency
from router.access.keys import Access, Caller, Keys
from router.access.origins import refuse_foreign
from router.access.terms import Refused
from router.attempts import Attempts
from router.billing import hold, settle, spendable_nusd, store
from router.catalog.snapshot import Snapshot
from router.deadline import Deadline
from router.decider import Decider
from router.ended import Ended
from router.errors import (
    CallerAtLimit,
    InternalError,
    LimitReached,
    OutOfCredit,
    RouterError,
    UpstreamTimeout,
)
from router.gate import Place
from router.history.words import Talk
from router.learning import Learning
from router.ledger.ledger import Ledger
from router.places import Places
from router.relay import Client, Overheard, Relay
from router.routing.decide import Decision
from router.routing.explain import record, refusal
from router.routing.live import LiveTable
from router.routing.sessions import Session
from router.settings import Settings
from router.telemetry.metrics import Metrics
from router.till import NOBODY, Till, pays
from router.upstream.send import Sender
from router.walk import Walk, begun, head, standing_headers, trace_headers
from router.wire import RequestBody, parse_request

_log = logging.getLogger("router.chat")


@dataclass(slots=True)
class Incoming:
    """One request as it came in: lower-case header names, the `Authorization` value, in the end the body.

    `parse` reads the body, once it is known who asks; that of another API, which `api` names, says it as a
    chat completion. `at_s` is the time that its answer may tell, in seconds since 1970: where that is given
    again, the time of the first request.
    """

    request_id: str
    client_request_id: str | None
    headers: Mapping[str, str]
    authorization: bytes | None
    body: bytes
    began_s: float
    path: str = ""
    parse: Callable[[bytes], RequestBody] = parse_request
    api: bytes = b""
    at_s: int = 0


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
    till: Till | None
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
            rooms.till,
            rooms.monotonic,
        )
        self._relay = Relay(rooms.ledger, rooms.learning, rooms.till, rooms.monotonic)

    async def complete(self, incoming: Incoming, client: Client) -> None:
        """Answer one chat completion.

        Raises `RouterError` while nothing has been sent; after that an error is part of the answer.
        """
        walk, rooms = self._begin(incoming), self._rooms
        incoming.at_s = int(walk.at.timestamp())
        rooms.metrics.running[walk.request_id] = walk
        if rooms.settings.keep_prompts:
            walk.talk = Talk()
            client = Overheard(client, walk.talk)
        try:
            try:
                await self._walk(walk, incoming, client)
            except LimitReached as refused:
                await self._queue(walk, incoming, client, refused)
        except RouterError as error:
            walk.outcome = error.name
            if isinstance(error, OutOfCredit) and rooms.till is not None:
                rooms.till.offer_beside(error, walk)
            if walk.standing is not None:
                error.told = [*error.told, *standing_headers(walk.standing)]
            raise
        except asyncio.CancelledError:
            walk.outcome = "client_gone"
            raise
        except BaseException:
            walk.outcome = InternalError.name
            raise
        finally:
            rooms.metrics.running.pop(walk.request_id, None)
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
        decision = self._payable(walk, decision, catalog)
        key = walk.caller.key if walk.caller else None
        key_place, walk.standing = await rooms.places.at_key(key, decision.need)
        try:
            await self._hold(walk, catalog)  # 6
            if rooms.till is not None:
                await rooms.till.verify(walk)
                await rooms.till.take_moved(walk)
            trace = trace_headers(walk, incoming.headers)
            with Deadline(self._patience_s(walk)) as patience:
                answer = await self._attempts.first_answer(walk, body, catalog, trace, patience)  # 7, 8
            await self._relay.hand_out(walk, answer, client)  # 9
        except LimitReached:
            if key_place is not None and not walk.attempts:
                key_place.withdraw()  # it did nothing yet, and may come again
                walk.standing = None  # so that is no longer how the key stands
            raise
        except TimeoutError:
            raise UpstreamTimeout("No upstream answered in time.") from None
        finally:
            _leave(walk, key_place)
            try:
                if walk.once is None and walk.credential is None:
                    settle(rooms.ledger, walk)  # 10
                else:  # a retry must find the key as it is left here, and a payment what it is for
                    await store(rooms.ledger, walk, None)
            finally:  # who leaves right then owes it all the same
                if rooms.till is not None:
                    rooms.till.collect(walk)
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
            api=incoming.api,
        )
        till = self._rooms.till
        if isinstance(found, idempotency.Once):
            if walk.credential is not None:
                found.claim = replace(found.claim, cover_nusd=0)  # what was signed for is paid whole
            walk.once, incoming.at_s = found, found.at_s
            return False
        if till is not None:
            await till.prove(walk)
        again = idempotency.replay(found, walk.client_request_id)
        walk.outcome, incoming.at_s = "replayed", again.at_s
        await client.start(again.status, again.headers)
        await client.send(again.body, more=False)
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
        return begun(incoming, self._rooms.now())

    async def _identify_and_parse(self, walk: Walk, incoming: Incoming) -> RequestBody:
        walk.caller = await self._identify(walk, incoming)
        if walk.caller.key is None and walk.credential is None and self._rooms.access == "open":
            refuse_foreign(incoming.headers, self._rooms.settings)
        body = incoming.parse(incoming.body)
        walk.stream = body.stream
        if walk.talk is not None:
            walk.talk.request = body.members["messages"]
        return body

    async def _identify(self, walk: Walk, incoming: Incoming) -> Caller:
        """Say who asks: a payment speaks for its payer, beside an API key too."""
        rooms, till = self._rooms, self._rooms.till
        if till is None:
            return await rooms.keys.identify(incoming.authorization, rooms.access)
        key = None if pays(incoming.authorization) else incoming.authorization
        caller = await rooms.keys.identify(key, "open")
        asked = till.asked(incoming.headers, incoming.authorization, incoming.body, incoming.path)
        till.read(walk, asked)
        if walk.credential is not None:
            return till.payer(walk.credential)
        if walk.unpaid or (caller.key is None and rooms.access == "paid"):
            return NOBODY
        return replace(caller, require_credit=True) if rooms.access == "paid" else caller

    def _patience_s(self, walk: Walk) -> float:
        """Return how long an answer may take to begin: not beyond a signature that is settled then."""
        longest_s, till = self._rooms.settings.deadline_s, self._rooms.till
        return longest_s if till is None else min(longest_s, till.left_s(walk))

    def _payable(self, walk: Walk, decision: Decision, catalog: Snapshot) -> Decision:
        """Keep a decision to what a payment covers. Raises the 402 for who does not pay."""
        till, paid = self._rooms.till, walk.credential
        if till is None or (paid is None and walk.caller is not NOBODY):
            return decision
        if paid is None:
            raise till.due(walk, walk.unpaid)
        within = self._rooms.decider.within(decision, catalog, walk.live, paid.quote.nusd)
        if within.candidates:
            walk.decision = decision = within
        elif paid.quote.catalog == decision.catalog:  # else a promise made before the last reload is kept
            raise till.due(walk, Refused("payment_insufficient", problem="payment-insufficient"))
        till.agree(walk, paid)
        return decision

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
        walk.decided_s = judgement.decided_s
        if not decision.candidates:
            raise refusal(decision)
        return decision


def _may_wait(walk: Walk, refused: LimitReached) -> bool:
    """Tell whether limits of offers alone stopped a request, before anything was sent or paid."""
    return not walk.attempts and not walk.taken and not isinstance(refused, CallerAtLimit)


def _leave(walk: Walk, key_place: Place | None) -> None:
    """Give the places back, with the tokens that were really used."""
    used = 0 if walk.bill is None else walk.bill.tokens.prompt + walk.bill.tokens.completion
    for place in (walk.place, key_place):
        if place is not None:
            place.leave(used)
