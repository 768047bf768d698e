"""What went wrong with one attempt at an offer, and what that means for the next one and for the client."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
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
    "unpaid",  # it asks for a payment that the wallet does not make, or has made in this request already
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
_MAX_DATE_BYTES = 64
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


class _Place(Struct):
    """One entry of FastAPI's `detail`: what is wrong, and where."""

    msg: str = ""
    loc: list[str | int] = []


class _ErrorObject(Struct):
    message: str | None = None
    param: str | None = None
    code: str | int | None = None


class _ErrorBody(Struct):
    """What OpenAI-compatible servers send: `error`, or at the top `message` (vLLM) or `detail` (FastAPI)."""

    error: Raw = Raw(b"null")
    message: Raw = Raw(b"null")
    detail: Raw = Raw(b"null")


_error_body = msgspec.json.Decoder(_ErrorBody)
_error_words = msgspec.json.Decoder(_ErrorObject | str | list[_Place] | None)


def from_status(
    status: int, headers: list[tuple[bytes, bytes]], body: bytes, now: datetime | None = None
) -> AttemptFault:
    """Classify an answer that is not a 200; `now` is for a Retry-After that is a date."""
    retry_after_s = _retry_after(dict(headers), now)
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


def _retry_after(headers: Mapping[bytes, bytes], now: datetime | None) -> int | None:
    """Return how long to wait in seconds, rounded up (RFC 9110 section 10.2.3).

    A date is compared with the upstream's own clock where it sends that, since ours may differ.
    """
    for name, per_s in ((b"retry-after-ms", 1_000), (b"retry-after", 1)):
        digits = headers.get(name, b"").strip()
        if digits.isdigit():
            return min(-(-int(digits[:4_000]) // per_s), _MAX_RETRY_AFTER_S)  # Python converts no longer ones
    until, since = _date(headers.get(b"retry-after")), _date(headers.get(b"date")) or now
    if until is None or since is None:
        return None
    return min(max(0, math.ceil((until - since).total_seconds())), _MAX_RETRY_AFTER_S)


def _date(value: bytes | None) -> datetime | None:
    """Read an HTTP date (RFC 9110 section 5.6.7)."""
    if not value or len(value) > _MAX_DATE_BYTES:
        return None
    try:
        date = parsedate_to_datetime(value.decode("ascii"))
    except (ValueError, OverflowError):  # UnicodeDecodeError is a ValueError
        return None
    return date if date.tzinfo is not None else date.replace(tzinfo=UTC)


def _told(body: bytes) -> tuple[str, str | None, str]:
    """Return message, param and code of an error body; nothing of HTML, addresses or keys."""
    try:
        told = _error_body.decode(body)
        found = [_words(raw) for raw in (told.error, told.message, told.detail)]
        outer = _words(Raw(body))  # param and code stand beside `message` where there is no `error`
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return "", None, ""
    words = next((one for one in found if one.message), _ErrorObject())
    param = public_text(words.param or outer.param or "")[:_MAX_PARAM_CHARS]
    return public_text(words.message or ""), param or None, str(words.code or outer.code or "")


def _words(raw: Raw) -> _ErrorObject:
    """Read what an error body says in one of its members, whatever form that has."""
    try:
        told = _error_words.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _ErrorObject()
    if told is None or isinstance(told, _ErrorObject):
        return told or _ErrorObject()
    if isinstance(told, str):
        return _ErrorObject(told)
    places = [(".".join(map(str, place.loc)).removeprefix("body."), place.msg) for place in told]
    text = "; ".join(f"{where}: {what}" if where else what for where, what in places)
    return _ErrorObject(text, places[0][0] if places else None)


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
    return "refused the router" if fault.kind in ("auth", "unpaid") else fault.detail
