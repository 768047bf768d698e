"""From text to tokens: words and signs of spaced scripts, glyphs of the others, concepts of the lexicon.

Long texts are cut at both ends before anything is looked at; scripts without spaces, and Korean with its
glued particles, are read by characters.
"""

from __future__ import annotations

from itertools import chain
from typing import AnyStr

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from router.classifier.followups import is_closing
from router.classifier.lexicon import PARTS, STEM, STEMS

# What is asked of a long text stands at one of its ends; on held-out sources, more of both is worse.
HEAD_CHARS, TAIL_CHARS = 300, 300

Codes = NDArray[np.uint32]
_CODE = np.dtype(np.uint32)


def code(number: int) -> Codes:
    """Return an array without dimensions: numpy converts a scalar anew in each operation, 0.15 us."""
    return np.array(number, np.uint32)


# A pair is hashed by its members, multiplied apart so that the order counts.
MIX_FIRST, MIX_BOTH = code(0x9E3779B1), code(0x85EBCA6B)
# A sieve for parts of the lexicon: the low bits of a hash.
_SIEVE = code((1 << 16) - 1)
_BLANK = np.uint32(32)
_NO_GLYPHS: Codes = np.empty(0, np.uint32)

_SIGNS = b"{}()[]<>=;:+*/^%$#@&|\\?`~-!"


def _word_table() -> bytes:
    table = bytearray(range(256))
    for byte in range(0x80):
        char = chr(byte)
        if char.isdigit():
            table[byte] = ord("0")
        elif not (char.isalnum() or char in "_'" or byte in _SIGNS):
            table[byte] = ord(" ")
    return bytes(table)


_WORD_TABLE = _word_table()
_NO_SIGNS = bytes(byte for byte in range(256) if byte not in _SIGNS)
_FOREIGN_BREAKS = tuple(
    "\u3000\u3001\u3002\uff0c\uff01\uff1a\uff1b\u201c\u201d\u00ab\u00bb\u00bf\u00a1\u2026\u060c\u0964\u2013\u2014\u00a0"
)
_FOREIGN_SIGNS = (("\uff1f", "?"), ("\u061f", "?"), ("\u2019", "'"), ("\uff08", "("), ("\uff09", ")"))

# Ranges of code points that are read one by one: Thai, Lao, Burmese, Khmer, kana, Han, Hangul.
_GLYPHS = (
    (0x0E01, 0x0EFF),
    (0x1000, 0x109F),
    (0x1780, 0x17FF),
    (0x3041, 0x30FF),
    (0x3400, 0x9FFF),
    (0xAC00, 0xD7AF),
)

# First bytes in UTF-8 that a glyph can have; most texts have none and are not looked at further.
_NO_GLYPH_STARTS = bytes(byte for byte in range(256) if byte not in (0xE0, 0xE1, *range(0xE3, 0xEE)))

_LAST_POINT = np.uint32(0xFFFF)


def _glyph_table() -> NDArray[np.bool_]:
    table = np.zeros(0x10000, bool)
    for first, last in _GLYPHS:
        table[first : last + 1] = True
    return table


_IS_GLYPH = _glyph_table()

_STEM_SET = frozenset(STEMS)
# Most texts are ASCII, their words are looked up as they are.
_ASCII_CONCEPTS = {stem.encode(): concepts for stem, concepts in STEMS.items() if stem.isascii()}
_ASCII_STEM_SET = frozenset(_ASCII_CONCEPTS)
CONCEPTS = frozenset({"closing"}.union(*STEMS.values(), *PARTS.values()))


class Words(Struct, frozen=True, gc=False):
    """Hold the tokens of a text: `words` as UTF-8, `glyphs` as code points (32 ends a run)."""

    words: list[bytes]
    glyphs: Codes
    concepts: list[str]


def cut(text: str) -> str:
    """Return the head and the tail of a long text; what is asked stands at one of them."""
    if len(text) <= HEAD_CHARS + TAIL_CHARS:
        return text
    return text[:HEAD_CHARS] + "\n" + text[-TAIL_CHARS:]


def tokens(text: str) -> Words:
    """Split into lower-case words and signs, digits as 0, and into glyphs."""
    spaced, glyphs = text.lower(), _NO_GLYPHS
    if not spaced.isascii():
        for char in _FOREIGN_BREAKS:
            spaced = spaced.replace(char, " ")
        for char, plain in _FOREIGN_SIGNS:
            spaced = spaced.replace(char, plain)
        if spaced.encode("utf-8", "surrogatepass").translate(None, _NO_GLYPH_STARTS):
            spaced, glyphs = _split_glyphs(spaced)
    raw = spaced.encode("utf-8", "surrogatepass").translate(_WORD_TABLE)
    for sign in set(raw.translate(None, _NO_SIGNS)):
        raw = raw.replace(b"%c" % sign, b" %c " % sign)
    found = raw.split()
    concepts = _concepts(text, raw, found, glyphs)
    return Words(found, glyphs, concepts)


def _split_glyphs(text: str) -> tuple[str, Codes]:
    """Return (the text without glyphs, the glyphs' code points with 32 for what is between)."""
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), _CODE)
    mask = _IS_GLYPH[np.minimum(points, _LAST_POINT)]
    if not mask.any():
        return text, _NO_GLYPHS
    spaced = np.where(mask, _BLANK, points).tobytes().decode("utf-32-le", "surrogatepass")
    kept = mask.copy()
    kept[1:] |= mask[:-1]
    glyphs = np.where(mask, points, _BLANK)[kept]
    return spaced, glyphs


def _concepts(text: str, raw: bytes, found: list[bytes], glyphs: Codes) -> list[str]:
    """Return the names of the lexicon's concepts that the text holds, in any order."""
    if raw.isascii():
        stems = map(_ASCII_CONCEPTS.__getitem__, _met(_ASCII_STEM_SET, found))
    else:
        stems = map(STEMS.__getitem__, _met(_STEM_SET, raw.decode("utf-8", "replace").split()))
    met = set(chain.from_iterable(stems))
    if len(glyphs):
        codes = np.concatenate(_grams(glyphs))
        # Few can be a part's; without those that cannot, 500 glyphs take 12 us instead of 21.
        codes = codes[_MAY_BE_PART[codes & _SIEVE]]
        at = np.searchsorted(_PART_CODES, codes)
        for number in set(at[_PART_CODES[at] == codes].tolist()):
            met.update(_PART_CONCEPTS[number])
    if is_closing(text):
        met.add("closing")
    return list(met)


def _met(stems: frozenset[AnyStr], words: list[AnyStr]) -> frozenset[AnyStr]:
    """Return the stems that words begin with; half of all words are their own, and are not cut."""
    beginnings = [word[:STEM] for word in words if len(word) > STEM]
    return stems.intersection(words) | stems.intersection(beginnings)


def _grams(points: Codes) -> tuple[Codes, Codes, Codes]:
    """Return the hashes of every single glyph, every pair and every three in a row."""
    pairs = (points[:-1] * MIX_FIRST) ^ points[1:]
    pairs *= MIX_BOTH
    triples = (pairs[:-1] * MIX_FIRST) ^ points[2:]
    triples *= MIX_BOTH
    return points, pairs, triples


def _part_codes() -> tuple[Codes, list[tuple[str, ...]]]:
    """Return (hashes ascending, their concepts) of the lexicon's parts; a part counts up to 3 glyphs."""
    concepts_of: dict[int, tuple[str, ...]] = {}
    for part, concepts in PARTS.items():
        points = np.frombuffer(part[:3].encode("utf-32-le"), np.uint32)
        concepts_of.setdefault(int(_grams(points)[len(points) - 1][0]), concepts)
    codes = sorted(concepts_of)
    # The last entry is met by nothing: it keeps the position after the largest hash inside the array.
    return np.array([*codes, 2**32 - 1], np.uint32), [*map(concepts_of.__getitem__, codes), ()]


_PART_CODES, _PART_CONCEPTS = _part_codes()
_MAY_BE_PART = np.zeros(1 << 16, bool)
_MAY_BE_PART[_PART_CODES & _SIEVE] = True
