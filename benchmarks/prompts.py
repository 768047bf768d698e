"""Sixty-four user texts of mixed kind; the load generator puts a number of its own into each request."""

from __future__ import annotations

_SUBJECTS = (
    "a bicycle shop", "the tides", "a small bakery", "solar panels", "the Roman roads", "a chess club",
    "volcanoes", "a city library", "sourdough bread", "the bus timetable", "honey bees", "a choir",
    "glass making", "the Baltic Sea", "a mountain hut", "paper recycling",
)  # fmt: skip
_TASKS = (
    "Tell me in two sentences what is interesting about {}.",
    "Write a Python function with type hints that models {} as a dataclass and checks it, with tests.",
    "Prove or disprove, step by step: the cost of {} grows faster than linearly when visitors double.",
    "Translate into French and keep the tone: we were very glad to hear the news about {} this morning.",
)
PROMPTS: tuple[str, ...] = tuple(task.format(subject) for subject in _SUBJECTS for task in _TASKS)


def long_prompt(number: int, size_bytes: int) -> str:
    """Return ASCII text of this size that begins with prompt `number` and goes on with the others."""
    start = number % len(PROMPTS)
    text = "\n".join(PROMPTS[start:] + PROMPTS[:start]) + "\n"
    return (text * (size_bytes // len(text) + 1))[:size_bytes]
