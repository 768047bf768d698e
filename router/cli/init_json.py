"""JSON as people write it in settings: comments, trailing commas, names without quotes, edited in place."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from router.cli.init_merge import CannotMerge, Node

_SPACE = re.compile(r"(?:[\s\ufeff]+|//[^\n]*|/\*.*?\*/)*", re.DOTALL)
_NAME = re.compile(r"[\w$-]+")
_STRING = re.compile(r""""(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'""", re.DOTALL)
_PLAIN = re.compile(r"[^\s,\]}:\"'/]+")
_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "0": "\0", "\n": ""}
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|.)", re.DOTALL)
_STEP = "  "
_SHORT = 72


@dataclass(frozen=True)
class Json:
    """The form of JSON, JSONC and JSON5 files."""

    def parse(self, text: str) -> Node | None:
        """Return the root; raises CannotMerge with the line of a fault."""
        reader = _Reader(text)
        if reader.here >= len(text):
            return None
        root = reader.value()
        reader.skip()
        if reader.here < len(text):
            raise reader.fault("more text after the end of the value")
        return root

    def new(self, value: Any) -> str:
        """Write a whole file."""
        return _written(value, "") + "\n"

    def replace(self, text: str, node: Node, value: Any) -> str:
        """Write another value where a node stands."""
        return text[: node.start] + _written(value, _indent_of(text, node.start)) + text[node.end :]

    def add_member(self, text: str, node: Node, key: str, value: Any) -> str:
        """Add a member after the last one, on a line of its own."""
        last = list((node.members or {}).values())[-1:]
        return self._add(text, node, last, f"{json.dumps(key)}: ", value)

    def add_item(self, text: str, node: Node, value: Any) -> str:
        """Add an item after the last one, on a line of its own."""
        return self._add(text, node, list(node.items or ())[-1:], "", value)

    def _add(self, text: str, node: Node, last: list[Node], name: str, value: Any) -> str:
        outer = _indent_of(text, node.start)
        indent = outer + _STEP
        if last and "\n" in text[node.start : last[0].start]:
            indent = _indent_of(text, last[0].start)
        line = f"\n{indent}{name}{_written(value, indent)}"
        if last and "\n" not in text[node.start : node.end] and "\n" not in line[1:]:
            return f"{text[: last[0].end]}, {line.strip()}{text[last[0].end :]}"
        if not last:
            return f"{text[: node.start + 1]}{line}\n{outer}{text[node.end - 1 :]}"
        after = last[0].end
        comma = _comma_after(text, after)
        before, rest = (text[:comma], text[comma:]) if comma else (text[:after] + ",", text[after:])
        # A comment behind the last member stays on its line.
        trail = re.match(r"[ \t]*(?://[^\n]*|/\*[^\n]*?\*/)?", rest)
        cut = trail.end() if trail is not None and rest[trail.end() : trail.end() + 1] == "\n" else 0
        ending = "," if comma else ""
        tail = rest[cut:] if "\n" in text[after : node.end] else f"\n{outer}{rest[cut:].lstrip()}"
        return f"{before}{rest[:cut]}{line}{ending}{tail}"


class _Reader:
    """Read values one after another; `here` stands behind what was read."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.here = 0
        self.skip()

    def fault(self, what: str) -> CannotMerge:
        return CannotMerge(f"line {self.text.count(chr(10), 0, self.here) + 1}: {what}")

    def skip(self) -> None:
        found = _SPACE.match(self.text, self.here)
        self.here = found.end() if found is not None else self.here

    def value(self) -> Node:
        start = self.here
        match self.text[start : start + 1]:
            case "{":
                members = self._members()
                plain = {key: member.value for key, member in members.items()}
                return Node(start, self.here, plain, members=members)
            case "[":
                items = self._items()
                return Node(start, self.here, [item.value for item in items], items=items)
            case '"' | "'":
                said = self._string()
                return Node(start, self.here, said)
        found = _PLAIN.match(self.text, start)
        if found is None:
            raise self.fault("a value is missing")
        self.here = found.end()
        return Node(start, self.here, _plain(found[0]))

    def _string(self) -> str:
        found = _STRING.match(self.text, self.here)
        if found is None:
            raise self.fault("a text without its closing quote")
        self.here = found.end()
        return _ESCAPE.sub(_unescaped, found[0][1:-1])

    def _key(self) -> str:
        if self.text[self.here : self.here + 1] in ('"', "'"):
            return self._string()
        found = _NAME.match(self.text, self.here)
        if found is None:
            raise self.fault("a name is missing")
        self.here = found.end()
        return found[0]

    def _members(self) -> dict[str, Node]:
        members: dict[str, Node] = {}
        for _ in self._until("}"):
            key = self._key()
            self.skip()
            if self.text[self.here : self.here + 1] != ":":
                raise self.fault(f"no colon after {key!r}")
            self.here += 1
            self.skip()
            members[key] = self.value()
        return members

    def _items(self) -> list[Node]:
        return [self.value() for _ in self._until("]")]

    def _until(self, closing: str) -> Any:
        """Stop before each entry until the bracket closes."""
        self.here += 1
        self.skip()
        while self.text[self.here : self.here + 1] != closing:
            yield None
            self.skip()
            found = self.text[self.here : self.here + 1]
            if found == ",":
                self.here += 1
                self.skip()
            elif found != closing:
                raise self.fault(f"a comma or {closing} is missing")
        self.here += 1


def _plain(word: str) -> Any:
    try:
        return json.loads(word)
    except ValueError:
        return word  # a number as JSON5 writes it: compared, never kept


def _unescaped(found: re.Match[str]) -> str:
    code = found[1]
    if code[0] in "ux" and len(code) > 1:
        return chr(int(code[1:], 16))
    return _ESCAPES.get(code, code)


def _written(value: Any, indent: str) -> str:
    """Write a value as a person would: what is short and flat stays on one line."""
    flat = isinstance(value, (dict, list)) and not any(isinstance(v, (dict, list)) for v in _values(value))
    line = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, (dict, list)) or not value or (flat and len(line) <= _SHORT):
        return f"{{ {line[1:-1]} }}" if isinstance(value, dict) and value else line
    inner = indent + _STEP
    if isinstance(value, dict):
        parts = [f"{json.dumps(key)}: {_written(part, inner)}" for key, part in value.items()]
        return "{\n" + ",\n".join(inner + part for part in parts) + f"\n{indent}}}"
    return "[\n" + ",\n".join(inner + _written(part, inner) for part in value) + f"\n{indent}]"


def _values(value: dict[str, Any] | list[Any]) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value


def _indent_of(text: str, at: int) -> str:
    line = text[text.rfind("\n", 0, at) + 1 : at]
    return line[: len(line) - len(line.lstrip())]


def _comma_after(text: str, at: int) -> int | None:
    """Return the place behind the comma that follows, None where none does."""
    found = _SPACE.match(text, at)
    here = found.end() if found is not None else at
    return here + 1 if text[here : here + 1] == "," else None
