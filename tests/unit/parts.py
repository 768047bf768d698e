"""Small catalogs, needs and upstream answers for tests, in memory."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from msgspec import structs

from router.catalog.snapshot import (
    CATEGORIES,
    Category,
    Limits,
    Mode,
    Model,
    Offer,
    Policy,
    Price,
    PriceRule,
    Snapshot,
)
from router.routing.decide import Categorised, Decision, Live, decide
from router.routing.need import Asked, Need

AT = datetime(2026, 11, 18, 12, 0, tzinfo=UTC)  # a Wednesday
FEATURES = frozenset({"tools", "json_schema", "json_mode", "reasoning"})
NOBODY = Live()


def usd_price(
    input_usd: float, output_usd: float, cache_read: float | None = None, cache_write: float | None = None
) -> Price:
    """Return a price from USD per million tokens."""

    def pico(usd: float) -> int:
        return round(usd * 1_000_000)

    return Price(
        pico(input_usd),
        pico(output_usd),
        pico(input_usd if cache_read is None else cache_read),
        pico(input_usd if cache_write is None else cache_write),
    )


def offer(model: str = "a/one", provider: str = "acme", **changes: Any) -> Offer:
    """Return an offer of 1 and 2 USD per million tokens that can do everything."""
    usual = Offer(
        model=model,
        provider=provider,
        upstream_model=model,
        price=usd_price(1, 2),
        when=(),
        charge=None,
        context=100_000,
        max_output=8_000,
        input=frozenset({"text", "image"}),
        features=FEATURES,
        ttft_s=1.0,
        tok_s=100.0,
        limits=Limits(),
        free=False,
        unusable=None,
        price_as_of=None,
    )
    return replace(usual, **changes)


def model(
    name: str = "a/one",
    quality: float | Mapping[Category, float] | None = 70.0,
    offers: Sequence[Offer] | None = None,
    *,
    discovered: bool = False,
    **changes: Any,
) -> Model:
    """Return a model with one offer, which `changes` are about; a number is its quality at everything."""
    own = tuple(offers) if offers is not None else (offer(name, **changes),)
    rated: dict[Category, float] = {}
    if isinstance(quality, Mapping):
        rated.update(quality.items())
    elif quality is not None:
        rated.update((category, quality) for category in CATEGORIES)
    return Model(
        id=name,
        name=name,
        open_weights=True,
        context=100_000,
        max_output=8_000,
        input=frozenset({"text", "image"}),
        features=frozenset(),
        retires=None,
        quality=rated,
        offers=own,
        file=f"models/{name}.toml",
        discovered=discovered,
    )


def catalog(*models: Model, policy: Policy | None = None) -> Snapshot:
    """Return a catalog of these models."""
    return Snapshot(
        revision="0123456789ab",
        models={m.id: m for m in models},
        providers={},
        policy=policy or Policy(),
        files=len(models),
        warnings=(),
    )


def asked(
    category: Category | None = None, named: str | None = None, fallbacks: tuple[str, ...] = ()
) -> Asked:
    """Return what `model` names: `auto`, unless a category or a model is given."""
    name = named or category or "auto"
    return Asked(name, category is None and named is None, category, named, fallbacks, None)


def need(mode: Mode = "balanced", **changes: Any) -> Need:
    """Return the need of a short text for `auto`."""
    usual = Need(
        asked=asked(),
        mode=mode,
        prompt_tokens=1_000,
        prompt_tokens_bound=2_000,
        output_tokens=None,
        choices=1,
        images=0,
        tools=False,
        json_schema=False,
        json_mode=False,
        reasoning=False,
        allow=(),
        deny=(),
        key_models=(),
        max_cost_nusd=None,
        session=None,
        at=AT,
    )
    return structs.replace(usual, **changes)


def sure(category: Category = "simple") -> Categorised:
    """Return a category without doubt."""
    return Categorised(category, {category: 1.0}, 1.0)


def choose(
    snapshot: Snapshot,
    wanted: Need | None = None,
    categorised: Categorised | None = None,
    live: Live = NOBODY,
) -> Decision:
    """Decide for a short simple text, unless told otherwise."""
    return decide(wanted or need(), categorised or sure(), snapshot, live, snapshot.policy)


def winner(decision: Decision) -> str | None:
    """Name the model that was chosen."""
    return None if decision.chosen is None else decision.chosen.model.id


def lost(decision: Decision) -> dict[str, str]:
    """Return why each losing model lost."""
    return {loser.model: loser.reason for loser in decision.losers}


def rules(*given: PriceRule, price: Price | None = None) -> Offer:
    """Return an offer with price rules."""
    return offer(price=price or usd_price(1, 2, 0.5, 1.5), when=given)


class Pieces:
    """An upstream's answer in memory: its pieces, then its end or an exception."""

    def __init__(self, pieces: Iterable[bytes], fault: Exception | None = None) -> None:
        self.status = 200
        self.headers: list[tuple[bytes, bytes]] = []
        self.closed = 0
        self._pieces = [piece for piece in pieces if piece]
        self._fault = fault

    async def read(self) -> bytes:
        """Return the next piece."""
        if self._pieces:
            return self._pieces.pop(0)
        if self._fault is not None:
            raise self._fault
        return b""

    async def aclose(self) -> None:
        """Count how often it was closed."""
        self.closed += 1


def split(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    """Cut bytes at positions, each taken modulo the length."""
    places = sorted({cut % (len(data) + 1) for cut in cuts})
    edges = [0, *places, len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]
