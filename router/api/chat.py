"""The hot routes: chat completions and the dry run, bound as plain ASGI."""

from __future__ import annotations

import msgspec
from litestar import asgi
from litestar.handlers import ASGIRouteHandler
from litestar.types import Receive, Scope, Send

from router.api.http import AsgiClient, Manner, serve_post
from router.chat import Chat, Incoming
from router.errors import NotFound
from router.topup import Topups

CHAT_PATHS = ("/v1/chat/completions", "/chat/completions")
TOPUP_PATH = "/v1/credits/topup"
ROUTE_PATH = "/v1/route"


def chat_routes(chat: Chat, topups: Topups | None, manner: Manner) -> list[ASGIRouteHandler]:
    """Return the handlers of the POST routes; `topups` is None where wallets cannot pay."""

    @asgi(list(CHAT_PATHS), copy_scope=False)
    async def chat_completions(scope: Scope, receive: Receive, send: Send) -> None:
        await serve_post(scope, receive, send, manner=manner, handle=chat.complete)

    async def answer_route(incoming: Incoming, client: AsgiClient) -> None:
        decision, headers = await chat.route(incoming)
        body = msgspec.json.encode(decision)
        length = (b"content-length", str(len(body)).encode())
        await client.start(200, [(b"content-type", b"application/json"), length, *headers])
        await client.send(body, more=False)

    @asgi(ROUTE_PATH, copy_scope=False)
    async def route(scope: Scope, receive: Receive, send: Send) -> None:
        await serve_post(scope, receive, send, manner=manner, handle=answer_route)

    async def answer_topup(incoming: Incoming, client: AsgiClient) -> None:
        if topups is None:
            raise NotFound("Wallet payments are switched off here; the operator sells credit in other ways.")
        told, headers = await topups.sell(incoming)
        body = msgspec.json.encode(told)
        length = (b"content-length", str(len(body)).encode())
        fixed = [(b"content-type", b"application/json"), length, (b"cache-control", b"no-store")]
        await client.start(200, [*fixed, (b"x-request-id", incoming.request_id.encode()), *headers])
        await client.send(body, more=False)

    @asgi(TOPUP_PATH, copy_scope=False)
    async def topup(scope: Scope, receive: Receive, send: Send) -> None:
        await serve_post(scope, receive, send, manner=manner, handle=answer_topup)

    return [chat_completions, route, topup]
