"""What is asked of the service as a whole, whichever of its workers is asked."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import msgspec

from router.access.keys import OPEN_ACCOUNT
from router.errors import Unavailable
from router.ledger.ledger import Ledger
from router.running import RunningCatalog
from router.telemetry.metrics import Gauge, Metrics, Numbers
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
        others: list[bytes] = []
        if self._link is not None:
            with contextlib.suppress(Unavailable):
                others = await self._link.gather(await self._numbers())
        return self._metrics.render([_NUMBERS.decode(numbers) for numbers in others])

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


def gauges(link: Link | None, shared: SharedGate | None) -> list[Gauge]:
    """Return the figures of a service of several processes."""
    found = []
    if link is not None:
        found.append(Gauge("router_workers", "Worker processes that listen", link.running))
    if shared is not None:
        text = "1 while limits are shared through Redis, 0 while each replica goes by its part of them"
        found.append(Gauge("router_limits_shared", text, shared.shared))
        found.append(Gauge("router_replicas", "Processes that share limits", shared.replicas))
    return found
