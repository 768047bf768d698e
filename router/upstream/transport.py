"""Our own HTTP/1.1 client: a keep-alive pool per origin over asyncio and httptools.

`FastTransport.open` is the hot path (bytes in, bytes out, no httpx objects); the same core stands behind
httpx's `AsyncBaseTransport`, so a client, or a test, can use it through httpx. Redirects are answers like
others. HTTP/2 and proxies are left to the stock transport (`router.upstream.httpx_exchange`).
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass

import httpx2 as httpx

from router.catalog.snapshot import Timeouts
from router.upstream.exchange import Call
from router.upstream.fast_exchange import FastExchange
from router.upstream.pool import Pool

_TARGETS_LIMIT = 1024
_PORTS = {"http": 80, "https": 443}
_IDEMPOTENT = frozenset(("GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"))
_OURS = frozenset((b"host", b"content-length", b"transfer-encoding", b"accept-encoding", b"connection"))
_FOREVER = float("inf")
Headers = Iterable[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class _Target:
    """A url once parsed: its pool, and the head of a POST up to the value of content-length."""

    pool: Pool
    start: bytes


class FastTransport(httpx.AsyncBaseTransport):
    """Keep connections to every origin and send requests over them, one at a time on each.

    Everything it raises is one of httpx's `TransportError`s. It belongs to the event loop it is used in.
    `ssl_context` None means httpx's own verifying one, made at the first https address. A connection
    that was kept alive and turns out to be dead is replaced once: only when no byte of an answer came, and
    within `stale_window_s` of sending, since later the upstream may have worked on the request and ask for
    its price. (A connection that the other end had closed shows it within a round trip.)
    Without `max_connections_per_origin` nothing queues here; the offers' own limits are the bound.
    """

    def __init__(
        self,
        *,
        ssl_context: ssl.SSLContext | None = None,
        idle_expiry_s: float = 30.0,
        max_idle_per_origin: int = 256,
        max_connections_per_origin: int | None = None,
        stale_window_s: float = 1.0,
    ) -> None:
        self._ssl_context = ssl_context
        self._idle_expiry_s = idle_expiry_s
        self._max_idle = max_idle_per_origin
        self._max_connections = max_connections_per_origin
        self._stale_window_s = stale_window_s
        self._pools: dict[tuple[str, str, int], Pool] = {}
        self._targets: dict[str, _Target] = {}
        self._closed = False

    async def open(self, call: Call) -> FastExchange:
        """Send the call and wait for the head of the final answer (1xx are skipped).

        A call whose kept-alive connection turns out to be dead is sent again on a new one, unless it goes
        `once`.
        """
        target = self._targets.get(call.url) or self._target(call.url)
        head = _finish_head(target.start, len(call.body), call.headers)
        timeouts = call.timeouts
        return await self._send(
            target.pool,
            head,
            call.body,
            timeouts,
            write_s=timeouts.idle,
            pool_s=timeouts.connect,
            repeatable=not call.once,
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer a request of httpx, any method but CONNECT; its body is collected first.

        Only what may be repeated is sent again after a stale connection: an idempotent method or a
        request with an `idempotency-key` (RFC 9110 section 9.2.2).
        """
        if request.method == "CONNECT":
            raise httpx.UnsupportedProtocol("CONNECT needs the stock transport; select it for this provider")
        given = request.headers.raw
        host = next((value for name, value in given if name.lower() == b"host"), None)
        headers = [(name, value) for name, value in given if name.lower() not in _OURS]
        body = await request.aread()
        start = _start_head(request.method, request.url, host)
        waits = request.extensions.get("timeout", {})
        read_s = _seconds(waits.get("read"))
        exchange = await self._send(
            self._pool(request.url),
            _finish_head(start, len(body), headers),
            body,
            Timeouts(connect=_seconds(waits.get("connect")), first_byte=read_s, idle=read_s),
            write_s=_seconds(waits.get("write")),
            pool_s=_seconds(waits.get("pool")),
            bodiless=request.method == "HEAD",
            repeatable=request.method in _IDEMPOTENT or "idempotency-key" in request.headers,
        )
        return httpx.Response(
            exchange.status,
            headers=exchange.headers,
            stream=_Stream(exchange, waits),
            extensions={"http_version": b"HTTP/1.1"},
        )

    async def aclose(self) -> None:
        """Close every connection, busy ones too; whoever waits gets a fault."""
        self._closed = True
        self._targets.clear()
        for pool in self._pools.values():
            await pool.aclose()

    async def _send(
        self,
        pool: Pool,
        head: bytes,
        body: bytes,
        timeouts: Timeouts,
        *,
        write_s: float,
        pool_s: float,
        bodiless: bool = False,
        repeatable: bool = True,
    ) -> FastExchange:
        if not repeatable:
            for _ in range(2):  # let the event loop notice which idle connections were closed meanwhile
                await asyncio.sleep(0)
        fresh = False
        while True:
            connection, used = (None if fresh else pool.take_idle()), True
            if connection is None:
                connection, used = await pool.acquire(connect_s=timeouts.connect, pool_s=pool_s, fresh=fresh)
            sent_s = time.monotonic()
            exchange = connection.send(
                head,
                body,
                write_s=write_s,
                first_byte_s=timeouts.first_byte,
                idle_s=timeouts.idle,
                bodiless=bodiless,
            )
            try:
                await exchange.head()
            except httpx.TransportError:
                at_once = time.monotonic() - sent_s <= self._stale_window_s
                if exchange.stale and used and repeatable and at_once and not fresh:
                    fresh = True
                    continue
                raise
            return exchange

    def _target(self, address: str) -> _Target:
        url = parse_address(address)
        if len(self._targets) >= _TARGETS_LIMIT:
            self._targets.clear()
        target = _Target(self._pool(url), _start_head("POST", url, None))
        self._targets[address] = target
        return target

    def _pool(self, url: httpx.URL) -> Pool:
        check_address(url)
        scheme, host = url.scheme, url.raw_host.decode("ascii")
        if self._closed:
            raise httpx.ConnectError("this transport is closed; open a new one")
        key = (scheme, host, url.port or _PORTS[scheme])
        pool = self._pools.get(key)
        if pool is None:
            pool = self._pools[key] = Pool(
                host,
                key[2],
                tls=self._tls if scheme == "https" else None,
                idle_expiry_s=self._idle_expiry_s,
                max_idle=self._max_idle,
                max_connections=self._max_connections,
            )
        return pool

    def _tls(self) -> ssl.SSLContext:
        if self._ssl_context is None:
            self._ssl_context = httpx.create_ssl_context()
        return self._ssl_context


class _Stream(httpx.AsyncByteStream):
    """The body of an exchange as httpx reads it; its read time-out is looked up anew, as in httpcore."""

    def __init__(self, exchange: FastExchange, waits: Mapping[str, float | None]) -> None:
        self._exchange = exchange
        self._waits = waits

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self._exchange.idle_s = _seconds(self._waits.get("read"))
        while piece := await self._exchange.read():
            yield piece

    async def aclose(self) -> None:
        await self._exchange.aclose()


def parse_address(address: str) -> httpx.URL:
    """Return the url of an upstream; raise `UnsupportedProtocol` for what is none."""
    try:
        url = httpx.URL(address)
    except httpx.InvalidURL as fault:
        raise httpx.UnsupportedProtocol(f"not the address of an upstream: {address!r}: {fault}") from fault
    check_address(url)
    return url


def check_address(url: httpx.URL) -> None:
    """Raise `UnsupportedProtocol` unless the url has a host and is http or https."""
    if url.scheme not in _PORTS or not url.raw_host:
        raise httpx.UnsupportedProtocol(f"an upstream's address begins with http:// or https://: {url}")


def _start_head(method: str, url: httpx.URL, host: bytes | None) -> bytes:
    """Return the request line and our own headers, up to the value of content-length."""
    return b"%b %b HTTP/1.1\r\nhost: %b\r\naccept-encoding: identity\r\ncontent-length: " % (
        method.encode("ascii"),
        url.raw_path,
        host or url.netloc,
    )


def _finish_head(start: bytes, length: int, headers: Headers) -> bytes:
    """Return the whole head; raise `LocalProtocolError` when a header would begin another one."""
    lines = [start + str(length).encode()]
    lines.extend([b"%b: %b" % header for header in headers])
    count = len(lines) + 4
    lines.append(b"\r\n")
    head = b"\r\n".join(lines)
    if head.count(b"\n") != count or head.count(b"\r") != count or b"\0" in head:
        raise httpx.LocalProtocolError("a request header holds a line break or a NUL; remove it")
    return head


def _seconds(value: float | None) -> float:
    return _FOREVER if value is None else value
