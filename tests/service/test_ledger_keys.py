"""Idempotency keys over both engines: who has one, what becomes of it, for how long."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from router.errors import KeyInUse, KeyReused, OutOfCredit
from router.idempotency import Once, once
from router.ledger.answers import KEEP_S, Claim, Kept, StoredAnswer
from router.ledger.ledger import Ledger
from router.ledger.rows import HoldRequest, Progress, Release, Settlement, utc_text
from router.ledger.sqlite import FILE, Database
from router.ledger.sqlite_answers import SqliteAnswers
from tests.service.ledgers import Books, request, running, settlement

BODY = bytes(32)
ANSWER = StoredAnswer(200, b"content-type: application/json", b"deflated")
START = datetime(2026, 11, 1, 12, tzinfo=UTC)


def keyed(number: int, claim: Claim | None = None, *, amount: int = 10, credit: bool = True) -> HoldRequest:
    hold = request(number, amount, credit=credit)
    return msgspec.structs.replace(hold, idempotency_key="k", claim=claim or Claim(BODY))


def answered(number: int, answer: StoredAnswer | None = ANSWER) -> Settlement:
    return msgspec.structs.replace(settlement(number), answer=answer)


async def kept(ledger: Ledger) -> Kept | None:
    return await ledger.answers.find("key_a", "k")


def delivered(*numbers: int) -> Mapping[str, Progress]:
    return {f"req-{n}": Progress(f"req-{n}", 50, 5, 6, 2, "m/y", "q") for n in numbers}


def test_a_key_is_claimed_with_the_hold_and_answered_with_the_settle(books: Books) -> None:
    books.add_credit(100)
    ledger = books.open()
    with running(ledger) as runner:
        assert runner.run(kept(ledger)) is None
        runner.run(ledger.hold(keyed(1)))
        claimed = runner.run(kept(ledger))
        assert claimed is not None
        assert (claimed.running, claimed.request_id, claimed.body, claimed.answer) == (
            True,
            "req-1",
            BODY,
            None,
        )
        assert runner.run(ledger.settle(answered(1))) == 4
        stored = runner.run(kept(ledger))
        assert stored is not None
        assert (stored.running, stored.answer, stored.cover_nusd) == (False, ANSWER, 0)
        assert [row.idempotency_key for row in books.rows_of("req-1")] == ["k", "k"]
    assert books.differences() == []
    assert books.ask(lambda storage: storage.books.faults()) == []


def test_of_holds_in_one_transaction_one_gets_the_key(books: Books) -> None:
    books.add_credit(100)
    ledger = books.open()

    async def together() -> list[BaseException | None]:
        return await asyncio.gather(*(ledger.hold(keyed(n)) for n in range(3)), return_exceptions=True)

    with running(ledger) as runner:
        first, *others = runner.run(together())
        assert first is None
        assert all(isinstance(other, KeyInUse) for other in others)
        account = runner.run(ledger.account("key_a"))
        assert account.held_nusd == 10
    assert books.differences() == []
    assert books.ask(lambda storage: storage.books.faults()) == []


def test_a_hold_that_is_refused_for_money_takes_no_key(books: Books) -> None:
    ledger = books.open()
    with running(ledger) as runner:
        with pytest.raises(OutOfCredit):
            runner.run(ledger.hold(keyed(1)))
        assert runner.run(kept(ledger)) is None


def test_another_process_sees_the_claim(books: Books) -> None:
    books.add_credit(100)
    one, two = books.open(), books.open()
    with running(one) as runner:
        runner.run(two.start())
        runner.run(one.hold(keyed(1)))
        with pytest.raises(KeyInUse):
            runner.run(two.hold(keyed(2)))
        runner.run(one.settle(answered(1)))
        with pytest.raises(KeyInUse):  # it had looked before the answer was there
            runner.run(two.hold(keyed(2)))
        runner.run(two.close())
    assert books.differences() == []
    assert books.ask(lambda storage: storage.books.faults()) == []


def test_a_release_frees_the_key_and_a_new_hold_in_the_same_transaction_takes_it(books: Books) -> None:
    books.add_credit(100)
    ledger = books.open()

    async def once_more() -> None:
        await ledger.hold(keyed(1))
        ledger.end(Release("req-1"))
        await ledger.hold(keyed(2))

    with running(ledger) as runner:
        runner.run(once_more())
        found = runner.run(kept(ledger))
        assert found is not None
        assert (found.running, found.request_id) == (True, "req-2")
        runner.run(ledger.release("req-2"))
        assert runner.run(kept(ledger)) is None
    assert books.differences() == []
    assert books.ask(lambda storage: storage.books.faults()) == []


def test_what_was_charged_without_an_answer_covers_one_more(books: Books) -> None:
    books.add_credit(100)
    ledger = books.open()
    with running(ledger) as runner:
        runner.run(ledger.hold(keyed(1)))
        runner.run(ledger.settle(answered(1, None)))
        cut = runner.run(kept(ledger))
        assert cut is not None
        assert (cut.running, cut.cover_nusd, cut.answer) == (False, 4, None)
        again = Claim(BODY, cut.request_id, cut.cover_nusd, cut.begun_at)
        runner.run(ledger.hold(keyed(2, again)))
        runner.run(ledger.release("req-2"))  # nothing was delivered
        failed = runner.run(kept(ledger))
        assert failed == msgspec.structs.replace(cut, request_id="req-2")
        runner.run(ledger.hold(keyed(3, msgspec.structs.replace(again, after="req-2"))))
        again_cut = Release("req-3", covered=True, delivered=settlement(3, 0))
        assert runner.run(ledger.settle(again_cut)) == 0
        assert runner.run(kept(ledger)) is None
        _, given = books.rows_of("req-3")
        assert (given.kind, given.amount_nusd, given.balance_after_nusd) == ("release", 10, 96)
        assert (given.upstream_cost_nusd, given.prompt_tokens, given.completion_tokens) == (3, 100, 20)
        assert (given.model, given.provider) == ("m/y", "q")
        account = runner.run(ledger.account("key_a"))
        assert (account.requests, account.charged_nusd, account.completion_tokens) == (2, 4, 40)
    assert books.differences() == []
    assert books.ask(lambda storage: storage.books.faults()) == []


@pytest.mark.parametrize("credit", [True, False])
def test_what_a_dead_process_had_delivered_is_never_charged_twice(books: Books, credit: bool) -> None:
    books.add_credit(100)
    dead, ledger = books.open(), books.open()
    with running(ledger) as runner:
        runner.run(dead.start())
        runner.run(dead.hold(keyed(1, credit=credit)))
        runner.run(dead.close())
        waiting = runner.run(kept(ledger))
        assert waiting is not None
        assert waiting.running
        assert runner.run(ledger.end_open_holds(lambda _: delivered(1))) == 1
        cut = runner.run(kept(ledger))
        assert cut is not None
        assert (cut.running, cut.cover_nusd > 10**18) == (False, True)

        again = Claim(BODY, cut.request_id, cut.cover_nusd, cut.begun_at)
        second = books.open()
        runner.run(second.start())
        runner.run(second.hold(keyed(2, again, credit=credit)))
        runner.run(second.close())
        assert runner.run(ledger.end_open_holds(lambda _: delivered(2))) == 1
        kinds = [kind for n in (1, 2) for kind in books.kinds_of(f"req-{n}")]
        assert kinds == ["hold", "settle", "hold", "release"]
        assert runner.run(kept(ledger)) == msgspec.structs.replace(cut, request_id="req-2")
    assert books.differences() == []
    assert books.ask(lambda storage: storage.books.faults()) == []


@pytest.mark.parametrize("credit", [True, False])
def test_what_a_dead_process_delivered_beyond_what_was_paid_is_charged(books: Books, credit: bool) -> None:
    books.add_credit(100)
    dead, ledger = books.open(), books.open()
    with running(ledger) as runner:
        runner.run(ledger.hold(keyed(1, credit=credit)))
        runner.run(ledger.settle(answered(1, None)))
        cut = runner.run(kept(ledger))
        assert cut is not None
        assert cut.cover_nusd == 4

        again = Claim(BODY, cut.request_id, cut.cover_nusd, cut.begun_at)
        runner.run(dead.start())
        runner.run(dead.hold(keyed(2, again, credit=credit)))
        runner.run(dead.close())
        assert runner.run(ledger.end_open_holds(lambda _: delivered(2))) == 1
        _, settle = books.rows_of("req-2")
        assert (settle.kind, settle.amount_nusd, settle.upstream_cost_nusd) == ("settle", 6 - 4, 2)
        assert settle.estimated
        after = runner.run(kept(ledger))
        assert after is not None
        assert (after.running, after.cover_nusd > 10**18) == (False, True)
    assert books.differences() == []
    assert books.ask(lambda storage: storage.books.faults()) == []


def test_what_a_dead_process_delivered_within_what_was_paid_costs_nothing_and_leaves_it(books: Books) -> None:
    books.add_credit(100)
    dead, ledger = books.open(), books.open()
    paid = msgspec.structs.replace(settlement(1), charge_nusd=6)
    with running(ledger) as runner:
        runner.run(ledger.hold(keyed(1)))
        runner.run(ledger.settle(paid))
        cut = runner.run(kept(ledger))
        assert cut is not None
        again = Claim(BODY, cut.request_id, cut.cover_nusd, cut.begun_at)
        runner.run(dead.start())
        runner.run(dead.hold(keyed(2, again, amount=4)))
        runner.run(dead.close())
        assert runner.run(ledger.end_open_holds(lambda _: delivered(2))) == 1
        _, given = books.rows_of("req-2")
        assert (given.kind, given.amount_nusd, given.estimated) == ("release", 4, True)
        assert (given.upstream_cost_nusd, given.completion_tokens) == (2, 5)
        assert runner.run(kept(ledger)) == msgspec.structs.replace(cut, request_id="req-2")
    assert books.differences() == []
    assert books.ask(lambda storage: storage.books.faults()) == []


@pytest.mark.parametrize("paid", [True, False])
def test_what_was_paid_for_needs_no_credit(books: Books, paid: bool) -> None:
    books.add_credit(4)
    ledger = books.open()
    with running(ledger) as runner:
        runner.run(ledger.hold(keyed(1, amount=4)))
        runner.run(ledger.settle(answered(1, None)))
        assert runner.run(ledger.account("key_a")).balance_nusd == 0
        again = keyed(2, Claim(BODY, "req-1", 4), amount=0 if paid else 1)
        if paid:
            runner.run(ledger.hold(again))
            runner.run(ledger.release("req-2"))
        else:
            with pytest.raises(OutOfCredit):
                runner.run(ledger.hold(again))
    assert books.differences() == []


def test_a_dead_process_that_delivered_nothing_frees_its_key(books: Books) -> None:
    books.add_credit(100)
    dead, ledger = books.open(), books.open()
    with running(ledger) as runner:
        runner.run(dead.start())
        runner.run(dead.hold(keyed(1)))
        runner.run(dead.close())
        assert runner.run(ledger.end_open_holds()) == 1
        assert runner.run(kept(ledger)) is None
    assert books.differences() == []
    assert books.ask(lambda storage: storage.books.faults()) == []


def ask(runner: asyncio.Runner, ledger: Ledger, body: bytes, later: timedelta) -> Once | StoredAnswer:
    headers = {"idempotency-key": "k"}
    asked = once(ledger.answers, "key_a", headers, body, now=START + later, limit_bytes=1)
    return runner.run(asked)


def test_a_key_is_kept_for_a_day_and_then_it_is_new(books: Books) -> None:
    books.add_credit(100)
    ledger = books.open()
    day = timedelta(seconds=KEEP_S)
    with running(ledger) as runner:
        first = ask(runner, ledger, b"a", timedelta())
        assert isinstance(first, Once)
        runner.run(ledger.hold(keyed(1, first.claim)))
        for later in (timedelta(), day * 2):  # however old: it runs
            with pytest.raises(KeyInUse):
                ask(runner, ledger, b"a", later)
        runner.run(ledger.settle(answered(1)))
        assert ask(runner, ledger, b"a", day) == ANSWER
        with pytest.raises(KeyReused):
            ask(runner, ledger, b"b", day)
        late = ask(runner, ledger, b"b", day + timedelta(minutes=1))
        assert isinstance(late, Once)
        runner.run(ledger.hold(keyed(2, late.claim)))
        runner.run(ledger.settle(answered(2)))
    assert books.differences() == []
    assert books.ask(lambda storage: storage.books.faults()) == []


def test_old_keys_are_forgotten_a_few_at_a_time_and_running_ones_are_not(books: Books) -> None:
    books.add_credit(1_000)
    ledger = books.open()
    with running(ledger) as runner:
        for number in range(8):
            hold = msgspec.structs.replace(keyed(number), idempotency_key=f"k{number}")
            runner.run(ledger.hold(hold))
            if number:
                runner.run(ledger.settle(answered(number)))
        before = utc_text((START + timedelta(days=1)).timestamp())
        assert runner.run(ledger.answers.sweep("2026-11-01T11")) == 0
        swept = [runner.run(ledger.answers.sweep(before, 3)) for _ in range(4)]
        assert swept == [3, 3, 1, 0]
        running_one = runner.run(ledger.answers.find("key_a", "k0"))
        assert running_one is not None
        assert running_one.running
        runner.run(ledger.release("req-0"))


def test_a_sweep_waits_for_nobody(tmp_path: Path) -> None:
    with (
        closing(Database(tmp_path / FILE)) as database,
        closing(Database(tmp_path / FILE)) as other,
        other.transaction(),
    ):
        assert asyncio.run(SqliteAnswers(database).sweep("2027")) == 0
