"""Read the end of the decision log while processes go on writing it."""

from __future__ import annotations

from pathlib import Path

from router.telemetry.decisions import decision_files

_DECISION = b'{"request_id":'
_BLOCK_BYTES = 1 << 16


class Follower:
    """Give the decisions of a log as they come, over all its files, new and rotated ones too.

    A line counts when it has its end; half a line waits for the rest.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._read_bytes: dict[Path, int] = {}

    def last(self, count: int) -> list[bytes]:
        """Return at least the last `count` decisions of every file, or all it has, and begin after them."""
        found: list[bytes] = []
        for path in decision_files(self._directory):
            try:
                lines, self._read_bytes[path] = _last_decisions(path, count)
            except FileNotFoundError:  # rotated away since it was listed
                continue
            found += lines
        return found

    def poll(self) -> list[bytes]:
        """Return the decisions that were written since the last call, file by file."""
        found: list[bytes] = []
        files = decision_files(self._directory)
        self._read_bytes = {path: self._read_bytes.get(path, 0) for path in files}
        for path in files:
            try:
                with path.open("rb") as file:
                    file.seek(self._read_bytes[path])
                    data = file.read()
            except FileNotFoundError:  # rotated away since it was listed
                continue
            whole = data.rfind(b"\n") + 1
            self._read_bytes[path] += whole
            found += _decisions(data[:whole].split(b"\n"))
        return found


def _last_decisions(path: Path, count: int) -> tuple[list[bytes], int]:
    """Return the last decisions of a file, and where its last whole line ends."""
    with path.open("rb") as file:
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
