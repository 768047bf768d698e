"""Any httpx transport behind our seam, without sockets."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Iterator

import httpx2 as httpx
import pytest

from router.catalog.snapshot import Timeouts
from router.upstream.exchange import Call
from router.upstream.httpx_exchange import HttpxTransport

CALL = Call("http://up.example/v1/x", ((b"x-a", b"1"),), b"{}", Timeouts(connect=1, first_byte=2, idle=3))


class Pieces(httpx.AsyncByteStream):
    """A body in given pieces that knows whether it was closed."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = pieces
        self.closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self.pieces:
            yield piece

    async def aclose(self) -> None:
        self.closed = True


def test_the_call_arrives_whole_and_the_time_outs_go_with_it() -> None:
    seen: list[httpx.Request] = []
    waits: list[dict[str, float]] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        waits.append(dict(request.extensions["timeout"]))
        return httpx.Response(200, headers=[("X-Up", "y")], stream=Pieces(b"he", b"", b"llo"))

    async def main() -> None:
        transport = HttpxTransport(httpx.MockTransport(handle))
        exchange = await transport.open(CALL)
        assert exchange.status == 200
        assert (b"x-up", b"y") in exchange.headers
        assert [await exchange.read() for _ in range(4)] == [b"he", b"llo", b"", b""]
        await exchange.aclose()
        await exchange.aclose()
        await transport.aclose()

    asyncio.run(main())
    (request,) = seen
    assert (request.method, str(request.url), request.content) == ("POST", CALL.url, b"{}")
    assert request.headers["x-a"] == "1"
    assert request.headers["accept-encoding"] == "identity"
    assert waits == [{"connect": 1, "pool": 1, "write": 3, "read": 2}]
    assert request.extensions["timeout"]["read"] == 3  # the body's, once the head is here


def test_an_unknown_coding_closes_the_answer() -> None:
    body = Pieces(b"x")

    async def main() -> None:
        answer = httpx.Response(200, headers={"content-encoding": "br"}, stream=body)
        transport = HttpxTransport(httpx.MockTransport(lambda _: answer))
        with pytest.raises(httpx.RemoteProtocolError, match="content-encoding"):
            await transport.open(CALL)

    asyncio.run(main())
    assert body.closed


def test_a_compressed_body_is_inflated_and_a_cut_one_is_a_fault() -> None:
    data = gzip.compress(b"hello" * 100)

    async def read(*pieces: bytes) -> bytes:
        answer = httpx.Response(200, headers={"content-encoding": "gzip"}, stream=Pieces(*pieces))
        exchange = await HttpxTransport(httpx.MockTransport(lambda _: answer)).open(CALL)
        body = b""
        while piece := await exchange.read():
            body += piece
        await exchange.aclose()
        return body

    assert asyncio.run(read(data[:7], data[7:])) == b"hello" * 100
    with pytest.raises(httpx.RemoteProtocolError, match="cut short"):
        asyncio.run(read(data[:-1]))


def test_a_synchronous_body_is_named() -> None:
    class Sync(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            yield b""

    answer = httpx.Response(200, stream=Sync())
    with pytest.raises(TypeError, match="asynchronous"):
        asyncio.run(HttpxTransport(httpx.MockTransport(lambda _: answer)).open(CALL))
