"""Places at offers, providers and keys: which offers are full now, and taking one for an attempt."""

from __future__ import annotations

from collections.abc import Callable

from router.access.keys import ApiKey
from router.catalog.snapshot import Limits, Offer, Snapshot
from router.errors import LimitReached
from router.limits import Admission, Place, Subject, Ticket
from router.routing.decide import Blocked, Decision
from router.routing.need import Need
from router.routing.table import indices

_Limited = tuple[Offer, list[tuple[Subject, Limits]]]
_NO_LIMITS = Limits()


class KeyAtLimit(LimitReached):
    """The caller's own key is at its limit: the caller is to slow down, so it takes nobody's turn to wait."""


class Places:
    """Ask and take places; the offers that have limits are listed once a catalog."""

    def __init__(self, admission: Admission, monotonic: Callable[[], float]) -> None:
        self._admission = admission
        self._monotonic = monotonic
        self._listed: tuple[Snapshot | None, list[_Limited]] = (None, [])

    def blocked(self, catalog: Snapshot, need: Need) -> dict[tuple[str, str], Blocked]:
        """Return the offers that are at a limit, by their key."""
        found: dict[tuple[str, str], Blocked] = {}
        limited = self._limited(catalog)
        now_s = self._monotonic() if limited else 0.0
        for offer, subjects in limited:
            for subject, limits in subjects:
                full = self._admission.blocked(subject, limits, _tokens(need), now_s)
                if full is not None:
                    word, wait_s = full
                    detail = f"{offer.model} at {offer.provider} is at its {word} limit"
                    found[offer.key] = Blocked("at_limit", wait_s, detail)
        return found

    def at_offer(self, catalog: Snapshot, offer: Offer, need: Need) -> Place | None:
        """Take a place at an offer and its provider; None when another request took the last one."""
        place = self._admission.enter(_subjects(catalog, offer), _tokens(need))
        if self._admission.queue.handed:  # who was woken came in, or another: is there room yet?
            self.pass_on()
        return place

    def at_key(self, key: ApiKey | None, need: Need) -> Place | None:
        """Take a place at the caller's key; None when it has no limits.

        Raises `KeyAtLimit` when one of its limits is reached.
        """
        if key is None or key.limits == _NO_LIMITS:
            return None
        subject: Subject = ("key", key.id)
        place = self._admission.enter([(subject, key.limits)], _tokens(need))
        if place is not None:
            return place
        full = self._admission.blocked(subject, key.limits, _tokens(need), self._monotonic())
        word, wait_s = full or ("concurrency", 1)
        raise KeyAtLimit(
            f"This API key is at its {word} limit; try again in {wait_s} s.", retry_after_s=wait_s
        )

    def line_up(self, queue_s: float) -> Ticket | None:
        """Return a turn to wait for places, of so many seconds in all; None when too many wait."""
        return self._admission.queue.line_up(queue_s)

    async def wait(self, ticket: Ticket, catalog: Snapshot, decision: Decision) -> bool:
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
        return bool(ways) and await self._admission.queue.wait(ticket, ways, _tokens(decision.need))

    def pass_on(self) -> None:
        """Offer to the next what one who was woken did not use."""
        self._admission.queue.wake([])

    def _limited(self, catalog: Snapshot) -> list[_Limited]:
        if self._listed[0] is not catalog:
            offers = [offer for model in catalog.models.values() for offer in model.offers]
            usable = [(offer, _subjects(catalog, offer)) for offer in offers if offer.unusable is None]
            self._listed = (catalog, [(offer, subjects) for offer, subjects in usable if subjects])
        return self._listed[1]


def _subjects(catalog: Snapshot, offer: Offer) -> list[tuple[Subject, Limits]]:
    limits: list[tuple[Subject, Limits]] = [
        (("offer", *offer.key), offer.limits),
        (("provider", offer.provider), catalog.providers[offer.provider].limits),
    ]
    return [(subject, limit) for subject, limit in limits if limit != _NO_LIMITS]


def _tokens(need: Need) -> int:
    return need.prompt_tokens + (need.output_tokens or 0)
