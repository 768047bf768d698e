"""Probes and metrics."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from litestar import Response, get
from litestar.enums import HttpMethod
from litestar.handlers import HTTPRouteHandler

from router.telemetry.metrics import CONTENT_TYPE

_PROBED = (HttpMethod.GET, HttpMethod.HEAD)


def health_routes(
    ready: Callable[[], Awaitable[Mapping[str, Any]]], exposition: Callable[[], Awaitable[bytes]]
) -> list[HTTPRouteHandler]:
    """Return the handlers; `ready` gives what to tell, and raises `RouterError` that says what is not."""

    # Many probes ask by HEAD; the server leaves the body out.
    @HTTPRouteHandler(["/health/live", "/healthz"], http_method=_PROBED, sync_to_thread=False)
    def live() -> dict[str, str]:
        return {"status": "ok"}

    @HTTPRouteHandler("/health/ready", http_method=_PROBED)
    async def readiness() -> dict[str, Any]:
        return {"status": "ok", **await ready()}

    @get("/metrics")
    async def metrics() -> Response[bytes]:
        return Response(await exposition(), media_type=CONTENT_TYPE)

    return [live, readiness, metrics]
