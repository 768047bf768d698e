"""Break the service on purpose and audit its ledger: `python -m benchmarks.faults NAME`.

Each exits with 1 when the audit finds a fault. `kill`, `pay` and `storage` take minutes, the others seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.faults import disk, kill, leave, pay, replicas, stop, storage
from benchmarks.faults.book import Verdict
from benchmarks.faults.paid import Paid
from benchmarks.machine import surroundings

NAMES = ("kill", "pay", "stop", "leave", "disk", "replicas", "storage")
KILLS, PAY_KILLS = 20, 22
REDIS_KILLS = 5


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.faults",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=NAMES)
    parser.add_argument(
        "--requests",
        type=int,
        help="default: 10,000 (kill), 400 (pay; 100 with --chain), 50 (stop), 1,000 (the others; replicas:"
        " what the credit pays for)",
    )
    parser.add_argument("--at-once", type=int, default=32, help="requests at once (default 32)")
    parser.add_argument(
        "--kills", type=int, help="kills a seed, stops of PostgreSQL (default 20; pay: 22, each moment twice)"
    )
    parser.add_argument(
        "--pause-s", type=float, default=10.0, help="storage: PostgreSQL's pause (default 10)"
    )
    parser.add_argument("--seeds", type=int, default=3, help="how often, each with its own seed (default 3)")
    parser.add_argument("--keys", action="store_true", help="kill: clients retry with Idempotency-Key")
    parser.add_argument(
        "--workers", type=int, default=1, help="kill, pay: processes; half the kills hit one of them"
    )
    parser.add_argument(
        "--postgres", action="store_true", help="kill, pay: keep the books in a private PostgreSQL"
    )
    parser.add_argument(
        "--chain", action="store_true", help="pay: over anvil and the published facilitator (needs npm, uv)"
    )
    parser.add_argument(
        "--forgets",
        action="store_true",
        help="pay: a facilitator that does not tell again what it has settled, as the published one",
    )
    parser.add_argument(
        "--first",
        action="store_true",
        help="pay: wallets that pay before the upstream is asked, for places that are few",
    )
    parser.add_argument(
        "--route",
        choices=("chat", "responses"),
        default="chat",
        help="kill, leave, pay: the API of the clients",
    )
    parser.add_argument("--tmpfs", action="store_true", help="disk: fill a small file system (needs mount)")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    return parser.parse_args()


def measure(told: argparse.Namespace) -> tuple[list[Verdict], list[dict[str, Any]]]:
    """Run what was asked for."""
    if told.name == "kill":
        how = kill.How(told.keys, told.workers, told.postgres, told.route)
        return kill.run(told.requests or 10_000, told.at_once, told.kills or KILLS, told.seeds, how)
    if told.name == "replicas":
        return replicas.run(told.requests or 1_000, told.at_once)
    if told.name == "storage":
        return storage.run(told.kills or KILLS, told.pause_s, REDIS_KILLS, told.at_once)
    seeds = range(1, told.seeds + 1)
    if told.name == "stop":
        found = [asyncio.run(stop.run(told.requests or 50)) for _ in seeds]
    elif told.name == "leave":
        found = [
            asyncio.run(leave.run(told.requests or 1_000, told.at_once, seed, told.route)) for seed in seeds
        ]
    else:
        found = [
            asyncio.run(disk.run(told.requests or 1_000, told.at_once, seed, tmpfs=told.tmpfs))
            for seed in seeds
        ]
    return [verdict for verdict, _ in found], [about for _, about in found]


def summary(name: str, verdicts: Sequence[Verdict], about: Sequence[dict[str, Any]]) -> str:
    """Write the figures of all seeds together."""
    total = Verdict()
    for verdict in verdicts:
        for part in ("faults", "outcomes"):
            getattr(total, part).update(getattr(verdict, part))
        for part in ("settled", "estimated", "released", "charged_unseen"):
            setattr(total, part, getattr(total, part) + getattr(verdict, part))
        for part in ("tokens_received", "tokens_billed", "tokens_sent"):
            setattr(total, part, getattr(total, part) + getattr(verdict, part))
    lines = [
        f"{name}: {total.outcomes.total():,} requests, runs {len(verdicts)}: {_counts(total.outcomes)}",
        f"ends: {total.settled:,} settled ({total.estimated:,} of them estimated),"
        f" {total.released:,} released; {total.charged_unseen} charged of which nothing arrived",
    ]
    if name != "replicas":  # there the upstream names more than it sends
        sign = "," if any("tries" in one for one in about) else " <="  # a replay is received again
        lines.append(
            f"tokens: {total.tokens_received:,} received{sign} {total.tokens_billed:,} billed{sign}"
            f" {total.tokens_sent:,} sent"
        )
    if name == "kill":
        ready = sorted(second for one in about for second in one["ready_s"])
        ended = [second for one in about for second in one["holds_ended_s"]]
        lines.append(
            f"{len(ready)} kills: restart to ready p50 {ready[len(ready) // 2]:.2f} s,"
            f" p95 {ready[len(ready) * 95 // 100]:.2f} s; holds ended at most {max(ended):.2f} s after that;"
            f" {sum(one['broken_by_a_kill'] for one in about)} requests broken by a kill"
        )
        if "tries" in about[0]:
            names = ("tries", "answered_anew", "replayed_after_a_kill", "refused_while_running")
            sums = (f"{sum(one[name] for one in about):,} {name.replace('_', ' ')}" for name in names)
            lines.append(f"keys: {total.outcomes.total():,}, {', '.join(sums)}")
    else:
        lines += [json.dumps(one) for one in about]
    found = Counter({kind: count for kind, count in total.faults.items() if count})
    lines.append(f"faults: {_counts(found) if found else 'none of ' + ', '.join(total.faults)}")
    lines += [example for verdict in verdicts for example in verdict.examples]
    return "\n".join(lines)


def paid(told: argparse.Namespace) -> tuple[list[Paid], list[dict[str, Any]]]:
    """Run `pay`."""
    how = pay.How(
        told.workers,
        told.postgres,
        told.chain,
        remembers=not told.forgets,
        route=told.route,
        first=told.first,
    )
    at_once = min(told.at_once, 4 if told.chain else 12)  # the facilitator is in the driver's own process
    purchases = told.requests or (100 if told.chain else 400)
    return pay.run(purchases, at_once, told.kills or PAY_KILLS, told.seeds, how)


def paid_summary(verdicts: Sequence[Paid], about: Sequence[dict[str, Any]]) -> str:
    """Write the figures of all seeds of `pay` together."""
    outcomes, faults, moments = Counter[str](), Counter[str](), Counter[str]()
    for verdict, one in zip(verdicts, about, strict=True):
        outcomes.update(verdict.outcomes)
        faults.update(verdict.faults)
        moments.update(one["at"])
    found = Counter({kind: count for kind, count in faults.items() if count})
    return "\n".join(
        [
            f"pay: {outcomes.total():,} signatures in {sum(one['requests'] for one in about):,} paying"
            f" requests ({sum(one['found_full'] for one in about):,} found every place taken), runs"
            f" {len(verdicts)}: {_counts(outcomes)}",
            f"{sum(one['kills'] for one in about)} kills: {_counts(moments)}",
            f"{sum(verdict.unseen for verdict in verdicts)} charged of which nothing arrived (noted before it"
            f" is sent); recovery took at most {max(one['recovered_s'] for one in about)} s after the last",
            f"faults: {_counts(found) if found else 'none of ' + ', '.join(faults)}",
            *(example for verdict in verdicts for example in verdict.examples),
        ]
    )


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in counter.most_common())


def main() -> None:
    """Print the audit."""
    told = arguments()
    verdicts: Sequence[Verdict | Paid]
    if told.name == "pay":
        verdicts, about = bought = paid(told)
        text = paid_summary(*bought)
    else:
        verdicts, about = measured = measure(told)
        text = summary(told.name, *measured)
    machine = surroundings(Path.cwd())
    if told.json:
        print(json.dumps(machine | {"audits": [v.as_dict() for v in verdicts], "about": about}))
    else:
        print(f"{machine['machine']['cpu']}, {machine['machine']['cores']} cores, {machine['commit']}")
        print(text)
    sys.exit(not all(verdict.clean for verdict in verdicts))


if __name__ == "__main__":
    main()
