"""One line a request, and the program's own log in the same form; never keys, prompts or answers."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from typing import IO, Any, Literal

import msgspec

LogForm = Literal["json", "text"]
FLUSH_S = 0.05
BUFFER_BYTES = 1 << 16


class LineFormatter(logging.Formatter):
    """Write a log record as one line, JSON or text; only a traceback adds lines, each of them indented."""

    def __init__(self, form: LogForm) -> None:
        super().__init__(datefmt="%Y-%m-%dT%H:%M:%SZ")
        self.converter = time.gmtime
        self._form = form

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        at = self.formatTime(record, self.datefmt)
        trace = self.formatException(record.exc_info) if record.exc_info else None
        if self._form == "text":
            head = _one_line(f"{at} {record.levelname} {record.name}: {record.getMessage()}")
            return "\n    ".join([head, *map(_one_line, trace.splitlines() if trace else ())])
        fields: dict[str, Any] = {
            "at": at,
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _as_utf8(record.getMessage()),
        }
        if trace is not None:
            fields["trace"] = _as_utf8(trace)
        return msgspec.json.encode(fields).decode()


def _one_line(text: str) -> str:
    """Escape what is not printable: line ends, which would forge lines, and a terminal's commands."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _as_utf8(text: str) -> str:
    """Escape lone surrogates, which no encoder takes; file names may hold them."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def configure_logging(form: LogForm, stream: IO[str] | None = None) -> None:
    """Send the program's log to standard error."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(LineFormatter(form))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    for noisy in ("httpx2", "httpcore2", "uvicorn"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


class RequestLog:
    """Write a line for each finished request.

    To a given stream each line goes at once. To standard error, lines go together after FLUSH_S: a system
    call a request is what a busy router would pay for the last of them otherwise.
    """

    def __init__(self, form: LogForm, stream: IO[str] | None = None) -> None:
        self._form = form
        self._delayed = stream is None
        self._stream: IO[str] = stream or open(  # noqa: SIM115 - lives as long as the process
            sys.stderr.fileno(), "w", buffering=BUFFER_BYTES, encoding="utf-8", closefd=False
        )
        self._encode = msgspec.json.Encoder().encode
        self._flushing: asyncio.TimerHandle | None = None

    def write(self, at: str, fields: dict[str, Any]) -> None:
        """Write the fields that are not None, in their order; from the event loop."""
        present = {name: value for name, value in fields.items() if value is not None}
        line = self._json_line(at, present) if self._form == "json" else _text_line(at, present)
        self._stream.write(line + "\n")
        if not self._delayed:
            self._stream.flush()
        elif self._flushing is None:
            self._flushing = asyncio.get_running_loop().call_later(FLUSH_S, self.flush)

    def _json_line(self, at: str, present: dict[str, Any]) -> str:
        line = {"at": at, "level": "info", "logger": "router.request", **present}
        try:
            return self._encode(line).decode()
        except UnicodeEncodeError:
            escaped = {k: _as_utf8(v) if isinstance(v, str) else v for k, v in line.items()}
            return self._encode(escaped).decode()

    def flush(self) -> None:
        """Write out what waits."""
        self._flushing = None
        self._stream.flush()


def _text_line(at: str, present: dict[str, Any]) -> str:
    """Return `name=value` pairs; a value that could be taken for more than one is quoted."""
    pairs = [
        f"{name}={value:.4g}" if type(value) is float else f"{name}={value}"
        for name, value in present.items()
    ]
    line = " ".join(pairs)
    # One look at the whole line: as a rule no value needs a look of its own.
    plain = line.isascii() and line.isprintable() and '"' not in line and line.count(" ") == len(pairs) - 1
    if not plain:
        line = " ".join(f"{name}={_text(value)}" for name, value in present.items())
    return f"{at} request {line}"


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    text = _as_utf8(str(value))
    plain = text.isascii() and text.isprintable() and " " not in text and '"' not in text
    return text if plain else msgspec.json.encode(text).decode()
