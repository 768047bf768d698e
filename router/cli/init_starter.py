"""A starter for an operator: the shipped catalog to edit, and a router.toml with every setting in it."""

from __future__ import annotations

import json
import os
import shutil
import textwrap
from datetime import datetime
from decimal import Decimal
from filecmp import cmp
from pathlib import Path
from typing import Any

import click

from router.catalog.files import default_directory
from router.cli.init_files import Change, agreed, aside, read, write
from router.settings import DEFAULT_CONFIG, Settings

CATALOG = Path("models_catalog")
_HEAD = """\
# Settings of `router serve` and of the other commands that are run in this folder, each with its default;
# take the mark before a line away to set it. The environment (ROUTER_PORT, ...) and flags win over this file.
"""


def starter(folder: Path, *, yes: bool, dry_run: bool, now: datetime) -> None:
    """Write both into a folder; ask before anything that is there is changed, and keep a copy of it."""
    _catalog(folder / CATALOG, yes=yes, dry_run=dry_run, now=now)
    _settings(folder / DEFAULT_CONFIG, yes=yes, dry_run=dry_run, now=now)
    if not dry_run:
        click.echo("Next: router catalog check, router doctor, router serve")


def settings_file() -> str:
    """Return a router.toml with every setting as a comment, its default, and what it does."""
    lines = [_HEAD]
    for name, field in Settings.model_fields.items():
        default = field.get_default()
        lines += textwrap.wrap(f"{field.description}", 108, initial_indent="# ", subsequent_indent="# ")
        lines += [f"#{name} = {_toml(default)}", ""]
    return "\n".join(lines)


def _toml(value: Any) -> str:
    if value is None:
        return '""'
    if isinstance(value, tuple):
        return json.dumps(list(value))
    if isinstance(value, Decimal):
        return format(value, "f")
    return json.dumps(str(value)) if isinstance(value, Path) else json.dumps(value)


def _settings(path: Path, *, yes: bool, dry_run: bool, now: datetime) -> None:
    change = Change(path, read(path), settings_file())
    if not change.needed:
        click.echo(f"{path} is the starter already.")
    elif dry_run:
        click.echo(change.diff() if change.before is not None else f"Would write {path}.", nl=False)
        click.echo()
    elif change.before is None or agreed(f"Replace {path} (a copy is kept)?", yes=yes):
        kept = write(change, now)
        path.chmod(0o644 if kept is None else path.stat().st_mode & 0o777)  # nothing in it is secret yet
        click.echo(f"Wrote {path}{f' (before: {kept.name})' if kept else ''}.")
    else:
        click.echo(f"Left {path} as it is.")


def _catalog(target: Path, *, yes: bool, dry_run: bool, now: datetime) -> None:
    source = default_directory(Path(os.devnull))
    shipped = sorted(file.relative_to(source) for file in source.rglob("*") if file.is_file())
    if target.resolve() == source.resolve():
        click.echo(f"{target} is the shipped catalog itself.")
        return
    there = target.is_dir() and any(target.iterdir())
    changed = [file for file in shipped if not _same(source / file, target / file)]
    if there and not changed:
        click.echo(f"{target} has every shipped file already.")
    elif dry_run:
        click.echo(f"Would write {len(changed)} of {len(shipped)} files to {target}.")
    elif not there:
        shutil.copytree(source, target, dirs_exist_ok=True)
        click.echo(f"Wrote {len(shipped)} files to {target}: edit them while the router runs.")
    elif agreed(f"Write {len(changed)} shipped files over those in {target} (a copy is kept)?", yes=yes):
        kept = aside(target, now)
        shutil.copytree(target, kept)
        for file in changed:
            (target / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / file, target / file)
        click.echo(f"Wrote {len(changed)} files to {target} (before: {kept.name}); your own files stay.")
    else:
        click.echo(f"Left {target} as it is.")


def _same(shipped: Path, own: Path) -> bool:
    return own.is_file() and cmp(shipped, own, shallow=False)
