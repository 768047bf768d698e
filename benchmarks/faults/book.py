"""The driver's own book: what each client got and what the upstream sent it, and a ledger's audit by it.

A token here is a word of four bytes: a stream's delta of its own, or a part of a whole answer's text. The
router counts either as one token, so its estimates can be checked to the token too.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from decimal import Decimal
from typing import Any, Literal

import msgspec

from router.ledger.rows import Row

INPUT_NUSD, OUTPUT_NUSD = 1_000, 2_000  # a token, at both offers
PROMPT_TOKENS = 50  # what the upstream reports
MODELS = ("fault/first", "fault/second")
SHOWN = 5

Outcome = Literal["open", "whole", "cut", "refused", "failed", "left"]
Route = Literal["chat", "responses"]


class Plan(msgspec.Struct, frozen=True):
    """How the upstream answers one request, written into its prompt; times in milliseconds.

    `stop` says after how many tokens it breaks off, `leave` after how many the client goes away (0: before
    the first one). `refuse` makes the first model answer 500. `gate` waits for the driver before the end.
    `reported` are the tokens that its usage names, where they are not those that it sends. `route` is the API
    that the client speaks; the upstream is asked for a chat completion either way.
    """

    stream: bool
    tokens: int
    first_ms: float = 0.0
    gap_ms: float = 0.0
    usage: bool = True
    refuse: bool = False
    stop: int | None = None
    leave: int | None = None
    gate: bool = False
    reported: int | None = None
    route: Route = "chat"


def mixed_plan(random_: random.Random, *, leaving: float = 0.03, route: Route = "chat") -> Plan:
    """Return one request of the mixed load: half are streams, a tenth report no usage, a few break."""
    stream = random_.random() < 0.5
    tokens = random_.randint(4, 40)
    return Plan(
        stream=stream,
        tokens=tokens,
        first_ms=random_.uniform(0, 30),
        gap_ms=random_.choice((0.0, 1.0, 3.0)),
        usage=random_.random() >= 0.1,
        refuse=random_.random() < 0.02,
        stop=random_.randint(1, tokens - 1) if stream and random_.random() < 0.02 else None,
        leave=random_.randint(0, tokens) if random_.random() < leaving else None,
        route=route,
    )


@dataclass(slots=True)
class Entry:
    """One request: `tokens` are those that reached the client, `sent` those that left the upstream."""

    id: str
    plan: Plan
    outcome: Outcome = "open"
    status: int | None = None
    tokens: int = 0
    usage: dict[str, Any] | None = None
    sent: int = 0
    calls: int = 0
    detail: str = ""
    replayed: bool = False
    body: bytearray = field(default_factory=bytearray, repr=False)
    head: bytes = field(default=b"", repr=False)

    def told_nusd(self) -> int | None:
        """Return what the client was told that it costs."""
        return None if self.usage is None else int(Decimal(str(self.usage["cost"])) * 10**9)


@dataclass(slots=True)
class Verdict:
    """What an audit found; every count in `faults` must be 0."""

    faults: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    settled: int = 0
    estimated: int = 0
    released: int = 0
    charged_unseen: int = 0
    tokens_received: int = 0
    tokens_billed: int = 0
    tokens_sent: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Say whether no fault was found."""
        return not self.faults.total()

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        own = {item.name: getattr(self, item.name) for item in fields(self)}
        return own | {"faults": dict(self.faults), "outcomes": dict(self.outcomes)}

    def fault(self, kind: str, entry: Entry | str, why: str) -> None:
        """Count a fault and keep a few of them to look at."""
        self.faults[kind] += 1
        if len(self.examples) < SHOWN:
            self.examples.append(f"{kind}: {why}: {entry}")


KINDS = ("lost", "unbilled", "doubled", "wrong", "phantom", "open", "unbalanced")


def audit(book: dict[str, Entry], rows: Iterable[Row], differences: int = 0) -> Verdict:
    """Compare a ledger with the book.

    lost: something was delivered and there is no row; unbilled: delivered and not charged; doubled: two ends
    of a hold or two charges of a request; wrong: an amount, a count of tokens or a model that cannot be;
    phantom: a charge for what the upstream never sent, or of a request that nobody made; open: a hold
    without an end; unbalanced: a sum that the rows do not add up to.

    What was on its way when a process died counts as delivered, for nobody can know: it is charged, at most
    as much as the upstream sent (`charged_unseen`, where nothing of it arrived).
    """
    verdict = Verdict(Counter(dict.fromkeys(KINDS, 0)))
    verdict.faults["unbalanced"] = differences
    found = _by_request(book, rows, verdict)
    for entry in book.values():
        verdict.outcomes[entry.outcome] += 1
        own = found.get(entry.id, [])
        settles = _audit_one(entry, own, verdict)
        if entry.tokens and not own:
            verdict.fault("lost", entry, "tokens without a row")
        elif entry.tokens and not settles:
            verdict.fault("unbilled", entry, "tokens without a charge")
        if settles > 1:
            verdict.fault("doubled", entry, f"{settles} charges")
    return verdict


def audit_keys(asked: Mapping[str, Sequence[Entry]], rows: Iterable[Row], differences: int = 0) -> Verdict:
    """Compare a ledger with the tries of every idempotency key, in their order.

    As `audit`, and over all tries of a key: one charge, a new answer only after a broken one (else `again`),
    and what is given again is what was given, of which a client may have a part already (else `unequal`).
    """
    verdict = Verdict(Counter(dict.fromkeys((*KINDS, "again", "unequal"), 0)))
    verdict.faults["unbalanced"] = differences
    found = _by_request({entry.id: entry for tries in asked.values() for entry in tries}, rows, verdict)
    for key, tries in asked.items():
        verdict.outcomes[tries[-1].outcome] += 1
        settles = 0
        for entry in tries:
            own = found.get(entry.id, [])
            charged = _audit_one(entry, own, verdict)
            settles += charged
            if entry.tokens and not entry.replayed and not own:
                verdict.fault("lost", entry, "tokens without a row")
            elif entry.calls and entry.told_nusd() and not charged:  # a replay tells the first answer's cost
                verdict.fault("wrong", entry, "told a cost that was not charged")
        if settles != 1 and (settles or any(entry.tokens for entry in tries)):
            verdict.fault("doubled" if settles else "unbilled", tries[-1], f"{key} has {settles} charges")
        _audit_answers(key, tries, verdict)
    return verdict


def _audit_answers(key: str, tries: Sequence[Entry], verdict: Verdict) -> None:
    made = [entry for entry in tries if entry.calls]
    for entry in made[:-1]:
        if entry.outcome == "whole":
            verdict.fault("again", entry, f"{key} was answered, and then answered anew")
    for entry in tries:
        if entry.replayed and entry.calls:
            verdict.fault("again", entry, f"{key} was answered anew, and called it a replay")
        if entry.replayed and made and entry.outcome == "whole" and not entry.body.startswith(made[-1].body):
            verdict.fault("unequal", entry, f"{key} was not answered as before")


def _by_request(book: Mapping[str, Entry], rows: Iterable[Row], verdict: Verdict) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row.kind in ("hold", "settle", "release"):
            found[row.client_request_id or row.request_id].append(row)
    for stranger in found.keys() - book.keys():
        verdict.fault("phantom", stranger, "nobody made this request")
    return found


def _audit_one(entry: Entry, rows: list[Row], verdict: Verdict) -> int:
    """Audit the rows of one request and return how many of them charge."""
    verdict.tokens_received += entry.tokens
    verdict.tokens_sent += entry.sent
    ends: Counter[str] = Counter(row.request_id for row in rows if row.kind != "hold")
    for hold in (row for row in rows if row.kind == "hold"):
        if ends[hold.request_id] != 1:
            kind = "doubled" if ends[hold.request_id] else "open"
            verdict.fault(kind, entry, f"{hold.request_id} has {ends[hold.request_id]} ends")
    settles = [row for row in rows if row.kind == "settle"]
    verdict.released += sum(row.kind == "release" for row in rows)
    for row in settles:
        verdict.settled += 1
        verdict.estimated += row.estimated
        verdict.tokens_billed += row.completion_tokens or 0
        verdict.charged_unseen += not entry.tokens
        if not entry.sent:
            verdict.fault("phantom", entry, "charged, and the upstream sent nothing")
        elif why := _wrong(entry, row):
            verdict.fault("wrong", entry, f"{why}: {row}")
    return len(settles)


def _wrong(entry: Entry, row: Row) -> str | None:
    prompt, completion = row.prompt_tokens or 0, row.completion_tokens or 0
    if not max(1, entry.tokens) <= completion <= entry.sent:
        return f"{completion} tokens billed, {entry.tokens} received and {entry.sent} sent"
    if row.amount_nusd != prompt * INPUT_NUSD + completion * OUTPUT_NUSD:
        return "the amount is not the price of its tokens"
    if row.upstream_cost_nusd != row.amount_nusd:
        return "the upstream's cost is not the charge, with a markup of 1"
    if row.model not in MODELS:
        return "nobody asked for that model"
    if not row.estimated and prompt != PROMPT_TOKENS:
        return "not the prompt tokens that were reported"
    told = entry.told_nusd()
    if told is not None and told != row.amount_nusd:
        return f"the client was told {told} nano-USD"
    return None
