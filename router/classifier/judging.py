"""Judge a classifier: accuracy, recall, calibration, confusion, latency. Plain numpy, nothing is fitted here.

Groups hold the same figures for parts of the rows: families of sources, languages, the form of the request.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Raw
from numpy.typing import NDArray

from router.classifier.examples import DataFault, Example, read_examples
from router.classifier.features import joined
from router.classifier.model import LABELS, Classifier
from router.classifier.prompt import Prompt, Turn, read
from router.classifier.shapes import Floats
from router.rawjson import cut_text

BINS = 15
LONG_CHARS = 2_000
FOLLOW_UP_CHARS = 60
LENGTHS = (100, 600, 2_000, 20_000)
TEXTS_A_LENGTH = 300
_WARM_TEXTS = 20

Labels = NDArray[np.intp]


def judge(
    probabilities: Floats, labels: Sequence[int], parts: Mapping[str, Sequence[str]] | None = None
) -> dict[str, Any]:
    """Return accuracy, macro-F1, recall, calibration, confusion, and `accuracy_by_<part>` for each part.

    `probabilities` is (rows, 3) in the order of LABELS; `parts` names, for each row, what it belongs to.
    `ece` is the mean distance of confidence and accuracy over 15 equal bins of confidence, `reliability`
    holds these bins; `confusion[true][given]` counts rows; a class without a row has recall null and is left
    out of macro-F1.
    """
    true = np.asarray(labels, np.intp)
    given = probabilities.argmax(axis=1).astype(np.intp)
    right, confidence = given == true, probabilities.max(axis=1)
    confusion = np.zeros((len(LABELS), len(LABELS)), int)
    np.add.at(confusion, (true, given), 1)
    bins = reliability(confidence, right)
    return {
        "rows": len(true),
        "accuracy": round(float(right.mean()), 4),
        "macro_f1": round(_macro_f1(confusion), 4),
        "recall": _recall(confusion),
        "ece": round(sum(b["rows"] * abs(b["accuracy"] - b["confidence"]) for b in bins) / len(true), 4),
        "reliability": [{name: round(value, 4) for name, value in b.items()} for b in bins],
        "confusion": {
            label: dict(zip(LABELS, counts, strict=True))
            for label, counts in zip(LABELS, confusion.tolist(), strict=True)
        },
        **{f"accuracy_by_{part}": _by(names, true, given) for part, names in (parts or {}).items()},
    }


def reliability(confidence: Floats, right: NDArray[np.bool_]) -> list[dict[str, float]]:
    """Return the filled bins of confidence: from, to, rows, mean confidence, share that is right."""
    bin_of = np.minimum((confidence * BINS).astype(int), BINS - 1)
    filled = []
    for number in range(BINS):
        inside = bin_of == number
        if rows := int(inside.sum()):
            mean, share = float(confidence[inside].mean()), float(right[inside].mean())
            edges = {"from": number / BINS, "to": (number + 1) / BINS}
            filled.append({**edges, "rows": rows, "confidence": mean, "accuracy": share})
    return filled


def _macro_f1(confusion: NDArray[np.int_]) -> float:
    hits, of_class, as_class = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    asked = of_class > 0
    return float((2 * hits[asked] / (of_class + as_class)[asked]).mean())


def _recall(confusion: NDArray[np.int_]) -> dict[str, float | None]:
    pairs = zip(LABELS, confusion.diagonal().tolist(), confusion.sum(axis=1).tolist(), strict=True)
    return {label: round(hits / rows, 4) if rows else None for label, hits, rows in pairs}


def _by(names: Sequence[str], true: Labels, given: Labels) -> dict[str, dict[str, Any]]:
    """Return rows, accuracy and recall of each name, the largest first."""
    rows_of: dict[str, list[int]] = {}
    for number, name in enumerate(names):
        rows_of.setdefault(name, []).append(number)
    found = {}
    for name, rows in sorted(rows_of.items(), key=lambda item: (-len(item[1]), item[0])):
        confusion = np.zeros((len(LABELS), len(LABELS)), int)
        np.add.at(confusion, (true[rows], given[rows]), 1)
        accuracy = round(float(confusion.trace() / len(rows)), 4)
        found[name] = {"rows": len(rows), "accuracy": accuracy, "recall": _recall(confusion)}
    return found


def groups(examples: Sequence[Example]) -> dict[str, list[str]]:
    """Return what each example belongs to: `source` (its family), `language` and `form`."""
    return {
        "source": [example.family for example in examples],
        "language": [example.lang or "unknown" for example in examples],
        "form": [form(example.prompt) for example in examples],
    }


def form(prompt: Prompt) -> str:
    """Return how a request is put: a few words in a conversation, more words in one, long, or plain."""
    if prompt.first_user != prompt.text:
        return "follow-up" if len(prompt.text) <= FOLLOW_UP_CHARS else "conversation"
    return "long" if len(prompt.text) > LONG_CHARS else "plain"


def answers(classifier: Classifier, prompts: Sequence[Prompt]) -> Floats:
    """Return the probabilities that a classifier gives to prompts: (prompts, 3) in the order of LABELS."""
    found = [classifier.classify(prompt).probabilities for prompt in prompts]
    return np.array([[answer[label] for label in LABELS] for answer in found]).reshape(-1, len(LABELS))


def evaluate(path: Path, classifier: Classifier) -> dict[str, Any]:
    """Return the figures of a classifier on a data file, and its latency; raises DataFault."""
    examples = read_examples([path])
    if not examples:
        raise DataFault(f"{path}:0: holds no example")
    prompts = [example.prompt for example in examples]
    measured = judge(answers(classifier, prompts), [example.label for example in examples], groups(examples))
    return measured | {"latency_us": latency(classifier, [joined(prompt) for prompt in prompts])}


def latency(
    classifier: Classifier, texts: Sequence[str], lengths: Sequence[int] = LENGTHS
) -> dict[str, dict[str, float]]:
    """Return, for each length in characters, the medians of reading and of classifying a text, in us.

    The texts are made of the given ones, laid end to end; each is new to the classifier. A long text comes to
    it cut at both ends, as the service cuts what it receives.
    """
    found = {}
    for length in lengths:
        spans = []
        for text in _texts(texts, length):
            turns = [
                Turn(
                    "user", (cut_text(Raw(json.dumps(text, ensure_ascii=False).encode("utf-8", "replace"))),)
                )
            ]
            began = time.perf_counter_ns()
            prompt = read(turns)
            between = time.perf_counter_ns()
            classifier.classify(prompt)
            spans.append((between - began, time.perf_counter_ns() - between))
        reading, classifying = zip(*spans[_WARM_TEXTS:], strict=True)
        both = [sum(span) for span in spans[_WARM_TEXTS:]]
        figures = {"read": reading, "classify": classifying, "both": both}
        found[str(length)] = {name: round(statistics.median(of) / 1e3, 1) for name, of in figures.items()}
    return found


def _texts(texts: Sequence[str], length: int) -> list[str]:
    """Return different texts of exactly this many characters."""
    whole = "\n\n".join(texts)
    # A number in each, because little data repeats before there are enough texts.
    step = max(1, length // 2)
    while len(whole) < length:
        whole += "\n\n" + whole
    made = []
    for number in range(TEXTS_A_LENGTH + _WARM_TEXTS):
        start = number * step % (len(whole) - length + 1)
        made.append(f"{whole[start : start + length]} {number}"[-length:])
    return made
