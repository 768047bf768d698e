"""`router ledger`: hand the books out, and check them."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from router.errors import RouterError
from router.ledger import books
from router.ledger.money import nusd_to_usd
from router.ledger.sqlite import FILE, Database

data_option = click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".router"),
    show_default=True,
    envvar="ROUTER_DATA",
    help="Folder of the service's data.",
)


@contextmanager
def database(data: Path) -> Iterator[Database]:
    """Open the database in `data`; what goes wrong inside ends the command with its message."""
    try:
        opened = Database(data / FILE)
        try:
            yield opened
        finally:
            opened.close()
    except (RouterError, ValueError) as fault:
        raise click.ClickException(str(fault)) from fault


def has_database(data: Path) -> bool:
    """Tell whether a database is in `data`; what keeps one from being looked for, its opening tells."""
    try:
        (data / FILE).stat()
    except FileNotFoundError:
        return False
    except OSError:
        pass
    return True


@contextmanager
def existing_database(data: Path) -> Iterator[Database]:
    """Open the database that is in `data`; where none is, none is made and the command ends."""
    if not has_database(data):
        raise click.ClickException(
            f"there is no database in {data}: name the service's folder with --data or ROUTER_DATA"
            " (`router serve` and `router keys create` make one)"
        )
    with database(data) as opened:
        yield opened


@click.group()
def ledger() -> None:
    """Export the ledger, or check that every balance follows from its rows."""


@ledger.command()
@data_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, amounts in nano-USD.")
def export(data: Path, as_json: bool) -> None:
    """Print every row, oldest first."""
    with existing_database(data) as opened:
        if as_json:
            encoder = msgspec.json.Encoder()
            for row in books.rows(opened):
                sys.stdout.buffer.write(encoder.encode(row) + b"\n")
            return
        table = Table(box=SIMPLE_HEAD)
        for title in ("when", "request", "account", "kind", "USD", "balance", "tokens", "model", "provider"):
            table.add_column(title, overflow="fold")
        for row in books.rows(opened):
            tokens = "" if row.prompt_tokens is None else f"{row.prompt_tokens}+{row.completion_tokens}"
            table.add_row(
                row.created_at,
                row.request_id,
                row.account,
                row.kind + (" (estimated)" if row.estimated else ""),
                nusd_to_usd(row.amount_nusd),
                nusd_to_usd(row.balance_after_nusd),
                tokens,
                row.model or "",
                row.provider or "",
            )
        Console().print(table)


@ledger.command()
@data_option
def check(data: Path) -> None:
    """Recompute every balance from the rows; exit 1 when one differs."""
    started_s = time.monotonic()
    with existing_database(data) as opened:
        differences = books.check(opened)
    for found in differences:
        click.echo(
            f"{found.account}: {found.column} is {nusd_to_usd(found.stored_nusd)} USD,"
            f" its rows make {nusd_to_usd(found.recomputed_nusd)} USD"
        )
    if differences:
        raise click.ClickException(
            f"{len(differences)} differences: the database was changed by something else than the router;"
            " stop the service and restore a backup"
        )
    click.echo(f"Every balance follows from the rows ({time.monotonic() - started_s:.2f} s).")
