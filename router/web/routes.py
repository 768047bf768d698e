"""Every page, from its collaborators; a page of its own module adds its handlers here."""

from __future__ import annotations

from litestar import Router
from litestar.handlers import HTTPRouteHandler

from router.web.frame import frame_routes, page_faults
from router.web.guard import Guard


def web_routes(guard: Guard, *pages: list[HTTPRouteHandler]) -> Router:
    """Return the router of `/ui`; whatever goes wrong below it is answered with a page."""
    handlers = [handler for each in (*pages, frame_routes(guard)) for handler in each]
    return Router(
        "/", route_handlers=handlers, exception_handlers=page_faults(guard), include_in_schema=False
    )
