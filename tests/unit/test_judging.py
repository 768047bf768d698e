"""The figures that a classifier is judged by."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.classifier.examples import read_examples
from router.classifier.judging import BINS, form, groups, judge, latency, reliability
from router.classifier.model import LABELS, Classifier
from router.classifier.prompt import Prompt, Turn, read
from router.cli.reliability import drawn

SIMPLE, CODING, REASONING = range(3)


def sure(*given: int) -> np.ndarray:
    return np.eye(3)[list(given)] * 0.7 + 0.1


def test_accuracy_recall_and_confusion_are_counted() -> None:
    found = judge(sure(SIMPLE, CODING, CODING, SIMPLE), [SIMPLE, CODING, SIMPLE, CODING])
    assert (found["rows"], found["accuracy"], found["macro_f1"]) == (4, 0.5, 0.5)
    assert found["recall"] == {"simple": 0.5, "coding": 0.5, "reasoning": None}
    assert found["confusion"]["coding"] == {"simple": 1, "coding": 1, "reasoning": 0}


def test_macro_f1_is_the_mean_of_the_classes_that_are_asked_for() -> None:
    found = judge(sure(SIMPLE, SIMPLE, SIMPLE, REASONING), [SIMPLE, SIMPLE, CODING, REASONING])
    assert found["macro_f1"] == pytest.approx((0.8 + 0.0 + 1.0) / 3, abs=1e-4)


def test_parts_are_judged_apart_the_largest_first() -> None:
    labels, langs = [SIMPLE, CODING, CODING], ["de", "en", "en"]
    found = judge(sure(CODING, CODING, SIMPLE), labels, {"language": langs})
    assert list(found["accuracy_by_language"].items()) == [
        ("en", {"rows": 2, "accuracy": 0.5, "recall": {"simple": None, "coding": 0.5, "reasoning": None}}),
        ("de", {"rows": 1, "accuracy": 0.0, "recall": {"simple": 0.0, "coding": None, "reasoning": None}}),
    ]


def test_the_calibration_error_is_the_distance_of_confidence_and_accuracy() -> None:
    # Confidence 0.8 four times, right three times; and 0.5 twice, right once.
    eight, five = np.tile([0.8, 0.1, 0.1], (4, 1)), np.tile([0.5, 0.25, 0.25], (2, 1))
    found = judge(np.concatenate((eight, five)), [0, 0, 0, 1, 0, 1])
    assert found["ece"] == pytest.approx(4 / 6 * 0.05, abs=1e-4)
    assert [(b["rows"], b["confidence"], b["accuracy"]) for b in found["reliability"]] == [
        (2, 0.5, 0.5),
        (4, 0.8, 0.75),
    ]


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(1 / 3, 1), st.booleans()), min_size=1, max_size=80))
def test_every_row_is_in_the_bin_of_its_confidence(rows: list[tuple[float, bool]]) -> None:
    confidence, right = np.array([c for c, _ in rows]), np.array([r for _, r in rows])
    bins = reliability(confidence, right)
    assert sum(b["rows"] for b in bins) == len(rows)
    assert sum(b["rows"] * b["accuracy"] for b in bins) == pytest.approx(right.sum())
    for b in bins:
        assert b["from"] - 1e-9 <= b["confidence"] <= b["to"] + 1e-9
        assert b["to"] - b["from"] == pytest.approx(1 / BINS)


def test_the_form_of_a_request() -> None:
    asked = [Turn("user", ("Write a parser",)), Turn("assistant", ("fn main",))]
    assert form(read([*asked, Turn("user", ("go on",))])) == "follow-up"
    assert form(read([*asked, Turn("user", ("thanks",))])) == "follow-up"
    assert form(read([*asked, Turn("user", ("x" * 61,))])) == "conversation"
    assert form(read([Turn("user", ("x" * 2_001,))])) == "long"
    assert form(read([Turn("user", ("hello",))])) == "plain"


def test_groups_name_family_language_and_form(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a", "label": "simple", "source": "mmlu(recall)"}\n', "utf-8")
    assert groups(read_examples([path])) == {"source": ["mmlu"], "language": ["unknown"], "form": ["plain"]}


class Counting(Classifier):
    """The packaged classifier, which keeps what it is asked."""

    def classify(self, prompt: Prompt):  # type: ignore[no-untyped-def]  # as the base's
        asked.append(prompt.text)
        return super().classify(prompt)


asked: list[str] = []


def test_latency_times_new_texts_of_each_length() -> None:
    asked.clear()
    found = latency(Counting.load(), ["short", "字" * 50], (40, 9_000))
    assert list(found) == ["40", "9000"]
    assert all(figures[name] > 0 for figures in found.values() for name in ("read", "classify", "both"))
    short = [text for text in asked if len(text) <= 40]
    assert len(set(short)) == len(short) == len(asked) / 2


def test_the_diagram_has_a_dot_for_each_bin() -> None:
    measured = judge(sure(SIMPLE, CODING, CODING) * [[1, 1, 1], [0.9, 0.9, 1.2], [1, 1, 1]], [0, 1, 0])
    root = ElementTree.fromstring(drawn(measured))
    circles = [node for node in root.iter() if node.tag.endswith("circle")]
    assert len(circles) == len(measured["reliability"])
    written = "".join(root.itertext())
    assert f"ECE {measured['ece']:.3f}" in written
    assert len(LABELS) == 3
