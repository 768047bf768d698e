"""The accuracy benchmark counts what it claims to count."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.accuracy import aims, checks, corpus, curve, page, routing
from benchmarks.accuracy.rows import Rows, held_out, judged, language_folds, read_rows
from benchmarks.accuracy.wrappings import wrapped
from router.classifier.model import Classifier
from router.classifier.prompt import strip

WORDS = {
    "simple": ["tell me of the sea", "what is the capital of Peru", "translate good night", "thanks a lot"],
    "coding": [
        "fix the bug in parser.py",
        "write a Python function",
        "SELECT name FROM t fails",
        "git rebase",
    ],
    "reasoning": ["prove that 2 is prime", "weigh both offers", "how many trains meet", "estimate the cost"],
}


@pytest.fixture
def rows(tmp_path: Path) -> Rows:
    path = tmp_path / "rows.jsonl"
    lines = [
        {"text": f"{text} {lang}", "label": label, "lang": lang, "source": source, "licence": licence}
        for label, texts in WORDS.items()
        for text in texts
        for lang, source, licence in (("en", "own", "MIT"), ("de", "own", "MIT"), ("fr", "b", "CC-BY-SA-4.0"))
    ]
    path.write_text("\n".join(json.dumps(line) for line in lines), "utf-8")
    return read_rows([path])


def test_rows_of_a_licence_are_dropped(rows: Rows, tmp_path: Path) -> None:
    kept = read_rows([tmp_path / "rows.jsonl"], ("CC-BY-SA",))
    assert len(kept) == len(rows) * 2 / 3
    assert {record["licence"] for record in kept.records} == {"MIT"}


def test_a_held_out_language_is_judged_by_models_that_never_saw_it(rows: Rows) -> None:
    folds = language_folds(rows, 2)
    assert {example.lang for example, fold in zip(rows.examples, folds, strict=True) if fold == -1} == {"en"}
    said: list[str] = []
    found, numbers = held_out(rows, folds, said.append, temperature=1.5)
    assert {rows.examples[number].lang for number in numbers} == {"de", "fr"}
    assert len(said) == 2
    assert found.sum(axis=1) == pytest.approx(1)
    assert judged(rows.at(numbers), found)["rows"] == len(rows) * 2 / 3


def test_a_fold_without_which_a_label_is_missing_is_not_judged(rows: Rows) -> None:
    folds = [0 if label == 2 else 1 + number % 2 for number, label in enumerate(rows.labels)]
    _, numbers = held_out(rows, folds, lambda _: None, temperature=1.5)
    assert {rows.labels[number] for number in numbers} == {0, 1}


def test_the_curve_counts_languages(rows: Rows) -> None:
    found = curve.curve(rows, lambda _: None, 1.5, orders=1)
    assert [point["languages"] for point in found] == [1]
    assert found[0]["mean_rows_trained"] == 12


def test_wrappings_change_neither_text_nor_class(rows: Rows) -> None:
    found = checks.same_wrapped(rows, Classifier.load())
    assert found == {"rows": len(rows), "same_class": 1.0, "same_text": 1.0}
    assert checks.images_seen(rows) == {"rows": len(rows), "seen": 1.0}


@settings(deadline=None)
@given(st.integers())
def test_generated_wrappings_are_stripped(seed: int) -> None:
    dressed = wrapped("Is it raining?", random.Random(seed))
    assert dressed != "Is it raining?"
    assert strip(dressed) == "Is it raining?"


def test_random_scores_recover_half() -> None:
    weak, strong = np.array([0.0, 1.0, 0.0, 0.0]), np.array([1.0, 1.0, 1.0, 0.0])
    shares, recovered = routing.recovery(np.zeros(4), weak, strong)
    assert routing.area(shares, recovered) == 0.5
    assert routing.share_for(shares, recovered, 0.8) == pytest.approx(0.8)


def test_a_score_that_knows_recovers_all_at_once() -> None:
    weak, strong = np.array([0.0, 1.0, 0.0, 0.0]), np.array([1.0, 1.0, 1.0, 0.0])
    shares, recovered = routing.recovery(strong - weak, weak, strong)
    assert routing.share_for(shares, recovered, 0.5) == pytest.approx(0.25)
    assert routing.area(shares, recovered) == pytest.approx(0.75)
    with pytest.raises(ValueError, match="not better"):
        routing.recovery(weak, strong, weak)


def test_the_worst_of_the_largest_languages() -> None:
    many = {f"l{n}": {"rows": 50 - n, "accuracy": 0.9 - n / 100} for n in range(12)}
    assert aims.worst_of_largest({"accuracy_by_language": many}) == ("l9", 0.81)
    assert aims.worst_of_largest({}) == ("-", None)


def test_words_of_scripts_without_blanks_are_characters() -> None:
    assert corpus.words("Don't panic, Zoë!") == ["don't", "panic", "zoë"]
    assert corpus.words("你好，世界") == ["你", "好", "世", "界"]
    assert corpus.words("मुझे हिंदी") == ["मुझे", "हिंदी"]


def test_near_duplicates_are_found() -> None:
    texts = ["Tell me about the tides of the sea", "tell me about the tides of the sea!", "Why?", ""]
    assert corpus.near_pairs(texts) == [(0, 1)]
    assert corpus.distinct(["a b a b"], 1) == 0.5
    assert corpus.distinct(["a b a b"], 2) == pytest.approx(2 / 3)


def test_figures_are_laid_between_the_marks(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text(f"# Title\n{page.BEGIN}\nold\n{page.END}\nafter\n", "utf-8")
    page.laid(path, "new")
    assert path.read_text("utf-8") == f"# Title\n{page.BEGIN}\nnew\n{page.END}\nafter\n"
    path.write_text("# Title\n", "utf-8")
    with pytest.raises(ValueError, match="needs the lines"):
        page.laid(path, "new")


def test_the_page_of_the_corpus_counts_its_rows(rows: Rows) -> None:
    written = corpus.page(rows, rows.at([]))
    assert "36 rows in 3 languages: 12 simple, 12 coding, 12 reasoning" in written
    assert "| de | 12 | 4 | 4 | 4 |" in written


def test_the_page_says_which_commit_the_speed_is_of() -> None:
    last = json.loads((Path(page.__file__).parent / "results" / "0.1.0.json").read_text("utf-8"))
    same = last | {"speed_of": {"commit": last["commit"], "measured_at": last["measured_at"]}}
    newer = last | {"speed_of": {"commit": "abc1234", "measured_at": "2026-12-01T10:00:00Z"}}
    line = "Speed, size, memory and load are those of abc1234, 2026-12-01."
    for written in (page.page, page.summary):
        assert line in written(newer)
        assert "Speed, size" not in written(same)
