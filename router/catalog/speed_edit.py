"""Change the `speed` of an offer in the text of its file, line by line, so that comments stay.

An edit is proved: the new text, read as TOML, differs from the old one in that speed alone.
"""

from __future__ import annotations

import copy
import difflib
import re
import tomllib
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from router.catalog.lines import FieldPath, scan

_NUMBER = r"[0-9][0-9_.eE+-]*"


def with_speed(text: str, index: int, values: Mapping[str, str]) -> str | None:
    """Return the text with `values` (`ttft_s`, `tok_s` as TOML numbers) in the speed of offer `index`.

    None where the text has a form that this does not edit safely, such as several offers on a line.
    """
    before = tomllib.loads(text, parse_float=Decimal)
    wanted = copy.deepcopy(before)
    wanted["offers"][index].setdefault("speed", {}).update({k: Decimal(v) for k, v in values.items()})
    where = scan(text.replace("\r\n", "\n"))
    lines = text.split("\n")
    lines = [f"{line}\n" for line in lines[:-1]] + lines[-1:]
    path: FieldPath = ("offers", index, "speed")
    if path in where:
        for key, value in values.items():
            _set(lines, where, (*path, key), value)
    else:
        _insert(lines, where, index, values)
    edited = "".join(lines)
    return edited if _reads(edited) == wanted else None


def _reads(text: str) -> dict[str, Any] | None:
    try:
        return tomllib.loads(text, parse_float=Decimal)
    except tomllib.TOMLDecodeError:
        return None


def _set(lines: list[str], where: Mapping[FieldPath, int], path: FieldPath, value: str) -> None:
    """Put a number into a speed that is there: in place of the old one, else beside the other."""
    key = str(path[-1])
    if path in where:
        at = where[path] - 1
        lines[at] = re.sub(rf"(\b{key}\s*=\s*){_NUMBER}", rf"\g<1>{value}", lines[at], count=1)
        return
    at = where[path[:-1]] - 1
    if lines[at].lstrip().startswith("["):
        _add(lines, at, f"{key} = {value}")
    elif re.match(r"\s*speed\s*\.", lines[at]):
        _add(lines, at, f"speed.{key} = {value}")
    elif re.search(r"\bspeed\s*=\s*\{\s*\}", lines[at]):
        lines[at] = re.sub(r"(\bspeed\s*=\s*)\{\s*\}", rf"\g<1>{{ {key} = {value} }}", lines[at], count=1)
    else:
        lines[at] = re.sub(r"(\bspeed\s*=\s*\{[^}]*?)(\s*\})", rf"\1, {key} = {value}\2", lines[at], count=1)


def _insert(lines: list[str], where: Mapping[FieldPath, int], index: int, values: Mapping[str, str]) -> None:
    """Add a speed behind the offer's price, or behind the offer's header where the price is a table."""
    at = where.get(("offers", index, "price"), 1) - 1
    if lines[at].lstrip().startswith("["):
        at = where[("offers", index)] - 1
    said = ", ".join(f"{key} = {value}" for key, value in values.items())
    _add(lines, at, f"speed = {{ {said} }}")


def _add(lines: list[str], at: int, text: str) -> None:
    """Add a line behind another, ended as that one is; a last line without an end keeps the file so."""
    line = lines[at]
    lines[at] = f"{line}{text}{_end_of(line)}" if _ended(line) else f"{line}\n{text}"


def _ended(line: str) -> bool:
    return line.endswith("\n")


def _end_of(line: str) -> str:
    """Return how a line ends; the last one may have no end, and gets the usual one."""
    return "\r\n" if line.endswith("\r\n") else "\n"


def unified_diff(file: str, before: str, after: str) -> str:
    """Return the change of a file as `patch -p1` reads it."""
    lines = difflib.unified_diff(
        _lines(before), _lines(after), fromfile=f"a/{file}", tofile=f"b/{file}", lineterm="\n"
    )
    return "".join(line if _ended(line) else f"{line}\n\\ No newline at end of file\n" for line in lines)


def _lines(text: str) -> list[str]:
    """Split at line feeds only: TOML knows no other line ends than these and CRLF."""
    return re.findall(r"[^\n]*\n|[^\n]+", text)
