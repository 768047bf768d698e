"""The ledger where others write too, where nobody waits, and over a database of the first version."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from router.errors import OutOfCredit
from router.ledger import books
from router.ledger.ledger import Ledger
from router.ledger.owners import Owner
from router.ledger.rows import Release
from router.ledger.sqlite import FILE, Database, migrations
from tests.service.ledgers import NOW, clean, open_ledger, request, running, settlement, with_credit


def test_what_another_process_adds_or_limits_counts_at_the_next_hold(tmp_path: Path) -> None:
    with_credit(tmp_path, 10)
    ledger = open_ledger(tmp_path)
    with closing(sqlite3.connect(tmp_path / FILE, isolation_level=None)) as other, running(ledger) as runner:
        runner.run(ledger.hold(request(1)))
        with pytest.raises(OutOfCredit):
            runner.run(ledger.hold(request(2)))
        books.topup(other, "key_a", 10, source="theirs", external_id="1", now=NOW)
        runner.run(ledger.hold(request(3)))
        assert ledger.account("key_a").available_nusd == 0
        books.topup(other, "key_a", 100, source="theirs", external_id="2", now=NOW)
        other.execute("UPDATE accounts SET budget_day_nusd = 25")
        with pytest.raises(OutOfCredit, match="USD a day"):
            runner.run(ledger.hold(request(4)))
        assert runner.run(ledger.settle(settlement(1))) == 4
        assert ledger.account("key_a").balance_nusd == 116
    clean(tmp_path)


def test_a_rare_write_of_this_process_counts_at_the_next_hold(tmp_path: Path) -> None:
    with_credit(tmp_path, 10)
    ledger = open_ledger(tmp_path)
    with running(ledger) as runner:
        runner.run(ledger.hold(request(1)))
        with pytest.raises(OutOfCredit):
            runner.run(ledger.hold(request(2)))
        with ledger.database.transaction() as connection:
            books.topup(connection, "key_a", 10, source="mine", external_id="1", now=NOW)
        runner.run(ledger.hold(request(3)))
    clean(tmp_path)


def test_a_batch_that_fails_leaves_no_sum_behind(tmp_path: Path) -> None:
    with_credit(tmp_path, 100)
    ledger = open_ledger(tmp_path)
    with running(ledger) as runner:
        runner.run(ledger.hold(request(1)))
        with closing(sqlite3.connect(tmp_path / FILE)) as other:
            other.execute(
                "CREATE TRIGGER full BEFORE INSERT ON ledger WHEN NEW.request_id = 'req-2'"
                " BEGIN SELECT RAISE(ABORT, 'no'); END"
            )
        outcomes = runner.run(_together(ledger, 2, 3))
        assert [type(outcome).__name__ for outcome in outcomes] == ["InternalError", "NoneType"]
        assert ledger.account("key_a").held_nusd == 20
    clean(tmp_path)


async def _together(ledger: Ledger, *numbers: int) -> list[BaseException | None]:
    holds = (ledger.hold(request(number)) for number in numbers)
    return await asyncio.gather(*holds, return_exceptions=True)


def test_an_end_that_nobody_waits_for_says_its_charge_and_happens_once(tmp_path: Path) -> None:
    with_credit(tmp_path, 100)
    ledger = open_ledger(tmp_path)

    async def ends() -> list[int | None]:
        for number in range(3):
            await ledger.hold(request(number))
        return [
            ledger.end(settlement(0, 7)),
            ledger.end(settlement(0, 7)),
            await ledger.settle(settlement(0, 7)),
            ledger.end(settlement(1, 50)),
            ledger.end(Release("req-2")),
            int(await ledger.release("req-2")),
            ledger.end(settlement("never held")),
        ]

    with running(ledger) as runner:
        assert runner.run(ends()) == [7, None, None, 10, 0, 0, None]
    with closing(Database(tmp_path / FILE)) as database:  # closing it has written what waited
        account = books.account(database, "key_a", NOW)
        assert (account.balance_nusd, account.held_nusd, account.requests) == (83, 0, 2)
    clean(tmp_path)


def test_an_end_rides_in_the_next_hold_s_transaction(tmp_path: Path) -> None:
    with_credit(tmp_path, 100)
    ledger = open_ledger(tmp_path)

    async def one_after_the_other() -> None:
        await ledger.hold(request(1))
        ledger.end(settlement(1))
        await ledger.hold(request(2))

    with running(ledger) as runner:
        runner.run(one_after_the_other())
        (_, settle), (hold,) = (books.rows_of(ledger.database, f"req-{number}") for number in (1, 2))
    assert settle.created_at == hold.created_at


def test_an_end_that_nobody_waits_for_waits_for_storage(tmp_path: Path) -> None:
    with_credit(tmp_path, 100)
    ledger = open_ledger(tmp_path, wait_s=0.01)

    async def locked_out(other: sqlite3.Connection) -> None:
        await ledger.hold(request(1))
        await ledger.hold(request(2))
        other.execute("BEGIN IMMEDIATE")
        assert ledger.end(settlement(1)) == 4
        with pytest.raises(Exception, match="cannot be used right now"):
            await ledger.release("req-2")
        assert ledger.end(settlement(1)) is None
        other.execute("ROLLBACK")
        await ledger.hold(request(3))

    with closing(sqlite3.connect(tmp_path / FILE, isolation_level=None)) as other, running(ledger) as runner:
        runner.run(locked_out(other))
        assert [row.kind for row in books.rows_of(ledger.database, "req-1")] == ["hold", "settle"]
        assert [row.kind for row in books.rows_of(ledger.database, "req-2")] == ["hold", "release"]
    clean(tmp_path)


def test_a_hold_that_another_process_has_ended_is_not_charged(tmp_path: Path) -> None:
    with_credit(tmp_path, 100)
    ledger = open_ledger(tmp_path)

    async def end_and_hold() -> tuple[int | None, None]:
        return await asyncio.gather(ledger.settle(settlement(1)), ledger.hold(request(2)))

    with running(ledger) as runner:
        runner.run(ledger.hold(request(1)))
        with (
            closing(Database(tmp_path / FILE)) as database,
            closing(Owner(tmp_path / "elsewhere")) as other,  # it cannot see that this process lives
        ):
            assert books.release_dead(database, other, NOW) == 1
        assert list(runner.run(end_and_hold())) == [None, None]
        assert runner.run(ledger.settle(settlement(1))) is None
        account = ledger.account("key_a")
        assert (account.balance_nusd, account.held_nusd) == (100, 10)
    clean(tmp_path)


def test_an_end_of_nonsense_leaves_its_hold_open_for_a_better_one(tmp_path: Path) -> None:
    with_credit(tmp_path, 100)
    ledger = open_ledger(tmp_path)

    async def ends() -> int | None:
        await ledger.hold(request(1))
        assert ledger.end(settlement(1, -5)) == -5  # refused when it is written
        await ledger.hold(request(2))
        return await ledger.settle(settlement(1))

    with running(ledger) as runner:
        assert runner.run(ends()) == 4
        assert ledger.account("key_a").balance_nusd == 96
    clean(tmp_path)


FIRST_VERSION = """
INSERT INTO accounts (id, balance_nusd, held_nusd, charged_nusd, requests, created_at)
    VALUES ('key_a', 96, 15, 4, 1, 'then');
INSERT INTO ledger (request_id, account, kind, amount_nusd, delta_nusd, balance_after_nusd, source,
    external_id, created_at) VALUES ('topup-1', 'key_a', 'topup', 100, 100, 100, 'test', '1', 'then');
INSERT INTO ledger (request_id, client_request_id, account, kind, amount_nusd, delta_nusd, balance_after_nusd,
    model, provider, catalog, created_at)
    VALUES ('req-1', 'theirs', 'key_a', 'hold', 10, 0, 100, 'm/x', 'p', 'c', 'then'),
        ('req-1', 'theirs', 'key_a', 'settle', 4, -4, 96, 'm/y', 'q', 'c', 'then'),
        ('req-2', NULL, 'key_a', 'hold', 10, 0, 96, 'm/x', 'p', 'c', 'then'),
        ('req-3', NULL, 'key_a', 'hold', 10, 0, 96, 'm/x', 'p', 'c', 'then'),
        ('req-3', NULL, 'key_a', 'release', 10, 0, 96, 'm/x', 'p', 'c', 'then'),
        ('req-4', NULL, 'key_a', 'hold', 5, 0, 96, 'm/x', 'p', 'c', 'then');
INSERT INTO open_holds VALUES ('req-2', 'key_a', 10, 'dead'), ('req-4', 'key_a', 5, 'dead');
PRAGMA user_version = 1;
"""


def test_a_database_of_the_first_version_keeps_its_rows_and_open_holds(tmp_path: Path) -> None:
    number, sql = migrations()[0]
    assert number == 1
    with closing(sqlite3.connect(tmp_path / FILE)) as connection:
        connection.executescript(sql + FIRST_VERSION)
        before = connection.execute("SELECT * FROM ledger ORDER BY seq").fetchall()
    ledger = open_ledger(tmp_path)
    with running(ledger) as runner:
        assert ledger.database.connection.execute("SELECT * FROM ledger ORDER BY seq").fetchall() == before
        assert books.check(ledger.database) == []
        assert runner.run(ledger.end_open_holds()) == 2
        assert [row.kind for row in books.rows_of(ledger.database, "req-2")] == ["hold", "release"]
        assert ledger.account("key_a").available_nusd == 96
        runner.run(ledger.hold(request(5)))
        assert runner.run(ledger.settle(settlement(5))) == 4
        run = ledger.database.connection.execute
        assert run("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert run("PRAGMA foreign_key_check").fetchall() == []
    clean(tmp_path)


@pytest.mark.parametrize(
    ("request_id", "kind", "amount", "delta", "why"),
    [
        ("req-1", "hold", 1, 0, "request id was used before"),
        ("req-1", "settle", 1, -1, "its hold has ended already"),
        ("req-2", "settle", 1, -1, "its hold has ended already"),
        ("req-3", "settle", 1, 1, "CHECK"),
        ("req-3", "hold", 1, -1, "CHECK"),
        ("req-3", "gift", 1, 0, "CHECK"),
        ("req-3", "topup", 1, 1, "CHECK"),
        ("req-3", "hold", -1, 0, "CHECK"),
        ("req-3", "release", 1.5, 0, "cannot store REAL"),
    ],
)
def test_the_database_itself_refuses(
    tmp_path: Path, request_id: str, kind: str, amount: float, delta: int, why: str
) -> None:
    with_credit(tmp_path, 100)
    ledger = open_ledger(tmp_path)

    async def two() -> None:
        await _together(ledger, 1, 2)
        await ledger.settle(settlement(1))
        await ledger.release("req-2")

    with running(ledger) as runner:
        runner.run(two())
    with (
        closing(sqlite3.connect(tmp_path / FILE)) as connection,
        pytest.raises(sqlite3.IntegrityError, match=why),
    ):
        connection.execute(
            "INSERT INTO ledger (request_id, account, kind, amount_nusd, delta_nusd, balance_after_nusd,"
            " created_at) VALUES (?, 'key_a', ?, ?, ?, 96, '')",
            (request_id, kind, amount, delta),
        )
