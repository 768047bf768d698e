"""Turn every error of the ordinary routes into OpenAI's form."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
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
        told = {k: allow(v.split(", ")) for k, v in (fault.headers or {}).items() if k.lower() == "allow"}
        return answer(request, _translate(request, fault), told)

    def on_anything(request: Request[Any, Any, Any], fault: Exception) -> Response[bytes]:
        name = new_id()
        _log.error("request %s failed", name, exc_info=fault)
        broken = InternalError(f"Something broke in the router; its log knows it as {name}.")
        return answer(request, broken, {}, name)

    return {RouterError: on_router_error, HTTPException: on_http, Exception: on_anything}


def allow(methods: Iterable[str]) -> str:
    """Return the header `Allow` of a path: HEAD goes wherever GET does (see `Front`)."""
    found = set(methods)
    return ", ".join(sorted(found | {"HEAD"} if "GET" in found else found))


# Ends of paths that clients make of a base URL.
_OURS = ("/chat/completions", "/responses", "/models")
_NEVER = (
    "/embeddings",
    "/images/",
    "/audio/",
    "/moderations",
    "/rerank",
    "/batches",
    "/files",
    "/fine_tuning/",
)


def _instead(path: str) -> str:
    """Say where to go from a path that is not there: most are made of a mistaken base URL."""
    path = path.rstrip("/")
    if path.endswith(_OURS):
        return ": the client's base URL is wrong, it is this router's address and /v1, nothing more."
    if path.endswith(("/completions", "/messages")):
        return ": ask POST /v1/chat/completions or POST /v1/responses; GET /schema lists all routes."
    if any(part in f"{path}/" for part in _NEVER):
        return ": the router serves chat alone; ask a provider for this. GET /schema lists all routes."
    return "; GET /schema lists all."


def _translate(request: Request[Any, Any, Any], fault: HTTPException) -> RouterError:
    path = request.scope["path"][:100]
    if isinstance(fault, NotFoundException):
        return NotFound(f"There is no route {path!r}{_instead(path)}", name="route_not_found")
    if isinstance(fault, MethodNotAllowedException):
        return MethodNotAllowed(f"{path!r} does not take {request.method}; GET /schema lists all routes.")
    if fault.status_code == 413:
        return TooLarge("The body is too large.")
    if fault.status_code < 500:
        return BadRequest("The request is not valid for this route; GET /schema describes it.")
    return InternalError("Something broke in the router.")
