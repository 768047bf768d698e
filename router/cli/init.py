"""`router init`: the settings of a client, or a starter catalog."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from router.address import origin_at
from router.cli.init_clients import CONTEXT_TOKENS, OUTPUT_TOKENS, UNUSED_KEY, Client, Values, clients, places
from router.cli.init_files import Change, agreed, read, write
from router.cli.init_found import Found, ask, is_local, origin_of
from router.cli.init_merge import CannotMerge
from router.cli.keys import USD
from router.cli.options import config_option, data_option, settings_of

if TYPE_CHECKING:
    from router.cli.init_clients import ClientFile
    from router.settings import Settings

_SHOWN_KEY = "A_NEW_KEY"
_NAMES = sorted(name for name in clients() if name != "openclaw-plugin")


@dataclass(frozen=True)
class _Wish:
    """What was asked for."""

    client: Client
    origin: str
    key: str | None
    credit_nusd: int | None
    file: Path | None
    settings: Settings


@click.command()
@click.argument("client", required=False, type=click.Choice(_NAMES))
@click.option("--url", help="Address of the router; default: the one set here, else http://127.0.0.1:8402.")
@click.option(
    "--key", help="API key for the client; default: the one already in its file, or none in open access."
)
@click.option("--credit", type=USD, help="Make a key with this much credit (USD) in the database here.")
@click.option("--plugin", is_flag=True, help="openclaw: use its bundled clawrouter plugin instead.")
@click.option("--file", type=click.Path(path_type=Path), help="The client's settings file.")
@click.option("--print", "print_only", is_flag=True, help="Print the settings and write nothing.")
@click.option("--dry-run", is_flag=True, help="Show what would change and write nothing.")
@click.option("--yes", is_flag=True, help="Change existing files without asking.")
@config_option
@data_option
def init(
    client: str | None,
    url: str | None,
    key: str | None,
    credit: int | None,
    plugin: bool,
    file: Path | None,
    print_only: bool,
    dry_run: bool,
    yes: bool,
    config: Path | None,
    data: Path | None,
) -> None:
    """Connect a CLIENT to the router, or begin your own catalog.

    With a CLIENT, what it needs is added to its settings file; your other settings and comments stay. Of an
    existing file you see the diff and are asked first, and a copy is kept as FILE.bak-TIME. Without a CLIENT,
    models_catalog/ and router.toml are written into this folder.
    """
    now = datetime.now(UTC)
    if client is None:
        if url or key or credit is not None or plugin or file or print_only:
            raise click.UsageError(f"name a client for these options: {', '.join(_NAMES)}")
        from router.cli.init_starter import starter

        starter(Path.cwd(), yes=yes, dry_run=dry_run, now=now)
        return
    if plugin and client != "openclaw":
        raise click.UsageError("--plugin is for openclaw")
    if key and credit is not None:
        raise click.UsageError("--key is a key that exists, --credit makes a new one: give one of them")
    chosen = clients()["openclaw-plugin" if plugin else client]
    if file and len(chosen.files) > 1:
        names = ", ".join(part.template for part in chosen.files)
        raise click.UsageError(f"{client} has several files ({names}): --file names only one")
    settings = settings_of(config, data=data)
    try:
        origin = origin_of(url or origin_at(settings.host, settings.port))
        if credit is not None and not is_local(origin):
            raise ValueError(f"--credit makes keys in this machine's storage, not at {origin}: pass --key")
        wish = _Wish(chosen, origin, key, credit, file, settings)
        if print_only:
            _print(wish)
        else:
            _write(wish, dry_run=dry_run, yes=yes, now=now)
    except ValueError as fault:
        raise click.ClickException(str(fault)) from None


def _print(wish: _Wish) -> None:
    values = _values(wish, wish.key, dry_run=False)
    for file in wish.client.files:
        if len(wish.client.files) > 1:
            click.echo(f"# {_path(wish, file)}", err=True)
        click.echo(file.rendered(values), nl=False)


def _write(wish: _Wish, *, dry_run: bool, yes: bool, now: datetime) -> None:
    before = {file: read(_path(wish, file)) for file in wish.client.files}
    values = _values(wish, wish.key or _key_there(wish, before), dry_run=dry_run)
    changes = []
    for file, text in before.items():
        path = _path(wish, file)
        try:
            changes.append(Change(path, text, file.merged(text or "", values)))
        except CannotMerge as fault:
            raise click.ClickException(
                f"{path} was not changed: {fault}. Add this to it by hand:\n\n{file.rendered(values)}"
            ) from None
    needed = [change for change in changes if change.needed]
    for change in needed:
        if change.before is not None or dry_run:
            click.echo(change.diff())
    if not needed:
        click.echo(f"{', '.join(str(c.path) for c in changes)}: nothing to change.")
    if not needed or dry_run:
        return
    asked = [str(change.path) for change in needed if change.before is not None]
    if asked and not agreed(f"Change {' and '.join(asked)} (a copy is kept)?", yes=yes):
        click.echo("Nothing was changed.")
        return
    for change in needed:
        try:
            kept = write(change, now)
        except OSError as fault:
            raise click.ClickException(f"{change.path} cannot be written: {fault}") from None
        click.echo(f"Wrote {change.path}{f' (before: {kept.name})' if kept else ''}.")
        if values.key != UNUSED_KEY and values.key in change.after and change.path.stat().st_mode & 0o077:
            click.echo(f"Others on this machine can read the key in it: chmod 600 {change.path}", err=True)
    click.echo(f"\n{wish.client.title} uses {wish.origin}.\n{wish.client.next}")


def _path(wish: _Wish, file: ClientFile) -> Path:
    return wish.file or file.path(places(os.environ, Path.home()))


def _key_there(wish: _Wish, before: dict[ClientFile, str | None]) -> str | None:
    """Return the key that the files have for this router; one for another address stays with it."""
    if not any(wish.origin in (text or "") for text in before.values()):
        return None
    for file, text in before.items():
        try:
            key = file.key_in(text or "")
        except CannotMerge:
            continue  # told when it is merged
        if key and key != UNUSED_KEY:
            return key
    return None


def _values(wish: _Wish, key: str | None, *, dry_run: bool) -> Values:
    """Return what the templates get; asks the router, and makes a key where one is wished for and needed."""
    found = ask(wish.origin, key or UNUSED_KEY)
    if wish.credit_nusd is not None and (key is None or (found is not None and not found.accepted)):
        key = _SHOWN_KEY if dry_run else _new_key(wish)
        found = found if dry_run else _checked(wish, key)
    elif found is None:
        click.echo(f"No router answers at {wish.origin}: its settings are written as if one did.", err=True)
    elif not found.accepted:
        _refused(wish, key)
    values = Values(wish.origin, key or UNUSED_KEY)
    if found is None or not found.accepted:
        return values
    return replace(
        values,
        context=min(found.context or CONTEXT_TOKENS, CONTEXT_TOKENS),
        max_output=min(found.max_output or OUTPUT_TOKENS, OUTPUT_TOKENS),
    )


def _refused(wish: _Wish, key: str | None) -> None:
    said = "does not take this key" if key else "asks for an API key"
    fix = "pass --key, or --credit 5 to make one here" if is_local(wish.origin) else "pass --key"
    raise click.ClickException(f"the router at {wish.origin} {said}: {fix}")


def _new_key(wish: _Wish) -> str:
    from router.access.keys import ApiKey, Keys, NewKey
    from router.cli.ledger import with_storage
    from router.ledger.ledger import Storage

    new = NewKey(name=wish.client.name, credit_nusd=wish.credit_nusd)

    async def create(storage: Storage) -> tuple[str, ApiKey]:
        return await Keys(storage.keys, clock=time.time, monotonic=time.monotonic).create(new)

    text, made = with_storage(wish.settings, create, make=True)
    click.echo(f"Made the key {made.id} ({made.name}).", err=True)
    return text


def _checked(wish: _Wish, key: str) -> Found | None:
    found = ask(wish.origin, key)
    if found is not None and not found.accepted:
        raise click.ClickException(
            f"the router at {wish.origin} does not know the new key: it keeps its keys elsewhere; "
            "name its folder with --data, or its database with ROUTER_DATABASE_URL"
        )
    return found
