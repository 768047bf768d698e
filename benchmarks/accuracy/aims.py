"""Hold the measured figures against what was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.report import Aim

LARGEST = 10


def aims(result: Mapping[str, Any]) -> list[Aim]:
    """Return the lines of the table of aims; what was not measured has no value."""
    unseen = result.get("leave_sources_out") or {}
    follow_ups = unseen.get("accuracy_by_form", {}).get("follow-up", {})
    language, worst = worst_of_largest(unseen)
    speed, fresh = result["speed_us"], result["fresh"]
    return [
        Aim("accuracy, leave-sources-out", unseen.get("accuracy"), 0.80, 0.88, at_least=True),
        Aim("macro-F1, leave-sources-out", unseen.get("macro_f1"), 0.78, 0.86, at_least=True),
        Aim(f"worst of the ten largest languages ({language})", worst, 0.70, 0.82, at_least=True),
        Aim("follow-ups in conversation", follow_ups.get("accuracy"), 0.85, 0.93, at_least=True),
        Aim("same class wrapped and plain", result["wrapped"]["same_class"], 0.98, 1, at_least=True),
        Aim("images seen", result["images"]["seen"], 1, at_least=True),
        Aim("ECE, leave-sources-out", unseen.get("ece"), 0.05, 0.03),
        Aim("p50 at 100 characters, us", speed["100"]["both"], 40, 20),
        Aim("p50 at 600 characters, us", speed["600"]["both"], 80, 50),
        Aim("p50 at 20,000 characters, us", speed["20000"]["both"], 250, 150),
        Aim("artefact, MB", fresh["artefact_mb"], 8, 4),
        Aim("added memory, MiB", fresh["added_mib"], 40, 20),
        Aim("load, ms", fresh["load_ms"], 150, 50),
    ]


def worst_of_largest(figures: Mapping[str, Any]) -> tuple[str, float | None]:
    """Return the language of the lowest accuracy among the ten with the most rows."""
    # Rows stand in the order of their number, the largest first.
    largest = list(figures.get("accuracy_by_language", {}).items())[:LARGEST]
    if not largest:
        return "-", None
    name, part = min(largest, key=lambda item: item[1]["accuracy"])
    return name, part["accuracy"]
