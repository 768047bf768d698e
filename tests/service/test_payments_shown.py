"""Payments as people see them: receipts, `router ledger payments` and `forgive`, check, export, roll-up."""

import json
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any

import httpx2 as httpx
import pytest
from click.testing import CliRunner, Result
from litestar import Litestar

from router.access.keys import Keys, NewKey
from router.api.account import account_routes
from router.api.faults import exception_handlers
from router.catalog.snapshot import Snapshot
from router.cli import main
from router.ledger.ledger import Ledger
from router.ledger.rows import Release
from tests.service.ledgers import NOW, Books, request, running, settlement
from tests.service.wallets import ADDRESS, LARGE, PAYER, claim, faults, listed, metered, pay, paying, serve


class NoCatalog:
    """Receipts ask for none."""

    current: Snapshot


Get = Callable[[str, dict[str, str] | None], Coroutine[Any, Any, httpx.Response]]


def receipts(ledger: Ledger, *, anonymous: bool = True) -> tuple[Keys, Get]:
    """Return the keys of a router that asks for one, and how to ask it for a receipt."""
    keys = Keys(ledger.keys, clock=lambda: 1_793_534_400.0, monotonic=lambda: 0.0)
    routes = account_routes(keys, ledger, NoCatalog(), "paid", lambda: datetime.now(UTC), anonymous=anonymous)
    app = Litestar(
        route_handlers=routes, exception_handlers=exception_handlers("status"), openapi_config=None
    )

    async def get(request_id: str, headers: dict[str, str] | None = None) -> httpx.Response:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://router") as client:
            return await client.get(f"/v1/receipts/{request_id}", headers=headers)

    return keys, get


def test_a_receipt_tells_of_its_payment(books: Books) -> None:
    ledger = books.open()
    _, get = receipts(ledger)

    async def ask() -> list[dict[str, Any]]:
        paid = claim(1, scheme="exact")
        await ledger.hold(paying(1, paid, 123_456_789))
        before = (await get("req-1")).json()
        await ledger.settle(metered(1, 123_456_789, of=7))
        await pay(ledger, paid.key, "0xhash", LARGE, 123_456_789)
        return [before, (await get("req-1")).json()]

    with running(ledger) as runner:
        held, settled = runner.run(ask())
    assert (held["status"], held["payment"]["state"]) == ("held", "claimed")
    assert settled["account"] == PAYER
    assert settled["payment"] == {
        "protocol": "x402",
        "scheme": "exact",
        "state": "settled",
        "network": "eip155:8453",
        "asset": "0xusdc",
        "payer": ADDRESS,
        "pay_to": "0xseller",
        "amount": str(LARGE),
        "taken": str(LARGE),
        "amount_usd": 0.123456789,
        "taken_usd": 0.123456789,
        "metered_usd": 0.000000007,
        "transaction": "0xhash",
    }


def test_who_has_no_key_reads_payers_receipts_alone_and_by_our_id_alone(books: Books) -> None:
    books.add_credit(100)
    ledger = books.open()

    async def ask() -> dict[str, int]:
        keys, get = receipts(ledger)
        _, closed = receipts(ledger, anonymous=False)
        text, key = await keys.create(NewKey("me", credit_nusd=100))
        await ledger.hold(request("keyed"))
        await ledger.settle(settlement("keyed"))
        await ledger.hold(request("mine", account=key.id))
        await ledger.settle(settlement("mine"))
        await pay(ledger, await serve(ledger, "paid"))
        await ledger.hold(paying("a.2"))
        await ledger.hold(paying("freed"))
        await ledger.settle(Release("req-freed"))
        (topup,) = [row async for row in ledger.books.rows() if row.kind == "topup" and row.account == PAYER]
        bearer = {"authorization": f"Bearer {text}"}
        return {
            "a payer's": (await get("req-paid")).status_code,
            "one that cost nothing": (await get("req-freed")).status_code,
            "a second hold": (await get("req-a.2")).status_code,
            "the client's id": (await get("theirs")).status_code,
            "a key's": (await get("req-keyed")).status_code,
            "unknown": (await get("req-none")).status_code,
            "a top-up": (await get(topup.request_id)).status_code,
            "with a wrong key": (await get("req-paid", {"authorization": "Bearer rk_no"})).status_code,
            "with another's key": (await get("req-paid", bearer)).status_code,
            "my own": (await get("req-mine", bearer)).status_code,
            "where nothing is sold": (await closed("req-paid")).status_code,
        }

    with running(ledger) as runner:
        assert runner.run(ask()) == {
            "a payer's": 200,
            "one that cost nothing": 200,
            "a second hold": 200,
            "the client's id": 401,
            "a key's": 401,
            "unknown": 401,
            "a top-up": 401,
            "with a wrong key": 401,
            "with another's key": 404,
            "my own": 200,
            "where nothing is sold": 401,
        }


def run(books: Books, *arguments: str) -> Result:
    environ = {"ROUTER_DATABASE_URL": books.url or "", "COLUMNS": "240"}
    return CliRunner(env=environ).invoke(main, ["ledger", *arguments, "--data", str(books.data)])


@pytest.fixture
def six(books: Books) -> Books:
    """Return books with a payment of each sort."""
    ledger = books.open()

    async def fill() -> None:
        now = {"now": NOW}
        await pay(ledger, await serve(ledger, "fine"), "0xfine")
        await ledger.hold(paying("unserved", claim("unserved", scheme="exact")))
        await pay(ledger, claim("unserved").key, "0xfree")
        await ledger.release("req-unserved")
        unknown = await serve(ledger, "unknown")
        await ledger.payments.settling(unknown, 4, 4, **now)
        await ledger.payments.unknown(unknown, "no_answer", **now)
        await ledger.hold(paying("runs"))
        await serve(ledger, "waits")
        await ledger.payments.failed(await serve(ledger, "failed"), "insufficient_funds", **now)

    with running(ledger) as runner:
        runner.run(fill())
    return books


def test_payments_lists_what_needs_somebody_and_everything_when_asked(six: Books) -> None:
    shown = [json.loads(line) for line in run(six, "payments", "--json").stdout.splitlines()]
    assert [row["request_id"] for row in shown] == [
        f"req-{n}" for n in ("unserved", "unknown", "waits", "failed")
    ]
    unserved, _, _, failed = shown
    assert (unserved["unserved"], unserved["transaction"], unserved["taken_nusd"]) == (True, "0xfree", 4)
    assert (failed["unpaid"], failed["reason"], failed["amount"]) == (True, "insufficient_funds", str(LARGE))
    assert "router ledger forgive req-failed" in failed["advice"]
    everything = [json.loads(line) for line in run(six, "payments", "--all", "--json").stdout.splitlines()]
    assert len(everything) == 6
    table = run(six, "payments").stdout
    assert "insufficient_funds" in table
    assert "req-fine" not in table
    assert "req-fine" in run(six, "payments", "--all").stdout
    assert run(six, "check").exit_code == 0


def test_nothing_to_do_is_said_in_a_line(books: Books) -> None:
    with running(books.open()):
        pass
    assert run(books, "payments").stdout == (
        "Everything that was served is paid, and everything that was paid was served.\n"
    )
    assert run(books, "payments", "--all").stdout == "No wallet has paid here yet.\n"
    assert run(books, "payments", "--json").stdout == ""


def test_forgive_takes_a_request_id_or_a_key(six: Books) -> None:
    done = run(six, "forgive", "req-failed")
    assert (done.exit_code, done.stdout) == (
        0,
        f"0.000000004 USD of {PAYER} written off for req-failed.\n",
    )
    assert run(six, "forgive", claim("unknown").key).exit_code == 0
    again = run(six, "forgive", "req-failed")
    assert again.exit_code == 1
    assert "forgiven already" in again.output
    nobody = run(six, "forgive", "req-none")
    assert nobody.exit_code == 1
    assert "router ledger payments --all --json" in nobody.output
    left = [json.loads(line)["request_id"] for line in run(six, "payments", "--json").stdout.splitlines()]
    assert left == ["req-unserved", "req-waits"]
    assert run(six, "check").exit_code == 0


def test_check_tells_of_a_payment_that_was_changed(six: Books) -> None:
    six.execute("DELETE FROM payments WHERE state = 'settled'")
    checked = run(six, "check")
    assert checked.exit_code == 1
    assert f"payment {claim('fine').key} of {PAYER}: the ledger has a top-up of it" in checked.output


def test_export_has_top_ups_and_write_offs_in_the_form_of_every_row(six: Books) -> None:
    run(six, "forgive", "req-failed")
    rows = [json.loads(line) for line in run(six, "export", "--json").stdout.splitlines()]
    bought = [row for row in rows if row["kind"] in ("topup", "adjust")]
    assert [(row["kind"], row["amount_nusd"], row["account"]) for row in bought] == [
        ("topup", 4, PAYER),
        ("topup", 4, PAYER),
        ("adjust", 4, PAYER),
    ]
    assert {len(row) for row in rows} == {15}


def test_old_requests_are_folded_and_their_payments_and_top_ups_stay(six: Books) -> None:
    before = listed(six)
    rolled = six.ask(lambda storage: storage.books.roll_up("2030-01-01"))
    assert rolled.folded
    assert [each.key for each in (payment.claim for payment in listed(six))] == [p.claim.key for p in before]
    assert [row.amount_nusd for row in six.rows() if row.kind == "topup"] == [4, 4]
    assert faults(six) == []
    assert run(six, "forgive", "req-failed").exit_code == 0
    ledger = six.open()
    with running(ledger) as runner:
        runner.run(ledger.end_open_holds())
        waits = six.ask(lambda storage: storage.payments.of_request("req-waits"))
        assert waits is not None
        assert runner.run(pay(ledger, waits.claim.key, "0xafter"))
    assert faults(six) == []
