"""One request on a connection of its own, and what of its answer arrived."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re

from benchmarks.faults.book import MODELS, Entry, Plan, Route
from benchmarks.faults.upstream import WORD, dumps

STATUS = re.compile(rb"HTTP/1\.1 (\d+)")
DELTAS = {name: b'"%b":"%b"' % (name.encode(), WORD.encode()) for name in ("content", "delta")}
PATHS: dict[Route, str] = {"chat": "/v1/chat/completions", "responses": "/v1/responses"}
LIMIT_S = 60.0
MAX_TOKENS = 64


def request(entry: Entry, authorization: str, key: str | None = None) -> bytes:
    """Return the bytes of a request, with an idempotency key if there is one: its plan is its prompt."""
    more = "" if key is None else f"idempotency-key: {key}\r\n"
    return request_with(entry, f"authorization: {authorization}\r\n{more}")


def request_with(entry: Entry, headers: str) -> bytes:
    """Return the bytes of a request with some headers, each with its line's end."""
    body = dumps(asked(entry.plan))
    head = (
        f"POST {PATHS[entry.plan.route]} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        f"{headers}x-request-id: {entry.id}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def asked(plan: Plan) -> dict[str, object]:
    """Return the body of the request that a plan answers."""
    text = json.dumps({name: value for name, value in _fields(plan).items() if value is not None})
    body: dict[str, object] = {"model": MODELS[0], "models": [MODELS[1]], "stream": plan.stream}
    if plan.route == "responses":
        return body | {"input": text, "max_output_tokens": MAX_TOKENS}
    return body | {"messages": [{"role": "user", "content": text}], "max_tokens": MAX_TOKENS}


def _fields(plan: object) -> dict[str, object]:
    return {name: getattr(plan, name) for name in plan.__struct_fields__}  # type: ignore[attr-defined]


async def ask(entry: Entry, port: int, authorization: str, key: str | None = None) -> None:
    """Send a request and book how it ends; never raises what the network does."""
    await exchange(entry, port, request(entry, authorization, key))


async def exchange(entry: Entry, port: int, sent: bytes) -> None:
    """Send the bytes of a request and book how it ends; never raises what the network does."""
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(LIMIT_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**22)
            writer.write(sent)
            await _read(entry, reader)
    except TimeoutError:
        entry.outcome, entry.detail = "failed", f"no end within {LIMIT_S} s"
    except (OSError, asyncio.IncompleteReadError, ValueError) as broken:
        entry.outcome, entry.detail = ("cut" if entry.tokens else "failed"), repr(broken)
    finally:
        if writer is not None:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def _read(entry: Entry, reader: asyncio.StreamReader) -> None:
    plan = entry.plan
    if plan.leave == 0:
        await asyncio.sleep(plan.first_ms * 2 / 1e3)  # before, at or after the first token
        entry.outcome = "left"
        return
    head = await reader.readuntil(b"\r\n\r\n")
    found = STATUS.match(head)
    entry.status, entry.head = int(found[1]) if found else None, head
    entry.replayed = b"\r\nidempotent-replayed: true\r\n" in head.lower()
    if entry.status != 200 or not plan.stream:
        await _read_whole(entry, reader, head)
    else:
        await _read_stream(entry, reader)


async def _read_whole(entry: Entry, reader: asyncio.StreamReader, head: bytes) -> None:
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    body = await reader.readexactly(length)
    answer = json.loads(body)
    if entry.status != 200:
        entry.outcome, entry.detail = "refused", answer["error"]["name"]
        return
    entry.body += body
    if entry.plan.route == "responses":
        text = answer["output"][0]["content"][0]["text"]
    else:
        text = answer["choices"][0]["message"]["content"]
    entry.tokens = len(text) // len(WORD)
    entry.usage = answer["usage"]
    entry.outcome = "whole"


async def _read_stream(entry: Entry, reader: asyncio.StreamReader) -> None:
    """Read chunk by chunk (RFC 9112, 7.1), so that a connection that broke is told from an end."""
    plan, carry = entry.plan, b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        piece = (await reader.readexactly(size + 2))[:-2]
        entry.body += piece
        *events, carry = (carry + piece).split(b"\n\n")
        for event in events:
            if plan.route == "responses":
                _take_response(entry, event)
            else:
                _take_chunk(entry, event)
        if plan.leave is not None and entry.tokens >= plan.leave:
            entry.outcome = "left"
            return


def _take_chunk(entry: Entry, event: bytes) -> None:
    if DELTAS["content"] in event:
        entry.tokens += 1
    elif b'"usage"' in event:
        told = json.loads(event[6:])
        entry.usage = told["usage"]
        entry.outcome = "cut" if "error" in told else entry.outcome
    elif event == b"data: [DONE]" and entry.outcome == "open":
        entry.outcome = "whole"


def _take_response(entry: Entry, event: bytes) -> None:
    """Take an event of a response: its last one says how it ended, with the whole of it."""
    kind, _, data = event.partition(b"\ndata: ")
    if kind == b"event: response.output_text.delta" and DELTAS["delta"] in data:
        entry.tokens += 1
    elif kind in (b"event: response.completed", b"event: response.failed"):
        told = json.loads(data)["response"]
        entry.usage = told["usage"]
        text = "".join(part["text"] for item in told["output"] for part in item["content"])
        if text != WORD * entry.tokens:
            entry.detail = "the response is not the sum of its deltas"
        entry.outcome = "whole" if kind.endswith(b"completed") and not entry.detail else "cut"
