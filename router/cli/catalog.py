"""`router catalog`: check the operator's files, show what they say, print their JSON Schema."""

from __future__ import annotations

import difflib
import os
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import click

from router.catalog.policy import AUTO_NAMES
from router.cli.catalog_import import import_
from router.cli.options import table_console, unpayable_in

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console
    from rich.table import Table

    from router.catalog.files import Fault
    from router.catalog.snapshot import Model, Offer, Snapshot

_DIRECTORY = click.Path(file_okay=False, path_type=Path)


@click.group()
def catalog() -> None:
    """Check and show the catalog: models, offers, prices."""


catalog.add_command(import_)


@catalog.command()
@click.argument("directory", required=False, type=_DIRECTORY, envvar="ROUTER_CATALOG")
@click.option(
    "--against",
    type=_DIRECTORY,
    help="The catalog that runs, or an earlier state: warn of each price that moved more than fivefold.",
)
def check(directory: Path | None, against: Path | None) -> None:
    """Report every fault and warning of the catalog. Exit 1 on faults."""
    from router.catalog.files import check_catalog

    where = _directory(directory)
    if against is not None and not against.is_dir():
        raise click.BadParameter(f"{against} is not a folder", param_hint="--against")
    running = None if against is None else _load(against)
    snapshot, faults, warnings = check_catalog(
        where, environ=os.environ, today=_today(), running=running, unpayable=unpayable_in(where)
    )
    for fault in faults:
        click.echo(_located(where, fault))
    for warning in warnings:
        click.echo(f"{_located(where, warning)} (warning)")
    if snapshot is None:
        click.echo(_count(len(faults), "fault"), err=True)
        raise SystemExit(1)
    offers = sum(len(model.offers) for model in snapshot.models.values())
    models = _count(len(snapshot.models), "model")
    click.echo(f"{models}, {_count(offers, 'offer')}, revision {snapshot.revision}")


@catalog.command()
@click.argument("model", required=False)
@click.option("--catalog", "directory", type=_DIRECTORY, envvar="ROUTER_CATALOG", help="Where the files are.")
def show(model: str | None, directory: Path | None) -> None:
    """List the models, or show one MODEL with its offers.

    An offer that is off says why.
    """
    snapshot = _load(_directory(directory))
    console = table_console()
    if model is None:
        _show_models(console, snapshot)
    elif model in snapshot.models:
        _show_model(console, snapshot.models[model])
    else:
        if model in AUTO_NAMES:
            raise click.ClickException(f"{model} is no model: `router explain` shows where it goes")
        near = difflib.get_close_matches(model, snapshot.models, n=3, cutoff=0.0)
        raise click.ClickException(f'no model "{model}" in the catalog; nearest: {", ".join(near)}')


@catalog.command()
@click.argument("kind", type=click.Choice(["model", "provider", "policy"]), default="model")
def schema(kind: str) -> None:
    """Print the JSON Schema of the catalog's files, for editors."""
    from router.catalog.schema import schema_text

    click.echo(schema_text(kind), nl=False)


def _directory(given: Path | None) -> Path:
    from router.catalog.files import default_directory

    return given or default_directory(Path.cwd())


def _today() -> date:
    return datetime.now(UTC).date()


def _load(directory: Path) -> Snapshot:
    """Load the catalog with what the servers of this machine say; a faulty catalog ends the command."""
    import asyncio

    from router.catalog.files import CatalogFaults, load_catalog, read_providers
    from router.upstream.discover import probe_local

    local = asyncio.run(probe_local(read_providers(directory).values()))
    try:
        return load_catalog(
            directory,
            environ=os.environ,
            today=_today(),
            local=local,
            unpayable=unpayable_in(directory),
        )
    except CatalogFaults as error:
        raise click.ClickException("\n".join(_located(directory, fault) for fault in error.faults)) from None


def _located(directory: Path, fault: Fault) -> str:
    """Render a fault so that a terminal can open its file."""
    if fault.file == str(directory):
        return str(fault)
    return f"{directory / fault.file}{str(fault).removeprefix(fault.file)}"


def _show_models(console: Console, snapshot: Snapshot) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from router.catalog.snapshot import CATEGORIES

    table = Table(
        box=SIMPLE_HEAD,
        pad_edge=False,
        caption=f"USD per million tokens; quality 0-100; on: usable offers; revision {snapshot.revision}",
    )
    table.add_column("model", overflow="fold")
    for heading in ("input", "output", *(category[:6] for category in CATEGORIES), "on"):
        table.add_column(heading, justify="right", no_wrap=True)
    for model in sorted(snapshot.models.values(), key=lambda model: model.id):
        on = [offer for offer in model.offers if offer.unusable is None]
        cheapest = min(on or model.offers, key=lambda offer: offer.price.output, default=None)
        table.add_row(
            model.id,
            "" if cheapest is None else _usd(cheapest.price.input),
            "" if cheapest is None else _usd(cheapest.price.output),
            *(
                f"{model.quality[category]:.0f}" if category in model.quality else ""
                for category in CATEGORIES
            ),
            f"{len(on)}/{len(model.offers)}",
            style="" if on else "dim",
        )
    console.print(table)


def _show_model(console: Console, model: Model) -> None:
    console.print(f"{model.id}: {model.name}", highlight=False)
    for label, value in _facts(model):
        console.print(f"  {label:<11} {value}", highlight=False)
    console.print(_offer_table(model.offers))


def _facts(model: Model) -> list[tuple[str, str]]:
    facts = [
        ("context", f"{model.context:,} tokens, {model.max_output:,} of them output at most"),
        ("input", ", ".join(sorted(model.input))),
        ("features", ", ".join(sorted(model.features)) or "none"),
        ("quality", ", ".join(f"{c} {points:g}" for c, points in model.quality.items()) or "not rated"),
    ]
    if model.retires is not None:
        facts.append(("retires", str(model.retires)))
    return [*facts, ("file", model.file or "found on this machine")]


def _offer_table(offers: Iterable[Offer]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, caption="prices in USD per million tokens")
    table.add_column("provider", no_wrap=True)
    for heading in ("input", "output", "cache", "tok/s"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("state", overflow="fold", min_width=22)
    table.add_column("upstream model", overflow="fold")
    for offer in offers:
        price = offer.price
        table.add_row(
            offer.provider,
            *(_usd(pico) for pico in (price.input, price.output, price.cache_read)),
            f"{offer.tok_s:g}",
            offer.unusable or "on",
            f"{offer.upstream_model} ({_count(len(offer.when), 'rule')})"
            if offer.when
            else offer.upstream_model,
        )
    return table


def _usd(pico: int) -> str:
    """Render pico-USD per token as USD per million tokens, with at least two digits."""
    text = f"{Decimal(pico).scaleb(-6).normalize():f}"
    whole, _, digits = text.partition(".")
    return f"{whole}.{digits:0<2}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
