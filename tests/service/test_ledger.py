"""The ledger over real databases of both engines, and real processes."""

import asyncio
import signal
import subprocess
import sys
from typing import Any

import pytest

from router.errors import InternalError, OutOfCredit
from router.ledger.rows import Progress, Release
from tests.service.ledgers import REFUSED, Books, Ticks, request, running, settlement


def test_hold_and_settle_are_the_rows_of_the_contract(books: Books) -> None:
    books.add_credit(100)
    ledger = books.open()
    with running(ledger) as runner:
        runner.run(ledger.hold(request(1)))
        held = runner.run(ledger.account("key_a"))
        assert (held.balance_nusd, held.held_nusd, held.available_nusd) == (100, 10, 90)
        assert runner.run(ledger.settle(settlement(1, estimated=True))) == 4
        after = runner.run(ledger.account("key_a"))
        assert (after.balance_nusd, after.held_nusd, after.charged_nusd) == (96, 0, 4)
        assert (after.requests, after.prompt_tokens, after.completion_tokens) == (1, 100, 20)
        assert (after.day, after.month, after.day_charged_nusd) == ("2026-11-01", "2026-11", 4)
        hold, settle = runner.run(ledger.books.rows_of("req-1"))
    assert (hold.kind, hold.amount_nusd, hold.balance_after_nusd) == ("hold", 10, 100)
    assert (hold.model, hold.provider, hold.prompt_tokens, hold.estimated) == ("m/x", "p", None, False)
    assert (settle.kind, settle.amount_nusd, settle.balance_after_nusd) == ("settle", 4, 96)
    assert (settle.model, settle.provider, settle.upstream_cost_nusd) == ("m/y", "q", 3)
    assert (settle.client_request_id, settle.catalog, settle.estimated) == ("theirs", "abcdef012345", True)
    assert settle.created_at.startswith("2026-11-01T12:")
    assert settle.created_at.endswith(".000Z")
    assert books.rows()[1:] == [hold, settle]
    assert books.differences() == []


def test_what_comes_at_once_is_one_transaction(books: Books) -> None:
    books.add_credit(10_000)
    ledger = books.open()

    async def together() -> None:
        await asyncio.gather(*(ledger.hold(request(number)) for number in range(50)))
        await asyncio.gather(*(ledger.settle(settlement(number)) for number in range(50)))

    with running(ledger) as runner:
        runner.run(together())
    written = [row for row in books.rows() if row.kind != "topup"]
    assert len(written) == 100
    assert len({row.created_at for row in written if row.kind == "hold"}) == 1
    assert books.differences() == []


def test_a_refused_hold_does_not_harm_the_others_of_its_transaction(books: Books) -> None:
    books.add_credit(25)
    ledger = books.open()

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
        assert runner.run(ledger.account("key_a")).held_nusd == 20
    assert books.differences() == []


def test_an_empty_account_is_refused_even_what_costs_nothing(books: Books) -> None:
    ledger = books.open()
    with running(ledger) as runner:
        with pytest.raises(OutOfCredit):
            runner.run(ledger.hold(request(1, 0)))
        runner.run(ledger.hold(request(2, 0, credit=False)))
        assert runner.run(ledger.release("req-2"))


def test_a_hold_ends_once(books: Books) -> None:
    books.add_credit(100)
    ledger = books.open()

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
        assert runner.run(ledger.account("key_a")).balance_nusd == 96
    assert books.differences() == []


def test_a_charge_above_its_hold_is_cut_and_what_the_upstream_asks_is_kept(books: Books) -> None:
    books.add_credit(10)
    ledger = books.open()
    with running(ledger) as runner:
        runner.run(ledger.hold(request(1)))
        assert runner.run(ledger.settle(settlement(1, 50))) == 10
        assert runner.run(ledger.account("key_a")).balance_nusd == 0
        runner.run(ledger.hold(request(2, account="open", credit=False)))
        assert runner.run(ledger.settle(settlement(2, 50))) == 10
        assert runner.run(ledger.account("open")).balance_nusd == -10
        (_, settle) = books.rows_of("req-2")
        assert (settle.amount_nusd, settle.upstream_cost_nusd) == (10, 3)
    assert books.differences() == []


def test_a_budget_is_not_overrun_by_a_charge_above_its_hold(books: Books) -> None:
    books.add_credit(1, "k")
    books.execute("UPDATE accounts SET budget_day_nusd = 25 WHERE id = 'k'")
    ledger = books.open()
    with running(ledger) as runner:
        for number in (1, 2):
            runner.run(ledger.hold(request(number, account="k", credit=False)))
            assert runner.run(ledger.settle(settlement(number, 500))) == 10
        with pytest.raises(OutOfCredit, match="USD a day"):
            runner.run(ledger.hold(request(3, account="k", credit=False)))
        assert runner.run(ledger.account("k")).day_charged_nusd == 20
    assert books.differences() == []


def test_budgets_bind_a_key_without_credit_until_the_next_day(books: Books) -> None:
    books.add_credit(1, "k")
    books.execute("UPDATE accounts SET budget_day_nusd = 15, budget_month_nusd = 25 WHERE id = 'k'")
    first, second = 1_793_534_400.0, 1_793_534_400.0 + 86_400
    ledger = books.open(Ticks(first))
    with running(ledger) as runner:
        runner.run(ledger.hold(request(1, account="k", credit=False)))
        with pytest.raises(OutOfCredit, match="USD a day") as caught:
            runner.run(ledger.hold(request(2, account="k", credit=False)))
        assert caught.value.name == "budget_exceeded"
        runner.run(ledger.settle(settlement(1, 10)))
    ledger = books.open(Ticks(second))
    with running(ledger) as runner:
        runner.run(ledger.hold(request(3, account="k", credit=False)))
        runner.run(ledger.settle(settlement(3, 10)))
    ledger = books.open(Ticks(first))  # a clock that steps back opens no budget again
    with running(ledger) as runner, pytest.raises(OutOfCredit, match="USD a day"):
        runner.run(ledger.hold(request(4, account="k", credit=False)))
    ledger = books.open(Ticks(second + 86_400))
    with running(ledger) as runner, pytest.raises(OutOfCredit, match="USD a month"):
        runner.run(ledger.hold(request(5, account="k", credit=False)))
    assert books.differences() == []


@pytest.mark.parametrize("sync_hold", [True, False])
def test_a_cancelled_hold_is_given_back(books: Books, sync_hold: bool) -> None:
    books.add_credit(100)
    ledger = books.open(sync_hold=sync_hold)

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
        runner.run(ledger.hold(request("after")))
        runner.run(ledger.release("req-after"))
    kinds = [row.kind for row in books.rows()]
    assert kinds.count("hold") == kinds.count("release") > 0
    assert books.account().held_nusd == 0
    assert books.differences() == []


def test_what_another_process_adds_or_limits_counts_at_the_next_hold(books: Books) -> None:
    books.add_credit(10)
    ledger = books.open()
    with running(ledger) as runner:
        runner.run(ledger.hold(request(1)))
        with pytest.raises(OutOfCredit):
            runner.run(ledger.hold(request(2)))
        books.add_credit(10, payment="1")
        books.add_credit(10, payment="1")
        runner.run(ledger.hold(request(3)))
        assert runner.run(ledger.account("key_a")).available_nusd == 0
        books.add_credit(100, payment="2")
        books.execute("UPDATE accounts SET budget_day_nusd = 25")
        with pytest.raises(OutOfCredit, match="USD a day"):
            runner.run(ledger.hold(request(4)))
        assert runner.run(ledger.settle(settlement(1))) == 4
        assert runner.run(ledger.account("key_a")).balance_nusd == 116
    assert books.differences() == []


def test_a_top_up_of_this_process_counts_at_the_next_hold(books: Books) -> None:
    books.add_credit(10)
    ledger = books.open()

    async def add() -> bool:
        return await ledger.books.topup("key_a", 10, source="mine", external_id="1", now="then")

    with running(ledger) as runner:
        runner.run(ledger.hold(request(1)))
        with pytest.raises(OutOfCredit):
            runner.run(ledger.hold(request(2)))
        assert runner.run(add())
        assert not runner.run(add())
        runner.run(ledger.hold(request(3)))
        runner.run(ledger.release("req-1"))
        runner.run(ledger.release("req-3"))
    assert books.differences() == []


def test_an_end_that_nobody_waits_for_says_its_charge_and_happens_once(books: Books) -> None:
    books.add_credit(100)
    ledger = books.open()

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
    spent = books.account()  # closing it has written what waited
    assert (spent.balance_nusd, spent.held_nusd, spent.requests) == (83, 0, 2)
    assert books.differences() == []


def test_an_end_rides_in_the_next_hold_s_transaction(books: Books) -> None:
    books.add_credit(100)
    ledger = books.open()

    async def one_after_the_other() -> None:
        await ledger.hold(request(1))
        ledger.end(settlement(1))
        await ledger.hold(request(2))

    with running(ledger) as runner:
        runner.run(one_after_the_other())
        (_, settle), (hold,) = (books.rows_of(f"req-{number}") for number in (1, 2))
    assert settle.created_at == hold.created_at


def test_an_end_of_nonsense_leaves_its_hold_open_for_a_better_one(books: Books) -> None:
    books.add_credit(100)
    ledger = books.open()

    async def ends() -> int | None:
        await ledger.hold(request(1))
        assert ledger.end(settlement(1, -5)) == -5  # refused when it is written
        await ledger.hold(request(2))
        return await ledger.settle(settlement(1))

    with running(ledger) as runner:
        assert runner.run(ends()) == 4
        assert runner.run(ledger.account("key_a")).balance_nusd == 96


def test_nonsense_in_an_entry_harms_only_its_caller(books: Books) -> None:
    books.add_credit(100)
    ledger = books.open()
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
    assert books.differences() == []


def test_what_a_dead_process_had_delivered_is_charged_and_the_rest_given_back(books: Books) -> None:
    books.add_credit(100)
    dead, ledger = books.open(), books.open()
    of_the_dead = dead.owner

    def delivered(owner: str) -> dict[str, Progress]:
        assert owner == of_the_dead
        found = [Progress(f"req-{number}", 50, 5, 15, 2, "m/y", "q") for number in (1, 3)]
        return {progress.request_id: progress for progress in found}

    with running(ledger) as runner:
        with running(dead) as other:
            for hold in (request(1), request(2), request(3, account="open", credit=False)):
                other.run(dead.hold(hold))
            assert runner.run(ledger.end_open_holds(delivered)) == 0  # it lives
        # It was closed with them open.
        assert runner.run(ledger.end_open_holds(delivered)) == 3
        assert runner.run(ledger.end_open_holds(delivered)) == 0
        (_, cut), (_, released), (_, open_) = (books.rows_of(f"req-{number}") for number in (1, 2, 3))
        assert (cut.kind, cut.amount_nusd, cut.estimated, cut.upstream_cost_nusd) == ("settle", 10, True, 2)
        assert (cut.model, cut.provider, cut.prompt_tokens, cut.completion_tokens) == ("m/y", "q", 50, 5)
        assert (released.kind, released.estimated) == ("release", False)
        assert (open_.kind, open_.amount_nusd, open_.account) == ("settle", 10, "open")
        account = runner.run(ledger.account("key_a"))
        assert (account.balance_nusd, account.held_nusd, account.day_charged_nusd) == (90, 0, 10)
    assert books.differences() == []


HOLDER = """
import asyncio, sys, time
from pathlib import Path
from router.ledger.engines import open_ledger
from router.ledger.rows import HoldRequest

async def main():
    ledger = open_ledger(Path(sys.argv[1]), sys.argv[2] or None, clock=time.time)
    await ledger.start()
    for number in range(3):
        await ledger.hold(HoldRequest(f"held-{number}", None, "key_a", 10, "m/x", "p", "c", None, True))
    print("held", flush=True)
    await asyncio.to_thread(sys.stdin.read)

asyncio.run(main())
"""


def run_process(books: Books, script: str, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", script, str(books.data), books.url or "", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_killed_process_leaves_its_holds_and_the_next_start_releases_them(books: Books) -> None:
    books.add_credit(100)
    with run_process(books, HOLDER) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == "held\n"
        ledger = books.open()
        with running(ledger) as runner:
            runner.run(ledger.hold(request("mine")))
            assert runner.run(ledger.end_open_holds()) == 0  # it lives
            assert runner.run(ledger.account("key_a")).held_nusd == 40
            holder.send_signal(signal.SIGKILL)
            holder.wait()
            assert runner.run(ledger.account("key_a")).held_nusd == 40
            assert runner.run(ledger.end_open_holds()) == 3
            assert runner.run(ledger.end_open_holds()) == 0
            account = runner.run(ledger.account("key_a"))
            assert (account.balance_nusd, account.held_nusd) == (100, 10)
            hold, release = books.rows_of("held-0")
            assert (hold.kind, release.kind, release.amount_nusd) == ("hold", "release", 10)
            assert runner.run(ledger.settle(settlement("mine"))) == 4
    assert books.differences() == []
    assert list((books.data / "owners").iterdir()) == []


SPENDER = """
import asyncio, sys, time
from pathlib import Path
from router.errors import OutOfCredit
from router.ledger.engines import open_ledger
from router.ledger.rows import HoldRequest, Settlement

async def spend(ledger, name):
    try:
        await ledger.hold(HoldRequest(name, None, "key_a", 10, "m/x", "p", "c", None, True))
    except OutOfCredit:
        return 0
    return await ledger.settle(Settlement(name, 1, 1, 10, 5, "m/x", "p"))

async def main():
    ledger = open_ledger(Path(sys.argv[1]), sys.argv[2] or None, clock=time.time)
    await ledger.start()
    print("ready", flush=True)
    sys.stdin.readline()
    charged = await asyncio.gather(*(spend(ledger, f"{sys.argv[3]}-{number}") for number in range(200)))
    await ledger.close()
    print(sum(charged), flush=True)

asyncio.run(main())
"""


def test_two_processes_never_spend_more_than_the_credit(books: Books) -> None:
    books.add_credit(1_500)
    spenders = [run_process(books, SPENDER, name) for name in ("a", "b")]
    for spender in spenders:
        assert spender.stdout
        assert spender.stdout.readline() == "ready\n"
    for spender in spenders:
        assert spender.stdin
        spender.stdin.write("go\n")
        spender.stdin.flush()
    charged = [int(spender.communicate()[0]) for spender in spenders]
    assert sum(charged) == 1_500
    spent = books.account()
    assert (spent.balance_nusd, spent.held_nusd) == (0, 0)
    assert all(row.balance_after_nusd >= 0 for row in books.rows())
    assert books.differences() == []


@pytest.mark.parametrize(
    ("tamper", "column"),
    [
        ("UPDATE accounts SET balance_nusd = balance_nusd + 1", "balance_nusd"),
        ("UPDATE accounts SET held_nusd = held_nusd + 1", "held_nusd"),
        ("UPDATE accounts SET charged_nusd = charged_nusd + 1", "charged_nusd"),
        ("DELETE FROM open_holds", "open_holds"),
        (
            "DROP TRIGGER ledger_keeps_its_rows{on_ledger};"
            " UPDATE ledger SET balance_after_nusd = 7 WHERE kind = 'settle'",
            "balance_after_nusd",
        ),
    ],
)
def test_check_finds_what_was_changed(books: Books, tamper: str, column: str) -> None:
    books.add_credit(100)
    ledger = books.open()
    with running(ledger) as runner:
        runner.run(ledger.hold(request(1)))
        runner.run(ledger.settle(settlement(1)))
        runner.run(ledger.hold(request(2)))
        assert books.differences() == []
        books.execute(tamper.format(on_ledger=" ON ledger" if books.url else ""))
        assert column in {found.column for found in books.differences()}


@pytest.mark.parametrize(
    ("request_id", "kind", "amount", "delta", "why"),
    [
        ("req-1", "hold", 1, 0, "request id was used before"),
        ("req-1", "settle", 1, -1, "its hold has ended already"),
        ("req-1", "release", 10, 0, "its hold has ended already"),
        ("req-2", "settle", 1, -1, "its hold has ended already"),
        ("req-3", "settle", 1, 1, "(?i)check"),
        ("req-3", "hold", 1, -1, "(?i)check"),
        ("req-3", "gift", 1, 0, "(?i)check"),
        ("req-3", "topup", 1, 1, "(?i)check"),
        ("req-3", "hold", -1, 0, "(?i)check"),
        ("", "hold", 1, 0, "(?i)check"),
    ],
)
def test_the_database_itself_refuses(
    books: Books, request_id: str, kind: str, amount: int, delta: int, why: str
) -> None:
    books.add_credit(100)
    ledger = books.open()

    async def two() -> None:
        await asyncio.gather(*(ledger.hold(request(number)) for number in (1, 2)))
        await ledger.settle(settlement(1))
        await ledger.release("req-2")

    with running(ledger) as runner:
        runner.run(two())
    with pytest.raises(REFUSED, match=why):
        books.execute(
            "INSERT INTO ledger (request_id, account, kind, amount_nusd, delta_nusd, balance_after_nusd,"
            f" created_at) VALUES ('{request_id}', 'key_a', '{kind}', {amount}, {delta}, 96, '')"
        )


@pytest.mark.parametrize("change", ["UPDATE ledger SET amount_nusd = 0", "DELETE FROM ledger"])
def test_the_database_itself_keeps_every_row(books: Books, change: str) -> None:
    books.add_credit(100)
    with pytest.raises(REFUSED, match="append-only"):
        books.execute(change)
