"""The transports of a running service, by the name that a provider's file or the provider itself gives."""

from __future__ import annotations

import httpx2 as httpx

from router.upstream.demo import DemoTransport
from router.upstream.exchange import Transport
from router.upstream.httpx_exchange import HttpxTransport
from router.upstream.transport import FastTransport

_MAX_IDLE = 256
_IDLE_EXPIRY_S = 30.0


def default_transports() -> dict[str, Transport]:
    """Return `fast` (our own), `stock` (httpx's, for proxies and HTTP/2) and the built-in `demo` provider.

    The stock transport has no limit of its own: cancelled requests would eat it up (encode/httpcore
    issue 1093), and any client that leaves could stop the router.
    """
    limits = httpx.Limits(
        max_connections=None, max_keepalive_connections=_MAX_IDLE, keepalive_expiry=_IDLE_EXPIRY_S
    )
    return {
        "fast": FastTransport(),
        "stock": HttpxTransport(httpx.AsyncHTTPTransport(limits=limits)),
        "demo": HttpxTransport(DemoTransport()),
    }
