"""Options that several commands share, and settings as the command line reads them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

    from router.running import Sources
    from router.settings import Settings

_PIPE_CELLS = 240

config_option = click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="Settings file; default router.toml here, if there is one.",
)
catalog_option = click.option(
    "--catalog", type=click.Path(path_type=Path), help="Folder of the catalog; default models_catalog/ here."
)
data_option = click.option(
    "--data", type=click.Path(path_type=Path), help="Folder of the database; default ./.router."
)


def settings_of(config: Path | None, **flags: Any) -> Settings:
    """Load the settings; a wrong one ends the command with its place, its name and the fix."""
    from router.settings import SettingsError, load_settings

    try:
        return load_settings(config, **flags)
    except SettingsError as fault:
        from router.doctor.configuration import placed

        asked = {name for name, value in flags.items() if value is not None}
        raise click.ClickException("\n".join(placed(fault, config, os.environ, asked))) from None


def catalog_directory(settings: Settings) -> Path:
    """Return the folder of the catalog; a missing one ends the command."""
    from router.catalog.files import default_directory

    directory = settings.catalog or default_directory(Path.cwd())
    if not directory.is_dir():
        raise click.ClickException(
            f"{directory} is not a folder: set ROUTER_CATALOG or --catalog to a catalog"
        )
    return directory


def sources_of(settings: Settings, *, any_key: bool = False) -> Sources:
    """Return where the catalog comes from; `any_key` takes each key and the wallet to be there."""
    from router.access.wallet import unpayable
    from router.catalog.files import read_providers
    from router.running import Sources

    directory = catalog_directory(settings)
    environ = dict(os.environ)
    if any_key:
        names = (provider.key_env for provider in read_providers(directory).values())
        environ = {**{name: "assumed" for name in names if name is not None}, **environ}
    return Sources(
        directory=directory,
        environ=environ,
        today=lambda: datetime.now(UTC).date(),
        demo=settings.demo,
        demo_when_empty=not settings.asks_for_key,
        unpayable=lambda: None if any_key else unpayable(settings, settings.data),
    )


def unpayable_in(directory: Path) -> str | None:
    """Say what keeps the wallet from paying, where a provider of a catalog needs it."""
    from router.access.wallet import unpayable
    from router.catalog.files import read_providers

    if not any(provider.pays in ("x402", "mpp") for provider in read_providers(directory).values()):
        return None
    settings = settings_of(None)
    return unpayable(settings, settings.data)


def table_console() -> Console:
    """Return standard output for tables: a pipe has no width, and no id in it may break for grep."""
    from rich.console import Console

    wide = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(highlight=False, width=_PIPE_CELLS if wide else None)


@contextmanager
def working(on: str) -> Iterator[None]:
    """Show on a terminal that something takes its time; elsewhere nothing."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    with console.status(f"{on} ..."):
        yield


@contextmanager
def faults_shown(directory: Path) -> Iterator[None]:
    """End the command with every fault of the catalog, each with its file and line."""
    from router.catalog.files import CatalogFaults

    try:
        yield
    except CatalogFaults as faults:
        lines = "\n".join(f"  {directory}/{fault}" for fault in faults.faults)
        count = f"{len(faults.faults)} fault{'s' if len(faults.faults) > 1 else ''}"
        raise click.ClickException(f"the catalog has {count}:\n{lines}") from None
