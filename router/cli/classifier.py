"""`router train` and `router evaluate`: fit the classifier on labelled lines, and judge it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from router.cli.options import working

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
    help="Leave out rows whose licence begins with this; may be repeated.",
)
@click.option("--alone", is_flag=True, help="Train without the packaged examples.")
@click.argument("more", nargs=-1, type=FILE)
def train(
    data: tuple[Path, ...], out: Path, dropped: tuple[str, ...], alone: bool, more: tuple[Path, ...]
) -> None:
    """Fit the classifier on the packaged examples and your data.

    `--data` may be repeated; further files may follow it. The report is the accuracy on sources that were
    held out whole, the best estimate for unseen traffic.
    """
    from router.classifier import training

    with _progress() as progress, _faults():
        corpus = () if alone else None
        trained = training.train([*data, *more], out, progress, dropped, corpus=corpus)
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
@click.option("--plots", type=DIRECTORY, help="Write reliability.svg into this directory.")
def evaluate(data: Path, model: Path | None, as_json: bool, plots: Path | None) -> None:
    """Judge the classifier on labelled lines.

    Accuracy, recall, calibration, confusion, latency.

    Lines that the model was trained on flatter it; give it lines of another source.
    """
    from router.classifier import judging
    from router.classifier.model import Classifier
    from router.cli.reliability import drawn

    with _faults(), working(f"judging on {data}"):
        measured = judging.evaluate(data, Classifier.load(model))
    if plots is not None:
        plots.mkdir(parents=True, exist_ok=True)
        (plots / "reliability.svg").write_text(drawn(measured), encoding="utf-8")
    if as_json:
        click.echo(json.dumps(measured, ensure_ascii=False))
        return
    show(measured)
    for part in ("form", "source", "language"):
        _show_part(part, measured[f"accuracy_by_{part}"])
    _show_latency(measured["latency_us"])


def show(measured: dict[str, Any]) -> None:
    """Print accuracy, calibration and confusion of `judging.judge`."""
    click.echo(_summary(measured))
    _show_confusion(measured)
    _show_reliability(measured["reliability"])


def _show_confusion(measured: dict[str, Any]) -> None:
    labels = list(measured["confusion"])
    click.echo("\n" + _cells(["true \\ given", *labels, "recall"]))
    for label, given in measured["confusion"].items():
        click.echo(_cells([label, *given.values(), _share(measured["recall"][label])]))


def _show_reliability(bins: list[dict[str, float]]) -> None:
    """Print how often the answers of each confidence are right."""
    click.echo("\n" + _cells(["said", "mean", "right", "rows"]))
    for b in bins:
        said = f"{b['from']:.2f}-{b['to']:.2f}"
        click.echo(_cells([said, _share(b["confidence"]), _share(b["accuracy"]), b["rows"]]))


def _show_part(part: str, found: dict[str, dict[str, Any]]) -> None:
    labels = list(next(iter(found.values()))["recall"])
    click.echo(f"\naccuracy and recall by {part}")
    click.echo(_cells(["accuracy", "rows", *labels], width=11))
    for name, figures in found.items():
        recall = [_share(figures["recall"][label]) for label in labels]
        click.echo(_cells([_share(figures["accuracy"]), figures["rows"], *recall], width=11) + f"  {name}")


def _show_latency(found: dict[str, dict[str, float]]) -> None:
    click.echo("\nmedian latency, us")
    click.echo(_cells(["characters", "read", "classify", "both"]))
    for length, figures in found.items():
        click.echo(_cells([f"{int(length):,}", *(f"{figure:.1f}" for figure in figures.values())]))


def _cells(cells: list[Any], width: int = 16) -> str:
    return "".join(f"{cell!s:>{width}}" for cell in cells)


def _share(share: float | None) -> str:
    return "-" if share is None else f"{share:.3f}"


def _summary(measured: dict[str, Any]) -> str:
    return (
        f"{measured['rows']} rows, accuracy {measured['accuracy']:.3f}, macro-F1 {measured['macro_f1']:.3f}, "
        f"calibration error {measured['ece']:.3f}"
    )


@contextmanager
def _faults() -> Iterator[None]:
    """Show a fault of a data file or of a model as one line, exit 1."""
    from router.classifier.examples import DataFault
    from router.classifier.model import ArtefactFault

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
