"""Rest somebody who does not answer, by a clock that never steps."""

from __future__ import annotations

from collections.abc import Callable


class Breaker:
    """Open for `rest_s` seconds after `failures` silences in a row; from then on, after each further one."""

    def __init__(self, clock: Callable[[], float], *, failures: int = 5, rest_s: float = 10.0) -> None:
        self._clock = clock
        self._allowed = failures
        self._rest_s = rest_s
        self._silent = 0
        self._until = float("-inf")

    @property
    def closed(self) -> bool:
        """Tell whether it may be asked."""
        return self._clock() >= self._until

    def answered(self) -> None:
        """Note an answer, whatever it said."""
        self._silent = 0
        self._until = float("-inf")

    def silent(self) -> None:
        """Note a call that nothing usable came of."""
        self._silent += 1
        if self._silent >= self._allowed:
            self._until = self._clock() + self._rest_s
