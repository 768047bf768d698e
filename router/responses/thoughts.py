"""A model's own thoughts, carried by the client from one request to the next.

A model that thinks between two calls of tools wants back what it thought: `reasoning_content` (DeepSeek,
Kimi, GLM), `reasoning` or `reasoning_details` (OpenRouter), a signature in the `extra_content` of a call
(Google). The router keeps nothing, so a reasoning item behind the calls holds it in `encrypted_content`,
which clients send back unread. Only the offer that wrote it gets it again: others refuse members they do not
know, and signatures that are not theirs. It is not secret: chat hands out the same members, and takes them.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Raw, Struct

from router.rawjson import first_byte
from router.responses.decoding import NULL, Said, is_null

_FORM = "llmrouter-1."  # what begins otherwise was written by another server
_TEXTS = ("text", "summary")
MEMBERS = ("reasoning_content", "reasoning", "reasoning_details")


class Thoughts(Struct, omit_defaults=True):
    """Hold the members of a message that only its writer reads, and `extra_content` by the id of its call.

    `writer` is the offer, "provider/model".
    """

    writer: str
    calls: dict[str, Raw]
    reasoning_content: Raw = NULL
    reasoning: Raw = NULL
    reasoning_details: Raw = NULL

    @property
    def members(self) -> Said:
        """Return the members of the message."""
        every = {name: getattr(self, name) for name in MEMBERS}
        return {name: raw for name, raw in every.items() if raw != NULL}

    def packed(self) -> str | None:
        """Return it as a text for `encrypted_content`; None where nothing must come back."""
        if (
            not self.writer
            or not self.calls
            or not (self.members or any(map(_is_there, self.calls.values())))
        ):
            return None
        return _FORM + base64.urlsafe_b64encode(msgspec.json.encode(self)).decode()

    def added_to(self, message: Said) -> Said:
        """Return a message with calls as its writer wrote it."""
        calls = []
        for call in message["tool_calls"]:
            extra = self.calls.get(call["id"], NULL)
            calls.append(call | {"extra_content": extra} if _is_there(extra) else call)
        return message | self.members | {"tool_calls": calls}


def _is_there(raw: Raw) -> bool:
    return not is_null(raw)


class Thinking:
    """Collect what one answer's writer wants back, from a whole message or from the deltas of a stream."""

    def __init__(self, writer: str) -> None:
        self._writer = writer
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._details: list[list[dict[str, Any]]] = []  # the pieces of each
        self._calls: dict[str, Raw] = {}

    def take(self, reasoning_content: str, reasoning: str, reasoning_details: Raw) -> None:
        """Take what a message or a delta holds; details that are no list of objects are left out."""
        if reasoning_content:
            self._content.append(reasoning_content)
        elif reasoning:
            self._reasoning.append(reasoning)
        if first_byte(reasoning_details) == b"[":
            self._take_details(reasoning_details)

    def take_call(self, call_id: str, extra_content: Raw) -> None:
        """Take a call; a signature may stand on it."""
        self._calls[call_id] = extra_content

    def _take_details(self, raw: Raw) -> None:
        try:
            pieces = _details.decode(raw)
        except (ValueError, RecursionError):
            return
        for piece in pieces:
            if self._details and _continues(self._details[-1], piece):
                self._details[-1].append(piece)
            else:
                self._details.append([piece])

    def packed(self) -> str | None:
        """Return all as a text for `encrypted_content`; None where nothing must come back."""
        thoughts = Thoughts(self._writer, self._calls)
        if self._content:
            thoughts.reasoning_content = Raw(msgspec.json.encode("".join(self._content)))
        if self._details:  # they hold the same words, and the signatures
            thoughts.reasoning_details = Raw(
                msgspec.json.encode([_joined(pieces) for pieces in self._details])
            )
        elif self._reasoning:
            thoughts.reasoning = Raw(msgspec.json.encode("".join(self._reasoning)))
        return thoughts.packed()


def _continues(pieces: list[dict[str, Any]], piece: dict[str, Any]) -> bool:
    """Tell whether a piece goes on with a text that these began, or signs it; what is signed has ended."""
    first = pieces[0]
    same = all(first.get(name) == piece.get(name) for name in ("type", "index"))
    same = same and piece.get("id") in (None, first.get("id"))
    return same and not pieces[-1].get("signature") and any(name in first for name in _TEXTS)


def _joined(pieces: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the pieces as one: their texts in a row, of all else the newest that is there."""
    whole = dict(pieces[0])
    for piece in pieces[1:]:
        whole.update({name: value for name, value in piece.items() if value is not None})
    for name in _TEXTS:
        texts = [piece[name] for piece in pieces if isinstance(piece.get(name), str)]
        if texts:
            whole[name] = "".join(texts)
    return whole


def unpacked(raw: Raw) -> Thoughts | None:
    """Read `encrypted_content`; None where it is another server's, or broken."""
    if first_byte(raw) != b'"':
        return None
    try:
        text = _string.decode(raw)
        if not text.startswith(_FORM):
            return None
        inside = base64.urlsafe_b64decode(text.removeprefix(_FORM))
        inside.decode()  # msgspec does not look into what stays raw
        return _thoughts.decode(inside)
    except (ValueError, RecursionError):  # of msgspec, UTF-8 and base64
        return None


class Recalled:
    """The messages of a conversation, with the thoughts that an offer wrote itself, by message's place."""

    def __init__(self, said: Sequence[Said], thoughts: Mapping[int, Thoughts]) -> None:
        self._said, self._thoughts = said, thoughts

    def messages(self, writer: str | None) -> list[Said]:
        """Return the messages as one offer may read them; for None with the thoughts of all."""
        said = list(self._said)
        for place, thoughts in self._thoughts.items():
            if writer is None or thoughts.writer == writer:
                said[place] = thoughts.added_to(said[place])
        return said

    def raw(self, writer: str) -> Raw:
        """Return `messages` for one offer as JSON."""
        return Raw(msgspec.json.encode(self.messages(writer)))


_string = msgspec.json.Decoder(str)
_thoughts = msgspec.json.Decoder(Thoughts)
_details = msgspec.json.Decoder(list[dict[str, Any]])
