"""The built-in demo provider: an OpenAI upstream inside the process, so that the first answer needs no key.

It never pretends to be a model: its text says what it is, repeats the prompt and says how to get a real one.
Everything around the text is real: SSE pacing, tool calls, JSON by schema, usage, finish reasons, errors.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx2 as httpx
import msgspec

from router.catalog.snapshot import Model
from router.upstream.demo_answer import (
    Answer,
    DemoRequest,
    Invalid,
    answer_to,
    count_tokens,
    image_count,
    parsed,
    words,
)
from router.upstream.demo_catalog import demo_models

__all__ = ["DemoTransport", "demo_models"]

MAX_STREAM_S = 2.9
TOKENS_PER_IMAGE = 85


class DemoTransport(httpx.AsyncBaseTransport):
    """Answer `POST .../chat/completions` and `GET .../models` in OpenAI's form, without any network.

    `pace_s` is the pause between the tokens of a stream (0 for none); a stream never takes longer than 3 s.
    `now_s` gives the Unix time for `created`.
    """

    def __init__(self, *, pace_s: float = 0.01, now_s: Callable[[], float] = time.time) -> None:
        self._pace_s = pace_s
        self._now_s = now_s
        self._numbers = itertools.count(1)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer one request; a wrong one gets OpenAI's error body with 400, 404 or 405."""
        path = request.url.path
        if path.endswith("/models") and request.method == "GET":
            return _json(200, {"object": "list", "data": [_listed(model) for model in demo_models()[1]]})
        if not path.endswith("/chat/completions"):
            return _error(404, "The demo provider serves POST /chat/completions and GET /models.", None)
        if request.method != "POST":
            return _error(405, "Use POST for /chat/completions.", None)
        try:
            body = parsed(await request.aread())
            answer = answer_to(body)
        except Invalid as invalid:
            return _error(400, str(invalid), invalid.param)
        return await self._respond(body, answer)

    async def _respond(self, body: DemoRequest, answer: Answer) -> httpx.Response:
        created = int(self._now_s())
        number = f"chatcmpl-demo-{created:x}-{next(self._numbers):06x}"
        base = {"id": number, "created": created, "model": body.model}
        usage = _usage(body, answer)
        if body.stream:
            chunks = list(_chunks(body, answer, base, usage))
            stream = _Stream(chunks, min(self._pace_s, MAX_STREAM_S / (len(chunks) + 1)))
            return httpx.Response(
                200, headers={"content-type": "text/event-stream; charset=utf-8"}, stream=stream
            )
        await asyncio.sleep(2 * self._pace_s)
        choices = [_choice(answer, index) for index in range(body.n or 1)]
        return _json(200, base | {"object": "chat.completion", "choices": choices, "usage": usage})


class _Stream(httpx.AsyncByteStream):
    def __init__(self, chunks: list[bytes], pace_s: float) -> None:
        self._chunks = chunks
        self._pace_s = pace_s

    async def __aiter__(self) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        due_s = loop.time() + self._pace_s
        for chunk in self._chunks:
            due_s += self._pace_s
            await asyncio.sleep(max(0.0, due_s - loop.time()))
            yield chunk


def _listed(model: Model) -> dict[str, Any]:
    return {"id": model.id, "object": "model", "created": 0, "owned_by": "demo"}


def _usage(body: DemoRequest, answer: Answer) -> dict[str, int]:
    prompt = 3 + sum(4 + count_tokens(words(message)) for message in body.messages)
    prompt += TOKENS_PER_IMAGE * image_count(body)
    if body.tools:
        prompt += count_tokens(msgspec.json.encode(body.tools).decode())
    completion = answer.tokens * (body.n or 1)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


def _call(index: int, choice: int, name: str, arguments: str) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"id": f"call_demo_{choice}_{index}", "type": "function", "function": function}


def _choice(answer: Answer, index: int) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": "".join(answer.pieces)}
    if answer.calls:
        calls = enumerate(answer.calls)
        message["tool_calls"] = [_call(i, index, name, "".join(pieces)) for i, (name, pieces) in calls]
        message["content"] = None
    return {"index": index, "message": message, "logprobs": None, "finish_reason": answer.finish_reason}


def _deltas(answer: Answer, choice: int) -> Iterator[dict[str, Any]]:
    yield {"role": "assistant", "content": None if answer.calls else ""}
    for piece in answer.pieces:
        yield {"content": piece}
    for index, (name, pieces) in enumerate(answer.calls):
        yield {"tool_calls": [{"index": index, **_call(index, choice, name, "")}]}
        for piece in pieces:
            yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}


def _chunks(
    body: DemoRequest, answer: Answer, base: dict[str, Any], usage: dict[str, int]
) -> Iterator[bytes]:
    """Yield the SSE events; the choices of `n` run side by side, as they do at OpenAI."""
    base = base | {"object": "chat.completion.chunk"}
    indexes = range(body.n or 1)
    for deltas in zip(*(_deltas(answer, index) for index in indexes), strict=True):
        for index, delta in enumerate(deltas):
            yield _event(base | {"choices": [{"index": index, "delta": delta, "finish_reason": None}]})
    for index in indexes:
        end = {"index": index, "delta": {}, "finish_reason": answer.finish_reason}
        yield _event(base | {"choices": [end]})
    if body.stream_options is not None and body.stream_options.include_usage:
        yield _event(base | {"choices": [], "usage": usage})
    yield b"data: [DONE]\n\n"


def _event(chunk: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(chunk) + b"\n\n"


def _json(status: int, body: dict[str, Any]) -> httpx.Response:
    return httpx.Response(
        status, headers={"content-type": "application/json"}, content=msgspec.json.encode(body)
    )


def _error(status: int, message: str, param: str | None) -> httpx.Response:
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": None}
    return _json(status, {"error": error})
