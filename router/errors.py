"""The error tree: every refusal a client can see, once, with its status and its fixed name.

    RouterError
    ├── BadRequest            400  the body or a header is wrong; `param` names the field
    │   └── NothingFits       400  no offer can ever serve this request
    ├── InvalidKey            401  wrong, expired or missing API key
    ├── OutOfCredit           402  this customer's own money is used up
    ├── PaymentRequired       402  nobody pays for this request yet, or what was signed does not do
    ├── PaymentRefused        403  this signature was used before, or its payer owes for an earlier answer
    ├── ForeignOrigin         403  a page of another site asks without a key
    ├── NotFound              404  unknown route, model or id
    │   ├── ModelNotFound     404  the model is not in the catalog
    │   └── ModelNotAvailable 404  known, but no usable offer; names the missing setting
    ├── MethodNotAllowed      405
    ├── KeyInUse              409  the same Idempotency-Key still runs; always a Retry-After
    ├── TooLarge              413
    ├── KeyReused             422  the same Idempotency-Key came with another body
    ├── LimitReached          429  only limits stand in the way; always a Retry-After
    │   └── CallerAtLimit     429  those of the caller's own key
    │       └── PayerAtLimit  429  this wallet has too much open
    ├── InternalError         500
    ├── UpstreamRefused       4xx  the upstream's own 400, 413 or 422, kept with its status
    ├── UpstreamBroke         502
    ├── Unavailable           503  unhealthy upstreams or storage down; always a Retry-After
    ├── SettlementUnknown     503  a payment was sent and nobody can say yet whether it went through
    └── UpstreamTimeout       504

`name` is a low-cardinality word: it is the error's metric label as well as its field in the body.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

ErrorCodeStyle = Literal["status", "name"]


class RouterError(Exception):
    """Answer a request with an error body in OpenAI's form."""

    status: int = 500
    type: ClassVar[str] = "server_error"
    name: str = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        name: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s
        self.told: Sequence[tuple[bytes, bytes]] = ()  # further headers, known where it was raised
        if name is not None:
            self.name = name

    def payload(self, style: ErrorCodeStyle = "status") -> dict[str, Any]:
        """Return the `error` object; `style` "name" puts the specific string into `code`."""
        return {
            "code": self.status if style == "status" else self.name,
            "message": self.message,
            "type": self.type,
            "param": self.param,
            "name": self.name,
        }

    def body(self, style: ErrorCodeStyle = "status") -> bytes:
        """Return the whole JSON body."""
        return json.dumps({"error": self.payload(style)}, ensure_ascii=False).encode(
            "utf-8", "backslashreplace"
        )

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Return the headers that belong to this error."""
        if self.retry_after_s is None:
            return [*self.told]
        return [(b"retry-after", str(max(1, self.retry_after_s)).encode()), *self.told]


class BadRequest(RouterError):
    """The request itself is wrong."""

    status = 400
    type = "invalid_request_error"
    name = "invalid_request"


class NothingFits(BadRequest):
    """No offer of the catalog can ever serve this request."""

    name = "no_offer_fits"


class InvalidKey(RouterError):
    """The API key is missing, unknown, expired or revoked."""

    status = 401
    type = "authentication_error"
    name = "invalid_api_key"


class OutOfCredit(RouterError):
    """This customer's own credit does not cover the request.

    `needed_usd` and `available_usd` are decimal texts; they stand in the body as numbers.
    """

    status = 402
    type = "insufficient_quota"
    name = "insufficient_credits"

    def __init__(
        self,
        message: str,
        *,
        name: str | None = None,
        needed_usd: str | None = None,
        available_usd: str | None = None,
    ) -> None:
        super().__init__(message, name=name)
        self.needed_usd = needed_usd
        self.available_usd = available_usd

    def payload(self, style: ErrorCodeStyle = "status") -> dict[str, Any]:
        """Return the `error` object, with what is needed and what is left where that is known."""
        amounts = {"needed_usd": self.needed_usd, "available_usd": self.available_usd}
        # A float only to be printed: to 15 digits it prints as the text that it was made of.
        known = {name: float(usd) for name, usd in amounts.items() if usd is not None}
        return {**super().payload(style), **known}


class PaymentRequired(RouterError):
    """A wallet can pay for this request: `told` carries the offers, `problem` says what is wrong so far.

    `problem` is a problem type of MPP (draft-httpauth-payment-00), the last part of its URI; the members of a
    problem document (RFC 9457) stand beside `error` in the body.
    """

    status = 402
    type = "insufficient_quota"
    name = "payment_required"

    def __init__(self, message: str, *, name: str | None = None, problem: str = "payment-required") -> None:
        super().__init__(message, name=name)
        self.problem = problem

    def body(self, style: ErrorCodeStyle = "status") -> bytes:
        """Return the whole JSON body."""
        document = {
            "error": self.payload(style),
            "type": f"https://paymentauth.org/problems/{self.problem}",
            "title": self.problem.replace("-", " ").capitalize(),
            "status": self.status,
            "detail": self.message,
        }
        return json.dumps(document).encode()


class PaymentRefused(RouterError):
    """This signature was used before, or its payer owes for an earlier answer; paying anew does not help."""

    status = 403
    type = "invalid_request_error"
    name = "payment_replayed"


class ForeignOrigin(RouterError):
    """A page of another site asks without a key."""

    status = 403
    type = "invalid_request_error"
    name = "foreign_origin"


class NotFound(RouterError):
    """The route or the thing asked for does not exist."""

    status = 404
    type = "invalid_request_error"
    name = "not_found"


class ModelNotFound(NotFound):
    """The catalog does not know this model."""

    name = "model_not_found"


class ModelNotAvailable(NotFound):
    """The model is known, but none of its offers can be used here."""

    name = "model_not_available"


class MethodNotAllowed(RouterError):
    """The route exists, the method does not."""

    status = 405
    type = "invalid_request_error"
    name = "method_not_allowed"


class KeyInUse(RouterError):
    """A request with the same Idempotency-Key still runs."""

    status = 409
    type = "invalid_request_error"
    name = "idempotency_key_in_use"


class KeyReused(RouterError):
    """The Idempotency-Key was used with another body."""

    status = 422
    type = "invalid_request_error"
    name = "idempotency_key_reused"


class TooLarge(RouterError):
    """The request body is over the limit."""

    status = 413
    type = "invalid_request_error"
    name = "request_too_large"


class LimitReached(RouterError):
    """Only limits stand in the way, those of every fitting model; the same request fits later."""

    status = 429
    type = "rate_limit_error"
    name = "models_at_limit"


class CallerAtLimit(LimitReached):
    """The caller's own limit stands in the way: the caller is to slow down, whatever is free."""

    name = "rate_limit_exceeded"


class PayerAtLimit(CallerAtLimit):
    """A wallet has as many payments open as it may: no place of an offer becomes free by waiting."""


class InternalError(RouterError):
    """Something of ours broke; the log has the traceback, the client does not."""


class UpstreamRefused(RouterError):
    """The upstream says the request is wrong; its status keeps its meaning."""

    type = "invalid_request_error"
    name = "upstream_refused"

    def __init__(
        self, message: str, *, status: int, param: str | None = None, name: str | None = None
    ) -> None:
        super().__init__(message, param=param, name=name)
        self.status = status


class UpstreamBroke(RouterError):
    """Every offer that was tried failed."""

    status = 502
    name = "upstream_error"


class Unavailable(RouterError):
    """Every fitting offer is unhealthy, or storage is down."""

    status = 503
    name = "unavailable"


class SettlementUnknown(RouterError):
    """A payment was sent and nobody can say yet whether it went through: paying again may pay twice.

    OpenAI's SDKs repeat a 503 by themselves, and a wallet around them would sign anew; `x-should-retry` is
    their own way to be told not to.
    """

    status = 503
    name = "settlement_unknown"

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Return the headers that belong to this error."""
        return [(b"x-should-retry", b"false"), *super().headers()]


class UpstreamTimeout(RouterError):
    """The upstream did not answer in time."""

    status = 504
    name = "upstream_timeout"
