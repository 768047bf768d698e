"""`router train` and `router evaluate`: fit the classifier on labelled lines, and judge it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
DIRECTORY = click.Path(file_okay=False, path_type=Path)


@click.command()
@click.option(
    "--data", "data", type=FILE, multiple=True, help="JSON lines {text or messages, label, lang, source}."
)
@click.option("--out", type=DIRECTORY, required=True, help="The directory that the model is written to.")
@click.option(
    "--drop-licence",
    "dropped",
    multiple=True,
    help="Leave out rows whose licence begins so; may be repeated.",
)
@click.argument("more", nargs=-1, type=FILE)
def train(data: tuple[Path, ...], out: Path, dropped: tuple[str, ...], more: tuple[Path, ...]) -> None:
    """Fit the classifier on the packaged examples and on data files, and write it to --out.

    `--data` may be repeated; further files may follow it. The report is accuracy on sources that were held
    out whole, the figure that foretells unseen traffic.
    """
    from router.classifier import training

    with _progress() as progress, _faults():
        trained = training.train([*data, *more], out, progress, dropped)
    measured = trained.facts["leave_sources_out"]
    click.echo(f"{trained.facts['data']['rows']} examples, temperature {trained.facts['temperature']:.2f}")
    if measured is None:
        click.echo(
            "not judged: leave-sources-out needs several values of `source`, each label in more than one"
        )
    else:
        click.echo(f"on held-out sources: {_summary(measured)}")
    click.echo(f"written to {out}")


@click.command()
@click.option("--data", type=FILE, required=True, help="JSON lines {text or messages, label, lang, source}.")
@click.option(
    "--model", type=DIRECTORY, help="A directory that `router train` wrote; default: the packaged one."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def evaluate(data: Path, model: Path | None, as_json: bool) -> None:
    """Judge the classifier on labelled lines: accuracy, recall, calibration, confusion."""
    from router.classifier import training
    from router.classifier.model import Classifier

    with _faults():
        measured = training.evaluate(data, Classifier.load(model))
    if as_json:
        click.echo(json.dumps(measured, ensure_ascii=False))
        return
    click.echo(_summary(measured))
    labels = list(measured["confusion"])
    click.echo("\n" + "".join(f"{head:>16}" for head in ["true \\ given", *labels, "recall"]))
    for label, given in measured["confusion"].items():
        recall = measured["recall"][label]
        shown = "-" if recall is None else f"{recall:.3f}"
        click.echo("".join(f"{cell:>16}" for cell in [label, *given.values(), shown]))
    for title, key in (("source", "accuracy_by_source"), ("language", "accuracy_by_language")):
        click.echo(f"\naccuracy by {title}")
        for name, part in measured[key].items():
            click.echo(f"{part['accuracy']:>8.3f}  {part['rows']:>6}  {name}")


def _summary(measured: dict[str, Any]) -> str:
    return (
        f"{measured['rows']} rows, accuracy {measured['accuracy']:.3f}, macro-F1 {measured['macro_f1']:.3f}, "
        f"calibration error {measured['ece']:.3f}"
    )


@contextmanager
def _faults() -> Iterator[None]:
    """Show a fault of a data file or of a model as one line, exit 1."""
    from router.classifier.model import ArtefactFault
    from router.classifier.training import DataFault

    try:
        yield
    except (DataFault, ArtefactFault) as fault:
        raise click.ClickException(str(fault)) from fault


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """Give a function (step, done, total): a bar on a terminal, else one line a step, on stderr."""
    if not sys.stderr.isatty():
        last = ""

        def line(step: str, done: int, total: int) -> None:
            nonlocal last
            if step != last:
                click.echo(step, err=True)
                last = step

        yield line
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=None)
        yield lambda step, done, total: bar.update(task, description=step, completed=done, total=total)
