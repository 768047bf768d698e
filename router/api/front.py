"""Litestar with a short way to its hot routes, with HEAD wherever there is GET, and a whole `Allow`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any, cast

from litestar import Litestar
from litestar.handlers import ASGIRouteHandler
from litestar.routes import HTTPRoute
from litestar.types import (
    AsyncAnyCallable,
    LifeSpanReceive,
    LifeSpanScope,
    LifeSpanSend,
    Message,
    Receive,
    Scope,
    Send,
)

from router.api.faults import allow


class Front(Litestar):
    """Serve a POST to a hot path by its `@asgi` handler at once, and HEAD as GET (RFC 9110, section 9.3.2).

    Routing, exception handling and copies of the scope cost 7 % of a request of the data plane, and a hot
    route does without: its path is exact, it answers every error itself. The routes are Litestar's all the
    same, which serves every other method on them, and all of them where browsers of other origins may call.
    A route that takes HEAD itself, since its answer is dear to make, gets it as it is.
    """

    hot: Mapping[str, AsyncAnyCallable] = {}

    def shorten(self, handlers: Iterable[ASGIRouteHandler]) -> None:
        """Take the short way to these handlers, unless CORS headers must be added to their answers."""
        if self.cors_config is None:
            self.hot = {path: handler.fn for handler in handlers for path in handler.paths}

    async def __call__(
        self,
        scope: Scope | LifeSpanScope,
        receive: Receive | LifeSpanReceive,
        send: Send | LifeSpanSend,
    ) -> None:
        """Serve one request, or the lifespan."""
        request = cast(Mapping[str, Any], scope)
        method = request.get("method")
        if method == "POST":
            handler = self.hot.get(request["path"])
            if handler is not None:
                await handler(scope, receive, send)
                return
        elif method == "HEAD" and "HEAD" not in self._methods.get(request["path"], ()):
            # The server, which keeps its own scope, leaves the body out and sends the length that it has.
            scope = cast(Scope, {**request, "method": "GET"})
        elif method == "OPTIONS":
            send = self._allowing(request, cast(Send, send))
        await super().__call__(scope, receive, send)

    def _allowing(self, request: Mapping[str, Any], send: Send) -> Send:
        """Name every method of the path: Litestar tells those of the handler that came first."""

        async def told(message: Message) -> None:
            found = request.get("path_template")  # Litestar's, once it has found the route; not for CORS
            if message["type"] == "http.response.start" and message["status"] == 204 and found is not None:
                others = [header for header in message["headers"] if header[0].lower() != b"allow"]
                message["headers"] = [*others, (b"allow", allow(self._methods[found]).encode())]
            await send(message)

        return told

    @cached_property
    def _methods(self) -> dict[str, set[str]]:
        return {
            route.path_format: set(map(str, route.methods))
            for route in self.routes
            if isinstance(route, HTTPRoute)
        }
