"""The tables of a result, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.accuracy.aims import aims
from router.classifier.model import LABELS

Figures = Mapping[str, Any]
BEGIN, END = "<!-- figures -->", "<!-- end of figures -->"


def page(result: Figures) -> str:
    """Return everything that was measured, as one page."""
    machine, data, packaged = result["machine"], result["data"], result["packaged"]
    parts = [
        f"# Accuracy of version {result['version']}",
        f"Commit {result['commit']}, {result['measured_at'][:10]}, {machine['cpu']}, "
        f"Python {result['python']}. {data['rows']:,} rows: {data['own']:,} of the project's corpus, "
        f"{data['others']:,} others. Packaged model: {packaged['rows']:,} rows, "
        f"temperature {packaged['temperature']:.2f}.{_quick(result)}",
        "## Against what was asked for",
        _aims(result),
        *_speed_of(result),
        "## Beside the reference points",
        "The same rows; a fitted one never saw the source of a row that it is judged on.",
        _peers(result),
    ]
    for name, title in (
        ("leave_sources_out", "Sources held out"),
        ("leave_languages_out", "Languages held out"),
        ("own_only", "The repository's corpus alone, on all other rows"),
        ("check", "The packaged model on the check set"),
    ):
        if result.get(name):
            parts += [f"## {title}", _figures(result[name])]
    if result.get("leave_sources_out"):
        parts += ["## By language", _languages(result)]
    if result["curve"]:
        parts += ["## Languages of the corpus against unseen languages", _curve(result["curve"])]
    parts += ["## Latency, us", _speed(result["speed_us"])]
    if result.get("routing"):
        parts += ["## As a router between two models", _routing(result["routing"])]
    return "\n\n".join(parts) + "\n"


def summary(result: Figures) -> str:
    """Return what README.md shows: the aims, the reference points, the corpus alone, and the plots."""
    machine, version = result["machine"], result["version"]
    parts = [
        f"Version {version} ({result['commit']}), {result['measured_at'][:10]}, {machine['cpu']}, Python "
        f"{result['python']}, {result['data']['rows']:,} rows. Everything: [results/{version}.md]"
        f"(results/{version}.md).{_quick(result)}",
        _aims(result),
        *_speed_of(result),
        "Beside the reference points, on the same rows; a fitted one never saw the source of a row that it "
        "is judged on:",
        _peers(result),
    ]
    if result.get("own_only"):
        own = result["own_only"]
        parts.append(
            f"Trained on the repository alone (`router train --out DIR`, {result['data']['own']:,} rows), on "
            f"all {own['rows']:,} other rows, none of whose sources it has seen: accuracy "
            f"{own['accuracy']:.3f}, macro-F1 {own['macro_f1']:.3f}, ECE {own['ece']:.3f}."
        )
    check = result["check"]
    by_form = ", ".join(f"{name} {own['accuracy']:.3f}" for name, own in check["accuracy_by_form"].items())
    parts.append(
        f"The packaged model on the {check['rows']:,} requests of `check/`, written apart from the corpus, "
        f"never trained on: accuracy {check['accuracy']:.3f}, macro-F1 {check['macro_f1']:.3f}, ECE "
        f"{check['ece']:.3f} ({by_form})."
    )
    plots = ["languages", "reliability", "confusion", "peers"] if result.get("leave_sources_out") else []
    plots += ["curve"] if result["curve"] else []
    plots += ["routing"] if result.get("routing") else []
    parts.append("\n".join(f"![{name}](results/{version}-{name}.svg)" for name in plots))
    return "\n\n".join(parts)


def _quick(result: Figures) -> str:
    return " A quick run: every fold has the packaged model's temperature." if result["quick"] else ""


def laid(path: Path, written: str) -> None:
    """Lay text between the two marks of a Markdown file; raises ValueError where they are missing."""
    text = path.read_text("utf-8")
    if BEGIN not in text or END not in text:
        raise ValueError(f"{path.name} needs the lines {BEGIN} and {END} where the figures go")
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    path.write_text(f"{before}{BEGIN}\n{written}\n{END}{after}", encoding="utf-8")


def _aims(result: Figures) -> str:
    rows = [(a.text, number(a.value), number(a.must), number(a.goal), a.verdict) for a in aims(result)]
    return table(("aim", "measured", "must", "goal", ""), rows)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; the first column is text, the others are numbers."""
    lines = ["| " + " | ".join(head) + " |", "|---|" + "--:|" * (len(head) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def number(value: float | None) -> str:
    """Return a figure with three digits, a dash for none."""
    return "-" if value is None else f"{value:.3f}" if value < 1 else f"{value:,.4g}"


def _peers(result: Figures) -> str:
    rows = []
    own = {"ours, its source held out": result.get("leave_sources_out")}
    for name, found in {**own, **result["peers"]}.items():
        if not found:
            continue
        if "unavailable" in found:
            rows.append([name, "-", "-", *["-"] * len(LABELS), "-", f"not measured: {found['unavailable']}"])
            continue
        recall = [number(found["recall"][label]) for label in LABELS]
        cost = f"{found['us']:,.1f} us" if found.get("us") else "see below"
        rows.append(
            [name, number(found["accuracy"]), number(found["macro_f1"]), *recall, number(found["ece"]), cost]
        )
    return table(("", "accuracy", "macro-F1", *LABELS, "ECE", "a prompt"), rows)


def _figures(found: Figures) -> str:
    head = (
        f"{found['rows']:,} rows: accuracy {found['accuracy']:.3f} (mean over sources "
        f"{found['mean_over_sources']:.3f}), macro-F1 {found['macro_f1']:.3f}, ECE {found['ece']:.3f}."
    )
    confusion = table(
        ("true \\ given", *LABELS, "recall"),
        [
            (label, *(f"{count:,}" for count in given.values()), number(found["recall"][label]))
            for label, given in found["confusion"].items()
        ],
    )
    bins = table(
        ("confidence", "mean", "right", "rows"),
        [
            (
                f"{b['from']:.2f}-{b['to']:.2f}",
                number(b["confidence"]),
                number(b["accuracy"]),
                f"{b['rows']:,}",
            )
            for b in found["reliability"]
        ],
    )
    parts = [_part(found, "form"), _part(found, "source")]
    return "\n\n".join([head, confusion, bins, *parts])


def _part(found: Figures, part: str) -> str:
    rows = [
        (
            name,
            f"{own['rows']:,}",
            number(own["accuracy"]),
            *(number(own["recall"][label]) for label in LABELS),
        )
        for name, own in found[f"accuracy_by_{part}"].items()
    ]
    return table((part, "rows", "accuracy", *LABELS), rows)


def _languages(result: Figures) -> str:
    sources = result["leave_sources_out"]["accuracy_by_language"]
    languages = (result.get("leave_languages_out") or {}).get("accuracy_by_language", {})
    rows = []
    for name, own in sources.items():
        recall = [number(own["recall"][label]) for label in LABELS]
        unseen = number(languages.get(name, {}).get("accuracy"))
        rows.append((name, f"{own['rows']:,}", number(own["accuracy"]), *recall, unseen))
    return table(("language", "rows", "source held out", *LABELS, "language held out"), rows)


def _curve(curves: Mapping[str, Sequence[Figures]]) -> str:
    steps = sorted({point["languages"] for points in curves.values() for point in points})
    rows = []
    for step in steps:
        row = [str(step)]
        for points in curves.values():
            found = [point for point in points if point["languages"] == step]
            row += (
                [number(found[0]["accuracy"]), f"{found[0]['mean_rows_trained']:,}"] if found else ["-", "-"]
            )
        rows.append(row)
    head = [cell for name in curves for cell in (name, "rows")]
    return table(("languages trained on", *head), rows)


def _speed_of(result: Figures) -> list[str]:
    """Return a line where the speed is of another commit than the rest."""
    found = result.get("speed_of", {"commit": result["commit"]})
    if found["commit"] == result["commit"]:
        return []
    return [f"Speed, size, memory and load are those of {found['commit']}, {found['measured_at'][:10]}."]


def _speed(found: Mapping[str, Figures]) -> str:
    rows = [
        (f"{int(length):,}", *(f"{figures[part]:.1f}" for part in ("read", "classify", "both")))
        for length, figures in found.items()
    ]
    return table(("characters", "read", "classify", "both"), rows)


def _routing(found: Figures) -> str:
    rows = []
    for name, own in found["sets"].items():
        for score in ("classifier", "packaged", "prompt length", "oracle"):
            figures = own[score]
            interval = "-".join(f"{x:.2f}" for x in figures["apgr_95"]) if figures["apgr_95"] else "-"
            shares = [number(figures[part]) for part in ("cpt50", "cpt80")]
            rows.append((f"{name} ({own['questions']:,})", score, number(figures["apgr"]), interval, *shares))
        if own["published"]:
            published = [number(own["published"][part]) for part in ("apgr", "cpt50", "cpt80")]
            rows.append((name, "RouteLLM's best, as published", published[0], "-", *published[1:]))
        rows.append((name, "random", "0.500", "-", "0.500", "0.800"))
    return table(("set (questions)", "score", "APGR", "95 %", "CPT50", "CPT80"), rows)
