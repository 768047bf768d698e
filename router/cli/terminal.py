"""The terminal or pipe that a command talks to for long: its keys, and that it goes away."""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

HANG_UP = 128 + signal.SIGHUP  # what a shell calls a command that its terminal ended


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let SIGHUP and SIGTERM unwind the command, so that what it changed in its terminal is put back."""
    before = {number: signal.signal(number, _end) for number in (signal.SIGHUP, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


@contextmanager
def keys() -> Iterator[Callable[[float, bytes], bool]]:
    """Give a function that waits for some seconds, and says whether a key was pressed meanwhile.

    Other keys do not shorten the wait. It raises SystemExit when the terminal is gone.
    """
    if not sys.stdin.isatty():
        yield _no_key
        return
    import termios
    import tty

    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        yield _pressed
    finally:
        with suppress(termios.error):  # it may be gone
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _pressed(seconds: float, key: bytes) -> bool:
    end_s = time.monotonic() + seconds
    watched = select.poll()
    watched.register(sys.stdin, select.POLLIN)
    while watched.poll(max(0.0, end_s - time.monotonic()) * 1_000):
        read = os.read(sys.stdin.fileno(), 1024)
        if not read:  # the end of a terminal is no key: it would be read again and again
            raise SystemExit(HANG_UP)
        if key in read:
            return True
    return False


def _no_key(seconds: float, _key: bytes) -> bool:
    if wait_for_output_gone(seconds):
        raise SystemExit(HANG_UP)
    return False


def wait_for_output_gone(seconds: float) -> bool:
    """Wait; return early with True where nobody can read standard output any more (its pipe or terminal)."""
    watched = select.poll()
    watched.register(sys.stdout, 0)  # errors and hang-ups are told unasked
    return bool(watched.poll(seconds * 1_000))
