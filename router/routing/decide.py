"""Decide which offer serves a request: hard filters, a quality band, then the cheapest expected cost.

`decide` is pure: no clock, no randomness, no I/O. Explaining, dry-running, quoting and serving are this call.
A weighted sum of quality and price is not used: its winner flips when an unrelated model is added.

1. **Filters**: `losers.FILTERS` has their words and order, `table.Table.fitting` is the same as masks.
2. **Quality** of the category, mixed where the classifier is unsure (`quality`); in a session, what looks
   simple counts as the conversation's hardest category.
3. **Band**: as good as the best, but for the points that the mode gives up. A request that forces a tool call
   looks at the offers that can be forced, as long as there is one; the others come last.
4. **Lowest score** in the band: expected cost (`when` rules of the moment, learned output length) and the
   value of the seconds expected; `nitro` only the seconds, `floor` only the cost. Offers without a JSON mode
   or reasoning effort that the request wishes for come behind those that have it.
5. **Ties**: within 2 % of the lowest score the higher quality wins, then the lower cost, the lower score, the
   name. How many requests are in flight is no input of a pure function. `nitro` and `floor` know no ties.
6. **Stay**: in a session, the offer that served last, priced with what it has cached, unless the winner's
   score, with nothing cached, is at least 10 % lower. It must pass the filters and be in the band.

Behind the winner come the client's own list, the rest of the band by score, and the others by quality.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import overload

from msgspec import Struct

from router.catalog.snapshot import Policy, Snapshot
from router.routing.losers import Loser, outdone, refused, usd
from router.routing.need import Need
from router.routing.pool import (
    TIE,
    Blocked,
    Candidate,
    Figures,
    Live,
    Pool,
    band_points,
    expected_output_tokens,
)
from router.routing.quality import SURE, TEXT_CATEGORIES, Categorised, quality_of, settled
from router.routing.table import indices, table_of

__all__ = [
    "SURE",
    "TEXT_CATEGORIES",
    "Blocked",
    "Candidate",
    "Categorised",
    "Decision",
    "Live",
    "Loser",
    "Pool",
    "Ranking",
    "band_points",
    "decide",
    "expected_output_tokens",
    "quality_of",
    "usd",
]

# A session moves to another offer only when that scores at most this share of staying.
MOVE_BELOW = 0.9


def decide(need: Need, categorised: Categorised, catalog: Snapshot, live: Live, policy: Policy) -> Decision:
    """Choose the offer that serves a need; who comes next and why the others lost can be asked for."""
    if need.pinned is not None:
        categorised = settled(categorised, need)
    pool = Pool(need, categorised, table_of(catalog), live, policy)
    found = _choose(pool)
    if found is None:
        return Decision(need, categorised, catalog.revision, live.id, _word(pool), Ranking(pool, -1, None))
    first, figures, reason = found
    ranking = Ranking(pool, first, pool.candidate(first, figures))
    return Decision(need, categorised, catalog.revision, live.id, reason, ranking)


def _choose(pool: Pool) -> tuple[int, Figures, str] | None:
    """Return the winner, its figures and the word for why it won; None when nothing fits."""
    if not pool.main:
        for listed in pool.listed:
            if listed:
                return *pool.ordered(listed)[0], "fallback_list"
        return None
    among = pool.wished(pool.inside) or pool.inside
    winner, figures = _lowest(pool, among)
    if pool.pinned < 0 or not among >> pool.pinned & 1:
        return winner, figures, _word(pool)
    stay = pool.expected(pool.pinned)
    if winner == pool.pinned:
        return winner, stay, _word(pool)
    if figures.score < stay.score and figures.score <= stay.score * MOVE_BELOW:
        return winner, figures, _word(pool)
    return pool.pinned, stay, "session"


def _word(pool: Pool) -> str:
    if pool.need.asked.model is not None:
        return "named"
    if pool.uses_local:
        return "unrated_local"
    if not pool.main & (pool.main - 1):
        return "only_fit"
    return {"seconds": "fastest", "cost": "cheapest"}.get(pool.aim, "cheapest_in_band")


def _lowest(pool: Pool, among: int) -> tuple[int, Figures]:
    """Return the winner of these offers, nobody's prompt being cached, and its figures."""
    entries = [(i, pool.figures(i, 0)) for i in pool.lowest(among)]
    if len(entries) == 1:
        return entries[0]
    if pool.aim == "value":
        limit = min(figures.score for _, figures in entries) * TIE
        entries = [entry for entry in entries if entry[1].score <= limit]
        return min(
            entries, key=lambda e: (-(e[1].quality or 0.0), e[1].expected_nusd, e[1].score, pool.names(e[0]))
        )
    return min(
        entries, key=lambda e: (e[1].score, -(e[1].quality or 0.0), e[1].expected_nusd, pool.names(e[0]))
    )


class Ranking(Sequence[Candidate]):
    """The offers that can serve, best first; those behind the first are priced when they are asked for."""

    __slots__ = ("_found", "_others", "first", "pool")

    def __init__(self, pool: Pool, first: int, chosen: Candidate | None) -> None:
        self.pool = pool
        self.first = first
        self._found: list[Candidate] = [] if chosen is None else [chosen]
        self._others: Iterator[Candidate] | None = None

    def __len__(self) -> int:
        return self.pool.accepted.bit_count() if self._found else 0

    def __bool__(self) -> bool:
        return bool(self._found)

    def __iter__(self) -> Iterator[Candidate]:
        i = 0
        while i < len(self._found) or self._find(i + 1):
            yield self._found[i]
            i += 1

    @overload
    def __getitem__(self, at: int) -> Candidate: ...
    @overload
    def __getitem__(self, at: slice) -> tuple[Candidate, ...]: ...
    def __getitem__(self, at: int | slice) -> Candidate | tuple[Candidate, ...]:
        if isinstance(at, slice):
            start, stop, step = at.indices(len(self))
            self._find(max(start, stop))
            return tuple(self._found[start:stop:step])
        self._find(at + 1 if at >= 0 else len(self))
        return self._found[at]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ranking) and tuple(self) == tuple(other)

    __hash__ = None  # type: ignore[assignment]  # as a list: equal by what it holds

    def _find(self, count: int) -> bool:
        """Have that many candidates priced, as far as there are so many."""
        if self._found and len(self._found) < count:
            if self._others is None:
                self._others = self.pool.others(self.first)
            self._found += islice(self._others, count - len(self._found))
        return len(self._found) >= count


class Decision(Struct, frozen=True, gc=False):
    """What was decided for one need; `candidates[0]` is chosen, the next ones are its fallbacks.

    `categorised` is the category that was used, which in a session may be harder than what the words ask for.
    """

    need: Need
    categorised: Categorised
    catalog: str
    live: str
    reason: str
    candidates: Ranking

    @property
    def chosen(self) -> Candidate | None:
        """Return the winner, None when nothing fits."""
        return self.candidates[0] if self.candidates else None

    @property
    def pool(self) -> Pool:
        """Return what the decision was made from."""
        return self.candidates.pool

    @property
    def losers(self) -> tuple[Loser, ...]:
        """Return every offer that was not chosen: those that could serve, best first, then the others."""
        return tuple(self.each_loser())

    def each_loser(self) -> Iterator[Loser]:
        """Yield the losers one by one, for who wants only the first of them."""
        if not self.candidates:
            return refused(self.pool)
        others = islice(self.candidates, 1, None)
        return chain(outdone(self.pool, self.candidates[0], others, self.reason), refused(self.pool))

    @property
    def losers_total(self) -> int:
        """Return how many offers lost, without saying why."""
        return (self.pool.considered & ~(1 << self.candidates.first if self.candidates else 0)).bit_count()

    @property
    def blocked(self) -> tuple[Blocked, ...]:
        """Return what stops offers that could serve: they are at a limit or cooling down."""
        pool = self.pool
        rated = pool.table.rated(self.categorised.category) | pool.unrated
        return tuple(
            pool.blocked[i] for i in indices(pool.fitting & rated & pool.considered) if i in pool.blocked
        )
