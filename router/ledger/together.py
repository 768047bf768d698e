"""Ask once for what many want to know at the same moment."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Generic, TypeVar

from router.errors import Unavailable
from router.ledger.ledger import unavailable

K = TypeVar("K")
V = TypeVar("V")


class Together(Generic[K, V]):
    """Gather the keys that are asked for while a query runs into the next one.

    `ask` returns what there is of a list of keys; its Unavailable is told to everyone who waits by then.
    """

    def __init__(self, ask: Callable[[Sequence[K]], Awaitable[Mapping[K, V]]]) -> None:
        self._ask = ask
        self._waiting: dict[K, asyncio.Future[V | None]] = {}
        self._asking: asyncio.Task[None] | None = None

    async def get(self, key: K) -> V | None:
        """Return the value of a key as of now or later, None where there is none. Raises Unavailable."""
        loop = asyncio.get_running_loop()
        future = self._waiting.get(key)
        if future is None:
            future = self._waiting[key] = loop.create_future()
        if self._asking is None:
            self._asking = loop.create_task(self._run())
        return await asyncio.shield(future)  # one who leaves does not take the answer along

    async def _run(self) -> None:
        asked: dict[K, asyncio.Future[V | None]] = {}
        try:
            while self._waiting:
                asked, self._waiting = self._waiting, {}
                found = await self._ask(list(asked))
                for key, future in asked.items():
                    future.set_result(found.get(key))
        except Unavailable:
            pass  # it is in the log, and told to those who wait
        finally:
            self._asking = None
            late, self._waiting = self._waiting, {}
            for future in (*asked.values(), *late.values()):
                if not future.done():
                    future.set_exception(unavailable())
                    future.exception()  # nobody may be left to look at it
