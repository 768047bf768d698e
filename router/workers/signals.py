"""The signals of a serving process: heard by a function of ours from its first step to its last.

No handler gives a signal its default back, or has Python ignore it, before Python takes itself down. One that
came a moment earlier would be told on standard error with a traceback ("Signal 2 ignored due to race
condition"), and one that raises would do so in what takes the loop down.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

ENDING = (signal.SIGTERM, signal.SIGINT)


def end_when_asked() -> None:
    """Let SIGTERM and Ctrl-C end the process well, at once, until something else listens to them.

    Nothing is open yet that would have to be closed. In its last step the process stops hearing signals.
    """
    for wanted in ENDING:
        signal.signal(wanted, _end)
    atexit.register(_hear_nothing)


def listen_to(wanted: signal.Signals, do: Callable[[], None]) -> None:
    """Do something in the running loop at a signal, and nothing once that loop is closed.

    What `add_signal_handler` sets goes with the loop, and the next Ctrl-C would find Python's default.
    """
    loop = asyncio.get_running_loop()

    def hear(_signal: int, _frame: FrameType | None) -> None:
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(do)

    signal.signal(wanted, hear)


def forget_wakeups() -> None:
    """Let a signal that finds the pipe full by which it wakes the loop go unsaid: a full one wakes it too."""
    wakeup = signal.set_wakeup_fd(-1)
    if wakeup != -1:
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)


def _end(_signal: int, _frame: FrameType | None) -> NoReturn:
    """End the process: to be asked to stop is not a fault."""
    os._exit(0)


def _hear_nothing() -> None:
    """Ignore signals while Python takes itself down, which gives them their defaults back.

    What comes in the middle of this has nobody left to tell.
    """
    sys.unraisablehook = lambda _unraisable: None
    for wanted in (*ENDING, signal.SIGHUP):
        signal.signal(wanted, signal.SIG_IGN)
