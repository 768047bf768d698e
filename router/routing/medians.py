"""How fast offers were, as the decision log tells it."""

from __future__ import annotations

import statistics
from collections.abc import Iterable

from msgspec import Struct

from router.routing.recorded import Actual

LEAST_SAMPLES = 30
# Shorter answers say little about the pace: they come in one or two pieces.
LEAST_TOKENS = 32
_Key = tuple[str, str]


class Pace(Struct, frozen=True, gc=False):
    """Medians of one offer with the number of answers behind each; None where those are too few."""

    ttft_s: float | None
    ttft_samples: int
    tok_s: float | None
    tok_samples: int


def paces(answers: Iterable[Actual]) -> dict[_Key, Pace]:
    """Return the medians per (provider, upstream model), over LEAST_SAMPLES answers or more.

    Only streams that succeeded at the first attempt tell: the time to the first token of any other answer
    holds more than this offer's. Tokens a second are (completion tokens) / (seconds after the first token).
    """
    ttft: dict[_Key, list[float]] = {}
    pace: dict[_Key, list[float]] = {}
    for actual in answers:
        if not actual.stream or actual.outcome != "ok" or actual.attempts != 1 or actual.first_s is None:
            continue
        if actual.provider is None or actual.upstream_model is None:
            continue
        key = (actual.provider, actual.upstream_model)
        ttft.setdefault(key, []).append(actual.first_s)
        after_s = actual.seconds - actual.first_s
        tokens = actual.completion_tokens or 0
        if tokens >= LEAST_TOKENS and after_s > 0 and not actual.estimated:
            pace.setdefault(key, []).append(tokens / after_s)
    return {
        key: Pace(_median(seen), len(seen), _median(pace.get(key, [])), len(pace.get(key, [])))
        for key, seen in ttft.items()
    }


def _median(values: list[float]) -> float | None:
    return statistics.median(values) if len(values) >= LEAST_SAMPLES else None
