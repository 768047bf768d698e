"""The transports that are held to one behaviour, and how a test runs against one of them."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
import uvloop

from router.catalog.snapshot import Timeouts
from router.upstream.exchange import Call, Exchange, Transport
from router.upstream.httpx_exchange import HttpxTransport
from router.upstream.transport import FastTransport
from tests.rawserver import Peer, RawServer

Main = Coroutine[Any, Any, None]
MEBIBYTE = 1024 * 1024


@dataclass(frozen=True)
class Kind:
    """A transport and the event loop below it."""

    name: str
    run: Callable[[Main], None]
    make: Callable[..., Transport]
    fast: bool


def stock(ssl_context: ssl.SSLContext | None = None) -> Transport:
    limits = httpx.Limits(max_connections=None)
    return HttpxTransport(
        httpx.AsyncHTTPTransport(verify=ssl_context or True, limits=limits, trust_env=False)
    )


def through_httpx(ssl_context: ssl.SSLContext | None = None) -> Transport:
    """Use our own transport as httpx would."""
    return HttpxTransport(FastTransport(ssl_context=ssl_context))


FAST = Kind("fast-asyncio", asyncio.run, FastTransport, fast=True)
FAST_UVLOOP = Kind("fast-uvloop", uvloop.run, FastTransport, fast=True)
KINDS = [
    FAST,
    FAST_UVLOOP,
    Kind("fast-as-httpx-uvloop", uvloop.run, through_httpx, fast=False),
    Kind("stock-asyncio", asyncio.run, stock, fast=False),
]
every = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
ours = pytest.mark.parametrize("kind", [FAST, FAST_UVLOOP], ids=lambda kind: kind.name)


def call(url: str, body: bytes = b"{}", **timeouts: float) -> Call:
    headers = ((b"content-type", b"application/json"), (b"x-test", b"1"))
    return Call(url, headers, body, Timeouts(**timeouts))


async def read(exchange: Exchange) -> bytes:
    pieces = []
    while piece := await exchange.read():
        pieces.append(piece)
    await exchange.aclose()
    return b"".join(pieces)


async def post(transport: Transport, url: str, body: bytes = b"{}", **timeouts: float) -> bytes:
    exchange = await transport.open(call(url, body, **timeouts))
    return await read(exchange)


def with_server(
    kind: Kind,
    script: Callable[[Peer], Any],
    test: Callable[[Transport, RawServer], Main],
    **options: Any,
) -> None:
    """Run a test between one transport and one scripted server; nothing may stay open afterwards."""

    async def main() -> None:
        async with RawServer(script) as server:
            transport = kind.make(**options)
            try:
                await test(transport, server)
            finally:
                await transport.aclose()
            await server.until(lambda server: server.open == 0)

    kind.run(main())


def descriptors() -> int:
    """Count this process's open file descriptors; 0 where the system does not tell."""
    path = Path("/proc/self/fd")
    return len(os.listdir(path)) if path.exists() else 0
