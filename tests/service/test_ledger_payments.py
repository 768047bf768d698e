"""Wallet payments in the ledger: every step of one, over both engines."""

import asyncio
from typing import Any

import pytest

from router.errors import NotFound, PaymentRefused
from router.ledger.rows import Release
from tests.service.ledgers import NOW, Books, running
from tests.service.wallets import (
    LARGE,
    PAYER,
    claim,
    faults,
    listed,
    metered,
    pay,
    paying,
    serve,
    stored,
)


def test_a_payment_is_claimed_with_its_hold_served_with_its_settle_and_settled_with_its_top_up(
    books: Books,
) -> None:
    ledger = books.open()
    paid = claim(1, challenge="c1", exposure_nusd=10)
    with running(ledger) as runner:
        runner.run(ledger.hold(paying(1, paid)))
        found = runner.run(ledger.payments.find(paid.key))
        assert found is not None
        assert found.claim == claim(1, challenge="c1")
        assert (found.state, found.running, found.request_id, found.account) == (
            "claimed",
            True,
            "req-1",
            PAYER,
        )
        assert (found.amount_nusd, found.served_nusd, found.taken, found.transaction) == (
            10,
            None,
            None,
            None,
        )
        assert not found.unpaid

        runner.run(ledger.settle(metered(1, 4, of=3)))
        served = stored(books)
        assert served is not None
        assert (served.state, served.running, served.served_nusd, served.metered_nusd) == (
            "claimed",
            False,
            4,
            3,
        )
        assert served.unpaid

        assert runner.run(ledger.payments.settling(paid.key, LARGE - 1, 4, now=NOW))
        assert not runner.run(ledger.payments.settling(paid.key, LARGE - 1, 4, now=NOW))
        assert runner.run(ledger.payments.settled(paid.key, "0xAbC", now=NOW))
        assert not runner.run(ledger.payments.settled(paid.key, "0xAbC", now=NOW))
        account = runner.run(ledger.account(PAYER))
        assert (account.balance_nusd, account.held_nusd, account.charged_nusd) == (0, 0, 4)
        done = stored(books)
        assert done is not None
        assert (done.state, done.taken, done.taken_nusd, done.transaction) == (
            "settled",
            LARGE - 1,
            4,
            "0xAbC",
        )
        assert not done.unpaid
        assert not done.unserved
    assert [(row.kind, row.amount_nusd, row.balance_after_nusd) for row in books.rows()] == [
        ("hold", 10, 0),
        ("settle", 4, -4),
        ("topup", 4, 0),
    ]
    assert faults(books) == []


def test_a_payment_that_is_settled_first_pays_for_what_is_served_then(books: Books) -> None:
    ledger = books.open()
    paid = claim(1, protocol="mpp", scheme="evm/charge", challenge="c1")
    with running(ledger) as runner:
        runner.run(ledger.hold(paying(1, paid)))
        assert runner.run(pay(ledger, paid.key, taken=10_000, nusd=10))
        assert runner.run(ledger.account(PAYER)).balance_nusd == 10
        runner.run(ledger.settle(metered(1, 10, of=3)))
    done = stored(books)
    assert done is not None
    assert (done.state, done.served_nusd, done.metered_nusd, done.unserved) == ("settled", 10, 3, False)
    assert books.account(PAYER).balance_nusd == 0
    assert faults(books) == []


def test_a_release_frees_what_was_only_claimed_also_in_the_next_holds_transaction(books: Books) -> None:
    ledger = books.open()
    paid = claim(1, challenge="c1")
    with running(ledger) as runner:
        runner.run(ledger.hold(paying(1, paid)))
        assert ledger.end(Release("req-1")) == 0
        runner.run(ledger.hold(paying(2, paid)))
        runner.run(ledger.release("req-2"))
        assert runner.run(ledger.payments.find(paid.key)) is None
        runner.run(ledger.hold(paying(3, claim(3, challenge="c1"))))
        runner.run(ledger.release("req-3"))
    assert listed(books) == []
    assert faults(books) == []


def test_a_release_leaves_what_is_being_settled_and_what_was(books: Books) -> None:
    ledger = books.open()
    with running(ledger) as runner:
        for number in (1, 2):
            runner.run(ledger.hold(paying(number)))
        runner.run(ledger.payments.settling(claim(1).key, 10, 10, now=NOW))
        runner.run(pay(ledger, claim(2).key))
        for number in (1, 2):
            runner.run(ledger.release(f"req-{number}"))
        assert [(each.state, each.unserved) for each in listed(books)] == [
            ("settling", False),
            ("settled", True),
        ]
        runner.run(ledger.payments.settled(claim(1).key, "0xdef", now=NOW))
    assert [each.unserved for each in listed(books)] == [True, True]
    assert books.account(PAYER).balance_nusd == 14
    assert faults(books) == []


def test_what_this_process_forgives_or_settles_counts_at_its_next_hold(books: Books) -> None:
    ledger = books.open()
    with running(ledger) as runner:
        key = runner.run(serve(ledger, 1))
        runner.run(pay(ledger, key))
        other = runner.run(serve(ledger, 2))
        runner.run(ledger.payments.failed(other, "reverted", now=NOW))
        runner.run(ledger.payments.forgive(other, now=NOW))
        runner.run(ledger.hold(paying(3)))
        runner.run(ledger.settle(metered(3, 7)))
        assert runner.run(ledger.account(PAYER)).balance_nusd == -7
    assert faults(books) == []


def test_a_no_before_anything_was_served_frees_the_signature(books: Books) -> None:
    ledger = books.open()
    with running(ledger) as runner:
        runner.run(ledger.hold(paying(1)))
        runner.run(ledger.payments.settling(claim(1).key, 10, 10, now=NOW))
        runner.run(ledger.payments.failed(claim(1).key, "reverted", now=NOW))
        runner.run(ledger.release("req-1"))
        assert runner.run(ledger.payments.find(claim(1).key)) is None
        runner.run(ledger.hold(paying(2, claim(1))))
        runner.run(ledger.payments.settling(claim(1).key, 10, 10, now=NOW))
        runner.run(ledger.release("req-2"))
        runner.run(ledger.payments.failed(claim(1).key, "reverted", now=NOW))
    assert listed(books) == []
    assert faults(books) == []


def test_a_no_while_the_hold_runs_is_a_debt_when_something_is_served_after_all(books: Books) -> None:
    ledger = books.open()
    with running(ledger) as runner:
        runner.run(ledger.hold(paying(1)))
        runner.run(ledger.payments.failed(claim(1).key, "reverted", now=NOW))
        runner.run(ledger.settle(metered(1)))
        with pytest.raises(PaymentRefused, match="owes"):
            runner.run(ledger.hold(paying(2)))
    owed = stored(books)
    assert owed is not None
    assert owed.unpaid


def test_what_nobody_could_say_waits_for_the_operator_and_may_still_be_settled(books: Books) -> None:
    ledger = books.open()
    with running(ledger) as runner:
        keys = [runner.run(serve(ledger, number)) for number in (1, 2)]
        for key in keys:
            runner.run(ledger.payments.settling(key, 4_000, 4, now=NOW))
            runner.run(ledger.payments.unknown(key, "no_answer", now=NOW))
        assert [each.state for each in listed(books, open_only=True)] == ["unknown", "unknown"]
        assert runner.run(ledger.payments.settled(keys[0], "0xlate", now=NOW))
        assert runner.run(ledger.payments.forgive(keys[1], now=NOW)) == 4
        runner.run(ledger.payments.unknown(keys[0], "no_answer", now=NOW))  # it is settled, and stays so
    assert [each.state for each in listed(books)] == ["settled", "unknown"]
    assert books.account(PAYER).balance_nusd == 0
    assert faults(books) == []


def test_a_transaction_pays_for_one_request(books: Books) -> None:
    ledger = books.open()
    with running(ledger) as runner:
        first, second = (runner.run(serve(ledger, number)) for number in (1, 2))
        assert runner.run(pay(ledger, first, "0xAB"))
        assert not runner.run(pay(ledger, second, "0xab"))
    owed = stored(books, 2)
    assert owed is not None
    assert (owed.state, owed.reason, owed.unpaid) == ("failed", "transaction_used", True)
    assert [row.amount_nusd for row in books.rows() if row.kind == "topup"] == [4]
    assert faults(books) == []


def test_nothing_taken_needs_no_transaction_and_makes_no_top_up(books: Books) -> None:
    ledger = books.open()
    with running(ledger) as runner:
        for number in (1, 2):  # two payments without a transaction are no replay
            key = runner.run(serve(ledger, number, charge=0))
            assert runner.run(pay(ledger, key, "", taken=0, nusd=0))
        key = runner.run(serve(ledger, 3))
        with pytest.raises(ValueError, match="without a transaction"):
            runner.run(pay(ledger, key, ""))
    assert [each.state for each in listed(books)] == ["settled", "settled", "settling"]
    assert not [row for row in books.rows() if row.kind == "topup"]
    assert faults(books) == []


@pytest.mark.parametrize(("taken", "nusd"), [(LARGE + 1, 4), (-1, 4), (0, 4), (4, 0), (4, -4)])
def test_no_more_is_taken_than_was_signed(books: Books, taken: int, nusd: int) -> None:
    ledger = books.open()
    with running(ledger) as runner:
        key = runner.run(serve(ledger, 1))
        with pytest.raises(ValueError, match="may not be taken"):
            runner.run(ledger.payments.settling(key, taken, nusd, now=NOW))
        assert runner.run(ledger.payments.settling(key, LARGE, 4, now=NOW))


def test_what_is_not_there_changes_nothing(books: Books) -> None:
    ledger = books.open()

    async def ask() -> list[Any]:
        payments = ledger.payments
        await payments.failed("none", "x", now=NOW)
        await payments.unknown("none", "x", now=NOW)
        await ledger.hold(paying(1))
        return [
            await payments.find("none"),
            await payments.of_request("req-9"),
            await payments.settling("none", 1, 1, now=NOW),
            await payments.settled("none", "0x1", now=NOW),
            await payments.settled(claim(1).key, "0x1", now=NOW),  # nobody was asked to move anything
            await payments.adopt("none", "nobody"),
            await ledger.release("req-1"),
        ]

    with running(ledger) as runner:
        assert runner.run(ask()) == [None, None, False, False, False, False, True]
        with pytest.raises(NotFound, match="no payment has the key"):
            runner.run(ledger.payments.forgive("none", now=NOW))
    assert faults(books) == []


def test_a_secret_is_made_once_for_all_processes(books: Books) -> None:
    first, second = books.open(), books.open()

    async def ask() -> list[bytes]:
        await first.start()
        await second.start()
        asked = [ledger.payments.secret(name) for name in ("quote", "other") for ledger in (first, second)]
        found = await asyncio.gather(*asked)
        await first.close()
        await second.close()
        return list(found)

    quote, same, other, same_other = asyncio.run(ask())
    assert (quote, other) == (same, same_other)
    assert quote != other
    assert len(quote) == 32
    assert books.ask(lambda storage: storage.payments.secret("quote")) == quote


def test_the_second_hold_of_a_request_is_found_by_the_request(books: Books) -> None:
    ledger = books.open()
    with running(ledger) as runner:
        runner.run(ledger.hold(paying("a.2")))
        found = runner.run(ledger.payments.of_request("req-a"))
        assert found is not None
        assert found.request_id == "req-a.2"
        assert runner.run(ledger.payments.of_request("req-a.2")) == found
        assert runner.run(ledger.payments.of_request("req-")) is None
        runner.run(ledger.release("req-a.2"))
