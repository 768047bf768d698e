"""The decision log's files: what is in a line, rotation, broken lines, trouble with the disk."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from router.catalog.snapshot import Policy, Snapshot
from router.routing.decide import Blocked, Live
from router.routing.recorded import (
    FALLBACKS_KEPT,
    LOSERS_KEPT,
    Actual,
    Entry,
    LogReader,
    nusd_of,
    usd,
)
from router.routing.recorder import Recorder
from router.telemetry.decision_files import Follower
from router.telemetry.decisions import FLUSH_S, DecisionLog, decision_files
from tests.unit.parts import AT, NOBODY, catalog, choose, model, need, offer, sure, usd_price

SERVED = Actual(
    outcome="ok",
    seconds=2.5,
    model="a/one",
    provider="acme",
    upstream_model="a/one",
    attempts=1,
    stream=True,
    prompt_tokens=1_000,
    completion_tokens=200,
    cached_tokens=400,
    charged_nusd=1_400_000,
    upstream_nusd=1_400_000,
    first_s=0.5,
)
MANY = catalog(*(model(f"m/{i:02}", price=usd_price(1 + i, 2)) for i in range(20)))
TABLE = Live("table1", speeds={("acme", "a/one"): (0.1, 1 / 3)}, output_tokens={"simple": 321})


class Ticking:
    """A clock that goes on by a second at each look."""

    def __init__(self) -> None:
        self.at = AT

    def __call__(self) -> datetime:
        self.at += timedelta(seconds=1)
        return self.at


def log_in(folder: Path, **bounds: int) -> DecisionLog:
    return DecisionLog(folder, now=Ticking(), delayed=False, **bounds)


def note(
    recorder: Recorder,
    request_id: str = "req_1",
    snapshot: Snapshot = MANY,
    live: Live = NOBODY,
    actual: Actual = SERVED,
    **changes: Any,
) -> None:
    decision = choose(snapshot, need(**changes), sure(), live)
    recorder.note(decision, snapshot, live, actual, request_id=request_id, stripped=False)


def written(folder: Path) -> list[dict[str, Any]]:
    lines = [line for path in decision_files(folder) for line in path.read_bytes().splitlines()]
    return [msgspec.json.decode(line) for line in lines]


def read(folder: Path) -> list[Entry]:
    return list(LogReader(decision_files(folder)))


def ids(lines: list[bytes]) -> list[str]:
    return [msgspec.json.decode(line)["request_id"] for line in lines]


def test_a_line_has_the_record_of_the_contract(tmp_path: Path) -> None:
    log = log_in(tmp_path)
    note(Recorder(log))
    log.close()
    line = written(tmp_path)[-1]
    assert set(line) >= {
        *("request_id", "category", "probabilities", "confidence", "stripped", "mode", "catalog", "live"),
        *("chosen", "fallbacks", "losers", "quote"),
    }
    assert line["chosen"] == {
        "model": "m/00",
        "provider": "acme",
        "upstream_model": "m/00",
        "expected_cost_usd": 0.0015,
        "expected_seconds": 3.5,
        "quality": 70.0,
    }
    assert set(line["quote"]) == {"usd", "max_usd"}
    assert line["quote"]["usd"] == 0.0015
    assert set(line["losers"][0]) == {"model", "provider", "reason", "detail"}


def test_a_line_keeps_the_best_of_the_others_and_counts_all(tmp_path: Path) -> None:
    log = log_in(tmp_path)
    note(Recorder(log))
    log.close()
    (entry,) = read(tmp_path)
    assert [f.model for f in entry.line.fallbacks] == [f"m/{i:02}" for i in range(1, FALLBACKS_KEPT + 1)]
    assert [x.model for x in entry.line.losers] == [f"m/{i:02}" for i in range(1, LOSERS_KEPT + 1)]
    assert (entry.line.fallbacks_total, entry.line.losers_total) == (19, 19)


def test_a_busy_second_has_the_totals_alone_in_its_further_lines(tmp_path: Path) -> None:
    log = log_in(tmp_path)
    recorder = Recorder(log, full_a_second=2)
    for began_s, took_s in ((0, 5.0), (1, 4.0), (2, 3.0), (2, 4.0)):  # three end in one second
        note(
            recorder,
            at=AT + timedelta(seconds=began_s),
            actual=structs.replace(SERVED, seconds=took_s),
        )
    log.close()
    lines = [entry.line for entry in read(tmp_path)]
    assert [len(line.fallbacks) for line in lines] == [FALLBACKS_KEPT, FALLBACKS_KEPT, 0, FALLBACKS_KEPT]
    assert [len(line.losers) for line in lines] == [LOSERS_KEPT, LOSERS_KEPT, 0, LOSERS_KEPT]
    assert {(line.fallbacks_total, line.losers_total) for line in lines} == {(19, 19)}


def test_what_decide_was_given_comes_back_as_it_was(tmp_path: Path) -> None:
    blocked = {("acme", "m/00"): Blocked("cooling", 7, "m/00 at acme rests")}
    live = structs.replace(TABLE, blocked=blocked)
    wanted = need(output_tokens=50, deny=("b/*",), at=AT + timedelta(microseconds=123_457), session="s")
    log = log_in(tmp_path)
    decision = choose(MANY, wanted, sure("coding"), live)
    Recorder(log).note(decision, MANY, live, SERVED, request_id="req_1", stripped=True)
    log.close()
    (entry,) = read(tmp_path)
    assert entry.line.need == wanted
    assert entry.line.categorised == sure("coding")
    assert entry.live == live
    assert entry.line.actual == SERVED


def test_a_refused_request_has_a_line_without_a_winner(tmp_path: Path) -> None:
    log = log_in(tmp_path)
    note(Recorder(log), actual=Actual("nothing_fits", 0.01), max_cost_nusd=1)
    log.close()
    (entry,) = read(tmp_path)
    assert entry.line.chosen is None
    assert entry.line.quote is None
    assert (entry.line.fallbacks, entry.line.losers_total) == ((), 20)
    assert entry.line.losers[0].reason == "cap"


def test_the_baseline_is_the_same_tokens_at_its_cheapest_offer(tmp_path: Path) -> None:
    dear = offer("b/base", "one", price=usd_price(9, 9))
    cheap = offer("b/base", "two", price=usd_price(4, 10, 1))
    off = offer("b/base", "three", price=usd_price(0.1, 0.1), unusable="set A_KEY")
    snapshot = catalog(model(), model("b/base", offers=[dear, cheap, off]), policy=Policy(baseline="b/base"))
    log = log_in(tmp_path)
    note(Recorder(log), snapshot=snapshot)
    note(Recorder(log), snapshot=snapshot, actual=Actual("unavailable", 0.1))
    log.close()
    served, failed = read(tmp_path)
    assert served.line.baseline is not None
    # 600 uncached at 4, 400 cached at 1, 200 written at 10 USD per million tokens, in nano-USD.
    assert served.line.baseline.cost_nusd == 600 * 4_000 + 400 * 1_000 + 200 * 10_000
    assert failed.line.baseline is None


def test_side_lines_come_once_before_the_first_decision_that_uses_them(tmp_path: Path) -> None:
    log = log_in(tmp_path)
    recorder = Recorder(log)
    for number in range(3):
        note(recorder, f"req_{number}", live=TABLE)
    log.close()
    kinds = [next(iter(line)) for line in written(tmp_path)]
    assert sorted(kinds[:2]) == ["catalog", "table"]
    assert kinds[2:] == ["request_id"] * 3


def test_the_offers_that_could_be_used_are_a_side_line_of_their_own(tmp_path: Path) -> None:
    half = replace(MANY, models={"m/00": model("m/00", unusable="set A_KEY"), "m/01": MANY.models["m/01"]})
    log = log_in(tmp_path)
    recorder = Recorder(log)
    for snapshot in (MANY, half, MANY):  # one revision: only what can be used differs
        note(recorder, snapshot=snapshot)
    log.close()
    all_of_them, one, again = read(tmp_path)
    assert one.offers is not None
    assert one.offers.usable == (("m/01", "acme", "m/01"),)
    assert all_of_them.offers == again.offers != one.offers
    assert [next(iter(line)) for line in written(tmp_path)].count("catalog") == 2


def test_a_model_that_no_file_describes_is_kept_whole(tmp_path: Path) -> None:
    found = replace(model("ollama/llama"), file="", discovered=True)
    log = log_in(tmp_path)
    note(Recorder(log), snapshot=catalog(model(), found))
    log.close()
    (entry,) = read(tmp_path)
    assert entry.offers is not None
    assert entry.offers.models == (found,)


def test_every_file_explains_itself_and_the_oldest_go(tmp_path: Path) -> None:
    log = log_in(tmp_path, file_bytes=1, files=3)
    recorder = Recorder(log)
    for number in range(5):
        note(recorder, f"req_{number}", live=TABLE)
        log.flush()
    log.close()
    assert [entry.line.request_id for entry in read(tmp_path)] == ["req_2", "req_3", "req_4"]
    assert all(entry.live == TABLE and entry.offers is not None for entry in read(tmp_path))


def test_files_are_private_and_carry_time_and_process(tmp_path: Path) -> None:
    log = log_in(tmp_path / "data" / "decisions")
    note(Recorder(log))
    log.close()
    (path,) = decision_files(tmp_path / "data" / "decisions")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.name == f"20261118T120001.000000Z-{os.getpid()}.jsonl"


def test_two_logs_begun_at_one_moment_have_files_of_their_own(tmp_path: Path) -> None:
    for number in range(2):
        log = DecisionLog(tmp_path, now=lambda: AT, delayed=False)
        note(Recorder(log), f"req_{number}")
        log.close()
    assert len(decision_files(tmp_path)) == 2
    assert [entry.line.request_id for entry in read(tmp_path)] == ["req_0", "req_1"]


def test_a_file_that_was_deleted_is_begun_anew_with_its_side_lines(tmp_path: Path) -> None:
    log = log_in(tmp_path)
    recorder = Recorder(log)
    note(recorder, "req_1", live=TABLE)
    log.flush()
    decision_files(tmp_path)[0].unlink()
    note(recorder, "req_2", live=TABLE)
    log.close()
    (entry,) = read(tmp_path)
    assert (entry.line.request_id, entry.live) == ("req_2", TABLE)
    assert entry.offers is not None


def test_a_folder_that_cannot_be_made_loses_lines_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    in_the_way = tmp_path / "decisions"
    in_the_way.write_text("a file")
    log = log_in(in_the_way)
    recorder = Recorder(log)
    for number in range(3):
        note(recorder, f"req_{number}")
        log.flush()
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    in_the_way.unlink()
    note(recorder, "req_3")
    log.close()
    assert [entry.line.request_id for entry in read(in_the_way)] == ["req_3"]
    assert "3 were lost" in caplog.records[-1].message


def test_lines_go_out_a_moment_after_the_first(tmp_path: Path) -> None:
    async def run() -> None:
        log = DecisionLog(tmp_path, now=lambda: AT)
        note(Recorder(log))
        note(Recorder(log), "req_2")
        assert decision_files(tmp_path) == []
        later = asyncio.Event()  # timers of one loop fire in the order of their moments
        asyncio.get_running_loop().call_later(FLUSH_S, later.set)
        await later.wait()
        assert len(read(tmp_path)) == 2
        log.close()

    asyncio.run(run())
    assert [entry.line.request_id for entry in read(tmp_path)] == ["req_1", "req_2"]


def test_what_is_no_line_is_skipped_and_counted(tmp_path: Path) -> None:
    log = log_in(tmp_path)
    note(Recorder(log))
    log.close()
    (path,) = decision_files(tmp_path)
    path.write_bytes(b'\xff\x00\n{"request_id":"\xff"}\n{"table":7}\n' + path.read_bytes())
    reader = LogReader([path])
    assert [entry.line.request_id for entry in reader] == ["req_1"]
    assert reader.skipped == 3


def test_half_a_line_is_skipped_and_counted(tmp_path: Path) -> None:
    log = log_in(tmp_path)
    note(Recorder(log), "req_1")
    note(Recorder(log), "req_2")
    log.close()
    (path,) = decision_files(tmp_path)
    path.write_bytes(path.read_bytes()[:-40])
    reader = LogReader([path])
    assert [entry.line.request_id for entry in reader] == ["req_1"]
    assert reader.skipped == 1


def test_a_decision_whose_table_is_lost_has_none(tmp_path: Path) -> None:
    log = log_in(tmp_path)
    note(Recorder(log), live=TABLE)
    log.close()
    (path,) = decision_files(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(line for line in lines if not line.startswith(b'{"table"')))
    (entry,) = read(tmp_path)
    assert entry.live is None


def test_reading_begins_at_a_moment_and_passes_over_older_files(tmp_path: Path) -> None:
    log = log_in(tmp_path, file_bytes=1)
    recorder = Recorder(log)
    for hour in range(3):
        note(recorder, f"req_{hour}", at=AT + timedelta(hours=hour))
        log.flush()
    log.close()
    files = decision_files(tmp_path)
    old_s = (AT - timedelta(days=1)).timestamp()
    os.utime(files[1], (old_s, old_s))
    seen = 0

    def advance(size_bytes: int) -> None:
        nonlocal seen
        seen += size_bytes

    found = [e.line.request_id for e in LogReader(files, AT + timedelta(minutes=30), advance)]
    assert found == ["req_2"]  # req_1 is in a file that claims to be older
    assert seen == sum(path.stat().st_size for path in files)


@pytest.fixture
def follower(tmp_path: Path) -> Iterator[Follower]:
    with closing(Follower(tmp_path)) as made:
        yield made


def test_a_follower_gives_the_last_lines_then_each_new_one(tmp_path: Path, follower: Follower) -> None:
    log = log_in(tmp_path)
    recorder = Recorder(log)
    for number in range(50):
        note(recorder, f"req_{number}")
    log.flush()
    assert ids(follower.last(2)) == ["req_48", "req_49"]
    assert follower.poll() == []
    note(recorder, "req_50")
    log.flush()
    assert ids(follower.poll()) == ["req_50"]
    assert follower.poll() == []


def test_a_follower_goes_on_in_the_file_after_a_rotation(tmp_path: Path, follower: Follower) -> None:
    log = log_in(tmp_path, file_bytes=1, files=2)
    recorder = Recorder(log)
    assert follower.last(5) == []
    seen = []
    for number in range(4):
        note(recorder, f"req_{number}")
        log.flush()
        seen += ids(follower.poll())
    assert seen == ["req_0", "req_1", "req_2", "req_3"]


@pytest.mark.parametrize("read_first", [0, 5])
def test_a_follower_that_comes_late_gives_what_was_rotated_away_meanwhile(
    tmp_path: Path, follower: Follower, read_first: int
) -> None:
    log = log_in(tmp_path, file_bytes=20_000, files=1)
    recorder = Recorder(log)
    note(recorder, "req_0")
    log.flush()
    (first,) = decision_files(tmp_path)
    assert ids(follower.last(read_first)) == ["req_0"][:read_first]
    number = 0
    while first.exists():
        number += 1
        note(recorder, f"req_{number}")
        log.flush()
    assert ids(follower.poll()) == [f"req_{seen}" for seen in range(1, number + 1)]
    assert follower.poll() == []


def test_a_follower_waits_for_the_end_of_a_line(tmp_path: Path, follower: Follower) -> None:
    log = log_in(tmp_path)
    note(Recorder(log))
    log.close()
    (path,) = decision_files(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    assert follower.last(1) == []
    path.write_bytes(whole)
    assert ids(follower.poll()) == ["req_1"]


def test_the_last_lines_are_found_however_long_they_are(tmp_path: Path, follower: Follower) -> None:
    log = log_in(tmp_path)
    recorder = Recorder(log)
    for number in range(300):  # several times the block that is read first
        note(recorder, f"req_{number}")
    log.close()
    assert ids(follower.last(250)) == [f"req_{number}" for number in range(50, 300)]


@given(st.integers(0, 10**15 - 1))
def test_an_amount_is_written_exactly_and_comes_back(nusd: int) -> None:
    text = msgspec.json.encode(usd(nusd)).decode()
    assert Decimal(text) * 10**9 == nusd
    assert nusd_of(msgspec.json.decode(text)) == nusd
