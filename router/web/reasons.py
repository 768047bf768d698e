"""The fixed words of a decision, as sentences: why an offer won, and what stopped the others."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from router.routing.decide import Decision
from router.routing.losers import FILTERS, Loser
from router.web.words import points

# Of offers that passed every filter and came behind the winner.
BEHIND = {
    "outside_band": "below the quality band",
    "dearer": "costs more",
    "slower": "slower",
    "later": "slower",
    "session": "the conversation stays",
    "tie": "as good, lower quality",
    "forced_tools": "cannot be made to call a tool",
    "json_mode": "no JSON mode",
    "reasoning": "no reasoning effort",
}
DROPPED = {
    "unusable": "Not usable here",
    "denied": "Shut out by the request or the key",
    "no_quality": "Not rated for this category",
    "modality": "Does not read what was sent",
    "tools": "Does not call tools",
    "json_schema": "Does not answer by a JSON schema",
    "max_output": "Writes too few tokens",
    "context": "Context too small",
    "cap": "May cost more than the cap",
    "credit": "May cost more than the credit",
    "at_limit": "At its limit now",
    "rate_limited": "Its provider refuses more for now",
    "cooling": "Rests after failures",
}
_ORDER = (*reversed(FILTERS[1:]), "unusable")


@dataclass(frozen=True, slots=True)
class Group:
    """The offers that one filter stopped; `ways` are its sentences with how many offers each, most first."""

    reason: str
    title: str
    losers: list[Loser]
    ways: list[tuple[str, int]]


def dropped(losers: Iterable[Loser]) -> list[Group]:
    """Group the offers that a filter or the moment stopped; what is nearest to winning comes first."""
    found: dict[str, list[Loser]] = {}
    for loser in losers:
        found.setdefault(loser.reason, []).append(loser)
    order = {reason: at for at, reason in enumerate(_ORDER)}
    groups = []
    for reason, some in sorted(found.items(), key=lambda each: order.get(each[0], -1)):
        ways: dict[str, int] = {}
        for loser in some:
            ways[loser.detail] = ways.get(loser.detail, 0) + 1
        most = sorted(ways.items(), key=lambda way: -way[1])
        groups.append(Group(reason, DROPPED.get(reason, reason), some, most))
    return groups


def why_won(decision: Decision) -> str:
    """Say in a sentence why the winner won."""
    floor = decision.pool.floor
    band = f"a quality of {points(floor)} or more" if floor > 0 else "any quality"
    category = decision.categorised.category
    return {
        "named": "The request names this model; this is its best offer now.",
        "only_fit": "It is the only offer that fits the request.",
        "unrated_local": "No rated offer can serve it; this model runs on this machine.",
        "fallback_list": "The model that was named cannot serve it; this is the next of the request's list.",
        "session": "The conversation stays with the offer that has it cached: moving would not save 10 %.",
        "fastest": f"It is expected to answer first of all that are rated for {category}.",
        "cheapest": f"It is expected to cost least of all that are rated for {category}.",
        "cheapest_in_band": f"It costs least, waiting counted, of those with {band} for {category}.",
    }.get(decision.reason, decision.reason)
