"""Send spans and metrics by OTLP over HTTP; imported only where an endpoint is set (extra `otel`).

A thread of the SDK sends what waits every few seconds. What the receiver does not take is dropped by the SDK
with a line in the log: a request never waits for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.metrics import Counter, Histogram
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags
from opentelemetry.trace.status import Status, StatusCode

from router import __version__
from router.telemetry import conventions as named
from router.telemetry.traces import Span, Value

SPANS_EVERY_MS = 2_000
METRICS_EVERY_MS = 15_000
_SCOPE = InstrumentationScope("router", __version__)
_KINDS = {"server": SpanKind.SERVER, "client": SpanKind.CLIENT, "internal": SpanKind.INTERNAL}


class Exporter:
    """Send to the receiver at `endpoint`, such as http://127.0.0.1:4318.

    Headers (OTEL_EXPORTER_OTLP_HEADERS), the service's name (OTEL_SERVICE_NAME, llm-router by default) and
    attributes of the resource (OTEL_RESOURCE_ATTRIBUTES) are read from the environment by the SDK. `instance`
    tells processes apart.
    """

    def __init__(
        self,
        endpoint: str,
        instance: str,
        *,
        spans_every_ms: int = SPANS_EVERY_MS,
        metrics_every_ms: int = METRICS_EVERY_MS,
    ) -> None:
        base = endpoint.rstrip("/")
        own = Resource({"service.version": __version__, "service.instance.id": instance})
        resource = Resource({"service.name": "llm-router"}).merge(_from_environment()).merge(own)
        self._resource = resource
        self._spans = BatchSpanProcessor(
            OTLPSpanExporter(f"{base}/v1/traces"), schedule_delay_millis=spans_every_ms
        )
        reader = PeriodicExportingMetricReader(
            OTLPMetricExporter(f"{base}/v1/metrics"), export_interval_millis=metrics_every_ms
        )
        self._meters = MeterProvider([reader], resource)
        self._server_seconds = self._histogram(named.SERVER_SECONDS, named.SECONDS_BOUNDS)
        self._first_seconds = self._histogram(named.FIRST_TOKEN_SECONDS, named.SECONDS_BOUNDS)
        self._client_seconds = self._histogram(named.CLIENT_SECONDS, named.SECONDS_BOUNDS)
        self._tokens = self._histogram(named.TOKENS, named.TOKENS_BOUNDS)
        self._charged = self._counter(named.CHARGED)
        self._asked = self._counter(named.ASKED)

    def spans(self, spans: Iterable[Span]) -> None:
        """Take spans of requests that are sampled; they go out together."""
        for span in spans:
            self._spans.on_end(
                ReadableSpan(
                    span.name,
                    context=_context(span.trace_id, span.span_id),
                    parent=None if span.parent_id is None else _context(span.trace_id, span.parent_id),
                    resource=self._resource,
                    attributes=span.attributes,
                    kind=_KINDS[span.kind],
                    status=Status(StatusCode.UNSET if span.error is None else StatusCode.ERROR, span.error),
                    start_time=span.began_ns,
                    end_time=span.ended_ns,
                    instrumentation_scope=_SCOPE,
                )
            )

    def request(
        self,
        labels: Mapping[str, Value],
        seconds: float,
        first_s: float | None,
        *,
        cost_nusd: int,
        upstream_nusd: int,
    ) -> None:
        """Count a request that ended."""
        self._server_seconds.record(seconds, labels)
        if first_s is not None:
            self._first_seconds.record(first_s, labels)
        self._charged.add(cost_nusd, labels)
        self._asked.add(upstream_nusd, labels)

    def call(self, labels: Mapping[str, Value], seconds: float) -> None:
        """Count a call to an upstream."""
        self._client_seconds.record(seconds, labels)

    def tokens(self, labels: Mapping[str, Value], prompt: int, completion: int) -> None:
        """Count the tokens of an answer."""
        self._tokens.record(prompt, {**labels, named.TOKEN_TYPE: "input"})
        self._tokens.record(completion, {**labels, named.TOKEN_TYPE: "output"})

    def close(self) -> None:
        """Send what waits, for a few seconds at most; from a worker thread."""
        self._spans.shutdown()  # type: ignore[no-untyped-call]  # the SDK leaves it without types
        self._meters.shutdown(5_000)

    def _histogram(self, metric: tuple[str, str, str], bounds: tuple[float, ...]) -> Histogram:
        name, unit, text = metric
        return self._meters.get_meter("router", __version__).create_histogram(
            name, unit, text, explicit_bucket_boundaries_advisory=bounds
        )

    def _counter(self, metric: tuple[str, str, str]) -> Counter:
        return self._meters.get_meter("router", __version__).create_counter(*metric)


def _from_environment() -> Resource:
    """Return what OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME say, without the SDK's default name."""
    found = dict(Resource.create().attributes)
    if str(found.get("service.name", "")).startswith("unknown_service"):
        del found["service.name"]
    return Resource(found)


def _context(trace_id: str, span_id: str) -> SpanContext:
    return SpanContext(
        int(trace_id, 16), int(span_id, 16), is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED)
    )
