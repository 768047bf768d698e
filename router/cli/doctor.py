"""`router doctor`: what is wrong with this installation, and how to mend it."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from router.cli.options import catalog_option, config_option, data_option

if TYPE_CHECKING:
    from router.doctor.finding import Finding

_MARKS = {
    "ok": ("ok", "green"),
    "note": ("note", "cyan"),
    "warning": ("warn", "yellow"),
    "failure": ("FAIL", "red"),
}


@click.command()
@click.option("--online", is_flag=True, help="Open a connection to each provider too; nothing is sent.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@catalog_option
@data_option
@config_option
def doctor(online: bool, as_json: bool, catalog: Path | None, data: Path | None, config: Path | None) -> None:
    """Check the installation: each line ends with the fix. Exit 1 when something fails.

    It calls no upstream, costs nothing and changes nothing. It does connect to the database and the Redis
    that are set, and to a router that already listens on the address.
    """
    from router.doctor.examine import examine

    found = []
    for finding in examine(
        config, environ=os.environ, now=datetime.now(UTC), data=data, catalog=catalog, online=online
    ):
        found.append(finding)
        if not as_json:
            _show(finding)
    failures = sum(finding.state == "failure" for finding in found)
    warnings = sum(finding.state == "warning" for finding in found)
    if as_json:
        _print_json(found, failures, warnings)
    else:
        click.echo(f"\n{len(found)} checks: {failures} failures, {warnings} warnings")
    if failures:
        raise SystemExit(1)


def _show(finding: Finding) -> None:
    mark, colour = _MARKS[finding.state]
    fix = f" -> {finding.fix}" if finding.fix else ""
    click.echo(f"{click.style(f'{mark:<5}', fg=colour)} {finding.check:<12} {finding.message}{fix}")


def _print_json(found: list[Finding], failures: int, warnings: int) -> None:
    import msgspec

    from router import __version__

    said = {"version": __version__, "failures": failures, "warnings": warnings, "checks": found}
    click.echo(msgspec.json.encode(said).decode())
