"""Find the line of every field in a TOML text that `tomllib` has already accepted.

`tomllib` keeps no positions, so this walks the text a second time and reads only its structure: keys, table
headers, arrays and inline tables (toml.io/en/v1.0.0). It is used when there is something to report.
"""

from __future__ import annotations

import re
import tomllib

FieldPath = tuple[str | int, ...]

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_INLINE_BLANK = re.compile(r"[ \t]*")
_KEY_PART = re.compile(r"""[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'""")
_PLAIN_PAIR = re.compile(r"([A-Za-z0-9_-]+)[ \t]*=[ \t]*")
_STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?"""(?:"{0,2})'
    r"|'''.*?'''(?:'{0,2})"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'",
    re.DOTALL,
)
_SCALAR = re.compile(r"[^,\]}#\n]*")


def scan(text: str) -> dict[FieldPath, int]:
    """Map each path, such as ("offers", 0, "price", "input"), to its line, counted from 1."""
    return _Scanner(text).document()


def offer_lines(text: str) -> dict[tuple[str, str], int]:
    """Return the line of each offer of a model's file, by (provider, upstream model); {} for no TOML."""
    try:
        tables = tomllib.loads(text).get("offers", [])
        lines = scan(text)
    except (ValueError, RecursionError):  # it has been edited since, and is rejected
        return {}
    if not isinstance(tables, list):
        return {}
    return {
        (str(table.get("provider")), str(table.get("model"))): line_of(lines, ("offers", at))
        for at, table in enumerate(tables)
        if isinstance(table, dict)
    }


def line_of(lines: dict[FieldPath, int], path: FieldPath) -> int:
    """Return the line of a field, else of the nearest table around it, else 1."""
    for end in range(len(path), 0, -1):
        if (line := lines.get(path[:end])) is not None:
            return line
    return 1


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.lines: dict[FieldPath, int] = {}
        self.counts: dict[FieldPath, int] = {}
        self._counted_to = 0
        self._line = 1

    def document(self) -> dict[FieldPath, int]:
        table: FieldPath = ()
        while self._skip(_BLANK) < len(self.text):
            if self.text.startswith("[", self.at):
                table = self._header()
            else:
                self._pair(table)
        return self.lines

    def _header(self) -> FieldPath:
        line = self._line_here()
        many = self.text.startswith("[[", self.at)
        self.at += 2 if many else 1
        table = self._inside_last(self._key())
        if many:
            index = self.counts.get(table, 0)
            self.counts[table] = index + 1
            self.lines.setdefault(table, line)
            table = (*table, index)
        self.lines[table] = line
        self._skip(_INLINE_BLANK)
        self.at += 2 if many else 1
        return table

    def _inside_last(self, key: FieldPath) -> FieldPath:
        """Point a header such as [offers.price] at the newest element of [[offers]]."""
        path: FieldPath = ()
        for number, part in enumerate(key):
            path = (*path, part)
            if number < len(key) - 1 and path in self.counts:
                path = (*path, self.counts[path] - 1)
        return path

    def _pair(self, table: FieldPath) -> None:
        line = self._line_here()
        path = table
        if (plain := _PLAIN_PAIR.match(self.text, self.at)) is not None:  # nearly every key, in one step
            path = (*table, plain[1])
            self.lines.setdefault(path, line)
            self.at = plain.end()
        else:
            for part in self._key():
                path = (*path, part)
                self.lines.setdefault(path, line)
            self.at += 1  # the equals sign
            self._skip(_INLINE_BLANK)
        self._value(path)

    def _key(self) -> FieldPath:
        parts: list[str] = []
        while True:
            self._skip(_INLINE_BLANK)
            match = _KEY_PART.match(self.text, self.at)
            if match is None:
                raise ValueError(f"no key at offset {self.at}: scan only texts that tomllib accepts")
            self.at = match.end()
            parts.append(match[0].strip("\"'"))
            self._skip(_INLINE_BLANK)
            if not self.text.startswith(".", self.at):
                return tuple(parts)
            self.at += 1

    def _value(self, path: FieldPath) -> None:
        opening = self.text[self.at]
        if opening == "[":
            self._array(path)
        elif opening == "{":
            self._inline_table(path)
        else:
            match = (_STRING if opening in "\"'" else _SCALAR).match(self.text, self.at)
            self.at = match.end() if match else len(self.text)

    def _array(self, path: FieldPath) -> None:
        self.at += 1
        index = 0
        while self._skip(_BLANK) < len(self.text) and self.text[self.at] != "]":
            self.lines[(*path, index)] = self._line_here()
            self._value((*path, index))
            index += 1
            self._comma()
        self.at += 1

    def _inline_table(self, path: FieldPath) -> None:
        self.at += 1
        while self._skip(_BLANK) < len(self.text) and self.text[self.at] != "}":
            self._pair(path)
            self._comma()
        self.at += 1

    def _comma(self) -> None:
        if self._skip(_BLANK) < len(self.text) and self.text[self.at] == ",":
            self.at += 1

    def _skip(self, blank: re.Pattern[str]) -> int:
        match = blank.match(self.text, self.at)
        self.at = match.end() if match else self.at
        return self.at

    def _line_here(self) -> int:
        self._line += self.text.count("\n", self._counted_to, self.at)
        self._counted_to = self.at
        return self._line
