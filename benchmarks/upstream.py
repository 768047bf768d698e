"""A minimal fast OpenAI-compatible upstream for load tests: one process, uvloop, no framework.

A POST gets a fixed chat completion of about 0.9 kB, or with `"stream": true` a number of SSE events of about
300 bytes at a given rate, then usage and `[DONE]`. Requests need a Content-Length. Everything else gets a
list of models. It checks nothing: use `tests/upstream.py` for correctness.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
from functools import partial
from typing import cast

import uvloop

LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
STREAM = re.compile(rb'"stream"\s*:\s*true')
ANSWER_TEXT = "The quick brown fox jumps over the lazy dog and writes a short report about it. " * 8
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
FINISH = event({}, "stop")
USAGE_EVENT = _chunked(_sse({"id": "chatcmpl-bench", "model": "bench", "choices": [], "usage": USAGE}))
DONE = _chunked(b"data: [DONE]\n\n") + b"0\r\n\r\n"


class Connection(asyncio.Protocol):
    """Serve one keep-alive connection; `rate` is events per second of each stream (0: all at once)."""

    def __init__(self, events: int, rate: float) -> None:
        self._events = events
        self._rate = rate
        self._buffer = b""
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop a running stream."""
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        """Answer every whole request in the buffer."""
        buffer = self._buffer + data if self._buffer else data
        while (head_end := buffer.find(b"\r\n\r\n")) >= 0:
            found = LENGTH.search(buffer, 0, head_end)
            end = head_end + 4 + (int(found.group(1)) if found else 0)
            if len(buffer) < end:
                break
            self._answer(buffer[:end], head_end)
            buffer = buffer[end:]
        self._buffer = buffer

    def _answer(self, request: bytes, head_end: int) -> None:
        if not request.startswith(b"POST"):
            self._transport.write(MODELS)
        elif not STREAM.search(request, head_end):
            self._transport.write(ANSWER)
        elif self._rate <= 0:
            end = FINISH + USAGE_EVENT + DONE
            self._transport.write(STREAM_HEAD + FIRST + WORD * (self._events - 1) + end)
        else:
            self._transport.write(STREAM_HEAD + FIRST)
            self._tick(1, asyncio.get_running_loop().time())

    def _tick(self, sent: int, started_s: float) -> None:
        """Send the next event at its own due time, so that delays do not add up."""
        if sent > 1:
            self._transport.write(WORD)
        if sent >= self._events:
            self._transport.write(FINISH + USAGE_EVENT + DONE)
            return
        loop = asyncio.get_running_loop()
        due_s = started_s + sent / self._rate
        self._timer = loop.call_at(due_s, self._tick, sent + 1, started_s)


async def serve(port: int, events: int, rate: float) -> None:
    """Listen on loopback until cancelled; prints one line when ready."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(partial(Connection, events, rate), "127.0.0.1", port, backlog=1024)
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
    uvloop.run(serve(given.port, given.events, given.rate))


if __name__ == "__main__":
    main()
