"""The books of the wallet on both engines: caps are exact, payees are kept, what is final stays so."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from router.ledger.engines import open_storage
from router.ledger.ledger import Storage
from router.ledger.spending import Caps, DaySums, Refusal, Spend, SpendState
from tests.service.ledgers import NOW, REFUSED, Books

CAPS = Caps(request_nusd=1_000, day_nusd=5_000)
TOMORROW = "2026-11-02T00:00:00.000Z"


def spend(number: int, nusd: int = 100, *, request: str = "", **changes: str) -> Spend:
    told = {"pay_to": "0xpayee", "network": "eip155:84532", "origin": "https://a", **changes}
    return Spend(
        nonce=f"0x{number:x}",
        payer="0xme",
        provider="acme",
        asset="0xusdc",
        amount=nusd * 10**24,
        nusd=nusd,
        valid_before=1_000 + number,
        request_id=request or f"req-{number}",
        **told,
    )


def reserve(
    books: Books, wanted: Spend, caps: Caps = CAPS, *, pinned: bool = False, now: str = NOW
) -> Refusal | None:
    return books.ask(lambda it: it.spending.reserve(wanted, caps, pinned=pinned, now=now))


def test_a_day_takes_what_its_cap_holds_and_the_next_day_begins_anew(books: Books) -> None:
    for number in range(5):
        assert reserve(books, spend(number, 1_000)) is None
    assert reserve(books, spend(5, 1)) == "day_cap"
    assert reserve(books, spend(5, 1), now=TOMORROW) is None
    assert books.ask(lambda it: it.spending.day(NOW[:10])) == DaySums(0, 5_000)


def test_only_what_is_freed_counts_no_more(books: Books) -> None:
    for number, state in enumerate(("spent", "unknown", "freed")):
        assert reserve(books, spend(number, 1_000)) is None
        ended = books.ask(lambda it, n=number, s=state: it.spending.end(f"0x{n:x}", s, None, now=NOW))
        assert ended
    assert books.ask(lambda it: it.spending.day(NOW[:10])) == DaySums(1_000, 1_000)


def test_spent_and_freed_are_final_and_unknown_is_not(books: Books) -> None:
    async def end(storage: Storage) -> list[bool]:
        steps: list[tuple[str, SpendState]] = [
            ("0x0", "unknown"),
            ("0x0", "spent"),
            ("0x0", "freed"),
            ("0x1", "freed"),
            ("0x1", "spent"),
            ("0x9", "spent"),
        ]
        return [await storage.spending.end(nonce, state, "0xtx", now=NOW) for nonce, state in steps]

    assert [reserve(books, spend(number)) for number in (0, 1)] == [None, None]
    assert books.ask(end) == [True, True, False, True, False, False]
    recent = books.ask(lambda it: it.spending.recent())
    assert [(found.spend, found.state) for found in recent] == [(spend(1), "freed"), (spend(0), "spent")]


def test_a_request_has_one_cap_for_all_of_its_payments(books: Books) -> None:
    assert reserve(books, spend(0, 600, request="one")) is None
    assert reserve(books, spend(1, 401, request="one")) == "request_cap"
    assert reserve(books, spend(1, 401, request="two")) is None
    assert reserve(books, spend(2, 400, request="one")) is None


def test_a_nonce_is_taken_once(books: Books) -> None:
    assert reserve(books, spend(0)) is None
    assert reserve(books, spend(0, request="another")) == "nonce"


@pytest.mark.parametrize("change", [{"pay_to": "0xthief"}, {"network": "eip155:8453"}])
def test_the_first_payee_of_an_origin_and_its_network_are_kept(books: Books, change: dict[str, str]) -> None:
    assert reserve(books, spend(0)) is None
    assert reserve(books, spend(1, **change)) == "payee"
    assert reserve(books, spend(1, **change), pinned=True) is None
    assert reserve(books, spend(2, origin="https://b", **change)) is None
    assert reserve(books, spend(3)) is None


def test_a_payee_that_was_not_paid_is_not_kept(books: Books) -> None:
    assert reserve(books, spend(0, 1_001)) == "request_cap"
    assert reserve(books, spend(0, pay_to="0xother")) is None


def test_what_is_void_and_open_is_overdue(books: Books) -> None:
    for number in range(4):
        assert reserve(books, spend(number)) is None
    books.ask(lambda it: it.spending.end("0x0", "spent", None, now=NOW))
    books.ask(lambda it: it.spending.end("0x1", "unknown", None, now=NOW))
    overdue = books.ask(lambda it: it.spending.overdue("eip155:84532", 1_003))
    assert [(found.spend.nonce, found.state) for found in overdue] == [
        ("0x1", "unknown"),
        ("0x2", "reserved"),
    ]


def test_no_row_is_ever_lost(books: Books) -> None:
    assert reserve(books, spend(0)) is None
    with pytest.raises(REFUSED):
        books.execute("DELETE FROM wallet_spends")


def test_many_processes_share_one_cap(books: Books) -> None:
    """Each thread has a database of its own, as each process would; 60 ask for room for 50."""

    def ask(part: int) -> list[Refusal | None]:
        async def run() -> list[Refusal | None]:
            storage = await open_storage(books.data, books.url)
            try:
                wanted = [spend(part * 10 + number) for number in range(10)]
                asked = (storage.spending.reserve(one, CAPS, pinned=False, now=NOW) for one in wanted)
                return await asyncio.gather(*asked)
            finally:
                await storage.close()

        return asyncio.run(run())

    books.ask(lambda it: it.spending.recent())  # so that the schema is there
    with ThreadPoolExecutor(6) as pool:
        outcomes = [outcome for part in pool.map(ask, range(6)) for outcome in part]
    assert (outcomes.count(None), outcomes.count("day_cap")) == (50, 10)
    assert books.ask(lambda it: it.spending.day(NOW[:10])) == DaySums(0, 5_000)


def test_storage_that_is_away_is_said_so(tmp_path: Path) -> None:
    from router.errors import Unavailable
    from router.ledger.sqlite_spending import SqliteSpending

    with pytest.raises(Unavailable):
        asyncio.run(SqliteSpending(tmp_path / "no" / "router.db").day("2026-11-01"))
