"""The OpenAI chat-completions wire format: only what the router looks at, the rest stays raw bytes.

Source: OpenAI API reference, `POST /v1/chat/completions`. A body is decoded once into typed fields and once
into its top-level members as raw JSON; `RequestBody.for_upstream` joins the members again with a few
replaced, so unknown fields survive and no message is re-serialised.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Protocol, TypeVar

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from router.errors import BadRequest
from router.images import check_image
from router.media import Medium, Part, read_part
from router.rawjson import cut_text, first_byte, refuse_duplicates

T = TypeVar("T")
MAX_MODEL_CHARS = 256
# Bounds on what one request can make the process look at; every provider's own are lower.
MAX_MESSAGES = 20_000
MAX_PARTS = 20_000  # of all messages together
MAX_IMAGES = 250
MAX_TOOLS = 1_000
MAX_MODELS = 100
MAX_GLOBS = 100
MAX_GLOB_CHARS = 256
MAX_SESSION_CHARS = 256
ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
MEDIA_PARTS: dict[str, Medium] = {"input_audio": "audio", "video_url": "video", "file": "file"}
PART_TYPES = frozenset({"text", "image_url", *MEDIA_PARTS, "refusal", "thinking"})
# The two names of what bounds an answer; the newer one counts where a client sends both.
BOUNDS = ("max_tokens", "max_completion_tokens")
# What could choose an upstream's address, key or headers, and our own fields: never forwarded.
NEVER_FORWARDED = frozenset(
    {
        "api_base",
        "api_key",
        "api_type",
        "api_version",
        "base_url",
        "custom_llm_provider",
        "custom_host",
        "default_headers",
        "extra_body",
        "extra_headers",
        "fallbacks",
        "headers",
        "litellm_params",
        "mock_response",
        "model_list",
        "models",
        "organization",
        "router",
        "user_config",
    }
)

PositiveTokens = Annotated[int, Meta(ge=1, le=100_000_000)]
Globs = Annotated[list[Annotated[str, Meta(max_length=MAX_GLOB_CHARS)]], Meta(max_length=MAX_GLOBS)]
Tools = Annotated[list[dict[str, Raw]], Meta(max_length=MAX_TOOLS)]


class StreamOptions(Struct):
    """Hold `stream_options`."""

    include_usage: bool | None = None


class RouterFields(Struct, forbid_unknown_fields=True):
    """Hold the body field `router`, which is never forwarded."""

    mode: str | None = None
    max_cost_usd: Decimal | None = None
    allow: Globs | None = None
    deny: Globs | None = None
    session: Annotated[str, Meta(max_length=MAX_SESSION_CHARS)] | None = None


class ResponseFormat(Struct):
    """Hold `response_format`."""

    type: str


class _Message(Struct):
    role: str
    content: Raw | UnsetType = UNSET
    tool_calls: Raw | UnsetType = UNSET
    function_call: Raw | UnsetType = UNSET


class _Fields(Struct):
    model: str
    messages: Annotated[list[_Message], Meta(min_length=1, max_length=MAX_MESSAGES)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: PositiveTokens | None = None
    max_completion_tokens: PositiveTokens | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    user: str | None = None
    tools: Tools | None = None
    functions: Tools | None = None
    tool_choice: str | dict[str, Raw] | None = None
    response_format: ResponseFormat | None = None
    reasoning_effort: str | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    parallel_tool_calls: bool | None = None
    models: Annotated[list[str], Meta(max_length=MAX_MODELS)] | None = None
    router: RouterFields | None = None


class _Part(Struct):
    type: str
    text: Raw | UnsetType = UNSET
    image_url: Raw | UnsetType = UNSET
    input_audio: Raw | UnsetType = UNSET
    video_url: Raw | UnsetType = UNSET
    file: Raw | UnsetType = UNSET


class Message(Struct, frozen=True):
    """One message as the router reads it: texts cut to head and tail, images counted.

    `data_bytes` is the size of what no tokenizer reads as text: images as data URIs, audio, video and files;
    `media` are all but the images. `parts` counts the parts of its content, where that is a list.
    """

    role: str
    texts: tuple[str, ...]
    images: int
    data_bytes: int
    has_tool_calls: bool
    parts: int = 0
    media: tuple[Part, ...] = ()


class OwnMessages(Protocol):
    """Messages of which an offer reads what it wrote itself, and no other offer."""

    def raw(self, writer: str) -> Raw:
        """Return the messages for the offer "provider/model" as JSON."""


class RequestBody(Struct, frozen=True):
    """A chat request: typed fields that decide, and every top-level member as it was sent.

    `recalled` stands for the messages that are sent, where some of them are for one offer alone.
    """

    model: str
    messages: tuple[Message, ...]
    stream: bool
    include_usage: bool | None
    max_output_tokens: int | None
    choices: int
    has_tools: bool
    response_format: str | None
    reasoning_effort: str | None
    models: tuple[str, ...]
    router: RouterFields
    members: dict[str, Raw]
    text_bytes: int
    text_chars: int
    recalled: OwnMessages | None = None

    @property
    def images(self) -> int:
        """Count the image parts of all messages."""
        return sum(message.images for message in self.messages)

    @property
    def media(self) -> list[Part]:
        """Return the audio, video and files of all messages."""
        return [part for message in self.messages for part in message.media]

    def for_upstream(self, model: str, bound: tuple[str, int] | None = None, writer: str = "") -> bytes:
        """Return the body for an upstream: its model id, usage asked for, the router's own fields gone.

        `bound` is the field that bounds an answer there, and the most tokens of a choice: it goes under that
        name alone, whatever the client calls it. `writer` is the offer, "provider/model".
        """
        members = {name: value for name, value in self.members.items() if name not in NEVER_FORWARDED}
        if self.recalled is not None:
            members["messages"] = self.recalled.raw(writer)
        members["model"] = Raw(msgspec.json.encode(model))
        if bound is not None:
            field, tokens = bound
            for name in BOUNDS:
                if name != field:
                    members.pop(name, None)
            members[field] = Raw(b"%d" % tokens)
        if self.stream:
            options = members.get("stream_options")
            asked = _members.decode(options) if options is not None and bytes(options) != b"null" else {}
            asked["include_usage"] = Raw(b"true")
            members["stream_options"] = Raw(msgspec.json.encode(asked))
        return msgspec.json.encode(members)


_members = msgspec.json.Decoder(dict[str, Raw])
_fields = msgspec.json.Decoder(_Fields)
_parts = msgspec.json.Decoder(Annotated[list[_Part], Meta(max_length=MAX_PARTS)])


def read_members(decoder: msgspec.json.Decoder[T], body: bytes) -> tuple[T, dict[str, Raw]]:
    """Return a JSON object as its decoder reads it, and all its members raw. Raises `BadRequest`."""
    try:
        fields = decoder.decode(body)
        members = _members.decode(body)
    except msgspec.ValidationError as fault:
        raise schema_fault(str(fault)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as fault:
        if not body.strip():
            raise BadRequest("The body is empty; send a JSON object.", name="invalid_json") from None
        raise BadRequest(f"The body is not valid JSON: {fault}", name="invalid_json") from None
    except RecursionError:
        raise BadRequest("The body is nested too deeply.", name="invalid_json") from None
    refuse_duplicates(body, members)
    return fields, members


def parse_request(body: bytes) -> RequestBody:
    """Read a chat request once.

    Raises `BadRequest` with `param` naming the field; never anything else, whatever the bytes are. Nesting
    is bounded by the interpreter's own recursion limit (some 1,000 levels), which msgspec keeps: counting
    levels here would cost more than all the rest.
    """
    text_chars = check_utf8(body)
    fields, members = read_members(_fields, body)
    _check_model(fields.model)
    messages = _read_messages(fields.messages)
    data_bytes = sum(message.data_bytes for message in messages)
    text_bytes = _forwarded_bytes(members)
    return RequestBody(
        model=fields.model,
        messages=messages,
        stream=bool(fields.stream),
        include_usage=fields.stream_options.include_usage if fields.stream_options else None,
        max_output_tokens=fields.max_completion_tokens or fields.max_tokens,
        choices=fields.n or 1,
        has_tools=bool(fields.tools or fields.functions),
        response_format=fields.response_format.type if fields.response_format else None,
        reasoning_effort=fields.reasoning_effort,
        models=tuple(fields.models or ()),
        router=fields.router or RouterFields(),
        members=members,
        text_bytes=text_bytes - data_bytes,
        text_chars=text_chars - (len(body) - text_bytes) - data_bytes,
    )


def _forwarded_bytes(members: dict[str, Raw]) -> int:
    """Count what an upstream reads: a cap or a session that is added must not move the price it is about."""
    size = 1 + sum(map(len, members)) + sum(map(len, members.values())) + 4 * len(members)
    if members.keys().isdisjoint(NEVER_FORWARDED):
        return size
    return size - sum(len(name) + len(members[name]) + 4 for name in NEVER_FORWARDED & members.keys())


def check_utf8(body: bytes) -> int:
    """Return the number of characters; msgspec does not check the bytes of parts it leaves raw.

    Raises `BadRequest`.
    """
    if body.isascii():
        return len(body)
    try:
        return len(body.decode("utf-8"))
    except UnicodeDecodeError as fault:
        raise BadRequest(f"The body is not UTF-8 at byte {fault.start}.", name="invalid_json") from None


def schema_fault(text: str) -> BadRequest:
    """Turn msgspec's "Expected `bool`, got `str` - at `$.messages[0].role`" into an error with a param."""
    message, _, path = text.partition(" - at `$")
    path = path.rstrip("`").lstrip(".").replace("[...]", "")
    missing = re.search(r"missing required field `(\w+)`", message)
    if missing:
        path = f"{path}.{missing[1]}" if path else missing[1]
        return BadRequest(f"{path} is missing.", param=path, name="missing_field")
    unknown = re.search(r"contains unknown field `([^`]*)`", message)
    if unknown:
        path = f"{path}.{unknown[1]}" if path else unknown[1]
        return BadRequest(f"{path} is not a field the router knows.", param=path, name="unknown_field")
    if not path:
        return BadRequest(f"The body must be a JSON object: {message}.")
    return BadRequest(f"{path}: {message}.", param=path)


def _check_model(model: str) -> None:
    if not model:
        raise BadRequest("model is empty; use auto, or an id from GET /v1/models.", param="model")
    if len(model) > MAX_MODEL_CHARS:
        raise BadRequest(f"model is longer than {MAX_MODEL_CHARS} characters.", param="model")
    if not model.isprintable():
        raise BadRequest("model holds control characters.", param="model")


def _read_messages(messages: list[_Message]) -> tuple[Message, ...]:
    read: list[Message] = []
    images = parts = 0
    for i, message in enumerate(messages):
        one = _read_message(message, f"messages[{i}]")
        images += one.images
        parts += one.parts
        if images > MAX_IMAGES or parts > MAX_PARTS:
            most = f"{MAX_IMAGES} images" if images > MAX_IMAGES else f"{MAX_PARTS} parts"
            raise BadRequest(
                f"The messages hold more than {most} up to messages[{i}]; send fewer.",
                param=f"messages[{i}].content",
                name="too_many_parts",
            )
        read.append(one)
    return tuple(read)


def _read_message(message: _Message, path: str) -> Message:
    if message.role not in ROLES:
        known = ", ".join(sorted(ROLES))
        text = f"{path}.role is {message.role[:40]!r}; it must be one of {known}."
        raise BadRequest(text, param=f"{path}.role")
    has_tool_calls = _present(message.tool_calls) or _present(message.function_call)
    content = Raw(b"null") if message.content is UNSET else message.content
    first = first_byte(content)
    if first == b'"':
        return Message(message.role, (cut_text(content),), 0, 0, has_tool_calls)
    if first == b"[":
        return _read_parts(message.role, content, f"{path}.content", has_tool_calls)
    if first == b"n":
        if message.role == "assistant":
            return Message(message.role, (), 0, 0, has_tool_calls)
        raise BadRequest(f"{path}.content is missing.", param=f"{path}.content", name="missing_field")
    raise BadRequest(f"{path}.content must be a string or a list of parts.", param=f"{path}.content")


def _present(value: Raw | UnsetType) -> bool:
    return value is not UNSET and bytes(value) not in (b"null", b"[]")


def _read_parts(role: str, content: Raw, path: str, has_tool_calls: bool) -> Message:
    try:
        parts = _parts.decode(content)
    except msgspec.ValidationError as fault:
        text = str(fault)
        if " - at `$" not in text:  # the list itself
            raise BadRequest(f"{path}: {text}.", param=path) from None
        raise schema_fault(text.replace("at `$", f"at `$.{path}")) from None
    texts: list[str] = []
    images = data_bytes = 0
    media: list[Part] = []
    for i, part in enumerate(parts):
        where = f"{path}[{i}]"
        if part.type not in PART_TYPES:
            known = ", ".join(sorted(PART_TYPES))
            raise BadRequest(
                f"{where}.type is {part.type[:40]!r}; it must be one of {known}.", param=f"{where}.type"
            )
        if part.type == "text":
            if part.text is UNSET or first_byte(part.text) != b'"':
                raise BadRequest(f"{where}.text must be a string.", param=f"{where}.text")
            texts.append(cut_text(part.text))
        elif part.type == "image_url":
            data_bytes += check_image(part.image_url, f"{where}.image_url")
            images += 1
        elif part.type in MEDIA_PARTS:
            media.append(read_part(MEDIA_PARTS[part.type], getattr(part, part.type)))
            data_bytes += media[-1].data_bytes
    return Message(role, tuple(texts), images, data_bytes, has_tool_calls, len(parts), tuple(media))
