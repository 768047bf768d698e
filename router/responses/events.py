"""The stream of a chat completion, said as the typed events of a response.

    response.created, response.in_progress
    for each item: response.output_item.added, what fills it, response.output_item.done
    response.completed, or .incomplete, or .failed with the error of a stream that broke

Thoughts end where anything else begins, a message where a call begins; calls end with the stream, since
pieces of several may come in turn, and behind them stands what their writer wants back (`thoughts`). A custom
tool's input comes whole, when its JSON is whole. There is no `[DONE]`; comments pass.
Source: OpenAI API reference, streaming events of `POST /v1/responses`.
"""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import Raw, Struct

from router.rawjson import first_byte
from router.responses.answer import (
    CallPiece,
    Made,
    Words,
    calls_of,
    output_text,
    refusal_part,
    status_of,
    text_of,
    thoughts_of,
    usage_of,
)
from router.responses.decoding import NULL, Said
from router.responses.request import Asked
from router.responses.thoughts import Thinking
from router.upstream.sse import EventReader

_DONE = b"[DONE]"
_NO_ERROR = Raw(b"{}")  # some upstreams write an empty one, of whatever type; the relay's own has a message
_FAILED = "server_error"  # of the codes that OpenAI's SDKs know; `name` has ours


class _Choice(Struct):
    delta: Words | None = None
    finish_reason: str | None = None


class _Fault(Struct):
    message: str = ""
    name: str = ""


class _Chunk(Struct):
    choices: list[_Choice] | None = None
    usage: Raw = NULL
    error: Raw = NULL
    model: str | None = None
    id: Raw = NULL
    created: Raw = NULL


_chunk = msgspec.json.Decoder(_Chunk)
_fault = msgspec.json.Decoder(_Fault)


class ResponseEvents:
    """Say one stream as events: `feed` it what the relay sends.

    `now_s` is the time for an upstream that tells none, `writer` the offer that answers, "provider/model".
    """

    def __init__(self, asked: Asked, now_s: float, writer: str) -> None:
        self._asked = asked
        self._now_s = now_s
        self._thinking = Thinking(writer)
        self._reader = EventReader()
        self._made: Made | None = None
        self._out: list[bytes] = []
        self._number = 0
        self._output: list[Said] = []
        self._thoughts: _Thoughts | None = None
        self._message: _Message | None = None
        self._calls: dict[int, _Call] = {}
        self._usage: Raw = NULL
        self._finish: str | None = None
        self._fault: _Fault | None = None

    def feed(self, data: bytes) -> bytes:
        """Return the events for these bytes of a chat stream."""
        for event in self._reader.feed(data):
            if event.data is None:
                self._out.append(event.raw)
            elif event.data == _DONE:
                self._end()
            else:
                self._take(_chunk.decode(event.data))
        said = b"".join(self._out)
        self._out.clear()
        return said

    def emit(self, kind: str, **members: object) -> None:
        """Write one event."""
        data = msgspec.json.encode({"type": kind, "sequence_number": self._number, **members})
        self._number += 1
        self._out.append(b"event: %b\ndata: %b\n\n" % (kind.encode(), data))

    def _take(self, chunk: _Chunk) -> None:
        made = self._begun(chunk)
        if chunk.usage != NULL:
            self._usage = chunk.usage
        if first_byte(chunk.error) == b"{" and chunk.error != _NO_ERROR:
            self._fault = _fault.decode(chunk.error)
        for choice in (chunk.choices or ())[:1]:  # one answer was asked for
            if choice.delta is not None:
                self._take_words(made, choice.delta)
            self._finish = choice.finish_reason or self._finish

    def _begun(self, chunk: _Chunk) -> Made:
        if self._made is None:
            self._made = Made.of(self._asked, chunk.id, chunk.created, chunk.model, self._now_s)
            response = self._made.response("in_progress", ())
            self.emit("response.created", response=response)
            self.emit("response.in_progress", response=response)
        return self._made

    def _take_words(self, made: Made, words: Words) -> None:
        if thoughts := thoughts_of(words, self._thinking):
            if self._thoughts is None:
                self._end_message("completed")
                self._thoughts = _Thoughts(self, made, self.place())
            self._thoughts.add(thoughts)
        for kind, text in (("output_text", text_of(words.content)), ("refusal", text_of(words.refusal))):
            if text:
                self._end_thoughts()
                if self._message is None:
                    self._message = _Message(self, made, self.place())
                self._message.add("output_text" if kind == "output_text" else "refusal", text)
        for piece in calls_of(words):
            self._end_thoughts()
            self._end_message("completed")
            call = self._calls.get(piece.index)
            if call is None:
                call = self._calls[piece.index] = _Call(self, made)
            call.add(piece)

    def place(self) -> int:
        """Return the place of a new item; what stands there until it ends is nothing."""
        self._output.append({})
        return len(self._output) - 1

    def done(self, place: int, item: Said) -> None:
        """End an item."""
        self._output[place] = item
        self.emit("response.output_item.done", output_index=place, item=item)

    def _end_thoughts(self) -> None:
        if self._thoughts is not None:
            self._thoughts.end()
            self._thoughts = None

    def _end_message(self, status: str) -> None:
        if self._message is not None:
            self._message.end(status)
            self._message = None

    def _end(self) -> None:
        made = self._made or self._begun(_Chunk())
        status = "failed" if self._fault is not None else status_of(self._finish)
        of_items = "completed" if status == "completed" else "incomplete"
        self._end_thoughts()
        self._end_message(of_items)
        for call in self._calls.values():
            self._thinking.take_call(call.end(of_items), call.extra)
        self._calls.clear()
        packed = self._thinking.packed() if self._fault is None else None
        if packed is not None:
            place = self.place()
            self.emit("response.output_item.added", output_index=place, item=made.reasoning(place))
            self.done(place, made.reasoning(place, packed=packed))
        error: Said | None = None
        if self._fault is not None:
            error = {"code": _FAILED, "message": self._fault.message, "name": self._fault.name}
        usage = usage_of(self._usage)
        response = made.response(status, self._output, usage=usage, error=error, finish_reason=self._finish)
        self.emit(f"response.{status}", response=response)


class _Thoughts:
    """A reasoning item that is being written."""

    def __init__(self, events: ResponseEvents, made: Made, place: int) -> None:
        self._events, self._made, self._place = events, made, place
        self._pieces: list[str] = []
        item = made.reasoning(place, None)
        self._where = {"item_id": item["id"], "output_index": place, "summary_index": 0}
        events.emit("response.output_item.added", output_index=place, item=item)
        empty = {"type": "summary_text", "text": ""}
        events.emit("response.reasoning_summary_part.added", **self._where, part=empty)

    def add(self, text: str) -> None:
        """Write on."""
        self._pieces.append(text)
        self._events.emit("response.reasoning_summary_text.delta", **self._where, delta=text)

    def end(self) -> None:
        """End the item."""
        item = self._made.reasoning(self._place, "".join(self._pieces))
        (part,) = item["summary"]
        self._events.emit("response.reasoning_summary_text.done", **self._where, text=part["text"])
        self._events.emit("response.reasoning_summary_part.done", **self._where, part=part)
        self._events.done(self._place, item)


class _Message:
    """A message that is being written: its parts, of which the last one grows."""

    def __init__(self, events: ResponseEvents, made: Made, place: int) -> None:
        self._events, self._made, self._place = events, made, place
        self._parts: list[Said] = []
        self._kind: Literal["output_text", "refusal"] | None = None
        self._pieces: list[str] = []
        item = made.message(place, (), status="in_progress")
        self._at = {"item_id": item["id"], "output_index": place}
        events.emit("response.output_item.added", output_index=place, item=item)

    def add(self, kind: Literal["output_text", "refusal"], text: str) -> None:
        """Write on, in a new part where the kind is another one."""
        if kind != self._kind:
            self._end_part()
            self._kind = kind
            empty = output_text("") if kind == "output_text" else refusal_part("")
            self._events.emit("response.content_part.added", **self._where(), part=empty)
        self._pieces.append(text)
        more: Said = {"logprobs": []} if kind == "output_text" else {}
        self._events.emit(f"response.{kind}.delta", **self._where(), delta=text, **more)

    def _where(self) -> Said:
        return {**self._at, "content_index": len(self._parts)}

    def _end_part(self) -> None:
        if self._kind is None:
            return
        text = "".join(self._pieces)
        part = refusal_part(text)
        more: Said = {"refusal": text}
        if self._kind == "output_text":
            part, more = output_text(text), {"text": text, "logprobs": []}
        self._events.emit(f"response.{self._kind}.done", **self._where(), **more)
        self._events.emit("response.content_part.done", **self._where(), part=part)
        self._parts.append(part)
        self._pieces.clear()
        self._kind = None

    def end(self, status: str) -> None:
        """End the item."""
        self._end_part()
        self._events.done(self._place, self._made.message(self._place, self._parts, status=status))


class _Call:
    """A call that is being written; its item is added once its name is known, by then or at the end."""

    def __init__(self, events: ResponseEvents, made: Made) -> None:
        self._events, self._made = events, made
        self._place = -1  # until it is told: items are added in the order of their places
        self._id = self._name = ""
        self._pieces: list[str] = []
        self._told = 0  # of the pieces, those that went out
        self._where: Said | None = None
        self._custom = False
        self.extra = NULL

    def add(self, piece: CallPiece) -> None:
        """Write on."""
        if piece.extra != NULL:
            self.extra = piece.extra
        self._id = self._id or piece.id
        self._name = self._name or piece.name
        if piece.arguments:
            self._pieces.append(piece.arguments)
        if self._name:
            self._tell()

    def _tell(self) -> None:
        if self._where is None:
            self._place = self._events.place()
            item = self._item("", "in_progress")
            self._custom = item["type"] == "custom_tool_call"
            self._where = {"item_id": item["id"], "output_index": self._place}
            self._events.emit("response.output_item.added", output_index=self._place, item=item)
        if not self._custom:
            for piece in self._pieces[self._told :]:
                self._events.emit("response.function_call_arguments.delta", **self._where, delta=piece)
            self._told = len(self._pieces)

    def _item(self, arguments: str, status: str) -> Said:
        piece = CallPiece(0, self._id, self._name, arguments)
        return self._made.call(self._place, piece, status=status)

    def end(self, status: str) -> str:
        """End the item; return the id of its call."""
        self._tell()
        item = self._item("".join(self._pieces), status)
        where = {"item_id": item["id"], "output_index": self._place}
        if self._custom:
            self._events.emit("response.custom_tool_call_input.delta", **where, delta=item["input"])
            self._events.emit("response.custom_tool_call_input.done", **where, input=item["input"])
        else:
            named = {"name": item["name"], "arguments": item["arguments"]}
            self._events.emit("response.function_call_arguments.done", **where, **named)
        self._events.done(self._place, item)
        call_id: str = item["call_id"]
        return call_id
