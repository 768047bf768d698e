"""What is agreed about one payment, whichever protocol carries it, and who makes it come true.

A quote is an amount that we promise for one body until a moment. It is never stored: it goes to the client
with our own keyed hash (HMAC), comes back with the payment, and is believed because of that. So a reload of
the catalog, another worker or a restart between the two requests breaks no payer, and nobody can pay for a
small body and send a large one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

from msgspec import Struct

from router.ledger.payments import PaymentClaim, Protocols

HEADER_BYTES = 16 * 1024
"""The largest payment header that is read at all."""
QUOTE_S = 120
"""How long a quote holds at least; it ends on a multiple of this, so one body is quoted alike meanwhile."""

Headers = list[tuple[bytes, bytes]]


class Asset(Struct, frozen=True, gc=False):
    """A token that is taken, at one USD each: its EIP-712 domain and how finely it divides."""

    network: str
    address: str
    name: str
    version: str
    decimals: int

    def amount_up(self, nusd: int) -> int:
        """Return nano-USD as atomic units, rounded up."""
        return -(-nusd * int(10**self.decimals) // 10**9)

    def nusd_up(self, amount: int) -> int:
        """Return atomic units as nano-USD, rounded up."""
        return -(-amount * 10**9 // int(10**self.decimals))

    @property
    def chain_id(self) -> int:
        """Return the number of its chain."""
        return int(self.network.partition(":")[2])


class Quote(Struct, frozen=True, gc=False):
    """What one request costs at most.

    `nusd` is that amount; `body` is the SHA-256 of the request's body; `route` the SHA-256 of the headers
    that say how to route it; `catalog` the revision that it was priced by. It holds until `expires_at`
    (seconds since 1970).
    """

    nusd: int
    body: bytes
    route: bytes
    catalog: str
    expires_at: int


class Asked(Struct, frozen=True, gc=False):
    """What a request brings that payments look at. `now` is in seconds since 1970.

    `headers` holds the lower-case names that are read here: payment-signature, payment-authorization,
    x-payment. `authorization` is the header of that name. `body` and `route` are digests, as in `Quote`.
    `resource_url` is the address that was asked.
    """

    headers: Mapping[str, str]
    authorization: bytes | None
    body: bytes
    route: bytes
    resource_url: str
    now: float


class Credential(Struct, frozen=True, gc=False):
    """A payment that came with a request, checked as far as that needs nobody else.

    `quote` is what we had promised for this body. `claim` is what its row in the ledger will be. `when` says
    when it is settled: before the first byte of the answer or after the last; at once where the payer has
    moved the money already.
    """

    claim: PaymentClaim
    quote: Quote
    when: Literal["at once", "before", "after"]


class Settled(Struct, frozen=True, gc=False):
    """A transfer that happened: its transaction (empty where nothing had to move), and the amount."""

    transaction: str
    amount: int


class Refused(Exception):
    """A definite no to a payment: nothing moved. `reason` is one of our own words, never another's text.

    `fresh` says that the client may pay by a new offer; else it may not. `problem` is the problem type of MPP
    that says it best (`PaymentRequired.problem`).
    """

    def __init__(self, reason: str, *, fresh: bool = True, problem: str = "verification-failed") -> None:
        super().__init__(reason)
        self.reason = reason
        self.fresh = fresh
        self.problem = problem


class Unknown(Exception):
    """Nobody could say whether a payment went through: it may yet."""


class Away(Exception):
    """Who would have to be asked cannot be reached, and nothing was sent that could move money."""


class Settler(Protocol):
    """Ask about signatures, and have them settled; `claim.order` is its own note of what to send."""

    @property
    def available(self) -> bool:
        """False while a breaker rests it: no offer is made then."""
        ...

    async def start(self) -> None:
        """Learn what is supported. Raises Refused when our network or scheme is not, Away."""
        ...

    async def verify(self, claim: PaymentClaim) -> None:
        """Ask whether a signature is good. Raises Refused, Away."""
        ...

    async def settle(self, claim: PaymentClaim, amount: int) -> Settled:
        """Have so many atomic units moved; 0 moves nothing. Tries a pending one once more by itself.

        Raises Refused for a definite no, Unknown.
        """
        ...

    async def moved(self, claim: PaymentClaim) -> Settled | None:
        """Say whether the money moved, for one whose process died: None when it has not, and never will.

        Raises Unknown while it cannot be said.
        """
        ...

    async def aclose(self) -> None:
        """Close the connections."""
        ...


class Method(Protocol):
    """One protocol: its offers, its credentials, its receipts."""

    @property
    def protocol(self) -> Protocols:
        """Its name in claims."""
        ...

    def offers(self, quote: Quote, asked: Asked, why: str | None) -> Headers:
        """Return the headers of a 402; `why` is what was wrong with the payment that came, if one did."""
        ...

    def read(self, asked: Asked) -> Credential | None:
        """Return the credential that a request brings, None where it brings none of this protocol.

        Raises BadRequest for what is not well formed, Refused for what does not answer an offer of ours.
        """
        ...

    def takes(self, claim: PaymentClaim) -> bool:
        """Say whether a claim of an earlier start is on a network that is settled now."""
        ...

    def settler_of(self, claim: PaymentClaim) -> Settler:
        """Return who settles such a claim."""
        ...

    def receipt(
        self, claim: PaymentClaim, settled: Settled, request_id: str, now: float
    ) -> tuple[bytes, bytes]:
        """Return the header that tells the client of its settled payment."""
        ...

    def failure(self, claim: PaymentClaim, reason: str) -> Headers:
        """Return the headers that tell of a settlement that failed, where the protocol has any."""
        ...

    def settlers(self) -> Sequence[Settler]:
        """Return everybody who settles for this protocol."""
        ...
