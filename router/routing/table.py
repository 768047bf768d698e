"""A catalog compiled for decisions: each hard filter is one mask of bits, bit i standing for offer i.

A mask is a Python int, so filtering any number of offers is a handful of `&`. Compiled once for a snapshot
and kept in its memo; what is remembered beside it (globs, prices of a moment) is bounded and never changes an
answer.
"""

from __future__ import annotations

import fnmatch
import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime

from router.catalog.snapshot import CATEGORIES, Category, Model, Offer, Policy, Snapshot
from router.media import MEDIA
from router.routing.need import Need
from router.routing.quality import TEXT_CATEGORIES, Categorised, is_mixed
from router.routing.sheet import Calendar, Moment, Sheet

# The estimate of prompt tokens is taken to be at most this much too low.
CONTEXT_RESERVE = 1.05
_MEMO = "routing.table"
_GLOBS_KEPT = 256
_SHEETS_KEPT = 64
_Speeds = Mapping[tuple[str, str], tuple[float, float]]


def table_of(catalog: Snapshot) -> Table:
    """Return a snapshot's table, compiled at its first decision."""
    table: Table | None = catalog.memo.get(_MEMO)
    if table is None:
        table = catalog.memo[_MEMO] = Table(catalog.models)
    return table


class Steps:
    """Masks of the items whose number is at least some number."""

    def __init__(self, items: Iterable[tuple[float, int]]) -> None:
        masks: dict[float, int] = defaultdict(int)
        for number, mask in items:
            masks[number] |= mask
        self.numbers = sorted(masks)
        self._masks = [0] * (len(self.numbers) + 1)
        for i in reversed(range(len(self.numbers))):
            self._masks[i] = self._masks[i + 1] | masks[self.numbers[i]]

    def at_least(self, number: float) -> int:
        """Return the items of this number or more."""
        return self._masks[bisect_left(self.numbers, number)]

    def best(self, among: int) -> float | None:
        """Return the highest number of these items, None when there are none."""
        for i in reversed(range(len(self.numbers))):
            if self._masks[i] & among:
                return self.numbers[i]
        return None


# A rated model: its offers, its own quality, and those of the text categories (0.0 where it has none).
_Rated = tuple[int, float, float, float, float]


class Table:
    """The offers of a catalog in their order, and the masks of what each can do."""

    def __init__(self, models: Mapping[str, Model]) -> None:
        pairs = [(model, offer) for model in models.values() for offer in model.offers]
        self.known = models
        self.models: list[Model] = [model for model, _ in pairs]
        self.offers: list[Offer] = [offer for _, offer in pairs]
        self.all = (1 << len(pairs)) - 1
        self.of_model: dict[str, int] = dict.fromkeys(models, 0)
        self.by_key: dict[tuple[str, str], int] = defaultdict(int)
        for i, offer in enumerate(self.offers):
            self.of_model[self.models[i].id] |= 1 << i
            self.by_key[offer.key] |= 1 << i
        self.usable = self._mask(lambda offer: offer.unusable is None)
        self.local = self._mask(lambda offer: offer.local)
        self.reads_images = self._mask(lambda offer: "image" in offer.input)
        self.reads = {kind: self._mask(lambda offer, kind=kind: kind in offer.input) for kind in MEDIA}  # type: ignore[misc]  # bound in the loop
        self.tools, self.forced_tools, self.json_schema, json_mode, self.reasoning = (
            self._mask(lambda offer, word=word: word in offer.features)  # type: ignore[misc]  # bound in the loop
            for word in ("tools", "forced_tools", "json_schema", "json_mode", "reasoning")
        )
        self.json_mode = json_mode | self.json_schema
        self._outputs = Steps(self._numbers(lambda offer: offer.max_output))
        self._contexts = Steps(self._numbers(lambda offer: offer.context))
        self._rooms = Steps(self._numbers(lambda offer: offer.context - offer.max_output))
        dated = [
            (m.retires.toordinal(), self.of_model[m.id]) for m in models.values() if m.retires is not None
        ]
        self._retiring = Steps(dated)
        self._undated = self.all & ~self._retiring.at_least(0)
        self._levels = {category: Steps(self._rated(category)) for category in CATEGORIES}
        self._mixes = {category: self._mixed(category) for category in CATEGORIES}
        self.calendar = Calendar(self.offers)
        self._globs: dict[tuple[str, ...], int] = {}
        self._sheets: dict[tuple[Moment, int, int], Sheet] = {}

    def _mask(self, holds: Callable[[Offer], bool]) -> int:
        return sum(1 << i for i, offer in enumerate(self.offers) if holds(offer))

    def _numbers(self, number: Callable[[Offer], int]) -> Iterator[tuple[float, int]]:
        return ((number(offer), 1 << i) for i, offer in enumerate(self.offers))

    def _rated(self, category: Category) -> Iterator[tuple[float, int]]:
        for model in self.known.values():
            if category in model.quality:
                yield model.quality[category], self.of_model[model.id]

    def _mixed(self, category: Category) -> list[tuple[tuple[bool, ...], list[_Rated]]]:
        """Group the rated models by the text categories that they are rated for."""
        groups: dict[tuple[bool, ...], list[_Rated]] = defaultdict(list)
        for model in self.known.values():
            if category in model.quality:
                texts = [model.quality.get(text, 0.0) for text in TEXT_CATEGORIES]
                row = (self.of_model[model.id], model.quality[category], texts[0], texts[1], texts[2])
                groups[tuple(text in model.quality for text in TEXT_CATEGORIES)].append(row)
        return list(groups.items())

    def fitting(self, need: Need, category: Category | None, output_tokens: int) -> int:
        """Return the offers that pass every filter of `losers.refusal` but rating, cap and load."""
        fits = self.usable
        if self._retiring.numbers:
            fits &= self.not_retired(need.at)
        if need.key_models or need.allow or need.deny:
            fits &= self._permitted(need)
        if need.images or need.asked.category == "vision":
            fits &= self.reads_images
        if need.tools:
            fits &= self.tools
        if need.json_schema:
            fits &= self.json_schema
        wanted, prompt = need.output_tokens, int(need.prompt_tokens * CONTEXT_RESERVE)
        if wanted is not None:
            return fits & self._outputs.at_least(wanted) & self._contexts.at_least(prompt + wanted)
        long = self._outputs.at_least(output_tokens)
        return fits & (
            (long & self._contexts.at_least(prompt + output_tokens)) | (self._rooms.at_least(prompt) & ~long)
        )

    def not_retired(self, at: datetime) -> int:
        """Return the offers whose model has not retired by this day; its date is the first day without it."""
        return self._undated | self._retiring.at_least(at.toordinal() + 1)

    def _permitted(self, need: Need) -> int:
        mask = self.all
        for globs in (need.key_models, need.allow):
            if globs:
                mask &= self._matching(globs)
        return mask & ~self._matching(need.deny) if need.deny else mask

    def _matching(self, globs: tuple[str, ...]) -> int:
        mask = self._globs.get(globs)
        if mask is None:
            matches = [re.compile(fnmatch.translate(glob)).match for glob in dict.fromkeys(globs)]
            mask = self._mask(
                lambda offer: any(
                    match(name) for match in matches for name in Need.names(offer.model, offer.provider)
                )
            )
            if len(self._globs) >= _GLOBS_KEPT:
                self._globs.clear()
            self._globs[globs] = mask
        return mask

    def rated(self, category: Category | None) -> int:
        """Return the offers whose model has a quality for the category."""
        return 0 if category is None else self._levels[category].at_least(0.0)

    def band(self, among: int, categorised: Categorised, points: float) -> tuple[float, int]:
        """Return the quality at which the band begins, `points` below the best of these, and who is in it.

        All of these offers are rated for the category.
        """
        category = categorised.category
        if category is None or not among:
            return 0.0 - points, among
        if is_mixed(categorised):
            return self._mixed_band(among, categorised, category, points)
        levels = self._levels[category]
        floor = (levels.best(among) or 0.0) - points
        return floor, among & levels.at_least(floor)

    def _mixed_band(
        self, among: int, categorised: Categorised, category: Category, points: float
    ) -> tuple[float, int]:
        """Do what `band` does with the qualities of `quality_of`, to the same last bit."""
        given = categorised.probabilities or {}
        simple, coding, reasoning = (given.get(text, 0.0) for text in TEXT_CATEGORIES)
        found: list[tuple[float, int]] = []
        for (has_simple, has_coding, has_reasoning), rows in self._mixes[category]:
            total = (simple if has_simple else 0.0) + (coding if has_coding else 0.0)
            total += reasoning if has_reasoning else 0.0
            if total <= 0:
                found += [(own, mask) for mask, own, *_ in rows if mask & among]
            elif category == "vision":
                found += [
                    ((own + (s * simple + c * coding + r * reasoning) / total) / 2, mask)
                    for mask, own, s, c, r in rows
                    if mask & among
                ]
            else:
                found += [
                    ((s * simple + c * coding + r * reasoning) / total, mask)
                    for mask, _, s, c, r in rows
                    if mask & among
                ]
        floor = max(found)[0] - points
        inside = 0
        for quality, mask in found:
            if quality >= floor:
                inside |= mask
        return floor, inside & among

    def sheet(self, policy: Policy, speeds: _Speeds, at: datetime, prompt_tokens: int) -> Sheet:
        """Return the prices and speeds of a moment, for prompts of the same tiers as this one.

        `speeds` is a published table: it is never changed, the next one is another object.
        """
        moment = self.calendar.moment(at, prompt_tokens)
        key = (moment, id(policy), id(speeds) if speeds else 0)
        sheet = self._sheets.get(key)
        if sheet is None:
            if len(self._sheets) >= _SHEETS_KEPT:
                self._sheets.clear()
            # The sheet holds policy and speeds, so neither `id` can be given to another object meanwhile.
            sheet = self._sheets[key] = Sheet(self.offers, policy, speeds, at, prompt_tokens)
        return sheet

    def blocked(self, keys: Iterable[tuple[str, str]]) -> int:
        """Return the offers of these keys."""
        mask = 0
        for key in keys:
            mask |= self.by_key.get(key, 0)
        return mask


def indices(mask: int) -> Iterator[int]:
    """Yield the offers of a mask in the catalog's order."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low
