"""The history over either engine: what is summed, what is found, what is forgotten."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from benchmarks.made_up import records
from router.errors import Unavailable
from router.history.figures import DAY_S, RANGES, batch_of
from router.history.history import MOST_WORDS, History, open_history
from router.history.record import Attempt, Record, Wish
from router.history.store import Store
from router.history.words import Said, Words
from tests.postgres import execute

NOW_S = 1_795_000_000.0


def record(number: int = 0, **more: object) -> Record:
    made = next(records(1, NOW_S, seed=1))
    plain = {
        "request_id": f"req_{number:04d}",
        "client_request_id": None,
        "ended_ms": int(NOW_S * 1e3) - 1000 + number,
        "outcome": "ok",
        "account": "open",
        "model": "a/one",
        "provider": "up",
        "category": "simple",
        "attempts": (Attempt("up", "a/one", "ok", 200, 40),),
        "charged_nusd": 120,
        "upstream_nusd": 100,
        "baseline": "a/best",
        "baseline_nusd": 700,
        "ms": 500,
        "first_ms": 100,
    }
    return msgspec.structs.replace(made, **{**plain, **more})


@pytest.fixture
def place(database_url: str | None, tmp_path: Path) -> tuple[Path, str | None]:
    """Return where a history is kept, empty."""
    if database_url is not None:
        asyncio.run(_emptied(tmp_path, database_url))
    return tmp_path, database_url


async def _emptied(folder: Path, url: str) -> None:
    async with opened((folder, url)):
        tables = ("requests", "words", "figures", "latencies", "calls", "spent")
        await asyncio.to_thread(execute, url, f"TRUNCATE {', '.join(f'history_{name}' for name in tables)}")


@asynccontextmanager
async def opened(place: tuple[Path, str | None], keep: int = 1_000) -> AsyncIterator[History]:
    history = open_history(*place, keep, lambda: NOW_S)
    assert history is not None
    await history.start()
    try:
        yield history
    finally:
        await history.close()


async def filled(store: Store, *made: Record) -> None:
    await store.write(batch_of(made))


def test_what_lies_between_is_counted_up_to_a_bound(place: tuple[Path, str | None]) -> None:
    async def run() -> None:
        async with opened(place) as history:
            store = history.store
            await filled(store, *(record(n, model=f"a/{n % 3}") for n in range(12)))
            last = await store.newest()
            first = last - 11
            everything = Wish(after=first - 1, before=last + 1)
            assert await store.between(everything) == (12, True)
            assert await store.between(msgspec.structs.replace(everything, model="a/1")) == (4, True)
            assert await store.between(Wish(after=first, before=last)) == (10, True)
            assert await store.between(everything, most=5) == (5, False)
            assert await store.between(Wish(after=last)) == (0, True)
            assert await store.between(Wish(after=first - 1, before=last, found_id="req_")) == (0, False)

    asyncio.run(run())


def test_requests_and_attempts_are_summed_apart(place: tuple[Path, str | None]) -> None:
    async def run() -> None:
        async with opened(place) as history:
            history.note(record(1))
            two = (Attempt("up", "a/one", "timeout", None, 9_000), Attempt("other", "a/two", "ok", 200, 50))
            history.note(record(2, model="a/two", provider="other", attempts=two, category="coding"))
            history.note(
                record(
                    3,
                    outcome="upstream_error",
                    charged_nusd=0,
                    upstream_nusd=0,
                    baseline=None,
                    baseline_nusd=None,
                    attempts=two[:1],
                )
            )
            history.note(
                record(
                    4,
                    outcome="insufficient_credits",
                    model=None,
                    provider=None,
                    attempts=(),
                    charged_nusd=0,
                    upstream_nusd=0,
                    baseline=None,
                    baseline_nusd=None,
                )
            )
            await history.flush()
            for range_ in RANGES.values():
                told = await history.store.summary(range_, NOW_S)
                assert told.total.requests == 4
                assert told.groups == {"served": 2, "left": 0, "refused": 1, "failed": 1}
                assert told.success == (2, 3)
                assert (told.total.charged_nusd, told.total.upstream_nusd) == (240, 200)
                assert told.total.saved_nusd == 2 * 700 - 200
                assert [sum(bar.values()) for bar in told.categories][-1] == 4
                assert told.categories[-1] == {"simple": 3, "coding": 1}
                calls = {each.provider: (each.calls, each.failed) for each in told.upstreams}
                assert calls == {"up": (3, 2), "other": (1, 0)}
                total = told.spreads["total"]
                assert total.p50_s is not None
                assert 0.44 < total.p50_s < 0.56

    asyncio.run(run())


def test_what_two_processes_write_adds_up_and_stays(place: tuple[Path, str | None]) -> None:
    async def run() -> None:
        async with opened(place) as one, opened(place) as other:
            for number in range(50):
                (one if number % 2 else other).note(record(number))
            await asyncio.gather(one.flush(), other.flush())
        async with opened(place) as later:
            told = await later.store.summary(RANGES["24h"], NOW_S)
            assert told.total.requests == 50
            assert len((await later.store.find(Wish(), 100)).records) == 50

    asyncio.run(run())


def test_a_record_comes_back_as_it_went_in(place: tuple[Path, str | None]) -> None:
    made = next(records(1, NOW_S, seed=3))

    async def run() -> None:
        async with opened(place) as history:
            await filled(history.store, made)
            found = await history.store.one(made.request_id)
            assert found is not None
            assert msgspec.structs.replace(found, seq=0) == made

    asyncio.run(run())


def test_pages_of_requests_follow_each_other_without_gap_or_repeat(place: tuple[Path, str | None]) -> None:
    made = list(records(1_000, NOW_S, days=2, seed=4))

    async def run() -> None:
        async with opened(place) as history:
            await filled(history.store, *made)
            for wish in (
                Wish(),
                Wish(model="moonshotai/kimi-k2.6"),
                Wish(outcome="client_gone"),
                Wish(account="open", category="coding"),
                Wish(since_ms=made[300].ended_ms, until_ms=made[700].ended_ms),
            ):
                found: list[str] = []
                before: int | None = None
                while True:
                    page = await history.store.find(msgspec.structs.replace(wish, before=before), 37)
                    found += [each.request_id for each in page.records]
                    before = page.next_before
                    if before is None:
                        break
                assert found == [each.request_id for each in reversed(made) if _meets(each, wish)]

    asyncio.run(run())


def _meets(each: Record, wish: Wish) -> bool:
    return (
        (wish.model is None or each.model == wish.model)
        and (wish.outcome is None or each.outcome == wish.outcome)
        and (wish.account is None or each.account == wish.account)
        and (wish.category is None or each.category == wish.category)
        and (wish.since_ms is None or each.ended_ms >= wish.since_ms)
        and (wish.until_ms is None or each.ended_ms < wish.until_ms)
    )


def test_a_search_that_is_out_of_time_says_how_far_it_came_and_goes_on(
    place: tuple[Path, str | None],
) -> None:
    made = [record(number, outcome="ok" if number else "client_gone") for number in range(9_000)]

    async def run() -> None:
        async with opened(place) as history:
            await filled(history.store, *made)
            first = await history.store.find(Wish(outcome="client_gone"), 10, patience_s=0)
            assert first.records == []
            assert first.next_before is not None
            assert first.searched_to_ms == made[9_000 - 4_096].ended_ms
            rest = await history.store.find(Wish(outcome="client_gone", before=first.next_before), 10)
            assert [each.request_id for each in rest.records] == ["req_0000"]

    asyncio.run(run())


def test_ids_are_found_by_their_beginning_ours_and_the_clients(place: tuple[Path, str | None]) -> None:
    async def run() -> None:
        async with opened(place) as history:
            await filled(history.store, record(1, client_request_id="run-77:model:1"), record(2), record(13))
            for text, found in {
                "req_0001": ["req_0001"],
                "req_00": ["req_0013", "req_0002", "req_0001"],
                "run-77": ["req_0001"],
                "model": [],
                "%": [],
                "\x00": [],
            }.items():
                page = await history.store.find(Wish(found_id=text), 10)
                assert [each.request_id for each in page.records] == found, text
            assert (await history.store.one("run-77:model:1") or record()).request_id == "req_0001"
            assert await history.store.one("nope") is None

    asyncio.run(run())


def test_old_requests_and_old_minutes_go_and_days_stay(place: tuple[Path, str | None]) -> None:
    async def run() -> None:
        async with opened(place, keep=10) as history:
            old = [record(n, ended_ms=int((NOW_S - 50 * DAY_S) * 1e3) + n) for n in range(5)]
            await filled(history.store, *old, *(record(n) for n in range(100, 130)))
            await history.store.forget(10, NOW_S)
            page = await history.store.find(Wish(), 100)
            assert [each.request_id for each in page.records] == [f"req_{n:04d}" for n in range(129, 119, -1)]
            assert (await history.store.summary(RANGES["1h"], NOW_S)).total.requests == 30
            late = NOW_S - 50 * DAY_S
            assert (await history.store.summary(RANGES["1h"], late)).total.requests == 30
            assert (await history.store.summary(RANGES["30d"], late)).total.requests == 35

    asyncio.run(run())


def test_words_are_read_by_their_request_and_go_with_it(place: tuple[Path, str | None]) -> None:
    words = Words((Said("user", "a \x00 b \U0001f600"),), older=2, answer="yes")

    async def run() -> None:
        async with opened(place) as history:
            await filled(history.store, *(record(n, words=words) for n in range(3)), record(3))
            assert await history.store.words("req_0000") == words
            assert await history.store.words("req_0003") is None
            assert (await history.store.find(Wish(), 10)).records[-1].words is None
            await history.store.forget(2, NOW_S)
            kept = [await history.store.words(f"req_{n:04d}") is not None for n in range(4)]
            assert kept == [False, False, True, False]

    asyncio.run(run())


def test_words_wait_for_the_disk_in_a_bounded_number(place: tuple[Path, str | None]) -> None:
    words = Words((Said("user", "hello"),))

    async def run() -> None:
        async with opened(place, keep=10_000) as history:
            for number in range(MOST_WORDS + 1):
                history.note(record(number, words=words))
            await history.flush()
            assert await history.store.words(f"req_{MOST_WORDS - 1:04d}") == words
            assert await history.store.words(f"req_{MOST_WORDS:04d}") is None
            assert await history.store.one(f"req_{MOST_WORDS:04d}") is not None

    asyncio.run(run())


def test_a_history_of_before_is_brought_forward(tmp_path: Path) -> None:
    async def run() -> None:
        async with opened((tmp_path, None)) as history:
            await filled(history.store, record(1))
        with sqlite3.connect(tmp_path / "history.db") as old:
            old.execute("DROP TABLE history_words")
            old.execute("PRAGMA user_version = 1")
        async with opened((tmp_path, None)) as history:
            await filled(history.store, record(2, words=Words((Said("user", "new"),))))
            assert await history.store.words("req_0002") is not None
            assert await history.store.one("req_0001") is not None

    asyncio.run(run())


def test_what_an_account_used_is_kept_by_day_and_model(place: tuple[Path, str | None]) -> None:
    async def run() -> None:
        async with opened(place) as history:
            await filled(history.store, record(1, account="key_1"), record(2, account="key_1"), record(3))
            rows = await history.store.spent("key_1", int(NOW_S) - DAY_S)
            day_s = int(NOW_S) - int(NOW_S) % DAY_S
            assert [tuple(row)[:3] + tuple(row)[5:] for row in rows] == [(day_s, "a/one", 2, 240)]

    asyncio.run(run())


def test_who_names_no_account_cannot_push_the_others_out(place: tuple[Path, str | None]) -> None:
    strangers = [record(n, account=None, outcome="invalid_api_key") for n in range(500)]

    async def run() -> None:
        async with opened(place) as history:
            await filled(history.store, *strangers, record(900))
            assert (await history.store.summary(RANGES["1h"], NOW_S)).total.requests == 501
            assert len((await history.store.find(Wish(), 1_000)).records) == 21

    asyncio.run(run())


def test_a_file_that_cannot_be_used_loses_nothing_that_waits(tmp_path: Path) -> None:
    (tmp_path / "history.db").mkdir()

    async def run() -> None:
        async with opened((tmp_path, None)) as history:
            history.note(record(1))
            with pytest.raises(Unavailable, match=r"history\.db"):
                await history.flush()
            (tmp_path / "history.db").rmdir()
            await history.flush()
            assert len((await history.store.find(Wish(), 10)).records) == 1

    asyncio.run(run())
