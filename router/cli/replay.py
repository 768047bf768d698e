"""`router replay`: what an edit of the catalog would have changed, in dollars and seconds."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from router.catalog.snapshot import MODES
from router.cli.options import (
    catalog_directory,
    catalog_option,
    config_option,
    data_option,
    faults_shown,
    settings_of,
    table_console,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from router.catalog.snapshot import Mode, Snapshot
    from router.routing.recorded import LogReader
    from router.routing.replay import Report, Tally

_SINCE = re.compile(r"(\d{1,6})([mhd])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}
_DIFFERENCES_SHOWN = 5
_UNROUTABLE_SHOWN = 5


@click.command()
@click.option("--since", default="7d", show_default=True, help="How far back: 30m, 12h, 7d or 2026-11-15.")
@click.option("--mode", type=click.Choice(MODES), help="Decide all of them in this mode.")
@click.option("--json", "as_json", is_flag=True, help="The figures as JSON, amounts in USD.")
@catalog_option
@data_option
@config_option
def replay(
    since: str, mode: Mode | None, as_json: bool, catalog: Path | None, data: Path | None, config: Path | None
) -> None:
    """Decide the logged requests again: who moves, at what cost.

    On the catalog that made them, every decision must come out the same bit for bit (exit 1 when one does
    not). On an edited one (--catalog DIR), costs are for the tokens that were really used.
    """
    import msgspec

    from router.routing.replay import Replay

    settings = settings_of(config, catalog=catalog, data=data)
    start = since_moment(since, datetime.now(UTC))
    files = log_files(settings.data)
    snapshot = load_assumed(catalog_directory(settings))
    replayed = Replay(snapshot, mode)
    with _reading(files, start) as reader:
        for entry in reader:
            replayed.add(entry)
    report = replayed.report()
    if report.total.requests + report.incomplete == 0:
        raise click.ClickException(_nothing(files, start, reader.skipped))
    said = _said(report, snapshot.revision, mode, start, reader.skipped)
    if as_json:
        click.echo(msgspec.json.encode(said).decode())
    else:
        _show(report, said)
    if report.reproduced < report.same:
        raise SystemExit(1)


def since_moment(text: str, now: datetime) -> datetime:
    """Return the moment that "30m", "12h", "7d" or an ISO date names; a naive one is UTC."""
    if (match := _SINCE.fullmatch(text)) is not None:
        try:
            return now - timedelta(**{_UNITS[match[2]]: int(match[1])})
        except OverflowError:
            return datetime.min.replace(tzinfo=UTC)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is none of 30m, 12h, 7d and 2026-11-15", param_hint="--since"
        ) from None
    moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    if moment > now:
        raise click.BadParameter(f"{text} lies ahead: it is {now:%Y-%m-%d %H:%M} UTC", param_hint="--since")
    return moment


def log_files(data: Path) -> list[Path]:
    """Return the files of the decision log; none ends the command."""
    from router.telemetry.decisions import FOLDER, decision_files

    files = decision_files(data / FOLDER)
    if not files:
        raise click.ClickException(
            f"there are no decisions in {data / FOLDER}: `router serve` writes them as it serves, "
            "unless ROUTER_DECISION_LOG_MIB is 0; name its folder with --data"
        )
    return files


def load_assumed(directory: Path) -> Snapshot:
    """Load a catalog as if every key were set and every local server had every model."""
    from router.catalog.files import load_catalog, read_providers

    with faults_shown(directory):
        keys = {p.key_env: "assumed" for p in read_providers(directory).values() if p.key_env is not None}
        today: date = datetime.now(UTC).date()
        return load_catalog(directory, environ=keys, today=today, local_ports={})


@contextmanager
def _reading(files: list[Path], since: datetime) -> Iterator[LogReader]:
    """Open the log; on a terminal a bar shows how much of it has been read."""
    from rich.console import Console
    from rich.progress import Progress

    from router.routing.recorded import LogReader

    console = Console(stderr=True)
    if not console.is_terminal:
        yield LogReader(files, since)
        return
    size_bytes = sum(path.stat().st_size for path in files if path.exists())
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("deciding again", total=size_bytes)
        yield LogReader(files, since, _in_steps(lambda read_bytes: progress.advance(task, read_bytes)))


def _in_steps(advance: Callable[[int], None], step_bytes: int = 1 << 20) -> Callable[[int], None]:
    """Pass sizes on a megabyte at a time: a bar costs more than a line."""
    waiting = 0

    def collect(size_bytes: int) -> None:
        nonlocal waiting
        waiting += size_bytes
        if waiting >= step_bytes:
            advance(waiting)
            waiting = 0

    return collect


def _nothing(files: list[Path], since: datetime, skipped: int) -> str:
    last = datetime.fromtimestamp(
        max((path.stat().st_mtime for path in files if path.exists()), default=0), UTC
    )
    unread = f"; {_lines(skipped)} could not be read" if skipped else ""
    return (
        f"there are no decisions since {since:%Y-%m-%d %H:%M} UTC in {files[0].parent} (last written "
        f"{last:%Y-%m-%d %H:%M} UTC{unread}): go further back with --since 30d, or name another --data"
    )


def _lines(count: int) -> str:
    return f"{count:,} line" if count == 1 else f"{count:,} lines"


def _said(report: Report, revision: str, mode: Mode | None, since: datetime, skipped: int) -> dict[str, Any]:
    """Return the report as plain data; amounts are exact JSON numbers in USD."""
    from msgspec import structs

    from router.routing.explain import number
    from router.routing.replay import SAVINGS_FORMULA

    savings = report.savings
    return {
        "catalog": revision,
        "mode": mode,
        "since": since,
        "requests": report.total.requests,
        "revisions": dict(report.revisions),
        "same_catalog": {
            "requests": report.same,
            "reproduced": report.reproduced,
            "differences": [structs.asdict(x) for x in report.differences],
        },
        "total": _tally(report.total),
        "categories": {name: _tally(tally) for name, tally in sorted(report.categories.items())},
        "moves": [
            {
                "request_id": move.request_id,
                "category": move.category,
                "from": move.from_offer,
                "to": move.to_offer,
                "cost_usd": {"before": number(move.cost_before_nusd), "after": number(move.cost_after_nusd)},
                "seconds": {"before": move.seconds_before, "after": move.seconds_after},
            }
            for move in report.moves
        ],
        "unroutable": {
            "requests": report.total.unroutable,
            "first": [
                {"request_id": x.request_id, "category": x.category, "from": x.from_offer, "reason": x.reason}
                for x in report.unroutable
            ],
        },
        "newly_routable": report.newly_routable,
        "savings": {
            "baseline": savings.baseline,
            "requests": savings.requests,
            "before_usd": number(savings.baseline_before_nusd - savings.cost_before_nusd),
            "after_usd": number(savings.baseline_after_nusd - savings.cost_after_nusd),
            "baseline_usd": {
                "before": number(savings.baseline_before_nusd),
                "after": number(savings.baseline_after_nusd),
            },
            "formula": SAVINGS_FORMULA,
        },
        "skipped_lines": skipped,
        "incomplete": report.incomplete,
    }


def _tally(tally: Tally) -> dict[str, Any]:
    from router.routing.explain import number

    compared = max(1, tally.compared)
    return {
        "requests": tally.requests,
        "moved": tally.moved,
        "unroutable": tally.unroutable,
        "compared": tally.compared,
        "cost_usd": {"before": number(tally.cost_before_nusd), "after": number(tally.cost_after_nusd)},
        "expected_seconds": {
            "before": tally.seconds_before / compared,
            "after": tally.seconds_after / compared,
        },
    }


def _show(report: Report, said: Mapping[str, Any]) -> None:
    from rich.markup import escape

    console = table_console()
    total = report.total
    console.print(
        f"{total.requests:,} requests since {said['since']:%Y-%m-%d %H:%M} UTC on {said['catalog']}"
    )
    if report.same:
        mark = "green" if report.reproduced == report.same else "bold red"
        console.print(f"[{mark}]reproduced {report.reproduced:,} of {report.same:,}[/] made by this catalog")
        for found in report.differences[:_DIFFERENCES_SHOWN]:
            console.print(f"  {found.request_id}: {escape(found.what)}")
    console.print(_categories_table(report))
    if report.moves:
        console.print()
        console.print(_moves_table(said["moves"]))
    for lost in report.unroutable[:_UNROUTABLE_SHOWN]:
        console.print(
            f"[bold red]nobody[/] for {lost.request_id}, was {lost.from_offer}: {escape(lost.reason)}"
        )
    if total.unroutable > _UNROUTABLE_SHOWN:
        console.print(f"and {total.unroutable - _UNROUTABLE_SHOWN:,} more that nobody would serve (--json)")
    for line in _notes(report, said):
        console.print(line)


def _notes(report: Report, said: Mapping[str, Any]) -> Iterable[str]:
    if report.newly_routable:
        yield f"{report.newly_routable:,} requests that nobody served would be served"
    savings = report.savings
    if savings.baseline is None:
        yield "savings: set baseline in policy.toml to the model to measure against"
    elif savings.requests:
        before = savings.baseline_before_nusd - savings.cost_before_nusd
        after = savings.baseline_after_nusd - savings.cost_after_nusd
        yield f"saved against {savings.baseline}: {_usd(before)} USD before, {_usd(after)} USD after"
        yield f"  = {said['savings']['formula']}"
    if report.incomplete:
        yield f"{report.incomplete:,} decisions lack what they were made of and were left out"
    if said["skipped_lines"]:
        skipped = said["skipped_lines"]
        yield f"{_lines(skipped)} could not be read and {'was' if skipped == 1 else 'were'} left out"


def _categories_table(report: Report) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(
        box=SIMPLE_HEAD,
        caption="USD: sums, for the tokens that were used; s: expected, the mean of a request",
        caption_justify="left",
    )
    table.add_column("category")
    titles = ("requests", "moved", "nobody", "USD before", "USD after", "change", "s before", "s after")
    for title in titles:
        table.add_column(title, justify="right")
    rows = [*sorted(report.categories.items()), ("total", report.total)]
    for name, tally in rows:
        before, after, compared = tally.cost_before_nusd, tally.cost_after_nusd, max(1, tally.compared)
        table.add_row(
            name,
            f"{tally.requests:,}",
            f"{tally.moved:,}",
            f"{tally.unroutable:,}",
            _usd(before),
            _usd(after),
            f"{(after - before) / before:+.1%}" if before else "",
            f"{tally.seconds_before / compared:.2f}",
            f"{tally.seconds_after / compared:.2f}",
        )
    return table


def _moves_table(moves: list[dict[str, Any]]) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, title="largest moves", title_justify="left")
    for title in ("request", "category", "from", "to"):
        table.add_column(title, overflow="fold")
    for title in ("USD before", "USD after", "s before", "s after"):
        table.add_column(title, justify="right")
    for move in moves:
        cost, seconds = move["cost_usd"], move["seconds"]
        table.add_row(
            *(move[name] for name in ("request_id", "category", "from", "to")),
            *(bytes(cost[when]).decode() for when in ("before", "after")),
            *(f"{seconds[when]:.2f}" for when in ("before", "after")),
        )
    return table


def _usd(nusd: int) -> str:
    """Write an amount for a table: four decimals, more where it is small."""
    if abs(nusd) >= 100_000_000 or nusd == 0:
        return f"{nusd / 1e9:,.4f}"
    return f"{Decimal(f'{nusd / 1e9:.3g}'):f}"
