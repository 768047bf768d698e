"""Fit the classifier with scikit-learn and judge it: the only place that imports it.

Rows are JSON lines `{text or messages, label, lang, source, licence}`. The figure that counts is accuracy on
sources that were held out whole; random splits flatter, because rows of one source resemble each other.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.sparse import csr_matrix, hstack
from sklearn.linear_model import LogisticRegression

from router.classifier import vectors
from router.classifier.examples import DataFault, Example, read_examples
from router.classifier.features import Row, fingerprint, row
from router.classifier.judging import groups, judge
from router.classifier.model import FACTS_FILE, FORMAT, LABELS, WEIGHTS_FILE
from router.classifier.shapes import SHAPES, Floats
from router.classifier.words import BUCKETS, Codes, Integers

CORPUS = Path(__file__).parent / "corpus"
INVERSE_REGULARISATION = 5.0
# A looser end decides by accident: at 3e-4 neighbouring settings differ by 0.01 and change places.
TOLERANCE = 1e-5
# The packaged corpus is two sources, but written in many languages and labelled row by row.
OWN_WEIGHT = 20.0
# What only a conversation has is seen in few rows.
TALK_WEIGHT = 6.0
# A column that fewer sources hold says what that source is like, not what is asked.
FEWEST_GROUPS = 2
# An operator's few lines may bring words of their own.
FEW_ROWS = 200
FOLDS = 6
# Without two sources there is nothing to fit the temperature on; this is what larger corpora need.
DEFAULT_TEMPERATURE = 1.5

Progress = Callable[[str, int, int], None]
Labels = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Trained:
    """Hold a fitted model: scikit-learn's estimator (temperature divided in), idf, known words, the facts.

    The estimator's columns are those of `matrix`.
    """

    estimator: LogisticRegression
    idf: Floats
    known: Codes
    facts: dict[str, Any]


def matrix(rows: list[Row], idf: Floats, known: Codes) -> csr_matrix:
    """Return (rows, BUCKETS + SHAPES + known), each row as the model weighs it when it serves."""
    ends = np.cumsum([0] + [len(features.columns) for features in rows])
    values = np.concatenate([_weighted(features, idf) for features in rows])
    columns = np.concatenate([features.columns for features in rows])
    sparse = csr_matrix((values, columns, ends), shape=(len(rows), BUCKETS))
    shapes = csr_matrix(np.array([features.shape for features in rows]))
    return hstack([sparse, shapes, vectors.meanings(rows, idf, known)]).tocsr()


def _weighted(features: Row, idf: Floats) -> Floats:
    values: Floats = (1.0 + np.log(features.counts)) * idf[features.columns]
    return values / np.linalg.norm(values) if len(values) else values


def packaged() -> tuple[Path, ...]:
    """Return the files of the packaged corpus, one a language."""
    return tuple(sorted(CORPUS.glob("*.jsonl")))


def train(
    data: Sequence[Path],
    out: Path,
    progress: Progress,
    drop_licences: tuple[str, ...] = (),
    *,
    corpus: Sequence[Path] | None = None,
    temperature: float | None = None,
) -> Trained:
    """Fit on the files and the packaged corpus, write the artefact to `out`; raises DataFault.

    `drop_licences` are beginnings of licence names whose rows are left out. Each row weighs
    1/sqrt(rows of its source) within its class (the packaged corpus OWN_WEIGHT times that), and all classes
    weigh the same. `corpus` stands in for the packaged files; a `temperature` that is given is not fitted,
    which leaves out the folds and their figures.
    """
    paths = [*(packaged() if corpus is None else corpus), *data]
    examples = read_examples(paths)
    if drop_licences:
        examples = [example for example in examples if not example.licence.startswith(drop_licences)]
    missing = {label for number, label in enumerate(LABELS) if all(e.label != number for e in examples)}
    if missing:
        raise DataFault(
            f"{[CORPUS, *paths][-1]}:0: no example is labelled {', '.join(sorted(missing))}; each is needed"
        )
    rows = []
    for number, example in enumerate(examples):
        rows.append(row(example.prompt))
        if number % 500 == 0:
            progress("reading", number, len(examples))
    frequency = np.bincount(np.concatenate([features.columns for features in rows]), minlength=BUCKETS)
    idf = (np.log((1 + len(rows)) / (1 + frequency)) + 1).astype(np.float32).astype(np.float64)
    known, meaning = vectors.read()
    wide = matrix(rows, idf, known)
    features = hstack([wide[:, : -len(known)], csr_matrix(wide[:, -len(known) :] @ meaning)]).tocsr()
    labels = np.array([example.label for example in examples])
    scores, judged = np.zeros((len(examples), len(LABELS))), np.zeros(len(examples), bool)
    if temperature is None:
        scores, judged = _held_out_scores(features, examples, progress)
        temperature = _temperature(scores[judged], labels[judged]) if judged.any() else DEFAULT_TEMPERATURE
    progress("fitting the model", FOLDS, FOLDS + 1)
    estimator = _fit(features, labels, examples)
    # A word's vector times the weights of vectors is that word's own weight. The artefact holds 32-bit
    # numbers; the estimator is rounded to them so that both are one model.
    plain, of_vectors = np.split(estimator.coef_, [BUCKETS + SHAPES], axis=1)
    coef = np.hstack((plain, of_vectors @ meaning.T))
    estimator.coef_ = (coef / temperature).astype(np.float32).astype(np.float64)
    estimator.intercept_, estimator.n_features_in_ = estimator.intercept_ / temperature, coef.shape[1]
    held_out = [example for example, kept in zip(examples, judged, strict=True) if kept]
    measured = metrics(softmax(scores[judged] / temperature), held_out) if held_out else None
    facts = _facts(examples, drop_licences, temperature, measured)
    trained = Trained(estimator, idf, known, facts)
    write(trained, out)
    progress("written", FOLDS + 1, FOLDS + 1)
    return trained


def _facts(
    examples: Sequence[Example],
    drop_licences: tuple[str, ...],
    temperature: float,
    measured: dict[str, Any] | None,
) -> dict[str, Any]:
    """Return what the artefact says of itself."""
    return {
        "format": FORMAT,
        "classes": list(LABELS),
        "features": fingerprint(),
        "estimator": {
            "name": "LogisticRegression",
            "C": INVERSE_REGULARISATION,
            "tol": TOLERANCE,
            "own_weight": OWN_WEIGHT,
            "talk_weight": TALK_WEIGHT,
            "fewest_groups": FEWEST_GROUPS,
        },
        "temperature": temperature,
        "scikit_learn": sklearn.__version__,
        "data": {"rows": len(examples), "sha256": _digest(examples), "dropped_licences": list(drop_licences)},
        "leave_sources_out": measured,
        "sources": _sources(examples),
    }


def _fit(features: csr_matrix, labels: Labels, examples: Sequence[Example]) -> LogisticRegression:
    sizes = Counter((example.source, example.label) for example in examples)
    weights = np.array([sizes[example.source, example.label] ** -0.5 for example in examples])
    weights[[example.own for example in examples]] *= OWN_WEIGHT
    weights[[example.prompt.talk for example in examples]] *= TALK_WEIGHT
    for label in range(len(LABELS)):
        of_class = labels == label
        if of_class.any():
            weights[of_class] *= len(labels) / len(LABELS) / weights[of_class].sum()
    shared = _shared_columns(features, examples)
    estimator = LogisticRegression(C=INVERSE_REGULARISATION, max_iter=5_000, tol=TOLERANCE)
    estimator.fit(features[:, shared], labels, sample_weight=weights)
    coef = np.zeros((len(LABELS), features.shape[1]))
    coef[:, shared] = estimator.coef_
    estimator.coef_, estimator.n_features_in_ = coef, features.shape[1]
    return estimator


def _shared_columns(features: csr_matrix, examples: Sequence[Example]) -> Integers:
    """Return the columns that enough groups or a small source hold, and all of the shape."""
    names = {name: number for number, name in enumerate(sorted({example.group for example in examples}))}
    held = features.tocoo()
    group_of = np.array([names[example.group] for example in examples])
    met = np.unique(held.col.astype(np.int64) * len(names) + group_of[held.row])
    groups = np.bincount(met // len(names), minlength=features.shape[1])
    rows_of = Counter(example.group for example in examples if not example.own)
    few = [0 < rows_of[example.group] <= FEW_ROWS for example in examples]
    groups[features[np.flatnonzero(few)].indices] = FEWEST_GROUPS
    groups[BUCKETS:] = FEWEST_GROUPS
    return np.flatnonzero(groups >= min(FEWEST_GROUPS, len(names) - 1))


def folds(examples: Sequence[Example]) -> Labels:
    """Return each example's fold: whole families, the largest first, each to the emptiest fold."""
    sizes = Counter(example.family for example in examples)
    filled = [0] * FOLDS
    of_family = {}
    for family, size in sorted(sizes.items(), key=lambda item: (-item[1], item[0])):
        fold = filled.index(min(filled))
        of_family[family] = fold
        filled[fold] += size
    return np.array([of_family[example.family] for example in examples])


def _held_out_scores(
    features: csr_matrix, examples: Sequence[Example], progress: Progress
) -> tuple[Floats, NDArray[np.bool_]]:
    """Return (scores, which rows have one): each row scored by a model that never saw its family."""
    labels = np.array([example.label for example in examples])
    fold_of = folds(examples)
    scores, judged = np.zeros((len(examples), len(LABELS))), np.zeros(len(examples), bool)
    for fold in range(FOLDS):
        progress("judging on unseen sources", fold, FOLDS + 1)
        inside, outside = np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)
        if not len(outside) or len(set(labels[inside].tolist())) < len(LABELS):
            continue
        estimator = _fit(features[inside], labels[inside], [examples[number] for number in inside.tolist()])
        scores[outside] = estimator.decision_function(features[outside])
        judged[outside] = True
    return scores, judged


def softmax(scores: Floats) -> Floats:
    """Return probabilities, row by row."""
    odds: Floats = np.exp(scores - scores.max(axis=1, keepdims=True))
    odds /= odds.sum(axis=1, keepdims=True)
    return odds


def _temperature(scores: Floats, labels: Labels) -> float:
    """Return the divisor of the scores that makes the labels likeliest (Guo et al. 2017)."""

    def loss(log_temperature: float) -> float:
        likelihood = softmax(scores / np.exp(log_temperature))[np.arange(len(labels)), labels]
        return float(-np.log(likelihood + 1e-12).mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-1.5, 2.5), method="bounded").x))


def metrics(probabilities: Floats, examples: Sequence[Example]) -> dict[str, Any]:
    """Return the figures of `judging.judge`, by source family and by language."""
    return judge(probabilities, [example.label for example in examples], groups(examples))


def write(trained: Trained, out: Path) -> None:
    """Write the arrays, the facts and the table of sources."""
    out.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        out / WEIGHTS_FILE,
        coef=trained.estimator.coef_[:, : BUCKETS + SHAPES].T.astype(np.float32),
        known=trained.known,
        meaning=trained.estimator.coef_[:, BUCKETS + SHAPES :].T.astype(np.float32),
        intercept=trained.estimator.intercept_,
        idf=trained.idf.astype(np.float32),
    )
    (out / FACTS_FILE).write_text(json.dumps(trained.facts, indent=1, ensure_ascii=False) + "\n", "utf-8")
    lines = [
        "# Sources of the training rows",
        "",
        "The rows are not part of this package; these are their sources.",
        "",
    ]
    lines += ["| source | licence | label | rows |", "|---|---|---|---|"]
    lines += [
        f"| {s['source']} | {s['licence']} | {s['label']} | {s['rows']} |" for s in trained.facts["sources"]
    ]
    (out / "SOURCES.md").write_text("\n".join(lines) + "\n", "utf-8")


def _sources(examples: Sequence[Example]) -> list[dict[str, Any]]:
    counted = Counter(
        (example.source, example.licence or "not given", LABELS[example.label]) for example in examples
    )
    return [
        {"source": source, "licence": licence, "label": label, "rows": rows}
        for (source, licence, label), rows in sorted(counted.items())
    ]


def _digest(examples: Sequence[Example]) -> str:
    digest = hashlib.sha256()
    for example in examples:
        prompt = example.prompt
        line = json.dumps([prompt.context, prompt.answer, prompt.text, example.label, example.source])
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()
