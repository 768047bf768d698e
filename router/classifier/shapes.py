"""The shape of a text in numbers: kinds of characters, what stands beside what, marks, length."""

from __future__ import annotations

from bisect import bisect_left
from math import log1p, sqrt

import numpy as np
from numpy.typing import NDArray

from router.classifier.words import HEAD_CHARS, TAIL_CHARS

Floats = NDArray[np.float64]
_BYTE = np.dtype(np.uint8)

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
# Each with its rarest character, looked for first.
_MARKS = (("`", "```"), ("E", "Error"), ("x", "Exception"))
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


def shape(text: str, n_words: int) -> Floats:
    """Return the dense block of a text that was cut: kinds of characters, neighbours, marks, length."""
    raw = text.encode("utf-8", "surrogatepass")
    first = np.frombuffer(raw[:-1].translate(_CLASS_AS_FIRST), _BYTE)
    second = np.frombuffer(raw[1:].translate(_CLASS_OF), _BYTE)
    pairs = (first + second).tobytes()
    # `translate` drops what is not counted: it takes 0.6 ns a byte, `bincount` 4 ns.
    met = raw.translate(_KIND_OF, _NO_KIND) + pairs.translate(_NEIGHBOUR_OF, _NO_NEIGHBOUR)
    counts = np.bincount(np.frombuffer(met, _BYTE), minlength=_K + _N + _M)
    for at, (rare, mark) in enumerate(_MARKS, _K + _N):
        if rare in text:
            counts[at] = text.count(mark)
    out = np.empty(SHAPES)
    at = _K + _N + _M
    out[:at] = _LOGS[counts]
    out[at] = 0.5 * SHAPE_SCALE * log1p(len(text))
    out[at + 1] = 0.5 * SHAPE_SCALE * log1p(n_words)
    np.multiply(_ROOTS[counts[:_K]], 1 / sqrt(len(raw) + 1), out=out[at + 2 : at + 2 + _K])
    out[at + 2 + _K :] = _LONGER_THAN[bisect_left(_LENGTHS, len(text))]
    return out
