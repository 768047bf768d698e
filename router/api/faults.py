"""Turn every error of the ordinary routes into OpenAI's form."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from litestar import Request, Response
from litestar.exceptions import HTTPException, MethodNotAllowedException, NotFoundException
from litestar.types import ExceptionHandlersMap

from router.api.ids import RequestIds, shown_request_id
from router.errors import (
    BadRequest,
    ErrorCodeStyle,
    InternalError,
    MethodNotAllowed,
    NotFound,
    RouterError,
    TooLarge,
)

_log = logging.getLogger("router.api")


def exception_handlers(style: ErrorCodeStyle) -> ExceptionHandlersMap:
    """Return Litestar's map from exceptions to answers."""
    new_id = RequestIds()

    def answer(
        request: Request[Any, Any, Any],
        error: RouterError,
        extra: Mapping[str, str],
        request_id: str | None = None,
    ) -> Response[bytes]:
        shown = shown_request_id(request.scope["headers"], request_id or new_id())
        headers = {name.decode(): value.decode() for name, value in error.headers()}
        return Response(
            error.body(style),
            status_code=error.status,
            media_type="application/json",
            headers={"x-request-id": shown, **extra, **headers},
        )

    def on_router_error(request: Request[Any, Any, Any], error: RouterError) -> Response[bytes]:
        return answer(request, error, {})

    def on_http(request: Request[Any, Any, Any], fault: HTTPException) -> Response[bytes]:
        allow = {k: v for k, v in (fault.headers or {}).items() if k.lower() == "allow"}
        return answer(request, _translate(request, fault), allow)

    def on_anything(request: Request[Any, Any, Any], fault: Exception) -> Response[bytes]:
        name = new_id()
        _log.error("request %s failed", name, exc_info=fault)
        broken = InternalError(f"Something broke in the router; its log knows it as {name}.")
        return answer(request, broken, {}, name)

    return {RouterError: on_router_error, HTTPException: on_http, Exception: on_anything}


def _translate(request: Request[Any, Any, Any], fault: HTTPException) -> RouterError:
    path = request.scope["path"][:100]
    if isinstance(fault, NotFoundException):
        return NotFound(f"There is no route {path!r}; GET /schema lists all.", name="route_not_found")
    if isinstance(fault, MethodNotAllowedException):
        return MethodNotAllowed(f"{path!r} does not take {request.method}; GET /schema lists all routes.")
    if fault.status_code == 413:
        return TooLarge("The body is too large.")
    if fault.status_code < 500:
        return BadRequest("The request is not valid for this route; GET /schema describes it.")
    return InternalError("Something broke in the router.")
