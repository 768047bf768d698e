"""Probes and metrics."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from litestar import Response, get
from litestar.handlers import HTTPRouteHandler

from router.telemetry.metrics import CONTENT_TYPE


def health_routes(
    ready: Callable[[], Awaitable[Mapping[str, Any]]], exposition: Callable[[], Awaitable[bytes]]
) -> list[HTTPRouteHandler]:
    """Return the handlers; `ready` gives what to tell, and raises `RouterError` that says what is not."""

    @get(["/health/live", "/healthz"], sync_to_thread=False)
    def live() -> dict[str, str]:
        return {"status": "ok"}

    @get("/health/ready")
    async def readiness() -> dict[str, Any]:
        return {"status": "ok", **await ready()}

    @get("/metrics")
    async def metrics() -> Response[bytes]:
        return Response(await exposition(), media_type=CONTENT_TYPE)

    return [live, readiness, metrics]
