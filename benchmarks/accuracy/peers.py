"""The reference points, on the same rows: two keyword routers from npm and a hashed baseline.

The keyword routers are asked as libraries, offline; the baseline is fitted anew for every fold.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.sparse import csr_matrix, hstack
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
from sklearn.linear_model import LogisticRegression

from benchmarks import installs
from benchmarks.accuracy.checks import messages_of
from benchmarks.accuracy.rows import Rows, Say
from benchmarks.site import Unavailable
from benchmarks.targets import LLMROUTER_OVERRIDES, LLMROUTER_VERSION
from router.classifier import judging
from router.classifier.model import LABELS
from router.classifier.shapes import Floats
from router.classifier.training import softmax

KEYWORD_ROUTERS = {
    "@rungate/llmrouter": ("llmrouter", LLMROUTER_VERSION, LLMROUTER_OVERRIDES),
    "@blockrun/clawrouter": ("clawrouter", "0.12.246", {}),
}
SCRIPT = Path(__file__).parent / "keywords.mjs"
CUT_CHARS = 1_200
INVERSE_REGULARISATION = 4.0


def keyword_router(name: str, rows: Rows, peers: Path) -> dict[str, Any]:
    """Return what a keyword router says of the rows; raises Unavailable with the reason."""
    kind, version, overrides = KEYWORD_ROUTERS[name]
    node = installs.debian_peer("node", "nodejs")
    package = installs.node_peer(peers, name, version, overrides)
    requests = []
    for record, prompt in zip(rows.records, rows.prompts, strict=True):
        messages = messages_of(record)
        system = "\n".join(m["content"] for m in messages if m["role"] == "system")
        requests.append({"messages": _with_content(messages), "text": prompt.text, "system": system})
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "requests.json")
        file.write_text(json.dumps(requests), encoding="utf-8")
        command = [node, str(SCRIPT), kind, str(package), str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Unavailable(f"{name} {version} does not run: {done.stderr.strip().splitlines()[-1:]}")
    said = json.loads(done.stdout)
    sure = np.array([[float(label == given) for label in LABELS] for given in said["labels"]])
    # It gives no probabilities: its calibration has no meaning and is left out.
    figures = judging.judge(sure, rows.labels, judging.groups(rows.examples)) | {"ece": None}
    return {"version": version, "us": round(said["us"], 1), **figures}


def _with_content(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [message | {"content": message.get("content") or ""} for message in messages]


def baseline(rows: Rows, folds: Sequence[int], say: Say) -> tuple[Floats, list[int]]:
    """Score the rows with hashed n-grams and logistic regression, each fold by a model that never saw it.

    Words 1-2 and characters 2-4 within words, sublinear TF-IDF, twelve shapes, weights by source; one
    temperature fitted on the scores that are judged, which flatters its calibration a little.
    """
    texts = [_cut(text) for text in rows.texts]
    counts = _counts(texts)
    shapes = csr_matrix(np.array([_shape(text) for text in texts]))
    labels, of_fold = np.array(rows.labels), np.array(folds)
    scores, judged = np.zeros((len(rows), len(LABELS))), []
    for fold in sorted(set(folds) - {-1}):
        inside, outside = np.flatnonzero(of_fold != fold), np.flatnonzero(of_fold == fold)
        if len(set(labels[inside].tolist())) < len(LABELS):
            continue
        say(f"hashed baseline, fold {fold + 1} of {max(folds) + 1}")
        tfidf = TfidfTransformer(sublinear_tf=True).fit(counts[inside])
        features = hstack([tfidf.transform(counts), shapes]).tocsr()
        model = LogisticRegression(C=INVERSE_REGULARISATION, max_iter=300, tol=1e-3)
        model.fit(features[inside], labels[inside], sample_weight=_weights(rows.at(inside.tolist())))
        scores[outside] = model.decision_function(features[outside])
        judged += outside.tolist()
    judged.sort()
    return softmax(scores[judged] / _temperature(scores[judged], labels[judged])), judged


def _temperature(scores: Floats, labels: Any) -> float:
    def loss(temperature: float) -> float:
        right = softmax(scores / temperature)[np.arange(len(labels)), labels]
        return float(-np.log(right + 1e-12).mean())

    return float(minimize_scalar(loss, bounds=(0.3, 8), method="bounded").x)


def baseline_us(rows: Rows) -> float:
    """Return what one prompt costs the baseline's vectoriser alone, one at a time, in us."""
    texts = [_cut(text) for text in rows.texts[:: max(1, len(rows) // 200)]]
    began = time.perf_counter()
    for text in texts:
        _counts([text])
    return round((time.perf_counter() - began) / len(texts) * 1e6, 1)


def _counts(texts: Sequence[str]) -> csr_matrix:
    fixed: dict[str, Any] = {"norm": None, "alternate_sign": False, "n_features": 1 << 17}
    words = HashingVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b", **fixed)
    characters = HashingVectorizer(analyzer="char_wb", ngram_range=(2, 4), **fixed)
    return hstack([words.transform(texts), characters.transform(texts)]).tocsr()


def _cut(text: str) -> str:
    return text if len(text) <= 2 * CUT_CHARS else f"{text[:CUT_CHARS]}\n{text[-CUT_CHARS:]}"


def _shape(text: str) -> list[float]:
    size = len(text) + 1
    found = [
        len(re.findall(pattern, text)) / size**0.5
        for pattern in (r"\d", r"[{}\[\]();]", r"[=<>+*/^%]", r"```", r"\n", r"\n[ \t]+", r"\?", r"\n[-*\d]")
    ]
    return [*found, np.log(size) / 8, float(size > 300), float(size > 1_200), float(not text.isascii())]


def _weights(rows: Rows) -> Floats:
    keys = [(example.source, example.label) for example in rows.examples]
    sizes = Counter(keys)
    weights = np.array([sizes[key] ** -0.5 for key in keys])
    labels = np.array(rows.labels)
    for label in range(len(LABELS)):
        weights[labels == label] *= len(labels) / len(LABELS) / weights[labels == label].sum()
    return weights
