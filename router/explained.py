"""A decision told in full: the record, the words that weighed, what was read and what was set aside.

`router explain` and the page `/ui/explain` are this call; the record is that of `POST /v1/route`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec
from msgspec import Struct

from router.access.keys import OPEN_ACCOUNT
from router.catalog.snapshot import MODES, Mode, Snapshot
from router.classifier.prompt import Turn, words_of
from router.decider import Decider, Judgement
from router.routing.decide import Decision, decide
from router.routing.explain import record, refusal
from router.wire import Message, RequestBody, parse_request


class Piece(Struct, frozen=True):
    """A part of a user's message; `kept` False is what a client had wrapped around the words."""

    text: str
    kept: bool


class Weight(Struct, frozen=True):
    """What a word adds to a category's score, above its mean over the categories (log of odds)."""

    word: str
    category: str
    weight: float


class Explained(Struct, frozen=True):
    """A judgement, its record (CONTRACT section 6), and what led to it; `refusal` None where somebody won."""

    body: RequestBody
    judgement: Judgement
    record: dict[str, Any]
    words: list[Weight]
    refusal: str | None

    @property
    def set_aside(self) -> list[str]:
        """Return the lines of the user's messages that were not read, where a wrapping was found."""
        if not self.judgement.prompt.stripped:
            return []
        users = [message for message in self.body.messages if message.role == "user"]
        return [piece.text for message in users for piece in pieces(message) if not piece.kept]


def explain(
    decider: Decider,
    raw: bytes,
    headers: Mapping[str, str],
    catalog: Snapshot,
    *,
    at: datetime,
    request_id: str,
    account: str = OPEN_ACCOUNT,
) -> Explained:
    """Decide for a raw body and tell all of it. Raises `BadRequest` and `ModelNotFound`."""
    body = parse_request(raw)
    judgement = decider.judge(body, headers, catalog, at=at, account=account)
    decision = judgement.decision
    return Explained(
        body,
        judgement,
        record(decision, request_id, stripped=judgement.prompt.stripped),
        [Weight(*each) for each in decider.words(judgement.prompt)],
        None if decision.candidates else refusal(decision).message,
    )


def pieces(message: Message) -> list[Piece]:
    """Split a message's texts into what a person wrote and what was wrapped around it, line by line.

    Neighbouring lines of a kind are separate pieces; blank lines are left out where they are wrapping.
    """
    found: list[Piece] = []
    for text in message.texts:
        words, _ = words_of(Turn(message.role, (text,)))
        found += _lines(text, words.split("\n") if words else [])
    return found


def _lines(text: str, kept: list[str]) -> list[Piece]:
    """Walk both from the top: the words that were kept stand in the text in their order."""
    found: list[Piece] = []
    at = 0
    for line in text.strip().split("\n"):
        wanted = kept[at].strip() if at < len(kept) else None
        bare = line.strip()
        if bare == wanted:
            found.append(Piece(line, True))
            at += 1
        elif wanted and bare.endswith(wanted):  # a date or a channel stood before the words
            found.append(Piece(bare[: -len(wanted)].rstrip(), False))
            found.append(Piece(wanted, True))
            at += 1
        elif bare:
            found.append(Piece(bare, False))
    return found


def by_mode(told: Explained, catalog: Snapshot) -> dict[Mode, Decision]:
    """Decide the same need in every mode, by the same measurements."""
    judged = told.judgement
    return {
        mode: decide(
            msgspec.structs.replace(judged.decision.need, mode=mode),
            judged.decision.categorised,
            catalog,
            judged.live,
            catalog.policy,
        )
        for mode in MODES
    }
