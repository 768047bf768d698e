"""Words of one meaning in many languages: what the corpus says in English then holds elsewhere too.

`lexicon.txt` names a concept in brackets, then its words, a line a language (`*` for several; an indented
line goes on with the one before). A word of a spaced script is met by a token that begins with its first
`STEM` characters, so inflections are met as well; a shorter one is met whole. Words of scripts without
spaces, and Korean and Thai, are looked for inside the text. A word may belong to several concepts.
"""

from __future__ import annotations

import re
import zlib
from pathlib import Path

STEM = 6
FILE = Path(__file__).with_name("lexicon.txt")

Concepts = dict[str, tuple[str, ...]]

# The first character of a script whose words are parts of a longer text.
_INSIDE = re.compile("[\u0e00-\u0eff\u1100-\u11ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
_DIGITS = str.maketrans("123456789", "0" * 9)  # as in the tokens of a text


def _read(text: str) -> tuple[Concepts, Concepts]:
    """Return (stem -> concepts, part of a text -> concepts)."""
    stems: Concepts = {}
    parts: Concepts = {}
    concept = ""
    for line in text.splitlines():
        if line[0] == "[":
            concept = line[1:-1]
            continue
        for word in (line if line[0] == " " else line.partition(":")[2]).split():
            if word.isascii() or not _INSIDE.search(word):
                table, key = stems, word[:STEM].translate(_DIGITS)
            else:
                table, key = parts, word
            known = table.get(key, ())
            if concept not in known:
                table[key] = (*known, concept)
    return stems, parts


_TEXT = FILE.read_bytes()
DIGEST = zlib.crc32(_TEXT)
STEMS, PARTS = _read(_TEXT.decode())
