"""How good a model is for a request: its category's quality, mixed where the classifier is unsure."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from router.catalog.snapshot import Category, Model
from router.routing.need import Need

# Below this probability the decision mixes the qualities of the text categories.
SURE = 0.6
TEXT_CATEGORIES: tuple[Category, ...] = ("simple", "coding", "reasoning")


class Categorised(Struct, frozen=True, gc=False):
    """Hold what the words ask for; `confidence` is the probability of `category`. All None: a named model."""

    category: Category | None = None
    probabilities: Mapping[Category, float] | None = None
    confidence: float | None = None


def is_mixed(categorised: Categorised) -> bool:
    """Tell whether the text's probabilities count: unsure between text categories, or an image with text."""
    if categorised.probabilities is None:
        return False
    if categorised.category == "vision":
        return True
    return categorised.confidence is None or categorised.confidence < SURE


def quality_of(model: Model, categorised: Categorised) -> float | None:
    """Return a model's quality for a request, None when the catalog does not rate it for the category.

    Unsure between text categories, qualities are mixed by probability, over those that the model is rated
    for; with images, the text's quality and the vision quality count half each.
    """
    category = categorised.category
    own = model.quality.get(category) if category is not None else None
    shares = categorised.probabilities
    if own is None or shares is None or not is_mixed(categorised):
        return own
    # Added up one by one: `sum` rounds floats differently from Python 3.12 on, and a replay must not.
    mixed = total = 0.0
    for text in TEXT_CATEGORIES:
        if text in model.quality:
            share = shares.get(text, 0.0)
            mixed += model.quality[text] * share
            total += share
    if total <= 0:
        return own
    mixed /= total
    return (own + mixed) / 2 if category == "vision" else mixed


def settled(categorised: Categorised, need: Need) -> Categorised:
    """Return the category to use: in a session, what looks simple counts as its hardest category.

    So "thanks, now the rest" in a conversation about code is judged as code. Coding and reasoning are beside
    each other: neither is raised to the other, but each takes what looks simple. A category that the client
    named is left alone, and so is vision itself, whose text is judged in this way too. Applied twice it
    changes nothing more, so a category from the log is decided as the first time.
    """
    floor = None if need.pinned is None else need.pinned.floor
    category = categorised.category
    if floor is None or floor in {"simple", "vision"} or category is None or not need.asked.auto:
        return categorised
    given = categorised.probabilities
    shares: dict[Category, float] = {category: 1.0} if given is None else dict(given)
    simple = shares.get("simple", 0.0)
    if category != "simple" and simple == 0.0:
        return categorised
    shares["simple"] = 0.0
    shares[floor] = shares.get(floor, 0.0) + simple
    if category == "vision":
        return Categorised(category, shares, categorised.confidence)
    used = floor if category == "simple" or shares[floor] >= shares.get(category, 0.0) else category
    return Categorised(used, shares, shares[used])
