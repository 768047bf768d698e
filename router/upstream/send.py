"""Make one attempt at one offer: write the call, open it, and tell an answer from a fault."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

import httpx2 as httpx
from msgspec import structs

from router.catalog.snapshot import Offer, Provider
from router.errors import ErrorCodeStyle
from router.upstream.answer import Answer, as_stream, read_body, read_completion
from router.upstream.exchange import Call, Exchange, Transport
from router.upstream.faults import MAX_ERROR_BYTES, AttemptFault, from_exception, from_status
from router.upstream.paying import Headers, Outcome, Payer, Purse
from router.upstream.stream import StreamRelay, UsageWish
from router.upstream.usage import Meter
from router.wire import RequestBody

# Of the client's headers only these go upstream; none of them can name an address, a key or a cookie.
FORWARDED = ("traceparent", "tracestate", "x-request-id", "http-referer", "x-title")
_BOUND = re.compile(r"max_?(?:completion_|output_|new_)?tokens", re.IGNORECASE)
# Faults before a byte of the call has left.
_UNSENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)
_log = logging.getLogger("router.upstream")
_FORWARDED = tuple((name, name.encode()) for name in FORWARDED)


@dataclass(frozen=True, slots=True)
class Ask:
    """What is asked of whom; `output_tokens` bounds each choice, None leaves that to the client's body.

    Where a wallet may pay, `purse` is the request's, and `worst_nusd` the most that the provider can ask by
    the catalog.
    """

    provider: Provider
    offer: Offer
    body: RequestBody
    output_tokens: int | None = None
    purse: Purse | None = None
    worst_nusd: int = 0

    def payload(self, *, bounded: bool) -> bytes:
        """Return the body for the upstream."""
        field = self.provider.output_limit
        bound = (field, self.output_tokens) if self.output_tokens is not None and field != "none" else None
        offer = self.offer
        return self.body.for_upstream(
            offer.upstream_model, bound if bounded else None, f"{offer.provider}/{offer.model}"
        )

    @property
    def paid(self) -> bool:
        """Tell whether the provider has had its payment in this request."""
        return self.purse is not None and self.provider.name in self.purse.paid

    def metered(self, meter: Meter) -> Meter:
        """Return the meter with what the provider was paid, where a wallet pays it: that is its cost."""
        if self.purse is None:
            return meter
        return structs.replace(meter, asked_nusd=self.purse.paid.get(self.provider.name, 0))

    @property
    def adds_bound(self) -> bool:
        """Tell whether the bound is the router's and not the client's."""
        return self.output_tokens is not None and self.body.max_output_tokens is None


class Sender:
    """Open calls to providers; `transports` holds `fast` and `stock`, and others by a provider's name.

    Without a `payer` no provider's 402 is paid.
    """

    def __init__(
        self,
        transports: Mapping[str, Transport],
        environ: Mapping[str, str],
        version: str,
        now: Callable[[], datetime],
        payer: Payer | None = None,
    ) -> None:
        self._transports = transports
        self._environ = environ
        self._now = now
        self._payer = payer
        self._agent = f"llm-router/{version}".encode()
        self._unbounded: dict[tuple[str, str], Offer] = {}  # refused a bound that the catalog says they take
        self._fixed: dict[str, tuple[Provider, str, tuple[tuple[bytes, bytes], ...]]] = {}

    async def answer(self, asked: Ask, trace: Mapping[str, str], meter: Meter) -> Answer:
        """Get a whole answer; raises `AttemptFault`."""
        exchange = await self._open(asked, trace)
        try:
            return read_completion(await read_body(exchange), asked.metered(meter))
        finally:
            await exchange.aclose()

    async def stream(
        self, asked: Ask, trace: Mapping[str, str], meter: Meter, wish: UsageWish, error_style: ErrorCodeStyle
    ) -> StreamRelay:
        """Get a streamed answer up to its first content; raises `AttemptFault`.

        The caller closes the relay, which closes the call.
        """
        exchange = await self._open(asked, trace)
        meter = asked.metered(meter)
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

    async def _open(self, asked: Ask, trace: Mapping[str, str]) -> Exchange:
        """Call; an offer that refuses a bound that we have added is called again without it.

        One that was paid is not called again, whatever it answered.
        """
        offer = asked.offer
        if asked.paid:
            raise AttemptFault("unpaid", "had its payment in this request")
        bounded = not asked.adds_bound or self._unbounded.get(offer.key) is not offer
        try:
            return await self._call(asked, trace, bounded=bounded)
        except AttemptFault as fault:
            if asked.paid or not (bounded and asked.adds_bound and _refuses_bound(fault)):
                raise
            if fault.kind == "refused":  # else this prompt alone was too long for it
                self._note_refusal(asked)
        return await self._call(asked, trace, bounded=False)

    def _note_refusal(self, asked: Ask) -> None:
        """Send an offer no bound of ours any more, until the catalog changes."""
        self._unbounded[asked.offer.key] = asked.offer
        _log.warning(
            "%s at %s refuses %s = %s and is called without it: correct max_output in the model's file, or"
            " output_limit in the provider's",
            asked.offer.model,
            asked.offer.provider,
            asked.provider.output_limit,
            asked.output_tokens,
        )

    async def _call(self, asked: Ask, trace: Mapping[str, str], *, bounded: bool) -> Exchange:
        provider = asked.provider
        url, fixed = self._call_head(provider)
        accept = b"text/event-stream" if asked.body.stream else b"application/json"
        headers = (
            *fixed,
            (b"accept", accept),
            *[(sent, trace[name].encode("latin-1", "ignore")) for name, sent in _FORWARDED if name in trace],
        )
        call = Call(url, headers, asked.payload(bounded=bounded), provider.timeouts)
        transport = self._transports.get(provider.name) or self._transports[provider.transport]
        exchange = await _opened(transport, call)
        if exchange.status == 402 and asked.purse is not None and self._payer is not None:
            exchange = await self._pay(asked, asked.purse, self._payer, transport, call, exchange)
        if exchange.status == 200:
            return exchange
        try:
            error = await read_body(exchange, MAX_ERROR_BYTES)
        except AttemptFault:
            error = b""
        finally:
            await exchange.aclose()
        raise from_status(exchange.status, exchange.headers, error, self._now())

    async def _pay(
        self,
        asked: Ask,
        purse: Purse,
        payer: Payer,
        transport: Transport,
        call: Call,
        demand: Exchange,
    ) -> Exchange:
        """Pay what a 402 asks for and call once more, with the signature; raises `AttemptFault`.

        What was paid is in the purse from then on, unless the signature never left.
        """
        try:
            await read_body(demand, MAX_ERROR_BYTES)  # so that its connection serves again
        finally:
            await demand.aclose()
        signed = await payer.pay(
            asked.provider,
            call.url,
            demand.headers,
            call.body,
            estimate_nusd=asked.worst_nusd,
            request_id=purse.request_id,
        )
        if signed is None:
            raise AttemptFault("unpaid", "asks for a payment", status=402)
        kept = tuple(header for header in call.headers if header[0] not in signed.replaces)
        call = structs.replace(call, headers=(*kept, *signed.headers), once=True)
        purse.paid[asked.provider.name] = signed.nusd
        outcome: Outcome = "unknown"
        told: Headers = ()
        try:
            exchange = await transport.open(call)
            if exchange.status == 200:
                outcome, told = "answered", exchange.headers
        except _UNSENT as fault:
            outcome = "unsent"
            del purse.paid[asked.provider.name]
            raise from_exception(fault) from None
        except httpx.HTTPError as fault:
            raise from_exception(fault) from None
        finally:
            signed.ended(outcome, told)
        return exchange

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


async def _opened(transport: Transport, call: Call) -> Exchange:
    try:
        return await transport.open(call)
    except httpx.HTTPError as fault:
        raise from_exception(fault) from None


def _refuses_bound(fault: AttemptFault) -> bool:
    return (
        fault.kind in ("refused", "too_long") and _BOUND.search(f"{fault.param} {fault.detail}") is not None
    )


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
