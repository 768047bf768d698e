"""From text to tokens: words and signs of spaced scripts, glyphs of the others, concepts of the lexicon.

Long texts are cut at both ends before anything is looked at; scripts without spaces, and Korean with its
glued particles, are read by characters.
"""

from __future__ import annotations

from array import array
from zlib import crc32

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from router.classifier.followups import is_closing
from router.classifier.lexicon import PARTS, STEM, STEMS

# What is asked of a long text stands at one of its ends; on held-out sources, more of both is worse.
HEAD_CHARS, TAIL_CHARS = 300, 300

BUCKETS = 1 << 18  # columns that words, pairs and concepts share

Codes = NDArray[np.uint32]
Integers = NDArray[np.intp]
_CODE = np.dtype(np.uint32)


def code(number: int) -> Codes:
    """Return an array without dimensions: numpy converts a scalar anew in each operation, 0.15 us."""
    return np.array(number, np.uint32)


# A pair is hashed by its members, multiplied apart so that the order counts.
MIX_FIRST, MIX_BOTH = code(0x9E3779B1), code(0x85EBCA6B)
LOW_BITS = code(BUCKETS - 1)
_BLANK = np.uint32(32)
_NO_GLYPHS: Codes = np.empty(0, np.uint32)

_SIGNS = b"{}()[]<>=;:+*/^%$#@&|\\?`~-!"


def _word_table() -> bytes:
    table = bytearray(range(256))
    for byte in range(0x80):
        char = chr(byte).lower()
        table[byte] = ord(char)
        if char.isdigit():
            table[byte] = ord("0")
        elif not (char.isalnum() or char in "_'" or byte in _SIGNS):
            table[byte] = ord(" ")
    return bytes(table)


_WORD_TABLE = _word_table()
_NO_SIGNS = bytes(byte for byte in range(256) if byte not in _SIGNS)
_APART = {sign: (b"%c" % sign, b" %c " % sign) for sign in _SIGNS}
_FOREIGN_BREAKS = (
    "\u3000\u3001\u3002\uff0c\uff01\uff1a\uff1b\u201c\u201d\u00ab"
    "\u00bb\u00bf\u00a1\u2026\u060c\u0964\u2013\u2014\u00a0"
)
_FOREIGN_SIGNS = {"\uff1f": "?", "\u061f": "?", "\u2019": "'", "\uff08": "(", "\uff09": ")"}


def _foreign() -> list[tuple[bytes, list[tuple[bytes, bytes]]]]:
    """Return (first byte, [(mark, what it is read as)]): a text holds few of the bytes marks begin with."""
    plain = dict.fromkeys(_FOREIGN_BREAKS, " ") | _FOREIGN_SIGNS
    pairs = [(mark.encode(), sign.encode()) for mark, sign in plain.items()]
    return [
        (first, [pair for pair in pairs if pair[0][:1] == first]) for first in {mark[:1] for mark, _ in pairs}
    ]


_FOREIGN = _foreign()

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


def _glyph_table() -> NDArray[np.bool_]:
    table = np.zeros(0x10000, bool)
    for first, last in _GLYPHS:
        table[first : last + 1] = True
    return table


_IS_GLYPH = _glyph_table()

CONCEPT_NAMES = {
    crc32(b"\x01" + name.encode()): name for name in {"closing"}.union(*STEMS.values(), *PARTS.values())
}
_CONCEPT_CODES = {name: number for number, name in CONCEPT_NAMES.items()}
_CLOSING = _CONCEPT_CODES["closing"]
# How blanks begin that only Unicode knows: thin ones, ends of lines and paragraphs.
_BLANKS, _NEXT_LINE = b"\xe2\x80", b"\xc2\x85"


class Vocabulary(Struct, frozen=True, gc=False):
    """Hold words that mean something: their hashes ascending, each with the number of its concepts.

    `may_hold` tells for each column whether any word has it. The last hash is no word's: it keeps the
    position after the largest inside the arrays.
    """

    codes: Codes
    concepts: NDArray[np.uint16]
    may_hold: NDArray[np.bool_]

    @classmethod
    def of(cls, codes: Codes, concepts: NDArray[np.uint16]) -> Vocabulary:
        """Return the vocabulary of these hashes, ascending, and the numbers of their concepts."""
        may_hold = np.zeros(BUCKETS, bool)
        may_hold[codes & LOW_BITS] = True
        return cls(codes, concepts, may_hold)

    def with_words(self, codes: Codes) -> Vocabulary:
        """Return a vocabulary that has these words as well, ascending; new ones have no concept."""
        joined = np.sort(np.concatenate((self.codes, codes)))
        joined = joined[np.append(joined[1:] != joined[:-1], True)]
        concepts = np.zeros(len(joined), np.uint16)
        concepts[joined.searchsorted(self.codes)] = self.concepts
        return self.of(joined, concepts)


class Words(Struct, frozen=True, gc=False):
    """Hold the tokens of a text: `words` as UTF-8, `glyphs` as code points (32 ends a run).

    `codes` are the words' hashes, `columns` their low bits, `known` the positions in the vocabulary of those
    that it holds; `concepts` are the hashes of the lexicon's concepts.
    """

    words: list[bytes]
    codes: Codes
    columns: Codes
    known: Integers
    glyphs: Codes
    concepts: set[int]


def cut(text: str) -> str:
    """Return the head and the tail of a long text; what is asked stands at one of them."""
    if len(text) <= HEAD_CHARS + TAIL_CHARS:
        return text
    return text[:HEAD_CHARS] + "\n" + text[-TAIL_CHARS:]


def tokens(text: str, vocabulary: Vocabulary) -> Words:
    """Split into lower-case words and signs, digits as 0, and into glyphs; look the words up."""
    raw, glyphs = _spaced(text)
    found = raw.split()
    # Hashed each time: with a memo of words (hash, concepts, meaning) a text that is met once takes 7 to 39 %
    # longer. By way of `array`: `np.fromiter` takes 1 us longer over a short text.
    codes = np.frombuffer(array("I", [*map(crc32, found + _beginnings(raw, found))]), _CODE)
    columns, n = codes & LOW_BITS, len(found)
    # A dictionary takes 0.3 us for each word that it holds: four misses of the cache, one after the other.
    maybe = vocabulary.may_hold.take(columns)
    asked = codes[maybe]
    at = vocabulary.codes.searchsorted(asked)
    held = vocabulary.codes.take(at) == asked
    concepts = _united(vocabulary.concepts.take(at[held]))
    if len(glyphs):
        concepts |= _part_concepts(glyphs)
    if is_closing(text):
        concepts.add(_CLOSING)
    whole = np.count_nonzero(maybe[:n])
    return Words(found, codes[:n], columns[:n], at[:whole][held[:whole]], glyphs, concepts)


def _spaced(text: str) -> tuple[bytes, Codes]:
    """Return (words and signs with blanks between them, glyphs)."""
    glyphs = _NO_GLYPHS
    if text.isascii():
        raw = text.encode()  # the table has the lower case
    else:
        raw = text.lower().encode("utf-8", "surrogatepass")
        for first, marks in _FOREIGN:
            if first in raw:
                for mark, sign in marks:
                    raw = raw.replace(mark, sign)
        if raw.translate(None, _NO_GLYPH_STARTS):
            raw, glyphs = _split_glyphs(raw)
    raw = raw.translate(_WORD_TABLE)
    for byte in set(raw.translate(None, _NO_SIGNS)):
        raw = raw.replace(*_APART[byte])
    return raw, glyphs


def _split_glyphs(raw: bytes) -> tuple[bytes, Codes]:
    """Return (the text without glyphs, the glyphs' code points with 32 for what is between)."""
    text = raw.decode("utf-8", "surrogatepass")
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), _CODE)
    mask = _IS_GLYPH.take(points, mode="clip")  # the last code point of the table is no glyph
    if not mask.any():
        return raw, _NO_GLYPHS
    spaced = np.where(mask, _BLANK, points).tobytes().decode("utf-32-le", "surrogatepass")
    kept = mask.copy()
    kept[1:] |= mask[:-1]
    glyphs = np.where(mask, points, _BLANK)[kept]
    return spaced.encode("utf-8", "surrogatepass"), glyphs


def _beginnings(raw: bytes, found: list[bytes]) -> list[bytes]:
    """Return the first `STEM` characters of each longer word; half of all words are not cut."""
    if raw.isascii():
        return [word[:STEM] for word in found if len(word) > STEM]
    if _BLANKS in raw or _NEXT_LINE in raw:  # inside words they part what the lexicon is asked for
        return [word[:STEM].encode() for word in raw.decode("utf-8", "replace").split()]
    longer = b" ".join([word for word in found if len(word) > STEM])
    return [word[:STEM].encode() for word in longer.decode("utf-8", "replace").split() if len(word) > STEM]


def _united(numbers: NDArray[np.uint16]) -> set[int]:
    """Return the hashes of concepts by numbers of `_CONCEPTS`."""
    return set().union(*map(_CONCEPTS.__getitem__, numbers.tolist()))


def _part_concepts(glyphs: Codes) -> set[int]:
    """Return the hashes of the concepts whose parts stand among the glyphs."""
    codes = np.concatenate(_grams(glyphs))
    # Few can be a part's; without those that cannot, 500 glyphs take 12 us instead of 21.
    codes = codes[_PARTS.may_hold.take(codes & LOW_BITS)]
    at = _PARTS.codes.searchsorted(codes)
    return _united(_PARTS.concepts.take(at[_PARTS.codes.take(at) == codes]))


def _grams(points: Codes) -> tuple[Codes, Codes, Codes]:
    """Return the hashes of every single glyph, every pair and every three in a row."""
    pairs = (points[:-1] * MIX_FIRST) ^ points[1:]
    pairs *= MIX_BOTH
    triples = (pairs[:-1] * MIX_FIRST) ^ points[2:]
    triples *= MIX_BOTH
    return points, pairs, triples


def _parts() -> dict[int, tuple[str, ...]]:
    """Return the hashes of the lexicon's parts, each with its concepts; a part counts up to 3 glyphs."""
    named: dict[int, tuple[str, ...]] = {}
    for part, names in PARTS.items():
        points = np.frombuffer(part[:3].encode("utf-32-le"), np.uint32)
        named.setdefault(int(_grams(points)[len(points) - 1][0]), names)
    return named


def _vocabulary(named: dict[int, tuple[str, ...]]) -> Vocabulary:
    """Return a vocabulary of hashes and the names of their concepts."""
    codes = [*sorted(named), 2**32 - 1]
    numbers = [_NUMBERS[named.get(found, ())] for found in codes]
    return Vocabulary.of(np.array(codes, np.uint32), np.array(numbers, np.uint16))


# Many words have the same concepts: what is looked at is little, and stays in the cache.
_NUMBERS = {
    names: number for number, names in enumerate(dict.fromkeys([(), *STEMS.values(), *PARTS.values()]))
}
_CONCEPTS = [tuple(map(_CONCEPT_CODES.__getitem__, names)) for names in _NUMBERS]
LEXICON = _vocabulary({crc32(stem.encode()): names for stem, names in STEMS.items()})
_PARTS = _vocabulary(_parts())
