"""Write the decision log: JSON lines under DATA/decisions/, one for each ended request; no prompt text.

A file belongs to one process and explains itself: before the first decision that uses a published live table
or a set of usable offers, that table or set is written as a side line, in every file anew. So the oldest
files can go without taking anything that the others need, and processes share the folder without a lock.
Three kinds of lines, told apart by their first member:

    {"table": id, ...}          a published live table
    {"catalog": revision, ...}  which offers of a catalog could be used, under the id in `offers`
    {"request_id": ...}         a decision, with the ids of both
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

import msgspec

FOLDER = "decisions"
SUFFIX = ".jsonl"
FLUSH_S = 0.25
BUFFER_BYTES = 1 << 18
FILE_BYTES = 64 << 20
FILES = 64
# A table is published every ten seconds at most, so this is more than the longest request goes back.
_SIDES_KEPT = 256
_log = logging.getLogger("router.decisions")


class DecisionLine(Protocol):
    """What the writer reads of a decision: the ids of its side lines. The line itself is a msgspec Struct."""

    @property
    def offers(self) -> str:
        """Return the id of the set of usable offers."""
        ...

    @property
    def live(self) -> str:
        """Return the id of the live table."""
        ...


class _Sides:
    """The side lines of one kind, encoded, by id; `in_file` holds the ids that the open file has."""

    def __init__(self) -> None:
        self.lines: dict[str, bytes] = {}
        self.in_file: set[str] = set()

    def keep(self, side_id: str, line: bytes) -> None:
        """Remember a line; the oldest goes where there are too many."""
        self.lines[side_id] = line
        if len(self.lines) > _SIDES_KEPT:
            del self.lines[next(iter(self.lines))]

    def repeated(self) -> bytes:
        """Return again what the file has, for a file that takes its place."""
        return b"".join(self.lines.get(side_id, b"") for side_id in sorted(self.in_file))


class DecisionLog:
    """Append lines to this process's file in `directory`, which is made on first need; from one thread.

    Lines go to the file together: FLUSH_S after the first that waits (a timer of the running event loop;
    none with `delayed` False), when BUFFER_BYTES wait, on `flush` and on `close`. Nothing is synced to the
    disk: a crash of the machine may lose the last second and leave half a line, which readers skip. A file
    that has `file_bytes` is followed by a new one, and the oldest files of the folder beyond `files` are
    deleted, of whatever process. Trouble with the disk is logged and loses lines, never a request.
    `now` gives UTC, for the names of the files.
    """

    def __init__(
        self,
        directory: Path,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        file_bytes: int = FILE_BYTES,
        files: int = FILES,
        delayed: bool = True,
    ) -> None:
        self._directory = directory
        self._now = now
        self._file_bytes = file_bytes
        self._files = max(1, files)
        self._delayed = delayed
        self._encode_into = msgspec.json.Encoder().encode_into
        self._encode = msgspec.json.Encoder().encode
        self._buffer = bytearray()
        self._tables = _Sides()
        self._catalogs = _Sides()
        self._file: int | None = None
        self._size_bytes = 0
        self._waiting: asyncio.TimerHandle | None = None
        self._lost = 0
        self._lines = 0

    def has_live(self, table_id: str) -> bool:
        """Tell whether `live` knows a table."""
        return table_id in self._tables.lines

    def live(self, table_id: str, line: msgspec.Struct) -> None:
        """Take a published live table, to be written before the first decision that names it."""
        self._tables.keep(table_id, self._encode(line) + b"\n")

    def catalog(self, offers_id: str, line: msgspec.Struct) -> None:
        """Take a set of usable offers, to be written before the first decision that names it."""
        self._catalogs.keep(offers_id, self._encode(line) + b"\n")

    def write(self, line: DecisionLine) -> None:
        """Append a decision, and before it what it needs and the file does not have yet."""
        if line.live not in self._tables.in_file:
            self._add_side(self._tables, line.live)
        if line.offers not in self._catalogs.in_file:
            self._add_side(self._catalogs, line.offers)
        buffer = self._buffer
        self._encode_into(line, buffer, -1)
        buffer += b"\n"
        self._lines += 1
        if len(buffer) >= BUFFER_BYTES:
            self.flush()
        elif self._waiting is None and self._delayed:
            self._waiting = asyncio.get_running_loop().call_later(FLUSH_S, self.flush)

    def _add_side(self, sides: _Sides, side_id: str) -> None:
        sides.in_file.add(side_id)
        self._buffer += sides.lines.get(side_id, b"")

    def flush(self) -> None:
        """Write out what waits."""
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None
        if not self._buffer:
            return
        try:
            self._append()
        except OSError as error:
            if not self._lost:
                _log.error(
                    "decisions cannot be written to %s (%s): free the disk or set its mode; "
                    "requests are served, their decisions are lost",
                    self._directory,
                    error.strerror,
                )
            self._lost += self._lines
            self._leave_file()
        else:
            if self._lost:
                _log.warning("decisions are written again; %d were lost", self._lost)
                self._lost = 0
            if self._size_bytes >= self._file_bytes:
                self._leave_file()
        self._buffer.clear()
        self._lines = 0

    def close(self) -> None:
        """Write out what waits and close the file; a later `write` begins a new one."""
        self.flush()
        self._leave_file()

    def _append(self) -> None:
        data = bytes(self._buffer)
        if self._file is not None and os.fstat(self._file).st_nlink == 0:
            # Someone deleted the file under us: what goes on in a new one must explain itself there.
            data = self._tables.repeated() + self._catalogs.repeated() + data
            os.close(self._file)
            self._file = None
        if self._file is None:
            self._file, self._size_bytes = self._open(), 0
        left = memoryview(data)
        while left:
            left = left[os.write(self._file, left) :]
        self._size_bytes += len(data)

    def _leave_file(self) -> None:
        self._tables.in_file.clear()
        self._catalogs.in_file.clear()
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _open(self) -> int:
        """Begin a file named by the moment and the process; of two with one name the later one counts up."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        moment = self._now()
        while True:
            name = f"{moment:%Y%m%dT%H%M%S.%fZ}-{os.getpid()}{SUFFIX}"
            try:
                flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND
                opened = os.open(self._directory / name, flags, 0o600)
            except FileExistsError:
                moment += timedelta(microseconds=1)
                continue
            for old in decision_files(self._directory)[: -self._files]:
                old.unlink(missing_ok=True)
            return opened


def decision_files(directory: Path) -> list[Path]:
    """Return the files of a decision log, in the order in which they were begun."""
    try:
        return sorted(path for path in directory.iterdir() if path.suffix == SUFFIX)
    except FileNotFoundError:
        return []
