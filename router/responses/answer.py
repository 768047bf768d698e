"""The answer of a chat completion, said as a response: its items, its usage, the whole of it.

What an upstream wrote is untrusted: a member of another type than chat's counts as absent.
Source: OpenAI API reference, the response object.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec
from msgspec import Raw, Struct

from router.rawjson import first_byte
from router.responses.decoding import NULL, Said
from router.responses.request import Asked
from router.responses.thoughts import Thinking
from router.responses.tools import Called

T = TypeVar("T")
_ID_CHARS = 32
# Where a client asked for nothing, this is what OpenAI's answers say.
_DEFAULTS: Said = {
    "instructions": None,
    "max_output_tokens": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "reasoning": {"effort": None, "summary": None},
    "temperature": None,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_p": None,
    "truncation": "disabled",
    "user": None,
}
_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}


class _Function(Struct):
    name: Raw = NULL
    arguments: Raw = NULL


class _Call(Struct):
    index: Raw = NULL
    id: Raw = NULL
    function: Raw = NULL
    extra_content: Raw = NULL


class Words(Struct):
    """What a message or a delta holds; all of it raw, since an upstream may write anything."""

    content: Raw = NULL
    reasoning_content: Raw = NULL
    reasoning: Raw = NULL
    reasoning_details: Raw = NULL
    refusal: Raw = NULL
    tool_calls: Raw = NULL
    function_call: Raw = NULL


class CallPiece(Struct, frozen=True):
    """A call, or a piece of one; `index` says which of several, `extra` is what only its writer reads."""

    index: int
    id: str
    name: str
    arguments: str
    extra: Raw = NULL


class _Choice(Struct):
    message: Words
    finish_reason: str | None = None


class _Completion(Struct):
    choices: list[_Choice]
    usage: Raw = NULL
    model: str | None = None
    id: Raw = NULL
    created: Raw = NULL


class _TextPart(Struct):
    type: str = ""
    text: str = ""


class _PromptDetails(Struct):
    cached_tokens: Raw = NULL
    cache_write_tokens: Raw = NULL


class _CompletionDetails(Struct):
    reasoning_tokens: Raw = NULL


class _Usage(Struct):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cost: Raw
    prompt_tokens_details: Raw = NULL
    completion_tokens_details: Raw = NULL
    prompt_cache_hit_tokens: Raw = NULL  # DeepSeek's name for cached tokens


_completion = msgspec.json.Decoder(_Completion)
_calls = msgspec.json.Decoder(list[_Call])
_function = msgspec.json.Decoder(_Function)
_string = msgspec.json.Decoder(str)
_text_parts = msgspec.json.Decoder(list[_TextPart])
_usage = msgspec.json.Decoder(_Usage)
_prompt_details = msgspec.json.Decoder(_PromptDetails)
_completion_details = msgspec.json.Decoder(_CompletionDetails)
_whole_number = msgspec.json.Decoder(int)


def _lenient(decoder: msgspec.json.Decoder[T], raw: Raw, otherwise: T) -> T:
    try:
        return decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return otherwise


def text_of(raw: Raw) -> str:
    """Return a text, or what text there is in a list of parts."""
    first = first_byte(raw)
    if first == b'"':
        return _lenient(_string, raw, "")
    if first != b"[":
        return ""
    return "".join(part.text for part in _lenient(_text_parts, raw, []) if part.type == "text")


def thoughts_of(words: Words, thinking: Thinking) -> str:
    """Return the reasoning that an upstream shows, by either of the names in use; `thinking` keeps it."""
    content, reasoning = text_of(words.reasoning_content), text_of(words.reasoning)
    thinking.take(content, reasoning, words.reasoning_details)
    return content or reasoning


def calls_of(words: Words) -> list[CallPiece]:
    """Return the calls, or pieces of them; the older `function_call` is the first one."""
    pieces = []
    calls = _lenient(_calls, words.tool_calls, []) if first_byte(words.tool_calls) == b"[" else []
    for place, call in enumerate(calls):
        index = _lenient(_whole_number, call.index, place)
        pieces.append(_piece(index, call.id, call.function, call.extra_content))
    if not pieces and first_byte(words.function_call) == b"{":
        pieces.append(_piece(0, NULL, words.function_call))
    return [piece for piece in pieces if piece.id or piece.name or piece.arguments or piece.extra != NULL]


def _piece(index: int, call_id: Raw, raw: Raw, extra: Raw = NULL) -> CallPiece:
    function = _lenient(_function, raw, _Function())
    arguments = function.arguments
    written = (
        bytes(arguments).decode("utf-8", "replace") if first_byte(arguments) == b"{" else text_of(arguments)
    )
    name = _lenient(_string, function.name, "")
    return CallPiece(index, _lenient(_string, call_id, ""), name, written, extra)


class Made(Struct, frozen=True):
    """What a response is made of: what was asked, and what the upstream says of its answer.

    The same answer of an upstream makes the same ids, so that one that was kept can be given again.
    """

    asked: Asked
    id: str
    created_at: int
    model: str

    @classmethod
    def of(cls, asked: Asked, said_id: Raw, created: Raw, model: str | None, now_s: float) -> Made:
        """Return it for the id, the time and the model that an upstream wrote."""
        digest = hashlib.sha256(b"\n".join((bytes(said_id), bytes(created), asked.salt))).hexdigest()
        at_s = _lenient(_whole_number, created, 0)
        return cls(asked, digest[:_ID_CHARS], at_s if at_s > 0 else int(now_s), model or "")

    def item_id(self, prefix: str, number: int) -> str:
        """Return the id of the item with this number."""
        return f"{prefix}_{self.id}{number:02x}"

    def response(
        self,
        status: str,
        output: Sequence[Said],
        *,
        usage: Said | None = None,
        error: Said | None = None,
        finish_reason: str | None = None,
    ) -> Said:
        """Return the response object."""
        reason = _INCOMPLETE.get(finish_reason or "") if status == "incomplete" else None
        return {
            "id": f"resp_{self.id}",
            "object": "response",
            "created_at": self.created_at,
            "status": status,
            "background": False,
            "error": error,
            "incomplete_details": None if reason is None else {"reason": reason},
            "model": self.model,
            "output": list(output),
            "previous_response_id": None,
            "store": False,
            **_DEFAULTS,
            **self.asked.repeated,
            "usage": usage,
        }

    def call(self, number: int, piece: CallPiece, *, status: str) -> Said:
        """Return the item of a call: of a function, or of a custom tool with its input."""
        called = self.asked.called.get(piece.name, Called(piece.name))
        call_id = piece.id or self.item_id("call", number)
        space = {} if called.namespace is None else {"namespace": called.namespace}
        named = {"call_id": call_id, "name": called.name, **space}
        if called.kind == "custom":
            said = input_of(piece.arguments)
            return {"type": "custom_tool_call", "id": self.item_id("ctc", number), **named, "input": said}
        item_id, text = self.item_id("fc", number), piece.arguments
        return {"type": "function_call", "id": item_id, "status": status, **named, "arguments": text}

    def message(self, number: int, parts: Sequence[Said], *, status: str) -> Said:
        """Return the item of a message."""
        item_id = self.item_id("msg", number)
        return {
            "type": "message",
            "id": item_id,
            "status": status,
            "role": "assistant",
            "content": list(parts),
        }

    def reasoning(self, number: int, text: str | None = None, *, packed: str | None = None) -> Said:
        """Return the item of shown thoughts, or of those that the client brings back."""
        summary = [] if text is None else [{"type": "summary_text", "text": text}]
        carried = {} if packed is None else {"encrypted_content": packed}
        return {"type": "reasoning", "id": self.item_id("rs", number), "summary": summary, **carried}


def input_of(arguments: str) -> str:
    """Return the input of a custom tool; a model that wrote it without its wrapping meant the same."""
    try:
        said = msgspec.json.decode(arguments)
    except (msgspec.DecodeError, RecursionError):
        return arguments
    found: Any = said.get("input") if isinstance(said, dict) else None
    return found if isinstance(found, str) else arguments


def output_text(text: str) -> Said:
    """Return a text part."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def refusal_part(text: str) -> Said:
    """Return a part that refuses."""
    return {"type": "refusal", "refusal": text}


def status_of(finish_reason: str | None) -> str:
    """Return a response's status: one that was cut short is incomplete."""
    return "incomplete" if finish_reason in _INCOMPLETE else "completed"


def usage_of(raw: Raw) -> Said | None:
    """Return the usage with the names of the Responses API, and the cost in USD; None where there is none."""
    try:
        usage = _usage.decode(raw)
    except msgspec.DecodeError:
        return None
    prompt = _lenient(_prompt_details, usage.prompt_tokens_details, _PromptDetails())
    completion = _lenient(_completion_details, usage.completion_tokens_details, _CompletionDetails())
    cached = _count(prompt.cached_tokens) or _count(usage.prompt_cache_hit_tokens)
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": cached,
            "cache_write_tokens": _count(prompt.cache_write_tokens),
        },
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": _count(completion.reasoning_tokens)},
        "total_tokens": usage.total_tokens,
        "cost": usage.cost,
    }


def _count(raw: Raw) -> int:
    return max(0, _lenient(_whole_number, raw, 0))


def whole_answer(body: bytes, asked: Asked, now_s: float, writer: str) -> bytes:
    """Say a chat completion as a response.

    `now_s` is the time for an upstream that tells none, `writer` the offer that answered, "provider/model".
    """
    completion = _completion.decode(body)
    choice = completion.choices[0]
    made = Made.of(asked, completion.id, completion.created, completion.model, now_s)
    words, status = choice.message, status_of(choice.finish_reason)
    output: list[Said] = []
    thinking = Thinking(writer)
    if thoughts := thoughts_of(words, thinking):
        output.append(made.reasoning(0, thoughts))
    text, refused = text_of(words.content), text_of(words.refusal)
    parts = [output_text(text)] if text else []
    if refused:
        parts.append(refusal_part(refused))
    calls = calls_of(words)
    if parts or not calls:
        output.append(made.message(len(output), parts or [output_text("")], status=status))
    for piece in calls:
        output.append(made.call(len(output), piece, status=status))
        thinking.take_call(output[-1]["call_id"], piece.extra)
    if packed := thinking.packed():
        output.append(made.reasoning(len(output), packed=packed))
    usage = usage_of(completion.usage)
    return msgspec.json.encode(made.response(status, output, usage=usage, finish_reason=choice.finish_reason))
