"""The transports of a running service, by the name that a provider's file or the provider itself gives."""

from __future__ import annotations

from collections.abc import Mapping

from router.upstream.demo import DemoTransport
from router.upstream.exchange import Transport
from router.upstream.httpx_exchange import HttpxTransport
from router.upstream.proxies import StockTransport
from router.upstream.transport import FastTransport


def default_transports(environ: Mapping[str, str]) -> dict[str, Transport]:
    """Return `fast` (our own), `stock` (httpx's, for proxies and HTTP/2) and the built-in `demo` provider."""
    return {
        "fast": FastTransport(),
        "stock": HttpxTransport(StockTransport(environ)),
        "demo": HttpxTransport(DemoTransport()),
    }
