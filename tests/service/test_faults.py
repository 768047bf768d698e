"""Small versions of `python -m benchmarks.faults`: each audits what the ledger says, to the token."""

from __future__ import annotations

import asyncio

import pytest

from benchmarks.faults import disk, kill, leave, stop
from benchmarks.faults.book import (
    INPUT_NUSD,
    OUTPUT_NUSD,
    PROMPT_TOKENS,
    Entry,
    Outcome,
    Plan,
    Verdict,
    audit,
    audit_keys,
)
from router.ledger.rows import Row
from tests.service.ledgers import NOW


def assert_clean(verdict: Verdict) -> None:
    assert verdict.clean, (dict(verdict.faults), verdict.examples)


def test_kills_under_mixed_load_lose_double_and_invent_nothing() -> None:
    (verdict,), (about,) = kill.run(requests=500, at_once=32, kills=3, seeds=1)
    assert_clean(verdict)
    assert verdict.outcomes["whole"] > 100
    assert about["broken_by_a_kill"] > 0
    assert max(about["holds_ended_s"]) < kill.ENDED_S


def test_kills_under_clients_that_retry_with_their_keys_charge_each_key_once() -> None:
    (verdict,), (about,) = kill.run(requests=200, at_once=32, kills=2, seeds=1, how=kill.How(keys=True))
    assert_clean(verdict)
    assert (verdict.outcomes, verdict.settled) == ({"whole": 200}, 200)
    assert about["answered_anew"] > 0


def test_kills_and_clients_that_leave_are_billed_alike_over_the_responses_api() -> None:
    how = kill.How(keys=True, route="responses")
    (verdict,), (about,) = kill.run(requests=200, at_once=32, kills=2, seeds=1, how=how)
    assert_clean(verdict)
    assert (verdict.outcomes, verdict.settled) == ({"whole": 200}, 200)
    assert about["answered_anew"] > 0
    verdict, about = asyncio.run(leave.run(150, 32, 1, "responses"))
    assert_clean(verdict)
    assert about["left_in_the_middle"] > 30


def test_fifty_streams_end_whole_at_a_stop() -> None:
    verdict, about = asyncio.run(stop.run(50))
    assert_clean(verdict)
    assert (about["whole"], about["exit_status"], about["readiness_status"]) == (50, 0, 503)


def test_clients_that_leave_are_billed_between_what_they_got_and_what_was_sent() -> None:
    verdict, about = asyncio.run(leave.run(200, 32, 1))
    assert_clean(verdict)
    assert about["left_in_the_middle"] > 50
    assert verdict.released > 0


def test_without_room_or_leave_to_write_nothing_is_served_and_then_it_is_back() -> None:
    verdict, about = asyncio.run(disk.run(150, 32, 1, tmpfs=False))
    assert_clean(verdict)
    assert about["refusals"].keys() == {disk.NAME}


ENTRY = Entry("a", Plan(stream=True, tokens=9), "cut", 200, tokens=3, sent=5, calls=1)


def row(kind: str, completion: int | None = None, hold: str = "r", who: str = "a", nusd: int = 0) -> Row:
    prompt = None if completion is None else PROMPT_TOKENS
    amount = nusd or (0 if completion is None else PROMPT_TOKENS * INPUT_NUSD + completion * OUTPUT_NUSD)
    counts = (amount, amount, 0, prompt, completion)
    rest = ("fault/first", "fault", "c", completion is not None, None, NOW)
    return Row(hold, who, "key", kind, *counts, *rest)  # type: ignore[arg-type]  # a kind is a word


@pytest.mark.parametrize(
    ("rows", "faults"),
    [
        ([row("hold"), row("settle", 3)], {}),
        ([row("hold"), row("settle", 5)], {}),
        ([row("hold"), row("release"), row("hold", hold="r.2"), row("settle", 4, "r.2")], {}),
        ([], {"lost": 1}),
        ([row("hold"), row("release")], {"unbilled": 1}),
        ([row("hold")], {"open": 1, "unbilled": 1}),
        ([row("hold"), row("settle", 4), row("settle", 4)], {"doubled": 2}),
        ([row("hold"), row("settle", 4), row("release")], {"doubled": 1}),
        ([row("hold"), row("settle", 4), row("hold", hold="2"), row("settle", 4, "2")], {"doubled": 1}),
        ([row("hold"), row("settle", 2)], {"wrong": 1}),
        ([row("hold"), row("settle", 6)], {"wrong": 1}),
        ([row("hold"), row("settle", 4, nusd=1)], {"wrong": 1}),
        ([row("hold"), row("settle", 4), row("hold", hold="x", who="nobody")], {"phantom": 1}),
    ],
)
def test_the_audit_sees(rows: list[Row], faults: dict[str, int]) -> None:
    found = audit({"a": ENTRY}, rows)
    assert {kind: count for kind, count in found.faults.items() if count} == faults
    assert found.clean == (not faults)


def test_the_audit_sees_a_charge_for_nothing_and_another_price_than_was_told() -> None:
    settled = [row("hold"), row("settle", 3)]
    nothing = Entry("a", ENTRY.plan, "failed")
    assert audit({"a": nothing}, settled).faults["phantom"] == 1
    told = Entry("a", ENTRY.plan, "whole", 200, 3, {"cost": 0.000056}, 3, 1)
    assert audit({"a": told}, settled).faults.total() == 0
    told.usage = {"cost": 0.000055}
    assert audit({"a": told}, settled).faults["wrong"] == 1
    assert audit({}, [], 2).faults["unbalanced"] == 2


def tried(
    number: int,
    tokens: int = 3,
    calls: int = 1,
    body: bytes = b"abc",
    *,
    replayed: bool = False,
    cost: float | None = None,
) -> Entry:
    outcome: Outcome = "whole" if tokens == 3 else "failed"
    sent = 3 if calls else 0
    usage = None if cost is None else {"cost": cost}
    return Entry(
        f"a.{number}", ENTRY.plan, outcome, 200, tokens, usage, sent, calls, "", replayed, bytearray(body)
    )


def charged(number: int) -> list[Row]:
    return [row("hold", who=f"a.{number}", hold=f"r{number}"), row("settle", 3, f"r{number}", f"a.{number}")]


def released(number: int) -> list[Row]:
    return [
        row("hold", who=f"a.{number}", hold=f"r{number}"),
        row("release", None, f"r{number}", f"a.{number}"),
    ]


REPLAY = tried(2, calls=0, replayed=True)


@pytest.mark.parametrize(
    ("tries", "rows", "faults"),
    [
        ([tried(1)], charged(1), {}),
        ([tried(1, 0), tried(2)], [*charged(1), *released(2)], {}),
        ([tried(1, 0), tried(2)], [*released(1), *charged(2)], {}),
        ([tried(1, 0), REPLAY], charged(1), {}),
        ([tried(1)], [], {"lost": 1, "unbilled": 1}),
        ([tried(1)], released(1), {"unbilled": 1}),
        ([tried(1, 0), tried(2)], [*charged(1), *charged(2)], {"doubled": 1}),
        ([tried(1), tried(2)], [*charged(1), *released(2)], {"again": 1}),
        ([tried(1), tried(2, replayed=True)], [*charged(1), *released(2)], {"again": 2}),
        ([tried(1, body=b"other"), REPLAY], charged(1), {"unequal": 1}),
        ([tried(1), tried(2, cost=0.1)], [*charged(1), *released(2)], {"again": 1, "wrong": 1}),
        ([tried(1)], [*charged(1), *charged(2)], {"phantom": 1}),
    ],
)
def test_the_audit_of_keys_sees(tries: list[Entry], rows: list[Row], faults: dict[str, int]) -> None:
    found = audit_keys({"a": tries}, rows)
    assert {kind: count for kind, count in found.faults.items() if count} == faults
