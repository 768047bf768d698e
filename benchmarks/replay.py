"""Log decisions, replay them with `router replay`, and say what both take.

    uv run python -m benchmarks.replay [--decisions 100000]

The decisions are made over the shipped catalog with every key set, with live tables, conversations, caps and
price windows in them. They are replayed by the command itself, twice: on the same catalog, which must
reproduce every one of them, and on a copy with prices of one model edited. Exit status 1 when one is not
reproduced, or when the slower of the two takes more than 30 s for 100,000.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from router.catalog.files import load_catalog, read_providers
from router.catalog.price import Tokens, cost_nusd, price_at
from router.catalog.snapshot import MODES, Category, Snapshot
from router.routing.decide import Blocked, Categorised, Decision, Live, decide
from router.routing.need import Asked, Need, Pinned
from router.routing.recorded import Actual
from router.routing.recorder import Recorder
from router.telemetry.decisions import DecisionLog

CATALOG = Path(__file__).parents[1] / "models_catalog"
ALLOWED_S = 30.0
TABLES = 50
TEXTS: tuple[Category, ...] = ("simple", "coding", "reasoning")


def needs(chance: random.Random, snapshot: Snapshot, at: datetime) -> Need:
    """Return what a request might need."""
    offers = [o for model in snapshot.models.values() for o in model.offers]
    pinned = None
    if chance.random() < 0.4:
        offer = chance.choice(offers)
        pinned = Pinned(offer.model, *offer.key, chance.randrange(50_000), chance.choice(TEXTS))
    named = chance.choice(list(snapshot.models)) if chance.random() < 0.1 else None
    prompt_tokens = int(10 ** chance.uniform(1.5, 5))
    return Need(
        asked=Asked(named or "auto", named is None, None, named, (), None),
        mode=chance.choices(MODES, (1, 6, 1, 1, 1))[0],
        prompt_tokens=prompt_tokens,
        prompt_tokens_bound=prompt_tokens * 2,
        output_tokens=chance.choice([None, None, 500, 4_000]),
        choices=1,
        images=int(chance.random() < 0.05),
        tools=chance.random() < 0.3,
        json_schema=chance.random() < 0.05,
        json_mode=chance.random() < 0.1,
        reasoning=chance.random() < 0.1,
        allow=(),
        deny=(),
        key_models=(),
        max_cost_nusd=10**9 if chance.random() < 0.05 else None,
        session="s" if pinned else None,
        at=at,
        pinned=pinned,
    )


def tables(chance: random.Random, snapshot: Snapshot) -> list[Live]:
    """Return live tables as a service publishes them one after another."""
    keys = [o.key for model in snapshot.models.values() for o in model.offers]
    return [
        Live(
            f"table{number}",
            {key: (chance.uniform(0.1, 5), chance.uniform(10, 500)) for key in chance.sample(keys, 60)},
            {"coding": chance.randrange(300, 3_000)},
            {keys[number]: Blocked("cooling", 9, "rests")} if number % 5 == 0 else {},
        )
        for number in range(TABLES)
    ]


def happened(chance: random.Random, decision: Decision) -> Actual:
    """Return what may have become of a request."""
    chosen = decision.chosen
    if chosen is None:
        return Actual("nothing_fits", 0.001)
    need, offer = decision.need, chosen.offer
    cached_tokens = need.prompt_tokens // 2 if need.pinned else 0
    tokens = Tokens(need.prompt_tokens, chance.randrange(20, 3_000), cached_tokens)
    asked_nusd = cost_nusd(price_at(offer, need.at, tokens.prompt), tokens)
    return Actual(
        outcome="ok",
        seconds=chosen.seconds,
        model=offer.model,
        provider=offer.provider,
        upstream_model=offer.upstream_model,
        attempts=1,
        stream=True,
        prompt_tokens=tokens.prompt,
        completion_tokens=tokens.completion,
        cached_tokens=tokens.cached,
        charged_nusd=asked_nusd,
        upstream_nusd=asked_nusd,
        first_s=0.5,
    )


def record(data: Path, count: int) -> str:
    """Make a log and return the model that was chosen most; prints what deciding and logging took.

    A quiet router's lines are full; a busy one's lack the ranking (see `Recorder`), so a second log is timed.
    """
    environ = {p.key_env: "x" for p in read_providers(CATALOG).values() if p.key_env is not None}
    snapshot = load_catalog(CATALOG, environ=environ, today=datetime.now(UTC).date())
    chance, now = random.Random(2), datetime.now(UTC)
    published = tables(chance, snapshot)
    log = DecisionLog(data / "decisions", delayed=False)
    busy_log = DecisionLog(data / "busy", delayed=False)
    recorder, busy = Recorder(log), Recorder(busy_log, full_a_second=0)
    decide_s = note_s = busy_s = 0.0
    chosen: Counter[str] = Counter()
    for number in range(count):
        at = now - timedelta(seconds=(count - number) * 5 * 86_400 / count)
        need, live = needs(chance, snapshot, at), published[number * TABLES // count]
        share = chance.uniform(0.3, 1)
        category = chance.choice(TEXTS)
        shares: dict[Category, float] = dict.fromkeys(TEXTS, (1 - share) / 2)
        shares[category] = share
        categorised = Categorised() if need.asked.model else Categorised(category, shares, share)
        began_s = time.perf_counter()
        decision = decide(need, categorised, snapshot, live, snapshot.policy)
        decided_s = time.perf_counter()
        actual = happened(chance, decision)
        chosen[actual.model or ""] += need.asked.auto
        request_id = f"req_{number:032x}"
        before_s = time.perf_counter()
        busy.note(decision, snapshot, live, actual, request_id=request_id, stripped=False)
        between_s = time.perf_counter()
        recorder.note(decision, snapshot, live, actual, request_id=request_id, stripped=False)
        note_s += time.perf_counter() - between_s
        busy_s += between_s - before_s
        decide_s += decided_s - began_s
    print(f"logged {count:,}: decide {decide_s / count * 1e6:.1f} us")
    for name, written, took_s in (("full", log, note_s), ("busy", busy_log, busy_s)):
        written.close()
        folder = data / ("decisions" if name == "full" else name)
        size_bytes = sum(path.stat().st_size for path in folder.iterdir())
        print(f"  a {name} line: {took_s / count * 1e6:.1f} us, {size_bytes / count:.0f} bytes")
    return max(chosen, key=chosen.__getitem__)


def replay(data: Path, catalog: Path) -> tuple[dict[str, Any], float]:
    """Run the command; returns what it says and the seconds it takes."""
    command = [
        sys.executable,
        "-m",
        "router",
        "replay",
        "--json",
        "--data",
        str(data),
        "--catalog",
        str(catalog),
    ]
    began_s = time.monotonic()
    ran = subprocess.run(command, capture_output=True, check=False)
    took_s = time.monotonic() - began_s
    if not ran.stdout:
        raise SystemExit(ran.stderr.decode())
    return json.loads(ran.stdout), took_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--decisions", type=int, default=100_000)
    count = parser.parse_args().decisions
    with tempfile.TemporaryDirectory() as folder:
        data, edited = Path(folder) / "data", Path(folder) / "catalog"
        favourite = record(data, count)
        same, same_s = replay(data, CATALOG)
        found = same["same_catalog"]
        print(f"same catalog: reproduced {found['reproduced']:,} of {found['requests']:,} in {same_s:.1f} s")
        shutil.copytree(CATALOG, edited)
        file = edited / "models" / f"{favourite}.toml"
        file.write_text(re.sub(r"(price = \{ input = )(?=\d*\.\d)", r"\g<1>9", file.read_text()))
        other, other_s = replay(data, edited)
        total = other["total"]
        cost = total["cost_usd"]
        print(
            f"{favourite} dearer: {total['moved']:,} of {total['requests']:,} move, {cost['before']:.2f} -> "
            f"{cost['after']:.2f} USD, in {other_s:.1f} s"
        )
    slow = max(same_s, other_s) > ALLOWED_S * count / 100_000
    raise SystemExit(int(slow or found["reproduced"] != count or total["moved"] == 0))


if __name__ == "__main__":
    main()
