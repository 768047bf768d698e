"""Draw a result as SVG: languages, learning curve, confusion, reference points, routing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt

from benchmarks.plots import OURS_COLOUR, STYLE, save
from router.classifier.model import LABELS
from router.cli.reliability import drawn

GREYS = {"prompt length": "#e69f00", "packaged": "#0072b2", "oracle": "#009e73"}


def draw(result: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write `<version>-<what>.svg` for everything that was measured; returns the paths."""
    plots = {"languages": _languages, "peers": _peers, "confusion": _confusion}
    unseen = bool(result.get("leave_sources_out"))
    wanted = {name: plot for name, plot in plots.items() if unseen}
    wanted |= {"curve": _curve} if result["curve"] else {}
    paths = []
    with mpl.rc_context(STYLE):
        for name, plot in wanted.items():
            figure, axes = plt.subplots(figsize=(7.5, 4.2), layout="constrained")
            plot(axes, result)
            paths.append(save(figure, folder / f"{result['version']}-{name}.svg"))
        if result.get("routing"):
            paths.append(_routing(result, folder / f"{result['version']}-routing.svg"))
    if unseen:
        paths.append(folder / f"{result['version']}-reliability.svg")
        paths[-1].write_text(drawn(result["leave_sources_out"]), encoding="utf-8")
    return paths


def _languages(axes: Any, result: Mapping[str, Any]) -> None:
    sources = result["leave_sources_out"]["accuracy_by_language"]
    languages = (result.get("leave_languages_out") or {}).get("accuracy_by_language", {})
    names = [name for name, part in sources.items() if part["rows"] >= 20]
    at = np.arange(len(names))
    axes.bar(at, [sources[name]["accuracy"] for name in names], color=OURS_COLOUR, label="source held out")
    known = [(n, languages[name]["accuracy"]) for n, name in enumerate(names) if name in languages]
    axes.plot(
        *zip(*known, strict=True), "D", color="#333333", markersize=4, label="language held out"
    ) if known else None
    axes.set_xticks(at, names, fontsize=7)
    axes.set(ylim=(0, 1), ylabel="accuracy")
    axes.axhline(0.7, color="#999999", linewidth=1, linestyle="--")
    axes.set_title("Accuracy by language, the most rows first; dashed: must of the ten largest", loc="left")
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, -0.22), ncols=2)


def _curve(axes: Any, result: Mapping[str, Any]) -> None:
    for name, points in result["curve"].items():
        at, accuracy = [p["languages"] for p in points], [p["accuracy"] for p in points]
        axes.plot(at, accuracy, marker="o", markersize=4, linewidth=2, label=name)
    axes.set(xlabel="languages trained on, English first", ylabel="accuracy on unseen languages")
    axes.set_title("Another language of the corpus, and languages never seen", loc="left")
    axes.legend(frameon=False, loc="lower right")


def _peers(axes: Any, result: Mapping[str, Any]) -> None:
    found = {"ours": result["leave_sources_out"], **result["peers"]}
    known = {name: figures["accuracy"] for name, figures in found.items() if "accuracy" in figures}
    names = sorted(known, key=lambda name: known[name])
    colours = [OURS_COLOUR if name == "ours" else "#999999" for name in names]
    bars = axes.barh(names, [known[name] for name in names], color=colours, height=0.6)
    axes.bar_label(bars, [f"{known[name]:.3f}" for name in names], padding=6)
    axes.set(xlim=(0, 1), xlabel="accuracy, the same rows")
    axes.grid(visible=False, axis="y")
    axes.set_title("Sources that nobody here was fitted on", loc="left")


def _confusion(axes: Any, result: Mapping[str, Any]) -> None:
    counts = [list(given.values()) for given in result["leave_sources_out"]["confusion"].values()]
    shares = np.array(counts) / np.sum(counts, axis=1, keepdims=True)
    axes.imshow(shares, cmap="Greys", vmin=0, vmax=1)
    for true, row in enumerate(shares.tolist()):
        for given, share in enumerate(row):
            words = f"{share:.2f}\n{counts[true][given]:,}"
            axes.text(given, true, words, ha="center", va="center", color="white" if share > 0.5 else "black")
    axes.set_xticks(range(len(LABELS)), LABELS)
    axes.set_yticks(range(len(LABELS)), LABELS)
    axes.grid(visible=False)
    axes.set(xlabel="given", ylabel="true")
    axes.set_title("Sources held out: what is taken for what", loc="left")


def _routing(result: Mapping[str, Any], path: Path) -> Path:
    sets = result["routing"]["sets"]
    figure, every = plt.subplots(1, len(sets), figsize=(10, 3.6), layout="constrained", sharey=True)
    at = np.linspace(0, 100, 51)
    for axes, (name, own) in zip(np.atleast_1d(every), sets.items(), strict=True):
        for score in ("classifier", "packaged", "prompt length", "oracle"):
            colour = OURS_COLOUR if score == "classifier" else GREYS[score]
            axes.plot(at, np.array(own[score]["curve"]) * 100, label=score, color=colour)
        axes.plot([0, 100], [0, 100], "--", color="#999999", label="random")
        if own["published"]:
            share = [own["published"][part] * 100 for part in ("cpt50", "cpt80")]
            axes.plot(share, [50, 80], "k*", label="RouteLLM's best, published")
        axes.set(title=f"{name}, {own['questions']:,} questions", xlabel="strong calls, %")
    np.atleast_1d(every)[0].set(ylabel="gap recovered, %")
    np.atleast_1d(every)[0].set_ylim(-10, 130)
    handles = {h.get_label(): h for axes in np.atleast_1d(every) for h in axes.get_lines()}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=6, frameon=False)
    return save(figure, path)
