"""What is asked of the service as a whole, whichever of its workers is asked."""

from __future__ import annotations

import contextlib
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from router.access.keys import OPEN_ACCOUNT
from router.errors import Unavailable
from router.ledger.ledger import Ledger
from router.running import RunningCatalog, usable_offers
from router.telemetry.metrics import Gauge, Metrics, Numbers, added
from router.workers.link import Link

if TYPE_CHECKING:
    from router.shared.gate import SharedGate

_NUMBERS = msgspec.msgpack.Decoder(Numbers)
_encode = msgspec.msgpack.Encoder().encode


class Service:
    """Answer the probes, the metrics and the operator; `link` and `shared` are None where there is one."""

    def __init__(
        self,
        catalog: RunningCatalog,
        ledger: Ledger,
        metrics: Metrics,
        link: Link | None,
        shared: SharedGate | None,
    ) -> None:
        self._catalog = catalog
        self._ledger = ledger
        self._metrics = metrics
        self._link = link
        self._shared = shared
        if link is not None:
            link.deeds = {"numbers": self._numbers, "reload": self._reload}

    async def ready(self) -> dict[str, Any]:
        """Return what the readiness probe tells. Raises Unavailable when storage is away."""
        await self._ledger.account(OPEN_ACCOUNT)
        told: dict[str, Any] = {} if self._link is None else {"workers": self._link.running}
        if self._shared is not None:
            told["limits"] = "shared" if self._shared.shared else "local"
            told["replicas"] = self._shared.replicas
        return told

    async def exposition(self) -> bytes:
        """Return the metrics of all workers; of this one alone while the supervisor is gone."""
        return self._metrics.render(await self.numbers())

    async def numbers(self) -> Numbers:
        """Return the figures of all workers, added up."""
        # Ours are those that the supervisor is told: whoever waits among them has lined up there before.
        own = self._metrics.numbers()
        others: list[bytes] = []
        if self._link is not None:
            with contextlib.suppress(Unavailable):
                others = await self._link.gather(_encode(own))
        return added([own, *map(_NUMBERS.decode, others)])

    async def reload(self) -> None:
        """Have every worker read the catalog's files; returns when they have."""
        await self._catalog.reload()
        if self._link is not None:
            with contextlib.suppress(Unavailable):
                await self._link.reload_others()

    async def _numbers(self) -> bytes:
        return _encode(self._metrics.numbers())

    async def _reload(self) -> bytes:
        await self._catalog.reload()
        return b""


def gauges(
    link: Link | None, shared: SharedGate | None, catalog: RunningCatalog, now: datetime
) -> list[Gauge]:
    """Return the figures that are the service's and no sum over its workers, which share the files."""
    usable = usable_offers(catalog.current)
    found = [
        Gauge("router_catalog_age_seconds", max(0.0, (now - catalog.applied_at).total_seconds())),
        Gauge("router_catalog_rejected", catalog.rejected is not None),
        Gauge("router_catalog_offers", len(usable)),
    ]
    priced = [offer.price_as_of for offer in usable if offer.price_as_of is not None]
    if priced:
        days = max(0, (now.date() - min(priced)).days)
        found.append(Gauge("router_catalog_price_age_seconds", days * 86_400))
    if link is not None:
        found.append(Gauge("router_workers", link.running))
    if shared is not None:
        found.append(Gauge("router_limits_shared", shared.shared))
        found.append(Gauge("router_replicas", shared.replicas))
    return found
