"""What replicas tell each other beside limits: which conversation is where, and how fast offers were.

A conversation is one value under a hash of its account and session, kept for as long as it may rest. Speeds
are one value a replica, which the others read at each tick. Both are hints: while Redis is away each replica
goes by its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import struct
from collections.abc import Callable

import msgspec

from router.routing.live import Sightings
from router.routing.sessions import Session, Sessions
from router.shared.gate import SharedGate
from router.shared.wire import Away

SPEEDS_KEPT_MS = 30_000
MOST_REPLICAS = 256
_PREFIX = "llmrouter:"
_AGE = struct.Struct(">d")
_SIGHTINGS = msgspec.msgpack.Decoder(Sightings)
_encode = msgspec.msgpack.Encoder().encode


class Memory:
    """Tell and ask through a gate's connection; `clock` is monotonic, in seconds."""

    def __init__(self, gate: SharedGate, sessions: Sessions, clock: Callable[[], float]) -> None:
        self._gate = gate
        self._sessions = sessions
        self._clock = clock

    def recall(self, account: str, session: Session | None) -> asyncio.Future[None] | None:
        """Ask what other replicas know of a conversation that goes on; await it before the decision.

        The question leaves with the others of this turn of the loop. None where there is nothing to ask.
        """
        if session is None or not session.goes_on or not self._gate.shared:
            return None
        key = _key(account, session)
        found: asyncio.Future[bytes | None] = self._gate.wire.submit(("GET", key))

        def learn(left_ms: int) -> None:
            self._learn(account, session, found.result(), left_ms)

        left = self._gate.wire.submit(("PTTL", key), learn)
        recalled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        left.add_done_callback(lambda _: None if recalled.done() else recalled.set_result(None))
        return recalled

    def tell(self, account: str, session: Session | None, idle_s: float) -> None:
        """Tell what is known of a conversation after an answer."""
        if session is None or not self._gate.shared:
            return
        told = self._sessions.told(account, session, self._clock())
        if told is not None:
            kept_ms = max(1, int(idle_s * 1e3))
            self._gate.wire.submit(("SET", _key(account, session), _AGE.pack(kept_ms) + told, "PX", kept_ms))

    async def exchange(self, own: Sightings) -> list[Sightings]:
        """Tell what was seen here, return what was seen elsewhere; nothing while Redis is away."""
        gate = self._gate
        if not gate.shared:
            return []
        with contextlib.suppress(Away):
            gate.wire.submit(("SET", _speeds_of(gate.replica), _encode(own), "PX", SPEEDS_KEPT_MS))
            all_replicas = await gate.wire.submit(("ZRANGE", f"{_PREFIX}replicas", 0, MOST_REPLICAS - 1))
            others = [name.decode() for name in all_replicas if name.decode() != gate.replica]
            if not others:
                return []
            told = await gate.wire.submit(("MGET", *(_speeds_of(name) for name in others)))
            return [seen for each in told if each is not None and (seen := _sightings(each)) is not None]
        return []

    def _learn(self, account: str, session: Session, told: bytes | None, left_ms: int) -> None:
        if told is not None and len(told) > _AGE.size and left_ms >= 0:
            (kept_ms,) = _AGE.unpack_from(told)
            age_s = max(0.0, kept_ms - left_ms) / 1e3
            self._sessions.learn(account, session, told[_AGE.size :], age_s, self._clock())


def _key(account: str, session: Session) -> str:
    """Return a key that tells neither the account nor the name that a client gave its session."""
    named = f"{account}\0{session.id}".encode("utf-8", "surrogatepass")
    return f"{_PREFIX}s:{hashlib.blake2b(named, digest_size=16).hexdigest()}"


def _speeds_of(replica: str) -> str:
    return f"{_PREFIX}v:{replica}"


def _sightings(told: bytes) -> Sightings | None:
    try:
        return _SIGHTINGS.decode(told)
    except msgspec.DecodeError:  # a replica of another version
        return None
