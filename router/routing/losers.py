"""Why an offer was not chosen, in a fixed word and a sentence; made on demand, serving reads none of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal

from router.routing.pool import TIE, Candidate, Pool
from router.routing.table import CONTEXT_RESERVE, indices

# The order in which the hard filters run: the last one that stopped anything was the tightest.
FILTERS = (
    "unusable",
    "denied",
    "no_quality",
    "modality",
    "tools",
    "json_schema",
    "max_output",
    "context",
    "cap",
    "credit",
)
# A filter's word, its sentence, and the figure that the sentence is about.
_Refusal = tuple[str, str, int]


@dataclass(frozen=True, slots=True)
class Loser:
    """An offer that was not chosen: a fixed word, a sentence, and the figure that the word is about."""

    model: str
    provider: str
    reason: str
    detail: str
    figure: int = 0


def refused(pool: Pool) -> Iterator[Loser]:
    """Yield the offers that a filter stopped, those last that cannot be used here: logs keep a few alone."""
    stopped, usable = pool.considered & ~pool.accepted, pool.table.usable
    for mask in (stopped & usable, stopped & ~usable):
        for i in indices(mask):
            offer = pool.table.offers[i]
            yield Loser(offer.model, offer.provider, *_refusal(pool, i))


def _refusal(pool: Pool, i: int) -> _Refusal:
    """Return the first filter that an offer fails: those of `Table.fitting`, then cap and load."""
    stopped = _unfit(pool, i) or _too_large(pool, i) or _unread(pool, i)
    if stopped is not None:
        return stopped
    cap, worst = pool.need.max_cost_nusd, pool.worst_nusd(i)
    if cap is not None and worst > cap:
        return "cap", f"may cost {usd(worst)} USD, the cap is {usd(cap)} USD", worst
    credit = pool.need.credit_nusd
    if credit is not None and worst > credit:
        return "credit", f"may cost {usd(worst)} USD, {usd(max(0, credit))} USD of credit are left", worst
    block = pool.blocked[i]
    return block.reason, block.detail, 0


def _unfit(pool: Pool, i: int) -> _Refusal | None:
    need, offer, model = pool.need, pool.table.offers[i], pool.table.models[i]
    category = pool.categorised.category
    if offer.unusable is not None:
        return "unusable", offer.unusable, 0
    if not pool.table.not_retired(need.at) >> i & 1:
        return "unusable", f"retired on {model.retires}", 0
    shut_out = need.permits(offer.model, offer.provider)
    if shut_out is not None:
        return "denied", shut_out, 0
    if category not in model.quality and not pool.unrated >> i & 1:
        return "no_quality", f"the catalog has no {category} quality for it", 0
    if (need.images or need.asked.category == "vision") and "image" not in offer.input:
        return "modality", "does not read images", 0
    if need.tools and "tools" not in offer.features:
        return "tools", "does not call tools", 0
    if need.json_schema and "json_schema" not in offer.features:
        return "json_schema", "does not answer by a JSON schema", 0
    return None


def _too_large(pool: Pool, i: int) -> _Refusal | None:
    need, offer = pool.need, pool.table.offers[i]
    wanted = need.output_tokens
    if wanted is not None and wanted > offer.max_output:
        return "max_output", f"writes at most {offer.max_output:,} tokens", offer.max_output
    output = wanted or min(pool.output_tokens, offer.max_output)
    context = int(need.prompt_tokens * CONTEXT_RESERVE) + output
    if context > offer.context:
        return "context", f"needs {context:,} tokens of context, has {offer.context:,}", offer.context
    return None


def _unread(pool: Pool, i: int) -> _Refusal | None:
    for kind in pool.must_read:
        if kind not in pool.table.offers[i].input:
            return "modality", f"does not read {'files' if kind == 'file' else kind}", 0
    return None


def outdone(pool: Pool, winner: Candidate, others: Iterator[Candidate], reason: str) -> Iterator[Loser]:
    """Say of each candidate behind the winner why it is behind."""
    for c in others:
        yield Loser(c.offer.model, c.offer.provider, *_behind(pool, winner, c, reason))


def _behind(pool: Pool, winner: Candidate, c: Candidate, reason: str) -> tuple[str, str]:
    lacking = _lacking(pool, winner, c)
    if lacking is not None:
        return lacking
    if c.quality is not None and c.quality < pool.floor:
        return "outside_band", f"quality {c.quality:.3g}, the band begins at {pool.floor:.3g}"
    faster = f"{c.seconds:.1f} s expected, the winner {winner.seconds:.1f} s"
    if pool.need.mode == "nitro" and c.seconds >= winner.seconds:
        return "slower", faster
    costs = f"{usd(c.expected_nusd)} USD expected, the winner {usd(winner.expected_nusd)} USD"
    if reason == "session" and _score(pool, c) <= _score(pool, winner):
        return "session", f"{costs}; not 10 % less, with what the session's offer has cached"
    if c.expected_nusd > winner.expected_nusd:
        return "dearer", costs
    if _score(pool, c) <= _score(pool, winner) and (c.quality or 0.0) < (winner.quality or 0.0):
        return "tie", f"within {TIE - 1:.0%} of the winner, whose quality is higher"
    return "later", faster


def _lacking(pool: Pool, winner: Candidate, c: Candidate) -> tuple[str, str] | None:
    """Say what the winner has and an offer behind it has not."""
    has, won = c.offer.features, winner.offer.features
    if pool.need.forced_tools and "forced_tools" in won and "forced_tools" not in has:
        return "forced_tools", "cannot be made to call a tool"
    formats = {"json_mode", "json_schema"}
    if pool.need.json_mode and won & formats and not has & formats:
        return "json_mode", "has no JSON mode"
    if pool.need.reasoning and "reasoning" in won and "reasoning" not in has:
        return "reasoning", "does not take a reasoning effort"
    return None


def _score(pool: Pool, c: Candidate) -> float:
    return pool.score(c.expected_nusd, c.seconds)


def usd(nusd: int) -> str:
    """Write nano-USD as US dollars for a sentence, to three significant digits below a cent."""
    return f"{nusd / 1e9:.4f}" if nusd >= 10_000_000 else f"{Decimal(f'{nusd / 1e9:.3g}'):f}"
