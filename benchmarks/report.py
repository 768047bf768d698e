"""From the reports of the load to figures, medians, the table of aims and the Markdown page."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Range = dict[str, float]  # median, min, max
Summary = dict[str, dict[str, Range]]  # target -> figure -> range
CONNECTIONS = {"one": 1, "c16": 16, "c64": 64, "c256": 256}


def figures(own: Mapping[str, Any], direct: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures of one target in one round; `direct` is the same round's. What failed is absent."""
    found: dict[str, float] = {}
    phases = {name: report for name, report in own["phases"].items() if _answered(report)}
    for name, report in phases.items():
        if name in CONNECTIONS:
            found[f"rps_{CONNECTIONS[name]}"] = report["rps"]
    if "c64" in phases and "cpu_s" in phases["c64"]:
        found["cpu_us_request"] = phases["c64"]["cpu_s"] * 1e6 / phases["c64"]["answers_with_warmup"]
    if "c256" in phases:
        found |= {f"{p}_256_ms": phases["c256"]["latency_ms"][p] for p in ("p50", "p99")}
    if "prompts_64k" in phases:
        found["rps_64k"] = phases["prompts_64k"]["rps"]
    if "beside_2m" in phases and phases["beside_2m"]["beside"]["requests"]:
        found["small_p99_beside_2m_ms"] = phases["beside_2m"]["latency_ms"]["p99"]
        found["rps_2m"] = phases["beside_2m"]["beside"]["rps"]
    found |= _added(phases, direct["phases"]) | _streams(phases, direct["phases"])
    places = ("start_s", "rss_idle_mib", "rss_peak_mib", "rss_peak_2m_mib")
    return found | {name: own[name] for name in places if own.get(name)}


def _answered(report: Mapping[str, Any]) -> bool:
    return bool(report["requests"] or report.get("events"))


def _added(phases: Mapping[str, Any], direct: Mapping[str, Any]) -> dict[str, float]:
    found = {}
    if "one" in phases and "one" in direct:
        own, bare = phases["one"]["latency_ms"], direct["one"]["latency_ms"]
        found = {f"added_{p}_ms": own[p] - bare[p] for p in ("p50", "p99")}
    for name in ("first_token", "first_token_idle"):
        if name in phases and name in direct and (own := phases[name]["first_token_ms"]):
            found[f"added_{name}_ms"] = own["p50"] - direct[name]["first_token_ms"]["p50"]
    return found


def _streams(phases: Mapping[str, Any], direct: Mapping[str, Any]) -> dict[str, float]:
    found = {}
    for streams in (64, 256):
        name = f"streams_{streams}"
        if name not in phases or name not in direct:
            continue
        own = phases[name]
        found[f"delivered_{streams}_percent"] = own["events_per_s"] / direct[name]["events_per_s"] * 100
        if "cpu_s" in own:
            cpu_us_event = own["cpu_s"] * 1e6 / own["events_with_warmup"]
            found[f"cpu_us_event_{streams}"] = cpu_us_event
            found[f"cores_{streams}"] = cpu_us_event * own["events_per_s"] / 1e6
        if own["first_token_ms"]:
            found[f"first_token_{streams}_ms"] = own["first_token_ms"]["p50"]
    return found


def summarize(rounds: Sequence[Mapping[str, Any]]) -> Summary:
    """Return median, min and max of every figure of every target over the rounds that have it."""
    values: dict[str, dict[str, list[float]]] = {}
    for targets in rounds:
        for name, own in targets.items():
            if "phases" in own and "phases" in targets["direct"]:
                for figure, value in figures(own, targets["direct"]).items():
                    values.setdefault(name, {}).setdefault(figure, []).append(value)
    return {
        name: {figure: _range(found) for figure, found in by_figure.items()}
        for name, by_figure in values.items()
    }


def _range(found: Sequence[float]) -> Range:
    return {
        "median": round(statistics.median(found), 4),
        "min": round(min(found), 4),
        "max": round(max(found), 4),
    }


@dataclass(frozen=True, slots=True)
class Aim:
    """One line of the table of aims; without a must there is only a goal, and the other way round."""

    text: str
    value: float | None
    must: float | None
    goal: float | None = None
    at_least: bool = False

    @property
    def verdict(self) -> str:
        """Say which of the two is met."""
        if self.value is None:
            return "not measured"
        if self.goal is not None and self._meets(self.goal):
            return "goal met"
        if self.must is None:
            return "goal missed"
        if not self._meets(self.must):
            return "**below must**"
        return "must met" if self.goal is None else "must met, goal missed"

    def _meets(self, limit: float) -> bool:
        assert self.value is not None
        return self.value >= limit if self.at_least else self.value <= limit


def aims(summary: Summary, hard: Mapping[str, Mapping[str, Any]]) -> list[Aim]:
    """Hold our medians against what was asked for."""

    def median(figure: str, target: str = "ours") -> float | None:
        return summary.get(target, {}).get(figure, {}).get("median")

    def ratio(other: str) -> float | None:
        own, theirs = median("rps_64"), median("rps_64", other)
        return own / theirs if own and theirs else None

    p50, p99 = median("p50_256_ms"), median("p99_256_ms")
    idle, slow, bomb = (hard.get(name, {}) for name in ("idle_streams", "slow_reader", "gzip_bomb"))
    refused = float(bomb["status"] in {502, 503}) if "status" in bomb else None
    return [
        Aim("requests/s, 64 connections, 1 kB", median("rps_64"), 2_500, at_least=True),
        Aim("... against TensorZero (x)", ratio("TensorZero"), 0.5, 1, at_least=True),
        Aim("... against LiteLLM (x)", ratio("LiteLLM"), 40, 100, at_least=True),
        Aim("... against @rungate/llmrouter (x)", ratio("@rungate/llmrouter"), 3, 6, at_least=True),
        Aim("added p50 at one connection, ms", median("added_p50_ms"), 0.5, 0.25),
        Aim("added p99 at one connection, ms", median("added_p99_ms"), 2, 1),
        Aim("added time to first token p50, ms", median("added_first_token_ms"), 0.8, 0.4),
        Aim("64 streams x 100 events/s: delivered, %", median("delivered_64_percent"), 98, at_least=True),
        Aim("64 streams x 100 events/s: CPU us an event", median("cpu_us_event_64"), 70),
        Aim("256 streams x 50 events/s: cores", median("cores_256"), None, 0.7),
        Aim("64 KiB prompts/s, 16 connections", median("rps_64k"), 1_500, 2_400, at_least=True),
        Aim("small requests beside 2 MB prompts: p99, ms", median("small_p99_beside_2m_ms"), 20),
        Aim("memory at its peak, MiB", median("rss_peak_2m_mib"), 180, 100),
        Aim("start to ready, s", median("start_s"), 2, 1),
        Aim("256 connections: p99 / p50", p99 / p50 if p50 and p99 else None, 100),
        Aim("1,000 idle streams: ended well", idle.get("whole"), 1_000, at_least=True),
        Aim("slow reader of 400 MB: memory growth, MiB", slow.get("growth_mib"), 60),
        Aim("gzip of 300 kB that inflates to 300 MB: refused (1 = yes)", refused, 1, at_least=True),
        Aim("... memory growth, MiB", bomb.get("growth_mib"), 100),
    ]


COLUMNS = {
    "requests/s": ("rps_64",),
    "CPU us/request": ("cpu_us_request",),
    "added p50 ms": ("added_p50_ms",),
    "added p99 ms": ("added_p99_ms",),
    "added first token ms, busy / idle": ("added_first_token_ms", "added_first_token_idle_ms"),
    "events delivered %": ("delivered_64_percent",),
    "CPU us/event": ("cpu_us_event_64",),
    "64 KiB prompts/s": ("rps_64k",),
    "small p99 beside 2 MB, ms": ("small_p99_beside_2m_ms",),
    "MiB idle / peak / after 2 MB": ("rss_idle_mib", "rss_peak_mib", "rss_peak_2m_mib"),
    "start s": ("start_s",),
}
CURVE_COLUMNS = {
    "1": ("rps_1",),
    "16": ("rps_16",),
    "64": ("rps_64",),
    "256": ("rps_256",),
    "p50 ms at 256": ("p50_256_ms",),
    "p99 ms at 256": ("p99_256_ms",),
}


def markdown(result: Mapping[str, Any]) -> str:
    """Return the whole page of a result."""
    summary, hard = result["summary"], result["hard"]
    parts = [_heading(result)]
    if summary:
        parts += [
            "## All targets\nMedian (min-max) of the rounds; 64 connections where nothing else is said.\n\n"
            + _table(result, COLUMNS),
            "## Requests/s against connections\n" + _table(result, CURVE_COLUMNS),
            "## What each does\n" + "\n".join(_described(result)),
        ]
    if hard:
        parts.append("## Hard cases\n" + "\n".join(f"- {name}: {case}" for name, case in hard.items()))
    lines = ["| aim | measured | must | goal | |", "|---|--:|--:|--:|---|"]
    for aim in aims(summary, hard):
        cells = (number(aim.value), number(aim.must), number(aim.goal))
        lines.append(f"| {aim.text} | {' | '.join(cells)} | {aim.verdict} |")
    parts.insert(1, "## Aims\n" + "\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _heading(result: Mapping[str, Any]) -> str:
    machine, load = result["machine"], result["load"]
    foreign = ", ".join(f"{share:.0%}" for share in result["foreign_cpu_share"]) or "-"
    return (
        f"# Version {result['version']}, commit {result['commit']}\n"
        f"Measured {result['measured_at']} on {machine['cpu']}, {machine['cores']} cores, "
        f"{machine['system']}, ledger on {machine['ledger_filesystem']}; Python {result['python']}. "
        f"The gateway alone on core {load['gateway_core']}, upstream and load on core "
        f"{load['load_core']}; {load['rounds']} rounds, {load['seconds_a_phase']:g} s a phase. "
        f"Other programs used {foreign} of the machine in the rounds."
    )


def _table(result: Mapping[str, Any], columns: Mapping[str, tuple[str, ...]]) -> str:
    lines = ["| | " + " | ".join(columns) + " |", "|---|" + "--:|" * len(columns)]
    for name, target in result["targets"].items():
        title = f"**{name}**" if name == "ours" else name
        found = result["summary"].get(name)
        if found is None:
            reason = " ".join(str(target.get("unavailable", "not measured")).split())
            lines.append(f"| {title} | {reason[:300].replace('|', '/')} |" + " |" * (len(columns) - 1))
            continue
        cells = (" / ".join(_ranged(found.get(key)) for key in keys) for keys in columns.values())
        lines.append(f"| {title} {target['version']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _ranged(found: Range | None) -> str:
    if found is None:
        return "-"
    low, high = number(found["min"]), number(found["max"])
    median = number(found["median"])
    return median if low == high else f"{median} ({low}-{high})"


def number(value: float | None) -> str:
    """Write a number with three digits that count, "-" for none."""
    if value is None:
        return "-"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _described(result: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, target in result["targets"].items():
        errors = ", ".join(f"{count} x {kind}" for kind, count in target["errors"].items())
        failed = "".join(f"; {phase} failed: {why}" for phase, why in target["failed"].items())
        lines.append(f"- {name}: {target['does']}. Errors under load: {errors or 'none'}{failed}")
    return lines
