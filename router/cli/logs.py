"""`router logs`: the requests that have ended, from the decision log."""

from __future__ import annotations

from contextlib import closing, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from router.cli.options import config_option, data_option, settings_of
from router.cli.terminal import wait_for_output_gone

if TYPE_CHECKING:
    from collections.abc import Iterable

    from router.routing.recorded import DecisionLine

POLL_S = 0.25


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Keep printing requests as they end.")
@click.option(
    "-n", "--lines", type=click.IntRange(0), default=20, show_default=True, help="Requests to show."
)
@click.option("--json", "as_json", is_flag=True, help="The lines of the decision log as they are.")
@data_option
@config_option
def logs(follow: bool, lines: int, as_json: bool, data: Path | None, config: Path | None) -> None:
    """Show the last requests: who served them, cost, seconds. Never prompts or answers."""
    from router.telemetry.decision_files import Follower
    from router.telemetry.decisions import FOLDER

    directory = settings_of(config, data=data).data / FOLDER
    with closing(Follower(directory)) as follower:
        last = follower.last(lines)
        if not last and not directory.is_dir():
            said = (
                f"there are no requests in {directory}: `router serve` writes them as it serves, "
                "unless ROUTER_DECISION_LOG_MIB is 0; name its folder with --data"
            )
            if not follow:
                raise click.ClickException(said)
            click.echo(f"Waiting: {said}", err=True)
        _print(last, as_json, lines)
        with suppress(KeyboardInterrupt):
            while follow and not wait_for_output_gone(POLL_S):
                _print(follower.poll(), as_json)


def _print(raw_lines: Iterable[bytes], as_json: bool, most: int | None = None) -> None:
    """Print lines of several files in the order in which the requests ended."""
    import msgspec

    from router.routing.recorded import DecisionLine

    decoder = msgspec.json.Decoder(DecisionLine)
    read = []
    for raw in raw_lines:
        try:
            line = decoder.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError):  # what another version wrote
            continue
        read.append((line.need.at + timedelta(seconds=line.actual.seconds), raw, line))
    read.sort(key=lambda item: item[0])
    for _, raw, line in read if most is None else read[len(read) - min(most, len(read)) :]:
        click.echo(raw.decode() if as_json else in_words(line))


def in_words(line: DecisionLine) -> str:
    """Return one request as a line to read."""
    from router.ledger.money import nusd_to_usd

    actual = line.actual
    served = "nobody" if actual.model is None else f"{actual.model} at {actual.provider}"
    parts = [
        f"{line.need.at:%Y-%m-%d %H:%M:%S}",
        actual.outcome,
        f"{line.need.asked.name} -> {served}",
        line.category or "named",
    ]
    if actual.tokens is not None:
        about = "about " if actual.estimated else ""
        parts.append(f"{about}{actual.prompt_tokens:,}+{actual.completion_tokens:,} tokens")
        parts.append(f"{nusd_to_usd(actual.charged_nusd)} USD")
        if line.baseline is not None:
            parts.append(f"saved {nusd_to_usd(line.baseline.cost_nusd - actual.upstream_nusd)}")
    first = f" ({actual.first_s:.2f} s to the first)" if actual.stream and actual.first_s is not None else ""
    parts.append(f"{actual.seconds:.2f} s{first}")
    if actual.attempts > 1:
        parts.append(f"{actual.attempts} attempts")
    if line.account is not None and line.account != "open":
        parts.append(line.account)
    return "  ".join([*parts, line.request_id])
