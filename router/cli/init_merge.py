"""Put settings into a file that a user already has, one place after another, and touch nothing else.

The text is parsed into nodes that know where they stand; the first place that says something else is edited,
and the text is parsed again, until nothing differs. So comments, order and spacing of everything else stay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

IDENTITIES = ("id", "model_id", "name")
_MOST_EDITS = 200
_BOM = "\ufeff"
_KINDS = {list: "a list", str: "a text", int: "a number", float: "a number"}


class CannotMerge(Exception):
    """The file has a form that cannot be edited in place; the message says which."""


@dataclass(frozen=True)
class Node:
    """A value of the text: where it begins and ends, what it says, and what it holds."""

    start: int
    end: int
    value: Any
    members: Mapping[str, Node] | None = None
    items: Sequence[Node] | None = None
    column: int = 0
    flow: bool = True


class Form(Protocol):
    """A text format: how it is read, and how three edits are written."""

    def parse(self, text: str) -> Node | None:
        """Return the root, or None where there is no value; raises CannotMerge."""

    def new(self, value: Any) -> str:
        """Write a whole file."""

    def replace(self, text: str, node: Node, value: Any) -> str:
        """Write another value where a node stands."""

    def add_member(self, text: str, node: Node, key: str, value: Any) -> str:
        """Add a member to a mapping."""

    def add_item(self, text: str, node: Node, value: Any) -> str:
        """Add an item to a list."""


def merged(text: str, wanted: Any, form: Form) -> str:
    """Return the text with everything that `wanted` says in it; unchanged where it says so already.

    Mappings are merged by key, lists of mappings by their id or name; anything else is replaced. A byte order
    mark stays. Raises CannotMerge.
    """
    if text.startswith(_BOM):
        return _BOM + merged(text.removeprefix(_BOM), wanted, form)
    for edits in range(_MOST_EDITS):
        root = _parsed(text, form, edits)
        if root is not None and isinstance(wanted, Mapping) and root.members is None:
            raise CannotMerge(
                f"it holds {_KINDS.get(type(root.value), 'a value')}, where names with values belong"
            )
        if root is None:
            return (
                text + form.new(wanted) if not text or text.endswith("\n") else f"{text}\n{form.new(wanted)}"
            )
        edited = _first_edit(text, root, wanted, form)
        if edited is None:
            return text
        text = edited
    raise CannotMerge("its form keeps changing as it is edited")


def _parsed(text: str, form: Form, edits: int) -> Node | None:
    try:
        return form.parse(text)
    except CannotMerge:
        if not edits:
            raise
        raise CannotMerge(
            "it has a form that cannot be edited in place, such as an anchor or a block of text"
        ) from None


def value_at(text: str, path: Sequence[str | int], form: Form) -> Any:
    """Return what the text says at a path of keys and indexes, None where it says nothing."""
    node = form.parse(text.removeprefix(_BOM))
    for step in path:
        if node is None:
            return None
        if isinstance(step, str):
            node = (node.members or {}).get(step)
        else:
            node = node.items[step] if node.items is not None and step < len(node.items) else None
    return None if node is None else node.value


def _first_edit(text: str, node: Node, wanted: Any, form: Form) -> str | None:
    if isinstance(wanted, Mapping) and node.members is not None:
        for key, value in wanted.items():
            member = node.members.get(key)
            if member is None:
                return form.add_member(text, node, key, value)
            edited = _first_edit(text, member, value, form)
            if edited is not None:
                return edited
        return None
    if node.items is not None and _named(wanted):
        for value in wanted:
            same = next((item for item in node.items if _same(item, value)), None)
            if same is None:
                return form.add_item(text, node, value)
            edited = _first_edit(text, same, value, form)
            if edited is not None:
                return edited
        return None
    return None if node.value == wanted else form.replace(text, node, wanted)


def _named(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(v, Mapping) and _identity(v) is not None for v in value)


def _identity(value: Mapping[str, Any]) -> str | None:
    return next((key for key in IDENTITIES if key in value), None)


def _same(item: Node, value: Mapping[str, Any]) -> bool:
    key = _identity(value)
    return key is not None and isinstance(item.value, Mapping) and item.value.get(key) == value[key]
