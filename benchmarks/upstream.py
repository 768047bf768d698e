"""A minimal fast OpenAI-compatible upstream for load tests: one process, uvloop, no framework.

A POST gets a fixed chat completion of about 0.9 kB, or with `"stream": true` a number of SSE events of about
300 bytes at a given rate, then usage and `[DONE]`; the first event with content goes out with the head.
`PUT /profile?events=200&rate=100&answer=chat` changes that for the requests that follow; `answer=flood`
streams 400 MB as fast as it is read, `answer=bomb` answers 300 kB of gzip that inflate to 300 MB. Requests
need a Content-Length. A GET gets a list of models. It checks nothing: `tests/upstream.py` is for correctness.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import re
import urllib.parse
from dataclasses import dataclass
from functools import cache, partial
from typing import Literal, cast, get_args

import uvloop

LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
STREAM = re.compile(rb'"stream"\s*:\s*true')
ANSWER_TEXT = "The quick brown fox jumps over the lazy dog and writes a short report about it. " * 8
FLOOD_BYTES = 400_000_000
BOMB_BYTES = 300_000_000
EDGE_BYTES = 4_096  # of a long request only this much at each end is looked at
COUNTED_BYTES = 65_536  # a body with more than this still to come is counted, not collected
AnswerKind = Literal["chat", "flood", "bomb"]
USAGE = {"prompt_tokens": 210, "completion_tokens": 130, "total_tokens": 340}


def answer() -> bytes:
    """Return the whole HTTP response of a plain call."""
    message = {"role": "assistant", "content": ANSWER_TEXT.strip()}
    body = _dumps(
        {
            "id": "chatcmpl-bench",
            "object": "chat.completion",
            "created": 1_700_000_000,
            "model": "bench",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": USAGE,
        }
    )
    return _response(body)


def event(delta: dict[str, str], finish: str | None = None, pad_bytes: int = 300) -> bytes:
    """Return one SSE event as an HTTP chunk, padded to about `pad_bytes`."""
    chunk = {
        "id": "chatcmpl-bench",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": "bench",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
    }
    missing = max(0, pad_bytes - len(_sse(chunk)) - len(',"system_fingerprint":""'))
    return _chunked(_sse(chunk | {"system_fingerprint": "f" * missing}))


def _dumps(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _sse(value: object) -> bytes:
    return b"data: " + _dumps(value) + b"\n\n"


def _chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _response(body: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
    return head + body


ANSWER = answer()
MODELS = _response(_dumps({"object": "list", "data": [{"id": "bench", "object": "model"}]}))
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
FIRST = event({"role": "assistant", "content": ""})
WORD = event({"content": "word "})
FLOOD_PIECE = WORD * 64
FINISH = event({}, "stop")
USAGE_EVENT = _chunked(_sse({"id": "chatcmpl-bench", "model": "bench", "choices": [], "usage": USAGE}))
DONE = _chunked(b"data: [DONE]\n\n") + b"0\r\n\r\n"


@dataclass(slots=True)
class Profile:
    """Say how the next requests are answered; `rate` is events per second of each stream (0: all at once)."""

    events: int = 50
    rate: float = 50.0
    answer: AnswerKind = "chat"

    def change(self, query: str) -> None:
        """Take over what a query string names; raises ValueError for a wrong value."""
        given = dict(urllib.parse.parse_qsl(query))
        self.events = int(given.get("events", self.events))
        self.rate = float(given.get("rate", self.rate))
        for kind in get_args(AnswerKind):
            if given.get("answer") == kind:
                self.answer = kind


@cache
def bomb() -> bytes:
    """Return the whole HTTP response with a body that inflates a thousandfold."""
    body = gzip.compress(b" " * BOMB_BYTES, compresslevel=9)
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-encoding: gzip\r\n"
    return head + b"content-length: %d\r\n\r\n" % len(body) + body


class Connection(asyncio.Protocol):
    """Serve one keep-alive connection."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._buffer = b""
        self._begun, self._tail, self._left = b"", b"", 0  # a long request that is only counted
        self._timer: asyncio.TimerHandle | None = None
        self._flood = 0  # pieces of a flood that are still to be written
        self._full = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop a running stream."""
        self._flood = 0
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        """Answer every whole request in the buffer."""
        if self._left:
            data = self._count(data)
        buffer = self._buffer + data if self._buffer else data
        while (head_end := buffer.find(b"\r\n\r\n")) >= 0:
            found = LENGTH.search(buffer, 0, head_end)
            end = head_end + 4 + (int(found.group(1)) if found else 0)
            if (missing := end - len(buffer)) > 0:
                if missing > COUNTED_BYTES:
                    self._begun, self._left, buffer = buffer[:EDGE_BYTES], missing, b""
                break
            self._answer(buffer[:end])
            buffer = buffer[end:]
        self._buffer = buffer

    def _count(self, data: bytes) -> bytes:
        """Take the rest of a long request, of which nothing but the ends is kept; returns what follows it."""
        rest = data[: self._left]
        self._left -= len(rest)
        self._tail = (self._tail + rest)[-EDGE_BYTES:]
        if not self._left:
            self._answer(self._begun + self._tail)
            self._tail = b""
        return data[len(rest) :]

    def _answer(self, request: bytes) -> None:
        if request.startswith(b"PUT"):
            self._profile.change(request.split(b" ", 2)[1].decode().partition("?")[2])
            self._transport.write(MODELS)
        elif not request.startswith(b"POST"):
            self._transport.write(MODELS)
        elif self._profile.answer == "bomb":
            self._transport.write(bomb())
        elif not _asks_for_stream(request):
            self._transport.write(ANSWER)
        else:
            self._stream()

    def _stream(self) -> None:
        profile = self._profile
        if profile.answer == "flood":
            self._flood = FLOOD_BYTES // len(FLOOD_PIECE) + 1
            self._transport.write(STREAM_HEAD + FIRST)
            self.resume_writing()
        elif profile.rate <= 0:
            end = FINISH + USAGE_EVENT + DONE
            self._transport.write(STREAM_HEAD + FIRST + WORD * profile.events + end)
        else:
            self._transport.write(STREAM_HEAD + FIRST + WORD)
            started_s = asyncio.get_running_loop().time()
            self._pace(1, profile.events, profile.rate, started_s)

    def _pace(self, sent: int, events: int, rate: float, started_s: float) -> None:
        """Wait for the next event's own due time, so that delays do not add up."""
        due_s = started_s + sent / rate
        loop = asyncio.get_running_loop()
        self._timer = loop.call_at(due_s, self._tick, sent, events, rate, started_s)

    def _tick(self, sent: int, events: int, rate: float, started_s: float) -> None:
        if sent >= events:
            self._transport.write(FINISH + USAGE_EVENT + DONE)
            return
        self._transport.write(WORD)
        self._pace(sent + 1, events, rate, started_s)

    def pause_writing(self) -> None:
        """Let a flood wait; the transport calls this while its buffer is full."""
        self._full = True

    def resume_writing(self) -> None:
        """Write a flood on until the buffer is full."""
        self._full = False
        while self._flood and not self._full:
            self._flood -= 1
            self._transport.write(FLOOD_PIECE if self._flood else FINISH + USAGE_EVENT + DONE)


def _asks_for_stream(request: bytes) -> bool:
    if len(request) > 2 * EDGE_BYTES:  # the field stands before or after the messages
        request = request[:EDGE_BYTES] + request[-EDGE_BYTES:]
    return STREAM.search(request) is not None


async def serve(port: int, profile: Profile) -> None:
    """Listen on loopback until cancelled; prints one line when ready."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(partial(Connection, profile), "127.0.0.1", port, backlog=2048)
    print(f"listening on 127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    async with server:
        await server.serve_forever()


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.upstream", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one and prints it")
    parser.add_argument("--events", type=int, default=50, help="content events of a stream")
    parser.add_argument("--rate", type=float, default=50.0, help="events per second of a stream; 0: at once")
    given = parser.parse_args()
    uvloop.run(serve(given.port, Profile(given.events, given.rate)))


if __name__ == "__main__":
    main()
