"""`router keys`: make, list, top up and revoke API keys, while the service runs or before its first start."""

from __future__ import annotations

import time
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from router.access.described import described, state_of, usd_number
from router.access.keys import ApiKey, Keys, NewKey
from router.catalog.snapshot import Limits
from router.cli.ledger import with_storage
from router.cli.options import config_option, data_option, settings_of, table_console
from router.ledger.accounts import Account
from router.ledger.engines import has_storage
from router.ledger.ledger import Storage
from router.ledger.money import nusd_to_usd, usd_to_nusd
from router.ledger.rows import utc_text

if TYPE_CHECKING:
    from router.settings import Settings

T = TypeVar("T")


class Usd(click.ParamType[int]):
    """An amount in USD, as integer nano-USD."""

    name = "USD"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse the text; fail the command with the reason."""
        try:
            return usd_to_nusd(str(value))
        except ValueError as fault:
            self.fail(str(fault), param, ctx)


USD = Usd()
json_option = click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")


def _with_keys(settings: Settings, work: Callable[[Keys], Awaitable[T]], *, make: bool = False) -> T:
    """Do some work with the keys; only with `make` is a database made where none is."""

    async def run(storage: Storage) -> T:
        return await work(Keys(storage.keys, clock=time.time, monotonic=time.monotonic))

    return with_storage(settings, run, make=make)


@click.group()
def keys() -> None:
    """Make, list, top up and revoke API keys."""


@keys.command()
@click.option("--name", required=True, help="Who or what uses the key.")
@click.option("--credit", type=USD, help="Prepaid credit in USD; open access works without any.")
@click.option("--rpm", type=click.IntRange(1), help="Requests a minute.")
@click.option("--tpm", type=click.IntRange(1), help="Tokens a minute.")
@click.option("--concurrency", type=click.IntRange(1), help="Requests at once.")
@click.option("--budget-day", type=USD, help="USD a UTC day.")
@click.option("--budget-month", type=USD, help="USD a UTC month.")
@click.option(
    "--models", multiple=True, metavar="GLOB", help="Allowed models, such as 'deepseek/*'; may be repeated."
)
@click.option(
    "--expires",
    type=click.DateTime(["%Y-%m-%d"]),
    metavar="DATE",
    help="Last UTC day on which the key works.",
)
@json_option
@config_option
@data_option
def create(
    name: str,
    credit: int | None,
    rpm: int | None,
    tpm: int | None,
    concurrency: int | None,
    budget_day: int | None,
    budget_month: int | None,
    models: tuple[str, ...],
    expires: datetime | None,
    as_json: bool,
    config: Path | None,
    data: Path | None,
) -> None:
    """Make a key. It is shown once and kept nowhere."""
    new = NewKey(
        name=name,
        credit_nusd=credit,
        limits=Limits(concurrency=concurrency, rpm=rpm, tpm=tpm),
        budget_day_nusd=budget_day,
        budget_month_nusd=budget_month,
        models=models,
        last_day=expires.replace(tzinfo=UTC).date() if expires else None,
    )
    settings = settings_of(config, data=data)
    text, key = _with_keys(settings, lambda store: store.create(new), make=True)
    for glob in _matching_nothing(settings, models):
        click.echo(f"Note: {glob!r} matches no model of the catalog (`router catalog show`).", err=True)
    if as_json:
        _print_json({"id": key.id, "key": text, "name": key.name, "credit_usd": usd_number(credit)})
        return
    click.echo(f"Made {key.id} for {key.name}. Copy the key now, it is not shown again:\n")
    click.echo(f"{text}\n")
    click.echo("Send it as `Authorization: Bearer KEY`, or as the api_key of an OpenAI SDK.")


def _matching_nothing(settings: Settings, globs: tuple[str, ...]) -> list[str]:
    """Return the globs that match no model; nothing where the catalog cannot be read just now."""
    if not globs:
        return []
    from router.catalog.files import check_catalog, default_directory
    from router.routing.need import Need

    directory = settings.catalog or default_directory(Path.cwd())
    snapshot, _, _ = check_catalog(directory, environ={}, today=datetime.now(UTC).date())
    if snapshot is None:
        return []
    names = [
        name
        for model in snapshot.models.values()
        for offer in model.offers
        for name in Need.names(offer.model, offer.provider)
    ]
    return [glob for glob in globs if not any(fnmatchcase(name, glob) for name in names)]


@keys.command("list")
@json_option
@config_option
@data_option
def list_(as_json: bool, config: Path | None, data: Path | None) -> None:
    """List the keys with their credit, spending and limits."""
    settings = settings_of(config, data=data)
    if not has_storage(settings.data, settings.storage_url):  # as before the first start; a look makes none
        click.echo(f"No keys yet: there is no database in {settings.data}.", err=as_json)
        click.echo("[]" if as_json else "Make one: router keys create --name me --credit 5, or see --data.")
        return
    found = _with_keys(settings, lambda store: store.list())
    now = utc_text(time.time())
    if as_json:
        _print_json([described(key, account, now) for key, account in found])
        return
    if not found:
        click.echo("No keys yet. Make one: router keys create --name me --credit 5")
        return
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for title in ("id", "name", "key", "credit", "spent", "limits", "models", "state"):
        table.add_column(title, overflow="fold", no_wrap=title not in {"name", "models"})
    for key, account in found:
        cells = (
            key.id,
            key.name,
            key.hint,
            nusd_to_usd(account.balance_nusd) if key.prepaid else "-",
            nusd_to_usd(account.charged_nusd),
            _limits(key, account),
            "\n".join(key.models) or "all",
            state_of(key, now),
        )
        table.add_row(*(Text(cell) for cell in cells))
    table_console().print(table)
    click.echo('Credit and spent are USD; "-" needs no credit in open access.')


@keys.command()
@click.argument("key_id", metavar="ID")
@click.argument("usd", type=USD)
@click.option(
    "--id", "--reference", "reference", help="Your id for the payment; the same id again adds nothing."
)
@json_option
@config_option
@data_option
def topup(
    key_id: str, usd: int, reference: str | None, as_json: bool, config: Path | None, data: Path | None
) -> None:
    """Add credit to a key; it is prepaid from then on."""
    payment = reference or uuid.uuid4().hex
    added, balance = _with_keys(
        settings_of(config, data=data),
        lambda store: store.topup(key_id, usd, source="cli", external_id=payment),
    )
    if as_json:
        _print_json({"id": key_id, "added": added, "credit_usd": usd_number(balance)})
    elif added:
        click.echo(f"Added {nusd_to_usd(usd)} USD to {key_id}: {nusd_to_usd(balance)} USD.")
    else:
        click.echo(f"{reference} was booked before, nothing added to {key_id}: {nusd_to_usd(balance)} USD.")


@keys.command()
@click.argument("key_id", metavar="ID")
@json_option
@config_option
@data_option
def revoke(key_id: str, as_json: bool, config: Path | None, data: Path | None) -> None:
    """Stop a key for good; a running service refuses it within a second."""
    _with_keys(settings_of(config, data=data), lambda store: store.revoke(key_id))
    if as_json:
        _print_json({"id": key_id, "revoked": True})
    else:
        click.echo(f"Revoked {key_id}.")


def _limits(key: ApiKey, account: Account) -> str:
    named: tuple[tuple[str, int | str | None], ...] = (
        ("concurrency", key.limits.concurrency),
        ("rpm", key.limits.rpm),
        ("tpm", key.limits.tpm),
        ("USD/day", None if account.budget_day_nusd is None else nusd_to_usd(account.budget_day_nusd)),
        ("USD/month", None if account.budget_month_nusd is None else nusd_to_usd(account.budget_month_nusd)),
    )
    return "\n".join(f"{name} {value}" for name, value in named if value is not None) or "none"


def _print_json(value: Any) -> None:
    click.echo(msgspec.json.encode(value))
