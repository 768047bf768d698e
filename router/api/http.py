"""ASGI as the chat routes use it: a bounded body, one client, and the errors of a request."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import cast

from litestar.types import HTTPScope, Receive, Scope, Send

from router.access.keys import authorization_of
from router.api.cycle import departure_of
from router.api.ids import usable_request_id
from router.chat import Incoming
from router.errors import BadRequest, ErrorCodeStyle, InternalError, MethodNotAllowed, RouterError, TooLarge
from router.routing.sessions import SESSION_HEADERS
from router.upstream.send import FORWARDED

_log = logging.getLogger("router.api")
_JSON = (b"content-type", b"application/json")
_READ = frozenset(
    (
        b"host",
        b"origin",
        b"payment-authorization",
        b"payment-signature",
        b"x-payment",
        b"x-request-id",
        b"content-encoding",
        b"content-length",
        b"idempotency-key",
        b"x-llm-router-max-cost-usd",
        b"x-llm-router-mode",
        b"x-llm-router-session",
        *(name.encode() for name in (*FORWARDED, *SESSION_HEADERS)),
    )
)
# Of two values only one could hold, and the other one may be the one that was meant.
_ONCE = frozenset(
    (
        b"idempotency-key",
        b"payment-authorization",
        b"payment-signature",
        b"x-llm-router-max-cost-usd",
        b"x-llm-router-mode",
        b"x-llm-router-session",
    )
)
_LINGER_S = 2.0
_LINGER_BYTES = 128 * 2**20


class ClientGone(Exception):
    """The client left before its request was whole."""


@dataclass(frozen=True, slots=True)
class Manner:
    """How the POST routes serve: the largest body, the form of errors, where ids and times come from."""

    limit_bytes: int
    style: ErrorCodeStyle
    new_id: Callable[[], str]
    monotonic: Callable[[], float]


class AsgiClient:
    """The client of one request, written to through ASGI."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.started = False
        self.ended = False

    async def start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Send the head."""
        self.started = True
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def send(self, data: bytes, *, more: bool) -> None:
        """Send a part of the body; waits while the client does not read."""
        self.ended = not more
        await self._send({"type": "http.response.body", "body": data, "more_body": more})


def incoming_of(scope: HTTPScope, request_id: str, began_s: float) -> Incoming:
    """Return the request without its body, and of its headers those that anybody here reads."""
    raw = scope["headers"]
    headers = {name.decode(): value.decode("latin-1") for name, value in raw if name in _READ}
    return Incoming(
        request_id=request_id,
        client_request_id=usable_request_id(headers.get("x-request-id")),
        headers=headers,
        authorization=authorization_of(raw),
        body=b"",
        began_s=began_s,
        path=scope["path"],
    )


def check_once(scope: HTTPScope) -> None:
    """Raise `BadRequest` where a header that must be alone came several times."""
    found = [name for name, _ in scope["headers"] if name in _ONCE]
    for name in set(found) if len(found) > 1 else ():
        if found.count(name) > 1:
            shown = name.decode()
            raise BadRequest(f"The header {shown} came {found.count(name)} times; send it once.", param=shown)


async def read_body(incoming: Incoming, receive: Receive, limit_bytes: int) -> bytes:
    """Read the body, counting while it comes.

    Raises `TooLarge`, `BadRequest` for a compressed body, `ClientGone`.
    """
    encoding = incoming.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise BadRequest(
            f"Content-Encoding {encoding[:20]!r} is not taken; send the body uncompressed.",
            param="content-encoding",
            name="unsupported_encoding",
        )
    declared = incoming.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit_bytes:
        raise too_large(limit_bytes)
    pieces: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientGone
        piece = message["body"]
        pieces.append(piece)
        size += len(piece)
        if size > limit_bytes:
            raise too_large(limit_bytes)
        if not message.get("more_body", False):
            return piece if len(pieces) == 1 else b"".join(pieces)


def too_large(limit_bytes: int) -> TooLarge:
    """Return the error for a body over the limit."""
    return TooLarge(f"The body is larger than {limit_bytes // 2**20} MiB (setting max_body_mib).")


async def answer_error(
    client: AsgiClient, error: RouterError, incoming: Incoming, style: ErrorCodeStyle, receive: Receive
) -> None:
    """Send an error as the whole answer."""
    body = error.body(style)
    headers = [
        _JSON,
        (b"content-length", str(len(body)).encode()),
        (b"x-request-id", (incoming.client_request_id or incoming.request_id).encode()),
        *error.headers(),
    ]
    if isinstance(error, MethodNotAllowed):
        headers.append((b"allow", b"POST"))
    if not isinstance(error, TooLarge):
        await client.start(error.status, headers)
        await client.send(body, more=False)
        return
    # What is left of the body is not worth reading, but a client that still writes would see a reset in
    # place of the answer: it has the whole answer now, and a moment to read it.
    await client.start(error.status, [*headers, (b"connection", b"close")])
    await client.send(body, more=True)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LINGER_S):
            await _discard(receive)
    await client.send(b"", more=False)


async def _discard(receive: Receive) -> None:
    left = _LINGER_BYTES
    while left > 0:
        message = await receive()
        if message["type"] != "http.request" or not message["more_body"]:
            return
        left -= len(message["body"])


async def serve_post(
    scope: Scope,
    receive: Receive,
    send: Send,
    *,
    manner: Manner,
    handle: Callable[[Incoming, AsgiClient], Awaitable[None]],
) -> None:
    """Serve one POST: read it, handle it while the client stays, answer every error once.

    This is one of the two places that catch everything: it answers for the request.
    """
    client = AsgiClient(send)
    incoming = incoming_of(cast(HTTPScope, scope), manner.new_id(), manner.monotonic())
    departure: _Departure | None = None
    try:
        if cast(HTTPScope, scope)["method"] != "POST":
            raise MethodNotAllowed("This route takes POST.")
        check_once(cast(HTTPScope, scope))
        incoming.body = await read_body(incoming, receive, manner.limit_bytes)
        departure = _Departure(scope, client)
        await handle(incoming, client)
    except RouterError as error:
        await _answer_late(client, error, incoming, manner.style, receive)
    except ClientGone:
        return
    except asyncio.CancelledError:
        if departure is None or not departure.seen:
            raise  # the server stops
    except Exception:  # noqa: BLE001 - answers for the request
        _log.exception("request %s failed", incoming.request_id)
        broken = InternalError(f"Something broke in the router; its log knows it as {incoming.request_id}.")
        await _answer_late(client, broken, incoming, manner.style, receive)
    finally:
        if departure is not None:
            departure.stop()


async def _answer_late(
    client: AsgiClient, error: RouterError, incoming: Incoming, style: ErrorCodeStyle, receive: Receive
) -> None:
    """Answer with an error, or cut the connection when the answer has begun: it must not look whole."""
    if client.ended:
        return
    if client.started:
        raise ConnectionAbortedError(f"request {incoming.request_id} failed in the middle of its answer")
    await answer_error(client, error, incoming, style, receive)


class _Departure:
    """Have the request cancelled when its client leaves before the answer is whole."""

    def __init__(self, scope: Scope, client: AsgiClient) -> None:
        self.seen = False
        self._client = client
        self._watch = departure_of(scope)
        if self._watch is not None:
            self._watch(self._leave)

    def stop(self) -> None:
        """Look no more; the request has ended."""
        if self._watch is not None:
            self._watch(None)

    def _leave(self) -> bool:
        self.seen = not self._client.ended
        return self.seen
