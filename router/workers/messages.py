"""What a worker and its supervisor say to each other, over a socket pair that only the two have.

A frame is a length of four bytes and a MessagePack array of messages, each an array that begins with its
number. Both sides are the same program, started together, so there is no version to agree on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast

import msgspec
from msgspec import Struct

from router.limits import Full, Standing

Said = TypeVar("Said")
WireLimits = tuple[int | None, int | None, int | None]
WireWay = list[tuple[tuple[str, ...], WireLimits]]
_LENGTH_BYTES = 4
_encode = msgspec.msgpack.Encoder().encode


class Message(Struct, array_like=True, gc=False):
    """One message; `call` is the number of a question, which its answer repeats."""


class Ready(Message, tag=1):
    """The worker listens."""


class Listed(Message, tag=2):
    """The subjects of a listing, told once; questions name its number."""

    listing: int
    subjects: WireWay


class Ask(Message, tag=3):
    """Ask which subjects of a listing are full."""

    call: int
    listing: int
    tokens: int


class Enter(Message, tag=4):
    """Ask for a place; its number is the call's."""

    call: int
    way: WireWay
    tokens: int
    told: bool


class Leave(Message, tag=5):
    """Give a place back, one that was refused too."""

    place: int
    used_tokens: int | None
    withdrawn: bool


class Wait(Message, tag=6):
    """Wait in turn; the first time the turn begins, and ends in so many seconds."""

    call: int
    turn: int
    seconds: float
    ways: list[WireWay]
    tokens: int


class EndTurn(Message, tag=7):
    """Wait no more."""

    turn: int
    came_in: bool


class Gather(Message, tag=8):
    """Ask for the numbers of all workers but this one, whose own are told."""

    call: int
    numbers: bytes


class ReloadOthers(Message, tag=9):
    """Have every other worker read the catalog's files now."""

    call: int


class Done(Message, tag=10):
    """Answer to `Do`."""

    call: int
    result: bytes


class Begin(Message, tag=11):
    """The first message to a worker: all settings, and the number of workers."""

    settings: dict[str, Any]
    workers: int


class Fulls(Message, tag=12):
    """Answer to `Ask`: places in the listing, and why they are full."""

    call: int
    full: list[tuple[int, Full]]


class Entered(Message, tag=13):
    """Answer to `Enter`: what stands in the way, None where nothing does."""

    call: int
    full: Full | None
    standing: Standing | None


class Woken(Message, tag=14):
    """Answer to `Wait`."""

    call: int
    woken: bool


class Gathered(Message, tag=15):
    """Answer to `Gather` and to `ReloadOthers`."""

    call: int
    numbers: list[bytes]


class Do(Message, tag=16):
    """Ask a worker for something: "numbers" or "reload"."""

    call: int
    what: str


class Crew(Message, tag=17):
    """Say how many workers listen now."""

    running: int


class Look(Message, tag=18):
    """Ask how a subject stands; its `way` is of one."""

    call: int
    way: WireWay


class Looked(Message, tag=19):
    """Answer to `Look`."""

    call: int
    standing: Standing


FromWorker = Ready | Listed | Ask | Enter | Leave | Wait | EndTurn | Gather | ReloadOthers | Done | Look
ToWorker = Begin | Fulls | Entered | Woken | Gathered | Do | Crew | Looked


class Line(asyncio.Protocol, Generic[Said]):
    """One end of the socket pair: what is said in one turn of the loop leaves in one frame."""

    def __init__(self, said: Any, hear: Callable[[Said], None], lost: Callable[[], None]) -> None:
        """Call `hear` with each message of the type `said`, and `lost` once when the other end is gone."""
        self._decode = msgspec.msgpack.Decoder(list[said]).decode
        self._hear = hear
        self._lost = lost
        self._loop: asyncio.AbstractEventLoop | None = None
        self._transport: asyncio.WriteTransport | None = None
        self._received = bytearray()
        self._waiting: list[Message] = []

    @property
    def open(self) -> bool:
        """Tell whether the other end is there."""
        return self._transport is not None

    def say(self, message: Message) -> None:
        """Send a message at the end of this turn; nothing happens when the other end is gone."""
        if self._transport is None or self._loop is None:
            return
        if not self._waiting:
            self._loop.call_soon(self._flush)
        self._waiting.append(message)

    def close(self) -> None:
        """Send what waits and close."""
        self._flush()
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._loop = asyncio.get_running_loop()
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's is none by its class

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._transport = None
        self._lost()

    def data_received(self, data: bytes) -> None:
        """Take bytes; hear every message that is whole."""
        received = self._received
        received += data
        at = 0
        while len(received) - at >= _LENGTH_BYTES:
            begin = at + _LENGTH_BYTES
            end = begin + int.from_bytes(received[at:begin])
            if end > len(received):
                break
            for message in self._decode(memoryview(received)[begin:end]):
                self._hear(message)
            at = end
        if at:
            self._received = received[at:]

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        if waiting and self._transport is not None:
            body = _encode(waiting)
            self._transport.write(len(body).to_bytes(_LENGTH_BYTES) + body)
