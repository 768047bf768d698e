"""The audit of `python -m benchmarks.faults pay` sees what can be wrong with payments."""

from __future__ import annotations

from dataclasses import replace

import pytest
from msgspec.structs import replace as changed

from benchmarks.faults.book import Entry, Plan
from benchmarks.faults.buy import Purchase
from benchmarks.faults.paid import Books, audit
from router.ledger.payments import Payment, PaymentClaim
from router.ledger.rows import Row
from tests.facilitator import Transfer

WHO = "0xaa"
NOW = "2026-11-01T12:00:00.000Z"
CLAIM = PaymentClaim("k", None, "x402", "upto", "n", "0xusdc", WHO, "0xseller", 90, 2_000_000_000, b"{}")
PAID = Payment(
    *(CLAIM, "r", f"payer:n:{WHO}", 90_000, "settled", "owner", False),
    *(40_500, 40_500, 41, 41_000, "0x1", None, NOW, NOW),
)
SETTLING = replace(PAID, state="settling", transaction=None)
FAILED = replace(PAID, state="failed", transaction=None)
UNSERVED = replace(PAID, served_nusd=None, metered_nusd=None)
MOVED = Transfer("n", "0xusdc", WHO, "0xseller", 41, "0x1")
UNPAID_LINE = {"key": "k", "unpaid": True, "unserved": False}
UNSERVED_LINE = {"key": "k", "unpaid": False, "unserved": True}


def row(kind: str, nusd: int, request_id: str = "r") -> Row:
    rest = (None, 0, 50, 4, "m", "p", "c", False, None, NOW)
    return Row(request_id, "buy.1", f"payer:n:{WHO}", kind, nusd, *rest)  # type: ignore[arg-type]  # a kind is a word


HOLD, SETTLE, RELEASE, TOPUP = (
    row("hold", 90_000),
    row("settle", 40_500),
    row("release", 90_000),
    row("topup", 41_000, "t"),
)
SERVED = [HOLD, SETTLE, TOPUP]


def entry(tokens: int = 4, outcome: str = "whole", status: int = 200) -> Entry:
    head = b"HTTP/1.1 200 OK\r\npayment-response: x\r\n\r\n"
    plan = Plan(stream=True, tokens=4)
    return Entry("buy.1", plan, outcome, status, tokens, sent=4, calls=1, head=head)  # type: ignore[arg-type]  # a word


WHOLE, NOTHING, NO = entry(), entry(0, "failed"), entry(0, "refused", 403)


@pytest.mark.parametrize(
    ("tries", "payments", "rows", "moved", "listed", "faults"),
    [
        ([WHOLE], [PAID], SERVED, [MOVED], [], {}),
        ([WHOLE, NO], [PAID], SERVED, [MOVED], [], {}),
        ([NOTHING, NO], [UNSERVED], [HOLD, RELEASE, TOPUP], [MOVED], [UNSERVED_LINE], {}),
        ([WHOLE], [SETTLING], [HOLD, SETTLE], [MOVED], [UNPAID_LINE], {}),
        ([NOTHING, NO], [], [HOLD, RELEASE], [], [], {}),
        ([WHOLE, WHOLE], [PAID], SERVED, [MOVED], [], {"served twice": 1}),
        ([WHOLE], [PAID], SERVED, [MOVED, MOVED], [], {"settled twice": 1, "sums": 1}),
        ([NOTHING, NO], [UNSERVED], [HOLD, RELEASE, TOPUP], [MOVED], [], {"taken for nothing": 1}),
        ([WHOLE], [], [HOLD, RELEASE], [], [], {"lost": 2}),
        ([WHOLE], [FAILED], [HOLD, SETTLE], [], [UNPAID_LINE], {"unsettled": 1}),
        ([WHOLE], [FAILED], [HOLD, SETTLE], [], [], {"lost": 1, "unsettled": 1}),
        ([WHOLE], [PAID], SERVED, [MOVED], [UNPAID_LINE], {"wrong list": 1}),
        ([WHOLE], [SETTLING], [HOLD, SETTLE], [MOVED], [], {"wrong list": 1}),
        ([WHOLE], [PAID], [HOLD, row("settle", 41_001), TOPUP], [MOVED], [], {"wrong amount": 1}),
        ([WHOLE], [PAID], [HOLD, SETTLE], [MOVED], [], {"wrong amount": 1, "sums": 1}),
        ([WHOLE], [PAID], [HOLD, TOPUP], [MOVED], [], {"lost": 1, "open": 1}),
        ([NOTHING], [], [HOLD, RELEASE], [], [], {"no answer": 1}),
        ([replace(WHOLE, head=b"")], [PAID], SERVED, [MOVED], [], {"no receipt": 1}),
    ],
)
def test_the_audit_sees(
    tries: list[Entry],
    payments: list[Payment],
    rows: list[Row],
    moved: list[Transfer],
    listed: list[dict[str, object]],
    faults: dict[str, int],
) -> None:
    purchase = Purchase("buy", "upto", tries[0].plan, WHO, tries=tries)
    found = audit([purchase], {WHO: moved}, set(), Books.of(payments, rows, listed), 0)
    assert {kind: count for kind, count in found.faults.items() if count} == faults


def test_what_the_facilitator_refused_may_stay_unpaid() -> None:
    purchase = Purchase("buy", "upto", WHOLE.plan, WHO, tries=[WHOLE])
    found = audit([purchase], {}, {WHO}, Books.of([FAILED], [HOLD, SETTLE], [UNPAID_LINE]), 0)
    assert found.clean


def test_exact_takes_what_was_signed() -> None:
    claim = changed(CLAIM, scheme="exact")
    paid = replace(PAID, claim=claim, taken=90, taken_nusd=90_000)
    rows = [HOLD, row("settle", 90_000), row("topup", 90_000, "t")]
    purchase = Purchase("buy", "exact", WHOLE.plan, WHO, tries=[WHOLE])
    moved = replace(MOVED, amount=90)
    assert audit([purchase], {WHO: [moved]}, set(), Books.of([paid], rows, []), 0).clean
    less = replace(moved, amount=89)
    found = audit([purchase], {WHO: [less]}, set(), Books.of([paid], rows, []), 0)
    assert found.faults["wrong amount"] == 2
    assert audit([], {}, set(), Books.of([paid], [], []), 1).faults["wrong list"] == 1
