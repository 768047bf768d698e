"""The log of requests as CSV (RFC 4180), a page of the store at a time, however many they are."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator

import msgspec

from router.history.history import History
from router.history.record import Record, Wish
from router.ledger.money import nusd_to_usd
from router.ledger.rows import utc_text

CSV_ROWS = 2_000
CSV_FIRST = 200  # a download that begins at once
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
COLUMNS = (
    *("ended_at", "request_id", "client_request_id", "account", "outcome", "asked", "category", "model"),
    *("provider", "stream", "attempts", "prompt_tokens", "completion_tokens", "estimated", "charged_usd"),
    *("upstream_usd", "baseline", "baseline_usd", "first_ms", "total_ms"),
)


async def csv_rows(
    history: History, wish: Wish, records: list[Record], before: int | None
) -> AsyncIterator[bytes]:
    """Yield the rows, newest first, a page of the store at a time (RFC 4180: CRLF, quotes doubled)."""
    yield _lines([COLUMNS])
    while True:
        if records:
            yield _lines([_cells(record) for record in records])
        if before is None:
            return
        found = await history.store.find(msgspec.structs.replace(wish, before=before), CSV_ROWS)
        records, before = found.records, found.next_before


def _lines(rows: list[tuple[str, ...]]) -> bytes:
    out = io.StringIO(newline="")
    csv.writer(out, lineterminator="\r\n").writerows(rows)
    return out.getvalue().encode()


def _cells(record: Record) -> tuple[str, ...]:
    return (
        utc_text(record.ended_ms / 1e3),
        *(cell(value) for value in (record.request_id, record.client_request_id, record.account)),
        *(cell(value) for value in (record.outcome, record.asked, record.category, record.model)),
        cell(record.provider),
        "true" if record.stream else "false",
        str(len(record.attempts)),
        str(record.prompt_tokens),
        str(record.completion_tokens),
        "true" if record.estimated else "false",
        nusd_to_usd(record.charged_nusd),
        nusd_to_usd(record.upstream_nusd),
        cell(record.baseline),
        "" if record.baseline_nusd is None else nusd_to_usd(record.baseline_nusd),
        "" if record.first_ms is None else str(record.first_ms),
        str(record.ms),
    )


def cell(value: str | None) -> str:
    """Return a text as a spreadsheet takes it for one: what it would compute gets an apostrophe before it."""
    text = value or ""
    return f"'{text}" if text.startswith(_FORMULA) else text
