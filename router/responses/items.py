"""The input items of a response, said as the messages of a chat completion.

System and developer messages become `system`, which every upstream knows, and those that begin the input one
message. Calls join the assistant's message before them, and their outputs follow it at once, as chat wants
it. An image or a file in an output goes into a user message behind the outputs: a `tool` message holds only
text. What an item adds to the request's own members (tools, a new format or effort) is kept beside.
Source: OpenAI API reference, `POST /v1/responses`, `input`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
from msgspec import Raw, Struct

from router.errors import BadRequest
from router.rawjson import first_byte
from router.responses.decoding import NULL, Said, decoded, is_null, refuse, text_at
from router.responses.thoughts import Recalled, Thoughts, unpacked
from router.responses.tools import chat_name

_ROLES = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}
_TEXTS = frozenset({"input_text", "output_text", "text", "summary_text"})
# What no upstream of a chat completion can read: what tools of OpenAI's own servers did, and its summary of a
# long talk. The conversation can be followed without.
_LEFT_OUT = frozenset(
    {
        "compaction",
        "web_search_call",
        "file_search_call",
        "image_generation_call",
        "code_interpreter_call",
        "computer_call",
        "computer_call_output",
        "local_shell_call",
        "local_shell_call_output",
        "shell_call",
        "shell_call_output",
        "apply_patch_call",
        "apply_patch_call_output",
        "tool_search_call",
        "tool_search_output",
        "mcp_call",
        "mcp_list_tools",
        "mcp_approval_request",
        "mcp_approval_response",
        "program",
        "program_output",
    }
)
# The words by which the classifier knows that no person sent it.
_FROM_A_TOOL = "{what}(s) from tool result #{number}:"


class _Kind(Struct):
    type: str = "message"


class _Message(Struct):
    role: str
    content: Raw


class _Call(Struct):
    call_id: str
    name: str
    arguments: str = ""
    input: str = ""
    namespace: str | None = None


class _Output(Struct):
    call_id: str
    output: Raw = NULL


class _Reasoning(Struct):
    encrypted_content: Raw = NULL


class _MoreTools(Struct):
    tools: list[Raw]


class _Update(Struct):
    reasoning: Raw = NULL
    text: Raw = NULL


class _Part(Struct):
    type: str
    text: Raw = NULL
    refusal: Raw = NULL
    image_url: Raw = NULL
    detail: str | None = None
    file_id: str | None = None
    file_url: str | None = None
    file_data: Raw = NULL
    filename: str | None = None
    input_audio: Raw = NULL


_kind = msgspec.json.Decoder(_Kind)
_message = msgspec.json.Decoder(_Message)
_call = msgspec.json.Decoder(_Call)
_output = msgspec.json.Decoder(_Output)
_reasoning = msgspec.json.Decoder(_Reasoning)
_more_tools = msgspec.json.Decoder(_MoreTools)
_update = msgspec.json.Decoder(_Update)
_parts = msgspec.json.Decoder(list[_Part])
_list = msgspec.json.Decoder(list[Raw])


@dataclass(slots=True)
class _Turn:
    """One message, where it came from, and for calls the outputs that follow it and what those carry."""

    message: Said
    origin: str
    outputs: list[tuple[Said, str]] = field(default_factory=list)
    carried: list[Said] = field(default_factory=list)
    carriers: list[int] = field(default_factory=list)


class Messages(Struct, frozen=True):
    """Hold the messages, where each of them stands in the request, and the thoughts that came with them.

    `tools` are those that items add, with their places. `updates` has the last `reasoning` and `text` that an
    item sets, with the place of each.
    """

    said: list[Said]
    origins: list[str]
    recalled: Recalled | None = None
    tools: Sequence[tuple[str, Raw]] = ()
    updates: Mapping[str, tuple[str, Raw]] = msgspec.field(default_factory=dict)


def read_input(instructions: str | None, raw: Raw) -> Messages:
    """Return the messages of `instructions` and `input`. Raises `BadRequest`."""
    reader = _Reader()
    if instructions:
        reader.say("system", instructions, "instructions")
    if first_byte(raw) == b'"':
        reader.say("user", raw, "input")
    elif first_byte(raw) == b"[":
        items = decoded(_list, raw, "input")
        for i, item in enumerate(items):
            reader.take(item, f"input[{i}]")
    else:
        raise BadRequest("input must be a string or a list of items.", param="input")
    return reader.messages()


class _Reader:
    def __init__(self) -> None:
        self._turns: list[_Turn] = []
        self._calls: dict[str, _Turn] = {}
        self._thoughts: list[Thoughts] = []
        self._tools: list[tuple[str, Raw]] = []
        self._updates: dict[str, tuple[str, Raw]] = {}
        self._open: _Turn | None = None  # the assistant's message that a call may join

    def say(self, role: str, content: str | Raw | list[Said] | None, origin: str) -> _Turn:
        """Add a message."""
        turn = _Turn({"role": role, "content": content}, origin)
        self._turns.append(turn)
        self._open = turn if role == "assistant" else None
        return turn

    def take(self, raw: Raw, path: str) -> None:
        """Take one item."""
        kind = decoded(_kind, raw, path).type
        if kind == "message":
            self._take_message(decoded(_message, raw, path), path)
        elif kind in ("function_call", "custom_tool_call"):
            self._take_call(decoded(_call, raw, path), path, custom=kind == "custom_tool_call")
        elif kind in ("function_call_output", "custom_tool_call_output"):
            self._take_output(decoded(_output, raw, path), path)
        elif kind == "reasoning":
            thoughts = unpacked(decoded(_reasoning, raw, path).encrypted_content)
            if thoughts is not None:
                self._thoughts.append(thoughts)
        elif kind == "additional_tools":
            more = decoded(_more_tools, raw, path).tools
            self._tools += [(f"{path}.tools[{i}]", tool) for i, tool in enumerate(more)]
        elif kind == "configuration_update":
            update = decoded(_update, raw, path)
            for name, value in (("reasoning", update.reasoning), ("text", update.text)):
                if not is_null(value):
                    self._updates[name] = (f"{path}.{name}", value)
        elif kind == "compaction_trigger":
            raise refuse(path, "asks for a summary that only OpenAI makes; send fewer items instead.")
        elif kind == "item_reference":
            raise refuse(
                path, "refers to an item that a server keeps; this router keeps none: send the item."
            )
        elif kind not in _LEFT_OUT:
            known = "message, function_call, function_call_output, custom_tool_call, custom_tool_call_output"
            text = f"{path}.type is {kind[:40]!r}; this router reads {known} and reasoning."
            raise BadRequest(text, param=f"{path}.type")

    def _take_message(self, message: _Message, path: str) -> None:
        role = _ROLES.get(message.role)
        if role is None:
            text = f"{path}.role is {message.role[:40]!r}; it must be one of {', '.join(_ROLES)}."
            raise BadRequest(text, param=f"{path}.role")
        where = f"{path}.content"
        if first_byte(message.content) == b'"':
            self.say(role, message.content, path)
            return
        if first_byte(message.content) != b"[":
            raise BadRequest(f"{where} must be a string or a list of parts.", param=where)
        parts = decoded(_parts, message.content, where)
        if role == "assistant":
            self.say(role, _joined(parts, where), path)
        else:
            said = [_part(part, f"{where}[{i}]") for i, part in enumerate(parts)]
            lone = len(said) == 1 and said[0]["type"] == "text"
            self.say(role, said[0]["text"] if lone else said, path)

    def _take_call(self, call: _Call, path: str, *, custom: bool) -> None:
        turn = self._open or self.say("assistant", None, path)
        arguments = msgspec.json.encode({"input": call.input}).decode() if custom else call.arguments
        function = {"name": chat_name(call.name, call.namespace), "arguments": arguments}
        calls = turn.message.setdefault("tool_calls", [])
        calls.append({"id": call.call_id, "type": "function", "function": function})
        self._calls[call.call_id] = turn

    def _take_output(self, output: _Output, path: str) -> None:
        turn = self._calls.get(output.call_id)
        if turn is None:
            missing = (
                f"{path} answers the call {output.call_id[:80]!r}, which input does not hold. This router"
                " keeps no responses: send the whole conversation as input."
            )
            raise BadRequest(missing, param=f"{path}.call_id", name="unknown_call")
        text, carried = _output_of(output.output, f"{path}.output")
        said = {"role": "tool", "tool_call_id": output.call_id, "content": text}
        turn.outputs.append((said, path))
        if carried:
            turn.carried += carried
            turn.carriers.append(len(turn.outputs))
        self._open = None

    def messages(self) -> Messages:
        """Return all messages, each call's outputs right behind it."""
        said: list[Said] = []
        origins: list[str] = []
        places: dict[int, int] = {}
        for turn in _with_one_beginning(self._turns):
            places[id(turn)] = len(said)
            said.append(turn.message)
            origins.append(turn.origin)
            for output, origin in turn.outputs:
                said.append(output)
                origins.append(origin)
            if turn.carried:
                what = "Image" if all(part["type"] == "image_url" for part in turn.carried) else "File"
                number = turn.carriers[0]
                label = {"type": "text", "text": _FROM_A_TOOL.format(what=what, number=number)}
                said.append({"role": "user", "content": [label, *turn.carried]})
                origins.append(turn.outputs[number - 1][1])
        if not said:
            raise BadRequest("input holds no message.", param="input")
        return Messages(said, origins, self._recalled(said, places), self._tools, self._updates)

    def _recalled(self, said: list[Said], places: dict[int, int]) -> Recalled | None:
        """Return the messages with the thoughts of those that made the calls, where any came.

        Of what a model thought before the last words of a user only signatures are sent, as OpenAI does it:
        no model reads the rest again, and some bill it.
        """
        users = [places[id(turn)] for turn in self._turns if turn.message["role"] == "user"]
        last = max(users, default=-1)
        found: dict[
            int, Thoughts
        ] = {}  # one a message, so that no offer is sent more than all are counted for
        for thoughts in self._thoughts:
            turn = next((self._calls[call_id] for call_id in thoughts.calls if call_id in self._calls), None)
            if turn is not None:
                place = places[id(turn)]
                found[place] = thoughts if place > last else Thoughts(thoughts.writer, thoughts.calls)
        return Recalled(said, found) if found else None


def _with_one_beginning(turns: Sequence[_Turn]) -> list[_Turn]:
    """Join the system messages that begin a conversation: many chat templates take one, and only there."""
    count = 0
    while count < len(turns) and turns[count].message["role"] == "system":
        count += 1
    if count < 2:
        return list(turns)
    texts: list[str] = []
    for turn in turns[:count]:
        content = turn.message["content"]
        parts = [part.get("text", NULL) for part in content] if isinstance(content, list) else [content]
        texts += [part if isinstance(part, str) else text_at(part, turn.origin) for part in parts]
    return [_Turn({"role": "system", "content": "\n\n".join(texts)}, turns[0].origin), *turns[count:]]


def _joined(parts: Sequence[_Part], path: str) -> str:
    """Return the text of an assistant's message; a refusal is what was said."""
    texts: list[str] = []
    for i, part in enumerate(parts):
        if part.type in _TEXTS:
            texts.append(text_at(part.text, f"{path}[{i}].text"))
        elif part.type == "refusal":
            texts.append(text_at(part.refusal, f"{path}[{i}].refusal"))
        else:
            raise _unknown_part(part.type, f"{path}[{i}]", "output_text and refusal")
    return "".join(texts)


def _part(part: _Part, path: str) -> Said:
    if part.type in _TEXTS:
        if first_byte(part.text) != b'"':
            raise BadRequest(f"{path}.text must be a string.", param=f"{path}.text")
        return {"type": "text", "text": part.text}
    if part.type == "input_image":
        return _image(part, path)
    if part.type == "input_file":
        return _file(part, path)
    if part.type == "input_audio":
        if first_byte(part.input_audio) != b"{":
            raise BadRequest(f"{path}.input_audio must be an object.", param=f"{path}.input_audio")
        return {"type": "input_audio", "input_audio": part.input_audio}
    raise _unknown_part(part.type, path, "input_text, input_image, input_file and input_audio")


def _file(part: _Part, path: str) -> Said:
    if part.file_url is not None or part.file_id is not None or is_null(part.file_data):
        raise refuse(path, "must hold file_data: the router keeps no files and fetches none.")
    named = {} if part.filename is None else {"filename": part.filename}
    return {"type": "file", "file": {**named, "file_data": part.file_data}}


def _image(part: _Part, path: str) -> Said:
    if is_null(part.image_url):
        raise refuse(path, "must hold image_url: the router keeps no files.")
    if first_byte(part.image_url) != b'"':
        raise BadRequest(f"{path}.image_url must be a string.", param=f"{path}.image_url")
    known = part.detail in ("low", "high", "auto")  # the Responses API knows more than chat does
    return {
        "type": "image_url",
        "image_url": {"url": part.image_url, **({"detail": part.detail} if known else {})},
    }


def _output_of(raw: Raw, path: str) -> tuple[str | Raw, list[Said]]:
    """Return the text of an output, and the images and files in it."""
    if first_byte(raw) == b'"':
        return raw, []
    if first_byte(raw) != b"[":
        raise BadRequest(f"{path} must be a string or a list of parts.", param=path)
    texts: list[str] = []
    carried: list[Said] = []
    parts = decoded(_parts, raw, path)
    for i, part in enumerate(parts):
        if part.type in _TEXTS:
            texts.append(text_at(part.text, f"{path}[{i}].text"))
        elif part.type == "input_image":
            carried.append(_image(part, f"{path}[{i}]"))
        elif part.type == "input_file":
            carried.append(_file(part, f"{path}[{i}]"))
        else:
            raise _unknown_part(part.type, f"{path}[{i}]", "input_text, input_image and input_file")
    follows = f"The {'image' if carried[0]['type'] == 'image_url' else 'file'} follows." if carried else ""
    return "\n".join(texts) or follows, carried


def _unknown_part(kind: str, path: str, known: str) -> BadRequest:
    return BadRequest(f"{path}.type is {kind[:40]!r}; this router reads {known} here.", param=f"{path}.type")
