"""Make one attempt at one offer: write the call, open it, and tell an answer from a fault."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime

import httpx2 as httpx

from router.catalog.snapshot import Offer, Provider
from router.errors import ErrorCodeStyle
from router.upstream.answer import Answer, as_stream, read_body, read_completion
from router.upstream.exchange import Call, Exchange, Transport
from router.upstream.faults import MAX_ERROR_BYTES, AttemptFault, from_exception, from_status
from router.upstream.stream import StreamRelay, UsageWish
from router.upstream.usage import Meter
from router.wire import RequestBody

# Of the client's headers only these go upstream; none of them can name an address, a key or a cookie.
FORWARDED = ("traceparent", "tracestate", "x-request-id", "http-referer", "x-title")
_FORWARDED = tuple((name, name.encode()) for name in FORWARDED)


class Sender:
    """Open calls to providers; `transports` holds `fast` and `stock`, and others by a provider's name."""

    def __init__(
        self,
        transports: Mapping[str, Transport],
        environ: Mapping[str, str],
        version: str,
        now: Callable[[], datetime],
    ) -> None:
        self._transports = transports
        self._environ = environ
        self._now = now
        self._agent = f"llm-router/{version}".encode()
        self._fixed: dict[str, tuple[Provider, str, tuple[tuple[bytes, bytes], ...]]] = {}

    async def answer(
        self, provider: Provider, offer: Offer, body: RequestBody, trace: Mapping[str, str], meter: Meter
    ) -> Answer:
        """Get a whole answer; raises `AttemptFault`."""
        exchange = await self._open(provider, offer, body, trace)
        try:
            return read_completion(await read_body(exchange), meter)
        finally:
            await exchange.aclose()

    async def stream(
        self,
        provider: Provider,
        offer: Offer,
        body: RequestBody,
        trace: Mapping[str, str],
        meter: Meter,
        wish: UsageWish,
        error_style: ErrorCodeStyle,
    ) -> StreamRelay:
        """Get a streamed answer up to its first content; raises `AttemptFault`.

        The caller closes the relay, which closes the call.
        """
        exchange = await self._open(provider, offer, body, trace)
        relay = StreamRelay(exchange, meter, wish, error_style)
        try:
            if not _is_event_stream(exchange):
                relay = StreamRelay(
                    _Replayed(exchange, as_stream(await read_body(exchange))), meter, wish, error_style
                )
            await relay.begin()
        except BaseException:
            await exchange.aclose()
            raise
        return relay

    async def _open(
        self, provider: Provider, offer: Offer, body: RequestBody, trace: Mapping[str, str]
    ) -> Exchange:
        url, fixed = self._call_head(provider)
        accept = b"text/event-stream" if body.stream else b"application/json"
        headers = (
            *fixed,
            (b"accept", accept),
            *[(sent, trace[name].encode("latin-1", "ignore")) for name, sent in _FORWARDED if name in trace],
        )
        call = Call(url, headers, body.for_upstream(offer.upstream_model), provider.timeouts)
        transport = self._transports.get(provider.name) or self._transports[provider.transport]
        try:
            exchange = await transport.open(call)
        except httpx.HTTPError as fault:
            raise from_exception(fault) from None
        if exchange.status == 200:
            return exchange
        try:
            error = await read_body(exchange, MAX_ERROR_BYTES)
        except AttemptFault:
            error = b""
        finally:
            await exchange.aclose()
        raise from_status(exchange.status, exchange.headers, error, self._now())

    def _call_head(self, provider: Provider) -> tuple[str, tuple[tuple[bytes, bytes], ...]]:
        """Return the address and the headers that all calls to a provider share; made once a provider."""
        known = self._fixed.get(provider.name)
        if known is not None and known[0] is provider:
            return known[1], known[2]
        headers = [(b"content-type", b"application/json"), (b"user-agent", self._agent)]
        if provider.key_env is not None:
            key = self._environ.get(provider.key_env, "").strip()
            headers.append((b"authorization", b"Bearer " + key.encode()))
        headers += [(name.lower().encode(), value.encode()) for name, value in provider.headers]
        url = provider.base_url.rstrip("/") + "/chat/completions"
        self._fixed[provider.name] = (provider, url, tuple(headers))
        return url, tuple(headers)


def _is_event_stream(exchange: Exchange) -> bool:
    kinds = [value for name, value in exchange.headers if name == b"content-type"]
    return not kinds or not kinds[0].lower().startswith((b"application/json", b"text/html"))


class _Replayed:
    """An exchange whose body is already here, in another form."""

    def __init__(self, exchange: Exchange, body: bytes) -> None:
        self.status = exchange.status
        self.headers = exchange.headers
        self._exchange = exchange
        self._body = body

    async def read(self) -> bytes:
        """Return the body, then b""."""
        body, self._body = self._body, b""
        return body

    async def aclose(self) -> None:
        """Close the exchange that the body came from."""
        await self._exchange.aclose()
