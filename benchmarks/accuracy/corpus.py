"""Describe the corpus in figures: `python -m benchmarks.accuracy.corpus`.

Rows per language and label, how many n-grams are distinct, near-duplicates within and across languages, the
commonest beginnings; beside them the same figures of texts made from templates. Prints Markdown for
router/classifier/corpus/README.md; `--write` lays it between that file's two marks.
"""

from __future__ import annotations

import argparse
import random
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from benchmarks.accuracy.checks import messages_of
from benchmarks.accuracy.page import laid, table
from benchmarks.accuracy.rows import Rows, read_rows
from benchmarks.prompts import PROMPTS
from router.classifier import training
from router.classifier.judging import form
from router.classifier.model import LABELS

NEAR = 0.6
GRAM_CHARS = 4
BEGINNING_WORDS = 3
# Scripts that do not put a blank between words; their n-grams are of characters.
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")


def user_text(record: dict[str, Any]) -> str:
    """Return all that the user writes in a row."""
    said = [message["content"] for message in messages_of(record) if message["role"] == "user"]
    return "\n".join(text for text in said if isinstance(text, str))


def words(text: str) -> list[str]:
    """Return the words in lower case; of scripts without blanks the characters."""
    text = unicodedata.normalize("NFKC", text.lower())
    if len(_UNSPACED.findall(text)) > len(text) / 5:
        return [char for char in text if char.isalnum()]
    # Marks belong to the letter before them: an Indic word is not cut at its vowels.
    kept = (char if unicodedata.category(char)[0] in "LNM" or char in "'’" else " " for char in text)
    return "".join(kept).split()


def distinct(texts: Sequence[str], length: int) -> float:
    """Return the share of n-grams of this length that are not a repetition of one before."""
    grams: Counter[tuple[str, ...]] = Counter()
    for text in texts:
        found = words(text)
        grams.update(zip(*(found[n:] for n in range(length)), strict=False))
    return len(grams) / max(1, grams.total())


def near_pairs(texts: Sequence[str]) -> list[tuple[int, int]]:
    """Return the pairs whose four-character sequences overlap by more than 0.6 (Jaccard); letters only."""
    number_of: dict[str, int] = {}
    columns, ends = [], [0]
    for text in texts:
        letters = "".join(char for char in text.lower() if char.isalpha())
        ends_at = max(1, len(letters) - GRAM_CHARS + 1)
        grams = {letters[n : n + GRAM_CHARS] for n in range(ends_at)} if letters else set()
        columns += [number_of.setdefault(gram, len(number_of)) for gram in grams]
        ends.append(len(columns))
    sizes = np.diff(ends)
    held = csr_matrix((np.ones(len(columns), np.int32), columns, ends), (len(texts), len(number_of) or 1))
    shared = (held @ held.T).tocoo()
    close = (shared.row < shared.col) & (
        shared.data > NEAR * (sizes[shared.row] + sizes[shared.col] - shared.data)
    )
    return list(zip(shared.row[close].tolist(), shared.col[close].tolist(), strict=True))


def beginnings(texts: Sequence[str]) -> list[tuple[str, int]]:
    """Return the commonest first three words, and how many texts begin with them."""
    counted = Counter(" ".join(words(text)[:BEGINNING_WORDS]) for text in texts)
    return [(begin, count) for begin, count in counted.most_common(3) if count > 1]


def diversity(texts: Sequence[str]) -> dict[str, Any]:
    """Return shares of distinct 1-, 2- and 3-grams, near pairs and the commonest beginning."""
    pairs = near_pairs(texts)
    common = beginnings(texts)
    return {
        "rows": len(texts),
        **{f"distinct{length}": distinct(texts, length) for length in (1, 2, 3)},
        "near_pairs": len(pairs),
        "in_a_pair": len({number for pair in pairs for number in pair}) / max(1, len(texts)),
        "commonest": common[0] if common else ("-", 1),
    }


def page(rows: Rows, others: Rows) -> str:
    """Return the figures of the corpus as Markdown; `others` are rows to compare with, by their source."""
    texts = [user_text(record) for record in rows.records]
    langs = [example.lang for example in rows.examples]
    pairs = near_pairs(texts)
    across = [pair for pair in pairs if langs[pair[0]] != langs[pair[1]]]
    labels, forms = Counter(rows.labels), Counter(form(prompt) for prompt in rows.prompts)
    counts = ", ".join(f"{labels[n]:,} {label}" for n, label in enumerate(LABELS))
    said = ", ".join(f"{count:,} {name}" for name, count in forms.most_common())
    head = (
        f"{len(rows):,} rows in {len(set(langs))} languages: {counts}. By form: {said}. "
        f"Near-duplicates (more than {NEAR} of the four-letter sequences shared): "
        f"{len(pairs) - len(across)} pairs within a language, {len(across)} across languages."
    )
    note = (
        "¹ Share of the words that do not repeat one before; in Chinese, Japanese and Thai of the characters."
    )
    return "\n\n".join([head, _languages(rows, texts, langs), note, _compared(rows, texts, langs, others)])


def _languages(rows: Rows, texts: Sequence[str], langs: Sequence[str]) -> str:
    lines = []
    for lang, count in sorted(Counter(langs).items(), key=lambda item: (-item[1], item[0])):
        of_lang = [number for number, other in enumerate(langs) if other == lang]
        found = diversity([texts[number] for number in of_lang])
        labels = Counter(rows.examples[number].label for number in of_lang)
        begin, times = found["commonest"]
        shares = [f"{found[f'distinct{length}']:.2f}" for length in (1, 2, 3)]
        commonest = f"{begin} ({times})" if times > 1 else "-"
        by_label = [str(labels[n]) for n in range(len(LABELS))]
        lines.append((lang, str(count), *by_label, *shares, str(found["near_pairs"]), commonest))
    grams = ("distinct words¹", "pairs", "triples")
    return table(("language", "rows", *LABELS, *grams, "near pairs", "commonest beginning"), lines)


def _compared(rows: Rows, texts: Sequence[str], langs: Sequence[str], others: Rows) -> str:
    """Set English rows beside as many made from templates; shares fall with the number of rows."""
    english = [text for text, lang in zip(texts, langs, strict=True) if lang == "en"]
    sets = {"the corpus, English": english, "four sentences with sixteen nouns swapped in": list(PROMPTS)}
    sources = Counter(example.source for example in others.examples if example.lang == "en")
    for source, count in sources.most_common():
        if count >= len(english) and "generator" in source:
            sets[f"{source}, English (templates)"] = [
                user_text(record)
                for record, example in zip(others.records, others.examples, strict=True)
                if example.source == source and example.lang == "en"
            ]
    lines = []
    for size in sorted({len(PROMPTS), len(english)}):
        for name, of in sets.items():
            if len(of) >= size:
                found = diversity(random.Random(0).sample(of, size))
                shares = [f"{found[f'distinct{length}']:.2f}" for length in (1, 2, 3)]
                lines.append((name, str(size), *shares, f"{found['in_a_pair']:.2f}"))
    note = (
        "For comparison, texts that were made from templates, at equal numbers of rows. A sentence "
        "whose nouns are swapped repeats its words and pairs, and looks like its neighbours:"
    )
    head = ("texts", "rows", "distinct words", "pairs", "triples", "share with a near-duplicate")
    return f"{note}\n\n{table(head, lines)}"


def main() -> None:
    """Print the figures, or lay them into the data card."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, nargs="*", default=[], help="rows to compare with, by source")
    parser.add_argument("--pairs", action="store_true", help="print the near-duplicates instead")
    parser.add_argument("--write", action="store_true", help="write into the corpus's README.md")
    given = parser.parse_args()
    rows = read_rows(training.packaged())
    if given.pairs:
        texts = [user_text(record) for record in rows.records]
        for first, second in near_pairs(texts):
            print(f"{texts[first]!r}\n{texts[second]!r}\n")
        return
    written = page(rows, read_rows(given.data))
    if not given.write:
        print(written)
        return
    try:
        laid(training.CORPUS / "README.md", written)
    except ValueError as fault:
        parser.exit(1, f"{fault}\n")


if __name__ == "__main__":
    main()
