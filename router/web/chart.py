"""Geometry of bar charts, which templates write as SVG: they need no script and take the page's colours."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from router.history.figures import DAY_S, HOUR_S
from router.web.words import count, short

CATEGORIES = ("simple", "coding", "reasoning", "vision", "named")
_LEFT, _BOTTOM, _TOP = 40.0, 22.0, 8.0


@dataclass(frozen=True, slots=True)
class Part:
    """One piece of a bar."""

    name: str
    y: float
    height: float


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar, and what it says."""

    x: float
    width: float
    title: str
    parts: list[Part]


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark of an axis."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart of a fixed size, in the units of its view box."""

    width: float
    height: float
    left: float
    base: float
    bars: list[Bar]
    rows: list[Tick]
    columns: list[Tick]


def stacked(
    bars: Sequence[Mapping[str, int]],
    start_s: int,
    bar_s: int,
    *,
    width: float,
    height: float,
    labels: int,
    title: Callable[[Mapping[str, int], int, int], str] | None = None,
    tick: Callable[[float], str] = short,
) -> Chart:
    """Return bars of requests by category over time; about `labels` of them are named.

    `title` says a bar that begins at a moment and lasts so many seconds; `tick` writes the marks of the rows.
    """
    title = title or _title
    most = max((sum(bar.values()) for bar in bars), default=0)
    step = _step(most)
    top = max(step, -(-most // step) * step)
    base = height - _BOTTOM
    room = base - _TOP
    pitch = (width - _LEFT) / len(bars)
    drawn = []
    for number, bar in enumerate(bars):
        begin_s = start_s + number * bar_s
        x, y, parts = _LEFT + number * pitch + pitch * 0.14, base, []
        for name in CATEGORIES:
            if bar.get(name):
                size = bar[name] / top * room
                y -= size
                parts.append(Part(name, round(y, 2), round(size, 2)))
        drawn.append(Bar(round(x, 2), round(pitch * 0.72, 2), title(bar, begin_s, bar_s), parts))
    rows = [
        Tick(round(base - value / top * room, 2), tick(value)) for value in range(0, int(top) + 1, int(step))
    ]
    numbers = list(range(len(bars)))
    if HOUR_S < bar_s < DAY_S:  # a day has several bars: name its first
        numbers = [number for number in numbers if (start_s + number * bar_s) % DAY_S == 0]
    columns = [
        Tick(round(_LEFT + (number + 0.5) * pitch, 2), _moment(start_s + number * bar_s, bar_s))
        for number in numbers[:: -max(1, -(-len(numbers) // labels))]
    ]
    return Chart(width, height, _LEFT, base, drawn, rows, columns[::-1])


def _step(most: int) -> int:
    """Return a round distance of the rows, of which there are at most six."""
    step = 1
    while most > step * 6:
        step = {1: 2, 2: 5, 5: 10}[int(str(step)[0])] * 10 ** (len(str(step)) - 1)
    return step


def _title(bar: Mapping[str, int], begin_s: int, bar_s: int) -> str:
    told = ", ".join(f"{name} {count(bar[name])}" for name in CATEGORIES if bar.get(name))
    total = sum(bar.values())
    return f"{span(begin_s, bar_s)}: {count(total)} requests" + (f" ({told})" if told else "")


def span(begin_s: int, bar_s: int) -> str:
    """Write the stretch of time of a bar."""
    begin, end = (datetime.fromtimestamp(moment, UTC) for moment in (begin_s, begin_s + bar_s))
    if bar_s >= DAY_S:
        return f"{begin:%a %d %b}"
    return f"{begin:%a %d %b %H:%M}–{end:%H:%M}" if bar_s > HOUR_S else f"{begin:%H:%M}–{end:%H:%M}"


def _moment(begin_s: int, bar_s: int) -> str:
    begin = datetime.fromtimestamp(begin_s, UTC)
    return f"{begin:%H:%M}" if bar_s <= HOUR_S else f"{begin:%d %b}"
