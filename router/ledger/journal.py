"""The flight journal: what the answers on their way have delivered, where the death of a process leaves it.

Each process maps a file of its own into memory. What it stores there is in the kernel's hands at once, so a
SIGKILL loses nothing of it, and a store costs no system call. (A power cut may: it then counts as nothing
delivered.) The file is cut into slots of the same size; an answer takes one before its first byte goes out,
and gives it back when the end of its hold is written.

A slot is eleven words and a text: hold, provider, model. The first word is 0, or a mark with the CRC-32 of
what is behind the second one; it is stored last and cleared first, so a slot that was half written when its
process died says nothing. The second word is the number of tokens delivered: one aligned store a change,
while the rest stands still. To change that rest an answer takes another slot and then gives up the first.
"""

from __future__ import annotations

import errno
import logging
import mmap
import os
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path

from msgspec import Struct

from router.ledger.rows import Progress

SUFFIX = ".flights"
SLOT_BYTES = 512
FIRST_BYTES = 64 * 1024  # room for 128 flights; each time it is full the file doubles

_WORD = 8
_WORDS = SLOT_BYTES // _WORD
_TAKEN = 1 << 32
_MOST = 2**64 - 1
_HEAD = struct.Struct("=9Q")  # behind the first two words, in the machine's own byte order as they are
_BEHIND = 2 * _WORD
_TEXT_BYTES = SLOT_BYTES - _BEHIND - _HEAD.size
_PPM_PUSD_PER_NUSD = 1_000_000_000
_log = logging.getLogger("router.ledger")


class Tariff(Struct, frozen=True, gc=False):
    """What an answer is worth after so many completion tokens: a line, as `router.catalog.price` adds up.

    charge = (charge_base_pusd + tokens * charge_token_pusd) * ppm / 1e6, at most `most_nusd` where that is
    given; cost = cost_base_pusd + tokens * cost_token_pusd; both are rounded up to a nano-USD.
    """

    prompt_tokens: int
    charge_base_pusd: int
    charge_token_pusd: int
    ppm: int
    most_nusd: int | None
    cost_base_pusd: int
    cost_token_pusd: int

    @classmethod
    def of_bill(cls, prompt_tokens: int, charge_nusd: int, cost_nusd: int) -> Tariff:
        """Return that of an answer whose bill is known."""
        return cls(prompt_tokens, charge_nusd * 1_000, 0, 1_000_000, None, cost_nusd * 1_000, 0)

    def charge_nusd(self, tokens: int) -> int:
        """Return what the customer owes for so many completion tokens."""
        pusd = self.charge_base_pusd + tokens * self.charge_token_pusd
        charge = -(-pusd * self.ppm // _PPM_PUSD_PER_NUSD)
        return charge if self.most_nusd is None else min(charge, self.most_nusd)

    def cost_nusd(self, tokens: int) -> int:
        """Return what the upstream asks for so many completion tokens."""
        return -(-(self.cost_base_pusd + tokens * self.cost_token_pusd) // 1_000)


class Slot(Struct, frozen=True, eq=False, gc=False):
    """Where a flight is noted: the memory, the same as words, and where in it, in words."""

    memory: mmap.mmap | bytearray
    words: memoryview
    at: int

    @classmethod
    def spare(cls) -> Slot:
        """Return one that no file has."""
        memory = bytearray(SLOT_BYTES)
        return cls(memory, memoryview(memory).cast("Q"), 0)


_NOWHERE = memoryview(bytearray(SLOT_BYTES)).cast("Q")


class Flight:
    """One answer on its way."""

    __slots__ = ("_at", "_hold_id", "_model", "_provider", "_slot", "_tariff", "_told", "_words")

    def __init__(self, slot: Slot, hold_id: str, model: str, provider: str, tariff: Tariff) -> None:
        self._slot = slot
        self._words, self._at = slot.words, slot.at + 1
        self._hold_id = hold_id
        self._model = model
        self._provider = provider
        self._tariff = tariff
        self._told = 0

    def delivered(self, tokens: int) -> None:
        """Note how many completion tokens the client has with the bytes that go out next."""
        self._words[self._at] = tokens

    @property
    def progress(self) -> Progress:
        """Return what was delivered so far, and what it is worth."""
        tokens = self._words[self._at]
        tariff = self._tariff
        return _progress(self._hold_id, self._model, self._provider, tariff, tokens)


class Journal:
    """Note the flights of one process, from one thread."""

    def __init__(self, path: Path) -> None:
        """Make the file, for its user alone. Raises OSError."""
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        self._size_bytes = 0
        self._free: list[Slot] = []
        self._flights: dict[str, Flight] = {}
        self._sequence = 0
        self._full = False

    def begin(self, hold_id: str, model: str, provider: str, tariff: Tariff, tokens: int) -> Flight:
        """Note, before its bytes go out, that an answer delivers so many completion tokens.

        Again with the same hold when it turns out to be worth something else. Where the disk has no room for
        more flights, this one is kept in memory alone: it is served, and a crash would make it free.
        """
        slot = self._free.pop() if self._free else self._grow()
        self._sequence += 1
        text = "\0".join((hold_id, provider, model)).encode("utf-8", "replace")[:_TEXT_BYTES]
        _write(slot, self._sequence, tariff, tokens, text)
        before = self._flights.get(hold_id)
        self._flights[hold_id] = flight = Flight(slot, hold_id, model, provider, tariff)
        if before is not None:
            self._give_back(before)
        return flight

    def end(self, hold_id: str) -> None:
        """Give the slot of a hold back, once its end is written."""
        flight = self._flights.pop(hold_id, None)
        if flight is not None:
            self._give_back(flight)

    def changed(self) -> list[Progress]:
        """Return the flights that have delivered something since `told` was last given them."""
        return [
            flight.progress for flight in self._flights.values() if flight._words[flight._at] > flight._told
        ]

    def told(self, progress: Iterable[Progress]) -> None:
        """Take note that somebody else knows this now."""
        for known in progress:
            flight = self._flights.get(known.request_id)
            if flight is not None:
                flight._told = known.completion_tokens

    def close(self) -> None:
        """Give the file up, as it is; the memory goes with this object."""
        os.close(self._file)

    def _give_back(self, flight: Flight) -> None:
        slot = flight._slot
        slot.words[slot.at] = 0
        if not isinstance(slot.memory, bytearray):
            self._free.append(slot)
        flight._words, flight._at = _NOWHERE, 0  # the slot is another's now

    def _grow(self) -> Slot:
        """Add slots and take one of them."""
        added = max(FIRST_BYTES, self._size_bytes)
        try:
            # Blocks of its own for every page: a store to a page that the disk cannot hold would be a SIGBUS.
            _allocate(self._file, self._size_bytes, added)
            memory = mmap.mmap(self._file, added, offset=self._size_bytes)
        except (OSError, ValueError) as fault:  # ValueError: the file is shorter than it was made
            if not self._full:
                self._full = True
                _log.error("the flight journal cannot grow, a crash would make its answers free: %s", fault)
            return Slot.spare()
        if self._full:
            self._full = False
            _log.warning("the flight journal grows again")
        self._size_bytes += added
        words = memoryview(memory).cast("Q")
        self._free += [Slot(memory, words, at) for at in range(added // _WORD - _WORDS, -1, -_WORDS)]
        return self._free.pop()


def _write(slot: Slot, sequence: int, tariff: Tariff, tokens: int, text: bytes) -> None:
    most = _MOST if tariff.most_nusd is None else tariff.most_nusd
    numbers = (
        sequence,
        tariff.prompt_tokens,
        tariff.charge_base_pusd,
        tariff.charge_token_pusd,
        tariff.ppm,
        most,
        tariff.cost_base_pusd,
        tariff.cost_token_pusd,
        len(text),
    )
    try:
        head = _HEAD.pack(*numbers)
    except struct.error:  # beyond 18 million USD
        head = _HEAD.pack(*(min(max(number, 0), _MOST) for number in numbers))
    behind = head + text
    words, at = slot.words, slot.at
    start = at * _WORD + _BEHIND
    slot.memory[start : start + len(behind)] = behind
    words[at + 1] = tokens
    words[at] = _TAKEN | zlib.crc32(behind)


def delivered_in(path: Path) -> dict[str, Progress]:
    """Return what the process of a journal had delivered when it died, by hold; {} without that file.

    Raises OSError.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return {}
    latest: dict[str, tuple[int, Progress]] = {}
    for at in range(0, len(data) - SLOT_BYTES + 1, SLOT_BYTES):
        found = _read(data[at : at + SLOT_BYTES])
        if found is not None and found[1].completion_tokens > 0:
            sequence, progress = found
            before = latest.get(progress.request_id)
            if before is None or sequence > before[0]:
                latest[progress.request_id] = found
    return {hold_id: progress for hold_id, (_, progress) in latest.items()}


def _read(slot: bytes) -> tuple[int, Progress] | None:
    mark, tokens = struct.unpack_from("=2Q", slot)
    sequence, *numbers, size = _HEAD.unpack_from(slot, _BEHIND)
    behind = slot[_BEHIND : _BEHIND + _HEAD.size + size]
    if mark != _TAKEN | zlib.crc32(behind):
        return None
    hold_id, _, rest = behind[_HEAD.size :].decode("utf-8", "replace").partition("\0")
    provider, _, model = rest.partition("\0")
    prompt, charge_base, charge_token, ppm, most, cost_base, cost_token = numbers
    tariff = Tariff(
        prompt, charge_base, charge_token, ppm, None if most == _MOST else most, cost_base, cost_token
    )
    return sequence, _progress(hold_id, model, provider, tariff, tokens)


def _progress(hold_id: str, model: str, provider: str, tariff: Tariff, tokens: int) -> Progress:
    return Progress(
        request_id=hold_id,
        prompt_tokens=tariff.prompt_tokens,
        completion_tokens=tokens,
        charge_nusd=tariff.charge_nusd(tokens),
        upstream_cost_nusd=tariff.cost_nusd(tokens),
        model=model,
        provider=provider,
    )


def _allocate(file: int, start: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):  # macOS has none, and some file systems refuse it
        try:
            os.posix_fallocate(file, start, size)
        except OSError as fault:
            if fault.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise
        else:
            return
    written = 0
    while written < size:
        written += os.pwrite(file, bytes(size - written), start + written)
