"""Measure the classifier where it was not trained: `python -m benchmarks.accuracy`.

    uv run --group bench python -m benchmarks.accuracy
    uv run --group bench python -m benchmarks.accuracy --data rows.jsonl --routing DIR --minilm
    uv run --group bench python -m benchmarks.accuracy --data rows.jsonl --speed

Fits models on the project's own corpus and on --data, with whole sources and whole languages held out, and
sets the packaged model's speed and size beside them; with --speed only these, in the last result. Writes
results/<version>.json, .md and .svg files. What each figure means, and what the figures do not show, is in
benchmarks/accuracy/README.md.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import installs
from benchmarks.accuracy import checks, minilm, page, peers, routing
from benchmarks.accuracy.curve import curve
from benchmarks.accuracy.draw import draw
from benchmarks.accuracy.rows import (
    Rows,
    Say,
    fitted,
    held_out,
    judged,
    language_folds,
    read_rows,
    source_folds,
)
from benchmarks.machine import surroundings
from benchmarks.site import Unavailable
from router import __version__
from router.classifier import judging, training
from router.classifier.examples import DataFault
from router.classifier.model import Classifier

RESULTS = Path(__file__).parent / "results"
CHECK = Path(__file__).parent / "check"
LANGUAGE_FOLDS = 12
CURVE_ORDERS = 2
MINILM_ROWS = 4_000


def measure(given: argparse.Namespace, say: Say) -> dict[str, Any]:
    """Return everything that was measured; raises DataFault for a file that cannot be used."""
    rows = read_rows([*training.packaged(), *given.data], tuple(given.drop_licence))
    own = rows.where(lambda example: example.own)
    others = rows.where(lambda example: not example.own)
    packaged = Classifier.load(given.model)
    temperature = float(packaged.facts["temperature"])
    result: dict[str, Any] = (
        surroundings(Path.cwd())
        | {
            "data": {"rows": len(rows), "own": len(own), "others": len(others)},
            "quick": given.quick,
            "packaged": {"rows": packaged.facts["data"]["rows"], "temperature": temperature},
            "wrapped": checks.same_wrapped(rows, packaged),
            "images": checks.images_seen(rows),
        }
        | speed(rows, given.model)
    )
    check = read_rows(sorted(CHECK.glob("*.jsonl")))
    result["check"] = judged(check, judging.answers(packaged, check.prompts))
    folds = source_folds(rows) if len(others) else []
    if len(others):
        # Each fold finds its own temperature on its own rows; nothing of the judged ones reaches it.
        found, numbers = held_out(rows, folds, say, temperature if given.quick else None)
        result["leave_sources_out"] = judged(rows.at(numbers), found)
        say("the corpus alone")
        result["own_only"] = judged(others, judging.answers(fitted(own), others.prompts))
    found, numbers = held_out(rows, language_folds(rows, LANGUAGE_FOLDS), say, temperature)
    result["leave_languages_out"] = judged(rows.at(numbers), found)
    result["curve"] = {"corpus alone": curve(own, say, temperature, 1 if given.quick else CURVE_ORDERS)}
    if len(others) and not given.quick:
        result["curve"]["corpus and --data"] = curve(rows, say, temperature, 1)
    result["peers"] = _peers(rows, folds or language_folds(rows, LANGUAGE_FOLDS), given, say)
    if given.routing is not None:
        say("routing between two models")
        result["routing"] = routing.measure(given.routing, rows, packaged, temperature)
    return result


def speed(rows: Rows, model: Path | None) -> dict[str, Any]:
    """Return latency by length, size, memory and times of the packaged model or of another."""
    now = surroundings(Path.cwd())
    return {
        "speed_us": checks.speed(rows, lambda: Classifier.load(model)),
        "fresh": checks.fresh(model),
        "speed_of": {name: now[name] for name in ("commit", "measured_at")},
    }


def speed_anew(given: argparse.Namespace) -> dict[str, Any]:
    """Return the last result with its speed measured anew; raises OSError where there is none."""
    last: dict[str, Any] = json.loads((given.out / f"{__version__}.json").read_text(encoding="utf-8"))
    rows = read_rows([*training.packaged(), *given.data], tuple(given.drop_licence))
    return last | speed(rows, given.model)


def _peers(rows: Rows, folds: Sequence[int], given: argparse.Namespace, say: Say) -> dict[str, Any]:
    """Return the figures of the reference points on the rows that are judged, or why there are none."""
    seen = [number for number, fold in enumerate(folds) if fold != -1]
    found: dict[str, Any] = {}
    for name in peers.KEYWORD_ROUTERS:
        say(name)
        try:
            found[name] = peers.keyword_router(name, rows.at(seen), given.peers)
        except Unavailable as reason:
            found[name] = {"unavailable": _plainly(str(reason))}
    if not given.quick:
        scores, numbers = peers.baseline(rows, folds, say)
        us = peers.baseline_us(rows)
        found["hashed n-grams, logistic regression"] = judged(rows.at(numbers), scores) | {"us": us}
    if given.minilm:
        # It takes tens of milliseconds a prompt, so it is held to a sample.
        some = sorted(random.Random(0).sample(range(len(rows)), min(MINILM_ROWS, len(rows))))
        name = f"MiniLM, 15 nearest neighbours, {len(some):,} rows"
        try:
            scores, numbers, us = minilm.neighbours(rows.at(some), [folds[n] for n in some], given.peers, say)
            found[name] = judged(rows.at(some).at(numbers), scores) | {"us": us}
        except Unavailable as reason:
            found[name] = {"unavailable": _plainly(str(reason))}
    return found


def _plainly(reason: str) -> str:
    """Return why a peer cannot be had, in a few words and without the paths of this machine."""
    return (
        "its registry does not have it"
        if "404" in reason
        else re.sub(r"(?:/[\w.@-]+){2,}", "...", reason)[:160]
    )


def main() -> None:
    """Measure, print the page, write the files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, nargs="*", default=[], help="labelled lines beside the corpus")
    parser.add_argument("--drop-licence", nargs="*", default=[], metavar="NAME", help="leave out such rows")
    parser.add_argument("--routing", type=Path, help="a folder of {benchmark, prompt, weak, strong} lines")
    parser.add_argument("--model", type=Path, help="measure this model's speed; default: the packaged one")
    parser.add_argument("--minilm", action="store_true", help="run the MiniLM reference, some minutes")
    parser.add_argument("--speed", action="store_true", help="measure only speed and size, half a minute")
    parser.add_argument("--quick", action="store_true", help="leave out what takes minutes")
    parser.add_argument("--peers", type=Path, default=installs.cache(), help="where peers are installed")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the result is written")
    parser.add_argument("--readme", action="store_true", help="write the summary into README.md as well")
    given = parser.parse_args()
    began = time.monotonic()

    def say(step: str) -> None:
        print(f"{time.monotonic() - began:6.0f} s  {step}", file=sys.stderr, flush=True)

    try:
        result = speed_anew(given) if given.speed else measure(given, say)
    except (DataFault, OSError) as fault:
        parser.exit(1, f"{fault}\n")
    given.out.mkdir(parents=True, exist_ok=True)
    path = given.out / f"{result['version']}.json"
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    written = page.page(result)
    path.with_suffix(".md").write_text(written, encoding="utf-8")
    print(written)
    if given.readme:
        page.laid(Path(__file__).with_name("README.md"), page.summary(result))
    # What is drawn has no speed in it.
    drawn = [] if given.speed else draw(result, given.out)
    say("written: " + ", ".join(str(made) for made in [path, *drawn]))


if __name__ == "__main__":
    main()
