"""Any httpx transport as an upstream: the stock one (proxies, HTTP/2), a mock, one in this process."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import httpx2 as httpx

from router.upstream.exchange import Call
from router.upstream.inflate import Inflater, read_inflated, without_coding
from router.upstream.transport import parse_address


class HttpxExchange:
    """An answer of an httpx transport; see `router.upstream.exchange.Exchange`."""

    def __init__(self, response: httpx.Response) -> None:
        if not isinstance(response.stream, httpx.AsyncByteStream):
            raise TypeError("this httpx transport answers with a synchronous body; use an asynchronous one")
        headers = [(name.lower(), value) for name, value in response.headers.raw]
        coding = b",".join(value.lower() for name, value in headers if name == b"content-encoding")
        self._inflater = Inflater.undoing(coding)
        self.status = response.status_code
        self.headers = without_coding(headers) if self._inflater else headers
        self._stream = response.stream
        self._pieces = aiter(self._stream)

    async def read(self) -> bytes:
        """Return the next piece, b"" once the body has ended whole."""
        if self._inflater is None:
            return await self._take()
        return await read_inflated(self._inflater, self._take)

    async def aclose(self) -> None:
        """End the answer; the transport decides whether its connection can be used again."""
        if isinstance(self._pieces, AsyncGenerator):
            await self._pieces.aclose()
        await self._stream.aclose()

    async def _take(self) -> bytes:
        async for piece in self._pieces:
            if piece:
                return piece
        return b""


class HttpxTransport:
    """Open calls over an httpx transport; redirects are answers here too.

    A stock transport must be made with `Limits(max_connections=None)`: httpx's own limit is lost to
    cancelled requests one by one until nothing is sent any more (encode/httpcore issue 1093).
    """

    def __init__(self, transport: httpx.AsyncBaseTransport) -> None:
        self._transport = transport

    async def open(self, call: Call) -> HttpxExchange:
        """Send the call and wait for the head of the final answer.

        httpx has one read time-out; it is the first byte's until the head is here, then the idle one.
        httpx reads it anew for the body, so the dictionary that it was given is changed in place.
        """
        timeouts = call.timeouts
        waits = {
            "connect": timeouts.connect,
            "pool": timeouts.connect,
            "write": timeouts.idle,
            "read": timeouts.first_byte,
        }
        request = httpx.Request(
            "POST",
            parse_address(call.url),
            headers=[*call.headers, (b"accept-encoding", b"identity")],
            content=call.body,
            extensions={"timeout": waits},
        )
        response = await self._transport.handle_async_request(request)
        waits["read"] = timeouts.idle
        try:
            return HttpxExchange(response)
        except httpx.RemoteProtocolError:
            await response.aclose()
            raise

    async def aclose(self) -> None:
        """Close every connection of the transport."""
        await self._transport.aclose()
