"""What the scripted upstream can do with one request: answers, streams, and every fault we know.

A behaviour is a coroutine function of a `Turn`. Import all names from `tests.upstream`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from tests.upstream_bodies import (
    COUNTED,
    chunk,
    completion,
    dumps,
    last_user_text,
    minimal,
    usage_field,
    wanted_calls,
    words,
)

if TYPE_CHECKING:
    from tests.upstream import Behaviour, Received, Turn

Pairs = Sequence[tuple[str, str]]
UsagePlace = Literal["asked", "last_chunk", "finish_chunk", "early", "every", "twice", "never"]
JSON_TYPE = ("content-type", "application/json")
SSE_TYPE = ("content-type", "text/event-stream; charset=utf-8")
GREETING = "Hello from the scripted upstream."


class Gate:
    """Hold a stream until the test opens the gate, from whatever thread."""

    def __init__(self) -> None:
        self._opened = False
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    def open(self) -> None:
        """Let everybody through, now and later."""
        self._opened = True
        for loop, event in self._waiting:
            loop.call_soon_threadsafe(event.set)

    async def wait(self) -> None:
        """Wait until the gate is open."""
        event = asyncio.Event()
        self._waiting.append((asyncio.get_running_loop(), event))
        if not self._opened:
            await event.wait()


def answer(
    text: str = GREETING,
    *,
    usage: Any = COUNTED,
    finish: str = "stop",
    tool_calls: list[dict[str, Any]] | None = None,
    extra: dict[str, Any] | None = None,
    headers: Pairs = (),
) -> Behaviour:
    """Answer whole; `usage` may be anything (MISSING leaves it out), `extra` is merged into the body."""

    async def behave(turn: Turn) -> None:
        body = completion(turn.request, text, tool_calls, finish, usage) | (extra or {})
        await turn.reply(200, [JSON_TYPE, *headers], dumps(body))

    return behave


@dataclass(frozen=True)
class Stream:
    """Answer with SSE chunks.

    `parts`: a text (one delta a word), or a list whose items are a text (a content delta), a dict (a whole
    chunk when it has `choices`, `usage` or `error`, else a delta) or bytes (sent as they are). Event 0 is the
    role delta, then one event a part, the finish chunk, the usage chunk, and each `[DONE]`; `cut_after`,
    `hang_after` and `gate_after` count all of these. `usage` says where usage is sent ("asked": in a last
    chunk if the request asked for it), `counts` what it holds. `split` writes pieces of that many bytes, each
    in an HTTP chunk of its own.
    """

    parts: str | Sequence[str | dict[str, Any] | bytes] = GREETING
    usage: UsagePlace = "asked"
    counts: Any = COUNTED
    finish: bool | str = True
    done: bool | int = True
    role: bool = True
    delay_s: float = 0.0
    crlf: bool = False
    comments: str | None = None
    multi_line: bool = False
    bom: bool = False
    split: int | None = None
    cut_after: int | None = None
    reset: bool = False
    hang_after: int | None = None
    gate: Gate | None = None
    gate_after: int = 1
    framing: Literal["chunked", "length", "close"] = "chunked"
    headers: Pairs = (SSE_TYPE,)

    async def __call__(self, turn: Turn) -> None:
        events = self.events(turn.request)
        await turn.write(_stream_head(self.framing, self.headers, sum(map(len, events))))
        for index, event in enumerate(events):
            if await self._interrupted(turn, index):
                return
            if event.rstrip().endswith(b"[DONE]"):
                turn.ended = True
            for piece in _pieces(event, self.split):
                await turn.write(_framed(piece) if self.framing == "chunked" else piece)
            turn.request.events_sent += 1
            await asyncio.sleep(self.delay_s)
        if not await self._interrupted(turn, len(events)):
            turn.ended = True
            turn.keep = self.framing != "close"
            await turn.write(b"0\r\n\r\n" if self.framing == "chunked" else b"")

    async def _interrupted(self, turn: Turn, index: int) -> bool:
        if self.gate is not None and index == self.gate_after:
            await self.gate.wait()
        if index == self.hang_after:
            await asyncio.Event().wait()
        if index != self.cut_after:
            return False
        turn.ended = True
        if self.reset:
            turn.reset()
        return True

    def events(self, request: Received) -> list[bytes]:
        """Return the bytes of every event in order."""
        parts = words(self.parts) if isinstance(self.parts, str) else list(self.parts)
        usage = usage_field(request, "".join(p for p in parts if isinstance(p, str)), self.counts)
        chunks = [p if isinstance(p, bytes) else chunk(request, p) for p in parts]
        if self.role:
            chunks.insert(0, chunk(request, {"role": "assistant", "content": ""}))
        if self.finish:
            chunks.append(chunk(request, {}, "stop" if self.finish is True else self.finish))
        self._place_usage(chunks, request, usage)
        encoded = [c if isinstance(c, bytes) else self._event(c) for c in chunks]
        encoded += [self._event("[DONE]")] * int(self.done)
        if self.bom and encoded:
            encoded[0] = b"\xef\xbb\xbf" + encoded[0]
        return encoded

    def _place_usage(
        self, chunks: list[dict[str, Any] | bytes], request: Received, usage: dict[str, Any]
    ) -> None:
        place = self.usage
        if place == "asked":
            options = request.json.get("stream_options") if isinstance(request.json, dict) else None
            place = "last_chunk" if (options or {}).get("include_usage") else "never"
        carriers = [c for c in chunks if isinstance(c, dict)]
        chosen = {
            "early": carriers[:1],
            "every": carriers,
            "finish_chunk": carriers[-1:],
            "twice": carriers[-1:],
        }
        for carrier in chosen.get(place, []):
            carrier.update(usage)
        if place in ("last_chunk", "twice"):
            chunks.append(chunk(request, {"choices": [], **usage}))

    def _event(self, payload: dict[str, Any] | str) -> bytes:
        text = payload if isinstance(payload, str) else dumps(payload, self.multi_line).decode()
        lines = [f"data: {line}" for line in text.split("\n")]
        if self.comments is not None:
            lines[:0] = [f": {self.comments}", ""]
        return ("\r\n" if self.crlf else "\n").join([*lines, "", ""]).encode()


stream = Stream


def status(code: int, body: Any = None, headers: Pairs = ()) -> Behaviour:
    """Answer with a status; the body is bytes, text, JSON data, or by default an OpenAI error object."""
    default = {"error": {"message": f"scripted {code}", "type": "scripted", "param": None, "code": None}}
    content = body if isinstance(body, bytes) else body.encode() if isinstance(body, str) else None

    async def behave(turn: Turn) -> None:
        data = dumps(default if body is None else body) if content is None else content
        await turn.reply(code, [JSON_TYPE, *headers], data)

    return behave


def html(code: int = 200) -> Behaviour:
    """Answer with a web page, as proxies and captive portals do."""
    page = b"<!doctype html><html><body><h1>Scripted page</h1></body></html>"

    async def behave(turn: Turn) -> None:
        await turn.reply(code, [("content-type", "text/html; charset=utf-8")], page)

    return behave


def raw(
    data: bytes | Callable[[], Iterable[bytes]], *, then: Literal["close", "keep", "hang"] = "close"
) -> Behaviour:
    """Send exactly these bytes, head included; a function gives them piece by piece, maybe without end."""

    async def behave(turn: Turn) -> None:
        for piece in [data] if isinstance(data, bytes) else data():
            await turn.write(piece)
        if then == "hang":
            await asyncio.Event().wait()
        turn.ended = True
        turn.keep = then == "keep"

    return behave


def reset() -> Behaviour:
    """Read the request, then reset the connection."""

    async def behave(turn: Turn) -> None:
        turn.reset()

    return behave


def hang() -> Behaviour:
    """Read the request and never answer; ends when the client leaves."""

    async def behave(turn: Turn) -> None:
        await asyncio.Event().wait()

    return behave


def slow(first_byte_s: float, then: Behaviour | None = None) -> Behaviour:
    """Wait before the first byte, then behave."""

    async def behave(turn: Turn) -> None:
        await asyncio.sleep(first_byte_s)
        await (then or echo)(turn)

    return behave


def informational(then: Behaviour | None = None, code: int = 103) -> Behaviour:
    """Send a 1xx head before the real answer."""

    async def behave(turn: Turn) -> None:
        await turn.write(f"HTTP/1.1 {code} Early\r\nlink: </x>; rel=preload\r\n\r\n".encode())
        await (then or echo)(turn)

    return behave


def redirect(url: str, code: int = 307) -> Behaviour:
    """Send the client elsewhere."""
    return status(code, b"", [("location", url)])


def empty() -> Behaviour:
    """Answer 200 with no body."""
    return status(200, b"")


def cut_body(missing: int = 20) -> Behaviour:
    """Announce the whole answer, close before its last bytes."""

    async def behave(turn: Turn) -> None:
        body = dumps(completion(turn.request, GREETING, None, "stop", COUNTED))
        await turn.reply(200, [JSON_TYPE], body[:-missing], length=len(body))

    return behave


def wrong_length(short_by: int = 20) -> Behaviour:
    """Announce fewer bytes than are sent."""

    async def behave(turn: Turn) -> None:
        body = dumps(completion(turn.request, GREETING, None, "stop", COUNTED))
        await turn.reply(200, [JSON_TYPE], body, length=len(body) - short_by)

    return behave


def error_in_200(message: str = "scripted error inside a 200") -> Behaviour:
    """Answer 200 with an error object."""
    return status(200, {"error": {"message": message, "type": "server_error", "code": 500}})


def error_event_after(n: int, message: str = "scripted error inside a stream") -> Stream:
    """Stream the role and n content deltas, then an error event and `[DONE]`."""
    error = {"error": {"message": message, "type": "server_error", "code": 500}}
    return Stream([*(f"word{i} " for i in range(n)), error], finish=False, usage="never")


async def echo(turn: Turn) -> None:
    """Answer correctly: a tool call when asked for one, JSON when asked for it, else the last user text."""
    body = turn.request.json
    if not isinstance(body, dict) or not isinstance(body.get("messages"), list):
        await status(400)(turn)
        return
    text = last_user_text(body["messages"])
    calls = wanted_calls(body, text)
    form = body.get("response_format") or {}
    if form.get("type") == "json_object":
        text = json.dumps({"echo": text})
    elif form.get("type") == "json_schema":
        text = json.dumps(minimal(form["json_schema"].get("schema", {})))
    finish = "tool_calls" if calls else "stop"
    if body.get("stream"):
        parts: list[str | dict[str, Any] | bytes] = list(words(text))
        if calls:
            parts = [{"tool_calls": [{"index": i, **call} for i, call in enumerate(calls)]}]
        await Stream(parts, finish=finish)(turn)
    else:
        await answer(text, finish=finish, tool_calls=calls or None)(turn)


def _pieces(data: bytes, size: int | None) -> list[bytes]:
    return [data] if size is None else [data[i : i + size] for i in range(0, len(data), size)]


def _framed(piece: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(piece), piece) if piece else b""


def _stream_head(framing: str, headers: Pairs, length: int) -> bytes:
    ending = {
        "chunked": "transfer-encoding: chunked",
        "length": f"content-length: {length}",
        "close": "connection: close",
    }
    lines = ["HTTP/1.1 200 Scripted", *(f"{name}: {value}" for name, value in headers), ending[framing]]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
