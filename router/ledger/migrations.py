"""The packaged migrations of an engine: numbered, forward only."""

from __future__ import annotations

from importlib import resources


def migrations(folder: str) -> list[tuple[int, str]]:
    """Return (number, SQL) of every migration in a folder of this package, in order."""
    files = sorted(
        (
            file
            for file in (resources.files("router.ledger") / folder).iterdir()
            if file.name.endswith(".sql")
        ),
        key=lambda file: file.name,
    )
    return [(int(file.name.split("_", 1)[0]), file.read_text("utf-8")) for file in files]
