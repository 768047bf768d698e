"""From a prompt to numbers: hashed words and pairs, concepts of the lexicon, shape, and what was said before.

One row is three blocks. The first `BUCKETS` columns are words, signs of operators, neighbouring pairs and
concepts, hashed with CRC-32 (Python's own `hash` differs from process to process): 1 + log(count), times the
column's inverse document frequency, scaled to length 1. In a conversation the words of the last message and
of the answer before it count once more, in columns of their own: "thanks" after a proof asks for nothing.
The next `SHAPES` columns describe the form (`shapes`). The last block is the meaning of the words that have
a vector (`vectors`): their mean by the same frequencies, over all words, known or not.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from itertools import pairwise
from zlib import crc32

import numpy as np
from msgspec import Struct

from router.classifier.followups import is_closing, is_continuation
from router.classifier.lexicon import DIGEST, STEM
from router.classifier.prompt import ANSWER_CHARS, Prompt
from router.classifier.shapes import SHAPE_SCALE, SHAPES, Floats, shape
from router.classifier.words import (
    BUCKETS,
    CONCEPT_NAMES,
    HEAD_CHARS,
    LEXICON,
    LOW_BITS,
    MIX_BOTH,
    MIX_FIRST,
    TAIL_CHARS,
    Codes,
    Integers,
    Vocabulary,
    Words,
    code,
    cut,
    tokens,
)

LAST_CHARS = 600  # of the last message, in columns of its own
# How much the meaning weighs against the words, and what a glyph without a vector counts among them.
MEANING_SCALE = 1.75
GLYPH_IDF = 3.0

_CODE = np.dtype(np.uint32)
_HIGH_SHIFT = code(14)
# No column; sorted, they stand at both ends and make every run of equal columns begin and end inside.
_BEFORE, _AFTER = np.array([-1]), np.array([BUCKETS])
# The same word in the last message and in the answer before it: its hash, moved.
_LAST, _ANSWER = code(0x5BD1E995), code(0x2545F491)
_PLACES = ((_LAST, "last"), (_ANSWER, "answer"))
_UP_TO_CHARS = (6, 12, 25, 60, 150)
_FLAGS = ("code", "unanswered", "continues", "closes", "asks", *(f"length {n}" for n in range(6)))
_FLAG_CODES = {name: crc32(b"\x02" + name.encode()) for name in _FLAGS}
# More columns than any prompt has: what a character can add, a letter that grows in lower case included.
_MOST_CHARS = HEAD_CHARS + TAIL_CHARS + LAST_CHARS + ANSWER_CHARS + 1
MOST_COLUMNS = 2 * 3 * _MOST_CHARS + 3 * len(CONCEPT_NAMES) + len(_FLAGS)


class Row(Struct, frozen=True, gc=False):
    """Hold one prompt: `columns` ascending and `counts` of the hashed block, `shape` of the dense one.

    `codes` are the words' hashes, `words` their columns, `known` the places in the vocabulary of those that
    it holds; `glyphs` is how many can have no vector.
    """

    columns: Integers
    counts: Integers
    shape: Floats
    codes: Codes
    words: Codes
    known: Integers
    glyphs: int


def joined(prompt: Prompt) -> str:
    """Return the text that is classified: the task that a follow-up continues stands before it."""
    return f"{prompt.context}\n{prompt.text}" if prompt.context else prompt.text


def row(prompt: Prompt, vocabulary: Vocabulary = LEXICON) -> Row:
    """Return the features of a prompt; the vocabulary has at least the lexicon's words."""
    text = cut(joined(prompt))
    found = tokens(text, vocabulary)
    parts = _columns(found)
    if prompt.talk:
        parts += _talk_columns(prompt)
    columns, counts = _counted(parts)
    shaped = shape(text, len(found.words))
    return Row(columns, counts, shaped, found.codes, found.columns, found.known, len(found.glyphs))


def _counted(parts: list[Codes]) -> tuple[Integers, Integers]:
    """Return (columns ascending, how often each occurs)."""
    columns = np.concatenate((_BEFORE, *parts, _AFTER), dtype=np.intp)
    columns.sort()
    before = (columns[1:] != columns[:-1]).nonzero()[0]
    return columns[1:][before[:-1]], before[1:] - before[:-1]


def named_columns(prompt: Prompt) -> list[tuple[str, int]]:
    """Return what `row` counts, each with its column: for people who ask why."""
    found = tokens(cut(joined(prompt)), LEXICON)
    named = list(zip(_names(found), np.concatenate(_columns(found)).tolist(), strict=True))
    for (_, place), part, columns in zip(_PLACES, _talk_parts(prompt), _talk_columns(prompt), strict=False):
        said = [*_plain_names(part), *_pair_names(part)]
        named += [(f"{place}:{name}", column) for name, column in zip(said, columns.tolist(), strict=True)]
    flags = _flags(prompt)
    named += zip([f"conversation:{name}" for name in flags], _flag_columns(flags).tolist(), strict=True)
    return [(name, column) for name, column in named if name.strip()]


def _plain_names(found: Words) -> list[str]:
    words = [word.decode("utf-8", "replace") for word in found.words]
    return [*words, *(f"concept:{name}" for name in map(CONCEPT_NAMES.__getitem__, found.concepts))]


def _pair_names(found: Words) -> list[str]:
    return list(map("".join, pairwise(map(chr, found.glyphs.tolist()))))


def _names(found: Words) -> list[str]:
    words = [word.decode("utf-8", "replace") for word in found.words]
    beginnings = [f"first:{words[0]}", f"first:{' '.join(words[:2])}"] if words else []
    glyphs = list(map(chr, found.glyphs.tolist()))
    return [*_plain_names(found), *beginnings, *map(" ".join, pairwise(words)), *glyphs, *_pair_names(found)]


def _columns(found: Words) -> list[Codes]:
    """Return the columns of words; concepts, beginnings; word pairs; glyphs; glyph pairs."""
    words = found.words
    others = [*found.concepts]
    if words:
        others += (crc32(b"^" + words[0]), crc32(b"^".join(words[:2])))
    parts = [found.columns, _listed(others) & LOW_BITS, _pairs(found.codes)]
    if len(found.glyphs):
        parts += [(found.glyphs * MIX_BOTH) >> _HIGH_SHIFT, _pairs(found.glyphs)]
    return parts


def _listed(codes: Iterable[int]) -> Codes:
    # By way of `array`: `np.fromiter` takes 1 us longer over a short text.
    return np.frombuffer(array("I", codes), _CODE)


def _pairs(codes: Codes) -> Codes:
    pairs = codes[:-1] * MIX_FIRST
    pairs ^= codes[1:]
    pairs *= MIX_BOTH
    pairs >>= _HIGH_SHIFT
    return pairs


def _talk_parts(prompt: Prompt) -> list[Words]:
    """Return the tokens of the last message and of the answer before it; nothing outside a conversation."""
    if not prompt.talk:
        return []
    return [tokens(text, LEXICON) for text in (prompt.text[:LAST_CHARS], prompt.answer)]


def _talk_columns(prompt: Prompt) -> list[Codes]:
    """Return the columns that only a conversation has: of the last message, the answer, and flags."""
    parts = _talk_parts(prompt)
    columns = [_moved(found, place) for found, (place, _) in zip(parts, _PLACES, strict=False)]
    if parts:
        columns.append(_flag_columns(_flags(prompt)))
    return columns


def _moved(found: Words, place: Codes) -> Codes:
    """Return the columns of words, concepts and glyph pairs at a place of the conversation."""
    codes = [found.codes, _listed(found.concepts)]
    if len(found.glyphs) > 1:
        codes.append(_pairs(found.glyphs))
    moved = np.concatenate(codes) ^ place
    moved *= MIX_BOTH
    moved >>= _HIGH_SHIFT
    return moved


def _flags(prompt: Prompt) -> list[str]:
    """Return what is said of the last message and of the answer before it."""
    if not prompt.talk:
        return []
    text = prompt.text
    flags = [f"length {sum(len(text) > most for most in _UP_TO_CHARS)}"]
    if not prompt.answer:
        flags.append("unanswered")
    elif "```" in prompt.answer:
        flags.append("code")
    if is_continuation(text):
        flags.append("continues")
    if is_closing(text):
        flags.append("closes")
    if "?" in text or "\uff1f" in text:
        flags.append("asks")
    return flags


def _flag_columns(flags: list[str]) -> Codes:
    return np.array([_FLAG_CODES[name] for name in flags], np.uint32) & LOW_BITS


def fingerprint() -> str:
    """Return 8 hex that change when the lexicon or the bounds do: weights of other features are refused."""
    bounds = (BUCKETS, SHAPES, SHAPE_SCALE, HEAD_CHARS, TAIL_CHARS, LAST_CHARS, ANSWER_CHARS)
    scales = (_UP_TO_CHARS, MEANING_SCALE, GLYPH_IDF)
    return f"{crc32(repr((*bounds, *scales, STEM, DIGEST)).encode()):08x}"
