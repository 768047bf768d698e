"""`router feedback`: labels of users against the decision log."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from router.catalog.snapshot import CATEGORIES, Category
from router.cli import main
from router.routing.decide import Categorised
from tests.router import Offered, write_catalog
from tests.unit.parts import asked, need
from tests.unit.test_cli_replay import loaded, logged


def spoke(category: Category, share: float) -> Categorised:
    rest = (1 - share) / 2
    probabilities = {name: share if name == category else rest for name in CATEGORIES if name != "vision"}
    return Categorised(category, probabilities, share)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Log five requests: three that were classified, one of a named model, one of a named category."""
    write_catalog(tmp_path / "catalog", {"scripted": "http://scripted.invalid/v1"}, [Offered("local/m")])
    requests = [
        (need(), spoke("coding", 0.8)),
        (need(), spoke("simple", 0.6)),
        (need(), spoke("simple", 0.7)),
        (need(asked=asked(named="local/m")), Categorised()),
        (need(asked=asked("coding")), Categorised("coding", {"coding": 1.0}, 1.0)),
    ]
    logged(tmp_path / "data", loaded(tmp_path / "catalog"), requests)
    return tmp_path


def feedback(folder: Path, labels: dict[str, str], *more: str) -> Result:
    path = folder / "labels.jsonl"
    lines = [json.dumps({"request_id": number, "label": label}) for number, label in labels.items()]
    path.write_text("\n".join([*lines, ""]), "utf-8")
    return CliRunner().invoke(main, ["feedback", str(path), "--data", str(folder / "data"), *more])


def test_only_what_the_classifier_said_is_judged(folder: Path) -> None:
    labels = {
        "req_0": "coding",
        "req_1": "reasoning",
        "req_3": "simple",
        "req_4": "simple",
        "req_9": "simple",
    }
    done = feedback(folder, labels, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    assert (found["rows"], found["labels"], found["accuracy"]) == (2, 5, 0.5)
    assert found["confusion"]["reasoning"] == {"simple": 1, "coding": 0, "reasoning": 0}
    assert found["ece"] == pytest.approx((0.2 + 0.6) / 2)
    shown = feedback(folder, labels)
    assert "2 of 5 labelled requests are in the decision log" in shown.output
    assert "accuracy 0.500" in shown.output


def test_kept_prompts_become_lines_that_train(folder: Path) -> None:
    prompts, out = folder / "prompts.jsonl", folder / "lines.jsonl"
    kept = [
        {"request_id": "req_0", "text": "fix my parser", "lang": "en", "user": "ada"},
        {"request_id": "req_1", "messages": [{"role": "user", "content": "weigh both"}]},
        {"request_id": "req_2", "text": "nobody labelled this"},
    ]
    prompts.write_text("\n".join(map(json.dumps, kept)), "utf-8")
    labels = {"req_0": "coding", "req_1": "reasoning"}
    done = feedback(folder, labels, "--prompts", str(prompts), "--out", str(out))
    assert done.exit_code == 0, done.output
    assert [json.loads(line) for line in out.read_text("utf-8").splitlines()] == [
        {"text": "fix my parser", "lang": "en", "label": "coding", "source": "feedback"},
        {"messages": kept[1]["messages"], "label": "reasoning", "source": "feedback"},
    ]
    assert out.stat().st_mode & 0o777 == 0o600
    assert f"2 lines written to {out}" in done.output


def test_faults_say_what_to_do(folder: Path) -> None:
    wrong = feedback(folder, {"req_0": "vision"})
    assert wrong.exit_code == 1
    assert "labels.jsonl:1: label is one of simple, coding, reasoning" in wrong.output
    unknown = feedback(folder, {"req_77": "simple"})
    assert "none of its 1 requests is an `auto` request in the decision log" in unknown.output
    alone = feedback(folder, {"req_0": "coding"}, "--out", str(folder / "out"))
    assert alone.exit_code == 2
    assert "--prompts and --out go together" in alone.output
    (folder / "labels.jsonl").write_text('\n{"label": "simple"}', "utf-8")
    arguments = ["feedback", str(folder / "labels.jsonl"), "--data", str(folder / "data")]
    assert (
        "labels.jsonl:2: expected a JSON object with request_id" in CliRunner().invoke(main, arguments).output
    )
    (folder / "labels.jsonl").write_text("", "utf-8")
    empty = CliRunner().invoke(main, [*arguments[:3], str(folder / "nothing")])
    assert "there are no decisions in" in empty.output
