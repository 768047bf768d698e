"""Measure one decision, in microseconds: `python -m benchmarks.decide`.

Made-up catalogs, the same each time: models with four offers each, tiers and windows among their prices. Each
figure is the lowest mean of many short runs, each with a need that the run before did not have: other prompt
sizes, so that nothing but what is kept for a catalog can be remembered.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from msgspec import structs

from benchmarks.machine import surroundings
from router.catalog.snapshot import (
    CATEGORIES,
    Category,
    Limits,
    Model,
    Offer,
    Policy,
    Price,
    PriceRule,
    Snapshot,
)
from router.routing.decide import Blocked, Categorised, Decision, Live, decide
from router.routing.need import Asked, Need, Pinned

OFFERS = (3, 30, 200, 1_000)
OFFERS_A_MODEL = 4
NEEDS = 25
AT = datetime(2026, 11, 18, 2, 30, tzinfo=UTC)
Decide = Callable[[Need, Categorised, Snapshot, Live, Policy], Any]


def catalog_of(offers: int) -> Snapshot:
    """Return a catalog of that many usable offers."""
    random_ = random.Random(offers)
    models: dict[str, Model] = {}
    for first in range(0, offers, OFFERS_A_MODEL):
        model = _model(f"maker/model-{first}", min(OFFERS_A_MODEL, offers - first), random_)
        models[model.id] = model
    return Snapshot("0123456789ab", models, {}, Policy(), len(models), ())


def _model(name: str, offers: int, random_: random.Random) -> Model:
    able = ["tools", "json_mode", "json_schema", "reasoning", "forced_tools"]
    features = frozenset(word for word in able if random_.random() < 0.8)
    kinds = frozenset({"text", "image"} if random_.random() < 0.5 else {"text"})
    context = random_.choice([128_000, 262_144, 1_000_000])
    best, dollars = random_.uniform(40, 95), random_.uniform(0.1, 5)
    sold = [_offer(name, f"provider-{i}", dollars, context, kinds, features, random_) for i in range(offers)]
    quality: dict[Category, float] = {c: round(best + random_.uniform(-9, 5), 1) for c in CATEGORIES}
    return Model(name, name, True, context, 65_536, kinds, features, None, quality, tuple(sold), "")


def _offer(
    name: str,
    provider: str,
    dollars: float,
    context: int,
    kinds: frozenset[str],
    features: frozenset[str],
    random_: random.Random,
) -> Offer:
    pico = int(dollars * random_.uniform(0.7, 1.5) * 1_000_000)
    rules: tuple[PriceRule, ...] = ()
    if random_.random() < 0.15:
        tier = PriceRule(above_input=200_000, input=2 * pico, output=6 * pico)
        rules = (tier, PriceRule(utc=(60, 240), days=frozenset(range(5)), multiply_ppm=2_000_000))
    return Offer(
        model=name,
        provider=provider,
        upstream_model=name,
        price=Price(pico, 4 * pico, pico // 10, pico),
        when=rules,
        charge=None,
        context=context,
        max_output=random_.choice([8_192, 65_536]),
        input=kinds,
        features=features,
        ttft_s=random_.uniform(0.2, 2),
        tok_s=random_.uniform(20, 300),
        limits=Limits(),
        free=False,
        unusable=None,
        price_as_of=None,
    )


def _need(**changes: Any) -> Need:
    usual = Need(
        asked=Asked("auto", True, None, None, (), None),
        mode="balanced",
        prompt_tokens=900,
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


SURE = Categorised("coding", {"simple": 0.05, "coding": 0.9, "reasoning": 0.05, "vision": 0.0}, 0.9)
UNSURE = Categorised("coding", {"simple": 0.3, "coding": 0.4, "reasoning": 0.3, "vision": 0.0}, 0.4)
SEEN = Categorised("vision", {"simple": 0.3, "coding": 0.4, "reasoning": 0.3, "vision": 1.0}, 1.0)


def cases(catalog: Snapshot) -> dict[str, tuple[Need, Categorised, Live]]:
    """Return kinds of needs by their name."""
    offers = [offer for model in catalog.models.values() for offer in model.offers]
    last = offers[-1]
    pinned = Pinned(last.model, last.provider, last.upstream_model, 800, "coding")
    speeds = {offer.key: (offer.ttft_s * 1.1, offer.tok_s) for offer in offers}
    full = {offer.key: Blocked("at_limit", 5, "full") for offer in offers[::10]}
    measured = Live("l1", speeds, {"coding": 700})
    named = Asked(last.model, False, None, last.model, (), None)
    return {
        "auto": (_need(), SURE, Live()),
        "auto, measured speeds": (_need(), SURE, measured),
        "auto, unsure": (_need(), UNSURE, measured),
        "auto:cost": (_need(mode="cost"), SURE, measured),
        "auto:quality": (_need(mode="quality"), SURE, measured),
        "auto:floor": (_need(mode="floor"), SURE, measured),
        "auto:nitro": (_need(mode="nitro"), SURE, measured),
        "tools, JSON schema": (_need(tools=True, json_schema=True, output_tokens=4_000), SURE, measured),
        "image": (_need(images=1), SEEN, measured),
        "cap": (_need(max_cost_nusd=100_000_000), SURE, measured),
        "deny list": (_need(deny=("maker/model-1*", "provider-2/*")), SURE, measured),
        "a tenth is full": (_need(), SURE, structs.replace(measured, blocked=full)),
        "session": (_need(pinned=pinned), SURE, measured),
        "named": (_need(asked=named), Categorised(), measured),
    }


def microseconds(
    decides: Sequence[Decide],
    need: Need,
    categorised: Categorised,
    catalog: Snapshot,
    live: Live,
    seconds: float,
) -> list[float]:
    """Return what a decision takes in each of these implementations, which take turns."""
    needs = [structs.replace(need, prompt_tokens=need.prompt_tokens + i) for i in range(NEEDS)]
    least = [float("inf")] * len(decides)
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        for i, decide_ in enumerate(decides):
            began = time.perf_counter()
            for one in needs:
                decide_(one, categorised, catalog, live, catalog.policy)
            least[i] = min(least[i], (time.perf_counter() - began) / NEEDS)
    return [1e6 * lowest for lowest in least]


def everything(
    need: Need, categorised: Categorised, catalog: Snapshot, live: Live, policy: Policy
) -> Decision:
    """Decide, and have every fallback priced and every loser explained."""
    decision = decide(need, categorised, catalog, live, policy)
    if len(tuple(decision.candidates)) + len(decision.losers) < 1:
        raise ValueError("nobody can serve; the catalog of this benchmark is wrong")
    return decision


def main() -> None:
    """Print the table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=0.3, help="for each figure")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    result: dict[str, Any] = surroundings(Path.cwd()) | {"unit": "microseconds", "decisions": {}}
    for offers in OFFERS:
        catalog = catalog_of(offers)
        for name, (need, categorised, live) in cases(catalog).items():
            both = microseconds([decide, everything], need, categorised, catalog, live, given.seconds)
            row = result["decisions"].setdefault(name, {})
            row[str(offers)] = {"decided": round(both[0], 1), "explained": round(both[1], 1)}
    print(json.dumps(result, indent=2) if given.json else _table(result))


def _table(result: dict[str, Any]) -> str:
    machine = result["machine"]
    lines = [
        f"version {result['version']} ({result['commit']}), Python {result['python']}, {machine['cpu']}",
        "microseconds a decision over so many usable offers; in brackets with every fallback and loser",
        f"{'':<24}" + "".join(f"{offers:>18,}" for offers in OFFERS),
    ]
    for name, row in result["decisions"].items():
        cells = [
            f"{row[str(offers)]['decided']:.1f} ({row[str(offers)]['explained']:.0f})" for offers in OFFERS
        ]
        lines.append(f"{name:<24}" + "".join(f"{cell:>18}" for cell in cells))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
