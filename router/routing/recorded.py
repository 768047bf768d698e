"""The lines of the decision log, and how they are read back into what `decide` was given.

A line is the record of CONTRACT section 6 and, beside it, all that `decide` was given and what then happened.
To stay small it keeps the first FALLBACKS_KEPT fallbacks and the first LOSERS_KEPT losers, best ranked first,
with the number of all of them; under load, most lines have the numbers alone (see `recorder.Recorder`). A
replay recomputes what is left out. Figures are not rounded, so that a replay can compare them bit for bit.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

import msgspec
from msgspec import Struct

from router.catalog.price import Tokens
from router.catalog.snapshot import Category, Mode, Model
from router.ledger.money import NUSD_PER_USD
from router.routing.decide import Blocked, Categorised, Live
from router.routing.need import Need

FALLBACKS_KEPT = 5
LOSERS_KEPT = 10
NO_TABLE = "none"


class Ranked(Struct, frozen=True, gc=False):
    """An offer that could serve; `expected_cost_usd` is exact to the nano-dollar (see `usd`)."""

    model: str
    provider: str
    upstream_model: str
    expected_cost_usd: float
    expected_seconds: float
    quality: float | None


class Lost(Struct, frozen=True, gc=False):
    """An offer that was not chosen, and why."""

    model: str
    provider: str
    reason: str
    detail: str


class Quote(Struct, frozen=True, gc=False):
    """What was expected to be charged, and the most that could be: what was held."""

    usd: float
    max_usd: float


class Actual(Struct, frozen=True, gc=False, omit_defaults=True):
    """What then happened; the offer is the one that served or was tried last, None where none was.

    `first_s` and `seconds` count from the arrival of the request. Tokens are None where nothing was billed;
    `charged_nusd` is the customer's charge, `upstream_nusd` what the upstream asks.
    """

    outcome: str
    seconds: float
    model: str | None = None
    provider: str | None = None
    upstream_model: str | None = None
    attempts: int = 0
    stream: bool = False
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int = 0
    written_tokens: int = 0
    charged_nusd: int = 0
    upstream_nusd: int = 0
    first_s: float | None = None
    estimated: bool = False

    @property
    def tokens(self) -> Tokens | None:
        """Return what was billed."""
        if self.prompt_tokens is None or self.completion_tokens is None:
            return None
        return Tokens(self.prompt_tokens, self.completion_tokens, self.cached_tokens, self.written_tokens)


class Baseline(Struct, frozen=True, gc=False):
    """What the same tokens cost at the policy's baseline model."""

    model: str
    cost_nusd: int


class DecisionLine(Struct, frozen=True, gc=False, omit_defaults=True):
    """One request; `blocked` holds (provider, upstream model, reason, wait in s, detail)."""

    request_id: str
    category: Category | None
    probabilities: Mapping[Category, float] | None
    confidence: float | None
    stripped: bool
    mode: Mode
    catalog: str
    offers: str
    live: str
    reason: str
    chosen: Ranked | None
    fallbacks: tuple[Ranked, ...]
    fallbacks_total: int
    losers: tuple[Lost, ...]
    losers_total: int
    quote: Quote | None
    need: Need
    actual: Actual
    blocked: tuple[tuple[str, str, str, int, str], ...] = ()
    baseline: Baseline | None = None
    account: str | None = None
    client_request_id: str | None = None

    @property
    def categorised(self) -> Categorised:
        """Return what `decide` was given."""
        return Categorised(self.category, self.probabilities, self.confidence)


class TableLine(Struct, frozen=True, gc=False):
    """A published live table; `speeds` holds (provider, upstream model, ttft_s, tok_s)."""

    table: str
    speeds: tuple[tuple[str, str, float, float], ...] = ()
    output_tokens: Mapping[Category, int] = {}

    def live(self) -> Live:
        """Return what `decide` was given, but for the offers that took nothing at its moment."""
        speeds = {(provider, upstream): (ttft, tok) for provider, upstream, ttft, tok in self.speeds}
        return Live(id=self.table, speeds=speeds, output_tokens=self.output_tokens)


class OffersLine(Struct, frozen=True, gc=False):
    """Which offers of a catalog could be used: (model, provider, upstream model).

    `mode` is the policy's; `models` are those that no file describes: found on local servers, or the demo's.
    """

    catalog: str
    offers: str
    mode: Mode
    usable: tuple[tuple[str, str, str], ...]
    models: tuple[Model, ...] = ()


def usd(nusd: int) -> float:
    """Return nano-USD as a JSON number in USD.

    A double holds 15 decimal digits: its shortest text is the exact amount below a million USD, and `nusd_of`
    gives the integer back. Ten times as fast as writing the text here; nothing is ever computed with it.
    """
    return nusd / NUSD_PER_USD


def nusd_of(amount_usd: float) -> int:
    """Return the integer that `usd` was given."""
    return round(amount_usd * NUSD_PER_USD)


class Entry(Struct, frozen=True, gc=False):
    """A decision as it was logged, with what `decide` was given; None for a side line that is not there."""

    line: DecisionLine
    live: Live | None
    offers: OffersLine | None


class LogReader:
    """Iterate over the decisions since a moment, file by file; `advance` is told of bytes that were read.

    `skipped` counts the lines that are none: the half line of a crash, or what another version wrote.
    """

    def __init__(
        self,
        files: Iterable[Path],
        since: datetime | None = None,
        advance: Callable[[int], None] = lambda _size_bytes: None,
    ) -> None:
        self._files = files
        self._since = since
        self._advance = advance
        self._decision = msgspec.json.Decoder(DecisionLine)
        self._table = msgspec.json.Decoder(TableLine)
        self._offers = msgspec.json.Decoder(OffersLine)
        self.skipped = 0

    def __iter__(self) -> Iterator[Entry]:
        for path in self._files:
            try:
                file = path.open("rb")
            except FileNotFoundError:  # rotated away since it was listed
                continue
            with file:
                stat = os.fstat(file.fileno())
                # No decision of a file is younger than its last write.
                if self._since is not None and stat.st_mtime < self._since.timestamp():
                    self._advance(stat.st_size)
                else:
                    yield from self._read(file)

    def _read(self, file: BinaryIO) -> Iterator[Entry]:
        tables: dict[str, Live] = {NO_TABLE: Live()}
        offers: dict[str, OffersLine] = {}
        for raw in file:
            self._advance(len(raw))
            try:
                if raw.startswith(b'{"request_id":'):
                    line = self._decision.decode(raw)
                    if self._since is None or line.need.at >= self._since:
                        yield Entry(line, _live(tables.get(line.live), line), offers.get(line.offers))
                elif raw.startswith(b'{"table":'):
                    table = self._table.decode(raw)
                    tables[table.table] = table.live()
                else:
                    side = self._offers.decode(raw)
                    offers[side.offers] = side
            except (msgspec.DecodeError, UnicodeDecodeError):
                self.skipped += 1


def _live(table: Live | None, line: DecisionLine) -> Live | None:
    """Return the table with the offers that took nothing at that moment."""
    if table is None or not line.blocked:
        return table
    blocked = {
        (provider, upstream): Blocked(reason, wait_s, detail)
        for provider, upstream, reason, wait_s, detail in line.blocked
    }
    return msgspec.structs.replace(table, blocked=blocked)
