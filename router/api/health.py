"""Probes and metrics."""

from __future__ import annotations

from collections.abc import Callable

from litestar import Response, get
from litestar.handlers import HTTPRouteHandler

from router.telemetry.metrics import CONTENT_TYPE, Metrics


def health_routes(ready: Callable[[], None], metrics: Metrics) -> list[HTTPRouteHandler]:
    """Return the handlers; `ready` raises `RouterError` that says what is not."""

    @get(["/health/live", "/healthz"], sync_to_thread=False)
    def live() -> dict[str, str]:
        return {"status": "ok"}

    @get("/health/ready", sync_to_thread=False)
    def readiness() -> dict[str, str]:
        ready()
        return {"status": "ok"}

    @get("/metrics", sync_to_thread=False)
    def exposition() -> Response[bytes]:
        return Response(metrics.render(), media_type=CONTENT_TYPE)

    return [live, readiness, exposition]
