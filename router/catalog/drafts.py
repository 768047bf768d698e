"""Draft model files from a price list; every number has its source and its day, and nothing is rated."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from decimal import Decimal

from router.catalog.pricelists import Listing, PriceList, Rule, Skipped
from router.catalog.texts import is_model_id

_MAKERS = {  # of a provider that serves its own models and leaves its name out of their ids
    "mistral": "mistralai",
    "xai": "x-ai",
    "alibaba": "qwen",
    "zai": "z-ai",
}
_ORGANISATIONS = {  # as model hubs call a maker
    "deepseek-ai": "deepseek",
    "zai-org": "z-ai",
    "minimaxai": "minimax",
    "xiaomimimo": "xiaomi",
    "mistral": "mistralai",
    "meta": "meta-llama",
    "xai": "x-ai",
}
_NOT_IN_IDS = re.compile(r"[^a-z0-9._:-]+")
_PRICE_KEYS = ("input", "output", "cache_read", "cache_write")

Drafts = dict[str, list[Listing]]


def group(
    listings: Iterable[Listing], providers: Iterable[str], known: Mapping[tuple[str, str], str]
) -> tuple[Drafts, list[Skipped]]:
    """Put the listings of one model together under its catalog id.

    `providers` are the catalog's; `known` names the model of each of its offers (provider, upstream id).
    """
    usable = frozenset(providers)
    drafts: Drafts = {}
    skipped = []
    for listing in listings:
        if listing.provider not in usable:
            said = f"the catalog has no providers/{listing.provider}.toml"
            skipped.append(Skipped(listing.key, said))
            continue
        model = known.get((listing.provider, listing.upstream)) or model_id_of(listing)
        if not is_model_id(model):
            skipped.append(Skipped(listing.key, f"its name makes no catalog id ({model})"))
            continue
        drafts.setdefault(model, []).append(listing)
    return drafts, skipped


def model_id_of(listing: Listing) -> str:
    """Return MAKER/MODEL as the shipped catalog writes it."""
    parts = [part for part in listing.upstream.lower().split("/") if part not in {"accounts", "models"}]
    name = _NOT_IN_IDS.sub("-", parts[-1]).strip("-._:") if parts else ""
    maker = parts[-2] if len(parts) > 1 else _MAKERS.get(listing.provider, listing.provider)
    maker = _NOT_IN_IDS.sub("-", maker).strip("-._:")
    return f"{_ORGANISATIONS.get(maker, maker)}/{name}"


def draft_toml(model: str, listings: list[Listing], source: PriceList) -> str:
    """Write the file of one model; `router catalog check` takes it as it is."""
    context = max(listing.context for listing in listings)
    features = next((listing.features for listing in listings if listing.features is not None), None)
    retires = [listing.retires for listing in listings if listing.retires is not None]
    name = next((listing.name for listing in listings if listing.name), model.rpartition("/")[2])
    kinds = '["text", "image"]' if any(listing.image for listing in listings) else '["text"]'
    lines = [
        f"#:schema {'../' * (model.count('/') + 1)}schema/model.json",
        "",
        f"# A draft from {source.source}, prices of {source.as_of}: compare them with the provider's page,",
        "# then rate the model in a [quality] table; without one it is served by name only.",
        f"name = {_text(name)}",
        f"context = {context:_}",
        f"input = {kinds}",
    ]
    if features is None:
        lines.append("# The list does not say what it can do; add features.")
    else:
        lines.append(f"features = {_list(features)}")
    if len(retires) == len(listings):
        lines.append(f"retires = {max(retires)}")
    for listing in listings:
        lines += ["", *_offer(listing, source, context, kinds, features)]
    return "\n".join(lines) + "\n"


def _offer(
    listing: Listing, source: PriceList, context: int, kinds: str, features: tuple[str, ...] | None
) -> list[str]:
    lines = [f"# Price: {source.source}, {_text(listing.key)}."]
    prices = dict(listing.prices)
    if prices.get("cache_read", Decimal(0)) > prices["input"]:
        lines.append(
            f"# Left out: cache_read = {_number(prices.pop('cache_read'))}, above the input's price."
        )
    if listing.retires is not None:
        lines.append(f"# The list says that it goes off on {listing.retires}.")
    lines += [
        "[[offers]]",
        f"provider = {_text(listing.provider)}",
        f"model = {_text(listing.upstream)}",
        f"price = {{ {_prices(prices)} }}",
        f"price_as_of = {source.as_of}",
    ]
    if listing.rules:
        lines += ["when = [", *(f"    {{ {_rule(rule)} }}," for rule in listing.rules), "]"]
    if listing.context != context:
        lines.append(f"context = {listing.context:_}")
    if listing.max_output is not None and listing.max_output < listing.context:
        lines.append(f"max_output = {listing.max_output:_}")
    elif listing.max_output is not None:  # a placeholder in most lists
        lines.append(f"# Left out: max_output = {listing.max_output:_}, which leaves no token for a prompt.")
    if not listing.image and "image" in kinds:
        lines.append('input = ["text"]')
    if listing.features is not None and listing.features != features:
        lines.append(f"features = {_list(listing.features)}")
    return lines


def _rule(rule: Rule) -> str:
    return ", ".join([*(f"{name} = {value}" for name, value in rule.condition), _prices(rule.prices)])


def _prices(prices: Mapping[str, Decimal]) -> str:
    return ", ".join(f"{key} = {_number(prices[key])}" for key in _PRICE_KEYS if key in prices)


def _number(usd: Decimal) -> str:
    """Write a price with at least two digits after the point."""
    whole, _, digits = f"{usd.normalize():f}".partition(".")
    return f"{whole}.{digits:0<2}"


def _text(text: str) -> str:
    """Write a TOML basic string, whose escapes are those of JSON."""
    return json.dumps("".join(c for c in text if c.isprintable()), ensure_ascii=False)


def _list(words: Iterable[str]) -> str:
    return "[" + ", ".join(_text(word) for word in words) + "]"
