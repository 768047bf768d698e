"""Read labelled prompts: JSON lines `{text or messages, label, lang, source, licence}`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from router.classifier.model import LABELS
from router.classifier.prompt import Prompt, Turn, read

OWN = re.compile(r"own(-\d+)?")  # the sources of the packaged corpus, one for each time it was written


class DataFault(ValueError):
    """A data file cannot be used; the message begins with `file:line`."""


@dataclass(frozen=True, slots=True)
class Example:
    """Hold one labelled prompt; `family` is what is held out together when the model is judged."""

    prompt: Prompt
    label: int
    lang: str
    source: str
    licence: str

    @property
    def own(self) -> bool:
        """Tell whether this is a row of the packaged corpus."""
        return OWN.fullmatch(self.source) is not None

    @property
    def family(self) -> str:
        """Return the source without its part: `mmlu(recall subjects)` and `mmlu(...)` are one family."""
        return re.split(r"[:( ]", self.source, maxsplit=1)[0]

    @property
    def group(self) -> str:
        """Return the family, for rows of the packaged corpus with the language: each says a word anew."""
        return f"{self.family}/{self.lang}" if self.own else self.family


def read_examples(paths: Iterable[Path]) -> list[Example]:
    """Read JSON lines; raises DataFault for the first line that is not an example."""
    examples = []
    for path in paths:
        try:
            lines = path.read_bytes().split(b"\n")
        except OSError as fault:
            raise DataFault(f"{path}:0: cannot be read: {fault.strerror}") from fault
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    examples.append(_example(json.loads(line)))
                except ValueError as fault:
                    raise DataFault(f"{path}:{number}: {fault}") from fault
    return examples


def _example(record: Any) -> Example:
    if not isinstance(record, dict):
        raise DataFault("expected a JSON object {text or messages, label, lang, source}")
    label = record.get("label")
    if label not in LABELS:
        raise DataFault(
            f"label: {label!r} is not one of {', '.join(LABELS)} (images decide vision, not text)"
        )
    text, messages = record.get("text"), record.get("messages")
    if isinstance(text, str) and text.strip():
        prompt = read([Turn("user", (text,))])
    elif isinstance(messages, list) and messages:
        prompt = read([_turn(message) for message in messages])
    else:
        raise DataFault("give `text` (a string that is not blank) or `messages` (a list of chat messages)")
    named = {key: record.get(key) or "" for key in ("lang", "source", "licence")}
    for key, value in named.items():
        if not isinstance(value, str):
            raise DataFault(f"{key}: expected a string, got {type(value).__name__}")
    return Example(prompt, LABELS.index(label), named["lang"], named["source"] or "unnamed", named["licence"])


def _turn(message: Any) -> Turn:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise DataFault("messages: each needs a `role`")
    content = message.get("content") or ""
    parts = [{"text": content}] if isinstance(content, str) else content
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise DataFault("messages: `content` is neither a string nor a list of parts")
    texts = tuple(part["text"] for part in parts if isinstance(part.get("text"), str))
    has_image = any(part.get("type") == "image_url" for part in parts)
    return Turn(message["role"], texts, has_image, bool(message.get("tool_calls")))
