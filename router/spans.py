"""What OpenTelemetry is told of a request that has ended: its span, its decision's, one for each call."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from router.telemetry import conventions as named
from router.telemetry.traces import Call, Span, Trace, Value, new_span_id
from router.walk import Walk


class Receiver(Protocol):
    """Who takes spans and figures; `router.telemetry.otlp.Exporter` is one."""

    def spans(self, spans: Iterator[Span]) -> None:
        """Take spans."""
        ...

    def request(
        self,
        labels: dict[str, Value],
        seconds: float,
        first_s: float | None,
        *,
        cost_nusd: int,
        upstream_nusd: int,
    ) -> None:
        """Count a request."""
        ...

    def call(self, labels: dict[str, Value], seconds: float) -> None:
        """Count a call."""
        ...

    def tokens(self, labels: dict[str, Value], prompt: int, completion: int) -> None:
        """Count tokens."""
        ...


def tell(walk: Walk, now_s: float, receiver: Receiver, share: float) -> None:
    """Hand a request over that ended at `now_s` of the monotonic clock; `share` of new traces are sampled."""
    trace = walk.trace or Trace.begin(walk.traceparent, share)
    if trace.sampled:
        receiver.spans(spans_of(walk, trace, now_s))
    bill, first_s = walk.bill, walk.first_piece_s
    labels: dict[str, Value] = {
        named.OPERATION: named.CHAT,
        named.OUTCOME: walk.outcome,
        named.PAYER: walk.payer,
        **_served(walk),
    }
    if walk.outcome != "ok":
        labels[named.ERROR] = walk.outcome
    receiver.request(
        labels,
        now_s - walk.began_s,
        None if first_s is None else first_s - walk.began_s,
        cost_nusd=walk.charged_nusd or 0,
        upstream_nusd=0 if bill is None else bill.upstream_nusd,
    )
    for call in trace.calls:
        fault: dict[str, Value] = {} if call.fault is None else {named.ERROR: call.fault}
        receiver.call({**call.attributes, **fault}, (call.ended_s or now_s) - call.began_s)
    if bill is not None and trace.calls:
        receiver.tokens(dict(trace.calls[-1].attributes), bill.tokens.prompt, bill.tokens.completion)


def spans_of(walk: Walk, trace: Trace, now_s: float) -> Iterator[Span]:
    """Yield the spans of a request; a call that no fault ended lasted as long as the request."""
    at_ns = int(walk.at.timestamp() * 1e9)

    def ns(moment_s: float) -> int:
        return at_ns + int((moment_s - walk.began_s) * 1e9)

    asked = walk.decision.need.asked.name if walk.decision is not None else None
    yield Span(
        f"{named.CHAT} {asked}" if asked is not None else named.CHAT,
        "server",
        trace.trace_id,
        trace.span_id,
        trace.parent_id,
        ns(walk.began_s),
        ns(now_s),
        _request_attributes(walk),
        None if walk.outcome in ("ok", "replayed") else walk.outcome,
    )
    if walk.decision is not None and walk.decided_s is not None:
        seconds = sum(ms for name, ms in walk.timings_ms.items() if name in ("classify", "decide")) / 1e3
        began_ns, ended_ns = ns(max(walk.began_s, walk.decided_s - seconds)), ns(walk.decided_s)
        yield Span(
            *(named.DECIDE, "internal", trace.trace_id, new_span_id(), trace.span_id),
            *(began_ns, ended_ns, _decision_attributes(walk)),
        )
    for call in trace.calls:
        yield Span(
            f"{named.CHAT} {call.attributes[named.REQUEST_MODEL]}",
            "client",
            trace.trace_id,
            call.span_id,
            trace.span_id,
            ns(call.began_s),
            ns(call.ended_s or now_s),
            _call_attributes(walk, call, last=call is trace.calls[-1]),
            call.fault,
        )


def _served(walk: Walk) -> dict[str, Value]:
    if walk.candidate is None:
        return {}
    return {
        named.PROVIDER: walk.candidate.offer.provider,
        named.RESPONSE_MODEL: walk.candidate.model.id,
    }


def _request_attributes(walk: Walk) -> dict[str, Value]:
    found: dict[str, Value] = {
        named.OPERATION: named.CHAT,
        named.REQUEST_ID: walk.request_id,
        named.OUTCOME: walk.outcome,
        named.PAYER: walk.payer,
        named.ATTEMPTS: walk.attempts,
        named.STREAM: walk.stream,
        **_served(walk),
        **_used(walk),
    }
    if walk.decision is not None:
        found[named.REQUEST_MODEL] = walk.decision.need.asked.name
    if walk.bill is not None:
        found[named.COST] = walk.charged_nusd or 0
        found[named.UPSTREAM_COST] = walk.bill.upstream_nusd
        found[named.ESTIMATED] = walk.bill.estimated
    if walk.outcome not in ("ok", "replayed"):
        found[named.ERROR] = walk.outcome
    return found


def _decision_attributes(walk: Walk) -> dict[str, Value]:
    decision = walk.decision
    if decision is None:
        return {}
    found: dict[str, Value] = {
        named.MODE: decision.need.mode,
        named.REASON: decision.reason,
        named.CATALOG: decision.catalog,
        named.CANDIDATES: len(decision.candidates),
    }
    if decision.categorised.category is not None:
        found[named.CATEGORY] = decision.categorised.category
    if decision.categorised.confidence is not None:
        found[named.CONFIDENCE] = decision.categorised.confidence
    return found


def _call_attributes(walk: Walk, call: Call, *, last: bool) -> dict[str, Value]:
    found = dict(call.attributes)
    if call.fault is not None:
        found[named.ERROR] = call.fault
        if call.status is not None:
            found[named.STATUS] = call.status
    elif last:
        found[named.STATUS] = 200
        found.update(_used(walk))
        found[named.RESPONSE_MODEL] = walk.answered_model or str(found[named.REQUEST_MODEL])
    return found


def _used(walk: Walk) -> dict[str, Value]:
    if walk.bill is None:
        return {}
    tokens = walk.bill.tokens
    return {
        named.INPUT_TOKENS: tokens.prompt,
        named.OUTPUT_TOKENS: tokens.completion,
        named.CACHED_TOKENS: tokens.cached,
    }
