"""What is each engine's own about payments: locks of others, the disk, commits whose answer is lost."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from router.errors import PaymentRefused, Unavailable
from router.ledger.postgres_ledger import PostgresLedger
from router.ledger.sqlite import FILE
from router.ledger.sqlite_ledger import SqliteLedger
from tests.postgres import Cluster, fetch
from tests.postgres_proxy import Proxy
from tests.service.ledgers import NOW, Books, Ticks, running
from tests.service.test_ledger_postgres import SHORT_S, back_after_the_cut, opened
from tests.service.wallets import PAYER, claim, faults, metered, pay, paying, serve, stored


@pytest.fixture
def sqlite(tmp_path: Path) -> Books:
    return Books(tmp_path)


@pytest.fixture
def postgres(cluster: Cluster, tmp_path: Path) -> Books:
    return Books(tmp_path, cluster.make_database())


def test_the_lock_of_another_process_keeps_a_payment_waiting_and_not_the_loop(sqlite: Books) -> None:
    ledger = sqlite.open()

    async def wait(other: sqlite3.Connection) -> list[bool]:
        key = await serve(ledger, 1)
        other.execute("BEGIN IMMEDIATE")
        settling = asyncio.create_task(ledger.payments.settling(key, 4, 4, now=NOW))
        for _ in range(5):  # the loop goes on, and reads are answered
            await asyncio.sleep(0)
            assert (await ledger.payments.find(key)) is not None
        waited = settling.done()
        other.execute("ROLLBACK")
        return [waited, await settling, await ledger.payments.settled(key, "0x1", now=NOW)]

    with running(ledger) as runner, closing(sqlite3.connect(sqlite.data / FILE)) as other:
        assert runner.run(wait(other)) == [False, True, True]
    assert faults(sqlite) == []


def test_a_lock_that_stays_is_503_and_nothing_of_the_payment_has_changed(sqlite: Books) -> None:
    ledger = sqlite.open(wait_s=0.05)
    with running(ledger) as runner, closing(sqlite3.connect(sqlite.data / FILE)) as other:
        key = runner.run(serve(ledger, 1))
        before = runner.run(ledger.payments.find(key))
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable) as caught:
            runner.run(ledger.payments.settling(key, 4, 4, now=NOW))
        assert (caught.value.status, caught.value.name) == (503, "storage_unavailable")
        other.execute("ROLLBACK")
        assert runner.run(ledger.payments.find(key)) == before
        assert runner.run(pay(ledger, key))
    assert faults(sqlite) == []


def test_with_holds_that_wait_for_the_disk_payments_do_too(sqlite: Books) -> None:
    ledger = sqlite.open(sync_hold=True)
    with running(ledger) as runner:
        key = runner.run(serve(ledger, 1))
        assert runner.run(pay(ledger, key))
        with pytest.raises(PaymentRefused):
            runner.run(ledger.hold(paying(2, claim(1))))
    assert faults(sqlite) == []


def test_a_closed_database_is_unavailable(sqlite: Books) -> None:
    ledger = SqliteLedger.open(sqlite.data, clock=Ticks())
    with running(ledger):
        pass
    with pytest.raises(Unavailable):
        asyncio.run(ledger.payments.settled("any", "0x1", now=NOW))


def test_a_claim_whose_commit_is_lost_is_there_once_when_it_is_confirmed(postgres: Books) -> None:
    for number, cut in enumerate(("before", "after")):
        with Proxy(str(postgres.url)) as proxy:
            ledger = opened(Books(postgres.data, proxy.url), f"replica-{number}", post_s=SHORT_S)
            with running(ledger) as runner:
                runner.run(ledger.hold(paying(f"first-{number}")))
                proxy.cut = cut
                runner.run(back_after_the_cut(proxy, ledger.hold(paying(number))))
                with pytest.raises(PaymentRefused, match="still runs"):
                    runner.run(ledger.hold(paying(f"again-{number}", claim(number))))
                proxy.cut = cut
                (charged,) = runner.run(back_after_the_cut(proxy, ledger.settle(metered(number))))
                assert charged == 4
                runner.run(ledger.release(f"req-first-{number}"))
        served = stored(postgres, number)
        assert served is not None
        assert (served.state, served.served_nusd) == ("claimed", 4)
    assert faults(postgres) == []


def test_two_payers_of_one_challenge_on_two_replicas_at_once(postgres: Books) -> None:
    replicas = [opened(postgres, name) for name in ("one", "two")]

    async def race() -> list[BaseException | None]:
        for ledger in replicas:
            await ledger.start()
        asked = [
            ledger.hold(
                paying(
                    f"{place}-{turn}",
                    claim(f"{place}-{turn}", challenge=f"c{turn}", payer=f"0x{place}"),
                    account=f"payer:eip155:8453:0x{place}",
                )
            )
            for turn in range(30)
            for place, ledger in enumerate(replicas)
        ]
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        for ledger in replicas:
            await ledger.close()
        return list(outcomes)

    outcomes = asyncio.run(race())
    assert outcomes.count(None) == 30
    assert sum(isinstance(each, PaymentRefused) for each in outcomes) == 30
    assert fetch(str(postgres.url), "SELECT count(DISTINCT challenge) FROM payments") == [(30,)]


def test_one_transaction_that_replicas_book_for_two_payers_at_once_pays_for_one(postgres: Books) -> None:
    replicas = [opened(postgres, name) for name in ("one", "two")]

    async def race() -> list[bool]:
        keys = []
        for place, ledger in enumerate(replicas):
            await ledger.start()
            hold = paying(place, claim(place), account=f"payer:eip155:8453:0x{place}")
            await ledger.hold(hold)
            await ledger.settle(metered(place))
            keys.append(claim(place).key)
        settled = await asyncio.gather(
            *(pay(ledger, key, "0xsame") for ledger, key in zip(replicas, keys, strict=True))
        )
        for ledger in replicas:
            await ledger.close()
        return list(settled)

    assert sorted(asyncio.run(race())) == [False, True]
    states = fetch(str(postgres.url), "SELECT state, reason FROM payments ORDER BY state")
    assert states == [("failed", "transaction_used"), ("settled", None)]
    assert faults(postgres) == []


def test_holds_and_settlements_of_one_payer_on_replicas_never_wait_for_each_other(
    postgres: Books, cluster: Cluster
) -> None:
    replicas = [opened(postgres, name) for name in ("one", "two", "three")]

    async def one(ledger: PostgresLedger, name: str) -> None:
        key = await serve(ledger, name)
        assert await pay(ledger, key, f"0x{name}")

    async def all_of_them() -> None:
        for ledger in replicas:
            await ledger.start()
        turns = (one(ledger, f"{n}-{i}") for i in range(20) for n, ledger in enumerate(replicas))
        await asyncio.gather(*turns)
        for ledger in replicas:
            await ledger.close()

    asyncio.run(all_of_them())
    assert postgres.account(PAYER).balance_nusd == 0
    assert fetch(str(postgres.url), "SELECT DISTINCT state FROM payments") == [("settled",)]
    assert faults(postgres) == []
    assert "deadlock detected" not in cluster.log()
