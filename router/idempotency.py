"""`Idempotency-Key`: nothing is charged twice, and the same answer for who comes with it again.

Within 24 h the same key with the same body at the same API gets, byte for byte, the answer that was kept; 409
while the first request runs; and 422 with another body or at another API. A request that failed before
anything was delivered frees its key.
Where something was charged but no whole answer is kept (the client left in the middle, the upstream broke
off, the answer was too large, this process died) the next request with the key is answered anew, and what was
charged before is not charged again. That holds for one new answer: else whoever leaves just before the end
would be answered for nothing as often as they like.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping
from datetime import datetime

from msgspec import Struct, structs

from router.errors import BadRequest, KeyReused
from router.ledger.answers import KEEP_S, Answers, Claim, StoredAnswer
from router.ledger.posting import key_in_use
from router.ledger.rows import utc_text

HEADER = "idempotency-key"
REPLAYED = (b"idempotent-replayed", b"true")
_OF_THE_MOMENT = (b"x-ratelimit-", b"server-timing")  # true of the first answer alone
_MAX_CHARS = 255
_LEVEL = 1  # an event stream shrinks fifteenfold even so, at a tenth of the time

_AT = b"answered-at"  # kept in front of the head, and not sent

Headers = list[tuple[bytes, bytes]]


class Once:
    """A request that has a key to itself; it takes the answer down while that is sent.

    `at_s` is its time in seconds since 1970, which an answer may tell.
    """

    def __init__(self, key: str, claim: Claim, limit_bytes: int, at_s: int) -> None:
        self.key = key
        self.claim = claim
        self.at_s = at_s
        self._limit_bytes = limit_bytes
        self._size = 0
        self._deflate = zlib.compressobj(_LEVEL)
        self._pieces: list[bytes] = []

    def released(self, hold_id: str) -> None:
        """Note that a hold was given back, to be followed by another one."""
        self.claim = structs.replace(self.claim, after=hold_id if self.claim.cover_nusd else None)

    def add(self, piece: bytes) -> None:
        """Take down a part of the body; nothing more once it is too large."""
        self._size += len(piece)
        if self._size <= self._limit_bytes:
            self._pieces.append(self._deflate.compress(piece))
        else:
            self._pieces.clear()

    def answer(self, status: int, headers: Headers) -> StoredAnswer | None:
        """Return the whole answer, None when it is too large to be kept."""
        if self._size > self._limit_bytes:
            return None
        body = b"".join([*self._pieces, self._deflate.flush()])
        kept = [(_AT, b"%d" % self.at_s), *headers]
        return StoredAnswer(status, b"\n".join(b"%b: %b" % header for header in kept), body)


async def once(
    answers: Answers,
    account: str,
    headers: Mapping[str, str],
    body: bytes,
    *,
    now: datetime,
    limit_bytes: int,
    api: bytes = b"",
) -> Once | StoredAnswer:
    """Return the answer that is kept for this key, or what a request needs to get the key.

    `api` says what the body is said in: a body that two APIs can read is another request at each.

    Raises `BadRequest`, `KeyInUse`, `KeyReused`, `Unavailable`.
    """
    key = headers[HEADER]
    if not 0 < len(key) <= _MAX_CHARS or not key.isascii() or not key.isprintable():
        raise BadRequest(
            f"Idempotency-Key must be 1 to {_MAX_CHARS} printable ASCII characters; a UUID is a good one.",
            param=HEADER,
        )
    digest, at_s = hashlib.sha256(api + body).digest(), int(now.timestamp())
    kept = await answers.find(account, key)
    if kept is None:
        return Once(key, Claim(digest), limit_bytes, at_s)
    if not kept.running and kept.begun_at < utc_text(now.timestamp() - KEEP_S):
        return Once(key, Claim(digest, kept.request_id), limit_bytes, at_s)
    if kept.body != digest:
        raise KeyReused(
            "This Idempotency-Key was used with another body, or at another API. Send a new key with each new"
            " request.",
            param=HEADER,
        )
    if kept.running:
        raise key_in_use()
    claim = Claim(digest, kept.request_id, kept.cover_nusd, kept.begun_at)
    return kept.answer or Once(key, claim, limit_bytes, at_s)


class Replay(Struct, frozen=True):
    """An answer that is given again; `at_s` is the time of the request that it was made for."""

    status: int
    headers: Headers
    body: bytes
    at_s: int


def replay(answer: StoredAnswer, request_id: str | None) -> Replay:
    """Return what a kept answer was, for who calls it `request_id`."""
    headers, at_s = [], 0
    for line in answer.head.split(b"\n"):
        name, _, value = line.partition(b": ")
        if name == _AT:
            at_s = int(value)
            continue
        if name.startswith(_OF_THE_MOMENT):
            continue
        if name == b"x-request-id" and request_id is not None:
            value = request_id.encode()
        headers.append((name, value))
    return Replay(answer.status, [*headers, REPLAYED], zlib.decompress(answer.body), at_s)
