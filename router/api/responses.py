"""The Responses API: one more way to say a chat completion, bound as plain ASGI."""

from __future__ import annotations

from litestar import asgi
from litestar.handlers import ASGIRouteHandler
from litestar.types import Receive, Scope, Send

from router.api.http import AsgiClient, Manner, serve_post
from router.chat import Chat, Incoming
from router.responses.answer import whole_answer
from router.responses.events import ResponseEvents
from router.responses.request import Asked, read_request
from router.wire import RequestBody

RESPONSES_PATHS = ("/v1/responses", "/responses")
API = b"responses "
Headers = list[tuple[bytes, bytes]]


def responses_routes(chat: Chat, manner: Manner) -> list[ASGIRouteHandler]:
    """Return the handler of the Responses API."""

    async def answer(incoming: Incoming, client: AsgiClient) -> None:
        speaker = _Speaker(client, incoming)
        incoming.parse, incoming.api = speaker.parse, API
        await chat.complete(incoming, speaker)

    @asgi(list(RESPONSES_PATHS), copy_scope=False)
    async def responses(scope: Scope, receive: Receive, send: Send) -> None:
        await serve_post(scope, receive, send, manner=manner, handle=answer)

    return [responses]


class _Speaker:
    """The client of one request: what the walk says as chat, it is told as a response."""

    def __init__(self, client: AsgiClient, incoming: Incoming) -> None:
        self._client = client
        self._incoming = incoming
        self._asked = Asked()
        self._events: ResponseEvents | None = None
        self._head: tuple[int, Headers] | None = None
        self._pieces: list[bytes] = []

    def parse(self, body: bytes) -> RequestBody:
        """Read the body as a chat completion, and keep what the answer needs. Raises `BadRequest`."""
        request, self._asked = read_request(body)
        return request

    async def start(self, status: int, headers: Headers) -> None:
        """Send the head of a stream; that of a whole answer waits for its length."""
        if any(name == b"content-type" and b"event-stream" in value for name, value in headers):
            self._events = ResponseEvents(self._asked, self._incoming.at_s, _writer(headers))
            await self._client.start(status, headers)
        else:
            self._head = status, [header for header in headers if header[0] != b"content-length"]

    async def send(self, data: bytes, *, more: bool) -> None:
        """Send a part of the body; waits while the client does not read."""
        if self._events is not None:
            said = self._events.feed(data)
            if said or not more:
                await self._client.send(said, more=more)
            return
        self._pieces.append(data)
        if more or self._head is None:
            return
        status, headers = self._head
        said = whole_answer(b"".join(self._pieces), self._asked, self._incoming.at_s, _writer(headers))
        await self._client.start(status, [*headers, (b"content-length", b"%d" % len(said))])
        await self._client.send(said, more=False)


def _writer(headers: Headers) -> str:
    """Return the offer that answers, "provider/model"; empty where none is named."""
    named = dict(headers)
    provider, model = named.get(b"x-llm-router-provider"), named.get(b"x-llm-router-resolved-model")
    return f"{provider.decode()}/{model.decode()}" if provider and model else ""
