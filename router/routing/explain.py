"""Say a decision: as the record of `POST /v1/route`, the log and the command line, or as the refusal."""

from __future__ import annotations

from typing import Any

from msgspec import Raw

from router.catalog.price import Tokens, charge_nusd
from router.catalog.snapshot import CATEGORIES
from router.errors import (
    LimitReached,
    ModelNotAvailable,
    NothingFits,
    OutOfCredit,
    RouterError,
    Unavailable,
)
from router.ledger.money import nusd_to_usd
from router.routing.decide import Candidate, Decision
from router.routing.losers import FILTERS, Loser


def record(decision: Decision, request_id: str, *, stripped: bool) -> dict[str, Any]:
    """Return the decision as plain data (CONTRACT section 6); amounts are exact JSON numbers in USD."""
    categorised, chosen = decision.categorised, decision.chosen
    probabilities = categorised.probabilities
    return {
        "request_id": request_id,
        "model": decision.need.asked.name if chosen is None else chosen.model.id,
        "category": categorised.category,
        "probabilities": None
        if probabilities is None
        else {c: round(probabilities.get(c, 0.0), 6) for c in CATEGORIES},
        "confidence": None if categorised.confidence is None else round(categorised.confidence, 6),
        "stripped": stripped,
        "mode": decision.need.mode,
        "catalog": decision.catalog,
        "live": decision.live,
        "reason": decision.reason,
        "need": {
            "prompt_tokens": decision.need.prompt_tokens,
            "output_tokens": decision.need.output_tokens,
            "expected_output_tokens": decision.pool.output_tokens,
            "images": decision.need.images,
            "media": list(decision.need.media),
            "tools": decision.need.tools,
            "forced_tools": decision.need.forced_tools,
        },
        "session": _session(decision),
        "chosen": None if chosen is None else _said(chosen),
        "fallbacks": [_said(c) for c in decision.candidates[1:]],
        "losers": [
            {"model": x.model, "provider": x.provider, "reason": x.reason, "detail": x.detail}
            for x in decision.losers
        ],
        "quote": None
        if chosen is None
        else {"usd": number(chosen.expected_nusd), "max_usd": number(chosen.max_nusd)},
        "baseline": _baseline(decision),
    }


def _session(decision: Decision) -> dict[str, Any] | None:
    """Say what became of the conversation's offer: stayed, moved, or unfit (it cannot serve this request)."""
    pinned, chosen, pool = decision.need.pinned, decision.chosen, decision.pool
    if pinned is None:
        return None
    if pool.pinned < 0 or not pool.accepted >> pool.pinned & 1:
        outcome = "unfit"
    else:
        outcome = "stayed" if chosen and chosen.offer is pool.table.offers[pool.pinned] else "moved"
    return {
        "model": pinned.model,
        "provider": pinned.provider,
        "cached_tokens": pinned.cached_tokens,
        "floor": pinned.floor,
        "outcome": outcome,
    }


def _baseline(decision: Decision) -> dict[str, Any] | None:
    """Compare the chosen offer with the policy's baseline model, None where there is none or nothing fits."""
    expected_nusd = baseline_nusd(decision)
    if decision.chosen is None or expected_nusd is None:
        return None
    return {
        "model": decision.pool.policy.baseline,
        "expected_cost_usd": number(expected_nusd),
        "saved_usd": number(expected_nusd - decision.chosen.expected_nusd),
    }


def baseline_nusd(decision: Decision) -> int | None:
    """Return what the same request is expected to cost at the policy's baseline model, None without one.

    saved = baseline - chosen, each = uncached x input + cached x cache_read + expected output x output price,
    at the prices of the admission time and times the markup, for the same tokens. In a session, `cached` is
    what the conversation's offer has cached: at the baseline, the conversation would have it cached there.
    The chosen offer has it cached only where the conversation stays, so a move is not counted as a saving.
    The baseline's cheapest usable offer counts; where none is usable, its cheapest.
    """
    pool, need = decision.pool, decision.need
    model = pool.table.known.get(pool.policy.baseline) if pool.policy.baseline is not None else None
    if model is None or not model.offers:
        return None
    cached = 0 if need.pinned is None else min(max(need.pinned.cached_tokens, 0), need.prompt_tokens)
    return min(
        charge_nusd(offer, pool.policy, need.at, Tokens(need.prompt_tokens, output * need.choices, cached))
        for offer in model.usable_or_all
        for output in (min(pool.output_tokens, offer.max_output),)
    )


def number(nusd: int) -> Raw:
    """Write nano-USD as an exact JSON number of US dollars."""
    return Raw(nusd_to_usd(nusd).encode())


def _said(c: Candidate) -> dict[str, Any]:
    return {
        "model": c.model.id,
        "provider": c.offer.provider,
        "expected_cost_usd": number(c.expected_nusd),
        "expected_seconds": round(c.seconds, 3),
        "quality": None if c.quality is None else round(c.quality, 2),
    }


def refusal(decision: Decision) -> RouterError:
    """Return the error that a decision without a winner means, naming the tightest reason."""
    if decision.blocked:
        return _refusal_for_now(decision)
    need = decision.need
    losers = [x for x in decision.losers if x.reason in FILTERS]
    if not losers and need.asked.model is not None:
        return ModelNotAvailable(f"The model {need.asked.model} has no offers in the catalog.", param="model")
    if not losers:
        return ModelNotAvailable("The catalog is empty: add a file to models_catalog/models.", param="model")
    tightest = max((x.reason for x in losers), key=FILTERS.index)
    stopped = [x for x in losers if x.reason == tightest]
    if tightest == "unusable":
        return _not_available(decision, stopped)
    name = need.asked.model or "the request"
    text = f"No offer fits: {name} {_tightest(decision, tightest, stopped)}."
    if tightest == "credit":
        return OutOfCredit(
            text,
            needed_usd=nusd_to_usd(min(x.figure for x in stopped)),
            available_usd=nusd_to_usd(max(0, need.credit_nusd or 0)),
        )
    return NothingFits(text, param=_PARAMS.get(tightest))


_PARAMS = {
    "modality": "messages",
    "tools": "tools",
    "json_schema": "response_format",
    "max_output": "max_tokens",
    "context": "messages",
    "cap": "max_cost_usd",
    "denied": "model",
    "no_quality": "model",
}


def _tightest(decision: Decision, reason: str, stopped: list[Loser]) -> str:
    need = decision.need
    largest = max(x.figure for x in stopped)
    if reason == "context":
        needs = stopped[0].detail.split(" tokens")[0]
        return f"{needs} tokens of context, the largest allowed model has {largest:,}"
    if reason == "max_output":
        return f"asks for {need.output_tokens:,} output tokens, the largest allowed model writes {largest:,}"
    if reason == "cap":
        # Exact: rounded, a cap just below what is asked would read like one that is enough.
        return f"{_cheapest(stopped)}, the cap is {nusd_to_usd(need.max_cost_nusd or 0)} USD"
    if reason == "credit":
        return f"{_cheapest(stopped)}, {nusd_to_usd(max(0, need.credit_nusd or 0))} USD of credit are left"
    if reason == "denied":
        ways = " or ".join(dict.fromkeys(x.detail for x in stopped))
        return f"is shut out: {ways} (globs of model, provider/model or provider:model; GET /v1/models)"
    if reason == "no_quality":
        category = decision.categorised.category
        return f"is {category}, and no usable model has a {category} quality in the catalog"
    wanted = {"modality": "reads images", "tools": "calls tools", "json_schema": "answers by a JSON schema"}[
        reason
    ]
    return f"needs a model that {wanted}, and no allowed one does"


def _cheapest(stopped: list[Loser]) -> str:
    return f"may cost {nusd_to_usd(min(x.figure for x in stopped))} USD at the cheapest allowed model"


def _refusal_for_now(decision: Decision) -> RouterError:
    """429 where only limits stand in the way, 503 where every fitting offer is unhealthy."""
    wait_s = min(b.retry_after_s for b in decision.blocked)
    details = "; ".join(dict.fromkeys(b.detail for b in decision.blocked))
    if any(b.reason in ("at_limit", "rate_limited") for b in decision.blocked):
        return LimitReached(
            f"Every fitting model is at its limit ({details}); try again in {wait_s} s.", retry_after_s=wait_s
        )
    return Unavailable(
        f"Every fitting model is cooling down ({details}); try again in {wait_s} s.", retry_after_s=wait_s
    )


def _not_available(decision: Decision, stopped: list[Loser]) -> ModelNotAvailable:
    named = decision.need.asked.model
    ways = list(dict.fromkeys(x.detail for x in stopped))
    shown = "; or ".join(ways[:5]) + (f"; or {len(ways) - 5} more ways" if len(ways) > 5 else "")
    subject = f"The model {named}" if named else "No model"
    return ModelNotAvailable(
        f"{subject} can be used here yet: {shown}."
        if not named
        else f"{subject} has no usable offer: {shown}.",
        param="model",
    )
