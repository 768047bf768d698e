"""Correct OpenAI bodies, made from the request: what the scripted upstream says when nothing is scripted."""

from __future__ import annotations

import json
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.upstream import Received


class Counts(Enum):
    """Say where usage numbers come from when the test gives none."""

    COUNTED = "counted"  # one token a word
    MISSING = "missing"  # no usage field at all


COUNTED = Counts.COUNTED
MISSING = Counts.MISSING


def dumps(value: Any, indented: bool = False) -> bytes:
    text = json.dumps(value, ensure_ascii=False, indent=1 if indented else None)
    return text.encode("utf-8", "backslashreplace")


def words(text: str) -> list[str | dict[str, Any] | bytes]:
    first, *others = text.split(" ")
    return [first, *(f" {word}" for word in others)]


def usage_field(request: Received, text: str, counts: Any) -> dict[str, Any]:
    if counts is MISSING:
        return {}
    if counts is not COUNTED:
        return {"usage": counts}
    messages = request.json.get("messages", []) if isinstance(request.json, dict) else []
    prompt = len(dumps(messages).split())
    completion = len(text.split())
    return {
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        }
    }


def completion(
    request: Received, text: str, tool_calls: list[dict[str, Any]] | None, finish: str, usage: Any
) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": None if tool_calls else text}
    if tool_calls:
        message["tool_calls"] = tool_calls
    choice = {"index": 0, "message": message, "finish_reason": finish}
    base = {"id": "chatcmpl-scripted", "object": "chat.completion", "created": 1_700_000_000}
    return base | {"model": request.model, "choices": [choice]} | usage_field(request, text, usage)


def chunk(request: Received, part: str | dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    base: dict[str, Any] = {
        "id": "chatcmpl-scripted",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": request.model,
    }
    if isinstance(part, dict) and part.keys() & {"choices", "usage", "error"}:
        return part if "error" in part else base | part
    delta = {"content": part} if isinstance(part, str) else part
    return base | {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


def last_user_text(messages: list[dict[str, Any]]) -> str:
    for message in reversed(messages):
        if message.get("role") == "user":
            content = message.get("content")
            if isinstance(content, list):
                return " ".join(part.get("text", "") for part in content if part.get("type") == "text")
            return str(content)
    return ""


def wanted_calls(body: dict[str, Any], text: str) -> list[dict[str, Any]]:
    """Call the forced tool, or those that the text names; none after a tool result."""
    if body.get("tool_choice") == "none" or body["messages"][-1].get("role") == "tool":
        return []
    functions = [tool["function"] for tool in body.get("tools") or []]
    choice = body.get("tool_choice")
    if isinstance(choice, dict):
        functions = [f for f in functions if f["name"] == choice["function"]["name"]]
    elif choice != "required":
        functions = [f for f in functions if f["name"] in text]
    return [
        {
            "id": f"call_{i}",
            "type": "function",
            "function": {"name": f["name"], "arguments": json.dumps(minimal(f.get("parameters", {})))},
        }
        for i, f in enumerate(functions)
    ]


def minimal(schema: dict[str, Any]) -> Any:
    """Return a small value for a plain schema (no $ref)."""
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type", "object")
    if kind == "object":
        return {name: minimal(part) for name, part in schema.get("properties", {}).items()}
    simple: dict[str, Any] = {"string": "text", "integer": 1, "number": 1.5, "boolean": True, "array": []}
    return simple.get(kind)
