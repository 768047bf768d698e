"""Which trace a request belongs to: W3C trace context, ids of its spans, and the spans once it has ended.

Source: w3.org/TR/trace-context. Nothing here needs OpenTelemetry's packages; `router.telemetry.otlp` sends
the spans, where the operator wants that.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

# A version after 00 may add fields behind the flags.
_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?", re.ASCII)
_SAMPLED = 1
_SPAN_ID_MASK = 2**64 - 1

Value = str | bool | int | float


@dataclass(frozen=True, slots=True)
class Parent:
    """The caller's span."""

    trace_id: str
    span_id: str
    sampled: bool


def parent_of(traceparent: str | None) -> Parent | None:
    """Read a `traceparent` header; None for none and for one that is not valid."""
    match = _PARENT.fullmatch(traceparent.strip()) if traceparent is not None else None
    if match is None or match[1] == "ff" or (match[1] == "00" and match[0].count("-") != 3):
        return None
    if int(match[2], 16) == 0 or int(match[3], 16) == 0:
        return None
    return Parent(match[2], match[3], bool(int(match[4], 16) & _SAMPLED))


@dataclass(slots=True)
class Call:
    """One call to an upstream; times are seconds of the monotonic clock."""

    span_id: str
    began_s: float
    ended_s: float | None = None
    fault: str | None = None
    status: int | None = None
    attributes: Mapping[str, Value] = field(default_factory=dict)


@dataclass(slots=True)
class Trace:
    """One request's place in a trace; `span_id` is its own span, `state` the caller's `tracestate`."""

    trace_id: str
    span_id: str
    parent_id: str | None
    sampled: bool
    calls: list[Call] = field(default_factory=list)

    @classmethod
    def begin(cls, traceparent: str | None, share: float) -> Trace:
        """Go on with the caller's trace, sampled as there, or begin one; `share` of those are sampled."""
        parent = parent_of(traceparent)
        if parent is not None:
            return cls(parent.trace_id, _new_id(8), parent.span_id, parent.sampled)
        trace_id = _new_id(16)
        # By the id's last 64 bits, as OpenTelemetry's TraceIdRatioBased does.
        sampled = int(trace_id, 16) & _SPAN_ID_MASK < share * 2**64
        return cls(trace_id, _new_id(8), None, sampled)

    def call(self, began_s: float, attributes: Mapping[str, Value]) -> Call:
        """Begin a call to an upstream."""
        call = Call(_new_id(8), began_s, attributes=attributes)
        self.calls.append(call)
        return call

    def headers(self, call: Call, headers: Mapping[str, str]) -> dict[str, str]:
        """Return the headers of a call: the upstream's span is the child of ours.

        A `tracestate` goes on with the trace that it came with, and with no other.
        """
        sent = {name: value for name, value in headers.items() if name not in ("traceparent", "tracestate")}
        sent["traceparent"] = f"00-{self.trace_id}-{call.span_id}-{int(self.sampled):02x}"
        if self.parent_id is not None and "tracestate" in headers:
            sent["tracestate"] = headers["tracestate"]
        return sent


@dataclass(frozen=True, slots=True)
class Span:
    """A span that has ended; times are nanoseconds since 1970."""

    name: str
    kind: Literal["server", "client", "internal"]
    trace_id: str
    span_id: str
    parent_id: str | None
    began_ns: int
    ended_ns: int
    attributes: Mapping[str, Value]
    error: str | None = None


def new_span_id() -> str:
    """Return an id for a span that nobody else knows of."""
    return _new_id(8)


def _new_id(size_bytes: int) -> str:
    """Return random hexadecimal digits, not all zero."""
    while True:
        found = os.urandom(size_bytes).hex()
        if found.strip("0"):
            return found
