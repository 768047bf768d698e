"""One line a request, and the program's own log in the same form; never keys, prompts or answers."""

from __future__ import annotations

import logging
import sys
import time
from typing import IO, Any, Literal

import msgspec

LogForm = Literal["json", "text"]


class LineFormatter(logging.Formatter):
    """Write a log record as one line, JSON or text; line breaks in it are escaped."""

    def __init__(self, form: LogForm) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%SZ")
        self.converter = time.gmtime
        self._form = form

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        if self._form == "text":
            head, _, trace = super().format(record).partition("\nTraceback")
            head = head.replace("\r", "\\r").replace("\n", "\\n")
            return f"{head}\nTraceback{trace}" if trace else head
        fields: dict[str, Any] = {
            "at": self.formatTime(record, self.datefmt),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["trace"] = self.formatException(record.exc_info)
        return msgspec.json.encode(fields).decode()


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
    """Write a line for each finished request."""

    def __init__(self, form: LogForm, stream: IO[str] | None = None) -> None:
        self._form = form
        self._stream = stream or sys.stderr
        self._encode = msgspec.json.Encoder().encode

    def write(self, at: str, fields: dict[str, Any]) -> None:
        """Write the fields that are not None, in their order."""
        present = {name: value for name, value in fields.items() if value is not None}
        if self._form == "json":
            line = self._encode({"at": at, "level": "info", "logger": "router.request", **present}).decode()
        else:
            line = f"{at} request " + " ".join(f"{k}={_text(v)}" for k, v in present.items())
        self._stream.write(line + "\n")
        self._stream.flush()


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    text = str(value)
    return (
        text
        if text.isascii() and text.isprintable() and " " not in text
        else msgspec.json.encode(text).decode()
    )
