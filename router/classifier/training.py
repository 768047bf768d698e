"""Fit the classifier with scikit-learn and judge it: the only place that imports it.

Rows are JSON lines `{text or messages, label, lang, source, licence}`. The figure that counts is accuracy on
sources that were held out whole; random splits flatter, because rows of one source resemble each other.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.sparse import csr_matrix, hstack
from sklearn.linear_model import LogisticRegression

from router.classifier.features import BUCKETS, Floats, Integers, Row, fingerprint, row
from router.classifier.model import FACTS_FILE, FORMAT, LABELS, WEIGHTS_FILE, Classifier, joined
from router.classifier.prompt import Prompt, Turn, read

CORPUS = Path(__file__).parent / "corpus"
OWN = "own"
INVERSE_REGULARISATION = 5.0
# A looser end decides by accident: at 3e-4 neighbouring settings differ by 0.01 and change places.
TOLERANCE = 1e-5
# The packaged corpus is one source, but written in many languages and labelled row by row.
OWN_WEIGHT = 4.0
# A column that fewer sources hold says what that source is like, not what is asked.
FEWEST_GROUPS = 2
# An operator's few lines may bring words of their own.
FEW_ROWS = 200
FOLDS = 6
ECE_BINS = 15
# Without two sources there is nothing to fit the temperature on; this is what larger corpora need.
DEFAULT_TEMPERATURE = 1.5

Progress = Callable[[str, int, int], None]
Labels = NDArray[np.intp]


class DataFault(ValueError):
    """A data file cannot be used; the message begins with `file:line`."""


@dataclass(frozen=True, slots=True)
class Example:
    """Hold one labelled prompt; `family` is what is held out together when the model is judged."""

    prompt: Prompt
    label: int
    lang: str
    source: str
    licence: str

    @property
    def family(self) -> str:
        """Return the source without its part: `mmlu(recall subjects)` and `mmlu(...)` are one family."""
        return re.split(r"[:( ]", self.source, maxsplit=1)[0]

    @property
    def group(self) -> str:
        """Return the family, for rows of the packaged corpus with the language: each says a word anew."""
        return f"{self.family}/{self.lang}" if self.source == OWN else self.family


@dataclass(frozen=True, slots=True)
class Trained:
    """Hold a fitted model: scikit-learn's estimator (temperature divided in), idf, and the facts."""

    estimator: LogisticRegression
    idf: Floats
    facts: dict[str, Any]


def corpus_files() -> list[Path]:
    """Return the files of the packaged corpus, one a language."""
    return sorted(CORPUS.glob("*.jsonl"))


def read_examples(paths: Iterable[Path]) -> list[Example]:
    """Read JSON lines; raises DataFault for the first line that is not an example."""
    examples = []
    for path in paths:
        try:
            lines = path.read_bytes().split(b"\n")
        except OSError as fault:
            raise DataFault(f"{path}:0: cannot be read: {fault.strerror}") from fault
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    examples.append(_example(json.loads(line)))
                except ValueError as fault:
                    raise DataFault(f"{path}:{number}: {fault}") from fault
    return examples


def _example(record: Any) -> Example:
    if not isinstance(record, dict):
        raise DataFault("expected a JSON object {text or messages, label, lang, source}")
    label = record.get("label")
    if label not in LABELS:
        raise DataFault(
            f"label: {label!r} is not one of {', '.join(LABELS)} (images decide vision, not text)"
        )
    text, messages = record.get("text"), record.get("messages")
    if isinstance(text, str) and text.strip():
        prompt = read([Turn("user", (text,))])
    elif isinstance(messages, list) and messages:
        prompt = read([_turn(message) for message in messages])
    else:
        raise DataFault("give `text` (a string that is not blank) or `messages` (a list of chat messages)")
    named = {key: record.get(key) or "" for key in ("lang", "source", "licence")}
    for key, value in named.items():
        if not isinstance(value, str):
            raise DataFault(f"{key}: expected a string, got {type(value).__name__}")
    return Example(prompt, LABELS.index(label), named["lang"], named["source"] or "unnamed", named["licence"])


def _turn(message: Any) -> Turn:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise DataFault("messages: each needs a `role`")
    content = message.get("content") or ""
    parts = [{"text": content}] if isinstance(content, str) else content
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise DataFault("messages: `content` is neither a string nor a list of parts")
    texts = tuple(part["text"] for part in parts if isinstance(part.get("text"), str))
    has_image = any(part.get("type") == "image_url" for part in parts)
    return Turn(message["role"], texts, has_image, bool(message.get("tool_calls")))


def matrix(rows: Sequence[Row], idf: Floats) -> csr_matrix:
    """Return (rows, BUCKETS + SHAPES), each row as the model weighs it when it serves."""
    ends = np.cumsum([0] + [len(features.columns) for features in rows])
    values = np.concatenate([_weighted(features, idf) for features in rows])
    columns = np.concatenate([features.columns for features in rows])
    sparse = csr_matrix((values, columns, ends), shape=(len(rows), BUCKETS))
    return hstack([sparse, csr_matrix(np.array([features.shape for features in rows]))]).tocsr()


def _weighted(features: Row, idf: Floats) -> Floats:
    values: Floats = (1.0 + np.log(features.counts)) * idf[features.columns]
    return values / np.linalg.norm(values) if len(values) else values


def train(
    data: Sequence[Path], out: Path, progress: Progress, drop_licences: tuple[str, ...] = ()
) -> Trained:
    """Fit on the files and the packaged corpus, write the artefact to `out`; raises DataFault.

    `drop_licences` are beginnings of licence names whose rows are left out. Each row weighs
    1/sqrt(rows of its source) within its class (the packaged corpus OWN_WEIGHT times that), and all classes
    weigh the same.
    """
    paths = [*corpus_files(), *data]
    examples = read_examples(paths)
    if drop_licences:
        examples = [example for example in examples if not example.licence.startswith(drop_licences)]
    missing = {label for number, label in enumerate(LABELS) if all(e.label != number for e in examples)}
    if missing:
        raise DataFault(f"{paths[-1]}:0: no example is labelled {', '.join(sorted(missing))}; each is needed")
    rows = []
    for number, example in enumerate(examples):
        rows.append(row(joined(example.prompt)))
        if number % 500 == 0:
            progress("reading", number, len(examples))
    frequency = np.bincount(np.concatenate([features.columns for features in rows]), minlength=BUCKETS)
    idf = (np.log((1 + len(rows)) / (1 + frequency)) + 1).astype(np.float32).astype(np.float64)
    features = matrix(rows, idf)
    scores, judged = _held_out_scores(features, examples, progress)
    labels = np.array([example.label for example in examples])
    temperature = _temperature(scores[judged], labels[judged]) if judged.any() else DEFAULT_TEMPERATURE
    progress("fitting the model", FOLDS, FOLDS + 1)
    estimator = _fit(features, labels, examples)
    # The artefact holds 32-bit numbers; the estimator is rounded to them so that both are one model.
    estimator.coef_ = (estimator.coef_ / temperature).astype(np.float32).astype(np.float64)
    estimator.intercept_ = estimator.intercept_ / temperature
    held_out = [example for example, kept in zip(examples, judged, strict=True) if kept]
    facts = {
        "format": FORMAT,
        "classes": list(LABELS),
        "features": fingerprint(),
        "estimator": {
            "name": "LogisticRegression",
            "C": INVERSE_REGULARISATION,
            "tol": TOLERANCE,
            "own_weight": OWN_WEIGHT,
            "fewest_groups": FEWEST_GROUPS,
        },
        "temperature": temperature,
        "scikit_learn": sklearn.__version__,
        "data": {"rows": len(examples), "sha256": _digest(examples), "dropped_licences": list(drop_licences)},
        "leave_sources_out": metrics(softmax(scores[judged] / temperature), held_out) if held_out else None,
        "sources": _sources(examples),
    }
    trained = Trained(estimator, idf, facts)
    write(trained, out)
    progress("written", FOLDS + 1, FOLDS + 1)
    return trained


def _fit(features: csr_matrix, labels: Labels, examples: Sequence[Example]) -> LogisticRegression:
    sizes = Counter((example.source, example.label) for example in examples)
    weights = np.array([sizes[example.source, example.label] ** -0.5 for example in examples])
    weights[[example.source == OWN for example in examples]] *= OWN_WEIGHT
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
    rows_of = Counter(example.group for example in examples if example.source != OWN)
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
    """Return accuracy, macro-F1, recall, calibration error, confusion, and accuracy by source and language.

    The calibration error is the mean distance of confidence and accuracy over 15 equal bins of confidence;
    `confusion[true][given]` counts rows; a class without a row has recall null and is left out of macro-F1.
    """
    labels = np.array([example.label for example in examples])
    given = probabilities.argmax(axis=1)
    right, confidence = given == labels, probabilities.max(axis=1)
    confusion = np.zeros((len(LABELS), len(LABELS)), int)
    np.add.at(confusion, (labels, given), 1)
    recall, f1 = {}, []
    for number, label in enumerate(LABELS):
        hits, of_class, as_class = (
            confusion[number, number],
            confusion[number].sum(),
            confusion[:, number].sum(),
        )
        recall[label] = round(float(hits / of_class), 4) if of_class else None
        if of_class:
            f1.append(2 * hits / (of_class + as_class))
    bins = np.minimum((confidence * ECE_BINS).astype(int), ECE_BINS - 1)
    gaps = [abs(right[bins == b].sum() - confidence[bins == b].sum()) for b in range(ECE_BINS)]
    return {
        "rows": len(examples),
        "accuracy": round(float(right.mean()), 4),
        "macro_f1": round(float(np.mean(f1)), 4),
        "recall": recall,
        "ece": round(float(sum(gaps) / len(examples)), 4),
        "confusion": {
            label: dict(zip(LABELS, confusion[number].tolist(), strict=True))
            for number, label in enumerate(LABELS)
        },
        "accuracy_by_source": _accuracy_by([example.family for example in examples], right),
        "accuracy_by_language": _accuracy_by([example.lang or "unknown" for example in examples], right),
    }


def _accuracy_by(names: Sequence[str], right: NDArray[np.bool_]) -> dict[str, dict[str, float]]:
    total = Counter(names)
    hits = Counter(name for name, hit in zip(names, right, strict=True) if hit)
    return {
        name: {"rows": rows, "accuracy": round(hits[name] / rows, 4)}
        for name, rows in sorted(total.items(), key=lambda item: (-item[1], item[0]))
    }


def evaluate(path: Path, classifier: Classifier) -> dict[str, Any]:
    """Return the metrics of a classifier on a data file; raises DataFault."""
    examples = read_examples([path])
    if not examples:
        raise DataFault(f"{path}:0: holds no example")
    answers = [classifier.classify(example.prompt).probabilities for example in examples]
    return metrics(np.array([[answer[label] for label in LABELS] for answer in answers]), examples)


def write(trained: Trained, out: Path) -> None:
    """Write the arrays, the facts and the table of sources."""
    out.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        out / WEIGHTS_FILE,
        coef=trained.estimator.coef_.T.astype(np.float32),
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
        line = json.dumps([joined(example.prompt), example.label, example.source])
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()
