"""What is asked of the history, in SQL that both engines take; parameters are `$1`, `$2` in their order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import msgspec
from msgspec import Struct

from router.history.record import ALL_FAILED, FAILED, NOT_OK, Attempt, Record, Why, Wish
from router.history.words import Words

COLUMNS = (
    *("request_id", "client_request_id", "ended_ms", "account", "outcome", "asked", "category", "model"),
    *("provider", "stream", "ms", "first_ms", "prompt_tokens", "completion_tokens", "estimated"),
    *("charged_nusd", "upstream_nusd", "baseline", "baseline_nusd", "detail"),
)
SUMS = (
    *("requests", "prompt_tokens", "completion_tokens", "charged_nusd", "upstream_nusd", "baseline_nusd"),
    "compared_nusd",
)
TABLES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "history_figures": (("step_s", "start_s", "category", "model", "outcome", "baseline"), SUMS),
    "history_latencies": (("step_s", "start_s", "span", "bucket"), ("requests",)),
    "history_calls": (("step_s", "start_s", "provider", "model", "outcome"), ("calls", "ms")),
    "history_spent": (("account", "start_s", "model"), SUMS[:4]),
}
"""The tables of sums: their keys, and what is added up."""

_ALL = ", ".join(COLUMNS)
BOUNDS = "SELECT (SELECT min(seq) FROM history_requests), (SELECT max(seq) FROM history_requests)"
ENDED = "SELECT seq, ended_ms FROM history_requests WHERE seq >= $1 ORDER BY seq LIMIT 1"
ONE = f"SELECT seq, {_ALL} FROM history_requests WHERE request_id = $1"
OF_CLIENT = f"""
SELECT seq, {_ALL} FROM history_requests WHERE client_request_id = $1 ORDER BY seq DESC LIMIT 1
"""
# $2 is where the first bar begins, $3 its seconds: a row is of a bar, not of a step.
FIGURES = f"""
SELECT (start_s - $2) / $3, category, model, outcome, baseline,
    {", ".join(f"CAST(sum({name}) AS bigint)" for name in SUMS)}
FROM history_figures WHERE step_s = $1 AND start_s >= $2 GROUP BY 1, 2, 3, 4, 5
"""
LATENCIES = """
SELECT (start_s - $2) / $3, span, bucket, CAST(sum(requests) AS bigint)
FROM history_latencies WHERE step_s = $1 AND start_s >= $2 GROUP BY 1, 2, 3
"""
CALLS = """
SELECT provider, outcome, CAST(sum(calls) AS bigint), CAST(sum(ms) AS bigint)
FROM history_calls WHERE step_s = $1 AND start_s >= $2 GROUP BY provider, outcome
"""
RECENT_CALLS = """
SELECT provider, model, outcome, CAST(sum(calls) AS bigint)
FROM history_calls WHERE step_s = $1 AND start_s >= $2 GROUP BY provider, model, outcome
"""
NAMES = """
SELECT DISTINCT category, model, outcome FROM history_figures WHERE step_s = 86400 AND start_s >= $1
"""
SPENT = """
SELECT start_s, model, requests, prompt_tokens, completion_tokens, charged_nusd
FROM history_spent WHERE account = $1 AND start_s >= $2 ORDER BY start_s DESC, charged_nusd DESC
"""
WORDS = "SELECT words FROM history_words WHERE request_id = $1"
# Before the requests themselves: what is read of a request that is gone are no words.
FORGET_WORDS = """
DELETE FROM history_words WHERE request_id IN (SELECT request_id FROM history_requests WHERE seq <= $1)
"""
FORGET_REQUESTS = "DELETE FROM history_requests WHERE seq <= $1"
FORGET_SUMS = [
    f"DELETE FROM {table} WHERE step_s = $1 AND start_s < $2"
    for table, (keys, _) in TABLES.items()
    if "step_s" in keys
]


class _Detail(Struct, omit_defaults=True):
    attempts: tuple[Attempt, ...] = ()
    why: Why | None = None


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Detail).decode
_decode_words = msgspec.json.Decoder(Words).decode


def values_of(record: Record) -> tuple[Any, ...]:
    """Return a request as the columns hold it."""
    return (
        record.request_id,
        record.client_request_id,
        record.ended_ms,
        record.account,
        record.outcome,
        record.asked,
        record.category,
        record.model,
        record.provider,
        int(record.stream),
        record.ms,
        record.first_ms,
        record.prompt_tokens,
        record.completion_tokens,
        int(record.estimated),
        record.charged_nusd,
        record.upstream_nusd,
        record.baseline,
        record.baseline_nusd,
        _encode(_Detail(record.attempts, record.why)).decode(),
    )


def record_of(row: Sequence[Any]) -> Record:
    """Return a request that was read, with its `seq` first."""
    seq, *values, detail = row
    told = _decode(detail)
    made = dict(zip(COLUMNS, values, strict=False))
    made |= {"stream": bool(made["stream"]), "estimated": bool(made["estimated"])}
    return Record(**made, attempts=told.attempts, why=told.why, seq=seq)


def words_of(records: Sequence[Record]) -> list[tuple[str, str]]:
    """Return the words of requests as the columns hold them, of those that have any."""
    return [(each.request_id, _encode(each.words).decode()) for each in records if each.words is not None]


def words_read(text: str) -> Words:
    """Return the words that were read."""
    return _decode_words(text)


def upsert(table: str) -> str:
    """Return the statement that adds one row of sums to a table."""
    keys, sums = TABLES[table]
    marks = ", ".join(f"${number + 1}" for number in range(len(keys) + len(sums)))
    return f"INSERT INTO {table} ({', '.join(keys + sums)}) VALUES ({marks}) {added(table)}"


def added(table: str) -> str:
    """Return what an insert does where the row is there."""
    keys, sums = TABLES[table]
    more = ", ".join(f"{name} = {table}.{name} + excluded.{name}" for name in sums)
    return f"ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {more}"


def window(wish: Wish, low: int, high: int, limit: int) -> tuple[str, list[Any]]:
    """Return the query for the newest `limit` requests of a wish with low <= seq < high.

    One filter is left to an index, the one that few requests meet as a rule; the others are written so that
    no index fits, since the planner of SQLite knows no statistics to choose by.
    """
    values: list[Any] = [low, high]
    parts = ["seq >= $1", "seq < $2"]

    def narrow(text: str, *more: Any) -> None:
        marks = [f"${len(values) + number + 1}" for number in range(len(more))]
        parts.append(text.format(*marks))
        values.extend(more)

    given = [
        (name, value)
        for name in ("account", "outcome", "model", "provider", "category")
        if (value := cast(str | None, getattr(wish, name))) is not None and value not in (NOT_OK, ALL_FAILED)
    ]
    given.sort(key=lambda pair: pair[1] == "ok")  # which nearly all are
    for number, (name, value) in enumerate(given):
        if value == "":
            parts.append(f"{name} IS NULL")
        else:
            narrow(f"{name} = {{}}" if number == 0 else f"coalesce({name}, '') = {{}}", value)
    if wish.outcome == ALL_FAILED:
        failed = sorted(FAILED)
        narrow(f"coalesce(outcome, '') IN ({', '.join(['{}'] * len(failed))})", *failed)
    if wish.outcome not in (None, "ok"):
        parts.append("outcome <> 'ok'")  # so that the partial index is known to hold them
    if wish.since_ms is not None:
        narrow("ended_ms >= {}", wish.since_ms)
    if wish.until_ms is not None:
        narrow("ended_ms < {}", wish.until_ms)
    values.append(limit)
    where = " AND ".join(parts)
    return (
        f"SELECT seq, {_ALL} FROM history_requests WHERE {where} ORDER BY seq DESC LIMIT ${len(values)}",
        values,
    )


def count(wish: Wish, low: int, high: int) -> tuple[str, list[Any]]:
    """Return the query for how many requests of a wish have low <= seq < high."""
    sql, values = window(wish, low, high, high - low)
    return f"SELECT count(*) FROM ({sql}) AS found", values


def by_id(begin: str, limit: int) -> tuple[str, list[Any]]:
    """Return the query for the newest requests whose own or whose client's id begins so."""
    text = f"""
SELECT seq, {_ALL} FROM history_requests WHERE seq IN (
    SELECT seq FROM (
        SELECT seq FROM history_requests WHERE request_id >= $1 AND request_id < $2
        ORDER BY request_id DESC LIMIT $3
    ) AS ours
    UNION
    SELECT seq FROM (
        SELECT seq FROM history_requests WHERE client_request_id >= $1 AND client_request_id < $2
        ORDER BY client_request_id DESC LIMIT $3
    ) AS theirs
) ORDER BY seq DESC LIMIT $3
"""
    return text, [begin, begin + "\U0010ffff", limit]
