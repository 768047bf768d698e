"""What is known of one request on its way; from it come the answer's headers and what is told of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from router.access.keys import Caller
from router.catalog.snapshot import Category, Snapshot
from router.ledger.money import nusd_to_usd
from router.limits import Place
from router.routing.decide import Candidate, Decision, Live
from router.routing.need import Need
from router.routing.sessions import Session
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
    said: Category | None = None  # what the words said, before the session's floor
    stripped: bool = False
    holds: int = 0
    hold_id: str | None = None
    held_nusd: int = 0
    place: Place | None = None
    candidate: Candidate | None = None
    attempts: int = 0
    bill: Bill | None = None
    charged_nusd: int | None = None
    answered_model: str | None = None
    timings_ms: dict[str, float] = field(default_factory=dict)
    sent_s: float | None = None
    attempt_s: float = 0.0
    first_piece_s: float | None = None
    outcome: str = "ok"

    @property
    def candidates(self) -> Sequence[Candidate]:
        """Return the ranked offers."""
        return self.decision.candidates if self.decision is not None else ()

    @property
    def need(self) -> Need:
        """Return what the request needs; only after the decision."""
        if self.decision is None:
            raise ValueError("nothing has been decided yet")
        return self.decision.need

    @property
    def shown_id(self) -> str:
        """The request id that the client sees: its own, where that was usable."""
        return self.client_request_id or self.request_id


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
    headers += ((b"x-llm-router-attempts", b"%d" % walk.attempts), (b"server-timing", timings.encode()))
    return headers


def _ascii(text: str) -> bytes:
    return text.encode("ascii", "replace")


def cost_header(walk: Walk) -> tuple[bytes, bytes]:
    """Return what the request was charged, in USD."""
    nusd = walk.bill.charge_nusd if walk.bill is not None else 0
    return (b"x-llm-router-cost-usd", nusd_to_usd(nusd).encode())


def trace_headers(walk: Walk, headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers that may go upstream, with the id that the client sees."""
    return {**headers, "x-request-id": walk.shown_id}
