"""Time-outs, addresses, TLS: one behaviour for every transport, over real sockets."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx2 as httpx
import pytest
import uvloop

from router.catalog.snapshot import Timeouts
from router.upstream.dial import race
from router.upstream.exchange import Call, Transport
from tests.rawserver import Peer, RawServer, answering, ok, silent
from tests.service.transports import (
    MEBIBYTE,
    Kind,
    Main,
    call,
    descriptors,
    every,
    ours,
    post,
    read,
    with_server,
)


@every
def test_silence_before_the_head_times_out(kind: Kind) -> None:
    async def test(transport: Transport, server: RawServer) -> None:
        with pytest.raises(httpx.ReadTimeout):
            await transport.open(call(server.url, first_byte=0.05))
        await server.until(lambda server: server.open == 0)

    with_server(kind, silent, test)


@every
def test_silence_in_the_body_times_out(kind: Kind) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\npart")
        await peer.closed()

    async def test(transport: Transport, server: RawServer) -> None:
        exchange = await transport.open(call(server.url, idle=0.05))
        assert await exchange.read() == b"part"
        with pytest.raises(httpx.ReadTimeout):
            await exchange.read()
        await exchange.aclose()
        await server.until(lambda server: server.open == 0)

    with_server(kind, script, test)


@ours
def test_a_head_that_drips_does_not_move_the_deadline(kind: Kind) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nx: ")
        while True:
            await peer.send(b"y")
            await asyncio.sleep(0.01)

    async def test(transport: Transport, server: RawServer) -> None:
        with pytest.raises(httpx.ReadTimeout):
            await transport.open(call(server.url, first_byte=0.1))

    with_server(kind, script, test)


@ours
def test_a_slow_reader_is_not_the_upstreams_silence(kind: Kind) -> None:
    begin, go_on = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n")
        await begin.wait()
        await peer.send(b"part")
        await go_on.wait()
        await peer.send(b"part")
        await peer.closed()

    async def test(transport: Transport, server: RawServer) -> None:
        exchange = await transport.open(call(server.url, idle=0.2, first_byte=0.2))
        reading = asyncio.ensure_future(exchange.read())
        await asyncio.sleep(0)
        begin.set()
        assert await reading == b"part"
        await asyncio.sleep(0.5)  # the reader's own time, longer than the idle time-out
        go_on.set()
        assert await read(exchange) == b"part"

    with_server(kind, script, test)


@every
def test_an_upstream_that_takes_no_bytes_times_out(kind: Kind) -> None:
    done = asyncio.Event()

    async def script(peer: Peer) -> None:
        await done.wait()  # nothing is read but what fits the buffers

    async def test(transport: Transport, server: RawServer) -> None:
        with pytest.raises(httpx.WriteTimeout):
            await post(transport, server.url, bytes(40 * MEBIBYTE), idle=0.1)
        done.set()

    with_server(kind, script, test)


@every
def test_a_tls_handshake_that_never_ends_times_out(kind: Kind) -> None:
    async def test(transport: Transport, server: RawServer) -> None:
        url = server.url.replace("http://", "https://")
        with pytest.raises(httpx.ConnectTimeout):
            await transport.open(call(url, connect=0.1))
        await server.until(lambda server: server.open == 0)

    with_server(kind, silent, test)


@ours
def test_idle_connections_expire(kind: Kind) -> None:
    async def test(transport: Transport, server: RawServer) -> None:
        assert await post(transport, server.url) == b"hi"
        await server.until(lambda server: server.open == 0)
        assert await post(transport, server.url) == b"hi"
        assert len(server.peers) == 2

    with_server(kind, answering(ok(b"hi")), test, idle_expiry_s=0.05)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@every
def test_a_refused_connection_is_a_connect_error(kind: Kind) -> None:
    async def main() -> None:
        transport = kind.make()
        port = free_port()
        for host in ("127.0.0.1", "localhost"):
            with pytest.raises(httpx.ConnectError):
                await transport.open(call(f"http://{host}:{port}/"))
        with pytest.raises(httpx.ConnectError):
            await transport.open(call(f"http://{'x' * 70}.invalid/"))
        await transport.aclose()

    kind.run(main())


@every
@pytest.mark.parametrize("url", ["ftp://127.0.0.1/", "127.0.0.1:80/v1", "http://", "http:///v1"])
def test_other_addresses_are_unsupported(kind: Kind, url: str) -> None:
    async def main() -> None:
        transport = kind.make()
        with pytest.raises(httpx.UnsupportedProtocol):
            await transport.open(call(url))
        await transport.aclose()

    kind.run(main())


@every
def test_a_header_cannot_begin_another_one(kind: Kind) -> None:
    async def test(transport: Transport, server: RawServer) -> None:
        for value in (b"a\r\nx-evil: 1", b"a\nb", b"a\0b"):
            bad = Call(server.url, ((b"x-a", value),), b"", Timeouts())
            with pytest.raises(httpx.LocalProtocolError):
                await transport.open(bad)
        assert server.requests == []

    with_server(kind, answering(ok(b"hi")), test)


@every
def test_a_host_name_with_a_dead_address_is_reached_by_the_other(kind: Kind) -> None:
    async def test(transport: Transport, server: RawServer) -> None:
        assert await post(transport, server.url.replace("127.0.0.1", "localhost")) == b"hi"

    with_server(kind, answering(ok(b"hi")), test)


@contextmanager
def deaf(family: socket.AddressFamily, host: str, port: int = 0) -> Iterator[int]:
    """Listen on a port whose queue is full, so that further connections get no answer at all."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket(family))
        try:
            listener.bind((host, port))
        except OSError:
            pytest.skip(f"{host}:{port} cannot be used here")
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket(family))
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


@pytest.mark.skipif(sys.platform != "linux", reason="a full queue refuses on other systems")
@every
def test_a_connection_that_is_not_accepted_times_out(kind: Kind) -> None:
    async def main() -> None:
        transport = kind.make()
        with deaf(socket.AF_INET, "127.0.0.1") as port, pytest.raises(httpx.ConnectTimeout):
            await transport.open(call(f"http://127.0.0.1:{port}/", connect=0.1))
        await transport.aclose()

    kind.run(main())


@pytest.mark.skipif(sys.platform != "linux", reason="a full queue refuses on other systems")
@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_a_deaf_address_is_overtaken_by_the_other_family(run: Callable[[Main], None]) -> None:
    async def main() -> None:
        async with RawServer(silent) as server:
            heard = (socket.AF_INET, ("127.0.0.1", server.port))
            with deaf(socket.AF_INET6, "::1") as port:
                before = descriptors()
                sock = await race([(socket.AF_INET6, ("::1", port)), heard])
                assert sock.getpeername() == ("127.0.0.1", server.port)
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                sock.close()
                await server.until(lambda server: server.peers != [] and server.open == 0)
                assert descriptors() <= before
            with pytest.raises(ConnectionRefusedError):
                await race([(socket.AF_INET, ("127.0.0.1", free_port())) for _ in range(2)])

    run(main())


@every
@pytest.mark.skipif(not socket.has_ipv6, reason="this machine has no IPv6")
def test_ipv6(kind: Kind) -> None:
    async def main() -> None:
        try:
            socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        except OSError:
            pytest.skip("no IPv6 loopback here")
        async with RawServer(answering(ok(b"hi")), host="::1") as server:
            transport = kind.make()
            assert await post(transport, server.url) == b"hi"
            assert b"host: [::1]:%d\r\n" % server.port in server.requests[0][0].lower()
            await transport.aclose()

    kind.run(main())


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("the openssl program is not installed")
    folder = tmp_path_factory.mktemp("tls")
    key, cert = folder / "key.pem", folder / "cert.pem"
    names = "-subj /CN=localhost -addext subjectAltName=DNS:localhost"
    form = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    command = [openssl, "req", "-x509", *form.split(), *names.split(), "-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True)
    return cert, key


@every
def test_tls_is_verified_and_names_the_server(kind: Kind, certificate: tuple[Path, Path]) -> None:
    cert, key = certificate
    names: list[str | None] = []
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(cert, key)
    server_context.sni_callback = lambda _socket, name, _context: names.append(name)

    async def main() -> None:
        async with RawServer(answering(ok(b"x" * 300_000)), ssl_context=server_context) as server:
            url = server.url.replace("127.0.0.1", "localhost")
            transport = kind.make(ssl_context=ssl.create_default_context(cafile=cert))
            for _ in range(2):
                assert await post(transport, url, b"b" * 300_000) == b"x" * 300_000
            assert len(server.peers) == 1
            with pytest.raises(httpx.ConnectError):  # the name is not in the certificate
                await transport.open(call(server.url))
            await transport.aclose()
            default = kind.make()
            with pytest.raises(httpx.ConnectError):  # nobody vouches for it
                await default.open(call(url))
            await default.aclose()
            await server.until(lambda server: server.open == 0)

    kind.run(main())
    assert names[0] == "localhost"
