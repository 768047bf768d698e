"""Requests that never were: what a month of traffic leaves in the history and in the ledger."""

from __future__ import annotations

import math
import random
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from router.history.figures import batch_of
from router.history.record import Attempt, Choice, Lost, Record, Why
from router.history.sqlite import SqliteStore
from router.ledger.rows import utc_text
from router.ledger.sqlite import FILE, Database

BATCH = 5_000
BASELINE = "anthropic/claude-opus-4.6"
# id, provider, price of input and output in pico-USD a token, weight by category, tokens a second
MODELS = (
    ("deepseek/deepseek-v3.2", "deepseek", 260_000, 380_000, (9, 5, 2, 0), 60),
    ("openai/gpt-oss-120b", "novita", 50_000, 250_000, (14, 1, 1, 0), 120),
    ("qwen/qwen3-coder-480b", "novita", 350_000, 1_500_000, (0, 9, 0, 0), 70),
    ("moonshotai/kimi-k2.6", "moonshot", 800_000, 3_400_000, (0, 4, 3, 2), 80),
    ("zai/glm-4.6v", "novita", 300_000, 900_000, (0, 0, 0, 8), 55),
    ("google/gemini-3-flash", "google", 300_000, 2_500_000, (2, 0, 1, 5), 150),
    ("anthropic/claude-sonnet-4.6", "anthropic", 3_000_000, 15_000_000, (0, 2, 3, 0), 65),
)
CATEGORIES = ("simple", "coding", "reasoning", "vision")
ACCOUNTS = ("key_5f1d09c2aa10b7e4", "key_93ab77d0c4412f60", "key_0b8e4417d2c95a3e", "open")
KEY_NAMES = ("the analysts' notebook", "support desk", "nightly reports")
OUTCOMES = (
    "ok",
    "client_gone",
    "upstream_error",
    "models_at_limit",
    "insufficient_credits",
    "no_offer_fits",
)
WEIGHTS = (9_600, 180, 60, 70, 50, 40)
INPUT_PUSD, OUTPUT_PUSD = 5_000_000, 25_000_000  # of the baseline


def records(count: int, until_s: float, days: float = 30.0, seed: int = 8) -> Iterator[Record]:
    """Yield requests in the order of their end, the last of them now; busier by day, and growing."""
    chance = random.Random(seed)
    since_s = until_s - days * 86_400
    shares = sorted(_moment(chance) for _ in range(count))
    for number, share in enumerate(shares):
        yield _record(chance, f"req_{seed:02d}{number:014x}", since_s + share * days * 86_400)


def _moment(chance: random.Random) -> float:
    while True:
        share = chance.random() ** 0.8
        if chance.random() < 0.55 + 0.45 * math.sin((share * 30 % 1 - 0.3) * 2 * math.pi):
            return share


def _record(chance: random.Random, request_id: str, ended_s: float) -> Record:
    outcome = chance.choices(OUTCOMES, WEIGHTS)[0]
    category = chance.choices(CATEGORIES, (48, 28, 16, 8))[0]
    at = CATEGORIES.index(category)
    model, provider, input_pusd, output_pusd, _, tok_s = chance.choices(MODELS, [m[4][at] for m in MODELS])[0]
    reached = outcome in ("ok", "client_gone", "upstream_error")
    prompt = int(chance.lognormvariate(7.5, 1.1)) if reached else 0
    completion = int(chance.lognormvariate(5.4, 0.9)) if outcome == "ok" else 0
    first_ms = int(chance.lognormvariate(6.2, 0.45)) if outcome == "ok" else None
    cost = (prompt * input_pusd + completion * output_pusd) // 1000 if completion else 0
    attempts = (
        (Attempt(provider, model, "ok", 200, first_ms or 900),) if outcome in ("ok", "client_gone") else ()
    )
    if outcome == "upstream_error" or (attempts and chance.random() < 0.04):
        kind, status = chance.choice((("rate_limited", 429), ("server_error", 503), ("timeout", None)))
        attempts = (
            Attempt("novita", "openai/gpt-oss-120b", kind, status, chance.randrange(40, 9_000)),
            *attempts,
        )
    return Record(
        request_id=request_id,
        client_request_id=f"run-{request_id[-6:]}" if chance.random() < 0.2 else None,
        ended_ms=int(ended_s * 1e3),
        account=chance.choices(ACCOUNTS, (50, 30, 15, 5))[0],
        outcome=outcome,
        asked=chance.choices(("auto", "coding", model), (90, 4, 6))[0],
        category=category,
        model=model if reached else None,
        provider=provider if reached else None,
        stream=chance.random() < 0.7,
        ms=(first_ms or chance.randrange(2, 400)) + completion * 1000 // tok_s,
        first_ms=first_ms,
        prompt_tokens=prompt if completion else 0,
        completion_tokens=completion,
        estimated=chance.random() < 0.002,
        charged_nusd=cost * 12 // 10,
        upstream_nusd=cost,
        baseline=BASELINE if completion else None,
        baseline_nusd=(prompt * INPUT_PUSD + completion * OUTPUT_PUSD) // 1000 if completion else None,
        attempts=attempts,
        why=_why(chance, model, provider, cost),
    )


def _why(chance: random.Random, model: str, provider: str, cost: int) -> Why:
    others = chance.sample(MODELS, 3)
    return Why(
        reason="cheapest_in_band",
        mode="balanced",
        catalog="4f0c2b7d91ae",
        confidence=round(chance.uniform(0.5, 0.99), 3),
        probabilities={"simple": 0.1, "coding": 0.7, "reasoning": 0.2, "vision": 0.0},
        max_nusd=cost * 4,
        choices=(Choice(model, provider, cost, 3.1, 78.0),),
        choices_total=3,
        losers=()
        if chance.random() < 0.7
        else tuple(Lost(other[0], other[1], "dearer", "expected to cost more") for other in others),
        losers_total=11,
    )


async def fill_history(
    data: Path, made: Iterable[Record], advance: Callable[[int], None] = lambda _count: None
) -> None:
    """Write requests into the history in a folder; `advance` is told how many were written."""
    store = SqliteStore(data)
    await store.start()
    try:
        batch: list[Record] = []
        for record in made:
            batch.append(record)
            if len(batch) == BATCH:
                await store.write(batch_of(batch))
                advance(BATCH)
                batch = []
        await store.write(batch_of(batch))
        advance(len(batch))
    finally:
        await store.close()


def fill_ledger(data: Path, rows: int, until: datetime) -> None:
    """Write a hold and a settle for each of rows / 2 requests of one account, and its sums."""
    database = Database(data / FILE)
    now = utc_text(until.astimezone(UTC).timestamp())
    run = database.connection
    try:
        run.execute("BEGIN IMMEDIATE")
        run.execute("INSERT INTO accounts (id, created_at) VALUES ('open', ?)", (now,))
        for first in range(0, rows // 2, BATCH):
            run.executemany(
                _HOLD, [(f"req_{n:016x}", now) for n in range(first, min(first + BATCH, rows // 2))]
            )
            run.executemany(
                _SETTLE, [(f"req_{n:016x}", -n - 1, now) for n in range(first, min(first + BATCH, rows // 2))]
            )
        run.execute(
            "UPDATE accounts SET balance_nusd = ?, charged_nusd = ?, requests = ?",
            (-rows // 2, rows // 2, rows // 2),
        )
        run.execute("COMMIT")
    except sqlite3.Error:
        run.rollback()
        raise
    finally:
        database.close()


def fill_keys(data: Path, count: int, at: datetime) -> None:
    """Write keys: those that made the requests, and others up to a number; nobody knows their texts."""
    names = dict(zip(ACCOUNTS, KEY_NAMES, strict=False))
    names |= {f"key_{number:016x}": f"team {number:03d}" for number in range(count - len(names))}
    now = utc_text(at.astimezone(UTC).timestamp())
    database = Database(data / FILE)
    try:
        with database.transaction() as run:
            run.executemany(_ACCOUNT, [(name, now) for name in names])
            run.executemany(
                _KEY,
                [(id_, id_.encode()[::-1].ljust(32, b"."), name, now) for id_, name in names.items()],
            )
    finally:
        database.close()


_ACCOUNT = """
INSERT INTO accounts (id, balance_nusd, charged_nusd, requests, budget_month_nusd, created_at)
VALUES (?, 20000000000, 5000000000, 1000, 50000000000, ?)
"""
_KEY = """
INSERT INTO api_keys (id, digest, hint, name, prepaid, concurrency, rpm, tpm, models, created_at)
VALUES (?, ?, 'rk_Made9', ?, 1, 4, 60, 200000, '["deepseek/*"]', ?)
"""
_HOLD = """
INSERT INTO ledger (request_id, account, kind, amount_nusd, delta_nusd, balance_after_nusd, model, provider,
    created_at) VALUES (?, 'open', 'hold', 2, 0, 0, 'a/b', 'p', ?)
"""
_SETTLE = """
INSERT INTO ledger (request_id, account, kind, amount_nusd, delta_nusd, upstream_cost_nusd,
    balance_after_nusd, prompt_tokens, completion_tokens, model, provider, created_at)
VALUES (?, 'open', 'settle', 1, -1, 1, ?, 10, 10, 'a/b', 'p', ?)
"""
