"""What is told of requests that have ended: the metrics, a log line each, the decision log, the history."""

from __future__ import annotations

import asyncio

from router.catalog.snapshot import Offer, Snapshot
from router.history.history import History
from router.remembered import Remembering
from router.routing.recorded import Actual
from router.routing.recorder import Recorder, baseline_nusd, baseline_offers
from router.spans import Receiver, tell
from router.telemetry.log import RequestLog
from router.telemetry.metrics import NO_MODEL, Metrics
from router.walk import Walk

BATCH = 32
WAIT_S = 0.05


class Ended:
    """Count a request at once, and write its lines together with others'.

    Lines are written when `batch` requests wait, or WAIT_S after the first of them: 4 % less CPU a request at
    64 connections than one by one, since the code for them is then in the processor's caches.
    `recorder` None keeps no decision log, `history` None nothing for the pages. A `receiver` is told too, of
    `sample` of the new traces.
    """

    def __init__(
        self,
        log: RequestLog,
        recorder: Recorder | None,
        metrics: Metrics,
        batch: int = BATCH,
        receiver: Receiver | None = None,
        sample: float = 1.0,
        history: History | None = None,
    ) -> None:
        self._log = log
        self._recorder = recorder
        self._metrics = metrics
        self._batch = batch
        self._receiver = receiver
        self._sample = sample
        self._history = history
        self._remembering = Remembering()
        self._waiting: list[tuple[Walk, float]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._baseline: tuple[Snapshot | None, tuple[Offer, ...]] = (None, ())

    def note(self, walk: Walk, now_s: float) -> None:
        """Take a request that ended at `now_s` of the monotonic clock; from the event loop."""
        _count(walk, now_s, self._metrics)
        self._waiting.append((walk, now_s))
        if len(self._waiting) >= self._batch:
            self.write()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(WAIT_S, self.write)

    def write(self) -> None:
        """Write what waits."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting, self._waiting = self._waiting, []
        for walk, now_s in waiting:
            _write_line(walk, now_s, self._log)
        for walk, now_s in waiting:
            baseline_nusd = _record(walk, now_s, self._recorder) if self._recorder is not None else None
            if self._recorder is None:
                baseline_nusd = self._baseline_nusd(walk)
            if baseline_nusd is not None and walk.bill is not None:
                self._metrics.compare(walk.bill.upstream_nusd, baseline_nusd)
            if self._receiver is not None:
                tell(walk, now_s, self._receiver, self._sample)
            if self._history is not None:
                self._history.note(self._remembering.record(walk, now_s, baseline_nusd))

    def _baseline_nusd(self, walk: Walk) -> int | None:
        """Return what the answer costs at the baseline, where no line of the log says it."""
        catalog, bill = walk.catalog, walk.bill
        if catalog is None or bill is None or walk.decision is None:
            return None
        if self._baseline[0] is not catalog:
            self._baseline = (catalog, baseline_offers(catalog))
        return baseline_nusd(self._baseline[1], walk.need.at, bill.tokens)


def _write_line(walk: Walk, now_s: float, log: RequestLog) -> None:
    candidate, bill, decision = walk.candidate, walk.bill, walk.decision
    category = decision.categorised.category if decision is not None else None
    model = candidate.model.id if candidate is not None else None
    first_s = None if walk.first_piece_s is None else walk.first_piece_s - walk.began_s
    log.write(
        walk.at.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z",
        {
            "request_id": walk.request_id,
            "client_request_id": walk.client_request_id,
            "trace_id": walk.trace_id,
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


def _record(walk: Walk, now_s: float, recorder: Recorder) -> int | None:
    """Write the decision; return what the answer costs at the baseline, None where nothing was billed."""
    decision, catalog = walk.decision, walk.catalog
    if decision is None or catalog is None:
        return None
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
    return recorder.note(
        decision,
        catalog,
        walk.live,
        actual,
        request_id=walk.request_id,
        stripped=walk.stripped,
        account=walk.caller.account if walk.caller is not None else None,
        client_request_id=walk.client_request_id,
    )


def _count(walk: Walk, now_s: float, metrics: Metrics) -> None:
    candidate, bill, decision = walk.candidate, walk.bill, walk.decision
    category = decision.categorised.category if decision is not None else None
    model = candidate.model.id if candidate is not None else NO_MODEL
    metrics.requests[category or "named", model, walk.outcome, walk.payer] += 1
    if decision is not None and decision.need.asked.auto and decision.categorised.confidence is not None:
        metrics.confidence.observe(decision.categorised.confidence)
    metrics.seconds.observe(now_s - walk.began_s)
    if walk.first_piece_s is not None:
        metrics.first_token.observe(walk.first_piece_s - walk.began_s)
    if walk.sent_s is not None:
        queued_s = walk.timings_ms.get("queue", 0.0) / 1e3
        metrics.overhead.observe(walk.sent_s - walk.began_s - queued_s)
    if bill is not None:
        spent = metrics.spent[model]
        spent.prompt_tokens += bill.tokens.prompt
        spent.completion_tokens += bill.tokens.completion
        spent.cost_nusd += walk.charged_nusd or 0
        spent.upstream_cost_nusd += bill.upstream_nusd
