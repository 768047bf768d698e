"""Read a request of OpenAI's Responses API and say it as a chat completion.

From there on it is one: the same walk decides, holds, sends and settles. The router keeps no response, so
what refers to one that a server keeps is refused. What has no meaning for a chat completion (`store`,
`include`, `truncation`, `metadata`, cache keys, ...) is not sent on; the answer repeats it.
Source: OpenAI API reference, `POST /v1/responses`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated

import msgspec
from msgspec import Meta, Raw, Struct, field, structs

from router.errors import BadRequest
from router.responses.decoding import NULL, Said, decoded, is_null, refuse
from router.responses.items import read_input
from router.responses.tools import Called, read_tools
from router.wire import (
    MAX_TOOLS,
    PositiveTokens,
    RequestBody,
    check_utf8,
    parse_request,
    read_members,
)

# Members of a response that say what was asked for.
_REPEATED = (
    "instructions",
    "max_output_tokens",
    "max_tool_calls",
    "metadata",
    "parallel_tool_calls",
    "prompt_cache_key",
    "reasoning",
    "safety_identifier",
    "temperature",
    "text",
    "tool_choice",
    "tools",
    "top_logprobs",
    "top_p",
    "truncation",
    "user",
)
_SALT_BYTES = 256
_STATELESS = "since this router keeps no responses; send the whole conversation as input."
_ORIGIN = re.compile(r"messages\[(\d+)\]")
_RENAMED = (
    ("max_completion_tokens", "max_output_tokens"),
    ("reasoning_effort", "reasoning.effort"),
    ("response_format", "text.format"),
)


class _Format(Struct):
    type: str
    name: str | None = None
    description: str | None = None
    schema: Raw = NULL
    strict: bool | None = None


class _Text(Struct):
    format: _Format | None = None


class _Reasoning(Struct):
    effort: str | None = None


class _Fields(Struct):
    model: str
    input: Raw
    instructions: str | None = None
    stream: bool | None = None
    background: bool | None = None
    tools: Annotated[list[Raw], Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: Raw = NULL
    parallel_tool_calls: bool | None = None
    max_output_tokens: PositiveTokens | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    text: _Text | None = None
    reasoning: _Reasoning | None = None
    user: str | None = None
    previous_response_id: Raw = NULL
    conversation: Raw = NULL
    prompt: Raw = NULL
    models: Raw = NULL
    router: Raw = NULL


class Asked(Struct, frozen=True):
    """Hold what the answer needs of its request: members that it repeats, and what tools are called."""

    repeated: dict[str, Raw] = field(default_factory=dict)
    called: dict[str, Called] = field(default_factory=dict)
    salt: bytes = b""  # of the ids, so that answers of an upstream that gives none differ


_fields = msgspec.json.Decoder(_Fields)
_text = msgspec.json.Decoder(_Text)
_reasoning = msgspec.json.Decoder(_Reasoning)


def read_request(body: bytes) -> tuple[RequestBody, Asked]:
    """Read a request once; return it as a chat completion, and what its answer needs.

    Raises `BadRequest` with `param` naming the field as the Responses API calls it.
    """
    check_utf8(body)
    fields, members = read_members(_fields, body)
    _refuse_state(fields)
    messages = read_input(fields.instructions, fields.input)
    fields = _updated(fields, messages.updates)
    named = [(f"tools[{i}]", tool) for i, tool in enumerate(fields.tools or ())]
    tools = read_tools([*named, *messages.tools], fields.tool_choice, fields.parallel_tool_calls)
    # What is read, and what the hold is made for, has the thoughts of every model; an upstream only its own.
    told = messages.said if messages.recalled is None else messages.recalled.messages(None)
    chat = {"model": fields.model, "messages": told, **tools.members, **_settings(fields)}
    try:
        request = parse_request(msgspec.json.encode(chat))
    except BadRequest as fault:
        raise _in_their_words(fault, messages.origins) from None
    if messages.recalled is not None:
        request = structs.replace(request, recalled=messages.recalled)
    repeated = {name: members[name] for name in _REPEATED if name in members}
    return request, Asked(repeated, tools.called, bytes(memoryview(fields.input)[-_SALT_BYTES:]))


def _refuse_state(fields: _Fields) -> None:
    if not is_null(fields.previous_response_id):
        raise refuse("previous_response_id", f"cannot be followed, {_STATELESS}")
    if not is_null(fields.conversation):
        raise refuse("conversation", f"cannot be followed, {_STATELESS}")
    if fields.background:
        raise refuse("background", "is not served: nobody could fetch the response later. Use stream.")
    if not is_null(fields.prompt):
        raise refuse("prompt", "names a template that OpenAI keeps; send instructions and input.")


def _updated(fields: _Fields, updates: Mapping[str, tuple[str, Raw]]) -> _Fields:
    """Return the fields with what items of the conversation set after the request's beginning."""
    changed: Said = {}
    if "text" in updates:
        path, raw = updates["text"]
        changed["text"] = decoded(_text, raw, path)
    if "reasoning" in updates:
        path, raw = updates["reasoning"]
        changed["reasoning"] = decoded(_reasoning, raw, path)
    return structs.replace(fields, **changed)


def _settings(fields: _Fields) -> Said:
    """Return the members of a chat completion that are neither messages nor tools."""
    said: Said = {
        "stream": fields.stream,
        "max_completion_tokens": fields.max_output_tokens,
        "temperature": fields.temperature,
        "top_p": fields.top_p,
        "user": fields.user,
        "reasoning_effort": fields.reasoning.effort if fields.reasoning is not None else None,
        "response_format": _response_format(fields.text),
    }
    said = {name: value for name, value in said.items() if value is not None}
    for name, raw in (("models", fields.models), ("router", fields.router)):
        if not is_null(raw):
            said[name] = raw
    return said


def _response_format(text: _Text | None) -> Said | None:
    wanted = text.format if text is not None else None
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return {"type": "json_object"}
    if wanted.type != "json_schema":
        shown = f"text.format.type is {wanted.type[:40]!r}; it must be text, json_object or json_schema."
        raise BadRequest(shown, param="text.format.type")
    if not wanted.name or is_null(wanted.schema):
        missing = "text.format.schema" if wanted.name else "text.format.name"
        raise BadRequest(f"{missing} is missing.", param=missing, name="missing_field")
    described: Said = {"name": wanted.name, "schema": wanted.schema}
    if wanted.description is not None:
        described["description"] = wanted.description
    if wanted.strict is not None:
        described["strict"] = wanted.strict
    return {"type": "json_schema", "json_schema": described}


def _in_their_words(fault: BadRequest, origins: list[str]) -> BadRequest:
    """Name a field as the client calls it, where a chat completion calls it otherwise."""

    def said(text: str) -> str:
        text = _ORIGIN.sub(lambda found: origins[int(found[1])], text)
        for ours, theirs in _RENAMED:
            text = text.replace(ours, theirs)
        return text

    if fault.param == "messages":  # too many of them
        return BadRequest(fault.message.replace("messages", "input", 1), param="input", name=fault.name)
    param = said(fault.param) if fault.param is not None else None
    return BadRequest(said(fault.message), param=param, name=fault.name)
