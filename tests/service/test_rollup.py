"""Old rows folded into a day's sums: everything still adds up, payments and open holds stay."""

from __future__ import annotations

import json
import random
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from msgspec.structs import replace

from router.cli import main
from router.errors import InternalError
from router.ledger.answers import Claim, StoredAnswer
from router.ledger.receipts import receipt
from router.ledger.rows import ROLL_UP_ROWS, Release, Row, utc_text
from router.ledger.sqlite import FILE
from tests.service.ledgers import REFUSED, Books, request, running, settlement

DAY_S = 86_400
NOON_S = 1_793_534_400.0  # 2026-11-01T12:00:00Z
LATER = "2026-11-03"
NO_BODY = ("decode(repeat('00', 32), 'hex')", "zeroblob(32)")


class Clock:
    def __init__(self) -> None:
        self.now_s = NOON_S

    def __call__(self) -> float:
        return self.now_s


def fill(books: Books, seed: int, requests: int = 60) -> None:
    """Write three days of requests of three accounts, with payments in between and some that stay open."""
    chance, clock = random.Random(seed), Clock()
    ledger = books.open(clock)

    async def one(number: int) -> None:
        account = chance.choice(["key_a", "key_b", "open"])
        if chance.random() < 0.08:
            now = utc_text(clock())
            await ledger.books.topup(account, 50, source="t", external_id=str(number), now=now)
        hold = request(number, 10, account=account, credit=False)
        await ledger.hold(hold)
        if chance.random() < 0.1:
            paid_before = settlement(number) if number % 2 else None
            await ledger.settle(Release(hold.request_id, delivered=paid_before))
        elif chance.random() < 0.95:
            model = f"m/{chance.randrange(3)}"
            await ledger.settle(replace(settlement(number, chance.randrange(12)), model=model))

    with running(ledger) as runner:
        for number in range(3 * requests):
            clock.now_s = NOON_S + DAY_S * (number // requests) + number
            runner.run(one(number))


def folded(books: Books, before: str = LATER, window_rows: int = ROLL_UP_ROWS) -> tuple[int, int]:
    rolled = books.ask(lambda storage: storage.books.roll_up(before, window_rows))
    return rolled.folded, rolled.made


def sums(listed: list[Row]) -> Counter[tuple[str, ...]]:
    """Return what customers paid, what it cost and the tokens, by day, account and model."""
    total: Counter[tuple[str, ...]] = Counter()
    for row in listed:
        if row.kind == "settle" or row.upstream_cost_nusd is not None:
            at = (row.created_at[:10], row.account, row.model or "")
            total[*at, "paid"] += row.amount_nusd if row.kind == "settle" else 0
            total[*at, "cost"] += row.upstream_cost_nusd or 0
            total[*at, "tokens"] += (row.prompt_tokens or 0) + (row.completion_tokens or 0)
    return total


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("window_rows", [17, 100_000])
def test_every_sum_and_balance_stays(books: Books, seed: int, window_rows: int) -> None:
    fill(books, seed)
    assert books.differences() == []
    before = books.rows()

    gone, made = folded(books, window_rows=window_rows)

    after = books.rows()
    assert books.differences() == []
    assert sums(after) == sums(before)
    assert len(after) == len(before) - gone + made
    kept = [row for row in before if row.kind == "topup" or row.created_at >= LATER]
    assert [row for row in after if row in kept] == kept
    old = [row for row in after if row.created_at < LATER and row.kind != "topup"]
    ended = {row.request_id for row in before if row.kind in ("settle", "release")}
    assert all(row.request_id.startswith("rollup:") or row.request_id not in ended for row in old)
    assert folded(books) == (0, 0)


def test_a_day_without_payments_is_one_row_an_account_and_model(books: Books) -> None:
    ledger = books.open()
    with running(ledger) as runner:
        for number in range(40):
            runner.run(ledger.hold(request(number, account=f"k{number % 2}", credit=False)))
            runner.run(ledger.settle(settlement(number)))
    assert folded(books) == (80, 2)
    first, second = books.rows()
    assert (first.request_id.split(":")[:3], first.kind) == (["rollup", "2026-11-01", "k0"], "settle")
    assert (first.amount_nusd, first.balance_after_nusd, first.prompt_tokens) == (80, -80, 2_000)
    assert (first.model, first.provider, first.catalog) == ("m/y", "q", "abcdef012345")
    assert second.account == "k1"
    assert receipt([first]) is None


def test_an_answer_that_is_kept_keeps_its_rows(books: Books) -> None:
    books.add_credit(100)
    ledger = books.open()
    with running(ledger) as runner:
        for number, key in ((1, "k"), (2, None)):
            claim = Claim(bytes(32)) if key else None
            hold = replace(request(number), idempotency_key=key, claim=claim)
            runner.run(ledger.hold(hold))
            answer = StoredAnswer(200, b"a: b", b"") if key else None
            runner.run(ledger.settle(replace(settlement(number), answer=answer)))
    assert folded(books) == (2, 1)
    assert [row.kind for row in books.rows()] == ["topup", "hold", "settle", "settle"]
    assert books.differences() == []


def test_a_failed_fold_changes_nothing(books: Books) -> None:
    fill(books, 1, 20)
    books.execute(
        f"DROP TRIGGER ledger_keeps_its_rows {'ON ledger' if books.url else ''};"
        "UPDATE ledger SET balance_after_nusd = balance_after_nusd + 1 WHERE seq ="
        " (SELECT max(seq) FROM ledger WHERE kind = 'settle' AND created_at < '2026-11-02')"
    )
    before = books.rows()
    with pytest.raises(InternalError, match="differ"):
        folded(books)
    assert books.rows() == before


@pytest.mark.parametrize(
    ("guard", "which", "refused"),
    [
        (None, "kind = 'hold'", True),
        (None, "kind = 'settle'", True),
        ("2026-11-02", "kind = 'topup'", True),
        ("2026-11-02", "kind = 'settle' AND created_at > '2026-11-02'", True),
        ("2026-11-09", "kind = 'hold' AND request_id IN (SELECT request_id FROM open_holds)", True),
        ("2026-11-02", "kind = 'settle' AND created_at < '2026-11-02'", False),
    ],
)
def test_the_database_lets_go_of_nothing_else(
    books: Books, guard: str | None, which: str, refused: bool
) -> None:
    fill(books, 2, 20)
    before = books.rows()
    if guard:
        books.execute(f"INSERT INTO rollup_before VALUES ('{guard}')")
    if refused:
        with pytest.raises(REFUSED, match="append-only"):
            books.execute(f"DELETE FROM ledger WHERE {which}")
        assert books.rows() == before
    else:
        books.execute(f"DELETE FROM ledger WHERE {which}")
        assert 0 < len(books.rows()) < len(before)


def test_a_service_goes_on_beside_it(books: Books) -> None:
    fill(books, 3, 20)
    ledger = books.open(lambda: NOON_S + 5 * DAY_S)
    with running(ledger) as runner:
        runner.run(ledger.hold(request("new", account="key_a", credit=False)))
        before = runner.run(ledger.account("key_a"))
        assert folded(books)[0]
        assert runner.run(ledger.account("key_a")) == before
        runner.run(ledger.settle(settlement("new")))
    assert books.differences() == []


def command(books: Books, *arguments: str) -> Result:
    env = {"ROUTER_DATABASE_URL": books.url}
    return CliRunner().invoke(main, ["ledger", *arguments, "--data", str(books.data)], env=env)


def test_the_command_folds_and_the_check_stays_clean(books: Books) -> None:
    fill(books, 0)
    told = command(books, "rollup", "--before", "2026-11-02")
    assert told.exit_code == 0, told.output
    assert "Folded" in told.output
    checked = command(books, "check")
    assert checked.exit_code == 0, checked.output
    exported = [json.loads(line) for line in command(books, "export", "--json").stdout.splitlines()]
    assert any(row["request_id"].startswith("rollup:2026-11-01:") for row in exported)
    assert not any(row["request_id"].startswith("rollup:2026-11-02:") for row in exported)


def test_the_command_refuses_days_to_come_and_books_that_differ(books: Books) -> None:
    fill(books, 0, 5)
    assert "has not ended" in command(books, "rollup", "--before", "2099-01-01").output
    books.execute("UPDATE accounts SET balance_nusd = balance_nusd + 1")
    refused = command(books, "rollup", "--before", "2026-11-02")
    assert (refused.exit_code, "differ already" in refused.output) == (1, True)


def test_the_check_looks_at_the_keys(books: Books) -> None:
    books.add_credit(100)
    ledger = books.open()
    with running(ledger) as runner:
        runner.run(ledger.hold(replace(request(1), idempotency_key="k", claim=Claim(bytes(32)))))
        assert command(books, "check").exit_code == 0
        runner.run(ledger.release("req-1"))
    assert command(books, "check").exit_code == 0
    books.execute(
        "INSERT INTO idempotency_keys (account, key, body, request_id, cover_nusd, begun_at)"
        f" VALUES ('key_a', 'lost', {NO_BODY[books.url is None]}, 'req-9', 0, '')"
    )
    told = command(books, "check")
    assert (told.exit_code, "'lost' of key_a: it neither runs" in told.output) == (1, True)


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    books = Books(tmp_path)
    fill(books, 0)
    with closing(sqlite3.connect(tmp_path / FILE)) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (page,) = other.execute("PRAGMA page_size").fetchone()
        (root,) = other.execute(
            "SELECT rootpage FROM sqlite_schema WHERE name LIKE 'this request id%'"
        ).fetchone()
    with (tmp_path / FILE).open("r+b") as file:
        file.seek((root - 1) * page + 8)
        file.write(b"\xff" * 64)
    told = command(books, "check")
    assert told.exit_code == 1
    assert "the file: " in told.output or "cannot be used" in told.output
