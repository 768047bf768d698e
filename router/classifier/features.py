"""From text to numbers: hashed words and pairs, concepts of the lexicon, and the shape of the text.

One row is two blocks. The first `BUCKETS` columns are words, signs of operators and neighbouring pairs,
hashed with CRC-32 (Python's own `hash` differs from process to process): 1 + log(count), times the column's
inverse document frequency, scaled to length 1. The last `SHAPES` columns describe the form: characters by
kind, neighbouring kinds (a letter before a bracket, a digit before an operator), lists, code fences, length.
Scripts without spaces, and Korean with its glued particles, are read by characters and character pairs.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from itertools import pairwise
from math import log1p, sqrt
from operator import itemgetter
from zlib import crc32

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from router.classifier.followups import is_closing
from router.classifier.lexicon import PARTS, STEM, STEMS

BUCKETS = 1 << 18
HEAD_CHARS, TAIL_CHARS = 2_000, 2_000
HEAD_WORDS, TAIL_WORDS = 300, 300
HEAD_GLYPHS, TAIL_GLYPHS = 300, 300

Integers = NDArray[np.intp]
Floats = NDArray[np.float64]
Codes = NDArray[np.uint32]
_BYTE, _CODE = np.dtype(np.uint8), np.dtype(np.uint32)


def _code(number: int) -> Codes:
    # An array without dimensions: numpy converts a scalar anew in each operation, 0.15 us.
    return np.array(number, np.uint32)


# A pair's column: the upper 18 bits of both hashes, multiplied apart so that the order counts.
_MIX_FIRST, _MIX_BOTH = _code(0x9E3779B1), _code(0x85EBCA6B)
_LOW_BITS, _HIGH_SHIFT = _code(BUCKETS - 1), _code(14)
# No column; sorted, they stand at both ends and make every run of equal columns begin and end inside.
_BEFORE, _AFTER = np.array([-1]), np.array([BUCKETS])

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

_LOWER, _UPPER, _DIGIT, _SPACE, _LINE, _UNDER, _DOT, _OPEN, _SLASH, _DASH, _OPERATOR, _BACK, _BEYOND = range(
    1, 14
)
_CLASSES = 16  # as many as fit twice into a byte
_CLASS_BYTES: tuple[tuple[int, bytes], ...] = (
    (_LOWER, b"abcdefghijklmnopqrstuvwxyz"),
    (_UPPER, b"ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
    (_DIGIT, b"0123456789"),
    (_SPACE, b" \t"),
    (_LINE, b"\n"),
    (_UNDER, b"_"),
    (_DOT, b"."),
    (_OPEN, b"("),
    (_SLASH, b"/"),
    (_DASH, b"-"),
    (_OPERATOR, b"=+*<>^%|&"),
    (_BACK, b"\\"),
    (_BEYOND, bytes(range(0x80, 0x100))),
)
_NEIGHBOURS: tuple[tuple[tuple[int, int], ...], ...] = (
    ((_LOWER, _UPPER),),
    ((_UNDER, _LOWER), (_UNDER, _UPPER)),
    ((_LOWER, _OPEN),),
    ((_DOT, _LOWER),),
    ((_SLASH, _LOWER), (_LOWER, _SLASH), (_SLASH, _DOT)),
    ((_SPACE, _DASH), (_DASH, _DASH)),
    ((_DASH, _LOWER),),
    ((_LINE, _DASH), (_LINE, _DIGIT)),
    ((_LINE, _SPACE),),
    ((_LINE, _LINE),),
    ((_DIGIT, _OPERATOR), (_OPERATOR, _DIGIT)),
    ((_LOWER, _DIGIT), (_UPPER, _DIGIT)),
    ((_SPACE, _DIGIT),),
    ((_SPACE, _UPPER),),
    ((_UPPER, _UPPER),),
    ((_BACK, _LOWER),),
    ((_OPERATOR, _OPERATOR),),
    ((_SLASH, _SLASH),),
)
_KINDS: tuple[bytes, ...] = (
    *(bytes([byte]) for byte in b"\n=;`?!.,_#$\\@|:-"),
    b"0123456789",
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    b"{}",
    b"()",
    b"[]",
    b"<>",
    b"+*/^%",
    b"\"'",
    bytes(range(0xC3, 0xCB)),
    b"\xce\xcf",
    b"\xd0\xd1",
    b"\xd7",
    bytes(range(0xD8, 0xDC)),
    b"\xe0",
    b"\xe3",
    bytes(range(0xE4, 0xEA)),
    bytes(range(0xEA, 0xEE)),
)
_MARKS = ("```", "Error", "Exception")
_LENGTHS = (20, 40, 80, 160, 320, 640, 1280, 2560)
_K, _N, _M, _L = len(_KINDS), len(_NEIGHBOURS), len(_MARKS), len(_LENGTHS)
SHAPES = 2 * _K + _N + _M + _L + 2
# How much the shape weighs against the words; chosen on held-out sources.
SHAPE_SCALE = 0.1


def _class_tables() -> tuple[bytes, bytes]:
    """Return byte -> class, and byte -> 16 * class; 0 is none of them."""
    classes = np.zeros(256, np.uint8)
    for number, members in _CLASS_BYTES:
        classes[list(members)] = number
    return classes.tobytes(), (classes * _CLASSES).tobytes()


def _kind_tables() -> tuple[bytes, bytes]:
    """Return byte -> kind, and the bytes that are of no kind."""
    kinds = dict.fromkeys(range(256), 0) | {
        byte: number for number, members in enumerate(_KINDS) for byte in members
    }
    counted = b"".join(_KINDS)
    return bytes(kinds.values()), bytes(byte for byte in range(256) if byte not in counted)


def _neighbour_tables() -> tuple[bytes, bytes]:
    """Return 16 * class + next class -> number of kinds + neighbourhood, and the pairs that are none."""
    numbers = {
        first * _CLASSES + second: _K + number
        for number, pairs in enumerate(_NEIGHBOURS)
        for first, second in pairs
    }
    table = bytes(numbers.get(pair, 0) for pair in range(256))
    return table, bytes(pair for pair in range(256) if pair not in numbers)


_CLASS_OF, _CLASS_AS_FIRST = _class_tables()
_KIND_OF, _NO_KIND = _kind_tables()
_NEIGHBOUR_OF, _NO_NEIGHBOUR = _neighbour_tables()

# What the shape needs of a count, looked up: 0.2 us, where numpy's log1p and sqrt of integers take 1.7 each.
_MOST_BYTES = 4 * (HEAD_CHARS + TAIL_CHARS + 1)
_LOGS = SHAPE_SCALE * np.log1p(np.arange(_MOST_BYTES + 1))
_ROOTS = SHAPE_SCALE * np.sqrt(16 * np.arange(_MOST_BYTES + 1))
_LONGER_THAN = SHAPE_SCALE * np.tri(_L + 1, _L, -1)

_STEM_OF = itemgetter(slice(STEM))
_STEM_SET = frozenset(STEMS)
# Most texts are ASCII, their words are looked up as they are.
_ASCII_CONCEPTS = {stem.encode(): concept for stem, concept in STEMS.items() if stem.isascii()}
_ASCII_STEM_SET = frozenset(_ASCII_CONCEPTS)
_CONCEPT_CODES = {
    name: crc32(b"\x01" + name.encode()) for name in {*STEMS.values(), *dict(PARTS).values(), "closing"}
}
# More columns than any text has: words and glyphs, their pairs, concepts, two beginnings.
MOST_COLUMNS = 2 * (HEAD_WORDS + TAIL_WORDS + HEAD_GLYPHS + TAIL_GLYPHS + 1) + len(_CONCEPT_CODES)


class Words(Struct, frozen=True, gc=False):
    """Hold the tokens of a text: `words` as UTF-8, `glyphs` as code points (32 ends a run)."""

    words: list[bytes]
    glyphs: Codes
    concepts: list[str]


class Row(Struct, frozen=True, gc=False):
    """Hold one text: `columns` ascending and `counts` of the hashed block, `shape` of the dense one."""

    columns: Integers
    counts: Integers
    shape: Floats


def cut(text: str) -> str:
    """Return the head and the tail of a long text; what is asked stands at one of them."""
    if len(text) <= HEAD_CHARS + TAIL_CHARS:
        return text
    return text[:HEAD_CHARS] + "\n" + text[-TAIL_CHARS:]


def tokens(text: str) -> Words:
    """Split into lower-case words and signs, digits as 0, and into glyphs; both are bounded."""
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
    if len(found) > HEAD_WORDS + TAIL_WORDS:
        del found[HEAD_WORDS:-TAIL_WORDS]
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
    if len(glyphs) > HEAD_GLYPHS + TAIL_GLYPHS:
        glyphs = np.concatenate((glyphs[:HEAD_GLYPHS], glyphs[-TAIL_GLYPHS:]))
    return spaced, glyphs


def _concepts(text: str, raw: bytes, found: list[bytes], glyphs: Codes) -> list[str]:
    """Return the names of the lexicon's concepts that the text holds, sorted."""
    if raw.isascii():
        met = {_ASCII_CONCEPTS[stem] for stem in _ASCII_STEM_SET.intersection(map(_STEM_OF, set(found)))}
    else:
        words = set(raw.decode("utf-8", "replace").split())
        met = {STEMS[stem] for stem in _STEM_SET.intersection(map(_STEM_OF, words))}
    if len(glyphs):
        codes = np.concatenate(_grams(glyphs))
        # Few can be a part's; without those that cannot, 500 glyphs take 12 us instead of 21.
        codes = codes[_MAY_BE_PART[codes & _LOW_BITS]]
        at = np.searchsorted(_PART_CODES, codes)
        met.update(_PART_CONCEPTS[number] for number in set(at[_PART_CODES[at] == codes].tolist()))
    if is_closing(text):
        met.add("closing")
    return sorted(met)


def _grams(points: Codes) -> tuple[Codes, Codes, Codes]:
    """Return the hashes of every single glyph, every pair and every three in a row."""
    pairs = (points[:-1] * _MIX_FIRST) ^ points[1:]
    pairs *= _MIX_BOTH
    triples = (pairs[:-1] * _MIX_FIRST) ^ points[2:]
    triples *= _MIX_BOTH
    return points, pairs, triples


def _part_codes() -> tuple[Codes, list[str]]:
    """Return (hashes ascending, their concepts) of the lexicon's parts; a part counts up to 3 glyphs."""
    concept_of: dict[int, str] = {}
    for part, concept in PARTS:
        points = np.frombuffer(part[:3].encode("utf-32-le"), np.uint32)
        concept_of.setdefault(int(_grams(points)[len(points) - 1][0]), concept)
    codes = sorted(concept_of)
    # The last entry is met by nothing: it keeps the position after the largest hash inside the array.
    return np.array([*codes, 2**32 - 1], np.uint32), [*(concept_of[code] for code in codes), "none"]


_PART_CODES, _PART_CONCEPTS = _part_codes()
_MAY_BE_PART = np.zeros(BUCKETS, bool)
_MAY_BE_PART[_PART_CODES & _LOW_BITS] = True


def hashed(found: Words) -> tuple[Integers, Integers]:
    """Return (columns ascending, counts) of words, pairs, concepts, beginnings."""
    columns = np.concatenate((_BEFORE, *_columns(found), _AFTER), dtype=np.intp)
    columns.sort()
    before = (columns[1:] != columns[:-1]).nonzero()[0]
    return columns[1:][before[:-1]], before[1:] - before[:-1]


def named_columns(found: Words) -> list[tuple[str, int]]:
    """Return what `hashed` counts, each with its column: for people who ask why."""
    words = [word.decode("utf-8", "replace") for word in found.words]
    named = [*words, *(f"concept:{name}" for name in found.concepts)]
    if words:
        named += [f"first:{words[0]}", f"first:{' '.join(words[:2])}"]
    named += map(" ".join, pairwise(words))
    glyphs = "".join(map(chr, found.glyphs.tolist()))
    named += glyphs
    named += map("".join, pairwise(glyphs))
    columns = np.concatenate(_columns(found)).tolist()
    return [(name, column) for name, column in zip(named, columns, strict=True) if name.strip()]


def _columns(found: Words) -> list[Codes]:
    """Return the columns of words, concepts, beginnings, word pairs, glyphs, glyph pairs, in this order."""
    words = found.words
    listed = [*map(crc32, words), *map(_CONCEPT_CODES.__getitem__, found.concepts)]
    if words:
        listed += (crc32(b"^" + words[0]), crc32(b"^".join(words[:2])))
    # By way of `array`: `np.fromiter` takes 1 us longer over a short text.
    codes = np.frombuffer(array("I", listed), _CODE)
    parts = [codes & _LOW_BITS, _pairs(codes[: len(words)])]
    if len(found.glyphs):
        parts += [(found.glyphs * _MIX_BOTH) >> _HIGH_SHIFT, _pairs(found.glyphs)]
    return parts


def _pairs(codes: Codes) -> Codes:
    pairs = codes[:-1] * _MIX_FIRST
    pairs ^= codes[1:]
    pairs *= _MIX_BOTH
    pairs >>= _HIGH_SHIFT
    return pairs


def shape(text: str, n_words: int) -> Floats:
    """Return the dense block of a text that was cut: kinds of characters, neighbours, marks, length."""
    raw = text.encode("utf-8", "surrogatepass")
    first = np.frombuffer(raw[:-1].translate(_CLASS_AS_FIRST), _BYTE)
    second = np.frombuffer(raw[1:].translate(_CLASS_OF), _BYTE)
    pairs = (first + second).tobytes()
    # `translate` drops what is not counted: it takes 0.6 ns a byte, `bincount` 4 ns.
    met = raw.translate(_KIND_OF, _NO_KIND) + pairs.translate(_NEIGHBOUR_OF, _NO_NEIGHBOUR)
    counts = np.bincount(np.frombuffer(met, _BYTE), minlength=_K + _N + _M)
    for at, mark in enumerate(_MARKS, _K + _N):
        counts[at] = text.count(mark)
    out = np.empty(SHAPES)
    at = _K + _N + _M
    out[:at] = _LOGS[counts]
    out[at] = 0.5 * SHAPE_SCALE * log1p(len(text))
    out[at + 1] = 0.5 * SHAPE_SCALE * log1p(n_words)
    np.multiply(_ROOTS[counts[:_K]], 1 / sqrt(len(raw) + 1), out=out[at + 2 : at + 2 + _K])
    out[at + 2 + _K :] = _LONGER_THAN[bisect_left(_LENGTHS, len(text))]
    return out


def row(text: str) -> Row:
    """Return the features of a text."""
    text = cut(text)
    found = tokens(text)
    columns, counts = hashed(found)
    return Row(columns, counts, shape(text, len(found.words)))


def fingerprint() -> str:
    """Return 8 hex that change when the lexicon or the bounds do: weights of other features are refused."""
    chars, words, glyphs = (HEAD_CHARS, TAIL_CHARS), (HEAD_WORDS, TAIL_WORDS), (HEAD_GLYPHS, TAIL_GLYPHS)
    bounds = (BUCKETS, SHAPES, SHAPE_SCALE, *chars, *words, *glyphs)
    return f"{crc32(repr((bounds, STEM, sorted(STEMS.items()), PARTS)).encode()):08x}"
