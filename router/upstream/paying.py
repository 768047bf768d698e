"""The seam to the wallet that pays upstreams: what one asks for, what was signed, and how the call then went.

A provider whose file says `pays = "x402"` or `"mpp"` answers 402 with its price; the payer signs or declines,
and the same call goes out once more with the signature. Exactly one signature is sent to a provider for one
request: whatever follows it (another 402, silence, a cut, 5xx) is final there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from router.catalog.snapshot import Provider

Headers = Sequence[tuple[bytes, bytes]]
Outcome = Literal["unsent", "answered", "unknown"]
"""`unsent`: it never left this process. `answered`: a 200 came. `unknown`: anything else."""


class Signed(Protocol):
    """One signature to send with a call."""

    @property
    def nusd(self) -> int:
        """What it is worth, in nano-USD."""
        ...

    @property
    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """The headers that carry it."""
        ...

    @property
    def replaces(self) -> frozenset[bytes]:
        """The names of our own headers that are left out beside it."""
        ...

    def ended(self, outcome: Outcome, headers: Headers) -> None:
        """Take note of how the call went; `headers` are those of its answer, with the receipt."""
        ...


class Payer(Protocol):
    """Pay for calls, within caps that hold over all processes of one database."""

    async def pay(
        self,
        provider: Provider,
        url: str,
        headers: Headers,
        body: bytes,
        *,
        estimate_nusd: int,
        request_id: str,
    ) -> Signed | None:
        """Set the amount of a 402 aside, durably, then sign; None where it does not pay (the log says why).

        `headers` are those of the 402 that came from `url`; `body` was sent and will be sent again;
        `estimate_nusd` is the most that the call can cost by the catalog.
        """
        ...


class Purse:
    """What one request has paid to whom; one payment a provider."""

    __slots__ = ("paid", "request_id")

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self.paid: dict[str, int] = {}

    @property
    def nusd(self) -> int:
        """Return all that it has paid, in nano-USD."""
        return sum(self.paid.values())
