"""What a wallet has signed for a request, and what became of it: one row a payment.

    claimed     written in the transaction of the hold, before anybody is asked about the signature
    settling    written before the facilitator or the chain is asked to move the money
    settled     the money came; written with the top-up of the payer's account, in one transaction
    failed      a definite no after the answer had been delivered: the payer owes it
    unknown     nobody could say, and the signature is void by now: for the operator to look at

A row that is `claimed` when its hold is released was good for nothing and goes away, so that the payer may
use the signature again; the same key or challenge a second time is refused while the row is there. What was
delivered without being paid for, and paid without being delivered, is read from here (`router ledger
payments`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from msgspec import Struct

Protocols = Literal["x402", "mpp"]
Scheme = Literal["exact", "upto", "evm/charge", "tempo/charge"]
State = Literal["claimed", "settling", "settled", "failed", "unknown"]

PAYER = "payer:"
"""How the account of a wallet begins: `payer:<network>:<address>`."""
WALLET = "wallet"
"""The source of credit that a wallet has bought; its external id is the key of the payment's claim."""


class PaymentClaim(Struct, frozen=True, gc=False):
    """Take a signature for one request; goes in with its hold (`HoldRequest.payment`).

    `key` is what can be spent once, `<kind>:<network>:<asset>:<payer>:<nonce>` in lower case: one key for one
    authorization, whichever protocol brings it. `challenge` is the MPP challenge's id, which serves once too.
    `amount` is the most that may be taken, in atomic units of the asset. `order` is what settling needs again
    after a crash, as JSON: no part of the request is in it. After `expires_at` (seconds since 1970) the
    signature is void. `exposure_nusd` bounds what the payer's open payments may come to in all, this one
    included, and with those that were served and never known of.
    """

    key: str
    challenge: str | None
    protocol: Protocols
    scheme: Scheme
    network: str
    asset: str
    payer: str
    pay_to: str
    amount: int
    expires_at: int
    order: bytes
    exposure_nusd: int | None = None


def account_of(claim: PaymentClaim) -> str:
    """Return the account of who signed."""
    return f"{PAYER}{claim.network}:{claim.payer}"


@dataclass(frozen=True, slots=True)
class Payment:
    """One payment as it stands.

    `running` says that its hold is open. `served_nusd` is the charge that its hold ended with, None while it
    runs and where nothing was delivered. `taken` is the amount that is or was asked of the payer in atomic
    units, None before `settling`. `forgiven_nusd` is what the operator wrote off, None where that never was.
    """

    claim: PaymentClaim
    request_id: str
    account: str
    amount_nusd: int
    state: State
    owner: str
    running: bool
    served_nusd: int | None
    metered_nusd: int | None
    taken: int | None
    taken_nusd: int | None
    transaction: str | None
    reason: str | None
    created_at: str
    updated_at: str
    forgiven_nusd: int | None = None

    @property
    def unpaid(self) -> bool:
        """Say whether something was delivered that has not been paid for."""
        owed = bool(self.served_nusd) and self.forgiven_nusd is None
        return owed and not self.running and self.state != "settled"

    @property
    def unserved(self) -> bool:
        """Say whether money came for which nothing was delivered."""
        return not self.running and self.state == "settled" and self.served_nusd is None


@dataclass(frozen=True, slots=True)
class Refusals:
    """How often a payer's settlement was refused when the answer had been made, and when it was last."""

    times: int
    last_at: str


class Payments(Protocol):
    """The payments of one database. Each method raises Unavailable; each change is durable as a hold is."""

    async def find(self, key: str) -> Payment | None:
        """Return the payment with a claim's key, None where there is none."""
        ...

    async def of_request(self, request_id: str) -> Payment | None:
        """Return the payment of one of our request ids, of whichever of its holds."""
        ...

    async def settling(self, key: str, taken: int, taken_nusd: int, *, now: str) -> bool:
        """Note that so much is about to be asked of the payer; False when the row is not `claimed`.

        After an Unavailable it may have been noted: `find` tells. Raises ValueError for more than was signed.
        """
        ...

    async def settled(self, key: str, transaction: str, *, now: str) -> bool:
        """Note that the money came, and credit the payer's account with `taken_nusd`: one transaction.

        The top-up is a row of the ledger whose source is `<protocol>` and whose external id is the claim's
        key. `transaction` is unique among settled payments, since one transfer pays for one request. False
        when the row was settled before, or the transaction has paid for another one (it is then as `failed`
        leaves it), or nothing was ever asked of the payer (no `settling`). A `failed` or `unknown` one whose
        money came after all is settled. Raises ValueError for an empty transaction where something was taken.
        """
        ...

    async def failed(self, key: str, reason: str, *, now: str) -> None:
        """Note a definite no: what was delivered for it is owed; where nothing was, the row goes away."""
        ...

    async def note_refusal(self, account: str, *, now: str, before: str) -> None:
        """Note that a payer's settlement was refused when its answer had been made.

        What was last noted `before` then is forgotten, of every payer.
        """
        ...

    async def refusals(self, account: str) -> Refusals | None:
        """Return what is noted of a payer's refused settlements."""
        ...

    async def unknown(self, key: str, reason: str, *, now: str) -> None:
        """Note that it could not be learnt before the signature became void; only what is open changes."""
        ...

    async def orphans(self) -> Sequence[Payment]:
        """Return what is `claimed` or `settling`, not running, and whose process is dead; oldest first."""
        ...

    async def adopt(self, key: str, before: str) -> bool:
        """Make this process the owner in place of `before`; False when another one was faster."""
        ...

    def all(self, *, open_only: bool = False) -> AsyncIterator[Payment]:
        """Yield payments, oldest first; `open_only` leaves out what was delivered and paid, or forgiven."""
        ...

    async def forgive(self, key: str, *, now: str) -> int:
        """Write off what a `failed` or `unknown` payment left owing; return the nano-USD.

        A row `adjust` credits the account, and the payer is not refused any more. Raises NotFound.
        """
        ...

    async def secret(self, name: str) -> bytes:
        """Return 32 random bytes that all processes of this database share under a name, made once."""
        ...
