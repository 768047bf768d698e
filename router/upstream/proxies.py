"""httpx's stock transport behind the proxies that the environment names, with HTTP/2.

Names and meaning of the variables are curl's: HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY, in either case.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping

import httpx2 as httpx

_MAX_IDLE = 256
_IDLE_EXPIRY_S = 30.0
_WITH_PORT = re.compile(r"(\[.*\]|[^:]*):(\d+)")  # an IPv6 address without brackets has none


class StockTransport(httpx.AsyncBaseTransport):
    """Send each request through the proxy for its address, or directly.

    The transports below have no limit of their own: cancelled requests would eat it up (encode/httpcore
    issue 1093), and any client that leaves could stop the router. They are made at their first use.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._transports: dict[str | None, httpx.AsyncHTTPTransport] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request."""
        proxy = proxy_for(request.url, self._environ)
        transport = self._transports.get(proxy)
        if transport is None:
            limits = httpx.Limits(
                max_connections=None, max_keepalive_connections=_MAX_IDLE, keepalive_expiry=_IDLE_EXPIRY_S
            )
            transport = httpx.AsyncHTTPTransport(http2=True, limits=limits, proxy=proxy, trust_env=False)
            self._transports[proxy] = transport
        return await transport.handle_async_request(request)

    async def aclose(self) -> None:
        """Close every connection."""
        for transport in self._transports.values():
            await transport.aclose()


def proxy_for(url: httpx.URL, environ: Mapping[str, str]) -> str | None:
    """Return the address of the proxy for a url, None for none."""
    if _is_exempt(url, _value(environ, "no_proxy")):
        return None
    return _value(environ, f"{url.scheme}_proxy") or _value(environ, "all_proxy") or None


def _value(environ: Mapping[str, str], name: str) -> str:
    return (environ.get(name) or environ.get(name.upper()) or "").strip()


def _is_exempt(url: httpx.URL, no_proxy: str) -> bool:
    host, port = url.host.lower(), str(url.port or {"http": 80, "https": 443}.get(url.scheme))
    for entry in no_proxy.lower().replace(",", " ").split():
        match = _WITH_PORT.fullmatch(entry)
        if match is not None and match[2] != port:
            continue
        name = (match[1] if match is not None else entry).strip("[]")
        if name == "*" or host == name.lstrip(".") or host.endswith("." + name.lstrip(".")):
            return True
        if "/" in name and _in_network(host, name):
            return True
    return False


def _in_network(host: str, network: str) -> bool:
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False
