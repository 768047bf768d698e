"""Ask a chain's node over JSON-RPC. Nothing that a node says, and no address of one, gets into an error."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

import httpx2 as httpx
import msgspec
from msgspec import Raw, Struct

from router.access.breaker import Breaker

MAX_ANSWER_BYTES = 1 << 20
NO_SUCH_METHOD = -32601
_HEADERS = {
    "accept": "application/json",
    "accept-encoding": "identity",
    "content-type": "application/json",
}
_UNSENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)


class NodeRefused(Exception):
    """The node answered with an error; `code` is all that is kept of it."""

    def __init__(self, code: int) -> None:
        super().__init__(f"JSON-RPC error {code}")
        self.code = code


class NodeAway(Exception):
    """No answer that can be read. `sent` says whether the node may have got the question all the same."""

    def __init__(self, *, sent: bool) -> None:
        super().__init__("the node cannot be reached" if not sent else "the node gave no answer")
        self.sent = sent


class _Error(Struct, frozen=True, gc=False):
    code: int


class _Answer(Struct, frozen=True, gc=False):
    result: Raw = Raw(b"")
    error: _Error | None = None


_answer = msgspec.json.Decoder(_Answer)


class Node:
    """One node of a chain. After some faults in a row it rests for a while: `available` is False then.

    `clock` counts seconds and never goes back. `client` is for tests: the node's own one follows no redirect,
    knows no proxy, and has no limit of connections, which cancelled requests would eat up
    (encode/httpcore issue 1093).
    """

    def __init__(
        self,
        url: str,
        client: httpx.AsyncClient | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = url
        self._client = client
        self._breaker = Breaker(clock)

    def __repr__(self) -> str:
        return "<Node>"  # its URL may hold a key

    @property
    def available(self) -> bool:
        """Say whether it is worth asking."""
        return self._breaker.closed

    async def call(self, method: str, parameters: Sequence[Any], *, timeout_s: float) -> Any:
        """Return the result of a call. Raises NodeRefused, NodeAway."""
        question = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(parameters)}
        try:
            answer = _answer.decode(await self._post(msgspec.json.encode(question), timeout_s))
            result = None if answer.error is not None else msgspec.json.decode(answer.result)
        except _UNSENT:
            self._breaker.silent()
            raise NodeAway(sent=False) from None
        except (httpx.HTTPError, TimeoutError, msgspec.MsgspecError, RecursionError):
            self._breaker.silent()
            raise NodeAway(sent=True) from None
        self._breaker.answered()
        if answer.error is not None:
            raise NodeRefused(answer.error.code)
        return result

    async def aclose(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()

    async def _post(self, body: bytes, timeout_s: float) -> bytes:
        client = await self._http()
        said = bytearray()
        async with (
            asyncio.timeout(timeout_s),  # httpx's own time-out starts anew with every piece
            client.stream("POST", self._url, content=body, headers=_HEADERS, timeout=timeout_s) as answer,
        ):
            if answer.is_redirect or answer.headers.get("content-encoding", "identity") != "identity":
                raise httpx.RemoteProtocolError("not an answer of JSON-RPC")
            async for piece in answer.aiter_raw():
                said += piece
                if len(said) > MAX_ANSWER_BYTES:
                    raise httpx.RemoteProtocolError("the answer is too long")
        return bytes(said)

    async def _http(self) -> httpx.AsyncClient:
        if self._client is None:
            transport = await asyncio.to_thread(_transport)
            self._client = httpx.AsyncClient(transport=transport, trust_env=False, follow_redirects=False)
        return self._client


def _transport() -> httpx.AsyncHTTPTransport:
    """Return a pool of its own; to load the certificates takes tens of milliseconds."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=32, keepalive_expiry=30.0)
    return httpx.AsyncHTTPTransport(limits=limits, trust_env=False)
