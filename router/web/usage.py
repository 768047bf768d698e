"""What an account used, by day and by model: from the history's sums, which are kept for good."""

from __future__ import annotations

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from msgspec import Struct

from router.history.figures import DAY_S, NOBODY
from router.ledger.money import NUSD_PER_USD, nusd_to_usd
from router.web.chart import CATEGORIES, Chart, span, stacked
from router.web.csv_rows import cell
from router.web.words import count, short, usd

SPANS = {"7": 7, "30": 30, "90": 90}
"""Days that are shown, by their name."""
COLUMNS = ("day", "model", "requests", "prompt_tokens", "completion_tokens", "charged_usd")
# The colours of the bars are those of the categories: the dearest models have one each, the rest the last.
_COLOURED, REST = len(CATEGORIES) - 1, CATEGORIES[-1]


class Used(Struct):
    """What some requests came to, of all or of those of one model or day."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    charged_nusd: int = 0

    def add(self, row: Sequence[int]) -> None:
        """Add the sums of a row."""
        self.requests += row[0]
        self.prompt_tokens += row[1]
        self.completion_tokens += row[2]
        self.charged_nusd += row[3]

    @property
    def tokens(self) -> int:
        """Return the tokens of both directions."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class Usage:
    """A stretch of days: `by_model` has (name, colour, sums, share of the largest in percent)."""

    days: int
    total: Used
    by_day: list[tuple[str, Used]]
    by_model: list[tuple[str, str, Used, float]]
    money: bool
    wide: Chart
    narrow: Chart
    month_nusd: int


def first_s(days: int, now_s: float) -> int:
    """Return where the first of so many days begins, the last being today."""
    return (int(now_s) // DAY_S - days + 1) * DAY_S


def usage_of(rows: Iterable[Sequence[Any]], days: int, now_s: float, month_s: int) -> Usage:
    """Put the rows of `Store.spent` together; `month_s` is when this month began."""
    begin_s = first_s(days, now_s)
    total, month_nusd = Used(), 0
    by_day: dict[int, Used] = defaultdict(Used)
    by_model: dict[str, Used] = defaultdict(Used)
    at: dict[int, dict[str, Used]] = defaultdict(lambda: defaultdict(Used))
    for start_s, model, *sums in rows:
        if start_s >= month_s:
            month_nusd += sums[3]
        if start_s >= begin_s:
            for each in (total, by_day[start_s], by_model[model], at[start_s][model]):
                each.add(sums)
    money = total.charged_nusd > 0
    size = _charged if money else _requests
    ranked = sorted(by_model.items(), key=lambda each: (-size(each[1]), -each[1].requests, each[0]))
    colours = _colours([name for name, _ in ranked if name != NOBODY])
    bars: list[Counter[str]] = [Counter() for _ in range(days)]
    for start_s, models in at.items():
        for model, used in models.items():
            bars[min(days - 1, (start_s - begin_s) // DAY_S)][colours.get(model, REST)] += size(used)
    most = max((size(used) for _, used in ranked), default=0) or 1

    def drawn(width: float, height: float, labels: int) -> Chart:
        tick = _cents if money else short
        shape = {"width": width, "height": height}
        return stacked(bars, begin_s, DAY_S, **shape, labels=labels, title=_titles(by_day), tick=tick)

    return Usage(
        days=days,
        total=total,
        by_day=[(span(start_s, DAY_S), by_day[start_s]) for start_s in sorted(by_day, reverse=True)],
        by_model=[
            (name, colours.get(name, REST), used, round(100 * size(used) / most, 2)) for name, used in ranked
        ],
        money=money,
        wide=drawn(1120, 210, 10),
        narrow=drawn(360, 190, 4),
        month_nusd=month_nusd,
    )


def usage_csv(rows: Iterable[Sequence[Any]]) -> str:
    """Return days and models as CSV (RFC 4180)."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for start_s, model, requests, prompt, completion, charged_nusd in rows:
        day = f"{datetime.fromtimestamp(start_s, UTC):%Y-%m-%d}"
        writer.writerow((day, cell(model), requests, prompt, completion, nusd_to_usd(charged_nusd)))
    return out.getvalue()


def _colours(ranked: Sequence[str]) -> dict[str, str]:
    """Return the colour of each of the first models; what has none takes that of the rest."""
    return dict(zip(ranked, CATEGORIES[:_COLOURED], strict=False))


def _charged(used: Used) -> int:
    return used.charged_nusd


def _requests(used: Used) -> int:
    return used.requests


def _titles(by_day: Mapping[int, Used]) -> Callable[[Mapping[str, int], int, int], str]:
    def title(_bar: Mapping[str, int], begin_s: int, bar_s: int) -> str:
        used = by_day.get(begin_s, Used())
        return f"{span(begin_s, bar_s)}: {usd(used.charged_nusd)}, {count(used.requests)} requests"

    return title


def _cents(nusd: float) -> str:
    """Write an amount in few letters: in cents below one of them."""
    cent = NUSD_PER_USD // 100
    if nusd and nusd < cent:
        return f"{nusd / cent:.3g}¢"
    return f"${short(nusd / NUSD_PER_USD)}" if nusd else "0"
