"""What a check found: one line, which ends with the fix where something is to be mended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "note", "warning", "failure"]


@dataclass(frozen=True, slots=True)
class Finding:
    """State one fact; `fix` is what to do, in the imperative, empty where nothing is wrong."""

    check: str
    state: State
    message: str
    fix: str = ""

    def __post_init__(self) -> None:
        """Raise ValueError for trouble without a fix."""
        if self.state in ("warning", "failure") and not self.fix:
            raise ValueError(f"{self.check}: trouble needs a fix")


def ok(check: str, message: str) -> Finding:
    """Return that something is as it should be."""
    return Finding(check, "ok", message)


def note(check: str, message: str, fix: str = "") -> Finding:
    """Return what is worth knowing and wrong for nobody."""
    return Finding(check, "note", message, fix)


def warning(check: str, message: str, fix: str) -> Finding:
    """Return what will do harm some day."""
    return Finding(check, "warning", message, fix)


def failure(check: str, message: str, fix: str) -> Finding:
    """Return what keeps the router from serving, or from serving safely."""
    return Finding(check, "failure", message, fix)
