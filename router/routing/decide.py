"""Decide which offer serves a request: hard filters, a quality band, then the cheapest expected cost.

`decide` is pure: no clock, no randomness, no I/O. Explaining, dry-running, quoting and serving are this call.
A weighted sum of quality and price is not used: its winner flips when an unrelated model is added.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from msgspec import Struct

from router.catalog.price import Tokens, charge_nusd
from router.catalog.snapshot import Category, Model, Offer, Policy, Snapshot
from router.routing.need import Need

# Below this probability the decision mixes the qualities of the text categories.
SURE = 0.6
TEXT_CATEGORIES: tuple[Category, ...] = ("simple", "coding", "reasoning")
# The estimate of prompt tokens is taken to be at most this much too low.
_CONTEXT_RESERVE = 1.05
_DEFAULT_BANDS: dict[str, float] = {"quality": 0.0, "balanced": 5.0, "cost": 15.0}
_DEFAULT_OUTPUT_TOKENS: dict[Category | None, int] = {
    None: 500,
    "simple": 250,
    "coding": 900,
    "reasoning": 1_500,
    "vision": 300,
}


class Categorised(Struct, frozen=True, gc=False):
    """Hold what the words ask for; `confidence` is the probability of `category`. All None: a named model."""

    category: Category | None = None
    probabilities: Mapping[Category, float] | None = None
    confidence: float | None = None


@dataclass(frozen=True, slots=True)
class Blocked:
    """Say why an offer takes nothing now, `at_limit` or `cooling`, and for how many seconds."""

    reason: str
    retry_after_s: int
    detail: str


class Live(Struct, frozen=True, gc=False):
    """Hold what is measured, as published under `id`; keyed by (provider, upstream model)."""

    id: str = "none"
    speeds: Mapping[tuple[str, str], tuple[float, float]] = {}
    blocked: Mapping[tuple[str, str], Blocked] = {}


class Candidate(Struct, frozen=True):
    """An offer that passed every filter; `max_nusd` is the worst-case charge, which is what is held."""

    model: Model
    offer: Offer
    quality: float | None
    expected_nusd: int
    max_nusd: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Loser:
    """An offer that was not chosen: a fixed word, a sentence, and the figure that the word is about."""

    model: str
    provider: str
    reason: str
    detail: str
    figure: int = 0


class Decision(Struct, frozen=True, gc=False):
    """The ranked offers for one need; `candidates[0]` is chosen, the next ones are its fallbacks."""

    need: Need
    categorised: Categorised
    catalog: str
    live: str
    reason: str
    candidates: tuple[Candidate, ...]
    refused: tuple[Loser, ...]
    blocked: tuple[Blocked, ...]
    band_floor: float

    @property
    def chosen(self) -> Candidate | None:
        """Return the winner, None when nothing fits."""
        return self.candidates[0] if self.candidates else None

    @property
    def losers(self) -> tuple[Loser, ...]:
        """Return every offer that was not chosen; made on demand, since serving reads none of it."""
        return (*self.refused, *_outdone(self.candidates, self.band_floor, self.need))


def decide(need: Need, categorised: Categorised, catalog: Snapshot, live: Live, policy: Policy) -> Decision:
    """Rank the offers that can serve a need and give every other one its reason."""
    field_ = _Field(need, categorised, live, policy)
    if need.asked.model is not None:
        field_.enter([catalog.models[need.asked.model]], rated=False)
        ranked, reason = sorted(field_.candidates, key=_order(need, policy)), "named"
    else:
        field_.enter(list(catalog.models.values()), rated=True)
        ranked, reason = _rank(field_, need, policy)
        if not ranked:
            field_.enter(list(catalog.models.values()), rated=False, local=True)
            ranked, reason = sorted(field_.candidates, key=_order(need, policy)), "unrated_local"
    listed = _listed(need, catalog, field_, policy)
    if listed:
        first, rest = ranked[:1], ranked[1:]
        reason = reason if first else "fallback_list"
        ranked = [*first, *(c for c in listed if c not in first), *(c for c in rest if c not in listed)]
    return Decision(
        need,
        categorised,
        catalog.revision,
        live.id,
        reason,
        tuple(ranked),
        tuple(field_.losers.values()),
        tuple(field_.blocked),
        _band_floor(ranked, categorised, need, policy),
    )


class _Field:
    """Collect candidates, losers and blocked offers while the filters run."""

    def __init__(self, need: Need, categorised: Categorised, live: Live, policy: Policy) -> None:
        self.need = need
        self.categorised = categorised
        self.live = live
        self.policy = policy
        self.output_tokens = expected_output_tokens(need, categorised, policy)
        # Offers share a few windows and outputs, so both counts of tokens are made once for each.
        self.expected: dict[int, Tokens] = {}
        self.worst: dict[tuple[int, int, bool], Tokens] = {}
        self.candidates: list[Candidate] = []
        self.losers: dict[tuple[str, str, str], Loser] = {}
        self.blocked: list[Blocked] = []

    def enter(self, models: Sequence[Model], *, rated: bool, local: bool = False) -> list[Candidate]:
        """Filter the offers of these models; returns those that came through, which `candidates` keeps.

        `rated` refuses models without a quality for the category, `local` looks at local offers only.
        """
        new = []
        for model in models:
            quality = quality_of(model, self.categorised)
            for offer in model.offers:
                if local and not offer.local:
                    continue
                unrated = rated and quality is None
                refusal = _refuse(self.need, self.categorised, offer, self.output_tokens, unrated)
                if refusal is None:
                    candidate = self._price(model, offer, quality)
                    refusal = self._refuse_now(candidate)
                    if refusal is None:
                        if self.losers:
                            self.losers.pop((offer.model, *offer.key), None)
                        new.append(candidate)
                        continue
                self.losers[(offer.model, *offer.key)] = Loser(offer.model, offer.provider, *refusal)
        self.candidates.extend(new)
        return new

    def _price(self, model: Model, offer: Offer, quality: float | None) -> Candidate:
        need = self.need
        output = min(self.output_tokens, offer.max_output) * need.choices
        tokens = self.expected.get(output)
        if tokens is None:
            tokens = self.expected[output] = Tokens(need.prompt_tokens, output)
        kind = (offer.context, offer.max_output, offer.price.cache_write > offer.price.input)
        worst = self.worst.get(kind)
        if worst is None:
            worst = self.worst[kind] = worst_tokens(need, offer)
        ttft_s, tok_s = offer.ttft_s, offer.tok_s
        if self.live.speeds:
            ttft_s, tok_s = self.live.speeds.get(offer.key, (ttft_s, tok_s))
        return Candidate(
            model,
            offer,
            quality,
            charge_nusd(offer, self.policy, need.at, tokens),
            charge_nusd(offer, self.policy, need.at, worst),
            ttft_s + output / need.choices / tok_s,
        )

    def _refuse_now(self, candidate: Candidate) -> _Refusal | None:
        """Apply the filters that look at money and load, once the candidate fits otherwise."""
        offer, cap = candidate.offer, self.need.max_cost_nusd
        if cap is not None and candidate.max_nusd > cap:
            detail = f"may cost {usd(candidate.max_nusd)} USD, the cap is {usd(cap)} USD"
            return "cap", detail, candidate.max_nusd
        block = self.live.blocked.get(offer.key) if self.live.blocked else None
        if block is not None:
            self.blocked.append(block)
            return block.reason, block.detail, 0
        return None


# A filter's word, its sentence, and the figure that the sentence is about.
_Refusal = tuple[str, str, int]


def _refuse(
    need: Need, categorised: Categorised, offer: Offer, output_tokens: int, unrated: bool
) -> _Refusal | None:
    """Return the first hard filter that an offer fails, None when it passes them all."""
    if offer.unusable is not None:
        return "unusable", offer.unusable, 0
    shut_out = need.permits(offer.model, offer.provider)
    if shut_out is not None:
        return "denied", shut_out, 0
    if unrated:
        return "no_quality", f"the catalog has no {categorised.category} quality for it", 0
    if (need.images or need.asked.category == "vision") and "image" not in offer.input:
        return "modality", "does not read images", 0
    if need.tools and "tools" not in offer.features:
        return "tools", "does not call tools", 0
    if need.json_schema and "json_schema" not in offer.features:
        return "json_schema", "does not answer by a JSON schema", 0
    wanted = need.output_tokens
    if wanted is not None and wanted > offer.max_output:
        return "max_output", f"writes at most {offer.max_output:,} tokens", offer.max_output
    context = int(need.prompt_tokens * _CONTEXT_RESERVE) + (wanted or min(output_tokens, offer.max_output))
    if context > offer.context:
        return "context", f"needs {context:,} tokens of context, has {offer.context:,}", offer.context
    return None


def quality_of(model: Model, categorised: Categorised) -> float | None:
    """Return a model's quality for a request, None when the catalog does not rate it for the category.

    Unsure between text categories, qualities are mixed by probability; with images, the text's quality and
    the vision quality count half each.
    """
    category = categorised.category
    own = model.quality.get(category) if category is not None else None
    if own is None or categorised.probabilities is None:
        return own
    if category != "vision" and categorised.confidence is not None and categorised.confidence >= SURE:
        return own
    shares = {c: categorised.probabilities.get(c, 0.0) for c in TEXT_CATEGORIES if c in model.quality}
    total = sum(shares.values())
    if total <= 0:
        return own
    mixed = sum(model.quality[c] * share for c, share in shares.items()) / total
    return (own + mixed) / 2 if category == "vision" else mixed


def expected_output_tokens(need: Need, categorised: Categorised, policy: Policy) -> int:
    """Return the output tokens to expect of one choice: by category, at most what the client allows."""
    category = categorised.category
    usual = policy.expected_output_tokens.get(category) if category is not None else None
    expected = usual or _DEFAULT_OUTPUT_TOKENS[category]
    return expected if need.output_tokens is None else min(expected, need.output_tokens)


def worst_tokens(need: Need, offer: Offer) -> Tokens:
    """Return the most tokens that a request can be billed at this offer."""
    prompt = min(need.prompt_tokens_bound, offer.context)
    output = min(need.output_tokens or offer.max_output, offer.max_output) * need.choices
    written = prompt if offer.price.cache_write > offer.price.input else 0
    return Tokens(prompt, output, written=written)


# Offers that have what is wished for first, then the mode's score, then what settles ties.
_Key = tuple[bool, float, float, int, str, str]


def _order(need: Need, policy: Policy) -> Callable[[Candidate], _Key]:
    """Return the sort key of a mode: seconds, cost, or cost plus the value of time."""
    value_nusd_per_s = policy.time_value_nusd_per_s

    def key(c: Candidate) -> _Key:
        if need.mode == "nitro":
            score = c.seconds
        elif need.mode == "floor":
            score = float(c.expected_nusd)
        else:
            score = c.expected_nusd + c.seconds * value_nusd_per_s
        lacks, quality = _lacks_wish(need, c.offer), c.quality or 0.0
        return (lacks, score, -quality, c.expected_nusd, c.model.id, c.offer.provider)

    return key


def _lacks_wish(need: Need, offer: Offer) -> bool:
    """Tell whether an offer lacks what most servers have under some name: JSON mode, reasoning effort."""
    if need.json_mode and not offer.features & {"json_mode", "json_schema"}:
        return True
    return need.reasoning and "reasoning" not in offer.features


def band_points(need: Need, categorised: Categorised, policy: Policy) -> float:
    """Return how many quality points below the best an offer may be; all, for `nitro` and `floor`."""
    if need.mode == "nitro" or need.mode == "floor" or categorised.category is None:  # noqa: PLR1714 - narrows
        return 100.0
    return policy.bands.get(categorised.category, {}).get(need.mode, _DEFAULT_BANDS[need.mode])


def _rank(field_: _Field, need: Need, policy: Policy) -> tuple[list[Candidate], str]:
    """Order candidates: those in the band by the mode's score, then the others by quality."""
    key = _order(need, policy)
    floor = _band_floor(field_.candidates, field_.categorised, need, policy)
    inside = sorted((c for c in field_.candidates if (c.quality or 0.0) >= floor), key=key)
    outside = [c for c in field_.candidates if (c.quality or 0.0) < floor]
    outside.sort(key=lambda c: (-(c.quality or 0.0), *key(c)))
    word = {"nitro": "fastest", "floor": "cheapest"}.get(need.mode, "cheapest_in_band")
    return [*inside, *outside], "only_fit" if len(field_.candidates) == 1 else word


def _band_floor(
    candidates: Sequence[Candidate], categorised: Categorised, need: Need, policy: Policy
) -> float:
    best = max((c.quality or 0.0 for c in candidates), default=0.0)
    return best - band_points(need, categorised, policy)


def _listed(need: Need, catalog: Snapshot, field_: _Field, policy: Policy) -> list[Candidate]:
    """Return the offers of the client's `models` list, in its order."""
    listed: list[Candidate] = []
    for name in need.asked.fallbacks:
        own = [c for c in field_.candidates if c.model.id == name]
        listed += sorted(own or field_.enter([catalog.models[name]], rated=False), key=_order(need, policy))
    return listed


def _outdone(ranked: Sequence[Candidate], floor: float, need: Need) -> list[Loser]:
    """Say of each candidate behind the first why it is behind."""
    if not ranked:
        return []
    winner = ranked[0]
    losers = []
    for c in ranked[1:]:
        if c.quality is not None and c.quality < floor:
            reason, detail = "outside_band", f"quality {c.quality:.0f}, the band begins at {floor:.0f}"
        elif need.mode == "nitro":
            reason, detail = "slower", f"{c.seconds:.1f} s expected, the winner {winner.seconds:.1f} s"
        elif c.expected_nusd > winner.expected_nusd:
            reason = "dearer"
            detail = f"{usd(c.expected_nusd)} USD expected, the winner {usd(winner.expected_nusd)} USD"
        else:
            reason, detail = "later", f"{c.seconds:.1f} s expected, the winner {winner.seconds:.1f} s"
        losers.append(Loser(c.offer.model, c.offer.provider, reason, detail))
    return losers


def usd(nusd: int) -> str:
    """Write nano-USD as US dollars for a sentence, to three significant digits below a cent."""
    return f"{nusd / 1e9:.4f}" if nusd >= 10_000_000 else f"{nusd / 1e9:.3g}"
