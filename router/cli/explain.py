"""`router explain`: the decision for a prompt, with every loser and its reason; no server needed."""

from __future__ import annotations

import json
import sys
import time
import uuid
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from router.catalog.snapshot import MODES
from router.cli.options import (
    catalog_option,
    config_option,
    data_option,
    faults_shown,
    settings_of,
    sources_of,
    table_console,
)

if TYPE_CHECKING:
    from rich.console import Console

    from router.catalog.snapshot import Snapshot
    from router.settings import Settings

_BAR_CELLS = 24
_LOSERS_SHOWN = 15
_WAYS_SHOWN = 5
_WORDS_SHOWN = 8
_LINE_SHOWN = 60


@click.command()
@click.argument("prompt", required=False)
@click.option("--body", type=click.File("rb"), help="A whole chat request as JSON, - for standard input.")
@click.option("--model", help="What the request asks for; default auto.")
@click.option("--mode", type=click.Choice(MODES), help="nitro is the fastest, floor the cheapest.")
@click.option("--json", "as_json", is_flag=True, help="The record as JSON, as POST /v1/route answers it.")
@click.option("--all-losers", is_flag=True, help="Show every loser; without, the first 15.")
@click.option("--any-key", is_flag=True, help="Decide as if every provider's key were set.")
@click.option("--request", metavar="ID", help="The decision of a logged request, by its x-request-id.")
@catalog_option
@data_option
@config_option
def explain(
    prompt: str | None,
    body: Any,
    model: str | None,
    mode: str | None,
    as_json: bool,
    all_losers: bool,
    any_key: bool,
    request: str | None,
    catalog: Path | None,
    data: Path | None,
    config: Path | None,
) -> None:
    """Say which model would serve PROMPT, at what cost, and why. PROMPT - reads standard input."""
    import msgspec

    from router.errors import RouterError

    if body is not None and (prompt is not None or model is not None):
        raise click.UsageError("--body is the whole request: give no prompt and no --model beside it")
    if request is not None:
        if any((prompt, body, model, mode, any_key, catalog)):
            raise click.UsageError("--request shows what was decided then: give it alone, or with --data")
        _explain_logged(
            settings_of(config, data=data), request, as_json, None if all_losers else _LOSERS_SHOWN
        )
        return
    settings = settings_of(config, catalog=catalog)
    raw = body.read() if body is not None else _body(prompt, model or "auto")
    try:
        said = explained(settings, raw, mode, any_key)
    except RouterError as error:
        raise click.ClickException(error.message) from None
    if as_json:
        click.echo(msgspec.json.encode(said).decode())
    else:
        # Read back, so that what is shown is what the JSON says.
        _show(msgspec.json.decode(msgspec.json.encode(said)), None if all_losers else _LOSERS_SHOWN)
    if said["chosen"] is None:
        raise SystemExit(1)


def _explain_logged(settings: Settings, request_id: str, as_json: bool, losers_shown: int | None) -> None:
    from router.cli.explain_logged import logged

    raw, said, became = logged(settings.data, request_id)
    if as_json:
        click.echo(raw.decode())
        return
    _show(said, losers_shown)
    if len(said["losers"]) < said["losers_total"]:
        click.echo(f"the log keeps {len(said['losers'])} of the {said['losers_total']} offers that lost")
    click.echo(f"\n{became}")


def _body(prompt: str | None, model: str) -> bytes:
    if prompt is None or prompt == "-":
        if prompt is None and sys.stdin.isatty():
            raise click.UsageError('give a prompt: router explain "What is the capital of France?"')
        prompt = sys.stdin.read()
    prompt = prompt.encode(errors="surrogateescape").decode(errors="replace")  # in a locale without UTF-8
    if not prompt.strip():
        raise click.UsageError("the prompt is empty")
    return json.dumps({"model": model, "messages": [{"role": "user", "content": prompt}]}).encode()


def explained(settings: Settings, raw: bytes, mode: str | None, any_key: bool) -> dict[str, Any]:
    """Decide for a raw body and return the record, with the words that weighed and any refusal."""
    from datetime import UTC, datetime

    from router.classifier.model import Classifier
    from router.decider import Decider
    from router.explained import explain as tell
    from router.routing.live import LiveTable
    from router.routing.sessions import Sessions

    headers = {"x-llm-router-mode": mode} if mode else {}
    catalog = _catalog(settings, any_key)
    decider = Decider(Classifier.load(), LiveTable(catalog, time.monotonic), Sessions())
    told = tell(decider, raw, headers, catalog, at=datetime.now(UTC), request_id=f"req_{uuid.uuid4().hex}")
    words = [{"word": w.word, "category": w.category, "weight": round(w.weight, 4)} for w in told.words]
    return {**told.record, "set_aside": told.set_aside, "words": words, "refusal": told.refusal}


def _catalog(settings: Settings, any_key: bool) -> Snapshot:
    """Load what the service would, with the keys of this environment and the local model servers."""
    import asyncio

    from router.running import load, probe

    sources = sources_of(settings, any_key=any_key)
    with faults_shown(sources.directory):
        return load(sources, asyncio.run(probe(sources.directory)))


def _show(said: dict[str, Any], losers_shown: int | None) -> None:
    from rich.markup import escape

    console = table_console()
    block = "#" if console.options.ascii_only else "█"
    if said["probabilities"]:
        for category, share in said["probabilities"].items():
            bar = block * round(share * _BAR_CELLS)
            mark = "[bold]" if category == said["category"] else "[dim]"
            console.print(f"{mark}{category:<10} {share:6.1%}  {bar}[/]")
        own = [w for w in said["words"] if w["category"] == said["category"]]
        for title, words in (
            ("because of  ", [w["word"] for w in own if w["weight"] > 0]),
            ("in spite of ", [w["word"] for w in reversed(own) if w["weight"] < 0]),
        ):
            if words:
                console.print(title + escape(", ".join(words[:_WORDS_SHOWN])), style="dim")
        if said["set_aside"]:
            shown = " | ".join(line[:_LINE_SHOWN] for line in said["set_aside"][:_WAYS_SHOWN])
            console.print(f"not read    {escape(shown)}", style="dim")
        console.print()
    if said["chosen"] is None:
        console.print(f"[bold red]nobody[/]  {escape(said['refusal'])}")
    else:
        _show_winner(console, said)
    _show_others(console, said, losers_shown)


def _show_winner(console: Console, said: dict[str, Any]) -> None:
    chosen, quote = said["chosen"], said["quote"]
    console.print(
        f"[bold green]{chosen['model']}[/] at {chosen['provider']}  ({said['reason']}, {said['mode']})"
    )
    quality = "unrated" if chosen["quality"] is None else f"quality {chosen['quality']:g}"
    console.print(
        f"  {quality}, expected {_usd(quote['usd'])} and {chosen['expected_seconds']:.1f} s,"
        f" at worst {_usd(quote['max_usd'])}"
    )
    for i, other in enumerate(said["fallbacks"][:2], 1):
        console.print(f"  fallback {i}: {other['model']} at {other['provider']}", style="dim")


def _show_others(console: Console, said: dict[str, Any], losers_shown: int | None) -> None:
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    unusable = [loser for loser in said["losers"] if loser["reason"] == "unusable"]
    losers = [loser for loser in said["losers"] if loser["reason"] != "unusable"]
    if losers_shown is None:
        losers, unusable = said["losers"], []
    if losers:
        table = Table(box=None, padding=(0, 2, 0, 0))
        for title in ("not chosen", "provider", "reason"):
            table.add_column(title, no_wrap=True)
        table.add_column("detail", overflow="fold")
        for loser in losers[:losers_shown]:
            table.add_row(*(Text(loser[name]) for name in ("model", "provider", "reason", "detail")))
        console.print()
        console.print(table)
    if losers_shown is not None and len(losers) > losers_shown:
        console.print(f"and {len(losers) - losers_shown} more (--all-losers)", style="dim")
    if unusable:
        ways = Counter(loser["detail"] for loser in unusable)
        listed = ", ".join(f"{way} ({count})" for way, count in ways.most_common(_WAYS_SHOWN))
        more = ", ..." if len(ways) > _WAYS_SHOWN else ""
        offers = "1 offer" if len(unusable) == 1 else f"{len(unusable)} offers"
        console.print(f"\n{offers} cannot be used here: {escape(listed)}{more} (--all-losers)", style="dim")
    console.print(f"catalog {said['catalog']}", style="dim")


def _usd(amount: float) -> str:
    return f"{Decimal(f'{amount:.3g}'):f} USD" if amount < 0.01 else f"{amount:.4f} USD"
