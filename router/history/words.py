"""The words of a request and of its answer, where the operator has them kept (`ROUTER_KEEP_PROMPTS`).

They are cut to what a page can show: the newest messages first, an image as a note of it, and of an answer
its first choice. Nothing here runs while the setting is off.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from msgspec import Raw, Struct

MOST_CHARS = 64 * 1024
"""The most that is kept of a request, and of an answer."""
_WHOLE_BYTES = 4 * 2**20
_DATA = b"data:"


class Said(Struct, frozen=True, gc=False, omit_defaults=True):
    """One message: its text, with images and other parts as notes; `cut_chars` were left out at its end."""

    role: str
    text: str
    cut_chars: int = 0


class Words(Struct, frozen=True, omit_defaults=True):
    """What was said: messages in their order without `older` that came before them, and the answer.

    `answer` is None where none was given, `answer_cut` where it was longer than what is kept.
    """

    messages: tuple[Said, ...]
    older: int = 0
    answer: str | None = None
    answer_cut: bool = False


class _Part(Struct):
    type: str
    text: str = ""


class _Function(Struct, frozen=True):
    name: str | None = None
    arguments: str | None = None


class _Call(Struct):
    function: _Function = _Function()


class _Message(Struct):
    role: str = ""
    content: str | list[_Part] | None = None
    tool_calls: list[_Call] | None = None


class _Choice(Struct):
    index: int = 0
    message: _Message | None = None
    delta: _Message | None = None


class _Answer(Struct):
    choices: list[_Choice] = []


_messages = msgspec.json.Decoder(list[Raw])
_message = msgspec.json.Decoder(_Message)
_answer = msgspec.json.Decoder(_Answer)


class Talk:
    """Take down one request and its answer while they pass; `words` makes of them what is kept."""

    __slots__ = ("_answer", "_chars", "_events", "_size", "_whole", "request")

    def __init__(self) -> None:
        self.request: Raw | None = None  # the `messages` of the body
        self._events = False
        self._whole: list[bytes] = []
        self._size = 0
        self._answer: list[str] = []
        self._chars = 0

    def begin(self, content_type: bytes) -> None:
        """Note that an answer begins, and what it is."""
        self._events = content_type.startswith(b"text/event-stream")

    def add(self, piece: bytes) -> None:
        """Take a part of the body; an event is never in two of them."""
        if not self._events:
            self._size += len(piece)
            if self._size <= _WHOLE_BYTES:
                self._whole.append(piece)
        elif self._chars <= MOST_CHARS:
            for line in piece.split(b"\n"):
                if line.startswith(_DATA) and (body := line[len(_DATA) :].strip()).startswith(b"{"):
                    self._take(body)

    def words(self) -> Words | None:
        """Return what is kept, None where no request was read."""
        if self.request is None:
            return None
        if self._whole and self._size <= _WHOLE_BYTES:
            self._take(b"".join(self._whole))
            self._whole = []
        messages, older = _newest(self.request)
        text = "".join(self._answer)
        return Words(messages, older, text[:MOST_CHARS] or None, self._lost(text))

    def _lost(self, text: str) -> bool:
        return len(text) > MOST_CHARS or self._size > _WHOLE_BYTES

    def _take(self, body: bytes) -> None:
        try:
            choices = _answer.decode(body).choices
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return  # an upstream's own form, which the client got as it is
        for choice in choices:
            message = choice.message or choice.delta
            if choice.index == 0 and message is not None:
                text = _text(message)
                self._answer.append(text)
                self._chars += len(text)


def _newest(request: Raw) -> tuple[tuple[Said, ...], int]:
    """Return the newest messages that fit, oldest first, and how many were left out before them."""
    messages, left = _messages.decode(request), MOST_CHARS
    kept: list[Said] = []
    for raw in reversed(messages):
        if left <= 0:
            break
        try:
            message = _message.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            message = _Message("?", "[this message could not be read]")
        text = _text(message)
        kept.append(Said(message.role, text[:left], max(0, len(text) - left)))
        left -= len(text)
    return tuple(kept[::-1]), len(messages) - len(kept)


def _text(message: _Message) -> str:
    content = message.content
    texts = [content or ""] if content is None or isinstance(content, str) else _noted(content)
    for call in message.tool_calls or ():
        if call.function.name:
            texts.append(f"\n[calls {call.function.name}] ")
        texts.append(call.function.arguments or "")
    return "".join(texts)


def _noted(parts: Iterable[_Part]) -> list[str]:
    """Return the texts of a message's parts, and a note for each part that is none."""
    notes = {
        "image_url": "[an image]",
        "input_audio": "[audio]",
        "file": "[a file]",
        "video_url": "[a video]",
    }
    return [
        part.text if part.type in ("text", "refusal") else notes.get(part.type, f"[{part.type[:40]}]")
        for part in parts
    ]
