"""What is known of one request on its way; from it come the answer's headers, the log line, the metrics."""

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
from router.routing.recorded import Actual
from router.routing.recorder import Recorder
from router.routing.sessions import Session
from router.telemetry.log import RequestLog
from router.telemetry.metrics import Metrics
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


def note(walk: Walk, now_s: float, log: RequestLog, metrics: Metrics) -> None:
    """Write the request's log line and count it."""
    candidate, bill, decision = walk.candidate, walk.bill, walk.decision
    category = decision.categorised.category if decision is not None else None
    model = candidate.model.id if candidate is not None else None
    first_s = None if walk.first_piece_s is None else walk.first_piece_s - walk.began_s
    log.write(
        walk.at.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z",
        {
            "request_id": walk.request_id,
            "client_request_id": walk.client_request_id,
            "account": walk.caller.account if walk.caller is not None else None,
            "outcome": walk.outcome,
            "asked": decision.need.asked.name if decision is not None else None,
            "category": category,
            "model": model,
            "answered_model": walk.answered_model,
            "provider": candidate.offer.provider if candidate is not None else None,
            "attempts": walk.attempts,
            "stream": walk.stream,
            "prompt_tokens": bill.tokens.prompt if bill is not None else None,
            "completion_tokens": bill.tokens.completion if bill is not None else None,
            "estimated": bill.estimated or None if bill is not None else None,
            "charged_nusd": walk.charged_nusd,
            "first_s": first_s,
            "seconds": now_s - walk.began_s,
        },
    )
    metrics.requests[category or "named", model or "none", walk.outcome] += 1
    if decision is not None and decision.need.asked.auto and decision.categorised.confidence is not None:
        metrics.confidence.observe(decision.categorised.confidence)
    metrics.seconds.observe(now_s - walk.began_s)
    if first_s is not None:
        metrics.first_token.observe(first_s)
    if walk.sent_s is not None:
        metrics.overhead.observe(walk.sent_s - walk.began_s)
    if bill is not None:
        metrics.prompt_tokens += bill.tokens.prompt
        metrics.completion_tokens += bill.tokens.completion
        metrics.cost_nusd += walk.charged_nusd or 0
        metrics.upstream_cost_nusd += bill.upstream_nusd


def record(walk: Walk, now_s: float, recorder: Recorder) -> None:
    """Write the decision and what came of it into the decision log; without a decision there is nothing."""
    decision, catalog = walk.decision, walk.catalog
    if decision is None or catalog is None:
        return
    offer = walk.candidate.offer if walk.candidate is not None else None
    bill = walk.bill
    tokens = bill.tokens if bill is not None else None
    actual = Actual(
        outcome=walk.outcome,
        seconds=now_s - walk.began_s,
        model=offer.model if offer is not None else None,
        provider=offer.provider if offer is not None else None,
        upstream_model=offer.upstream_model if offer is not None else None,
        attempts=walk.attempts,
        stream=walk.stream,
        prompt_tokens=tokens.prompt if tokens is not None else None,
        completion_tokens=tokens.completion if tokens is not None else None,
        cached_tokens=tokens.cached if tokens is not None else 0,
        written_tokens=tokens.written if tokens is not None else 0,
        charged_nusd=walk.charged_nusd or 0,
        upstream_nusd=bill.upstream_nusd if bill is not None else 0,
        first_s=None if walk.first_piece_s is None else walk.first_piece_s - walk.began_s,
        estimated=bill.estimated if bill is not None else False,
    )
    recorder.note(
        decision,
        catalog,
        walk.live,
        actual,
        request_id=walk.request_id,
        stripped=walk.stripped,
        account=walk.caller.account if walk.caller is not None else None,
        client_request_id=walk.client_request_id,
    )


def trace_headers(walk: Walk, headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers that may go upstream, with the id that the client sees."""
    return {**headers, "x-request-id": walk.shown_id}
