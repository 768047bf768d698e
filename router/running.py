"""The catalog that serves: loaded from files, joined with what this machine offers, swapped whole."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path

from router.catalog.files import CatalogFaults, catalog_files, load_catalog, read_providers
from router.catalog.local import LocalServer
from router.catalog.snapshot import Model, Offer, Snapshot
from router.upstream.demo_catalog import demo_models
from router.upstream.discover import probe_local

SCAN_S = 1.0
PROBE_S = 15.0
_log = logging.getLogger("router.catalog")
_Scan = tuple[tuple[str, int, int], ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Sources:
    """Where a catalog comes from, and the world that decides which of its offers can be used."""

    directory: Path
    environ: Mapping[str, str]
    today: Callable[[], date]
    demo: bool = False
    demo_when_empty: bool = True


class RunningCatalog:
    """Hold the snapshot that serves; an edit replaces it whole, a broken edit changes nothing."""

    def __init__(self, sources: Sources, local: Mapping[str, LocalServer]) -> None:
        self._sources = sources
        self._local = dict(local)
        self._scan = _scan(sources.directory)
        self.current = load(sources, self._local)
        self.rejected: CatalogFaults | None = None

    async def watch(self) -> None:
        """Follow edits and local servers until cancelled; an edit is live within three seconds."""
        seen = self._scan
        since_probe_s = 0.0
        while True:
            await asyncio.sleep(SCAN_S)
            since_probe_s += SCAN_S
            scan = _scan(self._sources.directory)
            # Editors write in pieces: only a state that two scans agree on is read.
            if scan == seen and scan != self._scan:
                self._scan = scan
                self.reload()
            seen = scan
            if since_probe_s >= PROBE_S:
                since_probe_s = 0.0
                await self._probe()

    def reload(self) -> None:
        """Load the files aside and swap, or keep what serves and log every fault."""
        try:
            fresh = load(self._sources, self._local)
        except CatalogFaults as faults:
            self.rejected = faults
            _log.error("the catalog edit is rejected, revision %s stays: %s", self.current.revision, faults)
            return
        self.rejected = None
        if fresh != self.current:
            _log.info("catalog revision %s replaces %s", fresh.revision, self.current.revision)
            self.current = fresh

    async def _probe(self) -> None:
        found = await probe_local(self.current.providers.values())
        if found != self._local:
            _log.info("local model servers: %s", ", ".join(found) or "none")
            self._local = found
            self.reload()


def load(sources: Sources, local: Mapping[str, LocalServer]) -> Snapshot:
    """Load a catalog; without a single usable offer the demo provider joins it.

    Raises `CatalogFaults` with every fault of every file.
    """
    snapshot = load_catalog(sources.directory, environ=sources.environ, today=sources.today(), local=local)
    if sources.demo:
        return _with_demo(_switched_off(snapshot))
    if sources.demo_when_empty and not usable_offers(snapshot):
        return _with_demo(snapshot)
    return snapshot


async def probe(directory: Path) -> dict[str, LocalServer]:
    """Ask the local model servers that the catalog's providers name; takes a fifth of a second."""
    return await probe_local(read_providers(directory).values())


def usable_offers(snapshot: Snapshot) -> list[Offer]:
    """Return the offers that can be used now."""
    return [o for model in snapshot.models.values() for o in model.offers if o.unusable is None]


def is_demo(snapshot: Snapshot) -> bool:
    """Tell whether the demo provider answers."""
    return "demo" in snapshot.providers


def _with_demo(snapshot: Snapshot) -> Snapshot:
    provider, models = demo_models()
    return dataclasses.replace(
        snapshot,
        models={**snapshot.models, **{model.id: model for model in models}},
        providers={**snapshot.providers, provider.name: provider},
    )


def _switched_off(snapshot: Snapshot) -> Snapshot:
    def off(model: Model) -> Model:
        offers = (dataclasses.replace(o, unusable="start the router without --demo") for o in model.offers)
        return dataclasses.replace(model, offers=tuple(offers))

    return dataclasses.replace(snapshot, models={name: off(model) for name, model in snapshot.models.items()})


def _scan(directory: Path) -> _Scan:
    found = []
    for name, path in catalog_files(directory):
        try:
            stat = path.stat()
        except OSError:  # it went while we looked; the next scan sees the rest
            continue
        found.append((name, stat.st_mtime_ns, stat.st_size))
    return tuple(found)
