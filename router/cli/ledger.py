"""`router ledger`: export the books, check them, fold old requests."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click
import msgspec
from rich.box import SIMPLE_HEAD
from rich.table import Table

from router.cli.options import config_option, data_option, settings_of, table_console, working
from router.errors import RouterError
from router.ledger.engines import has_storage, open_storage
from router.ledger.ledger import Storage
from router.ledger.money import nusd_to_usd
from router.ledger.rows import Difference, Rolled, Row

if TYPE_CHECKING:
    from router.settings import Settings

T = TypeVar("T")


def with_storage(settings: Settings, work: Callable[[Storage], Awaitable[T]], *, make: bool = False) -> T:
    """Do some work with the database; what goes wrong in it ends the command with its message.

    Only with `make` is a database made in a folder that has none.
    """
    if not make and not has_storage(settings.data, settings.storage_url):
        raise click.ClickException(
            f"there is no database in {settings.data}: name the service's folder with --data or ROUTER_DATA"
            " (`router serve` and `router keys create` make one)"
        )

    async def run() -> T:
        storage = await open_storage(settings.data, settings.storage_url)
        try:
            return await work(storage)
        finally:
            await storage.close()

    try:
        return asyncio.run(run())
    except (RouterError, ValueError) as fault:
        raise click.ClickException(str(fault)) from fault


@click.group()
def ledger() -> None:
    """Export, check and compact the books, payments included."""


@ledger.command()
@config_option
@data_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, amounts in nano-USD.")
def export(config: Path | None, data: Path | None, as_json: bool) -> None:
    """Print every hold, settle, release and top-up, oldest first."""
    show = _write_json if as_json else _print_table
    with_storage(settings_of(config, data=data), show)


@ledger.command()
@config_option
@data_option
def check(config: Path | None, data: Path | None) -> None:
    """Recompute every balance from the rows.

    Reads the whole database, and checks wallet payments against the rows too; exit 1 when anything is wrong.
    """
    started_s = time.monotonic()

    async def look(storage: Storage) -> tuple[list[Difference], list[str]]:
        return await storage.books.check(), await storage.books.faults()

    with working("reading every row"):
        differences, faults = with_storage(settings_of(config, data=data), look)
    for found in differences:
        click.echo(
            f"{found.account}: {found.column} is {nusd_to_usd(found.stored_nusd)} USD,"
            f" its rows make {nusd_to_usd(found.recomputed_nusd)} USD"
        )
    for fault in faults:
        click.echo(fault)
    if differences or faults:
        raise click.ClickException(
            f"{len(differences) + len(faults)} differences: something other than the router has changed the"
            " database; stop the service and restore a backup"
        )
    click.echo(f"Every balance follows from the rows ({time.monotonic() - started_s:.2f} s).")


@ledger.command()
@click.option(
    "--before",
    required=True,
    type=click.DateTime(["%Y-%m-%d"]),
    metavar="DATE",
    help="Fold the requests that ended before this UTC day; today at the latest.",
)
@config_option
@data_option
def rollup(before: datetime, config: Path | None, data: Path | None) -> None:
    """Fold old requests into daily sums.

    One row for each day, account and model replaces them; top-ups, wallet payments and every sum stay.
    What a single folded request cost is lost, and its receipt with it: export the rows first to keep them.
    """
    if before.date() > datetime.now(UTC).date():
        raise click.ClickException("the day has not ended: --before takes today (UTC) or an earlier day")
    day = f"{before:%Y-%m-%d}"

    async def fold(storage: Storage) -> Rolled:
        if await storage.books.check():
            raise ValueError("the books differ already; `router ledger check` says where")
        return await storage.books.roll_up(day)

    with working(f"folding what ended before {day}"):
        rolled = with_storage(settings_of(config, data=data), fold)
    click.echo(f"Folded {rolled.folded} rows from before {day} into {rolled.made}.")


async def _write_json(storage: Storage) -> None:
    encoder = msgspec.json.Encoder()
    async for row in storage.books.rows():
        sys.stdout.buffer.write(encoder.encode(row) + b"\n")


async def _print_table(storage: Storage) -> None:
    table = Table(box=SIMPLE_HEAD)
    for title in ("when", "request", "account", "kind", "USD", "balance", "tokens", "model", "provider"):
        table.add_column(title, overflow="fold")
    async for row in storage.books.rows():
        table.add_row(*_cells(row))
    table_console().print(table)


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.created_at,
        row.request_id,
        row.account,
        row.kind + (" (estimated)" if row.estimated else ""),
        nusd_to_usd(row.amount_nusd),
        nusd_to_usd(row.balance_after_nusd),
        "" if row.prompt_tokens is None else f"{row.prompt_tokens}+{row.completion_tokens}",
        row.model or "",
        row.provider or "",
    )
