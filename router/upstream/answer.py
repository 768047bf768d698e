"""Read one whole answer, check that it is one, and put the usage and its cost into it."""

from __future__ import annotations

import httpx2 as httpx
import msgspec
from msgspec import Raw, Struct

from router.upstream.exchange import Exchange
from router.upstream.faults import AttemptFault, from_error_object, from_exception
from router.upstream.usage import Bill, Delivered, Meter

MAX_ANSWER_BYTES = 64 * 1024 * 1024
_NULL = Raw(b"null")
_EMPTY = (b"null", b'""', b"[]", b"{}")


class _Message(Struct):
    content: Raw = _NULL
    reasoning_content: Raw = _NULL
    reasoning: Raw = _NULL
    refusal: Raw = _NULL
    tool_calls: Raw = _NULL
    function_call: Raw = _NULL
    audio: Raw = _NULL

    @property
    def parts(self) -> tuple[Raw, ...]:
        """Return everything that tokens were spent on, `null` where there is none."""
        text = (self.content, self.reasoning_content, self.reasoning, self.refusal)
        return (*text, self.tool_calls, self.function_call, self.audio)


class _Choice(Struct):
    message: _Message
    finish_reason: str | None = None


class _Completion(Struct):
    choices: list[_Choice] | None = None
    usage: Raw = _NULL
    error: Raw = _NULL
    model: str | None = None


_completion = msgspec.json.Decoder(_Completion)
_members = msgspec.json.Decoder(dict[str, Raw])


class Answer(Struct, frozen=True):
    """A whole answer: the body for the client, what it costs, and the model that the upstream names."""

    body: bytes
    bill: Bill
    model: str | None


async def read_body(exchange: Exchange, limit_bytes: int = MAX_ANSWER_BYTES) -> bytes:
    """Read an answer to its end.

    Raises `AttemptFault` when it is cut, too slow or larger than the limit.
    """
    pieces, size = [], 0
    try:
        while piece := await exchange.read():
            pieces.append(piece)
            size += len(piece)
            if size > limit_bytes:
                raise AttemptFault("bad_answer", "sent an answer that is too large")
        return b"".join(pieces)
    except httpx.HTTPError as fault:
        raise from_exception(fault) from None
    finally:
        pieces.clear()  # a fault keeps its frames for a while, and what was read must not stay with them


def read_completion(body: bytes, meter: Meter) -> Answer:
    """Check a chat completion and bill it.

    Raises `AttemptFault` for anything that is not an answer, an `error` inside a 200 included.
    """
    completion = _decode(body)
    delivered = Delivered()
    for choice in completion.choices or ():
        for part in choice.message.parts:
            if part != _NULL:
                delivered.add(max(0, len(memoryview(part)) - 2))
    bill = meter.bill(None if completion.usage == _NULL else completion.usage, delivered)
    members = _members.decode(body)
    members["usage"] = bill.usage
    return Answer(msgspec.json.encode(members), bill, completion.model)


def _decode(body: bytes) -> _Completion:
    try:
        completion = _completion.decode(body)
        body.decode("utf-8")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise AttemptFault("bad_answer", "sent something that is not a chat completion") from None
    if bytes(completion.error) not in _EMPTY:
        raise from_error_object(completion.error)
    if not completion.choices:
        raise AttemptFault("bad_answer", "sent an answer without choices")
    return completion


def as_stream(body: bytes) -> bytes:
    """Rewrite a whole completion as the events of a stream, for an upstream that ignores `stream`."""
    completion = _decode(body)
    members = _members.decode(body)
    choices = msgspec.json.decode(members["choices"], type=list[dict[str, Raw]])
    members["object"] = Raw(b'"chat.completion.chunk"')
    usage = members.pop("usage", None)
    events = []
    for index, (choice, read) in enumerate(zip(choices, completion.choices or (), strict=True)):
        delta = msgspec.json.decode(choice["message"], type=dict[str, Raw])
        if read.message.tool_calls != _NULL:
            delta["tool_calls"] = _indexed(read.message.tool_calls)
        for part, reason in ((delta, None), ({}, read.finish_reason or "stop")):
            chunk = [{"index": index, "delta": part, "finish_reason": reason}]
            events.append({**members, "choices": Raw(msgspec.json.encode(chunk))})
    if usage is not None:
        events.append({**members, "choices": Raw(b"[]"), "usage": usage})
    return (
        b"".join(b"data: " + msgspec.json.encode(event) + b"\n\n" for event in events) + b"data: [DONE]\n\n"
    )


def _indexed(tool_calls: Raw) -> Raw:
    try:
        calls = msgspec.json.decode(tool_calls, type=list[dict[str, Raw]])
    except msgspec.ValidationError:
        raise AttemptFault("bad_answer", "sent tool calls that are not a list of calls") from None
    return Raw(msgspec.json.encode([{"index": i, **call} for i, call in enumerate(calls)]))
