"""A decision in plain steps over lists: slow, and meant to be read. The product's must come out the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from router.catalog.price import Tokens, charge_nusd, price_at
from router.catalog.snapshot import Category, Model, Offer, Policy, Snapshot
from router.routing.decide import Categorised, Live, expected_output_tokens
from router.routing.need import Need

BANDS = {"quality": 0.0, "balanced": 5.0, "cost": 15.0}
TEXTS: tuple[Category, ...] = ("simple", "coding", "reasoning")


@dataclass(frozen=True)
class Plain:
    """An offer with all that is known of it for one need; `cached` prices what the session has cached."""

    model: Model
    offer: Offer
    quality: float | None
    uncached_nusd: int
    expected_nusd: int
    max_nusd: int
    seconds: float
    uncached_score: float
    score: float

    @property
    def id(self) -> tuple[str, str, str]:
        return self.offer.model, self.offer.provider, self.offer.upstream_model


@dataclass(frozen=True)
class PlainDecision:
    reason: str
    ranked: list[Plain]
    refused: dict[tuple[str, str, str], str]
    categorised: Categorised


def plain_decide(
    need: Need, found: Categorised, catalog: Snapshot, live: Live, policy: Policy
) -> PlainDecision:
    categorised = raised(found, need)
    unnamed = need.asked.model is None
    refused: dict[tuple[str, str, str], str] = {}
    must_read: list[str] = []

    def passing(models: list[Model], *, rated: bool, local: bool = False) -> list[Plain]:
        fits = []
        for model in models:
            for offer in model.offers:
                if local and not offer.local:
                    continue
                plain = priced(need, categorised, model, offer, live, policy)
                word = stopped(need, categorised, plain, live, policy, rated, must_read)
                refused.pop(plain.id, None)
                if word is None:
                    fits.append(plain)
                else:
                    refused[plain.id] = word
        return fits

    def fallbacks() -> list[Plain]:
        listed: list[Plain] = []
        for name in need.asked.fallbacks:
            listed += sorted(passing([catalog.models[name]], rated=False), key=lambda p: order(need, p))
        return listed

    everybody = list(catalog.models.values())
    for kind in need.media:  # only who reads it, where the catalog knows one that could be chosen
        for model in everybody if unnamed else [catalog.models[need.asked.model or ""]]:
            for offer in model.offers:
                plain = priced(need, categorised, model, offer, live, policy)
                barred = unfit(need, categorised, plain, live, policy, unnamed, must_read)
                if barred is None and kind in offer.input and kind not in must_read:
                    must_read.append(kind)
    word = {"nitro": "fastest", "floor": "cheapest"}.get(need.mode, "cheapest_in_band")
    if unnamed:
        main = passing(everybody, rated=True)
        reason = "only_fit" if len(main) == 1 else word
        points = band(need, categorised, policy)
        if not main:
            main, reason, points = passing(everybody, rated=False, local=True), "unrated_local", 100.0
    else:
        main, reason, points = passing([catalog.models[need.asked.model or ""]], rated=False), "named", 100.0
    listed = fallbacks()
    if not main:
        return PlainDecision("fallback_list" if listed else reason, listed, refused, categorised)
    forced = [p for p in main if "forced_tools" in p.offer.features] if need.forced_tools else []
    top = forced or main
    floor = max(p.quality or 0.0 for p in top) - points if points < 100 else -100.0
    inside = [p for p in top if (p.quality or 0.0) >= floor]
    first, stays = choose(need, inside)
    rest = [
        *listed,
        *sorted(inside, key=lambda p: order(need, p)),
        *sorted((p for p in top if p not in inside), key=lambda p: (-(p.quality or 0.0), order(need, p))),
        *sorted((p for p in main if p not in top), key=lambda p: (-(p.quality or 0.0), order(need, p))),
    ]
    ranked = list({p.id: p for p in [first, *rest]}.values())
    return PlainDecision("session" if stays else reason, ranked, refused, categorised)


def choose(need: Need, inside: list[Plain]) -> tuple[Plain, bool]:
    """Return the winner, and whether it won because the session stays with it."""
    wished = [p for p in inside if not lacks(need, p)] or inside
    lowest = min(p.uncached_score for p in wished)
    if need.mode in {"nitro", "floor"}:
        winner = min(wished, key=lambda p: (p.uncached_score, -(p.quality or 0.0), p.uncached_nusd, p.id))
    else:
        tied = [p for p in wished if p.uncached_score <= lowest * 1.02]
        winner = min(tied, key=lambda p: (-(p.quality or 0.0), p.uncached_nusd, p.uncached_score, p.id))
    stay = next((p for p in wished if is_pinned(need, p.offer)), None)
    if stay is None or stay is winner:
        return winner, False
    if winner.uncached_score < stay.score and winner.uncached_score <= 0.9 * stay.score:
        return winner, False
    return stay, True


def is_pinned(need: Need, offer: Offer) -> bool:
    pinned = need.pinned
    return pinned is not None and (pinned.model, pinned.provider, pinned.upstream_model) == (
        offer.model,
        *offer.key,
    )


def raised(found: Categorised, need: Need) -> Categorised:
    floor = need.pinned.floor if need.pinned is not None else None
    if floor not in {"coding", "reasoning"} or not need.asked.auto or found.category is None:
        return found
    shares: Mapping[Category, float] = found.probabilities or {found.category: 1.0}
    moved = dict(shares) | {"simple": 0.0, floor: shares.get(floor, 0.0) + shares.get("simple", 0.0)}
    if found.category != "simple" and not shares.get("simple"):
        return found
    if found.category == "vision":
        return Categorised("vision", moved, found.confidence)
    used: Category = floor if moved[floor] >= moved.get(found.category, 0.0) else found.category
    return Categorised(used, moved, moved[used])


def quality(model: Model, categorised: Categorised) -> float | None:
    category, shares = categorised.category, categorised.probabilities
    if category is None or category not in model.quality:
        return None
    own = model.quality[category]
    certain = categorised.confidence is not None and categorised.confidence >= 0.6
    if shares is None or (certain and category != "vision"):
        return own
    mixed = total = 0.0
    for text in TEXTS:
        if text in model.quality:
            mixed += model.quality[text] * shares.get(text, 0.0)
            total += shares.get(text, 0.0)
    if total <= 0:
        return own
    return (own + mixed / total) / 2 if category == "vision" else mixed / total


def priced(
    need: Need, categorised: Categorised, model: Model, offer: Offer, live: Live, policy: Policy
) -> Plain:
    output = min(expected_output_tokens(need, categorised, live, policy), offer.max_output)
    ttft_s, tok_s = live.speeds.get(offer.key, (offer.ttft_s, offer.tok_s))
    seconds = ttft_s + output / tok_s
    cached = (
        min(need.pinned.cached_tokens, need.prompt_tokens) if need.pinned and is_pinned(need, offer) else 0
    )

    def cost(cached_tokens: int) -> int:
        tokens = Tokens(need.prompt_tokens, output * need.choices, cached_tokens)
        return charge_nusd(offer, policy, need.at, tokens)

    def score(cost_nusd: int) -> float:
        if need.mode == "nitro":
            return seconds
        return cost_nusd + (0.0 if need.mode == "floor" else seconds * policy.time_value_nusd_per_s)

    return Plain(
        model=model,
        offer=offer,
        quality=quality(model, categorised),
        uncached_nusd=cost(0),
        expected_nusd=cost(cached),
        max_nusd=worst(need, offer, policy),
        seconds=seconds,
        uncached_score=score(cost(0)),
        score=score(cost(cached)),
    )


def worst(need: Need, offer: Offer, policy: Policy) -> int:
    prompt = min(need.prompt_tokens_bound, offer.context)
    bound = need.output_tokens or policy.output_tokens or offer.max_output
    output = min(bound, offer.max_output) * need.choices
    sizes = {prompt} | {rule.above_input for rule in offer.when if rule.above_input is not None}
    most = 0
    for size in sizes:
        if size <= prompt:
            price = offer.charge or price_at(offer, need.at, size)
            pusd = size * max(price.input, price.cache_read, price.cache_write) + output * price.output
            ppm = 1_000_000 if offer.charge else policy.markup_ppm
            most = max(most, -(-pusd * ppm // 10**9))
    return most


def stopped(
    need: Need,
    categorised: Categorised,
    plain: Plain,
    live: Live,
    policy: Policy,
    rated: bool,
    must_read: list[str],
) -> str | None:
    word = unfit(need, categorised, plain, live, policy, rated, must_read)
    if word is not None:
        return word
    if need.max_cost_nusd is not None and plain.max_nusd > need.max_cost_nusd:
        return "cap"
    block = live.blocked.get(plain.offer.key)
    return None if block is None else block.reason


def unfit(
    need: Need,
    categorised: Categorised,
    plain: Plain,
    live: Live,
    policy: Policy,
    rated: bool,
    must_read: list[str],
) -> str | None:
    offer, model = plain.offer, plain.model
    names = (offer.model, f"{offer.provider}/{offer.model}", f"{offer.provider}:{offer.model}")

    def called(globs: tuple[str, ...]) -> bool:
        return any(fnmatchcase(name, glob) for name in names for glob in globs)

    wanted = need.output_tokens
    output = wanted or min(expected_output_tokens(need, categorised, live, policy), offer.max_output)
    tests = {
        "unusable": offer.unusable is not None
        or (model.retires is not None and model.retires <= need.at.date()),
        "denied": (bool(need.key_models) and not called(need.key_models))
        or (bool(need.allow) and not called(need.allow))
        or called(need.deny),
        "no_quality": rated and plain.quality is None,
        "modality": (need.images > 0 or need.asked.category == "vision") and "image" not in offer.input,
        "tools": need.tools and "tools" not in offer.features,
        "json_schema": need.json_schema and "json_schema" not in offer.features,
        "max_output": wanted is not None and wanted > offer.max_output,
        "context": int(need.prompt_tokens * 1.05) + output > offer.context,
    }
    for word, fails in tests.items():
        if fails:
            return word
    return None if offer.input.issuperset(must_read) else "modality"


def lacks(need: Need, plain: Plain) -> bool:
    has = plain.offer.features
    no_json = need.json_mode and not has & {"json_mode", "json_schema"}
    return no_json or (need.reasoning and "reasoning" not in has)


def order(need: Need, p: Plain) -> tuple[bool, float, float, int, tuple[str, str, str]]:
    return lacks(need, p), p.score, -(p.quality or 0.0), p.expected_nusd, p.id


def band(need: Need, categorised: Categorised, policy: Policy) -> float:
    if need.mode == "nitro" or need.mode == "floor" or categorised.category is None:
        return 100.0
    return policy.bands.get(categorised.category, {}).get(need.mode, BANDS[need.mode])
