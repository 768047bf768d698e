"""`router feedback`: what users said of past requests, against the decision log; it stores no prompt."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from router.cli.options import config_option, data_option, settings_of

if TYPE_CHECKING:
    from router.routing.recorded import DecisionLine
    from router.settings import Settings

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
SOURCE = "feedback"


@click.command()
@click.argument("labels", type=FILE)
@click.option(
    "--prompts", type=FILE, help="JSON lines {request_id, text or messages}, kept by your own program."
)
@click.option("--kept", is_flag=True, help="Use the prompts that ROUTER_KEEP_PROMPTS has kept.")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write lines for `router train` to this file.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@data_option
@config_option
def feedback(
    labels: Path,
    prompts: Path | None,
    kept: bool,
    out: Path | None,
    as_json: bool,
    data: Path | None,
    config: Path | None,
) -> None:
    """Judge the classifier on your own traffic by LABELS.

    LABELS are JSON lines {request_id, label}.

    The decision log holds what the classifier said of each `auto` request, and never its words. With the
    words that your own program kept (--prompts), or the router where the operator switched that on (--kept),
    the labelled ones become lines for `router train` (--out).
    """
    from router.classifier import judging
    from router.classifier.model import LABELS
    from router.cli.replay import log_files
    from router.routing.recorded import LogReader

    if (prompts is not None or kept) != (out is not None) or (kept and prompts is not None):
        raise click.UsageError(
            "--prompts and --out go together, or --kept and --out: the words come in, the lines go out"
        )
    said, settings = _labels(labels), settings_of(config, data=data)
    logged = (entry.line for entry in LogReader(log_files(settings.data)))
    answered = dict(_classified(logged, said))
    if not answered:
        raise click.ClickException(
            f"{labels}: none of its {len(said)} requests is an `auto` request in the decision log; "
            "name the log's folder with --data"
        )
    rows = [[probabilities.get(label, 0.0) for label in LABELS] for probabilities in answered.values()]
    import numpy as np

    measured = judging.judge(np.array(rows), [LABELS.index(said[number]) for number in answered])
    words: Iterable[dict[str, Any]] = ()
    if out is not None:
        words = asyncio.run(_kept(settings, said)) if prompts is None else (r for _, r in _records(prompts))
    measured |= {"labels": len(said), "written": 0 if out is None else _write(words, out, said)}
    if as_json:
        click.echo(json.dumps(measured))
        return
    from router.cli.classifier import show

    click.echo(f"{len(answered)} of {len(said)} labelled requests are in the decision log")
    show(measured)
    if out is not None:
        click.echo(f"\n{measured['written']} lines written to {out}: router train --data {out} --out DIR")


def _labels(path: Path) -> dict[str, str]:
    """Return the label of each request; the last one counts. A wrong line ends the command."""
    from router.classifier.model import LABELS

    said = {}
    for where, record in _records(path):
        if record.get("label") not in LABELS:
            raise click.ClickException(f"{where}: label is one of {', '.join(LABELS)}")
        said[record["request_id"]] = record["label"]
    return said


def _records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Return (file:line, record) of each line; one that has no request_id ends the command."""
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            record = json.loads(line)
        except ValueError as fault:
            raise click.ClickException(f"{where}: {fault}") from None
        if not isinstance(record, dict) or not isinstance(record.get("request_id"), str):
            raise click.ClickException(f"{where}: expected a JSON object with request_id, a string")
        yield where, record


def _classified(
    logged: Iterable[DecisionLine], said: Mapping[str, str]
) -> Iterator[tuple[str, Mapping[Any, float]]]:
    """Return (request, probabilities) where the classifier spoke: no model and no category was named.

    A client that sends an id of its own gets that one back, and knows the request by it.
    """
    for line in logged:
        asked = line.need.asked
        known_as = line.request_id if line.request_id in said else line.client_request_id
        if known_as is None or known_as not in said or not line.probabilities:
            continue
        if asked.model is None and asked.category is None:
            yield known_as, line.probabilities


async def _kept(settings: Settings, said: Iterable[str]) -> list[dict[str, Any]]:
    """Return what the router has kept of the labelled requests. Where that cannot be read, it ends."""
    from router.errors import Unavailable
    from router.history.history import open_history

    history = open_history(settings.data, settings.storage_url, 1, time.time)
    found = []
    try:
        for name in said:
            record = await history.store.one(name) if history is not None else None
            words = await history.store.words(record.request_id) if history and record else None
            if words is not None:
                messages = [{"role": each.role, "content": each.text} for each in words.messages]
                found.append({"request_id": name, "messages": messages})
    except Unavailable as fault:
        raise click.ClickException(fault.message) from None
    finally:
        if history is not None:
            await history.close()
    return found


def _write(words: Iterable[Mapping[str, Any]], out: Path, said: Mapping[str, str]) -> int:
    """Write the labelled ones of the kept prompts, for their owner's eyes only; returns how many."""
    from router.classifier.examples import DataFault, read_examples

    kept = [
        {key: record[key] for key in ("text", "messages", "lang") if key in record}
        | {"label": said[record["request_id"]], "source": record.get("source") or SOURCE}
        for record in words
        if record["request_id"] in said
    ]
    descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in kept)
    try:
        return len(read_examples([out]))
    except DataFault as fault:
        raise click.ClickException(str(fault)) from None
