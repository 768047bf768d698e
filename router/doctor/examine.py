"""Every check of `router doctor`, in the order in which its lines are read."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path

from router.catalog.files import default_directory
from router.doctor import configuration, machine, offers, service, storage
from router.doctor.finding import Finding
from router.doctor.payments import payments


def examine(
    config: Path | None,
    *,
    environ: Mapping[str, str],
    now: datetime,
    data: Path | None = None,
    catalog: Path | None = None,
    online: bool = False,
) -> Iterator[Finding]:
    """Yield what is found, as it is found; `online` opens a connection to each provider and sends nothing."""
    yield machine.python()
    yield machine.packages()
    settings, found = configuration.read(config, environ, data, catalog)
    yield from found
    directory = catalog or default_directory(Path.cwd())
    if settings is not None:
        directory = settings.catalog or directory
        yield from machine.tracing(settings)
        yield from configuration.access(settings)
        yield from configuration.kept_words(settings)
        yield from configuration.permissions(settings, config)
        yield from payments(settings)
    snapshot, found = offers.catalog(directory, environ, now.date())
    yield from found
    if snapshot is not None:
        empty_is_demo = settings is None or not settings.asks_for_key
        yield from offers.providers(snapshot, environ, demo_when_empty=empty_is_demo)
        if online:
            yield from asyncio.run(offers.reachable(snapshot))
    yield service.classifier()
    yield machine.clock(now)
    if settings is not None:
        yield storage.database(settings)
        yield from storage.shared(settings)
        yield machine.disk(settings)
        yield machine.open_files(settings)
        yield from service.address(settings)
