"""Relay one streamed answer: bytes pass as they came, but for the events that carry usage or the end.

By the contract a stream ends in one of three ways, by what the client asked for:
`last_chunk` (`include_usage: true`): the finish chunk, a chunk with `choices: []` and `usage`, `[DONE]`;
`finish_chunk` (no `stream_options`): the finish chunk, which carries `usage` itself, `[DONE]`;
`none` (`include_usage: false`): the finish chunk, `[DONE]`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import Literal

import httpx2 as httpx
import msgspec
from msgspec import Raw, Struct

from router.errors import ErrorCodeStyle, RouterError, UpstreamBroke, UpstreamTimeout
from router.ledger.journal import Tariff
from router.upstream.exchange import Exchange
from router.upstream.faults import AttemptFault, from_error_object, from_exception
from router.upstream.sse import DONE, Event, EventReader, EventTooLargeError, event_bytes
from router.upstream.usage import Bill, Delivered, Meter

UsageWish = Literal["last_chunk", "finish_chunk", "none"]
_EMPTY = (b"null", b'""', b"[]", b"{}")
_NULL = Raw(b"null")
_NO_CHOICES = Raw(b"[]")
_LAST_READ_S = 0.05


class _Delta(Struct):
    content: Raw = _NULL
    reasoning_content: Raw = _NULL
    reasoning: Raw = _NULL
    refusal: Raw = _NULL
    tool_calls: Raw = _NULL
    function_call: Raw = _NULL
    audio: Raw = _NULL


class _Choice(Struct):
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Chunk(Struct):
    choices: list[_Choice] | None = None
    usage: Raw = _NULL
    error: Raw = _NULL
    model: str | None = None
    id: str | None = None
    created: Raw = _NULL


_chunk = msgspec.json.Decoder(_Chunk)
_members = msgspec.json.Decoder(dict[str, Raw])


def usage_wish(include_usage: bool | None) -> UsageWish:
    """Return how the client wants its usage."""
    if include_usage is None:
        return "finish_chunk"
    return "last_chunk" if include_usage else "none"


class StreamRelay:
    """Relay one answer: `begin`, then `next` until it returns b"". `bill` is set at the end."""

    def __init__(
        self, exchange: Exchange, meter: Meter, wish: UsageWish, error_style: ErrorCodeStyle = "status"
    ) -> None:
        self._exchange = exchange
        self._meter = meter
        self._wish = wish
        self._error_style = error_style
        self._reader = EventReader()
        self._events: deque[Event] = deque()
        self._whole = False
        self._ready: list[bytes] = []
        self._held: bytes | None = None  # the latest finish chunk's data, kept back until the end is known
        self._usage: Raw | None = None
        self._usage_chunk: bytes | None = None
        self._first: _Chunk | None = None
        self._ended = False
        self.delivered = Delivered()
        self.begun = False
        self.model: str | None = None
        self.fault: RouterError | None = None
        self.broke: AttemptFault | None = None
        self.bill: Bill | None = None

    async def begin(self) -> None:
        """Read up to the first content or tool delta, so that until then another offer may take over.

        Raises `AttemptFault` when the stream breaks, ends or reports an error before it.
        """
        while not self.begun and not self._ended:
            fault = await self._step()
            if fault is not None:
                raise fault
        self.begun = True

    async def next(self) -> bytes:
        """Return the bytes to send next, b"" after the last ones. Never raises an upstream's fault."""
        if self._events and not self._ready:
            # What came in one read with the first content waits until that content is on its way.
            await asyncio.sleep(0)
        while not self._ready and not self._ended:
            fault = await self._step()
            if fault is not None:
                self._fail(fault)
        piece = b"".join(self._ready)
        self._ready.clear()
        return piece

    def bill_so_far(self) -> Bill:
        """Bill what was delivered; for a client that left before the end."""
        return self.bill or self._bill()

    def tariff(self) -> Tariff:
        """Return what the answer is worth as it grows, until `bill` says it."""
        return self._meter.tariff()

    async def aclose(self) -> None:
        """End the call; a connection whose answer was read whole goes back to its pool."""
        if self._ended and self.fault is None:
            # What follows [DONE] is the end of the body, and as a rule it is here already.
            with contextlib.suppress(httpx.HTTPError, TimeoutError):
                async with asyncio.timeout(_LAST_READ_S):
                    await self._exchange.read()
        await self._exchange.aclose()

    async def _step(self) -> AttemptFault | None:
        """Take the events that are here, else read once; stops at the first content.

        Returns the fault that ends the stream. What is behind the first content counts as after it, however
        the upstream's bytes were cut into reads.
        """
        if not self._events and not self._whole:
            fault = await self._read()
            if fault is not None or self._ended:
                return fault
        while self._events:
            begun = self.begun
            fault = self._take(self._events.popleft())
            if fault is not None or self._ended or self.begun != begun:
                return fault
        if self._whole and not self._finish_if_whole():
            return AttemptFault("cut", "ended the stream before the answer was finished")
        return None

    async def _read(self) -> AttemptFault | None:
        """Read once and queue the events in it; `_whole` says that nothing more will come."""
        try:
            data = await self._exchange.read()
            self._events.extend(self._reader.feed(data) if data else self._reader.finish())
        except httpx.HTTPError as broken:
            return None if self._finish_if_whole() else from_exception(broken)
        except EventTooLargeError:
            return AttemptFault("bad_answer", "sent an event without an end")
        self._whole = not data
        return None

    def _take(self, event: Event) -> AttemptFault | None:
        if event.data is None:
            if self.begun:
                self._ready.append(event.raw)
            return None
        event = _as_utf8(event)
        data = event.data or b""
        if data.strip() == b"[DONE]":
            return None if self._finish_if_whole() else AttemptFault("cut", "sent no finish_reason")
        try:
            chunk = _chunk.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return AttemptFault("bad_answer", "sent an event that is not a chat completion chunk")
        if bytes(chunk.error) not in _EMPTY:
            return from_error_object(chunk.error)
        self._take_chunk(event, data, chunk)
        return None

    def _take_chunk(self, event: Event, data: bytes, chunk: _Chunk) -> None:
        if self._first is None:
            self._first, self.model = chunk, chunk.model
        choices = chunk.choices or []
        for choice in choices:
            self._count(choice.delta)
        has_usage = chunk.usage != _NULL
        if has_usage and bytes(chunk.usage) not in _EMPTY:
            self._usage = chunk.usage
        if any(choice.finish_reason for choice in choices):
            if self._held is not None:
                self._ready.append(event_bytes(_without_usage(self._held)))
            self._held = data
        elif not choices:
            if has_usage:
                self._usage_chunk = data
            elif self._wish == "last_chunk":
                self._ready.append(event.raw)
        else:
            self._ready.append(event_bytes(_without_usage(data)) if has_usage else event.raw)

    def _count(self, delta: _Delta | None) -> None:
        if delta is None:
            return
        for text in (delta.content, delta.reasoning_content, delta.reasoning, delta.refusal):
            if (size := len(memoryview(text))) > 2 and text != _NULL:
                self.delivered.add(size - 2)
                self.begun = True
        for call in (delta.tool_calls, delta.function_call, delta.audio):
            if bytes(call) not in _EMPTY:
                self.delivered.add(len(memoryview(call)) // 2)
                self.begun = True

    def _bill(self) -> Bill:
        return self._meter.bill(self._usage, self.delivered, whole=self._held is not None)

    def _finish_if_whole(self) -> bool:
        """Write the end of a stream whose finish chunk has come; False when it has not."""
        if self._held is None:
            return False
        self.bill = self._bill()
        held = _without_usage(self._held)
        if self._wish == "finish_chunk":
            self._ready.append(event_bytes(_with_usage(self._held, self.bill.usage)))
        else:
            self._ready.append(event_bytes(held))
        if self._wish == "last_chunk":
            base = _with_member(self._usage_chunk or self._bare_chunk(), "choices", _NO_CHOICES)
            self._ready.append(event_bytes(_with_usage(base, self.bill.usage)))
        self._ready.append(DONE)
        self._ended = True
        return True

    def _bare_chunk(self) -> bytes:
        first = self._first or _Chunk()
        return msgspec.json.encode(
            {
                "id": first.id,
                "object": "chat.completion.chunk",
                "created": first.created,
                "model": first.model,
                "choices": [],
            }
        )

    def _fail(self, fault: AttemptFault) -> None:
        """End a stream that broke after it had begun: what was delivered is billed, and the client told."""
        self.bill = self._bill()
        self.broke = fault
        text = f"The upstream {fault.detail}; the answer is incomplete."
        self.fault = UpstreamTimeout(text) if fault.kind == "timeout" else UpstreamBroke(text)
        members = _members.decode(self._bare_chunk())
        members["choices"] = Raw(b'[{"index":0,"delta":{},"finish_reason":"error"}]')
        members["error"] = Raw(msgspec.json.encode(self.fault.payload(self._error_style)))
        if self._wish != "none":
            members["usage"] = self.bill.usage
        self._ready.append(event_bytes(msgspec.json.encode(members)))
        self._ready.append(DONE)
        self._ended = True


def _without_usage(data: bytes) -> bytes:
    members = _members.decode(data)
    if members.pop("usage", None) is None:
        return data
    return msgspec.json.encode(members)


def _with_usage(data: bytes, usage: Raw) -> bytes:
    return _with_member(data, "usage", usage)


def _with_member(data: bytes, name: str, value: Raw) -> bytes:
    members = _members.decode(data)
    members[name] = value
    return msgspec.json.encode(members)


def _as_utf8(event: Event) -> Event:
    """Mend an event that is not UTF-8, as every reader of event streams does (WHATWG HTML, section 9.2)."""
    data = event.data or b""
    if data.isascii():
        return event
    mended = data.decode("utf-8", "replace").encode()
    return event if mended == data else Event(event_bytes(mended), mended)
