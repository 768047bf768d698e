"""Tell simple, coding and reasoning requests apart: a linear model, evaluated with numpy.

The artefact is `weights.npz` (arrays only, no pickle) and `model.json` (what they are, from which data, how
good). The arrays are those of a fitted scikit-learn `LogisticRegression` with its temperature divided in, so
the probabilities are scikit-learn's own `predict_proba` over the same features.
"""

from __future__ import annotations

import json
import math
import zipfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
from msgspec import Struct

from router.classifier.features import (
    BUCKETS,
    SHAPES,
    Floats,
    Integers,
    cut,
    fingerprint,
    hashed,
    named_columns,
    row,
    tokens,
)
from router.classifier.prompt import Prompt

TextCategory = Literal["simple", "coding", "reasoning"]
LABELS: tuple[TextCategory, ...] = ("simple", "coding", "reasoning")
ARTEFACT = Path(__file__).parent / "artefact"
WEIGHTS_FILE, FACTS_FILE = "weights.npz", "model.json"
FORMAT = 1
MEMO_SIZE = 4_096
STRONGEST = 4


class ArtefactFault(ValueError):
    """A model directory cannot be used; the message names the file and the fix."""


class Classification(Struct, frozen=True, gc=False):
    """Hold the likeliest category, all probabilities (they sum to 1), and that of the likeliest."""

    category: TextCategory
    probabilities: dict[TextCategory, float]
    confidence: float


class Classifier:
    """Classify prompts with fitted arrays; remembers the last few thousand answers by the text's hash.

    `coef` is (BUCKETS + SHAPES, 3), `intercept` (3,), `idf` (BUCKETS,); columns are in the order of LABELS.
    """

    def __init__(self, coef: Floats, intercept: Floats, idf: Floats, facts: dict[str, Any]) -> None:
        self.facts = facts
        self._words = coef[:BUCKETS]
        self._shape = coef[BUCKETS:]
        self._intercept = intercept
        self._idf = idf
        self._memo: dict[int, Classification] = {}

    @classmethod
    def load(cls, directory: Path | None = None) -> Classifier:
        """Read an artefact, by default the packaged one; raises ArtefactFault."""
        directory = directory or ARTEFACT
        try:
            facts = json.loads((directory / FACTS_FILE).read_text(encoding="utf-8"))
            with np.load(directory / WEIGHTS_FILE, allow_pickle=False) as arrays:
                coef, intercept, idf = (
                    arrays[name].astype(np.float64) for name in ("coef", "intercept", "idf")
                )
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as fault:
            raise ArtefactFault(
                f"{directory}: no usable classifier ({fault}); make one with `router train --out {directory}`"
            ) from fault
        expected = (FORMAT, fingerprint(), ((BUCKETS + SHAPES, 3), (3,), (BUCKETS,)))
        if (facts.get("format"), facts.get("features"), (coef.shape, intercept.shape, idf.shape)) != expected:
            raise ArtefactFault(
                f"{directory}: made for other features than this version's; "
                f"train it again with `router train --out {directory}`"
            )
        return cls(coef, intercept, idf, facts)

    def classify(self, prompt: Prompt) -> Classification:
        """Return the category of a prompt and the probabilities of all."""
        text = joined(prompt)
        key = hash(text)
        known = self._memo.get(key)
        if known is None:
            known = self._memo[key] = self._classify(text)
            if len(self._memo) > MEMO_SIZE:
                del self._memo[next(iter(self._memo))]
        return known

    def explain(self, prompt: Prompt) -> list[tuple[str, TextCategory, float]]:
        """Return (word, category, weight) of the strongest words for and against each category.

        A weight is what the word adds to the category's score above its mean over the categories (natural
        log of odds); concepts of the lexicon are written `concept:NAME`, beginnings `first:WORD`.
        """
        found = tokens(cut(joined(prompt)))
        columns, counts = hashed(found)
        if not len(columns):
            return []
        scale = dict(zip(columns.tolist(), self._values(columns, counts).tolist(), strict=True))
        weights: dict[str, Floats] = {}
        for word, column in named_columns(found):
            gain = self._words[column] * scale[column]
            weights.setdefault(word, gain - gain.mean())
        strongest: list[tuple[str, TextCategory, float]] = []
        for number, label in enumerate(LABELS):
            ranked = sorted(weights, key=lambda word: -weights[word][number])
            ends = dict.fromkeys(ranked[:STRONGEST] + ranked[-STRONGEST // 2 :])
            strongest += [(word, label, float(weights[word][number])) for word in ends]
        return strongest

    def _values(self, columns: Integers, counts: Floats) -> Floats:
        values = (1.0 + np.log(counts)) * self._idf[columns]
        values /= math.sqrt(np.add.reduce(values * values))
        return values

    def _classify(self, text: str) -> Classification:
        features = row(text)
        # Plain sums, not BLAS: its last bits depend on where the arrays lie in memory.
        scores = np.add.reduce(features.shape[:, None] * self._shape, axis=0) + self._intercept
        if len(features.columns):
            values = self._values(features.columns, features.counts)
            scores += np.add.reduce(values[:, None] * self._words[features.columns], axis=0)
        logits = scores.tolist()
        top = max(logits)
        odds = [math.exp(logit - top) for logit in logits]
        total = sum(odds)
        simple, coding, reasoning = (odd / total for odd in odds)
        probabilities: dict[TextCategory, float] = {
            "simple": simple,
            "coding": coding,
            "reasoning": reasoning,
        }
        category = max(LABELS, key=probabilities.__getitem__)
        return Classification(category, probabilities, probabilities[category])


def joined(prompt: Prompt) -> str:
    """Return the text that is classified: the task that a follow-up continues stands before it."""
    return f"{prompt.context}\n{prompt.text}" if prompt.context else prompt.text
