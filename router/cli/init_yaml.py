"""YAML in block form and files of NAME=value lines, edited in place."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import yaml

from router.cli.init_merge import CannotMerge, Node

_STEP = 2
_ENV_LINE = re.compile(r"^(?:export\s+)?([A-Za-z_]\w*)=(.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Yaml:
    """The form of YAML files; mappings and lists in brackets are only ever replaced whole."""

    def parse(self, text: str) -> Node | None:
        """Return the root, None where the file is empty or has only comments; raises CannotMerge."""
        try:
            root = yaml.compose(text, Loader=yaml.SafeLoader)
            return None if root is None else _node(text, root)
        except yaml.YAMLError as fault:
            raise CannotMerge(f"it is not valid YAML: {fault}") from fault

    def new(self, value: Any) -> str:
        """Write a whole file."""
        return _written(value)

    def replace(self, text: str, node: Node, value: Any) -> str:
        """Write another value where a node stands."""
        if isinstance(value, (dict, list)):
            if node.value is not None and not (node.flow and not node.value):
                raise CannotMerge(f"{node.value!r} stands where a block belongs")
            line_start = text.rfind("\n", 0, node.start) + 1
            indent = len(text[line_start:]) - len(text[line_start:].lstrip(" ")) + _STEP
            rest = text[_line_end(text, node.end) :]
            return f"{text[: node.start].rstrip(' ')}\n{_block(value, indent)}{rest}"
        end = node.end - (text[node.end - 1 : node.end] == "\n")  # a block of text ends behind its last line
        return text[: node.start] + _scalar(value) + text[end:]

    def add_member(self, text: str, node: Node, key: str, value: Any) -> str:
        """Add a member after the last one."""
        return self._add(text, node, {key: value})

    def add_item(self, text: str, node: Node, value: Any) -> str:
        """Add an item after the last one."""
        return self._add(text, node, [value]) if node.items else self.replace(text, node, [value])

    def _add(self, text: str, node: Node, block: Any) -> str:
        if node.flow:
            raise CannotMerge("a mapping or a list is written in brackets")
        at = _line_end(text, _last_end(node))
        return f"{text[:at]}\n{_block(block, node.column)}{text[at:] or chr(10)}"


@dataclass(frozen=True)
class Env:
    """The form of environment files: one NAME=value a line."""

    def parse(self, text: str) -> Node:
        """Return the names with their values; a name that is set twice has its last one."""
        members = {
            found[1]: Node(found.start(2), found.end(2), found[2].strip().strip("\"'"))
            for found in _ENV_LINE.finditer(text)
        }
        return Node(0, len(text), {name: node.value for name, node in members.items()}, members=members)

    def new(self, value: Any) -> str:
        """Write a whole file."""
        return "".join(f"{name}={said}\n" for name, said in value.items())

    def replace(self, text: str, node: Node, value: Any) -> str:
        """Write another value on its line."""
        return text[: node.start] + str(value) + text[node.end :]

    def add_member(self, text: str, node: Node, key: str, value: Any) -> str:
        """Add a line."""
        return f"{text}{'' if not text or text.endswith(chr(10)) else chr(10)}{key}={value}\n"

    def add_item(self, text: str, node: Node, value: Any) -> str:
        """Refuse: there are no lists here."""
        raise CannotMerge("an environment file has no lists")


def _node(text: str, found: yaml.Node) -> Node:
    start, end = found.start_mark.index, found.end_mark.index
    if isinstance(found, yaml.MappingNode):
        members = {key.value: _node(text, value) for key, value in found.value}
        plain: Any = {key: member.value for key, member in members.items()}
        return Node(start, end, plain, members, None, found.start_mark.column, bool(found.flow_style))
    if isinstance(found, yaml.SequenceNode):
        items = [_node(text, value) for value in found.value]
        said = [item.value for item in items]
        return Node(start, end, said, None, items, found.start_mark.column, bool(found.flow_style))
    return Node(start, end, yaml.safe_load(text[start:end] or "null"))


def _last_end(node: Node) -> int:
    """Return where the last scalar ends; a block's own end lies behind the blank lines that follow it."""
    inner = list((node.members or {}).values()) + list(node.items or ())
    return node.end if node.flow or not inner else _last_end(inner[-1])


def _line_end(text: str, at: int) -> int:
    if at and text[at - 1] == "\n":  # a text block ends behind its last line
        return at - 1
    found = text.find("\n", at)
    return len(text) if found < 0 else found


def _written(value: Any) -> str:
    return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=1_000))


def _block(value: Any, indent: int) -> str:
    lines = _written(value).rstrip().split("\n")
    return "\n".join(" " * indent + line if line else line for line in lines)


def _scalar(value: Any) -> str:
    return _written(value).removesuffix("...\n").strip()
