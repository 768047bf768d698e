"""What the classifier is worth as a router between two models, on published answers to the same questions.

P(coding) + P(reasoning) ranks the questions; those of the highest score go to the strong model. Recovered is
the share of the gap in quality between always-weak and always-strong. Nothing here was shown correctness.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy.rows import Rows, fitted
from router.classifier import judging
from router.classifier.model import Classifier
from router.classifier.prompt import Prompt
from router.classifier.shapes import Floats

# RouteLLM (Ong et al. 2024, arXiv 2406.18665), its best router of each set; its GSM8K table is not at hand.
PUBLISHED = {"mmlu": {"apgr": 0.603, "cpt50": 0.354, "cpt80": 0.703}}
EXAM_SOURCES = ("mmlu", "gsm8k")
RESAMPLES = 200


def measure(folder: Path, rows: Rows, packaged: Classifier, temperature: float) -> dict[str, Any]:
    """Return, for each set and both together, the figures and the curves of each score.

    `folder` holds JSON lines {benchmark, prompt, weak, strong}; the model is fitted without the sources that
    these questions come from. The packaged one may have seen them, with their kind and never with who
    answered right. Raises OSError and ValueError of the files.
    """
    asked = [
        json.loads(line)
        for path in sorted(folder.glob("*.jsonl"))
        for line in path.read_bytes().split(b"\n")
        if line.strip()
    ]
    texts = {question["prompt"] for question in asked}
    unseen = rows.where(
        lambda example: not example.family.startswith(EXAM_SOURCES) and example.prompt.text not in texts
    )
    prompts = [Prompt(q["prompt"]) for q in asked]
    given = [judging.answers(model, prompts) for model in (fitted(unseen, temperature), packaged)]
    scores = {
        "classifier": given[0][:, 1] + given[0][:, 2],
        "packaged": given[1][:, 1] + given[1][:, 2],
        "prompt length": np.array([float(len(q["prompt"])) for q in asked]),
        "oracle": np.array([float(q["strong"] - q["weak"]) for q in asked]),
    }
    weak, strong = (np.array([float(q[name]) for q in asked]) for name in ("weak", "strong"))
    of_set = np.array([q["benchmark"] for q in asked])
    sets: dict[str, Any] = {
        name: of_set == name if name != "all" else np.ones(len(asked), bool)
        for name in [*sorted(set(of_set.tolist())), "all"]
    }
    return {
        "rows_trained": len(unseen),
        "sets": {
            name: _set({by: score[inside] for by, score in scores.items()}, weak[inside], strong[inside])
            | {"published": PUBLISHED.get(name)}
            for name, inside in sets.items()
        },
    }


def _set(scores: Mapping[str, Floats], weak: Floats, strong: Floats) -> dict[str, Any]:
    chance = np.random.default_rng(0)
    sums = {"weak": round(float(weak.mean()), 4), "strong": round(float(strong.mean()), 4)}
    found: dict[str, Any] = {"questions": len(weak), **sums}
    for name, score in scores.items():
        shares, recovered = recovery(score, weak, strong)
        figures = {"apgr": area(shares, recovered)}
        figures |= {f"cpt{part}": share_for(shares, recovered, part / 100) for part in (50, 80)}
        samples = []
        for _ in range(RESAMPLES if name != "oracle" else 0):
            drawn = chance.integers(0, len(weak), len(weak))
            if strong[drawn].mean() > weak[drawn].mean():
                samples.append(area(*recovery(score[drawn], weak[drawn], strong[drawn])))
        at = np.linspace(0, 1, 51)
        rounded = {key: round(float(value), 4) for key, value in figures.items()}
        interval = [round(float(x), 3) for x in np.quantile(samples, (0.025, 0.975))] if samples else None
        curve = np.interp(at, shares, recovered).round(4).tolist()
        found[name] = {**rounded, "apgr_95": interval, "curve": curve}
    return found


def recovery(score: Floats, weak: Floats, strong: Floats) -> tuple[Floats, Floats]:
    """Return (share of strong calls, share of the gap recovered), from 0 to 1 by every distinct score.

    Questions of one score are called together, so between two points the line is the mean over their orders.
    Raises ValueError where the strong model is not better, because nothing can be recovered then.
    """
    gap = float(strong.sum() - weak.sum())
    if gap <= 0:
        raise ValueError("the strong model is not better on these questions")
    order = np.argsort(-score, kind="stable")
    ends = np.flatnonzero(np.diff(score[order], append=-np.inf) != 0)
    gained = np.cumsum((strong - weak)[order])[ends] / gap
    shares = (ends + 1) / len(score)
    return np.concatenate(([0.0], shares)), np.concatenate(([0.0], gained))


def area(shares: Floats, recovered: Floats) -> float:
    """Return APGR: the mean of the gap recovered over all shares of strong calls; random is 0.5."""
    return float(np.trapezoid(recovered, shares))


def share_for(shares: Sequence[float] | Floats, recovered: Floats, part: float) -> float:
    """Return the smallest share of strong calls that recovers this part of the gap."""
    at = int(np.argmax(np.asarray(recovered) >= part))
    low, high = recovered[at - 1], recovered[at]
    return float(shares[at - 1] + (shares[at] - shares[at - 1]) * (part - low) / (high - low))
