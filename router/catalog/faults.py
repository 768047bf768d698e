"""What is wrong with a catalog: every fault at its file and line, in words that name the fix."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from router.catalog.lines import FieldPath, line_of, scan
from router.catalog.snapshot import Fault

Schema = TypeVar("Schema", bound=BaseModel)

_MOST_TOLD = 100  # of one table: what is no catalog at all has a fault a line
_PLAIN_WORDS = {
    "missing": "this field is required",
    "date_type": "write a date without quotes, such as 2027-01-31",
    "bool_type": "write true or false, without quotes",
    "string_type": 'write a text in quotes, such as "novita"',
    "int_type": "write a whole number without quotes, such as 65_536",
    "list_type": 'write a list, such as ["text", "image"]',
    "dict_type": "write a table, such as { input = 0.80, output = 3.40 }",
    "model_type": "write a table, such as { input = 0.80, output = 3.40 }",
    "datetime_type": "write a moment without quotes, such as 2026-08-16T16:00:00Z",
    "string_pattern_mismatch": "holds a character that is not allowed here, such as a blank",
    "string_too_short": "may not be empty",
    "string_too_long": "is too long",
    "too_short": "give at least one",
    "timezone_aware": "say the time zone, such as 2026-08-16T16:00:00Z",
}


class CatalogFaults(Exception):
    """The catalog cannot be used; `faults` holds every fault of every file."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(str(fault) for fault in self.faults))


@dataclass
class Source:
    """Hold one catalog file: its name below the catalog's directory, its text and its parsed TOML."""

    file: str
    text: str
    data: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def lines(self) -> dict[FieldPath, int]:
        """Map each field to its line; scanned only when something is to be reported."""
        try:
            return scan(self.text)
        except RecursionError:  # nested as deeply as can be parsed at all; the fault still names its field
            return {}


@dataclass
class Report:
    """Collect the faults and warnings of one look at a catalog."""

    faults: list[Fault] = field(default_factory=list)
    warnings: list[Fault] = field(default_factory=list)

    def fault(self, source: Source, path: FieldPath, message: str) -> None:
        """Note what makes the catalog unusable."""
        self.faults.append(_located(source, path, message))

    def warn(self, source: Source, path: FieldPath, message: str) -> None:
        """Note what works and is probably not meant."""
        self.warnings.append(_located(source, path, message))

    def is_faulty(self, source: Source, path: FieldPath) -> bool:
        """Say whether a fault was noted at or below a place."""
        start = dotted(path)
        return any(fault.file == source.file and fault.path.startswith(start) for fault in self.faults)

    def parse(
        self, schema: type[Schema], source: Source, data: Mapping[str, Any], at: FieldPath = ()
    ) -> Schema | None:
        """Validate a table; note its faults and return what is left without the faulty fields.

        Going on without them lets the checks across fields and files run as well, so that the operator
        sees all faults at once. None when a required field is faulty.
        """
        try:
            return schema.model_validate(data)
        except ValidationError as error:
            found = error.errors(include_url=False)
        details = found[:_MOST_TOLD]
        for detail in details:
            where = at + tuple(detail["loc"])
            self.fault(source, where, _say(detail, schema))
        if len(found) > _MOST_TOLD:
            self.fault(source, at, f"{len(found) - _MOST_TOLD:,} more faults here")
            return None
        try:
            return schema.model_validate(_without(data, [_faulty_part(detail) for detail in details]))
        except ValidationError:
            return None


def syntax_fault(file: str, text: str, error: tomllib.TOMLDecodeError) -> Fault:
    """Locate a TOML syntax error, whose line is only in its words on older Pythons."""
    words = str(error)
    message, _, place = words.rpartition(" (at ")
    number = "".join(c for c in place.partition(",")[0] if c.isdigit())
    line = int(number) if number else max(1, len(text.splitlines()))
    return Fault(file, line, "", f"not TOML: {message or words}")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return '; did you mean "x"?' for the nearest known word, else the known words when they are few."""
    words = sorted(known)
    near = difflib.get_close_matches(word.lower(), words, n=1, cutoff=0.6)
    if near:
        return f'; did you mean "{near[0]}"?'
    return f" (known: {', '.join(words)})" if 0 < len(words) <= 24 else ""


def dotted(path: FieldPath) -> str:
    """Render ("offers", 0, "price") as `offers[0].price`."""
    return "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in path).lstrip(".")


def _located(source: Source, path: FieldPath, message: str) -> Fault:
    return Fault(source.file, line_of(source.lines, path), _one_line(dotted(path)), _one_line(message))


def _one_line(text: str) -> str:
    """Escape what would break a line or steer a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _say(detail: ErrorDetails, schema: type[BaseModel]) -> str:
    kind, given = detail["type"], detail["input"]
    if kind == "extra_forbidden":
        word = str(detail["loc"][-1])
        return f'unknown field "{word}"{did_you_mean(word, _fields_at(schema, detail["loc"][:-1]))}'
    if kind == "literal_error":
        known = [word.strip("' ") for word in detail["ctx"]["expected"].replace(" or ", ", ").split(",")]
        return f'unknown word "{given}"{did_you_mean(str(given), known)}'
    said = _PLAIN_WORDS.get(kind) or _bound(detail) or detail["msg"]
    return f"{said}, not {Decimal(given):f}" if isinstance(given, int | Decimal) else said


def _bound(detail: ErrorDetails) -> str | None:
    bounds = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
    for sign, words in bounds.items():
        if sign in (known := detail.get("ctx", {})):
            return f"must be {words} {known[sign]}"
    return None


def _fields_at(schema: type[BaseModel], loc: tuple[int | str, ...]) -> Iterable[str]:
    """Return the fields that the schema has at a place inside it."""
    here: type[BaseModel] = schema
    for step in loc:
        if isinstance(step, int) or step not in here.model_fields:
            continue
        inner = _model_in(here.model_fields[step].annotation)
        if inner is not None:
            here = inner
    return here.model_fields


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for part in getattr(annotation, "__args__", ()):
        if (found := _model_in(part)) is not None:
            return found
    return None


def _faulty_part(detail: ErrorDetails) -> FieldPath:
    """Say what to leave out: the faulty field, or the table that lacks one."""
    loc = tuple(detail["loc"])
    return loc[:-1] if detail["type"] == "missing" and len(loc) > 1 else loc


def _without(data: Mapping[str, Any], locs: Sequence[FieldPath]) -> dict[str, Any]:
    """Copy a table without the values at `locs`, which ascend within each list."""
    copy = dict(data)
    for loc in reversed(locs):
        head, rest = str(loc[0]), loc[1:]
        inner = copy.get(head)
        if rest and isinstance(inner, Mapping):
            copy[head] = _without(inner, [rest])
        elif rest and isinstance(inner, list) and isinstance(rest[0], int):
            copy[head] = _without_in_list(inner, rest[0], rest[1:])
        else:
            copy.pop(head, None)
    return copy


def _without_in_list(values: list[Any], index: int, rest: FieldPath) -> list[Any]:
    inside = values[index]
    kept = [_without(inside, [rest])] if rest and isinstance(inside, Mapping) else []
    return [*values[:index], *kept, *values[index + 1 :]]
