"""The ledger over PostgreSQL: replicas, leases, locks, and commits whose answer is lost."""

import asyncio
import logging
import random
import signal
import subprocess
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import asyncpg
import pytest

from router.errors import OutOfCredit, Unavailable
from router.ledger.engines import open_storage
from router.ledger.migrations import migrations
from router.ledger.postgres import FOLDER, Link
from router.ledger.postgres_lease import Lease, Pace
from router.ledger.postgres_ledger import PostgresLedger
from router.ledger.rows import Release
from tests.postgres import Cluster, fetch
from tests.postgres_proxy import Cut, Proxy
from tests.service.ledgers import Books, Ticks, request, running, settlement
from tests.service.test_ledger import HOLDER, run_process
from tests.service.walking import wait_for

QUICK = Pace(renew_s=0.1, lease_s=0.6)
SHORT_S = 2.0  # for a batch: over before a statement of it is, and after a caller has left


@pytest.fixture(scope="module")
def database_url(cluster: Cluster) -> str:
    return cluster.make_database()


@pytest.fixture
def proxy(books: Books) -> Iterator[Proxy]:
    assert books.url
    with Proxy(books.url) as running_proxy:
        yield running_proxy


def opened(books: Books, folder: str = "", *, wait_s: float = 5.0, **given: object) -> PostgresLedger:
    assert books.url
    return PostgresLedger.of(books.url, books.data / folder, clock=Ticks(), wait_s=wait_s, **given)


async def until(look: Callable[[], object], what: str) -> None:
    """Wait until something is so; fails after ten seconds."""
    end_s = time.monotonic() + 10
    while not await asyncio.to_thread(look):
        assert time.monotonic() < end_s, f"waited for {what}"


@pytest.mark.parametrize("cut", get_args(Cut))
def test_a_hold_whose_commit_is_lost_is_there_once_when_it_is_confirmed(
    books: Books, proxy: Proxy, cut: Cut
) -> None:
    books.add_credit(100)
    ledger = opened(replace(books, url=proxy.url), post_s=SHORT_S)
    with running(ledger) as runner:
        runner.run(ledger.hold(request("first")))
        proxy.cut = cut
        runner.run(back_after_the_cut(proxy, ledger.hold(request(1))))
        assert books.kinds_of("req-1") == ["hold"]
        assert runner.run(ledger.settle(settlement(1))) == 4
        assert runner.run(ledger.release("req-first"))
    assert books.account().held_nusd == 0
    assert books.differences() == []


@pytest.mark.parametrize("cut", get_args(Cut))
def test_a_hold_that_was_refused_while_its_commit_was_unknown_is_given_back(
    books: Books, proxy: Proxy, cut: Cut
) -> None:
    books.add_credit(100)
    ledger = opened(replace(books, url=proxy.url), wait_s=1.0, post_s=SHORT_S)
    with running(ledger) as runner:
        runner.run(ledger.hold(request("first")))
        proxy.cut = cut
        with pytest.raises(Unavailable) as caught:
            runner.run(ledger.hold(request(1)))
        assert (caught.value.status, caught.value.name) == (503, "storage_unavailable")
        assert caught.value.retry_after_s
        assert proxy.away
        proxy.away = False
        runner.run(until(lambda: books.account().held_nusd == 10, "the release"))
        assert ledger.end(Release("req-first")) == 0
    assert books.kinds_of("req-1") == ([] if cut == "before" else ["hold", "release"])
    assert books.account().held_nusd == 0
    assert books.differences() == []


@pytest.mark.parametrize("cut", get_args(Cut))
def test_an_end_whose_commit_is_lost_is_written_once(books: Books, proxy: Proxy, cut: Cut) -> None:
    books.add_credit(100)
    ledger = opened(replace(books, url=proxy.url), post_s=SHORT_S)
    with running(ledger) as runner:
        for number in (1, 2):
            runner.run(ledger.hold(request(number)))
        proxy.cut = cut
        ends = ledger.settle(settlement(1)), ledger.release("req-2")
        assert runner.run(back_after_the_cut(proxy, *ends)) == [4, True]
        assert runner.run(ledger.settle(settlement(1))) is None
    assert (books.kinds_of("req-1"), books.kinds_of("req-2")) == (["hold", "settle"], ["hold", "release"])
    account = books.account()
    assert (account.balance_nusd, account.held_nusd, account.requests) == (96, 0, 1)
    assert books.differences() == []


async def back_after_the_cut(proxy: Proxy, *asked: Coroutine[Any, Any, Any]) -> list[Any]:
    """Ask for something whose commit is cut, and let the database be there again."""
    asking = asyncio.gather(*asked)
    await until(lambda: proxy.away, "the cut")
    assert not asking.done()
    proxy.away = False
    return list(await asking)


def test_what_waits_for_a_lock_too_long_is_503_and_given_back_when_it_comes(books: Books) -> None:
    books.add_credit(100)
    ledger = opened(books, wait_s=0.5)

    async def locked_out() -> None:
        other = await asyncpg.connect(books.url)
        await ledger.hold(request(1))
        await other.execute("BEGIN; SELECT FROM accounts WHERE id = 'key_a' FOR UPDATE")
        with pytest.raises(Unavailable):
            await ledger.hold(request(2))
        assert ledger.end(settlement(1)) == 4
        await other.execute("ROLLBACK")
        await other.close()
        await ledger.hold(request(3))
        await ledger.release("req-3")

    with running(ledger) as runner:
        runner.run(locked_out())
    assert books.kinds_of("req-1") == ["hold", "settle"]
    assert books.kinds_of("req-2") in ([], ["hold", "release"])
    assert books.account().held_nusd == 0
    assert books.differences() == []


def test_a_statement_that_the_server_ends_is_tried_again(books: Books) -> None:
    books.add_credit(100)
    ledger = opened(books)

    async def ended_while_it_waits() -> None:
        other = await asyncpg.connect(books.url)
        await other.execute("BEGIN; SELECT FROM accounts WHERE id = 'key_a' FOR UPDATE")
        holding = asyncio.create_task(ledger.hold(request(1)))
        cancel = (
            "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE application_name = 'llm-router'"
            " AND wait_event_type = 'Lock' AND datname = current_database()"
        )
        await until(lambda: fetch(str(books.url), cancel), "the wait for the lock")
        await other.execute("ROLLBACK")
        await other.close()
        await holding
        assert await ledger.release("req-1")

    with running(ledger) as runner:
        runner.run(ended_while_it_waits())
    assert books.kinds_of("req-1") == ["hold", "release"]
    assert books.differences() == []


def test_one_payment_that_many_book_at_once_is_booked_once(books: Books) -> None:
    assert books.differences() == []

    async def book() -> list[bool]:
        storages = [await open_storage(books.data, books.url) for _ in range(6)]
        payment = {"source": "shop", "external_id": "1", "now": "then"}
        added = await asyncio.gather(
            *(
                storage.books.topup(f"key_{number % 2}", 5, **payment)  # on two accounts even
                for number, storage in enumerate(storages)
            )
        )
        for storage in storages:
            await storage.close()
        return list(added)

    assert sorted(asyncio.run(book())) == [False] * 5 + [True]
    assert [row.amount_nusd for row in books.rows()] == [5]
    assert books.differences() == []


def test_accounts_in_any_order_on_many_replicas_never_wait_for_each_other(
    books: Books, cluster: Cluster
) -> None:
    dice = random.Random(7)
    replicas = [opened(books, f"replica-{number}") for number in range(3)]

    async def one(ledger: PostgresLedger, name: str) -> None:
        account = f"key_{dice.randrange(12)}"  # the first use of each makes it, on several replicas at once
        await ledger.hold(request(name, account=account, credit=False))
        ledger.end(settlement(name))

    async def rounds(number: int, ledger: PostgresLedger) -> None:
        for turn in range(15):
            await asyncio.gather(*(one(ledger, f"{number}-{turn}-{each}") for each in range(20)))

    async def all_of_them() -> None:
        for ledger in replicas:
            await ledger.start()
        await asyncio.gather(*(rounds(number, ledger) for number, ledger in enumerate(replicas)))
        for ledger in replicas:
            await ledger.close()

    asyncio.run(all_of_them())
    assert len([row for row in books.rows() if row.kind == "settle"]) == 900
    assert books.differences() == []
    assert "deadlock detected" not in cluster.log()


def test_credit_for_so_many_holds_is_never_overdrawn_by_replicas(books: Books) -> None:
    books.add_credit(300)
    replicas = [opened(books, name) for name in ("one", "two")]

    async def take(ledger: PostgresLedger, name: str) -> int:
        try:
            await ledger.hold(request(name))
        except OutOfCredit:
            return 0
        return await ledger.settle(settlement(name, 10)) or 0

    async def spend() -> list[int]:
        for ledger in replicas:
            await ledger.start()
        turns = (take(ledger, f"{n}-{i}") for n, ledger in enumerate(replicas) for i in range(100))
        charged = await asyncio.gather(*turns)
        for ledger in replicas:
            await ledger.close()
        return list(charged)

    assert sorted(asyncio.run(spend())) == [0] * 170 + [10] * 30
    assert books.account().balance_nusd == 0
    assert min(row.balance_after_nusd for row in books.rows()) == 0
    assert books.differences() == []


def test_replicas_that_start_together_migrate_once(books: Books) -> None:
    async def start() -> None:
        storages = await asyncio.gather(*(open_storage(books.data, books.url) for _ in range(8)))
        await asyncio.gather(*(storage.close() for storage in storages))

    asyncio.run(start())
    assert books.url
    done = fetch(books.url, "SELECT version FROM router_schema ORDER BY version")
    assert done == [(number,) for number, _ in migrations(FOLDER)]


def test_a_newer_database_is_refused(books: Books) -> None:
    assert books.differences() == []
    books.execute("INSERT INTO router_schema (version) VALUES (999)")
    with pytest.raises(Unavailable, match="newer router"):
        books.differences()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:hunter2@127.0.0.1:1/none",
        "postgresql://me:hunter2@/none?host=/nowhere",
        "postgresql://router:hunter2@{socket}&nonsense=1",
    ],
)
def test_a_database_that_cannot_be_used_is_named_with_the_fix_and_without_its_password(
    books: Books, url: str
) -> None:
    assert books.url
    url = url.replace("{socket}", books.url.partition("@")[2])
    with pytest.raises(Unavailable, match="ROUTER_DATABASE_URL") as caught:
        asyncio.run(open_storage(books.data, url))
    assert "hunter2" not in str(caught.value)
    with pytest.raises(Unavailable, match="ROUTER_DATABASE_URL"), running(opened(replace(books, url=url))):
        pass


ELSEWHERE = """
import asyncio, sys, time
from pathlib import Path
from router.ledger.postgres_lease import Pace
from router.ledger.postgres_ledger import PostgresLedger
from router.ledger.journal import Tariff
from router.ledger.rows import HoldRequest, Settlement

def hold(name):
    return HoldRequest(name, None, "key_a", 10, "m/x", "p", "c", None, True)

async def main():
    ledger = PostgresLedger.of(sys.argv[2], Path(sys.argv[1]), clock=time.time, pace=Pace(0.1, 0.6))
    await ledger.start()
    for name in ("req-noted", "req-quiet"):
        await ledger.hold(hold(name))
    ledger.journal.begin("req-noted", "m/y", "q", Tariff.of_bill(50, 8, 2), 6)
    print("held", flush=True)
    while await asyncio.to_thread(sys.stdin.readline) == "settle\\n":
        print(await ledger.settle(Settlement("req-quiet", 1, 1, 10, 5, "m/x", "p")), flush=True)
        await ledger.hold(hold("req-after"))
        print(await ledger.settle(Settlement("req-after", 1, 1, 10, 5, "m/x", "p")), flush=True)
    await ledger.close()

asyncio.run(main())
"""


@contextmanager
def elsewhere(books: Books, folder: Path) -> Iterator["subprocess.Popen[str]"]:
    """Run a process of another machine, one that shares no folder with ours, until its note is written."""
    with run_process(replace(books, data=folder), ELSEWHERE) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == "held\n"
            noted = "SELECT FROM open_holds WHERE charge_nusd = 8"
            wait_for(lambda: fetch(str(books.url), noted) or None, "the note")
            yield process
        finally:
            process.kill()


async def end_some(ledger: PostgresLedger) -> int:
    """Look for the dead until some of their holds were ended."""
    end_s = time.monotonic() + 20
    while not (ended := await ledger.end_open_holds()):
        assert time.monotonic() < end_s, "waited for somebody to be dead"
        await asyncio.sleep(QUICK.renew_s)
    return ended


def test_a_dead_machine_s_holds_end_with_its_lease_and_what_it_had_noted_is_charged(
    books: Books, tmp_path: Path
) -> None:
    books.add_credit(100)
    ledger = opened(books, "here", pace=QUICK)
    with elsewhere(books, tmp_path / "there") as process, running(ledger) as runner:
        runner.run(ledger.hold(request("mine")))
        process.send_signal(signal.SIGKILL)
        assert runner.run(end_some(ledger)) == 2
        runner.run(ledger.release("req-mine"))
    (_, charged), (_, released) = (books.rows_of(f"req-{name}") for name in ("noted", "quiet"))
    assert (charged.kind, charged.amount_nusd, charged.completion_tokens) == ("settle", 8, 6)
    assert (charged.estimated, charged.model) == (True, "m/y")
    assert released.kind == "release"
    assert books.differences() == []


def test_a_process_that_stood_still_for_longer_than_its_lease_ends_nothing_twice_and_goes_on(
    books: Books, tmp_path: Path
) -> None:
    books.add_credit(100)
    ledger = opened(books, "here", pace=QUICK)
    with elsewhere(books, tmp_path / "there") as process, running(ledger) as runner:
        process.send_signal(signal.SIGSTOP)
        assert runner.run(end_some(ledger)) == 2
        process.send_signal(signal.SIGCONT)
        assert process.communicate("settle\n", timeout=20)[0] == "None\n10\n"
    assert books.kinds_of("req-quiet") == ["hold", "release"]
    assert books.kinds_of("req-after") == ["hold", "settle"]
    assert books.account().balance_nusd == 100 - 8 - 10
    assert books.differences() == []


def test_a_lease_that_others_ended_is_noticed_and_logged(
    books: Books, caplog: pytest.LogCaptureFixture
) -> None:
    books.add_credit(100)
    ledger, other = opened(books), opened(books, "other")

    async def go_on() -> list[int | None]:
        await ledger.hold(request(1))
        books_of_all = await asyncio.to_thread(books.execute, "DELETE FROM owners")
        assert books_of_all is None
        await other.start()
        assert await other.end_open_holds() == 1
        await ledger.hold(request(2))
        settled = [await ledger.settle(settlement(number)) for number in (1, 2)]
        await other.close()
        return settled

    with running(ledger) as runner, caplog.at_level(logging.WARNING):
        assert runner.run(go_on()) == [None, 4]
    assert "this process was taken for dead" in caplog.text
    assert "req-1 had ended already" in caplog.text
    assert books.differences() == []


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


def test_a_lease_is_over_only_for_who_saw_it_unchanged_all_the_time(books: Books) -> None:
    assert books.differences() == []
    clock = Clock()

    async def watch() -> None:
        connection = await Link(str(books.url)).connect()
        ours, theirs = (Lease(name, clock, Pace(2.0, 10.0)) for name in ("ours", "theirs"))
        await ours.take(connection)
        await theirs.take(connection)

        async def look_for(seconds: int) -> tuple[str, ...]:
            for _ in range(seconds // 2):
                await ours.look(connection)
                clock.now_s += 2
            await ours.look(connection)
            return ours.expired

        assert await look_for(20) == ()  # by the database's clock it is good
        await connection.execute("UPDATE owners SET expires_at = clock_timestamp() WHERE id = 'theirs.1'")
        assert await look_for(8) == ()
        assert await look_for(2) == ("theirs.1",)
        assert await theirs.renew(connection, [])
        assert await look_for(20) == ()
        await connection.execute("UPDATE owners SET expires_at = clock_timestamp() WHERE id = 'theirs.1'")
        assert await look_for(8) == ()
        clock.now_s += 60  # the database was away
        assert await look_for(8) == ()
        assert await look_for(2) == ("theirs.1",)
        await ours.bury(connection, [])
        assert await ours.others(connection) == []
        assert not await theirs.renew(connection, [])
        await connection.close()

    asyncio.run(watch())


def test_a_process_that_starts_again_in_its_folder_needs_no_lease_to_run_out(books: Books) -> None:
    books.add_credit(100)
    with run_process(books, HOLDER) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == "held\n"
        elsewhere_too = opened(books, "another machine")
        with running(elsewhere_too) as runner:
            holder.kill()
            holder.wait()
            assert runner.run(elsewhere_too.end_open_holds()) == 0  # it cannot know yet
        ledger = opened(books)
        with running(ledger) as runner:
            assert runner.run(ledger.end_open_holds()) == 3
    assert books.differences() == []
