"""Who may not hold with a wallet payment: replays, debts, and too much that is open; over both engines."""

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace

from router.errors import KeyInUse, LimitReached, NotFound, PaymentRefused
from router.ledger.answers import Claim
from router.ledger.rows import HoldRequest, Release
from tests.service.ledgers import NOW, Books, request, running
from tests.service.wallets import PAYER, claim, faults, listed, metered, pay, paying, serve, stored


def refusal_of(books: Books, first: Any, again: Any) -> str:
    """Do something with a first paying request, then come with the same payment; return what is said."""
    ledger = books.open()
    with running(ledger) as runner:
        runner.run(first(ledger))
        with pytest.raises(PaymentRefused) as caught:
            runner.run(ledger.hold(again))
        assert (caught.value.status, caught.value.name) == (403, "payment_replayed")
        if stored(books, 1) is not None:
            runner.run(ledger.release("req-1"))
    assert stored(books, 2) is None
    assert books.kinds_of("req-2") == []
    assert faults(books) == []
    return caught.value.message


def test_a_replay_says_that_the_first_request_runs(books: Books) -> None:
    said = refusal_of(books, lambda ledger: ledger.hold(paying(1)), paying(2, claim(1)))
    assert "req-1, still runs" in said


def test_a_replay_of_what_was_settled_names_the_transaction_and_not_the_request(books: Books) -> None:
    async def first(ledger: Any) -> None:
        await pay(ledger, await serve(ledger, 1), "0xfeed")

    said = refusal_of(books, first, paying(2, claim(1)))
    assert "0xfeed" in said
    assert "req-1" not in said


def test_a_replay_of_what_waits_to_be_settled_names_the_request(books: Books) -> None:
    said = refusal_of(books, lambda ledger: serve(ledger, 1), paying(2, claim(1)))
    assert "by the request req-1" in said


def test_a_challenge_serves_once_and_another_payer_learns_nothing(books: Books) -> None:
    again = paying(2, claim(2, challenge="c1", payer="0xbb"), account="payer:eip155:8453:0xbb")
    said = refusal_of(books, lambda ledger: ledger.hold(paying(1, claim(1, challenge="c1"))), again)
    assert "challenge" in said
    assert "req-1" not in said


def test_of_many_claims_of_one_payment_in_one_transaction_one_wins(books: Books) -> None:
    ledger = books.open()

    async def race() -> list[BaseException | None]:
        same_key = [ledger.hold(paying(number, claim("one"))) for number in range(10)]
        same_challenge = [
            ledger.hold(
                paying(10 + n, claim(n, challenge="c", payer=f"0x{n}"), account=f"payer:eip155:8453:0x{n}")
            )
            for n in range(10)
        ]
        return await asyncio.gather(*same_key, *same_challenge, return_exceptions=True)

    with running(ledger) as runner:
        outcomes = runner.run(race())
        assert [outcomes[:10].count(None), outcomes[10:].count(None)] == [1, 1]
        assert sum(isinstance(each, PaymentRefused) for each in outcomes) == 18
        for number, outcome in enumerate(outcomes):
            if outcome is None:
                assert runner.run(ledger.release(f"req-{number}"))
    assert faults(books) == []


def test_what_one_payer_has_open_by_upto_is_bounded(books: Books) -> None:
    ledger = books.open()

    def hold(number: int, amount: int = 10, scheme: str = "upto") -> Any:
        return ledger.hold(paying(number, claim(number, scheme=scheme, exposure_nusd=30), amount))

    async def at_once() -> list[BaseException | None]:
        return await asyncio.gather(*(hold(number) for number in range(4)), return_exceptions=True)

    with running(ledger) as runner:
        *first, refused = runner.run(at_once())
        assert first == [None] * 3
        assert isinstance(refused, LimitReached)
        assert (refused.status, refused.retry_after_s) == (429, 5)
        assert "0.00000003 USD of payments on their way" in refused.message
        with pytest.raises(LimitReached):
            runner.run(hold(9, scheme="exact"))  # what is paid at the first byte counts like the rest
        runner.run(ledger.settle(metered(0)))
        with pytest.raises(LimitReached):
            runner.run(hold(5))  # what was served counts until it is settled
        runner.run(pay(ledger, claim(0).key))
        runner.run(hold(6))
        assert ledger.end(Release("req-1")) == 0
        runner.run(hold(7))  # takes that release into its transaction
        for number in (2, 6, 7):
            runner.run(ledger.release(f"req-{number}"))
    assert faults(books) == []


def test_a_payer_whose_payment_failed_is_refused_until_it_is_forgiven(books: Books) -> None:
    ledger = books.open()
    with running(ledger) as runner:
        key = runner.run(serve(ledger, 1))
        runner.run(ledger.payments.settling(key, 4_000, 4, now=NOW))
        runner.run(ledger.payments.failed(key, "insufficient_funds", now=NOW))
        owed = stored(books)
        assert owed is not None
        assert (owed.state, owed.reason, owed.unpaid) == ("failed", "insufficient_funds", True)
        with pytest.raises(PaymentRefused) as caught:
            runner.run(ledger.hold(paying(2)))
        assert caught.value.name == "payer_blocked"
        assert "0.000000004 USD" in caught.value.message
        assert "router ledger forgive" in caught.value.message
        runner.run(ledger.hold(paying(3, account="payer:eip155:8453:0xbb")))
        runner.run(ledger.release("req-3"))
        assert books.account(PAYER).balance_nusd == -4

        assert books.ask(lambda storage: storage.payments.forgive(key, now=NOW)) == 4
        runner.run(ledger.hold(paying(4)))
        assert runner.run(ledger.account(PAYER)).balance_nusd == 0
        runner.run(ledger.release("req-4"))
        with pytest.raises(NotFound, match="forgiven already"):
            runner.run(ledger.payments.forgive(key, now=NOW))
    forgiven = stored(books)
    assert forgiven is not None
    assert (forgiven.forgiven_nusd, forgiven.unpaid) == (4, False)
    assert books.kinds_of("req-1") == ["hold", "settle", "adjust"]
    assert listed(books, open_only=True) == []
    assert faults(books) == []


def test_a_refused_hold_with_a_payment_and_a_key_leaves_neither(books: Books) -> None:
    ledger = books.open()

    def keyed(number: int, key: str, paid: int) -> HoldRequest:

        return replace(paying(number, claim(paid)), idempotency_key=key, claim=Claim(b"x" * 32))

    async def hold() -> list[BaseException | None]:
        holds = [keyed(1, "k1", 1), keyed(2, "k2", 1), keyed(3, "k1", 3), keyed(4, "k2", 3)]
        return await asyncio.gather(*(ledger.hold(each) for each in holds), return_exceptions=True)

    with running(ledger) as runner:
        first, replayed, in_use, fresh = runner.run(hold())
        assert (first, fresh) == (None, None)
        assert isinstance(replayed, PaymentRefused)
        assert isinstance(in_use, KeyInUse)
        for number in (1, 4):
            runner.run(ledger.release(f"req-{number}"))
    assert listed(books) == []
    assert faults(books) == []


def test_holds_without_a_payment_pass_beside_one(books: Books) -> None:
    books.add_credit(100)
    ledger = books.open()

    async def both() -> None:
        await asyncio.gather(ledger.hold(request(1)), ledger.hold(paying(2)))
        await asyncio.gather(ledger.release("req-1"), ledger.settle(metered(2)))

    with running(ledger) as runner:
        runner.run(both())
    assert [each.request_id for each in listed(books)] == ["req-2"]
    assert faults(books) == []


def test_what_was_served_and_never_known_of_counts_as_open_until_it_is_written_off(books: Books) -> None:
    ledger = books.open()

    def hold(number: int) -> Any:
        return ledger.hold(paying(number, claim(number, exposure_nusd=15), 10))

    with running(ledger) as runner:
        runner.run(hold(1))
        runner.run(ledger.settle(metered(1)))
        assert runner.run(ledger.payments.settling(claim(1).key, 4, 4, now=NOW))
        runner.run(ledger.payments.unknown(claim(1).key, "nobody_knows", now=NOW))
        with pytest.raises(LimitReached):
            runner.run(hold(2))
        assert runner.run(ledger.payments.forgive(claim(1).key, now=NOW)) == 4
        runner.run(hold(3))
        runner.run(ledger.release("req-3"))
    assert faults(books) == []
