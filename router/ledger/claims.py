"""The payments of a batch: which claims a hold may make, and what becomes of the rows when holds end.

An engine brings what is stored, and writes what the batch has come to in the transaction of the holds: what
is freed, what was served, what is claimed, in this order (no batch has a hold and its own end).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from msgspec import Struct

from router.errors import NotFound, PayerAtLimit, PaymentRefused, RouterError
from router.ledger.money import MAX_NUSD, nusd_to_usd
from router.ledger.payments import Payment, PaymentClaim, State
from router.ledger.rows import End, HoldRequest, Settlement

EXPOSURE_RETRY_S = 5
UNPAID = ("claimed", "failed")
"""The states in which nothing has moved for sure: where nothing was delivered either, the row goes."""

CLAIM = "key, challenge, protocol, scheme, network, asset, payer, pay_to, amount, expires_at, settle_order"
NEW = f"{CLAIM}, request_id, account, amount_nusd, owner, created_at"
_RUNNING = "EXISTS (SELECT 1 FROM open_holds WHERE open_holds.request_id = payments.request_id) AS running"
STORED = (
    f"{CLAIM}, request_id, account, amount_nusd, state, owner, {_RUNNING}, served_nusd, metered_nusd, taken,"
    " taken_nusd, transaction_id, reason, created_at, updated_at, forgiven_nusd"
)
"""The columns that `payment_of` reads."""

# Old requests are folded, and their rows with them (sqlite_rollup.py): then nobody can say what they were.
CHECK_PAYMENTS = """
WITH ends AS (SELECT request_id, kind, amount_nusd FROM ledger WHERE kind IN ('settle', 'release'))
SELECT key, account, 'it is settled, and the ledger has not its top-up'
FROM payments WHERE state = 'settled' AND taken_nusd > 0 AND NOT EXISTS (
    SELECT 1 FROM ledger WHERE kind = 'topup' AND source = protocol AND external_id = key
        AND ledger.account = payments.account AND ledger.amount_nusd = taken_nusd
)
UNION ALL
SELECT external_id, account, 'the ledger has a top-up of it, and it is not settled'
FROM ledger WHERE kind = 'topup' AND source IN ('x402', 'mpp') AND NOT EXISTS (
    SELECT 1 FROM payments WHERE key = external_id AND protocol = source AND state = 'settled'
)
UNION ALL
SELECT key, account, 'what was served is not what its hold was settled with'
FROM payments WHERE served_nusd IS NOT NULL
    AND request_id IN (SELECT request_id FROM ledger WHERE kind = 'hold') AND NOT EXISTS (
        SELECT 1 FROM ends WHERE ends.request_id = payments.request_id AND kind = 'settle'
            AND ends.amount_nusd = served_nusd
    )
UNION ALL
SELECT key, account, 'its hold was settled, and nothing was served'
FROM payments WHERE served_nusd IS NULL AND EXISTS (
    SELECT 1 FROM ends WHERE ends.request_id = payments.request_id AND kind = 'settle'
)
UNION ALL
SELECT key, account, 'it neither runs, nor was anything served or paid'
FROM payments WHERE (state = 'claimed' OR state = 'failed') AND served_nusd IS NULL
    AND request_id NOT IN (SELECT request_id FROM open_holds)
UNION ALL
SELECT key, account, 'what was forgiven is not in the ledger'
FROM payments WHERE forgiven_nusd > 0 AND NOT EXISTS (
    SELECT 1 FROM ledger WHERE ledger.request_id = payments.request_id AND kind = 'adjust'
        AND ledger.account = payments.account AND delta_nusd = forgiven_nusd
)
LIMIT 10
"""

Claimed = tuple[str | bytes | int | None, ...]


class Standing(Struct, frozen=True, gc=False):
    """A payment that is there already, as far as a new claim must know of it."""

    key: str
    request_id: str
    state: State
    running: bool
    transaction: str | None


class Payer(Struct, frozen=True, gc=False):
    """What an account owes for answers whose payment failed, and what it has open or is not known of."""

    owed_nusd: int
    open_nusd: int


class Known(Protocol):
    """What is stored, under the batch's lock."""

    def standing(self, claim: PaymentClaim) -> Sequence[Standing]:
        """Return the payments with a claim's key or challenge."""
        ...

    def payer(self, account: str) -> Payer:
        """Return what an account owes and has open."""
        ...


class Claims:
    """The payments of one batch."""

    def __init__(self, known: Known) -> None:
        self._known = known
        self._taken: dict[tuple[str, str], str] = {}
        self._free: set[str] = set()
        self._open_nusd: dict[str, int] = {}
        self.freed: list[tuple[str, str]] = []  # key, request id: where it is UNPAID, it goes
        self.served: list[tuple[int, int | None, str, str, str]] = []  # served, metered, now, key, request id
        self.claimed: list[Claimed] = []  # as NEW

    def refusal(self, hold: HoldRequest, claim: PaymentClaim) -> RouterError | None:
        """Return why a hold may not have its claim."""
        for name in _names(claim):
            if name in self._taken:
                first = Standing(claim.key, self._taken[name], "claimed", running=True, transaction=None)
                return _replayed(first if name[0] == "key" else None)
        for row in self._known.standing(claim):
            if row.state not in UNPAID or row.request_id not in self._free:
                return _replayed(row if row.key == claim.key else None)
        payer = self._known.payer(hold.account)
        if payer.owed_nusd:
            return _blocked(payer.owed_nusd)
        if claim.exposure_nusd is None:
            return None
        open_nusd = payer.open_nusd + self._open_nusd.get(hold.account, 0)
        if open_nusd + hold.amount_nusd <= claim.exposure_nusd:
            return None
        return _exposed(open_nusd, hold.amount_nusd, claim.exposure_nusd)

    def take(self, hold: HoldRequest, claim: PaymentClaim, owner: str, now: str) -> None:
        """Claim a payment for a hold."""
        for name in _names(claim):
            self._taken[name] = hold.request_id
        self._add_open(hold, hold.amount_nusd)
        self.claimed.append(
            (
                claim.key,
                claim.challenge,
                claim.protocol,
                claim.scheme,
                claim.network,
                claim.asset,
                claim.payer,
                claim.pay_to,
                str(claim.amount),
                min(claim.expires_at, MAX_NUSD),  # some sign for all eternity
                claim.order,
                hold.request_id,
                hold.account,
                hold.amount_nusd,
                owner,
                now,
            )
        )

    def leave(self, hold: HoldRequest, claim: PaymentClaim, end: End, charge_nusd: int, now: str) -> None:
        """Note what becomes of a payment whose hold ends with a charge."""
        if isinstance(end, Settlement):
            self.served.append((charge_nusd, end.metered_nusd, now, claim.key, hold.request_id))
        else:
            self._free.add(hold.request_id)
            self._add_open(hold, -hold.amount_nusd)
            self.freed.append((claim.key, hold.request_id))

    def _add_open(self, hold: HoldRequest, nusd: int) -> None:
        self._open_nusd[hold.account] = self._open_nusd.get(hold.account, 0) + nusd


def claim_of(values: Sequence[Any]) -> PaymentClaim | None:
    """Return the claim of a row's CLAIM columns, None where they are those of no row."""
    if values[0] is None:
        return None
    *before, amount, expires_at, order = values
    return PaymentClaim(*(*before, int(amount), expires_at, order))


def payment_of(values: Sequence[Any]) -> Payment:
    """Return the payment of a row's STORED columns."""
    claim = claim_of(values[:11])
    if claim is None:
        raise ValueError("a payment has a key")
    request_id, account, amount_nusd, state, owner, running, served, metered, taken, *rest = values[11:]
    return Payment(
        claim,
        request_id,
        account,
        amount_nusd,
        state,
        owner,
        bool(running),
        served,
        metered,
        None if taken is None else int(taken),
        *rest,
    )


def check_taken(claim: PaymentClaim, taken: int, taken_nusd: int) -> None:
    """Raise ValueError for what may not be asked of a payer."""
    if not 0 <= taken <= claim.amount or (taken == 0) != (taken_nusd == 0) or taken_nusd < 0:
        raise ValueError(
            f"{taken} units ({taken_nusd} nano-USD) may not be taken where {claim.amount} were signed"
        )


def check_transaction(payment: Payment, transaction: str) -> None:
    """Raise ValueError for a transfer without a name."""
    if not transaction and payment.taken:
        raise ValueError(f"the {payment.taken} units of {payment.claim.key} came without a transaction")


def owed_of(payment: Payment | None, key: str) -> int:
    """Return what a payment leaves to be forgiven, in nano-USD. Raises NotFound where there is none."""
    if payment is None:
        raise NotFound(f"no payment has the key {key!r}; `router ledger payments --all` shows them")
    if payment.state not in ("failed", "unknown") or payment.running or payment.forgiven_nusd is not None:
        how = "forgiven already" if payment.forgiven_nusd is not None else payment.state
        raise NotFound(f"the payment of {payment.request_id} is {how}: there is nothing to forgive")
    return payment.served_nusd or 0


def _names(claim: PaymentClaim) -> list[tuple[str, str]]:
    names = [("key", claim.key)]
    if claim.challenge is not None:
        names.append(("challenge", claim.challenge))
    return names


def _replayed(first: Standing | None) -> PaymentRefused:
    """Return the 403 for what was used before; None: by another payer, of whom nothing is told.

    Who knows a request's id may read its receipt, and what was settled is for all the world to see: so the
    id is told only to who brings what has never been published.
    """
    if first is None:
        message = "This challenge was answered before by another payment, and serves once."
    elif first.running:
        message = f"This payment was used before: the first request with it, {first.request_id}, still runs."
    elif first.transaction:
        message = f"This payment was used before: it was settled by the transaction {first.transaction}."
    else:
        message = f"This payment was used before, by the request {first.request_id}."
    return PaymentRefused(f"{message} Sign a new one for a new request.")


def _blocked(owed_nusd: int) -> PaymentRefused:
    return PaymentRefused(
        f"This wallet owes {nusd_to_usd(owed_nusd)} USD for answers whose payment failed after they were"
        " given. The operator of this router sees them with `router ledger payments` and can write them off"
        " with `router ledger forgive`.",
        name="payer_blocked",
    )


def _exposed(open_nusd: int, amount_nusd: int, most_nusd: int) -> PayerAtLimit:
    return PayerAtLimit(
        f"This wallet has {nusd_to_usd(open_nusd)} USD of payments on their way and this request may cost up"
        f" to {nusd_to_usd(amount_nusd)} USD more, where {nusd_to_usd(most_nusd)} USD may be open at once."
        " Wait until earlier requests are settled, or lower max_tokens.",
        retry_after_s=EXPOSURE_RETRY_S,
    )
