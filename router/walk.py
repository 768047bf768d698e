"""What is known of one request on its way; from it come the answer's headers and what is told of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from router.access.keys import Caller
from router.access.terms import Asked, Credential, Headers, Refused
from router.catalog.snapshot import Category, Snapshot
from router.gate import Place
from router.history.record import Attempt
from router.history.words import Talk
from router.idempotency import Once
from router.ledger.money import nusd_to_usd
from router.limits import Standing, Window
from router.routing.decide import Candidate, Decision, Live
from router.routing.need import Need
from router.routing.sessions import Session
from router.telemetry.traces import Trace, parent_of
from router.upstream.paying import Purse
from router.upstream.usage import Bill

NO_LIVE = Live()


@dataclass(slots=True)
class Walk:
    """One request so far; times are seconds of the monotonic clock, `at` is the admission time in UTC."""

    request_id: str
    client_request_id: str | None
    began_s: float
    at: datetime
    stream: bool = False
    caller: Caller | None = None
    decision: Decision | None = None
    catalog: Snapshot | None = None
    live: Live = NO_LIVE
    session: Session | None = None
    credential: Credential | None = None  # where a wallet pays
    asked: Asked | None = None  # what payments look at, where wallets can pay
    fixed_nusd: int | None = None  # what a whole answer costs, where the payment is for a fixed amount
    unit_nusd: int = 1  # the charge is a multiple of it
    unpaid: Refused | None = None  # what is wrong with the payment that came, where it does not do
    withheld: bool = False  # the answer is here, and its payment failed: the client gets none of it
    receipt: Headers = field(default_factory=list)  # of the payment, once it is settled
    pays_first: bool = False  # the payment is settled at a place, and before the upstream there is asked
    taken: bool = False  # the payment's settlement was begun
    once: Once | None = None  # where the client sent an Idempotency-Key
    said: Category | None = None  # what the words said, before the session's floor
    stripped: bool = False
    holds: int = 0
    hold_id: str | None = None
    held_nusd: int = 0
    place: Place | None = None
    standing: Standing | None = None  # of the caller's key, where it has limits of the minute
    candidate: Candidate | None = None
    attempts: int = 0
    calls: list[Attempt] = field(default_factory=list)  # what came of each attempt that has ended
    bill: Bill | None = None
    charged_nusd: int | None = None
    answered_model: str | None = None
    timings_ms: dict[str, float] = field(default_factory=dict)
    sent_s: float | None = None
    attempt_s: float = 0.0
    first_piece_s: float | None = None
    outcome: str = "ok"
    purse: Purse | None = None  # where the wallet may have paid an upstream
    decided_s: float | None = None
    traceparent: str | None = None  # as the client sent it
    talk: Talk | None = None  # where the operator keeps prompts
    trace: Trace | None = None  # where traces are exported, from the first call on

    @property
    def candidates(self) -> Sequence[Candidate]:
        """Return the ranked offers."""
        return self.decision.candidates if self.decision is not None else ()

    @property
    def model_id(self) -> str | None:
        """Return the catalog model that serves it, or was tried last."""
        return self.candidate.model.id if self.candidate is not None else None

    @property
    def trace_id(self) -> str | None:
        """Return the trace that it belongs to, the client's or ours."""
        if self.trace is not None:
            return self.trace.trace_id
        parent = parent_of(self.traceparent) if self.traceparent is not None else None
        return parent.trace_id if parent is not None else None

    @property
    def payer(self) -> str:
        """Say who pays, in a word that is a metric's label."""
        caller = self.caller
        if caller is None:
            return "none"
        if caller.key is not None:
            return "key"
        return "wallet" if caller.account.startswith("payer:") else "open"

    @property
    def need(self) -> Need:
        """Return what the request needs; only after the decision."""
        if self.decision is None:
            raise ValueError("nothing has been decided yet")
        return self.decision.need

    @property
    def cover_nusd(self) -> int:
        """Return what the request's idempotency key has paid before, and it need not pay again."""
        return self.once.claim.cover_nusd if self.once is not None else 0

    @property
    def shown_id(self) -> str:
        """The request id that the client sees: its own, where that was usable."""
        return self.client_request_id or self.request_id


class Came(Protocol):
    """A request as it came in."""

    request_id: str
    client_request_id: str | None
    began_s: float
    headers: Mapping[str, str]


def begun(came: Came, at: datetime) -> Walk:
    """Return the walk of a request that was admitted at `at`."""
    theirs = came.headers.get("traceparent")
    return Walk(came.request_id, came.client_request_id, came.began_s, at, traceparent=theirs)


def head(walk: Walk) -> list[tuple[bytes, bytes]]:
    """Return the headers that explain an answer; all values are ASCII."""
    decision = walk.decision
    headers = [(b"x-request-id", walk.shown_id.encode())]
    if decision is not None:
        categorised = decision.categorised
        headers.append((b"x-llm-router-logical-model", _ascii(decision.need.asked.name)))
        if categorised.category is not None:
            headers.append((b"x-llm-router-category", categorised.category.encode()))
        if categorised.confidence is not None:
            headers.append((b"x-llm-router-confidence", b"%.4f" % categorised.confidence))
        candidate = walk.candidate or decision.chosen
        if candidate is not None:
            reason = decision.reason if candidate is decision.chosen else "fallback_after_error"
            headers += (
                (b"x-llm-router-resolved-model", _ascii(candidate.model.id)),
                (b"x-llm-router-provider", _ascii(candidate.offer.provider)),
                (b"x-llm-router-reason", reason.encode()),
            )
        headers.append((b"x-llm-router-catalog", decision.catalog.encode()))
    timings = ", ".join([f"{name};dur={ms:.3f}" for name, ms in walk.timings_ms.items()])
    if walk.standing is not None:
        headers += standing_headers(walk.standing)
    headers += ((b"x-llm-router-attempts", b"%d" % walk.attempts), (b"server-timing", timings.encode()))
    return headers


def standing_headers(standing: Standing) -> list[tuple[bytes, bytes]]:
    """Return how a key stands to its limits, by the names that OpenAI gives these headers.

    Source: platform.openai.com/docs/guides/rate-limits, "Rate limits in headers".
    """
    return [
        header
        for name, window in ((b"requests", standing.requests), (b"tokens", standing.tokens))
        if window is not None
        for header in _window_headers(name, window)
    ]


def _window_headers(name: bytes, window: Window) -> Iterator[tuple[bytes, bytes]]:
    yield b"x-ratelimit-limit-" + name, b"%d" % window.limit
    yield b"x-ratelimit-remaining-" + name, b"%d" % window.left
    yield b"x-ratelimit-reset-" + name, duration(window.reset_s)


def duration(seconds: float) -> bytes:
    """Write a time as OpenAI's headers do: 120ms, 12s, 1m0s; rounded up, so that nobody comes too early."""
    if seconds < 1:
        return b"%dms" % math.ceil(seconds * 1e3)
    minutes, rest_s = divmod(math.ceil(seconds), 60)
    return b"%dm%ds" % (minutes, rest_s) if minutes else b"%ds" % rest_s


def _ascii(text: str) -> bytes:
    return text.encode("ascii", "replace")


def cost_header(walk: Walk) -> tuple[bytes, bytes]:
    """Return what the request was charged, in USD."""
    return (b"x-llm-router-cost-usd", nusd_to_usd(charge_nusd(walk)).encode())


def charge_nusd(walk: Walk) -> int:
    """Return what the request costs the customer: nothing that its idempotency key has paid for before."""
    return max(0, walk.bill.charge_nusd - walk.cover_nusd) if walk.bill is not None else 0


def trace_headers(walk: Walk, headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers that may go upstream, with the id that the client sees."""
    return {**headers, "x-request-id": walk.shown_id}
