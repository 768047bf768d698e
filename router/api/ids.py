"""Request ids: ours, and the client's where they are usable."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable

_MAX_CHARS = 128
_RANDOM_BYTES = 10
_RANDOM_BLOCK_BYTES = 4_000


class RequestIds:
    """Make unique ids that sort by time, so that the ledger's index grows at its end.

    Random bytes are fetched a block at a time: a system call for each id costs as much as reading the body.
    """

    def __init__(self) -> None:
        self._random = ""
        self._at = 0

    def __call__(self) -> str:
        """Return the next id."""
        if self._at >= len(self._random):
            self._random, self._at = os.urandom(_RANDOM_BLOCK_BYTES).hex(), 0
        at, self._at = self._at, self._at + 2 * _RANDOM_BYTES
        return f"req_{time.time_ns() // 1_000_000:011x}{self._random[at : self._at]}"


def usable_request_id(theirs: str | None) -> str | None:
    """Return the client's own id of its request where it is short and printable, else None."""
    if theirs and len(theirs) <= _MAX_CHARS and theirs.isascii() and theirs.isprintable():
        return theirs
    return None


def shown_request_id(headers: Iterable[tuple[bytes, bytes]], ours: str) -> str:
    """Return the id that an answer shows: the client's own, where that is usable."""
    theirs = next((value.decode("latin-1") for name, value in headers if name == b"x-request-id"), None)
    return usable_request_id(theirs) or ours
