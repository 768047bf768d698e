"""Make a minimal value that is valid for a JSON Schema; enough for tool arguments and structured output.

Covers the part of JSON Schema that OpenAI's structured output allows (objects, arrays, enums, const, strings
with format and length, numbers with bounds, anyOf, oneOf, allOf, local $ref); `pattern` is not followed.
"""

from __future__ import annotations

from typing import Any

MAX_DEPTH = 32
MAX_ITEMS = 100
MAX_CHARS = 1000
FORMATS = {
    "date": "2026-01-01",
    "date-time": "2026-01-01T00:00:00Z",
    "time": "00:00:00Z",
    "duration": "P1D",
    "email": "demo@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}


def example(schema: dict[str, Any]) -> Any:
    """Return a small value that fits the schema; an impossible or endless one gives null at its depth."""
    return _value(schema, schema, 0)


def _value(schema: Any, root: dict[str, Any], depth: int) -> Any:
    if not isinstance(schema, dict) or depth > MAX_DEPTH:
        return None
    if "const" in schema:
        return schema["const"]
    if isinstance(schema.get("enum"), list) and schema["enum"]:
        return schema["enum"][0]
    if isinstance(schema.get("$ref"), str):
        return _value(_resolved(schema["$ref"], root), root, depth + 1)
    for word in ("anyOf", "oneOf"):
        if isinstance(schema.get(word), list) and schema[word]:
            return _value(_shallowest(schema[word]), root, depth + 1)
    if isinstance(schema.get("allOf"), list):
        return _value(_merged(schema, root), root, depth + 1)
    kind = _kind(schema)
    if kind == "object":
        return _object(schema, root, depth)
    if kind == "array":
        return _array(schema, root, depth)
    if kind == "string":
        return _string(schema)
    if kind in ("integer", "number"):
        return _number(schema, whole=kind == "integer")
    return False if kind == "boolean" else None


def _kind(schema: dict[str, Any]) -> str:
    kind = schema.get("type")
    if isinstance(kind, list) and kind:
        kind = next((k for k in kind if k != "null"), "null")
    if isinstance(kind, str):
        return kind
    return "array" if "items" in schema else "object"


def _resolved(ref: str, root: dict[str, Any]) -> Any:
    """Follow a local reference such as `#/$defs/Step` (JSON Pointer, RFC 6901)."""
    found: Any = root
    for step in ref.lstrip("#").split("/")[1:]:
        found = found.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(found, dict) else None
    return found


def _shallowest(options: list[Any]) -> Any:
    """Prefer an option without a reference: a recursive type ends there."""
    return next((o for o in options if isinstance(o, dict) and "$ref" not in o), options[0])


def _merged(schema: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    merged: dict[str, Any] = {key: value for key, value in schema.items() if key != "allOf"}
    for part in schema["allOf"]:
        resolved = _resolved(part["$ref"], root) if isinstance(part, dict) and "$ref" in part else part
        for key, value in (resolved if isinstance(resolved, dict) else {}).items():
            if isinstance(value, dict) and isinstance(merged.get(key), dict):
                merged[key] = merged[key] | value
            elif isinstance(value, list) and isinstance(merged.get(key), list):
                merged[key] = merged[key] + value
            else:
                merged[key] = value
    return merged


def _object(schema: dict[str, Any], root: dict[str, Any], depth: int) -> dict[str, Any]:
    properties = schema.get("properties")
    required = schema.get("required")
    known = properties if isinstance(properties, dict) else {}
    names = [name for name in required if isinstance(name, str)] if isinstance(required, list) else []
    return {name: _value(known.get(name, {"type": "string"}), root, depth + 1) for name in names}


def _array(schema: dict[str, Any], root: dict[str, Any], depth: int) -> list[Any]:
    fixed = schema.get("prefixItems")
    kinds = list(fixed) if isinstance(fixed, list) else []
    missing = min(MAX_ITEMS, _bound(schema, "minItems", 0)) - len(kinds)
    kinds += [schema.get("items", {"type": "string"})] * missing
    return [_value(kind, root, depth + 1) for kind in kinds]


def _string(schema: dict[str, Any]) -> str:
    form = schema.get("format")
    if isinstance(form, str) and form in FORMATS:
        return FORMATS[form]
    text = "demo".ljust(min(MAX_CHARS, _bound(schema, "minLength", 0)), ".")
    return text[: _bound(schema, "maxLength", len(text))]


def _number(schema: dict[str, Any], *, whole: bool) -> int | float:
    """Return the number nearest to 0 inside the bounds, on the grid of `multipleOf`."""
    low, high = _limit(schema, "minimum", "exclusiveMinimum"), _limit(schema, "maximum", "exclusiveMaximum")
    step = schema.get("multipleOf")
    grid = step if isinstance(step, int | float) and step > 0 else 1 if whole else None
    value: int | float = 0
    if low is not None and (value < low[0] or (low[1] and value == low[0])):
        value = _beyond(low, grid, 1, high)
    elif high is not None and (value > high[0] or (high[1] and value == high[0])):
        value = _beyond(high, grid, -1, low)
    return int(value) if whole or float(value).is_integer() else value


def _limit(schema: dict[str, Any], inclusive: str, exclusive: str) -> tuple[float, bool] | None:
    for word in (exclusive, inclusive):
        bound = schema.get(word)
        if isinstance(bound, int | float) and not isinstance(bound, bool):
            return bound, word == exclusive
    return None


def _beyond(
    bound: tuple[float, bool], grid: float | None, sign: int, other: tuple[float, bool] | None
) -> int | float:
    """Return the first allowed number at or after a bound, away from 0."""
    edge, exclusive = bound
    if grid is None:
        if not exclusive:
            return edge
        return (edge + other[0]) / 2 if other is not None else edge + sign
    steps = -(-(edge * sign) // grid)
    if exclusive and steps * grid == edge * sign:
        steps += 1
    return steps * grid * sign


def _bound(schema: dict[str, Any], word: str, default: int) -> int:
    value = schema.get(word)
    return value if isinstance(value, int) and value >= 0 else default
