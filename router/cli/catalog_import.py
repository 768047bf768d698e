"""`router catalog import`: draft model files from public price lists."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from router.catalog.drafts import Drafts
    from router.catalog.pricelists import PriceList, Skipped


@click.command("import")
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option(
    "--from",
    "where",
    default="litellm",
    show_default=True,
    metavar="litellm|genai-prices|FILE",
    help="The list: an installed package, or its JSON file.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write models/MAKER/MODEL.toml below this folder; without it the drafts are printed.",
)
@click.option(
    "--as-of",
    type=click.DateTime(["%Y-%m-%d"]),
    help="The day the list's prices are from; default: the date of its file.",
)
@click.option(
    "--catalog",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="ROUTER_CATALOG",
    help="Draft only offers of the providers in this catalog.",
)
def import_(
    models: tuple[str, ...], where: str, out: Path | None, as_of: datetime | None, directory: Path | None
) -> None:
    """Draft model files from a public price list.

    It is litellm's price map, or that of genai-prices; no file is ever overwritten.

    MODEL is a catalog id, an id of the list, or a glob of either, such as 'groq/*'; without one everything
    at a provider of the catalog is drafted. Exit 1 when a draft was not written because its file exists.
    """
    from router.catalog.drafts import draft_toml, group
    from router.catalog.files import default_directory
    from router.catalog.pricelists import UnreadableList, read_price_list

    try:
        prices = read_price_list(where, None if as_of is None else as_of.date())
    except UnreadableList as fault:
        raise click.ClickException(str(fault)) from None
    providers, known = _catalog(directory or default_directory(Path.cwd()))
    drafts, without_provider = group(prices.listings, providers, known)
    skipped = [*prices.skipped, *without_provider]
    wanted = _wanted(models, drafts)
    _say_skipped(models, skipped)
    if not wanted:
        raise click.ClickException(_nothing(models, drafts, prices))
    texts = {model: draft_toml(model, wanted[model], prices) for model in sorted(wanted)}
    if out is None:
        click.echo("\n".join(f"# --- models/{model}.toml\n{text}" for model, text in texts.items()), nl=False)
    elif not _write(out, texts):
        raise SystemExit(1)


def _catalog(directory: Path) -> tuple[frozenset[str], Mapping[tuple[str, str], str]]:
    """Return the names of the catalog's providers, and the model of each of its offers, faulty or not."""
    from router.catalog.files import check_catalog, read_providers

    today: date = datetime.now(UTC).date()
    snapshot, _, _ = check_catalog(directory, environ=os.environ, today=today)
    models = () if snapshot is None else snapshot.models.values()
    return frozenset(read_providers(directory)), {o.key: model.id for model in models for o in model.offers}


def _wanted(models: tuple[str, ...], drafts: Drafts) -> Drafts:
    """Return the drafts that a name asks for; an id of the list asks for that offer alone."""
    if not models:
        return drafts
    wanted: Drafts = {}
    for model, listings in drafts.items():
        chosen = listings if _named(model, models) else [x for x in listings if _named(x.key, models)]
        if chosen:
            wanted[model] = chosen
    return wanted


def _named(name: str, models: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, wanted) for wanted in models)


def _say_skipped(models: tuple[str, ...], skipped: Iterable[Skipped]) -> None:
    """Name what was skipped of what was asked for, else count the reasons."""
    if models:
        for entry in skipped:
            if _named(entry.key, models):
                click.echo(f"skipped {entry.key}: {entry.reason}", err=True)
        return
    for reason, number in Counter(entry.reason for entry in skipped).most_common():
        click.echo(f"skipped {number}: {reason}", err=True)


def _nothing(models: tuple[str, ...], drafts: Drafts, prices: PriceList) -> str:
    from router.catalog.faults import did_you_mean

    if not models:
        return f"{prices.source} has no model at a provider of the catalog; --catalog names another one"
    names = [*drafts, *(listing.key for listings in drafts.values() for listing in listings)]
    hint = did_you_mean(models[0], names) if len(models) == 1 else ""
    return f"{prices.source} has nothing to draft for {', '.join(models)}{hint}"


def _write(out: Path, texts: Mapping[str, str]) -> bool:
    """Write each draft to a file of its own; returns False when a file was there already."""
    all_new = True
    for model, text in texts.items():
        file = out / "models" / f"{model}.toml"
        try:
            new = _create(file, text)
        except OSError as error:
            raise click.ClickException(f"{file} cannot be written: {error.strerror}") from None
        all_new = all_new and new
        click.echo(f"wrote {file}" if new else f"{file} exists and is left as it is", err=not new)
    return all_new


def _create(file: Path, text: str) -> bool:
    """Write a file that is not there; returns False when it is."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.exists():
        return False
    with file.open("x", encoding="utf-8") as opened:
        opened.write(text)
    return True
