"""Prices as people read them: what a token costs now, and when it costs something else."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from datetime import UTC, datetime

from router.catalog.price import marked_up, price_at
from router.catalog.snapshot import Offer, Policy, Price, PriceRule
from router.web.words import per_million

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_PPM = 1_000_000
_NAMES = (("input", "in"), ("output", "out"), ("cache_read", "cached"), ("cache_write", "cache write"))


@dataclass(frozen=True, slots=True)
class Rule:
    """One change of a price: when, to what, and whether it holds at this moment."""

    when: str
    what: str
    holds: bool


def paid(offer: Offer, policy: Policy, at: datetime) -> Price:
    """Return what a customer pays for a token now: the offer's `charge`, else its price with the markup."""
    if offer.charge is not None:
        return offer.charge
    return marked_up(price_at(offer, at, 0), policy.markup_ppm)


def rules(offer: Offer, at: datetime, ppm: int = _PPM) -> list[Rule]:
    """Say when an offer's price is another one; tiers hold by a prompt's size, so never "now"."""
    return [
        Rule(_when(rule), _what(rule, offer.price, ppm), rule.above_input is None and _holds(offer, rule, at))
        for rule in offer.when
    ]


def _holds(offer: Offer, rule: PriceRule, at: datetime) -> bool:
    """Tell whether a rule holds now: alone on the offer, it changes the price of a small prompt."""
    return price_at(dataclasses.replace(offer, when=(rule,)), at, 0) != offer.price


def _when(rule: PriceRule) -> str:
    parts = []
    if rule.above_input is not None:
        parts.append(f"prompts above {rule.above_input:,} tokens")
    if rule.utc is not None:
        parts.append(f"{_clock(rule.utc[0])}–{_clock(rule.utc[1])} UTC")
    if rule.days is not None:
        parts.append(_days(rule.days))
    if rule.starts is not None:
        parts.append(f"from {rule.starts.astimezone(UTC):%Y-%m-%d %H:%M} UTC")
    return ", ".join(parts)


def _clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"


def _days(days: frozenset[int]) -> str:
    """Write weekdays, those in a row as a span."""
    found: list[str] = []
    row: list[int] = []
    for day in range(8):
        if day in days:
            row.append(day)
        elif row:
            found.append(_DAYS[row[0]] if len(row) == 1 else f"{_DAYS[row[0]]}–{_DAYS[row[-1]]}")
            row = []
    return ", ".join(found)


def _what(rule: PriceRule, base: Price, ppm: int) -> str:
    parts = []
    for name, word in _NAMES:
        value: int | None = getattr(rule, name)
        follows = name.startswith("cache") and value == rule.input and rule.input is not None
        if value is not None and not (follows and getattr(base, name) == base.input):
            parts.append(f"{word} {per_million(-(-value * ppm // _PPM))}")
    if rule.multiply_ppm is not None:
        parts.append(f"× {rule.multiply_ppm / _PPM:g}")
    return ", ".join(parts)
