"""What went wrong with one attempt at an offer, and what that means for the next one and for the client."""

from __future__ import annotations

import re
from typing import Literal

import httpx2 as httpx
import msgspec
from msgspec import Raw, Struct

from router.errors import (
    LimitReached,
    RouterError,
    Unavailable,
    UpstreamBroke,
    UpstreamRefused,
    UpstreamTimeout,
)

Kind = Literal[
    "refused",  # the request is wrong at this upstream: its status goes to the client
    "too_long",  # the prompt does not fit this offer's window: a larger one may take it
    "auth",  # our key, credit or permission: the operator's business, never the client's
    "not_found",
    "rate_limited",
    "unavailable",
    "server_error",
    "timeout",
    "connect",
    "cut",
    "bad_answer",
]
MAX_ERROR_BYTES = 64 * 1024
DEFAULT_RETRY_AFTER_S = 5
_MAX_MESSAGE_CHARS = 600
_MAX_PARAM_CHARS = 100
_TOO_LONG = re.compile(
    r"context[ _]?(length|window|size)|maximum context|too many tokens|prompt is too long|input is too long",
    re.IGNORECASE,
)
_LOOKS_SECRET = re.compile(
    r"(?i)\b(?:sk|rk|pk|gsk|csk|key|xai|hf|nvapi|fw|tgp)[-_][\w.-]{8,}|\bAIza[\w-]{8,}|\bbearer\s+\S{8,}"
    r"|https?://\S+|\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b"
    r"|\[[0-9a-f]*:[0-9a-f:.%]*:[0-9a-f:.%]*\](?::\d+)?|\b[\w-]+(?:\.[\w-]+)+:\d{2,5}\b"
)
_MAX_RETRY_AFTER_S = 86_400


class AttemptFault(Exception):
    """One attempt failed before anything of its answer reached the client."""

    def __init__(
        self,
        kind: Kind,
        detail: str,
        *,
        status: int | None = None,
        retry_after_s: int | None = None,
        param: str | None = None,
    ) -> None:
        super().__init__(detail)
        self.kind: Kind = kind
        self.detail = detail
        self.status = status
        self.retry_after_s = retry_after_s
        self.param = param

    @property
    def final(self) -> bool:
        """Tell whether the next offer would fail in the same way."""
        return self.kind == "refused"


class _ErrorObject(Struct):
    message: str | None = None
    param: str | None = None
    code: str | int | None = None


class _ErrorBody(Struct):
    error: _ErrorObject | str | None = None


_error_body = msgspec.json.Decoder(_ErrorBody)


def from_status(status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> AttemptFault:
    """Classify an answer that is not a 200."""
    retry_after_s = _retry_after(headers)
    message, param, code = _told(body)
    if status in (400, 413, 422):
        kind: Kind = "too_long" if _TOO_LONG.search(f"{message} {code}") else "refused"
        return AttemptFault(kind, message or "it gave no reason", status=status, param=param)
    if status in (401, 402, 403):
        return AttemptFault("auth", f"answered {status}", status=status)
    if status == 404:
        return AttemptFault("not_found", "does not know the model", status=status)
    if status == 408:
        return AttemptFault("timeout", "answered 408", status=status, retry_after_s=retry_after_s)
    if status == 429:
        return AttemptFault("rate_limited", "answered 429", status=status, retry_after_s=retry_after_s)
    if status == 503:
        return AttemptFault("unavailable", "answered 503", status=status, retry_after_s=retry_after_s)
    if status == 504:
        return AttemptFault("timeout", "answered 504", status=status, retry_after_s=retry_after_s)
    return AttemptFault("server_error", f"answered {status}", status=status, retry_after_s=retry_after_s)


def from_error_object(error: Raw) -> AttemptFault:
    """Classify an `error` that came inside a 200 or as an event of a stream."""
    try:
        fields = msgspec.json.decode(error, type=_ErrorObject)
    except (msgspec.DecodeError, UnicodeDecodeError):
        fields = _ErrorObject()
    code = fields.code if isinstance(fields.code, int) else None
    if code is not None and 400 <= code <= 599:
        return from_status(code, [], b'{"error":' + bytes(error) + b"}")
    return AttemptFault("server_error", "answered with an error object")


def from_exception(fault: httpx.HTTPError) -> AttemptFault:
    """Classify what the transport raised; its text stays out of the answer."""
    if isinstance(fault, httpx.TimeoutException):
        return AttemptFault("timeout", "did not answer in time")
    if isinstance(fault, httpx.ConnectError):
        return AttemptFault("connect", "cannot be reached")
    return AttemptFault("cut", "broke the connection")


def _retry_after(headers: list[tuple[bytes, bytes]]) -> int | None:
    """Return Retry-After in seconds; the form with a date is not worth a clock here."""
    for name, value in headers:
        digits = value.strip()
        if name in (b"retry-after", b"retry-after-ms") and digits.isdigit():
            number = int(digits[:4_000])  # Python converts no longer ones
            return min(number if name == b"retry-after" else -(-number // 1000), _MAX_RETRY_AFTER_S)
    return None


def _told(body: bytes) -> tuple[str, str | None, str]:
    """Return message, param and code of an OpenAI error body; nothing of HTML, addresses or keys."""
    try:
        error = _error_body.decode(body).error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return "", None, ""
    if isinstance(error, str):
        return public_text(error), None, ""
    if error is None:
        return "", None, ""
    param = public_text(error.param or "")[:_MAX_PARAM_CHARS]
    return public_text(error.message or ""), param or None, str(error.code or "")


def public_text(text: str) -> str:
    """Clean an upstream's sentence for a client: one line, bounded, no markup, no address, no key."""
    if "<html" in text.lower() or "<!doctype" in text.lower():
        return ""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return _LOOKS_SECRET.sub("[removed]", line)[:_MAX_MESSAGE_CHARS]


def as_error(faults: list[AttemptFault]) -> RouterError:
    """Return what the client is told when every attempt failed; a known Retry-After is never hidden."""
    last = faults[-1]
    if last.kind in ("refused", "too_long") and last.status is not None:
        text = f"The upstream refused the request: {last.detail}"
        name = "context_length_exceeded" if last.kind == "too_long" else None
        return UpstreamRefused(text, status=last.status, param=last.param, name=name)
    kinds = {fault.kind for fault in faults}
    waits = [fault.retry_after_s for fault in faults if fault.retry_after_s is not None]
    wait_s = min(waits) if waits else None
    told_s = DEFAULT_RETRY_AFTER_S if wait_s is None else wait_s
    tried = f"{len(faults)} offer{'s' if len(faults) > 1 else ''} tried"
    if kinds == {"rate_limited"}:
        text = f"Every upstream is at its rate limit ({tried})."
        return LimitReached(text, retry_after_s=told_s, name="upstream_rate_limited")
    if kinds <= {"rate_limited", "unavailable"}:
        text = f"Every upstream is overloaded ({tried})."
        return Unavailable(text, retry_after_s=told_s, name="upstream_unavailable")
    if kinds == {"timeout"}:
        return UpstreamTimeout(f"No upstream answered in time ({tried}).", retry_after_s=wait_s)
    text = f"No upstream gave a usable answer ({tried}; the last one {_public_reason(last)})."
    return UpstreamBroke(text, retry_after_s=wait_s)


def _public_reason(fault: AttemptFault) -> str:
    """Describe a fault without the operator's business in it."""
    return "refused the router" if fault.kind == "auth" else fault.detail
