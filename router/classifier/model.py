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
    GLYPH_IDF,
    MEANING_SCALE,
    MOST_COLUMNS,
    Row,
    fingerprint,
    joined,
    named_columns,
    row,
)
from router.classifier.prompt import Prompt
from router.classifier.shapes import SHAPES, Floats
from router.classifier.words import BUCKETS, LEXICON, LOW_BITS, Codes, cut

TextCategory = Literal["simple", "coding", "reasoning"]
LABELS: tuple[TextCategory, ...] = ("simple", "coding", "reasoning")
ARTEFACT = Path(__file__).parent / "artefact"
WEIGHTS_FILE, FACTS_FILE = "weights.npz", "model.json"
FORMAT = 2
MEMO_SIZE = 4_096
STRONGEST = 4
_NOTHING = [0.0] * len(LABELS)
# What a count weighs; looked up in 0.1 us, where numpy's logarithm takes 1.0.
_TERMS = np.concatenate(([0.0], 1.0 + np.log(np.arange(1, MOST_COLUMNS + 1))))


class ArtefactFault(ValueError):
    """A model directory cannot be used; the message names the file and the fix."""


class Classification(Struct, frozen=True, gc=False):
    """Hold the likeliest category, all probabilities (they sum to 1), and that of the likeliest."""

    category: TextCategory
    probabilities: dict[TextCategory, float]
    confidence: float


class Classifier:
    """Classify prompts with fitted arrays; remembers the last few thousand answers by the text's hash.

    `coef` is (BUCKETS + SHAPES, 3), `intercept` (3,), `idf` (BUCKETS,); `known` are the hashes of the words
    whose meaning counts, ascending, `meaning` their weights (known, 3). The three are in the order of LABELS.
    """

    def __init__(
        self,
        coef: Floats,
        intercept: Floats,
        idf: Floats,
        known: Codes,
        meaning: Floats,
        facts: dict[str, Any],
    ) -> None:
        self.facts = facts
        # A column's weights times its idf, and the idf: one row, so that a column is one read of memory.
        self._words = np.ascontiguousarray(np.column_stack((coef[:BUCKETS] * idf[:, None], idf)))
        self._idf = np.ascontiguousarray(idf)
        self._shape = np.ascontiguousarray(coef[BUCKETS:].T)
        self._vocabulary = LEXICON.with_words(known)
        self._gains = np.zeros((len(self._vocabulary.codes), len(LABELS)))
        self._gains[self._vocabulary.codes.searchsorted(known)] = meaning * idf[known & LOW_BITS][:, None]
        self._intercept: list[float] = intercept.tolist()
        self._memo: dict[int, Classification] = {}

    @classmethod
    def load(cls, directory: Path | None = None) -> Classifier:
        """Read an artefact, by default the packaged one; raises ArtefactFault."""
        directory = directory or ARTEFACT
        try:
            facts = json.loads((directory / FACTS_FILE).read_text(encoding="utf-8"))
            with np.load(directory / WEIGHTS_FILE, allow_pickle=False) as arrays:
                known = arrays["known"]
                coef, intercept, idf, meaning = (
                    arrays[name].astype(np.float64) for name in ("coef", "intercept", "idf", "meaning")
                )
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as fault:
            raise ArtefactFault(
                f"{directory}: no usable classifier ({fault}); make one with `router train --out {directory}`"
            ) from fault
        shapes = (coef.shape, intercept.shape, idf.shape, meaning.shape)
        expected = ((BUCKETS + SHAPES, 3), (3,), (BUCKETS,), (len(known), 3))
        if (facts.get("format"), facts.get("features"), shapes) != (FORMAT, fingerprint(), expected):
            raise ArtefactFault(
                f"{directory}: made for other features than this version's; "
                f"train it again with `router train --out {directory}`"
            )
        return cls(coef, intercept, idf, known, meaning, facts)

    def classify(self, prompt: Prompt) -> Classification:
        """Return the category of a prompt and the probabilities of all."""
        key = hash((cut(joined(prompt)), prompt.text, prompt.answer) if prompt.talk else cut(prompt.text))
        known = self._memo.get(key)
        if known is None:
            known = self._memo[key] = self._classify(prompt)
            if len(self._memo) > MEMO_SIZE:
                del self._memo[next(iter(self._memo))]
        return known

    def explain(self, prompt: Prompt) -> list[tuple[str, TextCategory, float]]:
        """Return (word, category, weight) of the strongest words for and against each category.

        A weight is what the word adds to the category's score above its mean over the categories (natural
        log of odds); concepts of the lexicon are written `concept:NAME`, beginnings `first:WORD`, and what a
        conversation adds `last:WORD`, `answer:WORD`, `conversation:FACT`.
        """
        features = row(prompt, self._vocabulary)
        columns = features.columns
        if not len(columns):
            return []
        terms = _TERMS[features.counts]
        length = math.hypot(*(terms * self._words[columns, -1]).tolist())
        scale = dict(zip(columns.tolist(), (terms / length).tolist(), strict=True))
        weights: dict[str, Floats] = {}
        named = named_columns(prompt)
        for word, column in named:
            gain = self._words[column, :-1] * scale[column]
            weights.setdefault(word, gain - gain.mean())
        for (word, _), gain in zip(named, self._meanings(features), strict=False):
            weights[word] = weights[word] + gain - gain.mean()
        strongest: list[tuple[str, TextCategory, float]] = []
        for number, label in enumerate(LABELS):
            ranked = sorted(weights, key=lambda word: -weights[word][number])
            ends = dict.fromkeys(ranked[:STRONGEST] + ranked[-STRONGEST // 2 :])
            strongest += [(word, label, float(weights[word][number])) for word in ends]
        return strongest

    def _classify(self, prompt: Prompt) -> Classification:
        features = row(prompt, self._vocabulary)
        # Plain sums, not BLAS: its last bits depend on where the arrays lie in memory.
        shaped = np.add.reduce(self._shape * features.shape, axis=1).tolist()
        *worded, square = self._word_sums(features)
        length = math.sqrt(square) or 1.0
        logits = [
            base + shape + meant + word / length
            for base, shape, meant, word in zip(
                self._intercept, shaped, self._meant(features), worded, strict=True
            )
        ]
        top = max(logits)
        simple, coding, reasoning = [math.exp(logit - top) for logit in logits]
        total = simple + coding + reasoning
        probabilities: dict[TextCategory, float] = {
            "simple": simple / total,
            "coding": coding / total,
            "reasoning": reasoning / total,
        }
        category = LABELS[logits.index(top)]
        return Classification(category, probabilities, probabilities[category])

    def _word_sums(self, features: Row) -> list[float]:
        """Return each category's sum over the hashed columns, and the square of their length."""
        # Transposed while multiplying: sums along the memory take 9 us for 1,200 columns, across it 26.
        terms = np.empty((len(LABELS) + 1, len(features.columns)))
        np.multiply(self._words.take(features.columns, axis=0).T, _TERMS[features.counts], out=terms)
        values = terms[-1]
        values *= values
        sums: list[float] = np.add.reduce(terms, axis=1).tolist()
        return sums

    def _meant(self, features: Row) -> list[float]:
        """Return what the words' meaning adds to each category."""
        if not len(features.known):
            return _NOTHING
        scale = self._meaning_scale(features)
        return [scale * gain for gain in np.add.reduce(self._gains.take(features.known, axis=0)).tolist()]

    def _meaning_scale(self, features: Row) -> float:
        total = float(np.add.reduce(self._idf.take(features.words))) + GLYPH_IDF * features.glyphs
        return MEANING_SCALE / total

    def _meanings(self, features: Row) -> Floats:
        """Return (words, 3): what each word's meaning adds."""
        codes = self._vocabulary.codes
        at = codes.searchsorted(features.codes)
        at[codes.take(at) != features.codes] = -1  # the last is no word, and means nothing
        gains: Floats = self._gains.take(at, axis=0) * self._meaning_scale(features)
        return gains
