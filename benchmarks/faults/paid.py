"""The audit of `pay`: what the buyers got and what the oracle moved, against payments, ledger and list."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.faults.book import SHOWN
from benchmarks.faults.buy import Purchase
from router.ledger.payments import Payment
from router.ledger.rows import Row
from tests.facilitator import Transfer

UNIT_NUSD = 1_000
KINDS = (
    "served twice",  # one signature, two answers
    "settled twice",  # one signature, two transfers
    "lost",  # served, and the payment is neither settled nor in the list
    "unsettled",  # served and settlable, and not settled after the recovery
    "taken for nothing",  # paid, nothing came, and it is not in the list
    "wrong amount",  # moved, booked and charged do not agree
    "wrong list",  # the list says other than the oracle
    "open",  # a hold without an end
    "no receipt",  # a whole answer that was paid, without its receipt
    "no answer",  # the buyer came as often as may be, and got neither an answer nor a no
    "unbalanced",  # what `router ledger check` finds
    "sums",  # top-ups are not what moved
)


@dataclass(slots=True)
class Paid:
    """What an audit found; every count in `faults` must be 0."""

    faults: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(KINDS, 0)))
    outcomes: Counter[str] = field(default_factory=Counter)
    unseen: int = 0  # noted as delivered within the death's microseconds, and nothing came
    examples: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Say whether no fault was found."""
        return not self.faults.total()

    def fault(self, kind: str, purchase: Purchase | str, why: str) -> None:
        """Count a fault and keep a few of them to look at."""
        self.faults[kind] += 1
        if len(self.examples) < SHOWN:
            self.examples.append(f"{kind}: {why}: {purchase}")

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        own = {"unseen": self.unseen, "examples": self.examples}
        return own | {"faults": dict(self.faults), "outcomes": dict(self.outcomes)}


@dataclass(frozen=True, slots=True)
class Books:
    """What the service says: payments by payer, rows by account, the request ids of its list."""

    payments: Mapping[str, Sequence[Payment]]
    rows: Mapping[str, Sequence[Row]]
    listed: Mapping[str, Mapping[str, Any]]

    @classmethod
    def of(
        cls, payments: Iterable[Payment], rows: Iterable[Row], listed: Iterable[Mapping[str, Any]]
    ) -> Books:
        """Sort what was read."""
        by_payer, by_account = defaultdict(list), defaultdict(list)
        for payment in payments:
            by_payer[payment.claim.payer].append(payment)
        for row in rows:
            by_account[row.account.rpartition(":")[2]].append(row)
        return cls(by_payer, by_account, {one["key"]: one for one in listed})


def audit(
    purchases: Sequence[Purchase],
    moved: Mapping[str, Sequence[Transfer]],
    refused: set[str],
    books: Books,
    differences: int,
) -> Paid:
    """Compare everything; `moved` and `refused` are the oracle's, by payer."""
    verdict = Paid()
    verdict.faults["unbalanced"] = differences
    for purchase in purchases:
        _audit_one(purchase, list(moved.get(purchase.payer, ())), refused, books, verdict)
    strangers = set(books.payments) - {purchase.payer for purchase in purchases}
    for stranger in strangers:
        verdict.fault("wrong list", stranger, "nobody here has this wallet")
    topups = sum(row.amount_nusd for rows in books.rows.values() for row in rows if row.kind == "topup")
    came = sum(transfer.amount for transfers in moved.values() for transfer in transfers) * UNIT_NUSD
    unsure = UNIT_NUSD * sum(
        transfer.amount
        for purchase in purchases
        if _is_unsure(books.payments.get(purchase.payer, ()))
        for transfer in moved.get(purchase.payer, ())
    )
    if topups + unsure != came:
        verdict.fault("sums", f"{topups} nano-USD of top-ups", f"{came} came, {unsure} of it nobody knows of")
    return verdict


def _audit_one(
    purchase: Purchase, moved: list[Transfer], refused: set[str], books: Books, verdict: Paid
) -> None:
    payments, rows = list(books.payments.get(purchase.payer, ())), books.rows.get(purchase.payer, ())
    payment = payments[0] if payments else None
    if purchase.served > 1:
        verdict.fault("served twice", purchase, f"{purchase.served} answers")
    if len(moved) > 1 or len(payments) > 1:
        verdict.fault("settled twice", purchase, f"{len(moved)} transfers, {len(payments)} payments")
    ends = Counter(row.request_id for row in rows if row.kind in ("settle", "release"))
    if any(ends[row.request_id] != 1 for row in rows if row.kind == "hold"):
        verdict.fault("open", purchase, "a hold has not one end")
    if not purchase.whole and (not purchase.tries or purchase.tries[-1].outcome not in ("refused", "left")):
        verdict.fault("no answer", purchase, "the last request was broken")
    if purchase.whole and moved and not purchase.receipts and payment is not None:
        # A settlement that nobody could be asked about in time comes after its stream.
        verdict.fault("no receipt", purchase, "a whole answer")
    verdict.outcomes[_outcome(purchase, payment, bool(moved), purchase.payer in refused)] += 1
    _audit_money(purchase, payment, moved, rows, verdict)
    _audit_list(purchase, payment, moved, refused, books, verdict)


def _audit_money(
    purchase: Purchase, payment: Payment | None, moved: list[Transfer], rows: Sequence[Row], verdict: Paid
) -> None:
    settles = [row for row in rows if row.kind == "settle"]
    topups = [row.amount_nusd for row in rows if row.kind == "topup"]
    charged = settles[0].amount_nusd if settles else 0
    if len(settles) > 1:
        verdict.fault("served twice", purchase, f"{len(settles)} charges")
    if settles and not purchase.served:
        verdict.unseen += 1
    if purchase.served and not settles:
        verdict.fault("lost", purchase, "served without a charge")
    if payment is not None and payment.state == "settled":
        amount = moved[0].amount if moved else 0
        if [amount * UNIT_NUSD] != topups or payment.taken != amount:
            verdict.fault("wrong amount", purchase, f"{amount} units moved, {payment.taken} taken, {topups}")
        by_use = purchase.scheme == "upto" and not purchase.first
        if by_use and settles and -(-charged // UNIT_NUSD) != amount:
            verdict.fault("wrong amount", purchase, f"{amount} units moved, {charged} nano-USD charged")
        if not by_use and amount * UNIT_NUSD != payment.amount_nusd:
            verdict.fault("wrong amount", purchase, f"{amount} units moved of {payment.amount_nusd} nano-USD")
    elif topups:
        verdict.fault("wrong amount", purchase, "a top-up without a settlement")
    for entry in purchase.tries:
        told = entry.told_nusd()
        if told is not None and entry.outcome == "whole" and settles and told != charged:
            verdict.fault("wrong amount", purchase, f"told {told} nano-USD, charged {charged}")


def _audit_list(
    purchase: Purchase,
    payment: Payment | None,
    moved: list[Transfer],
    refused: set[str],
    books: Books,
    verdict: Paid,
) -> None:
    """Compare the list with the oracle: what is delivered and not paid, what is paid and not delivered."""
    listed = books.listed.get(payment.claim.key) if payment is not None else None
    served = payment is not None and payment.served_nusd is not None
    if purchase.served and not served:
        verdict.fault("lost", purchase, "served, and the payment does not know")
    if _is_unsure([payment] if payment else []):
        if served != (listed is not None):
            verdict.fault("wrong list", purchase, f"of an open settlement: {listed}")
        return
    if moved and not served and (listed is None or not listed["unserved"]):
        verdict.fault("taken for nothing", purchase, f"{payment}")
    if not moved and served and (listed is None or not listed["unpaid"]):
        verdict.fault("lost", purchase, "served, not paid and not in the list")
    if not moved and served and purchase.payer not in refused:
        verdict.fault("unsettled", purchase, f"{payment}")
    if listed is not None and bool(moved) == served:
        verdict.fault("wrong list", purchase, f"it is in order, and in the list: {listed}")


def _is_unsure(payments: Sequence[Payment]) -> bool:
    """Say whether it is still asked what became of a settlement."""
    return any(payment.state in ("settling", "unknown") for payment in payments)


def _outcome(purchase: Purchase, payment: Payment | None, moved: bool, refused: bool) -> str:
    served = bool(purchase.served) or (payment is not None and payment.served_nusd is not None)
    state = payment.state if payment is not None else "no claim"
    if served:
        return "served and paid" if state == "settled" else f"served, {state}"
    if moved:
        return "paid and not served" if state == "settled" else f"paid and not served, {state}"
    return f"neither ({'refused' if refused else state})"
