"""One behaviour for every transport, over real sockets; httpx's stock transport is the oracle."""

from __future__ import annotations

import asyncio
import gzip
import socket
import zlib

import httpx2 as httpx
import pytest

from router.upstream.exchange import Transport
from tests.rawserver import Peer, RawServer, answering, chunked, ok, once
from tests.service.transports import MEBIBYTE, Kind, call, every, ours, post, read, with_server


@every
@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (ok(b"hello"), b"hello"),
        (ok(b""), b""),
        (ok(b"x" * 300_000), b"x" * 300_000),
        (chunked(b"hel", b"lo"), b"hello"),
        (chunked(), b""),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx-t: 1\r\n\r\n", b"a"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nlink: x\r\n\r\n" + ok(b"hello"), b"hello"),
        (ok(b"hello", b"content-encoding: identity"), b"hello"),
    ],
)
def test_answers_are_read_whole_and_the_connection_is_kept(kind: Kind, answer: bytes, body: bytes) -> None:
    async def test(transport: Transport, server: RawServer) -> None:
        for _ in range(3):
            exchange = await transport.open(call(server.url))
            assert exchange.status == 200
            assert await read(exchange) == body
        assert len(server.requests) == 3
        assert len(server.peers) == 1

    with_server(kind, answering(answer), test)


@every
@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\nto the end", b"to the end"),
        (b"HTTP/1.0 200 OK\r\n\r\nto the end", b"to the end"),
        (ok(b"hello", b"connection: close"), b"hello"),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\nhello", b"hello"),
    ],
)
def test_answers_that_end_the_connection(kind: Kind, answer: bytes, body: bytes) -> None:
    async def test(transport: Transport, server: RawServer) -> None:
        for count in (1, 2):
            assert await post(transport, server.url) == body
            await server.until(lambda server: server.open == 0)
            assert len(server.peers) == count

    with_server(kind, once(answer), test)


@ours
def test_http_1_0_may_keep_the_connection(kind: Kind) -> None:
    async def test(transport: Transport, server: RawServer) -> None:
        for _ in range(2):
            assert await post(transport, server.url) == b"hi"
        assert len(server.peers) == 1

    answer = b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\nconnection: keep-alive\r\n\r\nhi"
    with_server(kind, answering(answer), test)


@every
@pytest.mark.parametrize("status", [204, 304])
def test_answers_without_a_body(kind: Kind, status: int) -> None:
    async def test(transport: Transport, server: RawServer) -> None:
        for _ in range(2):
            exchange = await transport.open(call(server.url))
            assert exchange.status == status
            assert await read(exchange) == b""
        assert len(server.peers) == 1

    with_server(kind, answering(b"HTTP/1.1 %d X\r\nx-a: b\r\n\r\n" % status), test)


@every
def test_redirects_are_answers(kind: Kind) -> None:
    async def test(transport: Transport, server: RawServer) -> None:
        exchange = await transport.open(call(server.url))
        assert exchange.status == 307
        assert (b"location", b"http://169.254.169.254/") in exchange.headers
        assert await read(exchange) == b""
        assert len(server.requests) == 1

    answer = b"HTTP/1.1 307 T\r\nLocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n"
    with_server(kind, answering(answer), test)


@every
def test_the_request_goes_out_as_it_was_given(kind: Kind) -> None:
    big = b"b" * (2 * MEBIBYTE)

    async def test(transport: Transport, server: RawServer) -> None:
        for body in (b"", b"{}", big):
            assert await post(transport, server.url + "?a=b%20c", body) == b"hi"
        for (head, got), body in zip(server.requests, (b"", b"{}", big), strict=True):
            lines = head.lower().split(b"\r\n")
            assert head.startswith(b"POST /v1/chat/completions?a=b%20c HTTP/1.1\r\n")
            assert got == body
            for line in (
                b"host: 127.0.0.1:%d" % server.port,
                b"accept-encoding: identity",
                b"content-length: %d" % len(body),
                b"content-type: application/json",
                b"x-test: 1",
            ):
                assert lines.count(line) == 1

    with_server(kind, answering(ok(b"hi")), test)


@every
def test_a_piece_is_handed_on_before_the_answer_ends(kind: Kind) -> None:
    go_on = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n")
        await go_on.wait()
        await peer.send(b"3\r\ntwo\r\n0\r\n\r\n")
        await peer.closed()

    async def test(transport: Transport, server: RawServer) -> None:
        exchange = await transport.open(call(server.url))
        assert await exchange.read() == b"one"
        go_on.set()
        assert await read(exchange) == b"two"

    with_server(kind, script, test)


@every
@pytest.mark.parametrize("coding", [b"gzip", b"deflate"])
def test_a_compressed_answer_is_inflated(kind: Kind, coding: bytes) -> None:
    plain = b"hello " * 200_000
    body = gzip.compress(plain) if coding == b"gzip" else zlib.compress(plain)

    async def test(transport: Transport, server: RawServer) -> None:
        exchange = await transport.open(call(server.url))
        assert {b"content-encoding", b"content-length"}.isdisjoint(name for name, _ in exchange.headers)
        assert await read(exchange) == plain

    with_server(kind, answering(ok(body, b"Content-Encoding: " + coding)), test)


@every
def test_a_gzip_bomb_is_bounded(kind: Kind) -> None:
    bomb = gzip.compress(bytes(100 * MEBIBYTE), compresslevel=1)

    async def test(transport: Transport, server: RawServer) -> None:
        exchange = await transport.open(call(server.url))
        sizes: list[int] = []

        async def drain() -> None:
            while piece := await exchange.read():
                sizes.append(len(piece))

        with pytest.raises(httpx.RemoteProtocolError, match="64 MiB"):
            await drain()
        await exchange.aclose()
        assert max(sizes) <= MEBIBYTE
        assert 63 * MEBIBYTE < sum(sizes) <= 64 * MEBIBYTE

    with_server(kind, answering(ok(bomb, b"content-encoding: gzip")), test)


@every
@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\ncontent-le",
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhel",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 400_000 + b"\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-encoding: br\r\ncontent-length: 1\r\n\r\na",
        b"<html>no</html>\r\n\r\n",
    ],
    ids=lambda answer: repr(answer[:70][15:]),
)
def test_broken_answers_are_protocol_faults(kind: Kind, answer: bytes) -> None:
    async def test(transport: Transport, server: RawServer) -> None:
        with pytest.raises(httpx.RemoteProtocolError):
            await post(transport, server.url)
        await server.until(lambda server: server.open == 0)
        assert len(server.requests) == 1

    with_server(kind, once(answer), test)


@ours
def test_a_head_of_too_many_headers_is_refused(kind: Kind) -> None:
    async def test(transport: Transport, server: RawServer) -> None:
        with pytest.raises(httpx.RemoteProtocolError, match="200 headers"):
            await post(transport, server.url)

    with_server(kind, answering(ok(b"", *(b"x-%d: y" % i for i in range(200)))), test)


@ours
def test_a_head_that_never_ends_is_refused(kind: Kind) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\n")
        while True:
            await peer.send(b"x-more: and more\r\n" * 100)

    async def test(transport: Transport, server: RawServer) -> None:
        with pytest.raises(httpx.RemoteProtocolError, match="64 KiB"):
            await post(transport, server.url)

    with_server(kind, script, test)


@ours
def test_bytes_after_an_answer_are_not_the_next_answer(kind: Kind) -> None:
    async def test(transport: Transport, server: RawServer) -> None:
        assert await post(transport, server.url) == b"mine"
        await server.until(lambda server: server.open == 0)
        assert await post(transport, server.url) == b"mine"
        assert len(server.peers) == 2

    with_server(kind, answering(ok(b"mine") + ok(b"smuggled")), test)


@ours
def test_bytes_on_an_idle_connection_close_it(kind: Kind) -> None:
    speak = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(ok(b"mine"))
        await speak.wait()
        await peer.send(ok(b"smuggled"))
        await peer.closed()

    async def test(transport: Transport, server: RawServer) -> None:
        assert await post(transport, server.url) == b"mine"
        speak.set()
        await server.until(lambda server: server.open == 0)
        assert await post(transport, server.url) == b"mine"

    with_server(kind, script, test)


@every
def test_a_reset_in_the_body_is_a_fault(kind: Kind) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\npart")
        await asyncio.wait([peer_read])
        linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
        peer.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        peer.reset()

    peer_read: asyncio.Future[None]

    async def test(transport: Transport, server: RawServer) -> None:
        nonlocal peer_read
        peer_read = asyncio.get_running_loop().create_future()
        exchange = await transport.open(call(server.url))
        assert await exchange.read() == b"part"
        peer_read.set_result(None)
        with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
            await exchange.read()
        await exchange.aclose()

    with_server(kind, script, test)
