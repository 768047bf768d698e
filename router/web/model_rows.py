"""The catalog as rows of the page `/ui/models`: joined with what was measured, filtered and sorted."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from router.catalog.build import STALE_PRICE_DAYS
from router.catalog.price import price_at
from router.catalog.snapshot import CATEGORIES, Limits, Model, Offer, Policy, Price, Snapshot
from router.routing.live import Measured
from router.web.prices import Rule, paid, rules

Key = tuple[str, str]
STATES = ("usable", "resting", "unusable", "old prices")


@dataclass(frozen=True, slots=True)
class Sight:
    """What is known at this moment, and for whom it is shown; `resting` says why, by offer."""

    catalog: Snapshot
    now: datetime
    measured: Mapping[Key, Measured]
    resting: Mapping[Key, str]
    operator: bool

    @property
    def policy(self) -> Policy:
        """Return the policy that serves."""
        return self.catalog.policy


@dataclass(frozen=True, slots=True)
class OfferRow:
    """One offer: `price` is what it costs now, the operator's cost or the customer's price."""

    offer: Offer
    provider: str
    price: Price
    sold: Price
    rules: list[Rule]
    measured: Measured | None
    state: str
    why: str
    age_days: int | None
    limits: list[str]
    shared_limits: list[str]

    @property
    def old(self) -> bool:
        """Tell whether nobody has checked the price for long."""
        return self.age_days is not None and self.age_days > STALE_PRICE_DAYS

    @property
    def faults(self) -> list[tuple[str, float]]:
        """Return what calls came to lately but for good ones, most first; counts fade with time."""
        seen = self.measured.outcomes if self.measured is not None else {}
        return sorted(
            ((kind, number) for kind, number in seen.items() if kind != "ok"), key=lambda each: -each[1]
        )

    @property
    def failed(self) -> float | None:
        """Return the share of late calls that failed, None without any."""
        calls = sum(self.measured.outcomes.values()) if self.measured is not None else 0.0
        return sum(number for _, number in self.faults) / calls if calls else None


@dataclass(frozen=True, slots=True)
class ModelRow:
    """One model: its offers, and the one whose figures stand for it, the cheapest that can be used."""

    model: Model
    offers: list[OfferRow]
    shown: OfferRow | None

    def count(self, state: str) -> int:
        """Count the offers in a state."""
        return sum(1 for offer in self.offers if offer.state == state)

    @property
    def usable(self) -> bool:
        """Tell whether the model can be served at all."""
        return any(offer.state != "unusable" for offer in self.offers)

    @property
    def old(self) -> int:
        """Count the offers whose price is old."""
        return sum(1 for offer in self.offers if offer.old)

    @property
    def oldest(self) -> date | None:
        """Return the date of the price that is shown."""
        return self.shown.offer.price_as_of if self.shown is not None else None


def rows_of(sight: Sight) -> list[ModelRow]:
    """Return every model; for who is not the operator, those that are served and their usable offers."""
    found = []
    for model in sight.catalog.models.values():
        row = row_of(model, sight)
        if row.usable or sight.operator:
            found.append(row)
    return found


def row_of(model: Model, sight: Sight) -> ModelRow:
    """Return one model."""
    offers = [offer_row(offer, sight) for offer in model.offers if sight.operator or offer.unusable is None]
    offers.sort(key=lambda row: (row.state == "unusable", row.price.input + row.price.output, row.provider))
    return ModelRow(model, offers, offers[0] if offers else None)


def offer_row(offer: Offer, sight: Sight) -> OfferRow:
    """Return one offer."""
    provider = sight.catalog.providers.get(offer.provider)
    sold = paid(offer, sight.policy, sight.now)
    cost = price_at(offer, sight.now, 0) if offer.when else offer.price
    state, why = "usable", ""
    if offer.unusable is not None:
        state, why = "unusable", offer.unusable
    elif offer.key in sight.resting:
        state, why = "resting", sight.resting[offer.key]
    marked = offer.charge is None and not sight.operator
    return OfferRow(
        offer=offer,
        provider=provider.title if provider is not None else offer.provider,
        price=cost if sight.operator else sold,
        sold=sold,
        rules=[]
        if offer.charge is not None and not sight.operator
        else rules(offer, sight.now, sight.policy.markup_ppm if marked else 1_000_000),
        measured=sight.measured.get(offer.key),
        state=state,
        why=why,
        age_days=None if offer.price_as_of is None else (sight.now.date() - offer.price_as_of).days,
        limits=_limits(offer.limits),
        shared_limits=_limits(provider.limits) if provider is not None else [],
    )


def _limits(limits: Limits) -> list[str]:
    """Write bounds on throughput."""
    told = ((limits.concurrency, "at once"), (limits.rpm, "requests/min"), (limits.tpm, "tokens/min"))
    return [f"{number:,} {unit}" for number, unit in told if number is not None]


Asked = Mapping[str, str]


def filtered(rows: Sequence[ModelRow], asked: Asked) -> list[ModelRow]:
    """Return the rows that pass every filter that was asked for."""
    return [row for row in rows if all(passes(row, asked) for passes in _FILTERS)]


def _named(row: ModelRow, asked: Asked) -> bool:
    wanted = asked.get("q", "").lower().split()
    text = f"{row.model.id} {row.model.name}".lower()
    return all(word in text for word in wanted)


def _provided(row: ModelRow, asked: Asked) -> bool:
    wanted = asked.get("provider")
    return not wanted or any(each.offer.provider == wanted for each in row.offers)


def _able(row: ModelRow, asked: Asked) -> bool:
    wanted = asked.get("can")
    if not wanted:
        return True
    if wanted == "open_weights":
        return row.model.open_weights
    can = frozenset().union(*(o.offer.input | o.offer.features for o in row.offers))
    return wanted in (can or row.model.input | row.model.features)


def _rated(row: ModelRow, asked: Asked) -> bool:
    wanted = asked.get("category")
    return not wanted or wanted in row.model.quality


def _in_state(row: ModelRow, asked: Asked) -> bool:
    wanted = asked.get("state")
    if not wanted:
        return True
    if wanted == "old prices":
        return row.old > 0
    return not row.usable if wanted == "unusable" else row.count(wanted) > 0


_FILTERS = (_named, _provided, _able, _rated, _in_state)


def _shown(figure: Callable[[OfferRow], float | None]) -> Callable[[ModelRow], float | None]:
    return lambda row: None if row.shown is None else figure(row.shown)


def _ttft_s(row: OfferRow) -> float:
    seen = row.measured.ttft_s if row.measured is not None else None
    return row.offer.ttft_s if seen is None else seen


def _tok_s(row: OfferRow) -> float:
    seen = row.measured.tok_s if row.measured is not None else None
    return row.offer.tok_s if seen is None else seen


def _quality(category: Any) -> Callable[[ModelRow], float | None]:
    return lambda row: row.model.quality.get(category)


def _day(row: ModelRow) -> float | None:
    return None if row.oldest is None else float(row.oldest.toordinal())


# What a column sorts by, and whether its largest figures come first.
SORTS: Mapping[str, tuple[Callable[[ModelRow], float | None], bool]] = {
    "in": (_shown(lambda o: o.price.input), False),
    "out": (_shown(lambda o: o.price.output), False),
    "context": (lambda row: row.model.context, True),
    **{category: (_quality(category), True) for category in CATEGORIES},
    "first": (_shown(_ttft_s), False),
    "speed": (_shown(_tok_s), True),
    "offers": (lambda row: len(row.offers) - row.count("unusable"), True),
    "checked": (_day, True),
}


def in_order(rows: Sequence[ModelRow], column: str, backwards: bool) -> list[ModelRow]:
    """Return rows sorted by a column, those without a figure last; by name within what is equal.

    Without a column, what can be served comes first.
    """
    named = sorted(rows, key=lambda row: row.model.id)
    if column == "model":
        return named[::-1] if backwards else named
    if column not in SORTS:
        return sorted(named, key=lambda row: not row.usable)
    figure, largest_first = SORTS[column]
    sign = -1 if largest_first is not backwards else 1

    def key(row: ModelRow) -> float:
        value = figure(row)
        return math.inf if value is None else sign * value

    return sorted(named, key=key)
