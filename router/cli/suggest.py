"""`router suggest`: what the operator may want to change in the catalog's files; changes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from router.cli.options import catalog_directory, catalog_option, config_option, data_option, settings_of

if TYPE_CHECKING:
    from router.catalog.snapshot import Model, Offer, Snapshot
    from router.routing.medians import Pace

# A prior is proposed anew when the median is further off than this share of it.
_OFF_BY = 0.2
_TITLES = {"ttft_s": "s to the first token", "tok_s": "tokens a second"}


@click.command()
@click.option("--days", type=click.IntRange(1, 36_500), default=7, show_default=True, help="Days of the log.")
@catalog_option
@data_option
@config_option
def suggest(days: int, catalog: Path | None, data: Path | None, config: Path | None) -> None:
    """Print measured speeds as a catalog diff, and old prices.

    Nothing is edited. To apply the speeds: router suggest | patch -p1 -d models_catalog
    """
    from router.cli.replay import load_assumed

    settings = settings_of(config, catalog=catalog, data=data)
    directory = catalog_directory(settings)
    snapshot = load_assumed(directory)
    now = datetime.now(UTC)
    said, diffs = _speeds(directory, snapshot, _measured(settings.data, now - timedelta(days=days)), days)
    stale = list(_stale(directory, snapshot, now.date()))
    # Notes are comments, which `patch` passes over.
    for line in [*said, *(stale or ["no price is older than 90 days"])]:
        click.echo(f"# {line}")
    for diff in diffs:
        click.echo(diff.encode(), nl=False)


def _measured(data: Path, since: datetime) -> dict[tuple[str, str], Pace] | None:
    """Return the medians of the log; None where there is no log."""
    from router.routing.medians import paces
    from router.routing.recorded import LogReader
    from router.telemetry.decisions import FOLDER, decision_files

    files = decision_files(data / FOLDER)
    return paces(entry.line.actual for entry in LogReader(files, since)) if files else None


def _speeds(
    directory: Path, snapshot: Snapshot, measured: Mapping[tuple[str, str], Pace] | None, days: int
) -> tuple[list[str], list[str]]:
    """Return notes and diffs, a diff for each file with a speed that is off."""
    from router.catalog.speed_edit import unified_diff
    from router.routing.medians import LEAST_SAMPLES

    if measured is None:
        return [
            "no decisions are logged yet, so no speed is compared (name the log's folder with --data)"
        ], []
    said, diffs = [], []
    for model in snapshot.models.values():
        wanted = [(o, v) for o in model.offers if (v := _off(o, measured.get(o.key)))]
        if not wanted:
            continue
        before = (directory / model.file).read_bytes().decode()
        after = before
        for offer, values in wanted:
            edited = _edited(after, offer, values)
            by_hand = "" if edited is not None else "; edit it by hand"
            after = edited or after
            said += [f"{line}{by_hand}" for line in _reasons(model, offer, values, measured[offer.key])]
        if after != before:
            diffs.append(unified_diff(model.file, before, after))
    if not said:
        said.append(
            f"no speed is more than {_OFF_BY:.0%} off its prior over {LEAST_SAMPLES} streams in {days} days"
        )
    return said, diffs


def _off(offer: Offer, pace: Pace | None) -> dict[str, str]:
    """Return the priors to change, as TOML numbers of two digits or whole ones."""
    if pace is None:
        return {}
    pairs = (("ttft_s", offer.ttft_s, pace.ttft_s), ("tok_s", offer.tok_s, pace.tok_s))
    return {
        key: _toml_number(median)
        for key, prior, median in pairs
        if median is not None and abs(median - prior) > _OFF_BY * prior
    }


def _toml_number(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{max(value, 0.01):.2f}"


def _edited(text: str, offer: Offer, values: Mapping[str, str]) -> str | None:
    import tomllib

    from router.catalog.speed_edit import with_speed

    keys = [(table["provider"], table["model"]) for table in tomllib.loads(text)["offers"]]
    return with_speed(text, keys.index(offer.key), values)


def _reasons(model: Model, offer: Offer, values: Mapping[str, str], pace: Pace) -> Iterator[str]:
    priors = {"ttft_s": (offer.ttft_s, pace.ttft_samples), "tok_s": (offer.tok_s, pace.tok_samples)}
    for key, value in values.items():
        prior, samples = priors[key]
        yield (
            f"{model.file}: {offer.provider}: {value} {_TITLES[key]} in the median of {samples:,} streams, "
            f"the prior is {prior:g}"
        )


def _stale(directory: Path, snapshot: Snapshot, today: date) -> Iterator[str]:
    """Yield a line for each price that is too old, with the file and line of its date."""
    import tomllib

    from router.catalog.build import STALE_PRICE_DAYS
    from router.catalog.lines import scan

    for model in snapshot.models.values():
        old = {
            o.key: age
            for o in model.offers
            if o.price_as_of is not None and (age := (today - o.price_as_of).days) > STALE_PRICE_DAYS
        }
        if not old:
            continue
        text = (directory / model.file).read_bytes().decode().replace("\r\n", "\n")
        where = scan(text)
        for index, table in enumerate(tomllib.loads(text)["offers"]):
            age_days = old.get((table["provider"], table["model"]))
            if age_days is not None:
                line = where[("offers", index, "price_as_of")]
                said = f"the price of {table['provider']} is {age_days} days old; check it at the provider"
                yield f"{model.file}:{line}: {said}"
