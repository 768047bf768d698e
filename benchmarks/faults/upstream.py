"""An upstream in the driver's own loop that does what each prompt says, and books what it sends."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import cast

import msgspec

from benchmarks.faults.book import MODELS, PROMPT_TOKENS, Entry, Plan

WORD = "abc "
HEAD_END = b"\r\n\r\n"


class _Message(msgspec.Struct):
    content: str


class _Body(msgspec.Struct):
    model: str
    messages: list[_Message]


_body = msgspec.json.Decoder(_Body)
_plan = msgspec.json.Decoder(Plan)
ID = b"\r\nx-request-id: "
LENGTH = b"\r\ncontent-length: "


def dumps(value: object) -> bytes:
    """Write JSON as servers do, without blanks."""
    return json.dumps(value, separators=(",", ":")).encode()


def usage_of(plan: Plan, tokens: int) -> dict[str, int] | None:
    """Return what the upstream reports, if it does."""
    if not plan.usage:
        return None
    tokens = tokens if plan.reported is None else plan.reported
    total = PROMPT_TOKENS + tokens
    return {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": tokens, "total_tokens": total}


class Upstream:
    """Serve plans; `gate` lets those go on that wait for it.

    `at` is told of the moments of each answer: "called", "first" and "middle" token, "last" byte.
    """

    def __init__(self, book: dict[str, Entry], at: Callable[[str], object] = lambda _: None) -> None:
        self.book = book
        self.at = at
        self.gate = asyncio.Event()
        self.port = 0
        self.running: dict[str, str] = {}  # the models of requests that are being answered
        self.peaks: Counter[str] = Counter()
        self.tasks: set[asyncio.Task[None]] = set()

    def note_peaks(self) -> None:
        """Note how many requests the first model has at most, in all ("") and of each load, by its name."""
        first = [name.partition("-")[0] for name, model in self.running.items() if model == MODELS[0]]
        self.peaks |= Counter(first) | Counter({"": len(first)})

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[int]:
        """Listen on loopback; gives the port."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Connection(self), "127.0.0.1", 0, backlog=1_024)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self.port
        finally:
            server.close()
            for task in list(self.tasks):
                task.cancel()
            await asyncio.gather(*self.tasks, return_exceptions=True)


class _Connection(asyncio.Protocol):
    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._buffer = b""
        self._lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True

    @property
    def _gone(self) -> bool:
        return self._lost or self._transport.is_closing()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (head_end := self._buffer.find(HEAD_END)) >= 0:
            head = self._buffer[:head_end].lower() + b"\r\n"
            end = head_end + 4 + _number(head, LENGTH)
            if len(self._buffer) < end:
                return
            body, self._buffer = self._buffer[head_end + 4 : end], self._buffer[end:]
            task = asyncio.get_running_loop().create_task(self._answer(_text(head, ID), body))
            self._upstream.tasks.add(task)
            task.add_done_callback(self._upstream.tasks.discard)

    async def _answer(self, request_id: str, body: bytes) -> None:
        asked = _body.decode(body)
        entry, plan = self._upstream.book[request_id], _plan.decode(asked.messages[-1].content)
        entry.calls += 1
        self._upstream.running[request_id] = asked.model
        self._upstream.note_peaks()
        self._upstream.at("called")
        try:
            await asyncio.sleep(plan.first_ms / 1e3)
            if not self._gone:
                await self._say(entry, plan, asked)
        finally:
            self._upstream.running.pop(request_id, None)

    async def _say(self, entry: Entry, plan: Plan, asked: _Body) -> None:
        if plan.refuse and asked.model == MODELS[0]:
            self._whole(500, {"error": {"message": "as planned"}})
        elif plan.stream:
            await self._stream(entry, plan, asked.model)
        else:
            entry.sent = plan.tokens
            message = {"role": "assistant", "content": WORD * plan.tokens}
            answer = {
                "id": "c",
                "object": "chat.completion",
                "created": 1,
                "model": asked.model,
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            }
            usage = usage_of(plan, plan.tokens)
            self._whole(200, answer | ({"usage": usage} if usage else {}))
            self._upstream.at("last")

    def _whole(self, status: int, answer: object) -> None:
        body = dumps(answer)
        head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        self._transport.write(head.encode() + body)

    async def _stream(self, entry: Entry, plan: Plan, model: str) -> None:
        write = self._transport.write
        write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        write(_event(model, {"role": "assistant", "content": ""}))
        for number in range(plan.tokens):
            if self._gone:
                return
            if number == plan.stop:
                self._transport.close()
                return
            if plan.gate and number == plan.tokens // 2:
                await self._upstream.gate.wait()
            entry.sent = number + 1
            write(_event(model, {"content": WORD}))
            if number in (0, plan.tokens // 2):
                self._upstream.at("middle" if number else "first")
            if plan.gap_ms:
                await asyncio.sleep(plan.gap_ms / 1e3)
        if self._gone:
            return
        usage = usage_of(plan, plan.tokens)
        end = _event(model, {}, "stop")
        if usage is not None:
            end += _chunk({"id": "c", "model": model, "choices": [], "usage": usage})
        write(end + _framed(b"data: [DONE]\n\n") + b"0\r\n\r\n")
        self._upstream.at("last")


def _number(head: bytes, name: bytes) -> int:
    return int(_text(head, name) or 0)


def _text(head: bytes, name: bytes) -> str:
    at = head.find(name)
    return "" if at < 0 else head[at + len(name) : head.index(b"\r\n", at + 2)].decode().strip()


def _event(model: str, delta: dict[str, str], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return _chunk(
        {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": model, "choices": [choice]}
    )


def _chunk(value: object) -> bytes:
    return _framed(b"data: " + dumps(value) + b"\n\n")


def _framed(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)
