"""What a process leaves behind when it dies, and who ends it: the flight journal beside the ledger."""

from __future__ import annotations

import asyncio

import pytest

from router.ledger.journal import Tariff
from router.ledger.owners import FOLDER
from tests.service.ledgers import Books, request, running, settlement

GROWS = Tariff(50, 5_000, 1_000, 1_000_000, None, 4_000, 500)


def leave_three(books: Books) -> str:
    """Die with three holds: one delivers, one has not begun, one has ended; return who that was."""
    dead = books.open()

    async def fly() -> None:
        await dead.start()
        for number in (1, 2, 3):
            await dead.hold(request(number))
        for number in (1, 3):
            dead.journal.begin(f"req-{number}", "m/y", "q", GROWS, 1).delivered(3)
        await dead.settle(settlement(3))

    with asyncio.Runner() as runner:
        runner.run(fly())
        runner.run(dead.close())
    (lock,) = [path.name for path in (books.data / FOLDER).iterdir() if "." not in path.name]
    return lock


def test_what_a_dead_process_delivered_is_settled_the_rest_released_and_its_files_go(books: Books) -> None:
    books.add_credit(100)
    leave_three(books)
    ledger = books.open()
    with running(ledger) as runner:
        assert runner.run(ledger.end_open_holds()) == 2
        assert runner.run(ledger.end_open_holds()) == 0
        _, settled = books.rows_of("req-1")
        assert (settled.kind, settled.amount_nusd, settled.upstream_cost_nusd) == ("settle", 8, 6)
        assert (settled.prompt_tokens, settled.completion_tokens, settled.estimated) == (50, 3, True)
        assert (settled.model, settled.provider) == ("m/y", "q")
        assert books.rows_of("req-2")[1].kind == "release"
        assert [row.amount_nusd for row in books.rows_of("req-3")] == [10, 4]
        assert len(list((books.data / FOLDER).iterdir())) == 2  # this process's own lock and journal
    assert list((books.data / FOLDER).iterdir()) == []
    assert books.differences() == []


def test_a_process_that_dies_beside_another_is_ended_by_it(books: Books) -> None:
    books.add_credit(100)
    survivor = books.open()
    with running(survivor) as runner:
        runner.run(survivor.hold(request("mine")))
        survivor.journal.begin("req-mine", "m", "p", GROWS, 1)
        leave = books.open()
        runner.run(leave.start())
        runner.run(leave.hold(request("theirs")))
        leave.journal.begin("req-theirs", "m", "p", GROWS, 2)
        assert runner.run(survivor.end_open_holds()) == 0  # both live
        runner.run(leave.close())
        assert runner.run(survivor.end_open_holds()) == 1
        assert [row.kind for row in books.rows()] == ["topup", "hold", "hold", "settle"]
        assert runner.run(survivor.settle(settlement("mine"))) == 4
    assert books.differences() == []


def test_a_journal_that_cannot_be_read_leaves_its_holds_open_and_its_files_in_place(
    books: Books, caplog: pytest.LogCaptureFixture
) -> None:
    books.add_credit(100)
    dead = leave_three(books)
    journal = books.data / FOLDER / f"{dead}.flights"
    away = books.data / "away"
    journal.rename(away)
    journal.mkdir()
    ledger = books.open()
    with running(ledger) as runner:
        assert runner.run(ledger.end_open_holds()) == 0
        assert "cannot read what process" in caplog.text
        journal.rmdir()
        away.rename(journal)
        assert runner.run(ledger.end_open_holds()) == 2
        assert books.rows_of("req-1")[1].kind == "settle"
    assert books.differences() == []


def test_an_end_gives_the_flight_s_slot_back_once_it_is_written(books: Books) -> None:
    books.add_credit(100)
    ledger = books.open()

    async def fly() -> list[int]:
        noted = []
        await ledger.hold(request(1))
        ledger.journal.begin("req-1", "m", "p", GROWS, 1)
        noted.append(len(ledger.journal.changed()))
        ledger.end(settlement(1))
        noted.append(len(ledger.journal.changed()))
        await ledger.hold(request(2))  # takes the end into its transaction
        noted.append(len(ledger.journal.changed()))
        await ledger.release("req-2")
        return noted

    with running(ledger) as runner:
        assert runner.run(fly()) == [1, 1, 0]
