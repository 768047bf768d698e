"""Read the history: the same walk over either engine, which brings `_fetch` and the writing."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from router.history import queries
from router.history.figures import DAY_S, MINUTE_S, Batch, Range, Summary, summed
from router.history.record import ALL_FAILED, NOT_OK, Found, Record, Wish, group_of
from router.history.words import Words

FIRST_WINDOW = 4_096
LARGEST_WINDOW = 8_192
PATIENCE_S = 0.06
# The order of `seq` is that of writing: a worker writes what ended up to so much earlier.
DISORDER_MS = 10_000
MOST_BY_ID = 200
MOST_COUNTED = 20_000
Rows = Sequence[Sequence[Any]]


class Store(ABC):
    """The history of one database. Every method raises Unavailable when it cannot be read or written."""

    @abstractmethod
    async def start(self) -> None:
        """Open it, at the newest schema."""

    @abstractmethod
    async def write(self, batch: Batch) -> None:
        """Add a batch, all or nothing."""

    @abstractmethod
    async def forget(self, keep_requests: int, now_s: float) -> None:
        """Delete all but the newest requests, and the sums of fine steps that no range reads any more."""

    @abstractmethod
    async def close(self) -> None:
        """Give the database up."""

    @abstractmethod
    async def _fetch(self, sql: str, *values: Any) -> Rows:
        """Return the rows of a query."""

    async def summary(self, range_: Range, now_s: float) -> Summary:
        """Return what a range came to."""
        start_s = range_.start_s(now_s)
        figures = await self._fetch(queries.FIGURES, range_.step_s, start_s, range_.bar_s)
        latencies = await self._fetch(queries.LATENCIES, range_.step_s, start_s, range_.bar_s)
        calls = await self._fetch(queries.CALLS, range_.step_s, start_s)
        return summed(range_, now_s, figures, latencies, calls)

    async def calls(self, since_s: int) -> dict[tuple[str, str], dict[str, int]]:
        """Return the calls of each (provider, model) since a moment, by what came of them."""
        found: dict[tuple[str, str], dict[str, int]] = defaultdict(dict)
        rows = await self._fetch(queries.RECENT_CALLS, MINUTE_S, since_s - since_s % MINUTE_S)
        for provider, model, outcome, number in rows:
            found[provider, model][outcome] = number
        return found

    async def names(self, now_s: float) -> dict[str, list[str]]:
        """Return the categories, models and outcomes of the last 30 days, for people to choose from."""
        rows = await self._fetch(queries.NAMES, int(now_s) - 30 * DAY_S)
        kinds = ("category", "model", "outcome")
        found = {kind: sorted({row[number] for row in rows}) for number, kind in enumerate(kinds)}
        found["outcome"].sort(key=lambda name: (group_of(name) != "served", name))
        return found

    async def spent(self, account: str, since_s: int) -> Rows:
        """Return (start_s, model, requests, prompt, completion tokens, charged_nusd) by day, newest first."""
        return await self._fetch(queries.SPENT, account, since_s)

    async def one(self, request_id: str) -> Record | None:
        """Return a request by our id, or the newest that a client gave this id."""
        for query in (queries.ONE, queries.OF_CLIENT):
            rows = await self._fetch(query, request_id)
            if rows:
                return queries.record_of(rows[0])
        return None

    async def words(self, request_id: str) -> Words | None:
        """Return what was said in a request, by our id; None where it is not kept."""
        rows = await self._fetch(queries.WORDS, request_id)
        return queries.words_read(rows[0][0]) if rows else None

    async def newest(self) -> int:
        """Return the `seq` of the newest request, 0 without any."""
        (_, highest), *_ = await self._fetch(queries.BOUNDS)
        return highest or 0

    async def find(self, wish: Wish, limit: int, patience_s: float = PATIENCE_S) -> Found:
        """Return the newest requests of a wish, looking back for about `patience_s`."""
        if wish.found_id:
            return await self._by_id(wish, limit)
        (lowest, highest), *_ = await self._fetch(queries.BOUNDS)
        if highest is None:
            return Found([], None)
        low = max(lowest, wish.after + 1)
        high = highest + 1 if wish.before is None else min(wish.before, highest + 1)
        if wish.until_ms is not None:
            high = min(high, await self._first_at(wish.until_ms + DISORDER_MS, lowest, highest))
        if wish.since_ms is not None:
            low = max(low, await self._first_at(wish.since_ms - DISORDER_MS, lowest, highest))
        return await self._look_back(wish, low, high, limit, patience_s)

    async def between(self, wish: Wish, most: int = MOST_COUNTED) -> tuple[int, bool]:
        """Return how many requests of a wish lie between `after` and `before`, and whether that is all.

        It is not all where more than `most` requests of any kind lie between, or an id is looked for.
        """
        high = wish.before or wish.after + 1
        low = max(wish.after + 1, high - most)
        if wish.found_id or low >= high:
            return 0, not wish.found_id
        [[number]] = await self._fetch(*_flat(queries.count(wish, low, high)))
        return number, low == wish.after + 1

    async def _look_back(self, wish: Wish, low: int, high: int, limit: int, patience_s: float) -> Found:
        found: list[Record] = []
        size, end_s = FIRST_WINDOW, time.monotonic() + patience_s
        while high > low:
            bottom = max(low, high - size)
            rows = await self._fetch(*_flat(queries.window(wish, bottom, high, limit + 1 - len(found))))
            found += [queries.record_of(row) for row in rows]
            if len(found) > limit:
                return Found(found[:limit], found[limit - 1].seq)
            high, size = bottom, min(size * 4, LARGEST_WINDOW)
            if time.monotonic() >= end_s and high > low:
                ended = await self._fetch(queries.ENDED, high)
                return Found(found, high, ended[0][1] if ended else None)
        return Found(found, None)

    async def _by_id(self, wish: Wish, limit: int) -> Found:
        sql, values = queries.by_id(wish.found_id or "", MOST_BY_ID)
        rows = [queries.record_of(row) for row in await self._fetch(sql, *values)]
        named = ("model", "provider", "category", "outcome", "account")
        wanted = {name: value for name in named if (value := getattr(wish, name)) is not None}
        found = [
            record
            for record in rows
            if record.seq > wish.after
            and (wish.before is None or record.seq < wish.before)
            and all(_is(getattr(record, name), value) for name, value in wanted.items())
            and (wish.since_ms is None or record.ended_ms >= wish.since_ms)
            and (wish.until_ms is None or record.ended_ms < wish.until_ms)
        ]
        return Found(found[:limit], found[limit - 1].seq if len(found) > limit else None)

    async def _first_at(self, moment_ms: int, lowest: int, highest: int) -> int:
        """Return about the first `seq` that ended at a moment or later; `seq` nearly follows the time."""
        low, high = lowest, highest + 1
        while low < high:
            middle = (low + high) // 2
            rows = await self._fetch(queries.ENDED, middle)
            if rows and rows[0][1] < moment_ms:
                low = max(int(rows[0][0]), middle) + 1
            else:
                high = middle
        return low


def _is(value: str | None, wanted: str) -> bool:
    if wanted == NOT_OK:
        return value != "ok"
    if wanted == ALL_FAILED:
        return group_of(value or "") == "failed"
    return (value or "") == wanted


def _flat(query: tuple[str, list[Any]]) -> tuple[Any, ...]:
    sql, values = query
    return (sql, *values)
