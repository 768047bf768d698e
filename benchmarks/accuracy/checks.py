"""What must hold whatever the words are: wrappings and images change nothing; speed, size, memory, load."""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.accuracy.rows import Rows
from benchmarks.accuracy.wrappings import wrapped
from router.classifier import judging
from router.classifier.features import joined
from router.classifier.model import ARTEFACT, Classifier
from router.classifier.prompt import Turn, read
from router.wire import parse_request

SPEED_LENGTHS = (100, 600, 2_000, 20_000)
ROUNDS = 3
FRESH = 5
# A cut text loses its tail's wrapping in the service as well; what is compared here fits in whole.
WRAPPED_CHARS = 2_500
_PIXEL = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="
_LOAD = """
import json, sys, time
from pathlib import Path
import msgspec, numpy, zipfile

def rss_kib():
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])

before = rss_kib()
began = time.perf_counter()
from router.classifier.model import Classifier
from router.classifier.prompt import Prompt
imported = time.perf_counter()
classifier = Classifier.load(Path(sys.argv[1]) if sys.argv[1:] else None)
loaded = time.perf_counter()
classifier.classify(Prompt("Why does my parser fail on empty files?"))
print(json.dumps({
    "import_ms": 1e3 * (imported - began),
    "load_ms": 1e3 * (loaded - imported),
    "added_mib": (rss_kib() - before) / 1024,
}))
"""


def messages_of(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a row's chat messages."""
    return record.get("messages") or [{"role": "user", "content": record["text"]}]


def same_wrapped(rows: Rows, classifier: Classifier) -> dict[str, Any]:
    """Wrap every user message of every row; return the share whose class and whose text stay the same.

    The requests go through the service's own reading of a body.
    """
    chance = random.Random(11)
    same_class, same_text, compared = 0, 0, 0
    for record in rows.records:
        messages = messages_of(record)
        if any(len(str(message.get("content"))) > WRAPPED_CHARS for message in messages):
            continue
        dressed = [
            message | {"content": wrapped(message["content"], chance)}
            if message["role"] == "user" and isinstance(message.get("content"), str)
            else message
            for message in messages
        ]
        plain, clad = _read(messages), _read(dressed)
        compared += 1
        same_text += joined(plain) == joined(clad)
        same_class += classifier.classify(plain).category == classifier.classify(clad).category
    return {
        "rows": compared,
        "same_class": round(same_class / compared, 5),
        "same_text": round(same_text / compared, 5),
    }


def images_seen(rows: Rows) -> dict[str, Any]:
    """Put an image into one user message of every row; return the share that is read as vision."""
    chance = random.Random(12)
    seen = 0
    for record in rows.records:
        messages = [dict(message) for message in messages_of(record)]
        asked = chance.choice([message for message in messages if message["role"] == "user"])
        image = {"type": "image_url", "image_url": {"url": _PIXEL}}
        words = asked["content"]
        parts = [{"type": "text", "text": words}] if isinstance(words, str) else list(words)
        asked["content"] = chance.choice(([image, *parts], [*parts, image]))
        seen += _read(messages).has_image
    return {"rows": len(rows), "seen": round(seen / len(rows), 5)}


def _read(messages: list[dict[str, Any]]) -> Any:
    body = parse_request(json.dumps({"model": "auto", "messages": messages}).encode())
    return read([Turn(m.role, m.texts, m.images > 0, m.has_tool_calls) for m in body.messages])


def speed(rows: Rows, load: Callable[[], Classifier]) -> dict[str, dict[str, float]]:
    """Return medians by length, in us: of three rounds over the rows' own texts the fastest."""
    texts = rows.texts
    random.Random(13).shuffle(texts)
    # Each round has a classifier of its own, which remembers nothing of the texts.
    rounds = [judging.latency(load(), texts, SPEED_LENGTHS) for _ in range(ROUNDS)]
    return {
        length: {name: min(found[length][name] for found in rounds) for name in rounds[0][length]}
        for length in rounds[0]
    }


def fresh(model: Path | None = None) -> dict[str, float]:
    """Load a classifier in new processes; return its size and the medians of memory and times.

    Without `model` it is the packaged one. The memory is what the classifier's modules, arrays and one answer
    add to a process that has numpy and msgspec already, as the service has.
    """
    given = [str(model.resolve())] if model else []
    runs = [
        json.loads(
            subprocess.run(
                [sys.executable, "-c", _LOAD, *given],
                cwd=Path(__file__).parents[2],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        for _ in range(FRESH)
    ]
    size = sum(
        path.stat().st_size for path in (model or ARTEFACT).iterdir() if path.suffix in {".npz", ".json"}
    )
    medians = {name: round(statistics.median(run[name] for run in runs), 1) for name in runs[0]}
    return {"artefact_mb": round(size / 1e6, 2), **medians}
