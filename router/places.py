"""Places at offers, providers and keys: which offers are full now, and taking one for an attempt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from router.access.keys import ApiKey
from router.catalog.snapshot import Limits, Offer, Snapshot
from router.errors import CallerAtLimit
from router.gate import Gate, Listing, Place, Turn
from router.limits import Full, Standing, Subject
from router.routing.decide import Blocked, Decision
from router.routing.need import Asked, Need
from router.routing.table import indices
from router.walk import standing_headers

_Limited = tuple[Offer, list[tuple[Subject, Limits]]]
_NO_LIMITS = Limits()
_MOST_LISTINGS = 256


class KeyAtLimit(CallerAtLimit):
    """The caller's key is at its limit; it takes nobody's turn to wait."""

    def __init__(self, message: str, *, retry_after_s: int, standing: Standing) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.told = standing_headers(standing)


@dataclass(frozen=True, slots=True)
class _Listed:
    """The limited offers that some requests could use, and their subjects, each once."""

    offers: list[_Limited]
    listing: Listing


@dataclass(slots=True)
class _Lists:
    """The limited offers of one catalog: of each model, and listed for what requests ask for."""

    catalog: Snapshot | None = None
    limited: dict[str, list[_Limited]] = field(default_factory=dict)
    listed: dict[tuple[str, ...], _Listed] = field(default_factory=dict)


class Places:
    """Ask and take places; the offers that have limits are listed once a catalog."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._lists = _Lists()

    async def full(self, catalog: Snapshot, need: Need) -> Mapping[tuple[str, str], Blocked]:
        """Return the offers that are at a limit, by their key; asks about those that may serve."""
        listed = self._listed(catalog, need.asked)
        if not listed.offers:
            return _NOTHING
        full = await self._gate.full(listed.listing, _tokens(need))
        if not full:
            return _NOTHING
        found: dict[tuple[str, str], Blocked] = {}
        for offer, subjects in listed.offers:
            reasons = [full[subject] for subject, _ in subjects if subject in full]
            if reasons:
                last = max(reasons, key=lambda each: each.wait_s)
                detail = f"{offer.model} at {offer.provider} is at its {last.word} limit"
                found[offer.key] = Blocked("at_limit", last.wait_s, detail)
        return found

    async def at_offer(self, catalog: Snapshot, offer: Offer, need: Need) -> Place | Full:
        """Take a place at an offer and its provider, or say what stands in the way."""
        way = _subjects(catalog, offer)
        return await self._gate.enter(way, _tokens(need)) if way else NO_PLACE

    async def at_key(self, key: ApiKey | None, need: Need) -> tuple[Place | None, Standing | None]:
        """Take a place at the caller's key, and say how the key then stands; nothing without limits.

        Raises `KeyAtLimit` when one of its limits is reached.
        """
        if key is None or key.limits == _NO_LIMITS:
            return None, None
        subject: Subject = ("key", key.id)
        entered, standing = await self._gate.enter_told(subject, key.limits, _tokens(need))
        if not isinstance(entered, Full):
            return entered, standing
        raise KeyAtLimit(
            f"This API key is at its {entered.word} limit; try again in {entered.wait_s} s.",
            retry_after_s=entered.wait_s,
            standing=standing,
        )

    async def standing(self, key: ApiKey) -> Standing:
        """Say how a key stands to its limits of the minute."""
        return await self._gate.standing(("key", key.id), key.limits)

    def line_up(self, queue_s: float) -> Turn | None:
        """Return a turn to wait for places, of so many seconds in all; None when too many wait."""
        return self._gate.line_up(queue_s)

    async def wait(self, turn: Turn, catalog: Snapshot, decision: Decision) -> bool:
        """Wait until an offer that could serve may have a place; False when the turn ends before."""
        pool, category = decision.pool, decision.categorised.category
        rated = pool.table.rated(category) | pool.unrated
        ways = [
            subjects
            for i in indices(pool.fitting & rated & pool.considered)
            # One that rests after failures has free places that are of no use.
            if (i not in pool.blocked or pool.blocked[i].reason == "at_limit")
            and (subjects := _subjects(catalog, pool.table.offers[i]))
        ]
        return bool(ways) and await self._gate.wait(turn, ways, _tokens(decision.need))

    def end_turn(self, turn: Turn | None, place: Place | None) -> None:
        """Wait no more; what one that did not come in was woken for is offered to the next."""
        self._gate.end_turn(turn, came_in=place is not None and place is not NO_PLACE)

    def _listed(self, catalog: Snapshot, asked: Asked) -> _Listed:
        """Return the limited offers of the models that were named, or of all."""
        if self._lists.catalog is not catalog:
            self._lists = _Lists(catalog, _limited(catalog))
        lists = self._lists
        names = () if asked.model is None else (asked.model, *asked.fallbacks)
        listed = lists.listed.get(names)
        if listed is None:
            wanted = names or tuple(lists.limited)
            offers = [limited for name in wanted for limited in lists.limited.get(name, ())]
            subjects = dict(subject for _, way in offers for subject in way)
            listed = _Listed(offers, Listing(tuple(subjects.items())))
            if len(lists.listed) >= _MOST_LISTINGS:  # clients may name models in any order
                lists.listed.clear()
            lists.listed[names] = listed
        return listed


class _NoPlace:
    """The place at an offer without limits."""

    def leave(self, used_tokens: int | None = None) -> None:
        """Do nothing."""

    def withdraw(self) -> None:
        """Do nothing."""


NO_PLACE = _NoPlace()
_NOTHING: Mapping[tuple[str, str], Blocked] = {}


def _limited(catalog: Snapshot) -> dict[str, list[_Limited]]:
    found: dict[str, list[_Limited]] = {}
    for model in catalog.models.values():
        usable = [(offer, _subjects(catalog, offer)) for offer in model.offers if offer.unusable is None]
        limited = [(offer, subjects) for offer, subjects in usable if subjects]
        if limited:
            found[model.id] = limited
    return found


def _subjects(catalog: Snapshot, offer: Offer) -> list[tuple[Subject, Limits]]:
    limits: list[tuple[Subject, Limits]] = [
        (("offer", *offer.key), offer.limits),
        (("provider", offer.provider), catalog.providers[offer.provider].limits),
    ]
    return [(subject, limit) for subject, limit in limits if limit != _NO_LIMITS]


def _tokens(need: Need) -> int:
    return need.prompt_tokens + (need.output_tokens or 0)
