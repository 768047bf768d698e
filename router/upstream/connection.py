"""One HTTP/1.1 connection to an upstream.

A `Connection` parses with llhttp (httptools) and carries one `FastExchange` at a time. It gives itself back
to its `Owner` as soon as an answer has arrived whole, however slowly that answer is then read.
"""

from __future__ import annotations

import asyncio
from typing import Protocol, cast

import httptools
import httpx2 as httpx

from router.upstream.fast_exchange import FastExchange

HEAD_LIMIT = 64 * 1024
HEADERS_LIMIT = 200
HIGH_WATER = 256 * 1024
_JOIN_LIMIT = 64 * 1024
_FRAMING = frozenset((b"content-length", b"transfer-encoding", b"content-encoding"))


class Owner(Protocol):
    """Whoever keeps connections: told when one is free again, unfit to be kept, or gone."""

    name: str

    def release(self, connection: Connection) -> None:
        """Take back a connection whose answer has arrived whole."""
        ...

    def retire(self, connection: Connection) -> None:
        """Hand this idle connection out no more."""
        ...

    def lost(self, connection: Connection) -> None:
        """Count a connection that has closed, once."""
        ...


class Connection(asyncio.Protocol):
    """Send one request at a time and parse its answer.

    One timer serves all waits: it is left alone while deadlines move into the future and looks again when
    it fires, so a request on a kept-alive connection sets none.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.closed = False
        self._owner: Owner | None = None
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._exchange: FastExchange | None = None
        self._headers: list[tuple[bytes, bytes]] = []
        self._bodiless = False
        self._interim = False
        self._keep = False
        self._to_eof = False
        self._overhead = 0  # bytes since the request or the last piece of a body
        self._paused = False
        self._blocked = False  # the transport's write buffer is over its mark
        self._unsent = 0
        self._waits_s = (0.0, 0.0)
        self._deadline: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def adopt(self, owner: Owner) -> None:
        """Report to this owner from now on."""
        self._owner = owner

    def send(
        self, head: bytes, body: bytes, *, write_s: float, first_byte_s: float, idle_s: float, bodiless: bool
    ) -> FastExchange:
        """Write a request and expect its answer; `bodiless` is the answer to HEAD."""
        exchange = self._exchange = FastExchange(self, idle_s)
        transport = self._transport
        if transport is None or self.closed:
            fault = httpx.RemoteProtocolError(self._say("closed the connection without an answer"))
            exchange.lose(fault, stale=True)
            return exchange
        self._bodiless = bodiless
        self._interim = self._keep = self._to_eof = False
        self._overhead = 0
        self._headers = []
        self._waits_s = (write_s, first_byte_s)
        if not body:
            transport.write(head)
        elif len(body) <= _JOIN_LIMIT:
            transport.write(head + body)
        else:
            transport.writelines((head, body))
        if self._blocked:
            self._unsent = transport.get_write_buffer_size()
            self.expect_within(write_s)
        else:
            self.expect_within(first_byte_s)
        return exchange

    def rest(self, seconds: float) -> None:
        """Stay open and idle for at most that long."""
        self._exchange = None
        self.resume()
        self.expect_within(seconds)

    def abort(self) -> None:
        """Close at once, whatever is on the way."""
        self.closed = True
        self._deadline = None
        if self._transport is not None:
            self._transport.abort()

    def fail(self, fault: httpx.TransportError) -> None:
        """Close at once and give the fault to whoever waits for the answer."""
        if self._exchange is not None:
            self._exchange.fail(fault)
        self.abort()

    def close(self) -> None:
        """Close in order (TLS says goodbye); for connections that are idle."""
        self.closed = True
        self._deadline = None
        if self._transport is not None:
            self._transport.close()

    def resume(self) -> None:
        """Read on after the buffered part of the answer was taken."""
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()

    # Time.

    def expect_within(self, seconds: float) -> None:
        """Set the deadline of the present wait; infinity is none."""
        deadline = self.loop.time() + seconds
        self._deadline = deadline
        timer = self._timer
        if timer is None or deadline < timer.when():
            if timer is not None:
                timer.cancel()
            self._timer = None if seconds == float("inf") else self.loop.call_at(deadline, self._on_timer)

    def expect_nothing(self) -> None:
        """Set no deadline: nobody waits."""
        self._deadline = None

    def _on_timer(self) -> None:
        self._timer = None
        deadline = self._deadline
        if deadline is None or deadline == float("inf"):
            return
        if self.loop.time() < deadline:
            self._timer = self.loop.call_at(deadline, self._on_timer)
            return
        exchange = self._exchange
        if exchange is None:
            self._retire()
            self.close()
        elif self._blocked and not exchange.status:
            self._on_write_timeout(exchange)
        elif not exchange.status:
            exchange.fail(httpx.ReadTimeout(self._say(f"sent no answer within {self._waits_s[1]:g} s")))
        else:
            exchange.fail(httpx.ReadTimeout(self._say("fell silent in the middle of an answer")))

    def _on_write_timeout(self, exchange: FastExchange) -> None:
        """Wait on while the upstream takes bytes, however slowly."""
        transport = self._transport
        unsent = transport.get_write_buffer_size() if transport is not None else 0
        if unsent < self._unsent:
            self._unsent = unsent
            self.expect_within(self._waits_s[0])
        else:
            exchange.fail(httpx.WriteTimeout(self._say(f"took no bytes for {self._waits_s[0]:g} s")))

    # asyncio's callbacks.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to parse; called by the event loop."""
        self._transport = cast(asyncio.Transport, transport)
        self._parser = httptools.HttpResponseParser(self)

    def data_received(self, data: bytes) -> None:
        """Parse what came; called by the event loop."""
        exchange = self._exchange
        if exchange is None or self._parser is None or self.closed:
            self._retire()
            self.abort()  # bytes that nobody asked for
            return
        self._overhead += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as fault:
            self._keep = False
            if not exchange.ended:
                exchange.fail(self._malformed(fault))
                return
        if exchange.ended:
            self._settle()
        elif self._overhead > HEAD_LIMIT:
            exchange.fail(
                httpx.RemoteProtocolError(self._say(f"sent over {HEAD_LIMIT >> 10} KiB without a body byte"))
            )
        elif exchange.size > HIGH_WATER and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def eof_received(self) -> None:
        """Hand this connection out no more; the event loop closes it next."""
        self.closed = True
        if self._exchange is None or self._exchange.ended:
            self._retire()

    def connection_lost(self, exc: Exception | None) -> None:
        """End or fail the answer under way; called by the event loop, once."""
        self.closed = True
        self._transport = None
        self._parser = None  # it refers back to this object
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        exchange = self._exchange
        self._exchange = None
        if exchange is not None and not exchange.ended:
            if exc is None and self._to_eof:
                exchange.finish()
            else:
                exchange.lose(self._loss(exc, exchange), stale=self._overhead == 0)
        if self._owner is not None:
            self._owner.lost(self)

    def pause_writing(self) -> None:
        """Note that the upstream does not take bytes as fast as we have them."""
        self._blocked = True

    def resume_writing(self) -> None:
        """Begin to wait for the first byte: the request is out."""
        self._blocked = False
        if self._exchange is not None and not self._exchange.status and not self.closed:
            self.expect_within(self._waits_s[1])

    # httptools' callbacks. A fault raised here comes back out of feed_data as its context.

    def on_message_begin(self) -> None:
        """Refuse a second answer."""
        exchange = self._exchange
        if exchange is None or exchange.ended:
            raise httpx.RemoteProtocolError("more bytes than one answer")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Collect a header; trailers end in a list that nobody reads."""
        self._headers.append((name.lower(), value.strip()))

    def on_headers_complete(self) -> None:
        """Hand out the head of the final answer; decide how its body ends."""
        exchange, parser, headers = self._exchange, self._parser, self._headers
        if exchange is None or parser is None:
            return
        self._headers = []
        status = parser.get_status_code()
        self._keep = parser.should_keep_alive()
        self._check_head(headers, parser)
        if status < 200:
            if status in (100, 102, 103):
                self._interim = True
                return
            raise httpx.RemoteProtocolError(f"status {status} was not asked for")
        self._interim = False
        length = coding = encoding = b""
        for name, value in headers:
            if name in _FRAMING:
                if name == b"content-length":
                    length = value
                elif name == b"transfer-encoding":
                    if coding or value.lower() != b"chunked":
                        raise httpx.RemoteProtocolError("the only transfer-encoding understood is chunked")
                    coding = value
                else:
                    encoding = encoding + b"," + value.lower() if encoding else value.lower()
        self._to_eof = not (length or coding or self._bodiless or status in (204, 304))
        self._deadline = None
        exchange.begin(status, headers, encoding)
        if self._bodiless:
            exchange.finish()
            if (length and length != b"0") or coding:
                raise httpx.RemoteProtocolError("llhttp would now wait for a body that HEAD has not")

    def on_body(self, body: bytes) -> None:
        """Pass a piece of the body on."""
        self._overhead = 0
        exchange = self._exchange
        if exchange is not None and not exchange.ended:
            exchange.feed(body)

    def on_message_complete(self) -> None:
        """End the answer, unless it was an interim one."""
        exchange = self._exchange
        if self._interim or exchange is None or exchange.ended:
            return
        exchange.finish()

    # Ends.

    def _check_head(self, headers: list[tuple[bytes, bytes]], parser: httptools.HttpResponseParser) -> None:
        if len(headers) > HEADERS_LIMIT:
            raise httpx.RemoteProtocolError(f"the head has more than {HEADERS_LIMIT} headers")
        if self._overhead > HEAD_LIMIT and sum(len(n) + len(v) + 4 for n, v in headers) > HEAD_LIMIT:
            raise httpx.RemoteProtocolError(f"the head is larger than {HEAD_LIMIT >> 10} KiB")
        if not self._keep and parser.get_http_version() not in ("1.0", "1.1"):
            raise httpx.RemoteProtocolError("the answer is not HTTP/1.0 or HTTP/1.1")

    def _settle(self) -> None:
        """Give the connection back, or close it when anything about it is not in order."""
        transport = self._transport
        self._exchange = None
        unsent = self._blocked or (transport is not None and transport.get_write_buffer_size())
        if self._keep and not unsent and not self.closed and self._owner is not None:
            self._owner.release(self)
        elif unsent:
            self.abort()
        else:
            self.close()

    def _retire(self) -> None:
        if self._owner is not None:
            self._owner.retire(self)

    def _loss(self, exc: Exception | None, exchange: FastExchange) -> httpx.TransportError:
        if exc is not None:
            kind = httpx.WriteError if self._blocked and not exchange.status else httpx.ReadError
            return kind(self._say(f"broke the connection: {exc}"))
        if exchange.status:
            return httpx.RemoteProtocolError(self._say("closed the connection in the middle of an answer"))
        return httpx.RemoteProtocolError(self._say("closed the connection without an answer"))

    def _malformed(self, fault: Exception) -> httpx.RemoteProtocolError:
        cause = fault.__context__
        reason = cause if isinstance(cause, httpx.RemoteProtocolError) else fault
        return httpx.RemoteProtocolError(self._say(f"sent a malformed answer: {reason}"))

    def _say(self, what: str) -> str:
        name = self._owner.name if self._owner is not None else "the upstream"
        return f"{name} {what}"
