"""`router train` and `router evaluate` over real files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from router.classifier.model import Classifier
from router.classifier.prompt import Prompt
from router.cli.classifier import evaluate, train

ROWS: list[dict[str, object]] = [
    {"text": "zorblat the widget", "label": "coding", "lang": "en", "source": "desk"},
    {"text": "please zorblat my pipeline", "label": "coding", "lang": "en", "source": "desk"},
    {"text": "tell me of the sea", "label": "simple", "lang": "en", "source": "desk"},
    {
        "messages": [
            {"role": "system", "content": "You are terse."},
            {"role": "user", "content": [{"type": "text", "text": "weigh both offers for the shop"}]},
            {"role": "assistant", "content": None, "tool_calls": [{}]},
            {"role": "user", "content": "continue"},
        ],
        "label": "reasoning",
        "lang": "en",
        "source": "chat",
    },
]
# Each label in a second source, so that sources can be held out.
MORE = [
    {"text": "zorblat my parser", "label": "coding", "lang": "en", "source": "b"},
    {"text": "tell me of the moon", "label": "simple", "lang": "en", "source": "b"},
    {"text": "weigh the two shops", "label": "reasoning", "lang": "en", "source": "b"},
]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(record) for record in ROWS) + "\n\n", "utf-8")
    return path


def test_train_then_evaluate(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    more = tmp_path / "more.jsonl"
    more.write_text("\n".join(json.dumps(record) for record in MORE), "utf-8")
    trained = CliRunner().invoke(train, ["--data", str(data), "--out", str(out), "--alone", str(more)])
    assert trained.exit_code == 0, trained.output
    assert "on held-out sources" in trained.output
    assert "desk" in (out / "SOURCES.md").read_text("utf-8")
    model = Classifier.load(out)
    assert model.classify(Prompt("zorblat the widget")).category == "coding"
    assert {source["source"] for source in model.facts["sources"]} == {"desk", "chat", "b"}

    arguments = ["--data", str(data), "--model", str(out)]
    judged = CliRunner().invoke(evaluate, [*arguments, "--json", "--plots", str(tmp_path / "plots")])
    assert judged.exit_code == 0, judged.output
    measured = json.loads(judged.output)
    assert measured["rows"] == len(ROWS)
    assert measured["accuracy"] == 1.0
    assert measured["confusion"]["coding"] == {"simple": 0, "coding": 2, "reasoning": 0}
    chat = measured["accuracy_by_source"]["chat"]
    assert chat == {"rows": 1, "accuracy": 1.0, "recall": {"simple": None, "coding": None, "reasoning": 1.0}}
    assert measured["accuracy_by_form"]["follow-up"]["rows"] == 1
    assert sum(b["rows"] for b in measured["reliability"]) == len(ROWS)
    assert list(measured["latency_us"]) == ["100", "600", "2000", "20000"]
    assert (tmp_path / "plots" / "reliability.svg").read_text("utf-8").startswith("<svg")

    shown = CliRunner().invoke(evaluate, arguments)
    assert "accuracy 1.000" in shown.output
    for part in ("form", "source", "language"):
        assert f"accuracy and recall by {part}" in shown.output
    assert "20,000" in shown.output


def test_dropped_licences_leave_no_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [ROWS[0] | {"licence": "CC-BY-SA-4.0", "source": "wiki"}]
    rows += [record | {"licence": "MIT"} for record in ROWS[1:]]
    path.write_text("\n".join(json.dumps(record) for record in rows), "utf-8")
    out = tmp_path / "model"
    arguments = ["--data", str(path), "--out", str(out), "--alone", "--drop-licence", "CC-BY-SA"]
    assert CliRunner().invoke(train, arguments).exit_code == 0
    sources = {source["source"] for source in Classifier.load(out).facts["sources"]}
    assert "desk" in sources
    assert "wiki" not in sources


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "Expecting property name"),
        ("[]", "expected a JSON object"),
        ('{"text": "a", "label": "vision"}', "label: 'vision' is not one of simple, coding, reasoning"),
        ('{"text": "a"}', "label: None is not one of"),
        ('{"text": " ", "label": "simple"}', "give `text`"),
        ('{"messages": [{"content": "a"}], "label": "simple"}', "each needs a `role`"),
        ('{"messages": [{"role": "user", "content": 3}], "label": "simple"}', "neither a string nor a list"),
        ('{"text": "a", "label": "simple", "lang": 4}', "lang: expected a string, got int"),
        (b"\xff", "invalid start byte"),
    ],
)
def test_faults_name_file_and_line(line: str | bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    raw = line if isinstance(line, bytes) else line.encode()
    path.write_bytes(json.dumps(ROWS[0]).encode() + b"\n\n" + raw + b"\n")
    for command, arguments in ((train, ["--out", str(tmp_path / "out")]), (evaluate, [])):
        done = CliRunner().invoke(command, ["--data", str(path), *arguments])
        assert done.exit_code == 1
        assert f"{path}:3: " in done.output
        assert message in done.output
    assert not (tmp_path / "out").exists()


def test_a_model_that_is_not_there_names_the_fix(data: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(evaluate, ["--data", str(data), "--model", str(tmp_path / "none")])
    assert done.exit_code == 1
    assert "router train --out" in done.output


def test_an_empty_file_is_a_fault(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n")
    done = CliRunner().invoke(evaluate, ["--data", str(path)])
    assert done.exit_code == 1
    assert "holds no example" in done.output
