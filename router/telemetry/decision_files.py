"""Read the end of the decision log while processes go on writing it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from router.telemetry.decisions import decision_files

_DECISION = b'{"request_id":'
_BLOCK_BYTES = 1 << 16


class Follower:
    """Give the decisions of a log as they come, over all its files, new and rotated ones too.

    A line counts when it has its end; half a line waits for the rest. Files are kept open: what a file had
    when it was rotated away is given all the same. `close` it.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._files: dict[Path, BinaryIO] = {}

    def last(self, count: int) -> list[bytes]:
        """Return at least the last `count` decisions of every file, or all it has, and begin after them."""
        self._open(decision_files(self._directory))
        found: list[bytes] = []
        for _, file in sorted(self._files.items()):
            lines, end = _last_decisions(file, count)
            file.seek(end)
            found += lines
        return found

    def poll(self) -> list[bytes]:
        """Return the decisions that were written since the last call, file by file."""
        found: list[bytes] = []
        listed = decision_files(self._directory)
        self._open(listed)
        for path, file in sorted(self._files.items()):
            start = file.tell()
            data = file.read()
            whole = data.rfind(b"\n") + 1
            file.seek(start + whole)
            found += _decisions(data[:whole].split(b"\n"))
            if path not in listed:
                self._files.pop(path).close()
        return found

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()
        self._files.clear()

    def _open(self, paths: list[Path]) -> None:
        for path in paths:
            if path not in self._files:
                with suppress(FileNotFoundError):  # rotated away since it was listed
                    self._files[path] = path.open("rb")


def _last_decisions(file: BinaryIO, count: int) -> tuple[list[bytes], int]:
    """Return the last decisions of a file, and where its last whole line ends."""
    size_bytes = file.seek(0, 2)
    wanted_bytes = _BLOCK_BYTES
    while True:
        start = max(0, size_bytes - wanted_bytes)
        file.seek(start)
        lines = file.read(size_bytes - start).split(b"\n")
        end = size_bytes - len(lines.pop())
        found = _decisions(lines if start == 0 else lines[1:])
        if start == 0 or len(found) >= count:
            return found[len(found) - count :] if count < len(found) else found, end
        wanted_bytes *= 4


def _decisions(lines: list[bytes]) -> list[bytes]:
    return [line for line in lines if line.startswith(_DECISION)]
