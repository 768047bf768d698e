"""What the demo provider says: reads an OpenAI chat request and makes an honest answer from it."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any

import msgspec

from router.classifier.prompt import Turn, words_of
from router.upstream.demo_schema import example

MAX_ECHO_CHARS = 400
HOW_TO_LEAVE = (
    "For real answers set a key such as OPENAI_API_KEY, or start Ollama, and start the router again."
)
COUNTED_CHARS = 20_000  # a longer text is counted by its first part, so that a huge prompt stalls nobody

_TOKEN = re.compile(r"\s*(?:\w{1,12}|[^\w\s])|\s+")
_PATH = re.compile(r"`\$\.?([^`]*)`$")
_MISSING = re.compile(r"missing required field `([^`]*)`")
_Positive = Annotated[int, msgspec.Meta(ge=1)]


class _Message(msgspec.Struct):
    role: str
    content: str | list[dict[str, Any]] | None = None


class _Function(msgspec.Struct):
    name: str
    parameters: dict[str, Any] | None = None


class _Tool(msgspec.Struct):
    function: _Function
    type: str = "function"


class _NamedFunction(msgspec.Struct):
    name: str


class _ToolChoice(msgspec.Struct):
    function: _NamedFunction


class _JsonSchema(msgspec.Struct):
    schema: dict[str, Any] | None = None


class _ResponseFormat(msgspec.Struct):
    type: str
    json_schema: _JsonSchema | None = None


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class DemoRequest(msgspec.Struct):
    """The fields of a chat request that the demo obeys; others are ignored."""

    messages: Annotated[list[_Message], msgspec.Meta(min_length=1)]
    model: str = "demo/small"
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=8)] | None = None
    max_tokens: _Positive | None = None
    max_completion_tokens: _Positive | None = None
    stop: str | list[str] | None = None
    tools: list[_Tool] | None = None
    tool_choice: str | _ToolChoice | None = None
    response_format: _ResponseFormat | None = None


class Invalid(Exception):
    """The body is wrong; `param` names the field."""

    def __init__(self, message: str, param: str | None) -> None:
        super().__init__(message)
        self.param = param


class Answer(msgspec.Struct):
    """What every choice says: pieces of text (one a token), or tool calls (name, pieces of arguments)."""

    pieces: list[str]
    calls: list[tuple[str, list[str]]]
    finish_reason: str

    @property
    def tokens(self) -> int:
        """Count the tokens of one choice; the name of a called tool is one."""
        return len(self.pieces) + sum(1 + len(pieces) for _, pieces in self.calls)


def parsed(raw: bytes) -> DemoRequest:
    """Read the body; raises Invalid, which names the field."""
    try:
        return msgspec.json.decode(raw, type=DemoRequest)
    except msgspec.ValidationError as error:
        raise Invalid(str(error), _field(str(error))) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(f"The body is not valid JSON: {error}", None) from None


def _field(message: str) -> str | None:
    """Find the field that a msgspec message is about (its path, and the name of a missing field)."""
    found = [match.group(1) for pattern in (_PATH, _MISSING) if (match := pattern.search(message))]
    return ".".join(name for name in found if name) or None


def answer_to(body: DemoRequest) -> Answer:
    """Decide what to say; every choice of `n` says the same."""
    calls = [(f.name, _pieces(json.dumps(example(f.parameters or {})))) for f in _called(body)]
    text = "" if calls else _until_stop(_text(body), body.stop)
    whole = Answer(_pieces(text), calls, "tool_calls" if calls else "stop")
    limit = body.max_completion_tokens or body.max_tokens
    return whole if limit is None or whole.tokens <= limit else _cut(whole, limit)


def _cut(whole: Answer, limit: int) -> Answer:
    """Keep the first `limit` tokens."""
    calls, left = [], limit - len(whole.pieces)
    for name, pieces in whole.calls:
        if left > 0:
            calls.append((name, pieces[: left - 1]))
        left -= 1 + len(pieces)
    return Answer(whole.pieces[:limit], calls, "length")


def _text(body: DemoRequest) -> str:
    form = body.response_format
    said, results = _asked(body)
    asked = _shortened(said)
    if form is not None and form.type == "json_schema":
        schema = form.json_schema.schema if form.json_schema is not None else None
        return json.dumps(example(schema or {}))
    if form is not None and form.type == "json_object":
        return json.dumps({"demo": True, "echo": asked}, ensure_ascii=False)
    says = [f"This is the router's built-in demo ({body.model}), not a language model."]
    if results:
        says.append(f"The tool answered: {_shortened(words(results[0]))}")
    elif asked:
        says.append(f"You said: {asked}" + ("" if asked[-1] in ".?!…" else "."))
    if images := image_count(body):
        says.append(f"You sent {images} image{'' if images == 1 else 's'}; the demo cannot see.")
    return " ".join([*says, HOW_TO_LEAVE])


def _called(body: DemoRequest) -> list[_Function]:
    """Return the functions to call: the one that is forced, else those that the user's text names."""
    functions = [tool.function for tool in body.tools or [] if tool.type == "function"]
    choice = body.tool_choice
    if isinstance(choice, _ToolChoice):
        functions = [f for f in functions if f.name == choice.function.name]
        if not functions:
            name = choice.function.name
            raise Invalid(f"tool_choice names {name!r}, which is not in tools.", "tool_choice")
    elif choice == "required" and not functions:
        raise Invalid("tool_choice is 'required', but tools is missing or empty.", "tool_choice")
    said, results = _asked(body)
    if choice == "none" or results:
        return []
    if isinstance(choice, _ToolChoice):
        return functions
    named = [f for f in functions if re.search(rf"\b{re.escape(f.name)}\b", said, re.IGNORECASE)]
    return named or (functions[:1] if choice == "required" else [])


def image_count(body: DemoRequest) -> int:
    """Count the images of the whole conversation."""
    return sum(part.get("type") == "image_url" for message in body.messages for part in _parts(message))


def _parts(message: _Message) -> list[dict[str, Any]]:
    if isinstance(message.content, list):
        return message.content
    return [{"type": "text", "text": message.content or ""}]


def words(message: _Message) -> str:
    """Return the text of a message, its parts joined."""
    texts = (part.get("text") for part in _parts(message))
    return " ".join(text for text in texts if isinstance(text, str)).strip()


def _asked(body: DemoRequest) -> tuple[str, list[_Message]]:
    """Return the user's last words, without what clients wrap around them, and the tool results since then.

    OpenClaw ends each request with a message of its own state, which names its tools: taken for the user's
    words, it would have a tool called again after each result, for ever.
    """
    results: list[_Message] = []
    for message in reversed(body.messages):
        if message.role == "tool":
            results.append(message)
        elif message.role == "user" and (said := words_of(Turn("user", (words(message),)))[0]):
            return said, results
    return "", results


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_ECHO_CHARS else text[:MAX_ECHO_CHARS] + " ..."


def _until_stop(text: str, stop: str | list[str] | None) -> str:
    ends = [stop] if isinstance(stop, str) else stop or []
    return text[: min((at for end in ends if end and (at := text.find(end)) >= 0), default=len(text))]


def _pieces(text: str) -> list[str]:
    """Cut a text into tokens (words of up to 12 letters, punctuation marks) that join to it again."""
    return _TOKEN.findall(text)


def count_tokens(text: str) -> int:
    """Estimate tokens: words of up to 12 letters and punctuation marks."""
    counted = text[:COUNTED_CHARS]
    return len(_pieces(counted)) * len(text) // max(1, len(counted))
