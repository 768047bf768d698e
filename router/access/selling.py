"""Sell requests to wallets: the protocols that are switched on, side by side."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence

from router.access.terms import QUOTE_S, Asked, Credential, Headers, Method, Quote, Settler
from router.errors import BadRequest
from router.ledger.payments import PaymentClaim, Protocols

# These change what is decided for the same body, and so what it costs.
_ROUTING = ("x-llm-router-mode", "x-llm-router-max-cost-usd")


class Seller:
    """Make offers and read payments, from `start` on.

    `started` says that everybody who settles has been asked what they support. `unit_nusd` is the coarsest
    unit of the assets that are taken, `floor_nusd` the least that is asked for a request.
    """

    def __init__(self, *, unit_nusd: int, floor_nusd: int) -> None:
        self._methods: dict[Protocols, Method] = {}
        self.unit_nusd = unit_nusd
        self.started = False
        self._floor_nusd = floor_nusd

    @property
    def available(self) -> bool:
        """Say whether any protocol can be used now."""
        return any(settler.available for method in self._methods.values() for settler in method.settlers())

    def sell_by(self, methods: Sequence[Method]) -> None:
        """Sell by these protocols, each once its settlers have been started."""
        self._methods = {method.protocol: method for method in methods}

    async def start(self) -> None:
        """Learn what the facilitator and the chains support.

        Raises Refused where one lacks what we offer, Away where one cannot be asked now.
        """
        await asyncio.gather(*(settler.start() for settler in self._settlers()))
        self.started = True

    def read(self, asked: Asked) -> Credential | None:
        """Return the payment that came with a request, None without one. Raises BadRequest and Refused."""
        found = [credential for method in self._methods.values() if (credential := method.read(asked))]
        if len(found) > 1:
            raise BadRequest("Two payments came with one request; send one of them.", name="two_payments")
        return found[0] if found else None

    def quote(self, max_nusd: int, asked: Asked, catalog: str) -> Quote:
        """Promise a price for a body: the worst case, in whole units of every asset."""
        units = -(-max(max_nusd, self._floor_nusd, 1) // self.unit_nusd)
        expires_at = (int(asked.now) // QUOTE_S + 2) * QUOTE_S
        return Quote(units * self.unit_nusd, asked.body, asked.route, catalog, expires_at)

    def offers(self, quote: Quote, asked: Asked, why: str | None = None) -> Headers:
        """Return the headers of a 402: how each protocol can pay; `why` is what was wrong with a payment."""
        return [
            header
            for method in self._methods.values()
            if any(settler.available for settler in method.settlers())
            for header in method.offers(quote, asked, why)
        ]

    def sells(self, claim: PaymentClaim) -> bool:
        """Say whether the protocol of a claim is switched on, on its network.

        Who settles another network would say that such a signature is none, and that is no word on its money.
        """
        method = self._methods.get(claim.protocol)
        return method is not None and method.takes(claim)

    def method_of(self, claim: PaymentClaim) -> Method:
        """Return the protocol of a claim. Raises KeyError where it is switched off by now."""
        return self._methods[claim.protocol]

    async def aclose(self) -> None:
        """Close the connections to facilitator and chains."""
        await asyncio.gather(*(settler.aclose() for settler in self._settlers()))

    def _settlers(self) -> list[Settler]:
        settlers = [settler for method in self._methods.values() for settler in method.settlers()]
        return list({id(settler): settler for settler in settlers}.values())


def route_of(headers: Mapping[str, str], path: str) -> bytes:
    """Return the SHA-256 of what a body is for, and of the headers that say how to route it."""
    purpose = path.removeprefix("/v1")
    parts = [purpose, *(headers.get(name, "") for name in _ROUTING)]
    return hashlib.sha256("\n".join(parts).encode()).digest()
