"""The ledger over real SQLite files and real processes."""

import asyncio
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from router.errors import InternalError, OutOfCredit, Unavailable
from router.ledger import books
from router.ledger.ledger import CHECKPOINT_COMMITS, Ledger
from router.ledger.owners import Owner
from router.ledger.sqlite import FILE, Database
from tests.service.ledgers import NOW, Ticks, clean, open_ledger, request, running, settlement, with_credit


def test_hold_and_settle_are_the_rows_of_the_contract(tmp_path: Path) -> None:
    with_credit(tmp_path, 100)
    ledger = open_ledger(tmp_path)
    with running(ledger) as runner:
        runner.run(ledger.hold(request(1)))
        held = ledger.account("key_a")
        assert (held.balance_nusd, held.held_nusd, held.available_nusd) == (100, 10, 90)
        assert runner.run(ledger.settle(settlement(1, estimated=True))) == 4
        after = ledger.account("key_a")
        assert (after.balance_nusd, after.held_nusd, after.charged_nusd) == (96, 0, 4)
        assert (after.requests, after.prompt_tokens, after.completion_tokens) == (1, 100, 20)
        hold, settle = books.rows_of(ledger.database, "req-1")
    assert (hold.kind, hold.amount_nusd, hold.balance_after_nusd) == ("hold", 10, 100)
    assert (hold.model, hold.provider, hold.prompt_tokens, hold.estimated) == ("m/x", "p", None, False)
    assert (settle.kind, settle.amount_nusd, settle.balance_after_nusd) == ("settle", 4, 96)
    assert (settle.model, settle.provider, settle.upstream_cost_nusd) == ("m/y", "q", 3)
    assert (settle.client_request_id, settle.catalog, settle.estimated) == ("theirs", "abcdef012345", True)
    assert settle.created_at.startswith("2026-11-01T12:")
    assert settle.created_at.endswith(".000Z")
    clean(tmp_path)


def test_one_turn_of_the_loop_is_one_transaction(tmp_path: Path) -> None:
    with_credit(tmp_path, 10_000)
    ledger = open_ledger(tmp_path)

    async def together() -> None:
        await asyncio.gather(*(ledger.hold(request(number)) for number in range(50)))
        await asyncio.gather(*(ledger.settle(settlement(number)) for number in range(50)))

    with running(ledger) as runner:
        runner.run(together())
        rows = [row for row in books.rows(ledger.database) if row.kind != "topup"]
    assert len(rows) == 100
    assert len({row.created_at for row in rows if row.kind == "hold"}) == 1
    clean(tmp_path)


def test_a_refused_hold_does_not_harm_the_others_of_its_transaction(tmp_path: Path) -> None:
    with_credit(tmp_path, 25)
    ledger = open_ledger(tmp_path)

    async def together() -> list[BaseException | None]:
        await ledger.hold(request("used", 0))
        holds = [request(1), request("used"), request(2), request(3), request(4, account="other")]
        return await asyncio.gather(*(ledger.hold(hold) for hold in holds), return_exceptions=True)

    with running(ledger) as runner:
        first, used, second, third, other = runner.run(together())
        assert first is None
        assert second is None
        assert isinstance(used, InternalError)
        assert isinstance(third, OutOfCredit)
        assert "0.000000005 USD of credit left" in third.message
        assert "0.00000001 USD" in third.message
        assert isinstance(other, OutOfCredit)
        assert ledger.account("key_a").held_nusd == 20
    clean(tmp_path)


def test_an_empty_account_is_refused_even_what_costs_nothing(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    with running(ledger) as runner:
        with pytest.raises(OutOfCredit):
            runner.run(ledger.hold(request(1, 0)))
        runner.run(ledger.hold(request(2, 0, credit=False)))
        assert runner.run(ledger.release("req-2"))


def test_a_hold_ends_once(tmp_path: Path) -> None:
    with_credit(tmp_path, 100)
    ledger = open_ledger(tmp_path)

    async def ends() -> list[Any]:
        await ledger.hold(request(1))
        both = await asyncio.gather(ledger.settle(settlement(1)), ledger.settle(settlement(1)))
        return [*both, await ledger.release("req-1"), await ledger.settle(settlement(1))]

    async def releases() -> list[Any]:
        await ledger.hold(request(2))
        return [
            await ledger.release("req-2"),
            await ledger.release("req-2"),
            await ledger.settle(settlement(2)),
        ]

    with running(ledger) as runner:
        assert runner.run(ends()) == [4, None, False, None]
        assert runner.run(releases()) == [True, False, None]
        assert runner.run(ledger.settle(settlement("never held"))) is None
        assert ledger.account("key_a").balance_nusd == 96
    clean(tmp_path)


def test_the_database_itself_refuses_a_second_end_and_any_change(tmp_path: Path) -> None:
    with_credit(tmp_path, 100)
    ledger = open_ledger(tmp_path)
    with running(ledger) as runner:
        runner.run(ledger.hold(request(1)))
        runner.run(ledger.settle(settlement(1)))
    with closing(sqlite3.connect(tmp_path / FILE)) as connection:
        for statement, why in (
            ("UPDATE ledger SET amount_nusd = 0", "append-only"),
            ("DELETE FROM ledger", "append-only"),
            (
                "INSERT INTO ledger (request_id, account, kind, amount_nusd, delta_nusd, balance_after_nusd,"
                " created_at) VALUES ('req-1', 'key_a', 'release', 10, 0, 96, '')",
                "has ended already",
            ),
        ):
            with pytest.raises(sqlite3.IntegrityError, match=why):
                connection.execute(statement)


def test_a_charge_above_its_hold_is_cut_only_where_credit_is_required(tmp_path: Path) -> None:
    with_credit(tmp_path, 10)
    ledger = open_ledger(tmp_path)
    with running(ledger) as runner:
        runner.run(ledger.hold(request(1)))
        assert runner.run(ledger.settle(settlement(1, 50))) == 10
        assert ledger.account("key_a").balance_nusd == 0
        runner.run(ledger.hold(request(2, account="open", credit=False)))
        assert runner.run(ledger.settle(settlement(2, 50))) == 50
        assert ledger.account("open").balance_nusd == -50
    clean(tmp_path)


def test_budgets_bind_a_key_without_credit_until_the_next_day(tmp_path: Path) -> None:
    with closing(Database(tmp_path / FILE)) as database, database.transaction() as connection:
        connection.execute(
            "INSERT INTO accounts (id, budget_day_nusd, budget_month_nusd, created_at)"
            " VALUES ('k', 15, 25, '')"
        )

    def at(start_s: float) -> Ledger:
        return Ledger.open(tmp_path, clock=Ticks(start_s))

    first, second = 1_793_534_400.0, 1_793_534_400.0 + 86_400
    ledger = at(first)
    with running(ledger) as runner:
        runner.run(ledger.hold(request(1, account="k", credit=False)))
        with pytest.raises(OutOfCredit, match="USD a day") as caught:
            runner.run(ledger.hold(request(2, account="k", credit=False)))
        assert caught.value.name == "budget_exceeded"
        runner.run(ledger.settle(settlement(1, 10)))
    ledger = at(second)
    with running(ledger) as runner:
        runner.run(ledger.hold(request(3, account="k", credit=False)))
        runner.run(ledger.settle(settlement(3, 10)))
    ledger = at(first)  # a clock that steps back opens no budget again
    with running(ledger) as runner, pytest.raises(OutOfCredit, match="USD a day"):
        runner.run(ledger.hold(request(4, account="k", credit=False)))
    ledger = at(second + 86_400)
    with running(ledger) as runner, pytest.raises(OutOfCredit, match="USD a month"):
        runner.run(ledger.hold(request(5, account="k", credit=False)))
    clean(tmp_path)


@pytest.mark.parametrize("sync_hold", [True, False])
def test_a_cancelled_hold_is_given_back(tmp_path: Path, sync_hold: bool) -> None:
    with_credit(tmp_path, 100)
    ledger = Ledger.open(tmp_path, clock=Ticks(), sync_hold=sync_hold)

    async def leave_after(turns: int) -> None:
        task = asyncio.create_task(ledger.hold(request(turns)))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():  # it was confirmed first, and is its caller's to end
            await ledger.release(request(turns).request_id)

    with running(ledger) as runner:
        for turns in range(6):
            runner.run(leave_after(turns))
    with closing(Database(tmp_path / FILE)) as database:
        kinds = [row.kind for row in books.rows(database)]
        assert kinds.count("hold") == kinds.count("release") > 0
        assert books.account(database, "key_a", NOW).held_nusd == 0
        assert books.check(database) == []


def test_the_wal_is_copied_while_writing_goes_on(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)

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
    with closing(Database(tmp_path / FILE)) as database:
        assert books.account(database, "key_a", NOW).requests == CHECKPOINT_COMMITS * 3 // 2
    clean(tmp_path)


def test_a_lock_of_another_process_is_waited_for_and_then_503(tmp_path: Path) -> None:
    with_credit(tmp_path, 100)
    ledger = open_ledger(tmp_path, wait_s=0.05)
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
        assert [row.kind for row in books.rows_of(ledger.database, "req-1")] == ["hold", "settle"]
        assert books.rows_of(ledger.database, "req-2") == []
    clean(tmp_path)


def test_a_lock_that_is_soon_gone_is_no_error(tmp_path: Path) -> None:
    with_credit(tmp_path, 100)
    ledger = open_ledger(tmp_path)

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
    with_credit(tmp_path, 100)
    ledger = open_ledger(tmp_path)
    with running(ledger) as runner:
        runner.run(ledger.hold(request(1)))
        with full_disk(tmp_path):
            with pytest.raises(Unavailable):
                runner.run(ledger.hold(request(2)))
            with pytest.raises(Unavailable):
                runner.run(ledger.settle(settlement(1)))
    with closing(Database(tmp_path / FILE)) as database:
        assert [row.kind for row in books.rows_of(database, "req-1")] == ["hold", "settle"]
        assert books.rows_of(database, "req-2") == []
        assert books.check(database) == []


def test_a_read_only_folder_is_503_with_the_fix() -> None:
    folder = Path(tempfile.mkdtemp())
    mine = os.geteuid()
    folder.chmod(0o555)
    try:
        if mine == 0:
            os.seteuid(65_534)  # root may write anywhere
        with pytest.raises(Unavailable, match="ROUTER_DATA"):
            open_ledger(folder / "data")
        with pytest.raises(Unavailable, match="ROUTER_DATA"):
            open_ledger(folder)
    finally:
        os.seteuid(mine)
        folder.chmod(0o755)
        shutil.rmtree(folder)


def test_a_newer_database_is_refused(tmp_path: Path) -> None:
    with closing(Database(tmp_path / FILE)) as database:
        database.connection.execute("PRAGMA user_version = 9999")
    with pytest.raises(Unavailable, match="newer router"):
        Database(tmp_path / FILE)


@pytest.mark.parametrize(
    ("tamper", "column"),
    [
        ("UPDATE accounts SET balance_nusd = balance_nusd + 1", "balance_nusd"),
        ("UPDATE accounts SET held_nusd = held_nusd + 1", "held_nusd"),
        ("UPDATE accounts SET charged_nusd = charged_nusd + 1", "charged_nusd"),
        ("DELETE FROM open_holds", "open_holds"),
        (
            "DROP TRIGGER ledger_keeps_its_rows;"
            " UPDATE ledger SET balance_after_nusd = 7 WHERE kind = 'settle'",
            "balance_after_nusd",
        ),
    ],
)
def test_check_finds_what_was_changed(tmp_path: Path, tamper: str, column: str) -> None:
    with_credit(tmp_path, 100)
    ledger = open_ledger(tmp_path)
    with running(ledger) as runner:
        runner.run(ledger.hold(request(1)))
        runner.run(ledger.settle(settlement(1)))
        runner.run(ledger.hold(request(2)))
        assert books.check(ledger.database) == []
        with closing(sqlite3.connect(tmp_path / FILE)) as other:
            other.executescript(tamper)
        assert column in {found.column for found in books.check(ledger.database)}


HOLDER = """
import asyncio, sys, time
from pathlib import Path
from router.ledger.ledger import Ledger
from router.ledger.rows import HoldRequest

async def main():
    ledger = Ledger.open(Path(sys.argv[1]), clock=time.time)
    for number in range(3):
        await ledger.hold(HoldRequest(f"held-{number}", None, "key_a", 10, "m/x", "p", "c", None, True))
    print("held", flush=True)
    sys.stdin.read()

asyncio.run(main())
"""


def test_a_killed_process_leaves_its_holds_and_the_next_start_releases_them(tmp_path: Path) -> None:
    with_credit(tmp_path, 100)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == "held\n"
        ledger = open_ledger(tmp_path)
        with running(ledger) as runner:
            runner.run(ledger.hold(request("mine")))
            assert runner.run(ledger.end_open_holds()) == 0  # it lives
            assert ledger.account("key_a").held_nusd == 40
            holder.send_signal(signal.SIGKILL)
            holder.wait()
            assert ledger.account("key_a").held_nusd == 40
            assert runner.run(ledger.end_open_holds()) == 3
            assert runner.run(ledger.end_open_holds()) == 0
            account = ledger.account("key_a")
            assert (account.balance_nusd, account.held_nusd) == (100, 10)
            hold, release = books.rows_of(ledger.database, "held-0")
            assert (hold.kind, release.kind, release.amount_nusd) == ("hold", "release", 10)
            assert runner.run(ledger.settle(settlement("mine"))) == 4
    clean(tmp_path)
    assert list((tmp_path / "owners").iterdir()) == []


SPENDER = """
import asyncio, sys, time
from pathlib import Path
from router.errors import OutOfCredit
from router.ledger.ledger import Ledger
from router.ledger.owners import Owner
from router.ledger.rows import HoldRequest, Settlement

async def spend(ledger, name):
    try:
        await ledger.hold(HoldRequest(name, None, "key_a", 10, "m/x", "p", "c", None, True))
    except OutOfCredit:
        return 0
    return await ledger.settle(Settlement(name, 1, 1, 10, 5, "m/x", "p"))

async def main():
    ledger = Ledger.open(Path(sys.argv[1]), clock=time.time, wait_s=30)
    print("ready", flush=True)
    sys.stdin.readline()
    charged = await asyncio.gather(*(spend(ledger, f"{sys.argv[2]}-{number}") for number in range(200)))
    await ledger.close()
    print(sum(charged), flush=True)

asyncio.run(main())
"""


def test_two_processes_never_spend_more_than_the_credit(tmp_path: Path) -> None:
    with_credit(tmp_path, 1_500)
    spenders = [
        subprocess.Popen(
            [sys.executable, "-c", SPENDER, str(tmp_path), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in ("a", "b")
    ]
    for spender in spenders:
        assert spender.stdout
        assert spender.stdout.readline() == "ready\n"
    for spender in spenders:
        assert spender.stdin
        spender.stdin.write("go\n")
        spender.stdin.flush()
    charged = [int(spender.communicate()[0]) for spender in spenders]
    assert sum(charged) == 1_500
    with closing(Database(tmp_path / FILE)) as database:
        account = books.account(database, "key_a", NOW)
        assert (account.balance_nusd, account.held_nusd) == (0, 0)
        assert all(row.balance_after_nusd >= 0 for row in books.rows(database))
        assert books.check(database) == []


def test_a_start_beside_others_never_loses_its_lock(tmp_path: Path) -> None:
    first, second = Owner(tmp_path), Owner(tmp_path)
    first.clear()
    assert first.lives(second.id)
    assert second.lives(first.id)
    second.close()
    assert not first.lives(second.id)
    assert [path.name for path in tmp_path.iterdir()] == [first.id]
    first.close()
    assert list(tmp_path.iterdir()) == []


def test_nonsense_in_an_entry_harms_only_its_caller(tmp_path: Path) -> None:
    with_credit(tmp_path, 100)
    ledger = open_ledger(tmp_path)
    bad = [request(1, 2**70, credit=False), request("\ud800"), request(3, -5)]

    async def together() -> list[BaseException | None]:
        holds = [request(4), *bad, request(5)]
        return await asyncio.gather(*(ledger.hold(hold) for hold in holds), return_exceptions=True)

    with running(ledger) as runner:
        first, *refused, last = runner.run(together())
        assert first is None
        assert last is None
        assert [type(each) for each in refused] == [InternalError] * 3
        runner.run(ledger.release("req-4"))
        runner.run(ledger.release("req-5"))
    clean(tmp_path)
