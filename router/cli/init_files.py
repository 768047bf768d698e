"""Files of the user: shown as a diff, asked for, copied aside, then written whole."""

from __future__ import annotations

import difflib
import os
import shutil
import tempfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import click

PRIVATE = 0o600  # they hold a key


@dataclass(frozen=True)
class Change:
    """A file before and after; `before` is None where there is none."""

    path: Path
    before: str | None
    after: str

    @property
    def needed(self) -> bool:
        """Tell whether the file would be another."""
        return self.before != self.after

    def diff(self) -> str:
        """Return the change as a unified diff."""
        before = (self.before or "").splitlines(keepends=True)
        name = str(self.path)
        lines = difflib.unified_diff(
            before,
            self.after.splitlines(keepends=True),
            name if self.before is not None else "/dev/null",
            name,
        )
        return "".join(
            line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines
        )


def read(path: Path) -> str | None:
    """Return the text of a file, None where there is none; another fault ends the command."""
    try:
        with path.open(encoding="utf-8", newline="") as file:  # its line ends are the user's
            return file.read()
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        raise click.ClickException(
            f"{path} is not UTF-8, so it was left alone: save it as UTF-8 and do this again"
        ) from None
    except OSError as fault:
        raise click.ClickException(f"{path} cannot be read: {fault}") from None


def write(change: Change, now: datetime) -> Path | None:
    """Write the file in one step, where it was one with its mode; return the copy of what it was."""
    path = change.path.resolve()  # a link stays a link
    if change.before is not None and not path.stat().st_mode & 0o222:  # somebody means it to stay so
        raise click.ClickException(
            f"{path} is read-only, so it was left alone: `chmod u+w {path}`, and do this again"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = None
    if change.before is not None:
        kept = aside(path, now)
        shutil.copy2(path, kept)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            file.write(change.after)
        Path(temporary).chmod(path.stat().st_mode & 0o777 if change.before is not None else PRIVATE)
        Path(temporary).replace(path)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise
    return kept


def aside(path: Path, now: datetime) -> Path:
    """Return a free name for a copy: FILE.bak-<UTC time>."""
    name = f"{path.name}.bak-{now:%Y%m%dT%H%M%SZ}"
    free = path.with_name(name)
    count = 1
    while free.exists():
        count += 1
        free = path.with_name(f"{name}-{count}")
    return free


def agreed(question: str, *, yes: bool) -> bool:
    """Ask; where nobody can answer, say how to."""
    if yes:
        return True
    try:
        return click.confirm(question, default=False)
    except click.Abort:
        click.echo()
        raise click.ClickException(
            "nobody answered: nothing was changed; --yes changes without asking"
        ) from None
