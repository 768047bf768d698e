"""Draw a result as SVG: latency at one connection, requests/s against connections, CPU a request."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

OURS_COLOUR = "#d1495b"
# Told apart by the colour-blind too (Okabe and Ito); ours is the only red and the only thick line.
COLOURS = {
    "direct": "#999999",
    "nginx": "#009e73",
    "TensorZero": "#0072b2",
    "LiteLLM": "#e69f00",
    "@rungate/llmrouter": "#56b4e9",
    "ours": OURS_COLOUR,
}
PLAIN = StrMethodFormatter("{x:,g}")
CONNECTIONS = (1, 16, 64, 256)
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "benchmarks",  # the same figures give the same file
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.axisbelow": True,
}


def draw(result: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write `<version>-latency.svg`, `-throughput.svg` and `-cpu.svg`; returns their paths."""
    plots = {"latency": _latency, "throughput": _throughput, "cpu": _cpu}
    paths = []
    with mpl.rc_context(STYLE):
        for name, plot in plots.items():
            figure, axes = plt.subplots(figsize=(7.5, 4.2), layout="constrained")
            plot(axes, result)
            paths.append(save(figure, folder / f"{result['version']}-{name}.svg"))
    return paths


def save(figure: Figure, path: Path) -> Path:
    """Write a figure without its date, so that the same figures give the same file."""
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    return path


def _line(name: str) -> dict[str, Any]:
    return {"label": name, "color": COLOURS.get(name), "linewidth": 2.6 if name == "ours" else 1.5}


def _latency(axes: Axes, result: Mapping[str, Any]) -> None:
    """Draw the median of the rounds at every half per cent of the answers."""
    shares = [k / 2 for k in range(201)]
    for name in result["targets"]:
        reports = (targets.get(name, {}).get("phases", {}).get("one", {}) for targets in result["rounds"])
        curves = [curve for report in reports if (curve := report.get("latency_cdf_ms"))]
        if curves:
            middle = [sorted(at)[len(at) // 2] for at in zip(*curves, strict=True)]
            axes.plot(middle[:-1], shares[:-1], **_line(name))  # the last is one single answer
    axes.set(xscale="log", ylim=(0, 100), xlabel="latency at one connection, ms", ylabel="answers, %")
    axes.xaxis.set_major_formatter(PLAIN)
    axes.set_title("How long an answer takes: 1 kB, one connection", loc="left")
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))


def _throughput(axes: Axes, result: Mapping[str, Any]) -> None:
    for name, figures in result["summary"].items():
        known = [(n, figures[f"rps_{n}"]) for n in CONNECTIONS if f"rps_{n}" in figures]
        if not known:
            continue
        at, ranges = [n for n, _ in known], [found for _, found in known]
        axes.plot(at, [found["median"] for found in ranges], marker="o", markersize=4, **_line(name))
        low, high = [found["min"] for found in ranges], [found["max"] for found in ranges]
        axes.fill_between(at, low, high, color=COLOURS.get(name), alpha=0.15, linewidth=0)
    axes.set(xscale="log", yscale="log", xlabel="connections, closed loop", ylabel="requests/s")
    axes.set_xticks(CONNECTIONS, [str(n) for n in CONNECTIONS], minor=False)
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(PLAIN)
    axes.set_title("Requests a second on one core, 1 kB; median and range of the rounds", loc="left")
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))


def _cpu(axes: Axes, result: Mapping[str, Any]) -> None:
    known = {name: f["cpu_us_request"] for name, f in result["summary"].items() if "cpu_us_request" in f}
    names = sorted(known, key=lambda name: -known[name]["median"])
    medians = [known[name]["median"] for name in names]
    errors = [
        [known[name]["median"] - known[name]["min"] for name in names],
        [known[name]["max"] - known[name]["median"] for name in names],
    ]
    bars = axes.barh(names, medians, xerr=errors, color=[COLOURS.get(name) for name in names], height=0.6)
    axes.bar_label(bars, [f"{value:,.0f}" for value in medians], padding=6)
    axes.set(xscale="log", xlabel="CPU microseconds a request (log), 64 connections")
    axes.margins(x=0.15)
    axes.xaxis.set_major_formatter(PLAIN)
    axes.grid(visible=False, axis="y")
    axes.set_title("What a request costs: user and system time of the process tree", loc="left")
