"""The offers that can serve one need: who passes the filters, what each is expected to cost, who comes next.

What serving a request needs is worked out at once; the ranking behind the winner when somebody asks for it.
All of it follows from what `decide` was given, so it is the same whenever it is asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from msgspec import Struct

from router.catalog.price import Tokens, worst_nusd
from router.catalog.snapshot import Category, Model, Offer, Policy
from router.media import Medium
from router.routing.need import Need
from router.routing.quality import Categorised, quality_of
from router.routing.sheet import SLACK, SLACK_NUSD, Aim, aim_of
from router.routing.table import CONTEXT_RESERVE, Table, indices

# Scores this much above the lowest are as good; estimates are no finer.
TIE = 1.02
# The widest band there is: everybody is in it.
EVERYBODY = 100.0
_DEFAULT_BANDS: dict[str, float] = {"quality": 0.0, "balanced": 5.0, "cost": 15.0}
_DEFAULT_OUTPUT_TOKENS: dict[Category | None, int] = {
    None: 500,
    "simple": 250,
    "coding": 900,
    "reasoning": 1_500,
    "vision": 300,
}


@dataclass(frozen=True, slots=True)
class Blocked:
    """Say why an offer takes nothing now and for how many seconds.

    `at_limit` is our limit, `rate_limited` its provider's, `cooling` a rest after failures.
    """

    reason: str
    retry_after_s: int
    detail: str


class Live(Struct, frozen=True, gc=False):
    """Hold what is measured, keyed by (provider, upstream model), and who takes nothing at this moment.

    Published under `id`: `speeds` (seconds to the first token, tokens a second) and the output tokens to
    expect of a category; neither is ever changed, the next table is another object.
    """

    id: str = "none"
    speeds: Mapping[tuple[str, str], tuple[float, float]] = {}
    output_tokens: Mapping[Category, int] = {}
    blocked: Mapping[tuple[str, str], Blocked] = {}


class Candidate(Struct, frozen=True):
    """An offer that passed every filter; `max_nusd` is the worst-case charge, which is what is held.

    `output_tokens` bounds each choice: the request goes upstream with it. None where the window is a tighter
    bound, which the upstream knows better.
    """

    model: Model
    offer: Offer
    quality: float | None
    expected_nusd: int
    max_nusd: int
    seconds: float
    output_tokens: int | None = None


class Figures(Struct, frozen=True, gc=False):
    """What is expected of an offer; `score` is what the mode makes small."""

    score: float
    expected_nusd: int
    seconds: float
    quality: float | None


def expected_output_tokens(need: Need, categorised: Categorised, live: Live, policy: Policy) -> int:
    """Return the output tokens to expect of one choice: as learned, else as in the policy, else as usual.

    At most what the client allows.
    """
    category = categorised.category
    usual = None
    if category is not None:
        usual = live.output_tokens.get(category) or policy.expected_output_tokens.get(category)
    expected = usual or _DEFAULT_OUTPUT_TOKENS[category]
    most = most_output_tokens(need, policy)
    return expected if most is None else min(expected, most)


def most_output_tokens(need: Need, policy: Policy) -> int | None:
    """Return the most that a choice may write, as the client says, else as the operator; None: no bound."""
    return policy.output_tokens if need.output_tokens is None else need.output_tokens


def band_points(need: Need, categorised: Categorised, policy: Policy) -> float:
    """Return how many quality points below the best an offer may be; all, for `nitro` and `floor`."""
    if need.mode == "nitro" or need.mode == "floor" or categorised.category is None:  # noqa: PLR1714 - narrows
        return EVERYBODY
    return policy.bands.get(categorised.category, {}).get(need.mode, _DEFAULT_BANDS[need.mode])


class Pool:
    """The offers of a table for one need, as masks; offers are known by their number in the table.

    `main` may be chosen; of these, `top` can be forced to call a tool, where the need wants that and any can;
    `inside` is the quality band of `top`, which begins at `floor`. `listed` are those of the client's list,
    in its order. `unrated` are let in without a quality; `fitting` pass every filter but rating and load.
    `must_read` are the kinds of input that an offer has to read.
    """

    __slots__ = (
        "aim",
        "blocked",
        "cached_tokens",
        "categorised",
        "considered",
        "fitting",
        "floor",
        "inside",
        "listed",
        "main",
        "most_output",
        "must_read",
        "need",
        "output_tokens",
        "pinned",
        "policy",
        "sheet",
        "table",
        "top",
        "unrated",
        "uses_local",
    )

    def __init__(
        self, need: Need, categorised: Categorised, table: Table, live: Live, policy: Policy
    ) -> None:
        self.need = need
        self.categorised = categorised
        self.table = table
        self.policy = policy
        self.aim: Aim = aim_of(need.mode)
        self.most_output = most_output_tokens(need, policy)
        self.output_tokens = expected_output_tokens(need, categorised, live, policy)
        self.sheet = table.sheet(policy, live.speeds, need.at, need.prompt_tokens)
        self.pinned, self.cached_tokens = -1, 0
        if need.pinned is not None:
            key = (need.pinned.provider, need.pinned.upstream_model)
            mask = table.of_model.get(need.pinned.model, 0) & table.by_key.get(key, 0)
            self.pinned = mask.bit_length() - 1
            self.cached_tokens = min(max(need.pinned.cached_tokens, 0), need.prompt_tokens)
        self.must_read: tuple[Medium, ...] = ()
        fitting = table.fitting(need, categorised.category, self.output_tokens)
        if need.media:
            fitting = self._reading(fitting)
        for cap_nusd in (need.max_cost_nusd, need.credit_nusd):
            if cap_nusd is not None:
                fitting = self._covered(fitting, cap_nusd)
        self.fitting = fitting
        self.blocked: Mapping[int, Blocked] = {}
        if live.blocked:
            self.blocked = {
                i: b for key, b in live.blocked.items() for i in indices(table.by_key.get(key, 0))
            }
        self._enter()

    def _reading(self, fitting: int) -> int:
        """Drop the offers that do not read a kind of input, where one that could be chosen does.

        Where the catalog names none, it may just not say so, and the upstream is asked.
        """
        named, rated = self.need.asked.model, self.table.rated(self.categorised.category)
        scope = rated if named is None else self.table.of_model.get(named, 0)
        for kind in self.need.media:
            able = fitting & self.table.reads[kind]
            if able & scope:
                fitting, self.must_read = able, (*self.must_read, kind)
        return fitting

    def _enter(self) -> None:
        """Say who may be chosen, who is in the band, and who is tried behind the winner."""
        need, table = self.need, self.table
        free = self.fitting
        for i in self.blocked:
            free &= ~(1 << i)
        self.uses_local = False
        if need.asked.model is not None:
            self.considered = self.unrated = table.of_model.get(need.asked.model, 0)
            self.main = free & self.considered
        else:
            self.considered, self.unrated = table.all, 0
            self.main = free & table.rated(self.categorised.category)
            if not self.main:
                self.uses_local = True
                self.unrated = table.local
                self.main = free & table.local
        self.listed: list[int] = []
        for name in need.asked.fallbacks:
            mask = table.of_model.get(name, 0)
            self.listed.append(free & mask)
            self.considered |= mask
            self.unrated |= mask
        self.top = (need.forced_tools and self.main & table.forced_tools) or self.main
        points = band_points(need, self.categorised, self.policy)
        unbanded = points >= EVERYBODY or self.uses_local or need.asked.model is not None
        if unbanded or not self.top:
            self.floor, self.inside = -EVERYBODY, self.top
        else:
            self.floor, self.inside = table.band(self.top, self.categorised, points)

    @property
    def accepted(self) -> int:
        """Return all that may serve, the client's list of models included."""
        mask = self.main
        for listed in self.listed:
            mask |= listed
        return mask

    def _covered(self, among: int, cap_nusd: int) -> int:
        """Keep the offers whose worst case the cap covers; only those too close to it are priced exactly."""
        need, table = self.need, self.table
        bound = need.prompt_tokens_bound
        tiered = among & table.calendar.tiered_below(bound)
        flat = table.sheet(self.policy, self.sheet.source, need.at, 0)
        sure, perhaps = flat.covered(among & ~tiered, cap_nusd, bound, self.most_output, need.choices)
        for i in indices((perhaps & ~sure) | tiered):
            if self.worst_nusd(i) <= cap_nusd:
                sure |= 1 << i
        return sure

    def worst_nusd(self, i: int) -> int:
        """Return the most that an offer can charge: the prompt's bound, the whole output of every choice."""
        need, offer = self.need, self.table.offers[i]
        prompt = min(need.prompt_tokens_bound, offer.context)
        output = self.output_bound(i) * need.choices
        return worst_nusd(offer, self.policy, need.at, Tokens(prompt, output))

    def output_bound(self, i: int) -> int:
        """Return the most tokens that a choice of an offer may have."""
        largest = self.table.offers[i].max_output
        return largest if self.most_output is None else min(self.most_output, largest)

    def sent_bound(self, i: int) -> int | None:
        """Return what a request carries of that: a bound beside which the prompt would not fit is refused."""
        need, bound = self.need, self.output_bound(i)
        window = self.table.offers[i].context - int(need.prompt_tokens * CONTEXT_RESERVE)
        return bound if need.output_tokens is not None or bound <= window else None

    def wished(self, among: int) -> int:
        """Keep those that have what most servers have under some name: JSON mode, reasoning effort."""
        if self.need.json_mode:
            among &= self.table.json_mode
        if self.need.reasoning:
            among &= self.table.reasoning
        return among

    def lowest(self, among: int) -> list[int]:
        """Return the offers whose score may be the lowest or tie with it, nobody's prompt being cached."""
        if not among & (among - 1):
            return [among.bit_length() - 1]
        prompt, output, choices = self.need.prompt_tokens, self.output_tokens, self.need.choices
        rows = self.sheet.among(among, self.aim)
        scores = [
            a * prompt + (b * choices + d) * (output if output < most else most) + c
            for a, b, d, c, most, _ in rows
        ]
        limit = min(scores) * (1.0 + SLACK)
        if self.aim == "value":
            limit *= TIE
        if self.aim != "seconds":
            limit += 3 * SLACK_NUSD
        return [row[5] for row, score in zip(rows, scores, strict=True) if score <= limit]

    def score(self, expected_nusd: int, seconds: float) -> float:
        """Return what the mode makes small: seconds, cost, or cost and the value of time."""
        if self.aim == "seconds":
            return seconds
        if self.aim == "cost":
            return float(expected_nusd)
        return expected_nusd + seconds * self.policy.time_value_nusd_per_s

    def figures(self, i: int, cached_tokens: int) -> Figures:
        """Return what to expect of an offer that has so much of the prompt cached."""
        need = self.need
        output = min(self.output_tokens, self.table.offers[i].max_output)
        tokens = Tokens(need.prompt_tokens, output * need.choices, cached_tokens)
        expected_nusd = self.sheet.expected_nusd(i, tokens)
        seconds = self.sheet.seconds(i, output)
        score = self.score(expected_nusd, seconds)
        return Figures(score, expected_nusd, seconds, quality_of(self.table.models[i], self.categorised))

    def expected(self, i: int) -> Figures:
        """Return what to expect of an offer, with what the session has cached there."""
        return self.figures(i, self.cached_tokens if i == self.pinned else 0)

    def candidate(self, i: int, figures: Figures) -> Candidate:
        """Return an offer with its figures and its worst case."""
        return Candidate(
            self.table.models[i],
            self.table.offers[i],
            figures.quality,
            figures.expected_nusd,
            self.worst_nusd(i),
            figures.seconds,
            self.sent_bound(i),
        )

    def names(self, i: int) -> tuple[str, str, str]:
        """Return what settles the last ties, whatever the order of the catalog."""
        offer = self.table.offers[i]
        return offer.model, offer.provider, offer.upstream_model

    def ordered(self, among: int, *, by_quality: bool = False) -> list[tuple[int, Figures]]:
        """Sort offers: those that have what is wished for first, then by score, quality, cost and name."""
        wished = self.wished(among)

        def key(entry: tuple[int, Figures]) -> tuple[float, bool, float, float, int, tuple[str, str, str]]:
            i, figures = entry
            quality = figures.quality or 0.0
            lacks = not wished >> i & 1
            first = -quality if by_quality else 0.0
            return first, lacks, figures.score, -quality, figures.expected_nusd, self.names(i)

        return sorted(((i, self.expected(i)) for i in indices(among)), key=key)

    def others(self, first: int) -> Iterator[Candidate]:
        """Yield those behind the first: the client's list, the band by score, then the others by quality."""
        stages = [(mask, False) for mask in (*self.listed, self.inside)]
        stages += [(self.top & ~self.inside, True), (self.main & ~self.top, True)]
        left = self.accepted & ~(1 << first)
        for mask, by_quality in stages:
            for i, figures in self.ordered(mask & left, by_quality=by_quality):
                yield self.candidate(i, figures)
            left &= ~mask
