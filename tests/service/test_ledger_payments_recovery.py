"""Payments whose process dies, and processes that race for one; over both engines."""

import asyncio
import signal

import pytest

from router.ledger.rows import Progress
from tests.service.ledgers import NOW, REFUSED, Books, running
from tests.service.test_ledger import run_process
from tests.service.wallets import PAYER, claim, faults, listed, pay, paying, serve, stored


def test_what_was_delivered_before_a_crash_is_served_and_waits_to_be_adopted(books: Books) -> None:
    dead, ledger = books.open(), books.open()

    def delivered(_: str) -> dict[str, Progress]:
        return {"req-1": Progress("req-1", 50, 5, 7, 2, "m/y", "q")}

    with running(ledger) as runner:
        with running(dead) as other:
            for number in (1, 2, 3):
                other.run(dead.hold(paying(number)))
            other.run(dead.payments.settling(claim(3).key, 10, 10, now=NOW))
            assert runner.run(ledger.payments.orphans()) == []
        assert runner.run(ledger.end_open_holds(delivered)) == 3
        assert stored(books, 2) is None  # nothing was delivered: the signature is free
        served, settling = runner.run(ledger.payments.orphans())
        assert (served.request_id, served.state, served.served_nusd, served.unpaid) == (
            "req-1",
            "claimed",
            7,
            True,
        )
        assert (settling.request_id, settling.state, settling.served_nusd) == ("req-3", "settling", None)
        assert runner.run(ledger.payments.adopt(served.claim.key, served.owner))
        assert not runner.run(ledger.payments.adopt(served.claim.key, served.owner))
        assert runner.run(ledger.payments.orphans()) == [settling]
        assert runner.run(pay(ledger, served.claim.key, taken=7_000, nusd=7))
        assert not runner.run(ledger.payments.adopt(served.claim.key, served.owner))
        assert runner.run(ledger.payments.settled(settling.claim.key, "0xmoved", now=NOW))
        assert runner.run(ledger.payments.orphans()) == []
    paid, unserved = listed(books)
    assert (paid.unpaid, paid.unserved, unserved.unserved) == (False, False, True)
    assert books.account(PAYER).balance_nusd == 10
    assert faults(books) == []


def test_what_is_served_and_not_yet_settled_belongs_to_its_process_while_that_lives(books: Books) -> None:
    first, second = books.open(), books.open()
    with running(second) as other:
        with running(first) as runner:
            runner.run(serve(first, 1))
            other.run(second.end_open_holds())
            assert other.run(second.payments.orphans()) == []
            assert runner.run(first.payments.orphans()) == []
        other.run(second.end_open_holds())
        (left,) = other.run(second.payments.orphans())
        assert (left.request_id, left.unpaid) == ("req-1", True)
        assert left.owner.startswith(first.owner)
        assert books.ask(lambda storage: storage.payments.orphans()) == ()  # a command adopts nothing
        assert not books.ask(lambda storage: storage.payments.adopt(left.claim.key, left.owner))


def test_of_processes_that_adopt_one_payment_one_does(books: Books) -> None:
    dead, *heirs = (books.open() for _ in range(4))
    with running(dead) as runner:
        runner.run(serve(dead, 1))

    async def adopt_all() -> list[bool]:
        for heir in heirs:
            await heir.start()
            await heir.end_open_holds()
        found = [(await heir.payments.orphans())[0] for heir in heirs]
        key, owner = found[0].claim.key, found[0].owner
        adopted = await asyncio.gather(*(heir.payments.adopt(key, owner) for heir in heirs))
        assert {(each.claim.key, each.owner) for each in found} == {(key, owner)}
        asked = (heir.payments.settling(key, 4_000, 4, now=NOW) for heir in heirs)
        settling = await asyncio.gather(*asked)
        for heir in heirs:
            await heir.close()
        return [*adopted, *settling]

    outcomes = asyncio.run(adopt_all())
    assert [outcomes[:3].count(True), outcomes[3:].count(True)] == [1, 1]


RACER = """
import asyncio, sys, time
from pathlib import Path
from router.errors import PaymentRefused
from router.ledger.engines import open_ledger
from router.ledger.rows import Release
from tests.service.ledgers import NOW
from tests.service.wallets import claim, metered, paying

async def one(ledger, name, paid):
    hold = paying(name, claim(paid))
    try:
        await ledger.hold(hold)
    except PaymentRefused:
        return 0
    await ledger.settle(metered(name))
    assert await ledger.payments.settling(hold.payment.key, 4, 4, now=NOW)
    return int(await ledger.payments.settled(hold.payment.key, f"0x{paid}", now=NOW))

async def main():
    ledger = open_ledger(Path(sys.argv[1]), sys.argv[2] or None, clock=time.time)
    await ledger.start()
    print("ready", flush=True)
    sys.stdin.readline()
    asked = (one(ledger, f"{sys.argv[3]}-{copy}-{paid}", paid) for paid in range(40) for copy in range(3))
    served = await asyncio.gather(*asked)
    await ledger.close()
    print(sum(served), flush=True)

asyncio.run(main())
"""


def test_of_many_claims_of_one_payment_by_processes_at_once_one_wins(books: Books) -> None:
    assert listed(books) == []
    racers = [run_process(books, RACER, name) for name in ("a", "b", "c")]
    for racer in racers:
        assert racer.stdout
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin
        racer.stdin.write("go\n")
        racer.stdin.flush()
    assert sum(int(racer.communicate()[0]) for racer in racers) == 40
    assert [each.state for each in listed(books)] == ["settled"] * 40
    assert sorted(row.amount_nusd for row in books.rows() if row.kind == "topup") == [4] * 40
    assert books.account(PAYER).balance_nusd == 0
    assert faults(books) == []


VICTIM = """
import asyncio, sys, time
from pathlib import Path
from router.ledger.engines import open_ledger
from router.ledger.journal import Tariff
from tests.service.ledgers import NOW
from tests.service.wallets import claim, metered, pay, paying, serve

async def main():
    ledger = open_ledger(Path(sys.argv[1]), sys.argv[2] or None, clock=time.time)
    await ledger.start()
    await ledger.hold(paying("quiet"))
    await ledger.hold(paying("flying"))
    ledger.journal.begin("req-flying", "m/y", "q", Tariff.of_bill(50, 8, 2), 1).delivered(3)
    await serve(ledger, "served")
    await serve(ledger, "settling")
    await ledger.payments.settling(claim("settling").key, 4, 4, now=NOW)
    await pay(ledger, await serve(ledger, "done"))
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)

asyncio.run(main())
"""


BUYER = """
import asyncio, sys, time
from pathlib import Path
from router.ledger.engines import open_ledger
from router.ledger.payments import WALLET
from tests.service.ledgers import NOW
from tests.service.wallets import claim, pay, paying

async def main():
    ledger = open_ledger(Path(sys.argv[1]), sys.argv[2] or None, clock=time.time)
    await ledger.start()
    for name in ("credited", "paid"):
        await ledger.hold(paying(name))
        await pay(ledger, claim(name).key, "0x" + name, taken=10_000, nusd=10)
    key = claim("credited").key
    await ledger.books.topup("key_a", 10, source=WALLET, external_id=key, now=NOW)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)

asyncio.run(main())
"""


def test_credit_that_was_given_before_a_crash_is_served_and_what_was_not_given_is_listed(
    books: Books,
) -> None:
    with run_process(books, BUYER) as buyer:
        assert buyer.stdout
        assert buyer.stdout.readline() == "ready\n"
        buyer.send_signal(signal.SIGKILL)
        buyer.wait()
    ledger = books.open()
    with running(ledger) as runner:
        assert runner.run(ledger.end_open_holds()) == 2
    credited, paid = listed(books)
    assert (credited.served_nusd, credited.unserved, credited.unpaid) == (10, False, False)
    assert (paid.served_nusd, paid.unserved, paid.unpaid) == (None, True, False)
    assert books.kinds_of("req-credited") == ["hold", "settle"]
    assert not any(row.estimated for row in books.rows())
    assert [books.account(who).balance_nusd for who in (PAYER, "key_a")] == [10, 10]
    assert [payment.claim.key for payment in listed(books, open_only=True)] == [paid.claim.key]
    assert faults(books) == []


def test_a_killed_process_leaves_each_payment_where_it_stood(books: Books) -> None:
    with run_process(books, VICTIM) as victim:
        assert victim.stdout
        assert victim.stdout.readline() == "ready\n"
        victim.send_signal(signal.SIGKILL)
        victim.wait()
    ledger = books.open()
    with running(ledger) as runner:
        assert runner.run(ledger.end_open_holds()) == 2
        orphans = runner.run(ledger.payments.orphans())
        assert [(each.request_id, each.state, each.served_nusd) for each in orphans] == [
            ("req-flying", "claimed", 8),
            ("req-served", "claimed", 4),
            ("req-settling", "settling", 4),
        ]
        assert runner.run(ledger.payments.find(claim("quiet").key)) is None
        assert listed(books, open_only=True) == orphans
        for number, orphan in enumerate(orphans):
            assert runner.run(ledger.payments.adopt(orphan.claim.key, orphan.owner))
            if orphan.state == "claimed":
                owed = orphan.served_nusd or 0
                assert runner.run(ledger.payments.settling(orphan.claim.key, owed, owed, now=NOW))
            assert runner.run(ledger.payments.settled(orphan.claim.key, f"0x{number}", now=NOW))
    assert books.account(PAYER).balance_nusd == 0
    assert listed(books, open_only=True) == []
    assert faults(books) == []


TAMPERED = [
    ("UPDATE payments SET taken_nusd = 5 WHERE state = 'settled'", "has not its top-up"),
    ("DELETE FROM payments WHERE state = 'settled'", "has a top-up of it"),
    ("UPDATE payments SET served_nusd = 5 WHERE state = 'settled'", "not what its hold was settled with"),
    ("UPDATE payments SET served_nusd = NULL, metered_nusd = NULL", "nothing was served"),
    (
        "UPDATE payments SET forgiven_nusd = 5 WHERE state = 'failed'",
        "what was forgiven is not in the ledger",
    ),
    ("DELETE FROM open_holds", "it neither runs"),
]


@pytest.mark.parametrize(("tamper", "said"), TAMPERED)
def test_check_finds_what_was_changed(books: Books, tamper: str, said: str) -> None:
    ledger = books.open()
    with running(ledger) as runner:
        keys = [runner.run(serve(ledger, number)) for number in (1, 2)]
        runner.run(pay(ledger, keys[0]))
        runner.run(ledger.payments.failed(keys[1], "reverted", now=NOW))
        runner.run(ledger.payments.forgive(keys[1], now=NOW))
        runner.run(ledger.hold(paying(3)))
        assert faults(books) == []
        books.execute(tamper)
        assert any(said in fault for fault in faults(books))


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE payments SET state = 'paid'",
        "UPDATE payments SET state = 'settled'",
        "UPDATE payments SET transaction_id = '0x1'",
        "UPDATE payments SET state = 'settled', transaction_id = '', taken = '4', taken_nusd = 4",
        "UPDATE payments SET state = 'settling', taken = '200000000000000000000', taken_nusd = 4",
        "UPDATE payments SET state = 'settling', taken = '01', taken_nusd = 4",
        "UPDATE payments SET state = 'settling', taken = '-1', taken_nusd = 4",
        "UPDATE payments SET state = 'settling', taken = '4', taken_nusd = 0",
        "UPDATE payments SET amount = '1e3'",
        "UPDATE payments SET amount = '0'",
        "UPDATE payments SET scheme = 'gift'",
        "UPDATE payments SET reason = 'why'",
        "UPDATE payments SET key = 'same'",
        "UPDATE payments SET challenge = 'same'",
        "UPDATE payments SET request_id = 'same'",
        "UPDATE payments SET account = 'nobody'",
        "INSERT INTO secrets (name, value) SELECT 'short', settle_order FROM payments",
    ],
)
def test_the_database_itself_refuses(books: Books, change: str) -> None:
    ledger = books.open()
    with running(ledger) as runner:
        for number in (1, 2):
            runner.run(serve(ledger, number))
    with pytest.raises(REFUSED):
        books.execute(f"PRAGMA foreign_keys = ON; {change}" if books.url is None else change)
