"""The files of a catalog as texts: which of them are read, and what keeps one from being read."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import tomllib
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal, InvalidOperation
from pathlib import Path, PurePosixPath
from typing import Any

from router.catalog.faults import Report, Source, did_you_mean, syntax_fault
from router.catalog.policy import AUTO_NAMES
from router.catalog.snapshot import Fault

MAX_FILE_BYTES = 2**20
_ID = re.compile(r"[a-z0-9][a-z0-9._:-]*(?:/[a-z0-9][a-z0-9._:-]*)*")
_PROVIDER = re.compile(r"[a-z0-9][a-z0-9._-]*")
_IGNORED = re.compile(r"\..*|.*(?:~|\.sw[a-p]|\.bak|\.orig|\.tmp|\.md)|#.*#|4913|__pycache__", re.IGNORECASE)
_SCHEMA = re.compile(r"schema/[^/]+\.json")  # what `#:schema` in the first line of a file points at
_HUGE_NUMBER = re.compile(r"[0-9_]{4000}|[eE][+-]?[0-9_]{10}")
_MAX_DEPTH = 6
_HOLDS = "a catalog's folder holds policy.toml, providers/*.toml and models/**/*.toml"


class TooMany(Exception):
    """A folder holds more files than were to be looked at."""


def catalog_files(
    directory: Path, unreadable: Callable[[OSError], None] | None = None, most: int | None = None
) -> Iterator[tuple[str, Path]]:
    """Yield (name below the directory, path) of every file that is not an editor's or a note, sorted.

    Links are followed, as a mounted Kubernetes ConfigMap needs; the depth is bounded. `unreadable` hears of
    each folder that cannot be listed. Raises `TooMany` where there are more than `most` files and folders.
    """
    found: list[tuple[str, Path]] = []
    seen = 0
    for root, folders, files in os.walk(directory, onerror=unreadable, followlinks=True):
        seen += len(folders) + len(files)
        if most is not None and seen > most:
            raise TooMany
        below = Path(root).relative_to(directory)
        deep = len(below.parts) >= _MAX_DEPTH
        folders[:] = [] if deep else [name for name in folders if not _IGNORED.fullmatch(name)]
        names = [(below / name).as_posix() for name in files if not _IGNORED.fullmatch(name)]
        found.extend((name, directory / name) for name in names if not _SCHEMA.fullmatch(name))
    yield from sorted(found)


def read_texts(directory: Path, report: Report) -> dict[str, bytes]:
    """Read the catalog's files; a file at a place where nothing reads it is a fault."""
    if not directory.is_dir():
        report.faults.append(Fault(str(directory), 1, "", f"no such directory; {_HOLDS}"))
        return {}

    def unreadable(error: OSError) -> None:
        name = Path(error.filename).relative_to(directory).as_posix()
        where = str(directory) if name == "." else name
        report.faults.append(Fault(where, 1, "", f"this folder cannot be read: {error.strerror}"))

    texts: dict[str, bytes] = {}
    for file, path in catalog_files(directory, unreadable):
        if (wrong := _misplaced(file)) is not None:
            notes = report.faults if file.endswith(".toml") else report.warnings
            notes.append(Fault(file, 1, "", wrong))
            continue
        try:
            texts[file] = _read_file(path)
        except OSError as error:
            report.faults.append(Fault(file, 1, "", f"cannot be read: {error.strerror}"))
    if not texts and not report.faults:
        said = f"no catalog here: {_HOLDS}"
        report.faults.append(Fault(str(directory), 1, "", said))
    return texts


def _read_file(path: Path) -> bytes:
    """Read a file; raises `OSError`, also for what would block (a pipe) or never end (a device)."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise OSError(0, "it is not a file")
    if found.st_size > MAX_FILE_BYTES:
        raise OSError(0, f"it has {found.st_size:,} bytes, at most {MAX_FILE_BYTES:,}")
    return path.read_bytes()


def _misplaced(file: str) -> str | None:
    path = PurePosixPath(file)
    if path.suffix != ".toml":
        return "not read: a catalog consists of .toml files"
    if file == "policy.toml":
        return None
    folder = path.parts[0]
    if folder == "providers" and len(path.parts) == 2:
        fits = _PROVIDER.fullmatch(path.stem) is not None
        return None if fits else "a provider's file name has only a-z, 0-9 and . _ -"
    if folder == "models" and len(path.parts) > 1:
        name = model_id(file)
        if name in AUTO_NAMES:
            return f'the id "{name}" is a name of the router\'s own: it would take all of its requests'
        return (
            None if is_model_id(name) else "the id (the path below models/) has only a-z, 0-9 and . _ : / -"
        )
    hint = did_you_mean(file if len(path.parts) == 1 else folder, ["policy.toml", "providers", "models"])
    return f"nothing reads this file{hint}"


def parse_texts(texts: Mapping[str, bytes], report: Report) -> dict[str, Source]:
    """Parse the files that are UTF-8 and TOML; the others are faults."""
    sources: dict[str, Source] = {}
    for file, raw in texts.items():
        try:
            # Windows' editors begin a file with a mark that says UTF-8, which TOML does not know.
            text = raw.decode("utf-8-sig").replace("\r\n", "\n")
        except UnicodeDecodeError as error:
            line = raw.count(b"\n", 0, error.start) + 1
            report.faults.append(Fault(file, line, "", "not UTF-8; save the file as UTF-8"))
            continue
        try:
            sources[file] = Source(file, text, _parse(text))
        except tomllib.TOMLDecodeError as error:
            report.faults.append(syntax_fault(file, text, error))
        except (ValueError, InvalidOperation):
            found = _HUGE_NUMBER.search(text)
            line = text.count("\n", 0, found.start()) + 1 if found else 1
            report.faults.append(Fault(file, line, "", "a number here is too long to be read"))
        except RecursionError:
            report.faults.append(Fault(file, 1, "", "nested too deeply to be read"))
    return sources


def _parse(text: str) -> dict[str, Any]:
    return tomllib.loads(text, parse_float=Decimal)


def revision_of(texts: Mapping[str, bytes]) -> str:
    """Hash names and contents, each with its length, so that no two catalogs read alike; 12 hex digits."""
    digest = hashlib.sha256()
    for file, raw in sorted(texts.items()):
        for part in (file.encode("utf-8", "surrogateescape"), raw):
            digest.update(len(part).to_bytes(8, "big"))
            digest.update(part)
    return digest.hexdigest()[:12]


def model_id(file: str) -> str:
    """Turn models/MAKER/MODEL.toml into MAKER/MODEL."""
    return file.removeprefix("models/").removesuffix(".toml")


def is_model_id(text: str) -> bool:
    """Say whether a text can be a model's id, which is also its path."""
    return _ID.fullmatch(text) is not None


def stem(file: str) -> str:
    """Turn providers/NAME.toml into NAME."""
    return PurePosixPath(file).stem
