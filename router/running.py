"""The catalog that serves: loaded from files, joined with what this machine offers, swapped whole."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from pathlib import Path

from router.catalog.files import CatalogFaults, Fault, catalog_files, load_catalog, read_providers
from router.catalog.local import LocalServer
from router.catalog.snapshot import Model, Offer, Snapshot
from router.catalog.texts import TooMany
from router.upstream.demo_catalog import demo_models
from router.upstream.discover import probe_local

SCAN_S = 1.0
SETTLE_S = 0.5
# Files that never stand still are read all the same: an edit is live, or shown as rejected, within 5 s.
RESTLESS_S = 3.0
PROBE_S = 15.0
OTHER_FILES, OTHER_BYTES = 2_000, 2 * 2**20  # read within two seconds, and no catalog is larger
_log = logging.getLogger("router.catalog")
_Scan = tuple[tuple[str, int, int, int, int], ...]


def _nothing() -> None:
    return None


@dataclasses.dataclass(frozen=True, slots=True)
class Sources:
    """Where a catalog comes from, and the world that decides which of its offers can be used.

    `unpayable` says what keeps the wallet from paying at the moment, None where nothing does.
    """

    directory: Path
    environ: Mapping[str, str]
    today: Callable[[], date]
    demo: bool = False
    demo_when_empty: bool = True
    unpayable: Callable[[], str | None] = _nothing


@dataclasses.dataclass(frozen=True, slots=True)
class Rejected:
    """Say what is wrong with the files as they are, and since when."""

    at: datetime
    faults: tuple[Fault, ...]


class RunningCatalog:
    """Hold the snapshot that serves; an edit replaces it whole, a broken edit changes nothing.

    `applied_at` is when the revision began to serve; `rejected` is None while the files are sound. They are
    read in a worker thread, one reading at a time, and never written.
    """

    def __init__(
        self,
        sources: Sources,
        local: Mapping[str, LocalServer],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._sources = sources
        self._local = dict(local)
        self._now = now
        self._reading = asyncio.Lock()
        self._asked = False
        self._day = sources.today()
        self._reading_other = asyncio.Lock()
        self._other: tuple[object, Snapshot | CatalogFaults] | None = None
        self._taken = _scan(sources.directory)
        self.current = load(sources, self._local)
        self.applied_at = now()
        self.rejected: Rejected | None = None

    async def watch(self) -> None:
        """Follow edits, local servers and the date until cancelled; an edit is live within two seconds."""
        watched = _Watched(self._taken)
        while True:
            await asyncio.sleep(SETTLE_S if watched.restless_s else SCAN_S)
            try:
                await self._look(watched)
            except Exception:  # noqa: BLE001 - answers for a background task, which must not end
                _log.exception("the catalog could not be followed; revision %s stays", self.current.revision)

    async def reload(self) -> None:
        """Read the files now and swap, or keep what serves and log every fault.

        The watch reads an edit once more when it has settled: a write within the clock's grain of this
        reading would not show.
        """
        async with self._reading:
            try:
                fresh = await asyncio.to_thread(load, self._sources, self._local, self.current)
            except CatalogFaults as faults:
                self._reject(faults.faults)
            else:
                self._apply(fresh)

    @property
    def directory(self) -> Path:
        """Return the folder of the files."""
        return self._sources.directory

    async def other(self, directory: Path) -> Snapshot:
        """Return the catalog of another folder as it would serve here; nothing that serves changes.

        The last one is kept until a file of it changes, and one is read at a time: the folder is any that
        somebody names, so it is bounded (`OTHER_FILES`, `OTHER_BYTES`) and no link leads out of it. Raises
        `CatalogFaults` with every fault.
        """
        async with self._reading_other:
            found = await asyncio.to_thread(self._load_other, directory)
        if isinstance(found, CatalogFaults):
            raise found
        return found

    def _load_other(self, directory: Path) -> Snapshot | CatalogFaults:
        sources = dataclasses.replace(self._sources, directory=directory)
        try:
            scan = _scan(directory, OTHER_FILES)
        except TooMany:
            return _refused(directory, f"it holds more than {OTHER_FILES:,} files and folders")
        seen = (directory, scan, sources.today(), self._local)
        kept = self._other
        if kept is not None and kept[0] == seen:
            return kept[1]
        found: Snapshot | CatalogFaults | None = _unfit(directory, scan)
        if found is None:
            try:
                found = load(sources, self._local)
            except CatalogFaults as faults:
                found = faults
        self._other = (seen, found)
        return found

    def ask_reload(self) -> None:
        """Have the watch read the files within a second; for signal handlers and other threads."""
        self._asked = True

    async def _look(self, watched: _Watched) -> None:
        watched.since_probe_s += SETTLE_S if watched.restless_s else SCAN_S
        scan = await asyncio.to_thread(_scan, self._sources.directory)
        # Editors write in pieces: only a state that two scans agree on is read.
        settled = scan == watched.seen
        watched.restless_s = 0.0 if settled else watched.restless_s + SETTLE_S
        watched.seen = scan
        edited = scan != self._taken and (settled or watched.restless_s >= RESTLESS_S)
        day, asked = self._sources.today(), self._asked
        if edited or asked or day != self._day:
            self._day, self._asked = day, False
            if settled:
                self._taken = scan
            watched.restless_s = 0.0
            if asked:
                _log.info("the catalog's files are read again, as asked")
            await self.reload()
        if watched.since_probe_s >= PROBE_S:
            watched.since_probe_s = 0.0
            await self._probe()

    def _apply(self, fresh: Snapshot) -> None:
        if self.rejected is not None:
            _log.info("the catalog's files are sound again")
            self.rejected = None
        if fresh.revision != self.current.revision:
            _log.info("catalog revision %s replaces %s", fresh.revision, self.current.revision)
            self.applied_at = self._now()
        if fresh != self.current:  # the same files in another world: a local server, a new day
            self.current = fresh

    def _reject(self, faults: tuple[Fault, ...]) -> None:
        if self.rejected is not None and self.rejected.faults == faults:
            return
        _log.error("the catalog edit is rejected, revision %s stays", self.current.revision)
        for fault in faults:  # a line each: the log escapes a line end, so that nobody forges lines
            _log.error("rejected: %s", fault)
        self.rejected = Rejected(self._now(), faults)

    async def _probe(self) -> None:
        found = await probe_local(self.current.providers.values())
        # A file that could not be read for a moment looks the same when it can, so faults are read again.
        if found == self._local and self.rejected is None:
            return
        if found != self._local:
            _log.info("local model servers: %s", ", ".join(found) or "none")
            self._local = found
        await self.reload()


@dataclasses.dataclass(slots=True)
class _Watched:
    """Remember between two looks: the last scan, and for how long no two scans have agreed."""

    seen: _Scan
    restless_s: float = 0.0
    since_probe_s: float = 0.0


def load(sources: Sources, local: Mapping[str, LocalServer], running: Snapshot | None = None) -> Snapshot:
    """Load a catalog; without a single usable offer the demo provider joins it.

    `running` is what serves now, against which moved prices are noticed. Raises `CatalogFaults` with every
    fault of every file.
    """
    snapshot = load_catalog(
        sources.directory,
        environ=sources.environ,
        today=sources.today(),
        local=local,
        running=running,
        unpayable=sources.unpayable(),
    )
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


def buys(snapshot: Snapshot) -> bool:
    """Tell whether the wallet may have to pay: whether an offer that can be used needs it."""
    return any(snapshot.providers[o.provider].pays in ("x402", "mpp") for o in usable_offers(snapshot))


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


def _unfit(directory: Path, scan: _Scan) -> CatalogFaults | None:
    """Say what keeps a folder that somebody names from being read."""
    read = [(name, size) for name, _, _, size, _ in scan if name.endswith(".toml")]
    size_bytes = sum(size for _, size in read)
    if size_bytes > OTHER_BYTES:
        return _refused(directory, f"its files have {size_bytes:,} bytes, more than {OTHER_BYTES:,}")
    for name, _ in read:  # what a link names could be anybody's file, and faults tell of what is in a file
        if not (directory / name).resolve().is_relative_to(directory):
            return _refused(directory, f"{name} is a link, or below one, that leads out of the folder")
    return None


def _refused(directory: Path, why: str) -> CatalogFaults:
    fix = f"`router explain --catalog {directory}` takes any catalog"
    return CatalogFaults([Fault(str(directory), 1, "", f"not read: {why}; {fix}")])


def _scan(directory: Path, most: int | None = None) -> _Scan:
    """Describe the files so that any write, rename or change of rights shows. Raises `TooMany`."""
    found = []
    for name, path in catalog_files(directory, most=most):
        try:
            stat = path.stat()
        except OSError:  # a link to nothing, or it went while we looked
            found.append((name, 0, 0, 0, 0))
            continue
        found.append((name, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino))
    return tuple(found)
