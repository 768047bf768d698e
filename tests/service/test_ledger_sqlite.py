"""The ledger over SQLite: its locks, its disk, its WAL, and a database of the first version."""

import asyncio
import os
import resource
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from router.errors import Unavailable
from router.ledger.migrations import migrations
from router.ledger.owners import Owner
from router.ledger.sqlite import FILE, MIGRATIONS, Database
from router.ledger.sqlite_books import end_dead
from router.ledger.sqlite_ledger import CHECKPOINT_COMMITS, SqliteLedger
from tests.service.ledgers import NOW, Books, Ticks, request, running, settlement


def opened(data: Path, *, wait_s: float = 5.0) -> SqliteLedger:
    return SqliteLedger.open(data, clock=Ticks(), wait_s=wait_s)


def test_the_wal_is_copied_while_writing_goes_on(tmp_path: Path) -> None:
    books = Books(tmp_path)
    ledger = opened(tmp_path)

    async def one_after_another() -> None:
        for number in range(CHECKPOINT_COMMITS * 3 // 2):
            await ledger.hold(request(number, credit=False))
            ledger.end(settlement(number))
        await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}))  # the copying, if it goes on

    with running(ledger) as runner:
        runner.run(one_after_another())
        with closing(sqlite3.connect(f"file:{tmp_path / FILE}?immutable=1", uri=True)) as without_wal:
            copied = without_wal.execute("SELECT count(*) FROM ledger").fetchone()[0]
        assert copied >= CHECKPOINT_COMMITS // 2
    assert books.account().requests == CHECKPOINT_COMMITS * 3 // 2
    assert books.differences() == []


def test_a_lock_of_another_process_is_waited_for_and_then_503(tmp_path: Path) -> None:
    books = Books(tmp_path)
    books.add_credit(100)
    ledger = opened(tmp_path, wait_s=0.05)
    with closing(sqlite3.connect(tmp_path / FILE, isolation_level=None)) as other, running(ledger) as runner:
        runner.run(ledger.hold(request(1)))
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable) as caught:
            runner.run(ledger.hold(request(2)))
        assert caught.value.status == 503
        assert caught.value.retry_after_s
        assert str(tmp_path) not in caught.value.message
        with pytest.raises(Unavailable):
            runner.run(ledger.settle(settlement(1)))
        other.execute("ROLLBACK")
        runner.run(ledger.hold(request(3)))
        # The settle that was refused has been written meanwhile, the hold that was refused has not.
        assert books.kinds_of("req-1") == ["hold", "settle"]
        assert books.rows_of("req-2") == []
    assert books.differences() == []


def test_a_lock_that_is_soon_gone_is_no_error(tmp_path: Path) -> None:
    books = Books(tmp_path)
    books.add_credit(100)
    ledger = opened(tmp_path)

    async def wait_for(other: sqlite3.Connection) -> None:
        other.execute("BEGIN IMMEDIATE")
        task = asyncio.create_task(ledger.hold(request(1)))
        for _ in range(10):
            await asyncio.sleep(0)
        assert not task.done()
        other.execute("ROLLBACK")
        await task

    with closing(sqlite3.connect(tmp_path / FILE, isolation_level=None)) as other, running(ledger) as runner:
        runner.run(wait_for(other))


@contextmanager
def full_disk(data: Path) -> Iterator[None]:
    """Let no file grow beyond what the WAL has: the kernel's own refusal, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((data / f"{FILE}-wal").stat().st_size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_is_503_and_what_is_owed_is_written_later(tmp_path: Path) -> None:
    books = Books(tmp_path)
    books.add_credit(100)
    ledger = opened(tmp_path)
    with running(ledger) as runner:
        runner.run(ledger.hold(request(1)))
        with full_disk(tmp_path):
            with pytest.raises(Unavailable):
                runner.run(ledger.hold(request(2)))
            with pytest.raises(Unavailable):
                runner.run(ledger.settle(settlement(1)))
    assert books.kinds_of("req-1") == ["hold", "settle"]
    assert books.kinds_of("req-2") == []
    assert books.differences() == []


def test_a_read_only_folder_is_503_with_the_fix() -> None:
    folder = Path(tempfile.mkdtemp())
    mine = os.geteuid()
    folder.chmod(0o555)
    try:
        if mine == 0:
            os.seteuid(65_534)  # root may write anywhere
        with pytest.raises(Unavailable, match="ROUTER_DATA"):
            opened(folder / "data")
        with pytest.raises(Unavailable, match="ROUTER_DATA"):
            opened(folder)
    finally:
        os.seteuid(mine)
        folder.chmod(0o755)
        shutil.rmtree(folder)


def test_a_newer_database_is_refused(tmp_path: Path) -> None:
    with closing(Database(tmp_path / FILE)) as database:
        database.connection.execute("PRAGMA user_version = 9999")
    with pytest.raises(Unavailable, match="newer router; upgrade this one; choose another folder"):
        Database(tmp_path / FILE)  # neither rights nor space are wrong


def test_a_start_beside_others_never_loses_its_lock(tmp_path: Path) -> None:
    first, second = Owner(tmp_path), Owner(tmp_path)
    first.clear(first.dead())
    assert first.lives(second.id)
    assert second.lives(first.id)
    second.close()
    assert not first.lives(second.id)
    assert sorted(path.name for path in tmp_path.iterdir()) == [first.id, f"{first.id}.flights"]
    first.close()
    assert list(tmp_path.iterdir()) == []


def test_a_batch_that_fails_leaves_no_sum_behind(tmp_path: Path) -> None:
    books = Books(tmp_path)
    books.add_credit(100)
    ledger = opened(tmp_path)
    with running(ledger) as runner:
        runner.run(ledger.hold(request(1)))
        with closing(sqlite3.connect(tmp_path / FILE)) as other:
            other.execute(
                "CREATE TRIGGER full BEFORE INSERT ON ledger WHEN NEW.request_id = 'req-2'"
                " BEGIN SELECT RAISE(ABORT, 'no'); END"
            )
        outcomes = runner.run(_together(ledger, 2, 3))
        assert [type(outcome).__name__ for outcome in outcomes] == ["InternalError", "NoneType"]
        assert runner.run(ledger.account("key_a")).held_nusd == 20
    assert books.differences() == []


async def _together(ledger: SqliteLedger, *numbers: int) -> list[BaseException | None]:
    holds = (ledger.hold(request(number)) for number in numbers)
    return await asyncio.gather(*holds, return_exceptions=True)


def test_an_end_that_nobody_waits_for_waits_for_storage(tmp_path: Path) -> None:
    books = Books(tmp_path)
    books.add_credit(100)
    ledger = opened(tmp_path, wait_s=0.01)

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
        assert books.kinds_of("req-1") == ["hold", "settle"]
        assert books.kinds_of("req-2") == ["hold", "release"]
    assert books.differences() == []


def test_a_hold_that_another_process_has_ended_is_not_charged(tmp_path: Path) -> None:
    books = Books(tmp_path)
    books.add_credit(100)
    ledger = opened(tmp_path)

    async def end_and_hold() -> tuple[int | None, None]:
        return await asyncio.gather(ledger.settle(settlement(1)), ledger.hold(request(2)))

    with running(ledger) as runner:
        runner.run(ledger.hold(request(1)))
        with (
            closing(Database(tmp_path / FILE)) as database,
            closing(Owner(tmp_path / "elsewhere")) as other,  # it cannot see that this process lives
        ):
            assert end_dead(database, other, other.delivered, NOW) == 1
        assert list(runner.run(end_and_hold())) == [None, None]
        assert runner.run(ledger.settle(settlement(1))) is None
        account = runner.run(ledger.account("key_a"))
        assert (account.balance_nusd, account.held_nusd) == (100, 10)
    assert books.differences() == []


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
    books = Books(tmp_path)
    number, sql = migrations(MIGRATIONS)[0]
    assert number == 1
    with closing(sqlite3.connect(tmp_path / FILE)) as connection:
        connection.executescript(sql + FIRST_VERSION)
        before = connection.execute("SELECT * FROM ledger ORDER BY seq").fetchall()
    ledger = opened(tmp_path)
    with running(ledger) as runner:
        assert ledger.database.connection.execute("SELECT * FROM ledger ORDER BY seq").fetchall() == before
        assert books.differences() == []
        assert runner.run(ledger.end_open_holds()) == 2
        assert books.kinds_of("req-2") == ["hold", "release"]
        assert runner.run(ledger.account("key_a")).available_nusd == 96
        runner.run(ledger.hold(request(5)))
        assert runner.run(ledger.settle(settlement(5))) == 4
        run = ledger.database.connection.execute
        assert run("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert run("PRAGMA foreign_key_check").fetchall() == []
    assert books.differences() == []
