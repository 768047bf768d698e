"""Keyword routers are asked as libraries: packages of the same form, laid where npm would lay them."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest

from benchmarks.accuracy.minilm import MiniLM
from benchmarks.accuracy.peers import KEYWORD_ROUTERS, baseline, keyword_router
from benchmarks.accuracy.rows import Rows, read_rows

FILES = {
    "@rungate/llmrouter": {
        "package.json": '{"type": "module"}',
        "dist/src/router/classify.js": """
            export function classifyPrompt({ messages }) {
              const text = messages.at(-1).content;
              return { category: text.includes('python') ? 'coding' : 'simple' };
            }
        """,
    },
    "@blockrun/clawrouter": {
        "package.json": '{"type": "module", "main": "dist/index.js"}',
        "dist/index.js": """
            export const DEFAULT_ROUTING_CONFIG = { hard: 'prove', middling: 'python' };
            export function route(text, system, maxTokens, { config, modelPricing }) {
              if (!(modelPricing instanceof Map)) throw new Error('no prices');
              if (text.includes(config.hard)) return { tier: 'REASONING' };
              return { tier: text.includes(config.middling) ? 'COMPLEX' : 'SIMPLE' };
            }
        """,
    },
}


@pytest.fixture
def rows(tmp_path: Path) -> Rows:
    path = tmp_path / "rows.jsonl"
    talk = [{"role": "user", "content": "fix it"}, {"role": "user", "content": "in python"}]
    lines = [
        {"text": "hello", "label": "simple", "lang": "en", "source": "a"},
        {"messages": talk, "label": "coding", "lang": "en", "source": "a"},
        {"text": "prove it in python", "label": "reasoning", "lang": "en", "source": "b"},
        {"text": "good day", "label": "simple", "lang": "en", "source": "b"},
    ]
    path.write_text("\n".join(map(json.dumps, lines)), "utf-8")
    return read_rows([path])


@pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not installed")
@pytest.mark.parametrize(
    ("name", "recall"),
    [
        ("@rungate/llmrouter", {"simple": 1.0, "coding": 1.0, "reasoning": 0.0}),
        ("@blockrun/clawrouter", {"simple": 1.0, "coding": 1.0, "reasoning": 1.0}),
    ],
)
def test_a_keyword_router_is_asked_row_by_row(
    name: str, recall: dict[str, float], rows: Rows, tmp_path: Path
) -> None:
    kind, version, _ = KEYWORD_ROUTERS[name]
    folder = tmp_path / f"{kind}-{version}"
    for path, text in FILES[name].items():
        file = folder / "node_modules" / name / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, "utf-8")
    (folder / "installed").touch()
    found = keyword_router(name, rows, tmp_path)
    assert found["recall"] == recall
    assert found["version"] == version
    assert found["ece"] is None
    assert found["us"] > 0


def test_the_baseline_judges_each_fold_by_the_others(rows: Rows) -> None:
    twice = rows.at([*range(len(rows)), *range(len(rows))])
    said: list[str] = []
    found, numbers = baseline(twice, [0] * len(rows) + [1] * len(rows), said.append)
    assert numbers == list(range(len(twice)))
    assert found.argmax(axis=1).tolist() == twice.labels
    assert len(said) == 2


def test_words_are_cut_into_the_longest_known_pieces(tmp_path: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "un", "##aff", "##able", "##a", "!", "cafe"]
    (tmp_path / "vocab.txt").write_text("\n".join(words), "utf-8")
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    numbers = struct.pack("<Q", len(header)) + header + np.float32(1.5).tobytes()
    (tmp_path / "model.safetensors").write_bytes(numbers)
    model = MiniLM(tmp_path)
    assert [words[n] for n in model._tokens("Unaffable! Café xyz")] == [
        "[CLS]", "un", "##aff", "##able", "!", "cafe", "[UNK]", "[SEP]",
    ]  # fmt: skip
    assert model._weights["w"].tolist() == [1.5]
