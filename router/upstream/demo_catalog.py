"""The catalog of the demo provider: four models, so that `auto` has something to choose between."""

from __future__ import annotations

from router.catalog.snapshot import Category, Feature, Limits, Model, Offer, Price, Provider, Timeouts

BASE_URL = "http://demo.invalid/v1"


def demo_models() -> tuple[Provider, list[Model]]:
    """Return the demo provider and its four models; prices are nominal, nobody is asked to pay them."""
    provider = Provider(
        name="demo",
        title="Built-in demo",
        base_url=BASE_URL,
        key_env=None,
        timeouts=Timeouts(),
        limits=Limits(),
        pays="none",
        pay_to=None,
        headers=(),
        transport="stock",
    )
    return provider, [
        _model("small", (50_000, 200_000), {"simple": 70, "coding": 45, "reasoning": 40}),
        _model("coder", (300_000, 1_200_000), {"simple": 72, "coding": 85, "reasoning": 70}),
        _model("thinker", (600_000, 2_400_000), {"simple": 74, "coding": 80, "reasoning": 88}),
        _model("seer", (400_000, 1_600_000), {"simple": 70, "coding": 60, "reasoning": 65, "vision": 80}),
    ]


def _model(name: str, pico_usd: tuple[int, int], quality: dict[Category, float]) -> Model:
    """Build one model with its only offer; `pico_usd` is the price of an input and an output token."""
    features: set[Feature] = {"tools", "forced_tools", "json_schema", "json_mode"}
    kinds = frozenset({"text", "image"} if "vision" in quality else {"text"})
    into, out = pico_usd
    offer = Offer(
        model=f"demo/{name}",
        provider="demo",
        upstream_model=f"demo/{name}",
        price=Price(input=into, output=out, cache_read=into, cache_write=into),
        when=(),
        charge=None,
        context=131_072,
        max_output=16_384,
        input=kinds,
        features=frozenset(features),
        ttft_s=0.02,
        tok_s=100.0,
        limits=Limits(),
        free=False,
        unusable=None,
        price_as_of=None,
    )
    return Model(
        id=offer.model,
        name=f"Demo {name}",
        open_weights=False,
        context=offer.context,
        max_output=offer.max_output,
        input=kinds,
        features=offer.features,
        retires=None,
        quality=quality,
        offers=(offer,),
        file="(built in)",
    )
