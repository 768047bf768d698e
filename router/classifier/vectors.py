"""Vectors of English words, for training alone: a word that no example holds still has neighbours that do.

`vectors.npz` holds the words, a line each, and for each 64 small integers: what MiniLM (all-MiniLM-L6-v2,
Apache-2.0) makes of the word alone, by its principal components. `python -m benchmarks.accuracy.distil` makes
the file. A fitted model needs no vectors: it keeps each word's product with its weights.
"""

from __future__ import annotations

from pathlib import Path
from zlib import crc32

import numpy as np
from scipy.sparse import csr_matrix

from router.classifier.features import GLYPH_IDF, MEANING_SCALE, Row
from router.classifier.shapes import Floats
from router.classifier.words import BUCKETS, Codes

FILE = Path(__file__).with_name("vectors.npz")


def read(path: Path = FILE) -> tuple[Codes, Floats]:
    """Return (the words' hashes ascending, their vectors in that order); the mean square length is 1."""
    with np.load(path, allow_pickle=False) as arrays:
        words, vectors = arrays["words"].tobytes().split(b"\n"), arrays["vectors"].astype(np.float64)
    codes, first = np.unique(np.array([crc32(word) for word in words], np.uint32), return_index=True)
    vectors = vectors[first]
    return codes, vectors / np.sqrt((vectors**2).sum(axis=1).mean())


def write(path: Path, words: list[str], vectors: Floats) -> None:
    """Write words and their vectors, rounded to 8 bits."""
    rounded = np.round(vectors * (127 / np.abs(vectors).max())).astype(np.int8)
    np.savez_compressed(path, words=np.frombuffer("\n".join(words).encode(), np.uint8), vectors=rounded)


def meanings(rows: list[Row], idf: Floats, known: Codes) -> csr_matrix:
    """Return (rows, known): how much each word that has a vector counts in each row."""
    ends, columns, values = [0], [], []
    for features in rows:
        weights = idf[features.codes & (BUCKETS - 1)]
        at = np.searchsorted(known, features.codes).clip(max=len(known) - 1)
        met = known[at] == features.codes
        total = weights.sum() + GLYPH_IDF * features.glyphs
        columns.append(at[met])
        values.append(weights[met] * (MEANING_SCALE / total) if total else weights[met])
        ends.append(ends[-1] + int(met.sum()))
    found = csr_matrix((np.concatenate(values), np.concatenate(columns), ends), (len(rows), len(known)))
    found.sum_duplicates()
    return found
