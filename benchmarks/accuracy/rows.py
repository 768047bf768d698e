"""Labelled rows, what is held out together, and models that are fitted on a part of them."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from router.classifier import judging, training
from router.classifier.examples import Example, read_examples
from router.classifier.features import joined
from router.classifier.model import LABELS, Classifier
from router.classifier.prompt import Prompt
from router.classifier.shapes import Floats

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Rows:
    """Hold rows as they stand in their files and as they are read; `text` is what is classified."""

    records: tuple[dict[str, Any], ...]
    examples: tuple[Example, ...]

    def __len__(self) -> int:
        return len(self.examples)

    def at(self, numbers: Collection[int]) -> Rows:
        """Return the rows of these numbers."""
        return Rows(tuple(self.records[n] for n in numbers), tuple(self.examples[n] for n in numbers))

    def where(self, holds: Callable[[Example], bool]) -> Rows:
        """Return the rows for which `holds` is true."""
        return self.at([n for n, example in enumerate(self.examples) if holds(example)])

    @property
    def labels(self) -> list[int]:
        """Return each row's label as its place in LABELS."""
        return [example.label for example in self.examples]

    @property
    def prompts(self) -> list[Prompt]:
        """Return what the classifier reads of each row."""
        return [example.prompt for example in self.examples]

    @property
    def texts(self) -> list[str]:
        """Return the text that is classified: a follow-up stands behind its task."""
        return [joined(example.prompt) for example in self.examples]


def read_rows(paths: Sequence[Path], dropped: tuple[str, ...] = ()) -> Rows:
    """Read JSON lines; rows whose licence begins with one of `dropped` are left out. Raises DataFault."""
    examples = read_examples(paths)
    records = [json.loads(line) for path in paths for line in path.read_bytes().split(b"\n") if line.strip()]
    rows = Rows(tuple(records), tuple(examples))
    return rows.where(lambda example: not example.licence.startswith(dropped)) if dropped else rows


def fitted(rows: Rows, temperature: float | None = None) -> Classifier:
    """Return a classifier that `router train` makes of these rows and no others.

    Without a temperature one is fitted on these rows alone, by holding out their sources in turn.
    """
    with tempfile.TemporaryDirectory() as folder:
        data, out = Path(folder, "rows.jsonl"), Path(folder, "model")
        lines = [json.dumps(record, ensure_ascii=False) for record in rows.records]
        data.write_text("\n".join(lines) + "\n", encoding="utf-8")
        training.train([data], out, lambda *_: None, corpus=(), temperature=temperature)
        return Classifier.load(out)


def source_folds(rows: Rows) -> list[int]:
    """Return each row's fold: whole families of sources."""
    return [int(fold) for fold in training.folds(rows.examples)]


def language_folds(rows: Rows, count: int) -> list[int]:
    """Return each row's fold: whole languages, each to the emptiest fold; English is -1."""
    sizes = Counter(example.lang for example in rows.examples)
    filled, fold_of = [0] * count, {"en": -1}
    for lang, size in sorted(sizes.items(), key=lambda item: (-item[1], item[0])):
        if lang not in fold_of:
            fold_of[lang] = filled.index(min(filled))
            filled[fold_of[lang]] += size
    return [fold_of[example.lang] for example in rows.examples]


def held_out(
    rows: Rows, folds: Sequence[int], say: Say, temperature: float | None = None
) -> tuple[Floats, list[int]]:
    """Return (probabilities, numbers of the judged rows); each by a model that never saw its fold.

    A fold of -1 is always trained on and never judged; so is a fold without which a label has no row.
    """
    found = np.zeros((len(rows), len(LABELS)))
    judged: list[int] = []
    for fold in sorted(set(folds) - {-1}):
        inside = rows.at([n for n, of in enumerate(folds) if of != fold])
        outside = [n for n, of in enumerate(folds) if of == fold]
        if len(set(inside.labels)) < len(LABELS):
            continue
        say(f"fold {fold + 1} of {max(folds) + 1}: {len(outside):,} rows held out")
        found[outside] = judging.answers(fitted(inside, temperature), rows.at(outside).prompts)
        judged += outside
    judged.sort()
    return found[judged], judged


def judged(rows: Rows, probabilities: Floats) -> dict[str, Any]:
    """Return the figures of these answers, and the mean accuracy over families of sources."""
    figures = judging.judge(probabilities, rows.labels, judging.groups(rows.examples))
    of_source = [part["accuracy"] for part in figures["accuracy_by_source"].values()]
    return figures | {"mean_over_sources": round(sum(of_source) / len(of_source), 4)}
