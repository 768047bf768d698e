"""TOML edited in place: values of one line, tables under a heading of their own.

Statements are found line by line; what a key, a heading or a value says, `tomllib` says. Every edit is read
again, so a form that cannot be edited this way (inline tables, dotted keys) is refused, never broken.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from router.cli.init_merge import CannotMerge, Node

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_HEADING = re.compile(r"[ \t]*\[")
_QUOTED = r"""(?:"(?:[^"\\\n]|\\.)*"|'[^'\n]*')"""
_KEY = re.compile(rf"""[ \t]*((?:{_QUOTED}|[^\s"'=#])(?:{_QUOTED}|[^"'=#\n])*?)[ \t]*=[ \t]*""")
_VALUE = re.compile(rf"""(?!\"{{3}}|'{{3}})(?:{_QUOTED}|[^\s"'\[{{#]+)""")
_OPENING = re.compile(r"(?:#[^\n]*\n)+(?=\n)")  # comments about the whole file
_MARK = "_"


@dataclass(frozen=True)
class _Table(Node):
    """A table: its path, and where a new line of it goes; None where it has no heading."""

    path: tuple[str, ...] = ()
    grows_at: int | None = None


@dataclass
class _Found:
    """A table as it is found: its lines come before those of the next heading."""

    path: tuple[str, ...]
    grows_at: int | None = None
    members: dict[str, Node | _Found] = field(default_factory=dict)


@dataclass(frozen=True)
class Toml:
    """The form of TOML files."""

    def parse(self, text: str) -> Node | None:
        """Return the root, None where the file says nothing; raises CannotMerge."""
        try:
            values = tomllib.loads(text)
        except tomllib.TOMLDecodeError as fault:
            raise CannotMerge(f"it is not valid TOML: {fault}") from fault
        return _table(_found(text), values) if values else None

    def new(self, value: Any) -> str:
        """Write a whole file: its own values, then a heading for each table."""
        return "\n".join(_sections((), value))

    def replace(self, text: str, node: Node, value: Any) -> str:
        """Write another value where a node stands, which is on one line."""
        if isinstance(value, Mapping) or node.members is not None or node.start == node.end:
            raise CannotMerge(f"{node.value!r} is not written on a line of its own")
        return _checked(text[: node.start] + _written(value) + text[node.end :])

    def add_member(self, text: str, node: Node, key: str, value: Any) -> str:
        """Add a line behind the table's last one, or a table behind everything."""
        if not isinstance(node, _Table):
            raise CannotMerge("a table is written in braces")
        if isinstance(value, Mapping):
            gap = "" if text.endswith("\n\n") else "\n" if text.endswith("\n") else "\n\n"
            return _checked(text + gap + "\n".join(_sections((*node.path, key), value)))
        if node.grows_at is None:
            heading = f"[{_dotted(node.path)}]\n{_line(key, value)}"
            return _checked(f"{text.rstrip()}\n\n{heading}")
        before, after = text[: node.grows_at], text[node.grows_at :]
        newline = "" if not before or before.endswith("\n") else "\n"
        gap = "\n" if not before and after[:1] in ("[", "#") else ""
        return _checked(f"{before}{newline}{_line(key, value)}{gap}{after}")

    def add_item(self, text: str, node: Node, value: Any) -> str:
        """Refuse: no client needs it."""
        raise CannotMerge("a list would have to grow")


def _checked(text: str) -> str:
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        raise CannotMerge("its tables are written in braces or by dotted keys") from None
    return text


def _found(text: str) -> _Found:
    """Find every statement: where tables grow, and where values of one line stand."""
    opening = _OPENING.match(text)
    root = here = _Found((), opening.end() if opening is not None else 0)
    for start, end in _statements(text):
        statement = text[start:end]
        if _HEADING.match(statement):
            here = _under(root, _path_of(statement))
            here.grows_at = end
            continue
        key = _KEY.match(statement)
        if key is None:
            continue  # blank, or a comment
        *path, name = _path_of(f"{key[1]} = 0")
        value = _VALUE.match(statement, key.end())
        at = (start + key.end(), start + value.end()) if value is not None else (start, start)
        table = _under(here, tuple(path))
        table.members[name] = Node(*at, None)
        if here.grows_at is not None:
            here.grows_at = end
    return root


def _statements(text: str) -> Iterator[tuple[int, int]]:
    """Yield where statements begin and end; one of several lines ends where it can be read."""
    start = 0
    while start < len(text):
        end = start
        while True:
            found = text.find("\n", end)
            end = len(text) if found < 0 else found + 1
            try:
                tomllib.loads(text[start:end])
            except tomllib.TOMLDecodeError:
                if end < len(text):
                    continue
            break
        yield start, end
        start = end


def _path_of(statement: str) -> tuple[str, ...]:
    """Return the path of a heading, or of a key with a value."""
    value: Any = tomllib.loads(statement)
    path: list[str] = []
    while isinstance(value, dict) and value:
        ((name, value),) = value.items()
        path.append(name)
        if isinstance(value, list):  # a heading in two brackets begins one of several
            path.append(_MARK)
            break
    return tuple(path)


def _under(table: _Found, path: tuple[str, ...]) -> _Found:
    for name in path:
        inner = table.members.get(name)
        if not isinstance(inner, _Found):
            inner = table.members[name] = _Found((*table.path, name))
        table = inner
    return table


def _table(found: _Found, values: Mapping[str, Any]) -> _Table:
    members: dict[str, Node] = {}
    for name, value in values.items():
        inner = found.members.get(name)
        if isinstance(value, dict) and isinstance(inner, _Found):
            members[name] = _table(inner, value)
        else:
            at = (inner.start, inner.end) if isinstance(inner, Node) else (0, 0)
            members[name] = Node(*at, value)
    return _Table(0, 0, dict(values), members, path=found.path, grows_at=found.grows_at)


def _sections(path: tuple[str, ...], value: Mapping[str, Any]) -> list[str]:
    """Return a table and those in it, each as one text."""
    own = {key: said for key, said in value.items() if not isinstance(said, Mapping)}
    heading = f"[{_dotted(path)}]\n" if path and (own or not value) else ""
    lines = heading + "".join(_line(key, said) for key, said in own.items())
    inner = [(key, said) for key, said in value.items() if isinstance(said, Mapping)]
    return [
        *([lines] if lines else []),
        *(one for key, said in inner for one in _sections((*path, key), said)),
    ]


def _dotted(path: tuple[str, ...]) -> str:
    return ".".join(_key(name) for name in path)


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else _quoted(name)


def _line(key: str, value: Any) -> str:
    return f"{_key(key)} = {_written(value)}\n"


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, str):
        return _quoted(value)
    raise CannotMerge(f"{value!r} is no text, number or truth value")


def _quoted(text: str) -> str:
    inside = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in inside) + '"'
