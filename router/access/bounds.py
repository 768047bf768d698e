"""What may be written of a key: names, numbers, days and ids that every database can hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MAX_LIMIT = 2**31 - 1
"""The largest limit on requests or tokens: beyond any real one, and far from the end of a column."""
MAX_YEAR = 9998
"""The last year in which a key may end: its end is written as the start of the day after."""
MAX_NAME = 100
MAX_TEXT = 255


def check_values(given: Mapping[str, Any]) -> None:
    """Raise ValueError with the fix for the first member of a key that makes no sense."""
    if not _is_text(given.get("name", "unchanged"), MAX_NAME):
        raise ValueError(f"a key needs a name of 1 to {MAX_NAME} printable characters")
    for member, word in (
        ("credit_nusd", "credit"),
        ("budget_day_nusd", "budget a day"),
        ("budget_month_nusd", "budget a month"),
    ):
        if (given.get(member) or 0) < 0:
            raise ValueError(f"the {word} cannot be negative")
    for word in ("concurrency", "rpm", "tpm"):
        limit = given.get(word)
        if limit is not None and not 1 <= limit <= MAX_LIMIT:
            raise ValueError(f"{word} must be 1 to {MAX_LIMIT}; leave it out for no limit")
    if not all(_is_text(glob, MAX_TEXT) for glob in given.get("models") or ()):
        raise ValueError(f"each of the models is a glob of 1 to {MAX_TEXT} printable characters")


def check_payment(external_id: str) -> None:
    """Raise ValueError unless a text can name a payment."""
    if not _is_text(external_id, MAX_TEXT):
        raise ValueError(
            f"the id of a payment is 1 to {MAX_TEXT} printable characters; the same one again adds nothing"
        )


def can_be_id(text: str) -> bool:
    """Say whether some key or request may have that id; a database is not asked for another text."""
    return text.isascii() and text.isprintable()


def _is_text(text: str, most: int) -> bool:
    return bool(text.strip()) and len(text) <= most and text.isprintable()
