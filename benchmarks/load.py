"""A load generator for chat completions: raw HTTP/1.1 keep-alive over uvloop, closed loop.

Each of C connections sends the next request when the last answer has ended. Latency is from the write of the
request to the last byte of its answer; a closed loop hides queueing, so read it as capacity, and read latency
at one connection. A stream counts only when `[DONE]` arrived and usage was passed on; its first token is the
first event with content. Errors of the warm-up count too; a connection that the server closes is an error and
is not opened again. The measured time is prolonged, at most fourfold, until every connection had an answer.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import re
import time
import urllib.parse
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, cast

import httptools
import uvloop

from benchmarks.prompts import PROMPTS, long_prompt

SYSTEM_TEXT = (
    "You are a helpful assistant. Answer briefly, in plain words; say so when you are not sure. " * 8
)
CONTENT = re.compile(rb'"content":\s*"[^"]')
CONTENT_CARRY_BYTES = 32
ERROR_BYTES = 300
STREAM_STAGGER = 0.5  # streams begin over this share of the warm-up, so that their events are not in step
DISTINCT_LARGE = 4
LARGE_BYTES = 1_000_000

NUMBER = b"0000000000"  # where each request's own number goes


@dataclass(frozen=True, slots=True)
class Plan:
    """What to send where: `seconds` are measured after `warmup_s`.

    `prompt_bytes` replaces the prompts of 1 kB, `once` sends one request a connection and waits for the end.
    """

    url: str
    connections: int = 64
    seconds: float = 5.0
    warmup_s: float = 1.0
    model: str = "auto"
    authorization: str | None = None
    stream: bool = False
    prompt_bytes: int = 0
    once: bool = False

    def requests(self) -> list[bytes]:
        """Return whole HTTP requests with prompts that differ, about 1 kB each unless asked otherwise."""
        parts = urllib.parse.urlsplit(self.url)
        fields = [f"POST {parts.path} HTTP/1.1", f"Host: {parts.netloc}", "Content-Type: application/json"]
        if self.authorization is not None:
            fields.append(f"Authorization: {self.authorization}")
        return [self._request(fields, prompt) for prompt in self._prompts()]

    def _prompts(self) -> tuple[str, ...]:
        if not self.prompt_bytes:
            return PROMPTS
        count = DISTINCT_LARGE if self.prompt_bytes >= LARGE_BYTES else len(PROMPTS)
        return tuple(long_prompt(number, self.prompt_bytes) for number in range(count))

    def numbered(self, numbers: Iterator[int]) -> Iterator[bytes]:
        """Yield requests for ever, each with a number of its own in its prompt: no cache may answer twice."""
        halves = [request.split(NUMBER, 1) for request in self.requests()]
        for number in numbers:
            before, after = halves[number % len(halves)]
            yield b"%b%010d%b" % (before, number, after)

    def _request(self, fields: list[str], prompt: str) -> bytes:
        numbered = f"{prompt} [{NUMBER.decode()}]"
        messages = [{"role": "system", "content": SYSTEM_TEXT}, {"role": "user", "content": numbered}]
        body: dict[str, Any] = {"model": self.model, "messages": messages, "max_tokens": 256}
        if self.stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        data = json.dumps(body, separators=(",", ":")).encode()  # as SDKs write it
        head = "\r\n".join([*fields, f"Content-Length: {len(data)}", "", ""])
        return head.encode() + data


@dataclass(slots=True)
class Tally:
    """Collect what happened; `measuring` is true between warm-up and end."""

    measuring: bool = False
    stopping: bool = False
    answers: int = 0  # all, warm-up included: the denominator of CPU per request
    latencies_s: list[float] = field(default_factory=list)
    first_token_s: list[float] = field(default_factory=list)
    events: int = 0  # that arrived while it was measured
    events_of_all: int = 0  # warm-up included: the denominator of CPU per event
    errors: Counter[str] = field(default_factory=Counter)
    first_error: str = ""


class Client(asyncio.Protocol):
    """One connection in a closed loop."""

    def __init__(self, plan: Plan, tally: Tally, requests: Iterator[bytes]) -> None:
        self._plan = plan
        self._tally = tally
        self._requests = requests
        self._first_s: float | None = None
        self._whole = self._usage = self._leaving = False
        self._carry = b""
        self.closed = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first request."""
        self._transport = cast(asyncio.Transport, transport)
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        """Count a connection that the server closed on us."""
        if not self._tally.stopping and not self._leaving:
            self._tally.errors["connection lost"] += 1
        if not self.closed.done():
            self.closed.set_result(None)

    def data_received(self, data: bytes) -> None:
        """Feed the parser."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._tally.errors["not HTTP"] += 1
            self._transport.abort()

    def on_body(self, body: bytes) -> None:
        """Count events, note the first token and the stream's proper end (called by the parser)."""
        if not self._tally.first_error and self._parser.get_status_code() != 200:
            self._tally.first_error = body[:ERROR_BYTES].decode(errors="replace")
        if not self._plan.stream:
            return
        text = self._carry + body
        events = text.count(b"data: ") - self._carry.count(b"data: ")
        self._tally.events_of_all += events
        if self._tally.measuring:
            self._tally.events += events
        if self._first_s is None and CONTENT.search(text):
            self._first_s = time.perf_counter()
        self._whole = self._whole or b"[DONE]" in text
        self._usage = self._usage or b'"usage":{' in text or b'"usage": {' in text
        self._carry = text[-CONTENT_CARRY_BYTES:]

    def on_message_complete(self) -> None:
        """Note the answer and send the next request (called by the parser)."""
        now_s = time.perf_counter()
        tally = self._tally
        tally.answers += 1
        status = self._parser.get_status_code()
        if status != 200:
            tally.errors[str(status)] += 1
        elif self._plan.stream and not (self._whole and self._usage):
            tally.errors["stream without [DONE]" if not self._whole else "stream without usage"] += 1
        elif tally.measuring:
            tally.latencies_s.append(now_s - self._sent_s)
            if self._first_s is not None:
                tally.first_token_s.append(self._first_s - self._sent_s)
        if tally.stopping or self._plan.once or not self._parser.should_keep_alive():
            self._leaving = tally.stopping or self._plan.once
            self._transport.close()
        else:
            self._send()

    def _send(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._first_s, self._carry = None, b""
        self._whole = self._usage = False
        self._sent_s = time.perf_counter()
        self._transport.write(next(self._requests))


async def run(plan: Plan, *more: tuple[str, str | None]) -> dict[str, Any]:
    """Apply the load and return the figures; raises OSError when nobody listens.

    `more` are addresses with an authorization each: connections take them and the plan's own in turn.
    """
    senders = [(plan.url, plan.authorization), *more]
    plans = [replace(plan, url=url, authorization=authorization) for url, authorization in senders]
    numbers = itertools.count()
    served = [(_address(each.url), each.numbered(numbers)) for each in plans]
    tally = Tally(measuring=plan.once)
    clients = []
    loop, started_s, cpu_s = asyncio.get_running_loop(), time.perf_counter(), time.process_time()
    for number in range(plan.connections):
        address, requests = served[number % len(served)]
        if plan.stream:
            due_s = started_s + plan.warmup_s * STREAM_STAGGER * number / plan.connections
            await asyncio.sleep(due_s - time.perf_counter())
        _, client = await loop.create_connection(partial(Client, plan, tally, requests), *address)
        clients.append(client)
    if plan.once:
        await asyncio.gather(*(client.closed for client in clients))
    else:
        await asyncio.sleep(started_s + plan.warmup_s - time.perf_counter())
        tally.measuring, started_s = True, time.perf_counter()
        await _measured(plan, tally)
    tally.measuring, elapsed_s = False, time.perf_counter() - started_s
    errors = Counter(tally.errors)
    tally.stopping = True
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(10):
            await asyncio.gather(*(client.closed for client in clients))
    return _report(plan, tally, errors, elapsed_s) | {"load_cpu_s": round(time.process_time() - cpu_s, 3)}


def _address(url: str) -> tuple[str, int]:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme != "http" or parts.hostname is None:
        raise ValueError(f"{url!r} is not an http:// address; the load generator speaks no TLS")
    return parts.hostname, parts.port or 80


async def _measured(plan: Plan, tally: Tally) -> None:
    await asyncio.sleep(plan.seconds)
    step_s = plan.seconds / 10
    for _ in range(30):
        if len(tally.latencies_s) >= plan.connections or tally.errors:
            return
        await asyncio.sleep(step_s)


async def run_beside(plan: Plan, beside_bytes: int) -> dict[str, Any]:
    """Apply the load while one more connection sends prompts of `beside_bytes`; that one is "beside"."""
    other = replace(plan, connections=1, prompt_bytes=beside_bytes)
    report, beside = await asyncio.gather(run(plan), run(other))
    return report | {"beside": beside}


def _report(plan: Plan, tally: Tally, errors: Counter[str], elapsed_s: float) -> dict[str, Any]:
    report: dict[str, Any] = {
        "connections": plan.connections,
        "seconds": round(elapsed_s, 3),
        "requests": len(tally.latencies_s),
        "errors": sum(errors.values()),
        "error_kinds": dict(errors),
        "first_error": tally.first_error,
        "rps": round(len(tally.latencies_s) / elapsed_s, 1),
        "latency_ms": _percentiles_ms(tally.latencies_s),
        "latency_cdf_ms": _cdf_ms(tally.latencies_s),
        "answers_with_warmup": tally.answers,
    }
    if plan.stream:
        report["events"] = tally.events
        report["events_per_s"] = round(tally.events / elapsed_s, 1)
        report["events_with_warmup"] = tally.events_of_all
        report["first_token_ms"] = _percentiles_ms(tally.first_token_s)
    return report


def _percentiles_ms(values_s: list[float]) -> dict[str, float]:
    if not values_s:
        return {}
    ordered = sorted(values_s)
    at = {"p50": 0.50, "p90": 0.90, "p99": 0.99, "max": 1.0}
    last = len(ordered) - 1
    return {name: round(ordered[round(share * last)] * 1000, 4) for name, share in at.items()}


def _cdf_ms(values_s: list[float]) -> list[float]:
    """Return the latencies at 0, 0.5, ... 100 % of the answers."""
    ordered = sorted(values_s)
    return [round(ordered[round((len(ordered) - 1) * k / 200)] * 1000, 4) for k in range(201) if ordered]


def main() -> None:
    """Run from the command line; prints one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__)
    parser.add_argument("url", help="for example http://127.0.0.1:8402/v1/chat/completions")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--warmup", type=float, default=1.0, metavar="SECONDS")
    parser.add_argument("--model", default="auto")
    parser.add_argument("--authorization", help='the header\'s value, for example "Bearer sk-..."')
    parser.add_argument("--stream", action="store_true", help="ask for SSE and count events")
    parser.add_argument("--prompt-bytes", type=int, default=0, help="0: prompts that make a body of 1 kB")
    parser.add_argument("--once", action="store_true", help="one request a connection, then the report")
    parser.add_argument("--beside-bytes", type=int, default=0, help="one more connection with such prompts")
    given = parser.parse_args()
    plan = Plan(
        url=given.url,
        connections=given.connections,
        seconds=given.seconds,
        warmup_s=given.warmup,
        model=given.model,
        authorization=given.authorization,
        stream=given.stream,
        prompt_bytes=given.prompt_bytes,
        once=given.once,
    )
    print(json.dumps(uvloop.run(run_beside(plan, given.beside_bytes) if given.beside_bytes else run(plan))))


if __name__ == "__main__":
    main()
