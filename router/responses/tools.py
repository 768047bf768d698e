"""The tools of a response, said as functions of a chat completion, and their names said back.

A function stays what it is. A custom tool becomes a function with one string, `input`. The functions of a
namespace get its name in front of theirs. Tools that OpenAI's own servers run (web search, ...) are left out:
no upstream of a chat completion has them, and a model that is not told of them works without.
Source: OpenAI API reference, `POST /v1/responses`, `tools` and `tool_choice`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any, Literal

import msgspec
from msgspec import Raw, Struct, field

from router.errors import BadRequest
from router.rawjson import first_byte
from router.responses.decoding import NULL, Said, decoded, is_null, refuse
from router.wire import MAX_TOOLS

MAX_NAME_CHARS = 64  # of a function; the bound of OpenAI's chat completions
_DIGEST_CHARS = 8
_CHOICES = ("none", "auto", "required")
_GRAMMAR = "The input must follow this {syntax} grammar:\n{definition}"


class Called(Struct, frozen=True, gc=False):
    """Say what the client calls a function of the chat completion."""

    name: str
    kind: Literal["function", "custom"] = "function"
    namespace: str | None = None


class Tools(Struct, frozen=True):
    """Hold the members that a chat completion gets, and what the client calls each function."""

    members: Said = field(default_factory=dict)
    called: dict[str, Called] = field(default_factory=dict)


class _Grammar(Struct):
    type: str = "text"
    syntax: str = ""
    definition: str = ""


class _Kind(Struct):
    type: str


class _Tool(Struct):
    type: str
    name: str | None = None
    description: str | None = None
    parameters: Raw = NULL
    strict: bool | None = None
    format: _Grammar | None = None
    tools: list[Raw] = field(default_factory=list)


class _Choice(Struct):
    type: str
    name: str | None = None
    namespace: str | None = None
    mode: str | None = None
    tools: list[Raw] = field(default_factory=list)


_tool = msgspec.json.Decoder(_Tool)
_kind = msgspec.json.Decoder(_Kind)
_word = msgspec.json.Decoder(str)
_choice = msgspec.json.Decoder(_Choice)


def chat_name(name: str, namespace: str | None = None) -> str:
    """Return the name of a function of a chat completion; the same tool always gets the same."""
    if not namespace:
        return name
    whole = f"{namespace}{'' if namespace.endswith('__') else '__'}{name}"
    if len(whole) <= MAX_NAME_CHARS:
        return whole
    digest = hashlib.sha256(whole.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST_CHARS]
    return f"{whole[: MAX_NAME_CHARS - _DIGEST_CHARS - 1]}_{digest}"


def read_tools(tools: Iterable[tuple[str, Raw]], choice: Raw, parallel: bool | None) -> Tools:
    """Return what a chat completion says of these tools, each with its place. Raises `BadRequest`."""
    reader = _Reader()
    for path, tool in tools:
        reader.take(tool, path, None)
    functions, said = reader.chosen(choice)
    if len(functions) > MAX_TOOLS:
        raise BadRequest(f"tools holds more than {MAX_TOOLS} functions.", param="tools")
    if not functions:
        return Tools({}, reader.called)
    members: Said = {"tools": functions}
    if said is not None:
        members["tool_choice"] = said
    if parallel is not None:
        members["parallel_tool_calls"] = parallel
    return Tools(members, reader.called)


class _Reader:
    def __init__(self) -> None:
        self.functions: dict[str, Said] = {}
        self.called: dict[str, Called] = {}
        self._left_out: set[str] = set()

    def take(self, raw: Raw, path: str, namespace: str | None) -> None:
        """Take one tool, or those of a namespace."""
        kind = decoded(_kind, raw, path).type
        if kind not in ("function", "custom", "namespace") or (kind == "namespace" and namespace):
            self._left_out.add(kind)
            return
        tool = decoded(_tool, raw, path)
        if not tool.name:
            raise BadRequest(f"{path}.name is missing.", param=f"{path}.name", name="missing_field")
        if kind == "namespace":
            for i, inner in enumerate(tool.tools):
                self.take(inner, f"{path}.tools[{i}]", tool.name)
            return
        name = chat_name(tool.name, namespace)
        if name in self.functions:
            raise BadRequest(f"{path}.name: {tool.name!r} stands twice in tools.", param=f"{path}.name")
        self.called[name] = Called(tool.name, "custom" if kind == "custom" else "function", namespace)
        said = _custom(tool) if kind == "custom" else _function(tool)
        self.functions[name] = {"type": "function", "function": {"name": name, **said}}

    def chosen(self, raw: Raw) -> tuple[list[Said], Any]:
        """Return the functions that may be called, and `tool_choice` for the chat completion."""
        everything = list(self.functions.values())
        if is_null(raw):
            return everything, None
        if first_byte(raw) == b'"':
            word = decoded(_word, raw, "tool_choice")
            if word not in _CHOICES:
                text = f"tool_choice is {word[:40]!r}; it must be one of {', '.join(_CHOICES)}, or an object."
                raise BadRequest(text, param="tool_choice")
            if word == "required" and not everything:
                raise self._nothing()
            return everything, word
        choice = decoded(_choice, raw, "tool_choice")
        if choice.type == "allowed_tools":
            return self._allowed(choice)
        return everything, {"type": "function", "function": {"name": self._named(choice, "tool_choice")}}

    def _allowed(self, choice: _Choice) -> tuple[list[Said], str]:
        """Send only the tools that may be called; those that servers of OpenAI's run are none of them."""
        if choice.mode not in ("auto", "required"):
            raise BadRequest("tool_choice.mode must be auto or required.", param="tool_choice.mode")
        wanted = [decoded(_choice, raw, f"tool_choice.tools[{i}]") for i, raw in enumerate(choice.tools)]
        names = [
            self._named(one, f"tool_choice.tools[{i}]")
            for i, one in enumerate(wanted)
            if one.type in ("function", "custom")
        ]
        if not names and choice.mode == "required":
            raise self._nothing()
        return [self.functions[name] for name in dict.fromkeys(names)], choice.mode

    def _named(self, choice: _Choice, path: str) -> str:
        if choice.type not in ("function", "custom"):
            asked = choice.type[:40]
            raise refuse(
                path, f"demands {asked!r}, which only OpenAI's own servers run; use function or custom."
            )
        name = chat_name(choice.name or "", choice.namespace)
        if name not in self.functions:
            raise BadRequest(
                f"{path} names {(choice.name or '')[:80]!r}, which tools does not hold.", param=path
            )
        return name

    def _nothing(self) -> BadRequest:
        held = f"only {', '.join(sorted(self._left_out))}" if self._left_out else "nothing"
        return refuse(
            "tool_choice",
            f"demands a call, and tools holds {held[:200]} that could be called; send functions.",
        )


def _function(tool: _Tool) -> Said:
    said: Said = {}
    if tool.description is not None:
        said["description"] = tool.description
    if not is_null(tool.parameters):
        said["parameters"] = tool.parameters
    if tool.strict:
        said["strict"] = True
    return said


def _custom(tool: _Tool) -> Said:
    told = [tool.description] if tool.description else []
    if tool.format is not None and tool.format.type == "grammar":
        told.append(_GRAMMAR.format(syntax=tool.format.syntax, definition=tool.format.definition))
    whole = {"type": "string", "description": "The whole input of the tool, as plain text."}
    parameters = {
        "type": "object",
        "properties": {"input": whole},
        "required": ["input"],
        "additionalProperties": False,
    }
    return {**({"description": "\n\n".join(told)} if told else {}), "parameters": parameters}
