"""What the pages ask of many keys: a page of those that match, their sums, those that run low.

The same statements for both engines; parameters are `$1`, `$2` in their order. What finds a text in another
differs: `{inside}`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from msgspec import Struct

KeyState = Literal["active", "expired", "revoked"]
HINT_CHARACTERS = 8
_COLUMNS = """
    api_keys.id, digest, hint, name, prepaid, concurrency, rpm, tpm, models, expires_at, revoked_at,
    api_keys.created_at, accounts.id, balance_nusd, held_nusd, charged_nusd, requests, prompt_tokens,
    completion_tokens, day, day_charged_nusd, month, month_charged_nusd, budget_day_nusd, budget_month_nusd
"""
_KEYS = "FROM api_keys JOIN accounts ON accounts.id = api_keys.id"
SELECT_KEYS = f"SELECT {_COLUMNS} {_KEYS}"
"""Of keys with their accounts, in the order of `KeyRecord` and `Account` (`keystore.with_account`)."""
_STATES: dict[KeyState, str] = {
    "active": "revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $1)",
    "expired": "revoked_at IS NULL AND expires_at <= $1",
    "revoked": "revoked_at IS NOT NULL",
}
# What was charged on a day that is over is none of today's, see `Account.roll`.
_TODAY = "CASE WHEN accounts.day >= $2 THEN day_charged_nusd ELSE 0 END"
_MONTH = "CASE WHEN accounts.month >= $3 THEN month_charged_nusd ELSE 0 END"


class KeyWish(Struct, frozen=True):
    """Which keys: a part of the name, the beginning of the id or the key's own, and a state; "" is any."""

    text: str = ""
    state: KeyState | Literal[""] = ""


class Low(Struct, frozen=True):
    """When a key runs low: credit of so much or less, or so many percent of a budget used."""

    credit_nusd: int
    used_percent: int


@dataclass(frozen=True, slots=True)
class KeyTotals:
    """All keys: their number, that of the active ones, their credit and what is held; what all have spent."""

    keys: int
    active: int
    credit_nusd: int
    held_nusd: int
    day_nusd: int
    month_nusd: int


def found(wish: KeyWish, now: str, inside: str) -> tuple[str, list[Any]]:
    """Return the condition that a wish makes, and its parameters; `now` is like a row's `created_at`."""
    parts, values = ["CAST($1 AS text) <> ''"], [now]
    if wish.state:
        parts.append(_STATES[wish.state])
    if wish.text:
        own = f"substr(api_keys.id, 1, {len(wish.text)}) = $2 OR hint = substr($2, 1, {HINT_CHARACTERS})"
        parts.append(f"({inside} OR {own})")
        values += [wish.text, wish.text.lower()]
    return " AND ".join(parts), values


def page(wish: KeyWish, now: str, inside: str, limit: int, offset: int) -> tuple[str, list[Any]]:
    """Return the query for so many keys, the newest first, after so many others."""
    where, values = found(wish, now, inside)
    order = "ORDER BY api_keys.created_at DESC, api_keys.id DESC"
    # Which keys first, then what they hold: else every key is joined with its account to show fifty.
    ids = f"SELECT api_keys.id FROM api_keys WHERE {where} {order} LIMIT {limit:d} OFFSET {offset:d}"
    return f"{SELECT_KEYS} WHERE api_keys.id IN ({ids}) {order}", values


def count(wish: KeyWish, now: str, inside: str) -> tuple[str, list[Any]]:
    """Return the query for the number of keys that match."""
    where, values = found(wish, now, inside)
    return f"SELECT count(*) FROM api_keys WHERE {where}", values


def totals(now: str) -> tuple[str, list[Any]]:
    """Return the query for the sums of all keys."""
    active = _STATES["active"]
    sums = (
        "count(*)",
        f"sum(CASE WHEN {active} THEN 1 ELSE 0 END)",
        f"sum(CASE WHEN {active} AND prepaid THEN balance_nusd ELSE 0 END)",
        f"sum(CASE WHEN {active} THEN held_nusd ELSE 0 END)",
        f"sum({_TODAY})",
        f"sum({_MONTH})",
    )
    told = ", ".join(f"CAST(coalesce({each}, 0) AS bigint)" for each in sums)
    return f"SELECT {told} {_KEYS}", [now, now[:10], now[:7]]


def low(bounds: Low, now: str, limit: int) -> list[tuple[str, list[Any]]]:
    """Return the queries for the first keys that run low, and for how many do."""
    credit = f"balance_nusd - held_nusd <= {bounds.credit_nusd:d} OR balance_nusd - held_nusd <= {_TODAY}"
    conditions = (
        f"(prepaid AND charged_nusd > 0 AND ({credit}))",
        f"({_TODAY} * 100 >= budget_day_nusd * {bounds.used_percent:d})",
        f"({_MONTH} * 100 >= budget_month_nusd * {bounds.used_percent:d})",
    )
    where = f"{_STATES['active']} AND ({' OR '.join(conditions)})"
    order = f"ORDER BY api_keys.created_at, api_keys.id LIMIT {limit:d}"
    values = [now, now[:10], now[:7]]
    return [
        (f"{SELECT_KEYS} WHERE {where} {order}", values),
        (f"SELECT count(*) {_KEYS} WHERE {where}", values),
    ]


def totals_of(row: Sequence[Any]) -> KeyTotals:
    """Return the sums that were read."""
    return KeyTotals(*map(int, row))
