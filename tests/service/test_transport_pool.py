"""Kept connections, cancelling, back-pressure: no request harms another, over real sockets."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import httpx2 as httpx
import pytest

from router.upstream.exchange import Transport
from router.upstream.fast_exchange import FastExchange
from router.upstream.transport import FastTransport
from tests.rawserver import Peer, RawServer, answering, ok, once, silent
from tests.service.transports import (
    FAST,
    FAST_UVLOOP,
    KINDS,
    MEBIBYTE,
    Kind,
    call,
    descriptors,
    every,
    ours,
    post,
    read,
    with_server,
)


def dying(*, after: bytes) -> Callable[[Peer], Any]:
    """Answer once, then read a second request on the same connection and close it after those bytes."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(ok(b"hi"))
        if peer.number == 0 and await peer.request() is not None:
            await peer.send(after)
        elif peer.number:
            await peer.closed()

    return script


@ours
def test_a_stale_connection_is_replaced_once(kind: Kind) -> None:
    async def test(transport: Transport, server: RawServer) -> None:
        for _ in range(2):
            assert await post(transport, server.url) == b"hi"
        assert [len(peer.requests) for peer in server.peers] == [2, 1]

    with_server(kind, dying(after=b""), test)


@ours
def test_nothing_is_sent_again_once_a_byte_came(kind: Kind) -> None:
    async def test(transport: Transport, server: RawServer) -> None:
        assert await post(transport, server.url) == b"hi"
        with pytest.raises(httpx.RemoteProtocolError):
            await post(transport, server.url)
        assert [len(peer.requests) for peer in server.peers] == [2]

    with_server(kind, dying(after=b"H"), test)


def test_a_kept_connection_that_dies_at_work_is_not_replaced() -> None:
    async def main() -> None:
        transport = FastTransport(stale_window_s=-1.0)  # everything is later than that
        async with RawServer(dying(after=b"")) as server:
            assert await post(transport, server.url) == b"hi"
            with pytest.raises(httpx.RemoteProtocolError):
                await post(transport, server.url)
            assert [len(peer.requests) for peer in server.peers] == [2]
        await transport.aclose()

    asyncio.run(main())


@ours
def test_a_fresh_connection_that_dies_is_not_replaced(kind: Kind) -> None:
    async def test(transport: Transport, server: RawServer) -> None:
        with pytest.raises(httpx.RemoteProtocolError):
            await post(transport, server.url)
        assert len(server.peers) == 1

    with_server(kind, once(b""), test)


@ours
def test_a_timed_out_kept_connection_is_not_tried_again(kind: Kind) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(ok(b"hi"))
        await peer.request()
        await peer.closed()

    async def test(transport: Transport, server: RawServer) -> None:
        assert await post(transport, server.url) == b"hi"
        with pytest.raises(httpx.ReadTimeout):
            await post(transport, server.url, first_byte=0.05)
        assert [len(peer.requests) for peer in server.peers] == [2]

    with_server(kind, script, test)


@every
def test_a_connection_that_was_closed_while_idle_is_not_used(kind: Kind) -> None:
    async def test(transport: Transport, server: RawServer) -> None:
        for count in (1, 2, 3):
            assert await post(transport, server.url) == b"hi"
            await server.until(lambda server: server.open == 0)
            assert len(server.peers) == count

    with_server(kind, once(ok(b"hi")), test)


def test_through_httpx_a_stale_post_is_not_repeated_but_a_get_is() -> None:
    async def main() -> None:
        for method, peers in (("GET", 2), ("POST", 1)):
            async with (
                RawServer(dying(after=b"")) as server,
                httpx.AsyncClient(transport=FastTransport()) as client,
            ):
                await client.get(server.url)
                if method == "GET":
                    assert (await client.get(server.url)).text == "hi"
                else:
                    with pytest.raises(httpx.RemoteProtocolError):
                        await client.post(server.url, json={})
                assert len(server.peers) == peers

    asyncio.run(main())


def test_through_httpx_any_method_works() -> None:
    async def main() -> None:
        async with (
            RawServer(answering(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n")) as server,
            httpx.AsyncClient(transport=FastTransport()) as client,
        ):
            assert (await client.head(server.url)).headers["content-length"] == "5"
        async with (
            RawServer(answering(ok(b'{"a":1}', b"content-type: application/json"))) as server,
            httpx.AsyncClient(transport=FastTransport()) as client,
        ):
            for method in ("GET", "PUT", "PATCH", "DELETE"):
                answer = await client.request(method, server.url, content=b"x", headers={"host": "a.example"})
                assert answer.json() == {"a": 1}
            assert len(server.peers) == 1
            assert all(head.count(b"ost: a.example\r\n") == 1 for head, _ in server.requests)
            with pytest.raises(httpx.UnsupportedProtocol):
                await client.request("CONNECT", server.url)

    asyncio.run(main())


@ours
def test_idle_connections_are_bounded(kind: Kind) -> None:
    async def test(transport: Transport, server: RawServer) -> None:
        exchanges = [await transport.open(call(server.url)) for _ in range(5)]
        assert server.open == 5
        release.set()
        for exchange in exchanges:
            assert await read(exchange) == b"hello"
        await server.until(lambda server: server.open == 2)
        for _ in range(3):
            assert await post(transport, server.url) == b"hello"
        assert len(server.peers) == 5

    release = asyncio.Event()

    async def script(peer: Peer) -> None:
        while await peer.request() is not None:
            await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n")
            await release.wait()
            await peer.send(b"hello")

    with_server(kind, script, test, max_idle_per_origin=2)


@ours
def test_a_bound_on_connections_queues_first_come_first_served(kind: Kind) -> None:
    order: list[bytes] = []

    async def test(transport: Transport, server: RawServer) -> None:
        async def one(name: bytes) -> None:
            exchange = await transport.open(call(server.url, name))
            order.append(name)
            assert await read(exchange) == b"hi"

        names = [b"%d" % i for i in range(30)]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(name)) for name in names]
            await asyncio.sleep(0)
            for task in tasks[10:20]:
                task.cancel()
        assert [body for _, body in server.requests] == names[:10] + names[20:]
        assert order == names[:10] + names[20:]
        assert len(server.peers) == 1

    with_server(kind, answering(ok(b"hi")), test, max_connections_per_origin=1)


@ours
def test_waiting_in_line_times_out(kind: Kind) -> None:
    async def test(transport: Transport, server: RawServer) -> None:
        busy = asyncio.create_task(transport.open(call(server.url)))
        await server.until(lambda server: server.open == 1)
        with pytest.raises(httpx.PoolTimeout):
            await transport.open(call(server.url, connect=0.05))
        busy.cancel()
        with pytest.raises(asyncio.CancelledError):
            await busy
        with pytest.raises(httpx.ReadTimeout):  # the place was given back
            await transport.open(call(server.url, first_byte=0.05))

    with_server(kind, silent, test, max_connections_per_origin=1)


@every
def test_cancelling_open_closes_the_connection(kind: Kind) -> None:
    async def test(transport: Transport, server: RawServer) -> None:
        task = asyncio.create_task(transport.open(call(server.url)))
        await server.until(lambda server: server.open == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await server.until(lambda server: server.open == 0)

    with_server(kind, silent, test)


@every
def test_cancelling_read_closes_the_connection(kind: Kind) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\npart")
        await peer.closed()

    async def test(transport: Transport, server: RawServer) -> None:
        exchange = await transport.open(call(server.url))
        assert await exchange.read() == b"part"
        task = asyncio.ensure_future(exchange.read())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await exchange.aclose()
        await server.until(lambda server: server.open == 0)

    with_server(kind, script, test)


@every
def test_closing_in_the_middle_closes_the_connection(kind: Kind) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\npart")
        await peer.closed()

    async def test(transport: Transport, server: RawServer) -> None:
        exchange = await transport.open(call(server.url))
        assert await exchange.read() == b"part"
        for _ in range(2):
            await exchange.aclose()
        await server.until(lambda server: server.open == 0)

    with_server(kind, script, test)


@ours
def test_a_closed_transport_refuses_and_fails_what_was_under_way(kind: Kind) -> None:
    async def main() -> None:
        asked = asyncio.Event()

        async def script(peer: Peer) -> None:
            await peer.request()
            asked.set()
            await peer.closed()

        async with RawServer(script) as server:
            transport = kind.make()
            busy = asyncio.create_task(transport.open(call(server.url)))
            await asked.wait()
            await transport.aclose()
            with pytest.raises(httpx.ReadError):
                await busy
            with pytest.raises(httpx.ConnectError):
                await transport.open(call(server.url))
            await server.until(lambda server: server.open == 0)

    kind.run(main())


@pytest.mark.parametrize(
    ("kind", "limit"),
    [*((kind, None) for kind in KINDS), (FAST, 10), (FAST_UVLOOP, 10)],  # httpx's own limit is never set
    ids=lambda value: value.name if isinstance(value, Kind) else str(value),
)
def test_a_thousand_cancelled_requests_leave_a_pool_that_works(kind: Kind, limit: int | None) -> None:
    dice = random.Random(20261122)

    async def script(peer: Peer) -> None:
        while await peer.request() is not None:
            await peer.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            for _ in range(3):
                await asyncio.sleep(0.001)
                await peer.send(b"2\r\nhi\r\n")
            await peer.send(b"0\r\n\r\n")

    async def test(transport: Transport, server: RawServer) -> None:
        before = descriptors()

        async def worker() -> None:
            for _ in range(20):
                task = asyncio.create_task(post(transport, server.url))
                if dice.random() < 0.3:
                    for _ in range(dice.randrange(12)):
                        await asyncio.sleep(0)
                else:
                    await asyncio.sleep(dice.random() * 0.01)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

        await asyncio.gather(*(worker() for _ in range(50)))
        answers = await asyncio.gather(*(post(transport, server.url) for _ in range(10)))
        assert answers == [b"hihihi"] * 10
        await transport.aclose()
        await server.until(lambda server: server.open == 0)
        await asyncio.sleep(0)
        assert descriptors() <= before

    options = {} if limit is None else {"max_connections_per_origin": limit}
    with_server(kind, script, test, **options)


@every
def test_an_unread_answer_holds_the_upstream_back(kind: Kind) -> None:
    size = 50 * MEBIBYTE
    all_sent = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        for _ in range(size // 65_536):
            await peer.send(bytes(65_536))
        all_sent.set()
        await peer.closed()

    async def test(transport: Transport, server: RawServer) -> None:
        exchange = await transport.open(call(server.url))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await all_sent.wait()
        assert server.peers[0].sent < size // 2
        if isinstance(exchange, FastExchange):
            assert exchange.size <= 512 * 1024
        total = 0
        while piece := await exchange.read():
            total += len(piece)
        await exchange.aclose()
        assert total == size

    with_server(kind, script, test)
