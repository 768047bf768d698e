"""Stop 9 of the walk: hand the answer out, note what it delivers, keep it for a retry, take what it costs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

from router import idempotency
from router.access.terms import Headers
from router.billing import note, note_bill, store
from router.history.words import Talk
from router.learning import Learning
from router.ledger.journal import Flight
from router.ledger.ledger import Ledger
from router.till import Till
from router.upstream.answer import Answer
from router.upstream.sse import DONE
from router.upstream.stream import StreamRelay
from router.walk import Walk, cost_header, head

_log = logging.getLogger("router.chat")

_JSON = (b"content-type", b"application/json")
_EVENTS = (b"content-type", b"text/event-stream; charset=utf-8")
_UNBUFFERED = (b"x-accel-buffering", b"no")  # nginx would hold a stream back otherwise
_NO_CACHE = (b"cache-control", b"no-cache")
_PRIVATE = (b"cache-control", b"private, no-store")


class Client(Protocol):
    """The other end: a head, then the body."""

    async def start(self, status: int, headers: Headers) -> None:
        """Send the head."""
        ...

    async def send(self, data: bytes, *, more: bool) -> None:
        """Send a part of the body, waiting while the client does not read."""
        ...


class Overheard:
    """A client whose answer is taken down on its way, where the operator keeps prompts."""

    def __init__(self, client: Client, talk: Talk) -> None:
        self._client = client
        self._talk = talk

    async def start(self, status: int, headers: Headers) -> None:
        """Send the head."""
        self._talk.begin(dict(headers).get(b"content-type", b""))
        await self._client.start(status, headers)

    async def send(self, data: bytes, *, more: bool) -> None:
        """Send a part of the body."""
        self._talk.add(data)
        await self._client.send(data, more=more)


class Relay:
    """Hand answers out; `till` takes the payments of wallets, where they can pay."""

    def __init__(
        self, ledger: Ledger, learning: Learning, till: Till | None, monotonic: Callable[[], float]
    ) -> None:
        self._ledger = ledger
        self._learning = learning
        self._till = till
        self._monotonic = monotonic

    async def hand_out(self, walk: Walk, answer: Answer | StreamRelay, client: Client) -> None:
        """Send an answer to its end; an error of the upstream's in its middle is part of it.

        Raises what stands in the way of a wallet's payment while nothing has been sent.
        """
        walk.answered_model = _other_model(walk, answer.model)
        walk.first_piece_s = self._monotonic()
        if isinstance(answer, Answer):
            await self._whole(walk, answer, client)
            return
        try:
            await self._stream(walk, answer, client)
        finally:
            walk.bill = answer.bill_so_far()
            if answer.fault is not None:
                walk.outcome = answer.fault.name
            await answer.aclose()

    async def _whole(self, walk: Walk, answer: Answer, client: Client) -> None:
        walk.bill = answer.bill
        paid = await self._take(walk, answer.bill.charge_nusd)
        note_bill(self._ledger, walk, answer.bill)
        self._learning.whole(walk, answer.bill)
        length = (b"content-length", b"%d" % len(answer.body))
        headers = [_JSON, length, cost_header(walk), *head(walk), *paid]
        if walk.once is not None:
            await self._keep(walk, walk.once, answer.body, headers, answer)
        await client.start(200, headers)
        await client.send(answer.body, more=False)

    async def _stream(self, walk: Walk, answer: StreamRelay, client: Client) -> None:
        client_s = 0.0
        flight: Flight | None = None
        headers = [_EVENTS, _UNBUFFERED, _NO_CACHE, *head(walk)]
        if walk.credential is not None:
            charge_nusd = None if walk.credential.when == "after" else walk.fixed_nusd
            headers = [_EVENTS, _UNBUFFERED, *head(walk), *await self._take(walk, charge_nusd)]
        await client.start(200, headers)
        while piece := await answer.next():
            if answer.bill is not None:
                if walk.hold_id is not None:
                    note_bill(self._ledger, walk, answer.bill)
            elif flight is None:
                flight = note(self._ledger, walk, answer.tariff(), answer.delivered.tokens)
            else:
                flight.delivered(answer.delivered.tokens)
            if walk.once is not None:
                await self._keep(walk, walk.once, piece, headers, answer)
            if answer.bill is not None and self._till is not None and walk.credential is not None:
                walk.bill = answer.bill
                await store(self._ledger, walk, None)  # what is owed is written before it is asked for
                await client.send(piece.removesuffix(DONE), more=True)
                piece = await self._till.receipt_of_stream(walk) + DONE
            before_s = self._monotonic()
            await client.send(piece, more=True)
            client_s += self._monotonic() - before_s
        ended_s = self._monotonic()
        await client.send(b"", more=False)
        self._learning.stream(walk, answer, ended_s, client_s)

    async def _take(self, walk: Walk, charge_nusd: int | None) -> Headers:
        """Have a payment settled, and return what the head says of it; None leaves that for the end."""
        if self._till is None or walk.credential is None:
            return []
        if charge_nusd is not None and not walk.taken:
            walk.receipt = await self._till.take(walk, charge_nusd)
        return [*walk.receipt, _PRIVATE]

    async def _keep(
        self,
        walk: Walk,
        once: idempotency.Once,
        piece: bytes,
        headers: Headers,
        answer: Answer | StreamRelay,
    ) -> None:
        """Take the answer down for a retry; with its last part, settle before that is handed out.

        One that broke off is not kept.
        """
        once.add(piece)
        if answer.bill is not None:
            walk.bill = answer.bill
            whole = isinstance(answer, Answer) or answer.fault is None
            await store(self._ledger, walk, once.answer(200, headers) if whole else None)


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
