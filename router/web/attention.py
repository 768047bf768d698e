"""What needs the operator: everything that is wrong now, worst first, each with its fix."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Literal

from router.access.keys import ApiKey
from router.catalog.build import RETIRES_SOON_DAYS, STALE_PRICE_DAYS
from router.catalog.snapshot import Snapshot
from router.history.record import ABANDONED
from router.ledger.accounts import Account
from router.ledger.keysearch import Low
from router.routing.breaker import CALLERS_FAULTS, FAILED_SHARE, LEAST_CALLS, Alert
from router.running import Rejected, usable_offers
from router.web.words import usd

Level = Literal["bad", "warn"]
LOW_NUSD = 500_000_000
BUDGET_USED_PERCENT = 90
LOW = Low(LOW_NUSD, BUDGET_USED_PERCENT)
SHOWN = 5
RECENT_S = 600
# As outcomes of calls: what says nothing of the offer, and what one call is enough to tell of.
_NO_FAULTS = frozenset({"ok", ABANDONED, *CALLERS_FAULTS})
_OPERATORS_FAULTS = frozenset({"auth", "unpaid"})


@dataclass(frozen=True, slots=True)
class Matter:
    """One thing to look at; `lines` are its particulars."""

    level: Level
    title: str
    text: str
    lines: tuple[str, ...] = ()
    href: str = ""


def rejected_edit(rejected: Rejected | None) -> Iterator[Matter]:
    """Tell of files that were edited and do not serve."""
    if rejected is None:
        return
    faults = [str(fault) for fault in rejected.faults]
    yield Matter(
        "bad",
        "The last catalog edit is rejected",
        f"Since {rejected.at:%Y-%m-%d %H:%M} UTC the files do not pass; the revision before them serves on."
        " Mend these lines; they are read again at once.",
        _some(faults),
    )


def resting_offers(
    resting: Iterable[tuple[str, str, str]], why: dict[tuple[str, str], str], alerts: Sequence[Alert]
) -> Iterator[Matter]:
    """Tell of offers that rest after failures, and of what only the operator can mend.

    `resting` are (provider, upstream model, state) of every worker.
    """
    for alert in alerts:
        where = f"{alert.upstream_model} at {alert.provider}" if alert.upstream_model else alert.provider
        yield Matter("bad", f"{where}: {alert.detail.partition(';')[0]}", alert.detail.partition("; ")[2])
    told = {(alert.provider, alert.upstream_model) for alert in alerts}
    lines = [
        _rest(provider, model, why.get((provider, model)))
        for provider, model in sorted({(provider, model) for provider, model, _ in resting})
        if (provider, model) not in told and (provider, None) not in told
    ]
    if lines:
        some = "An offer rests" if len(lines) == 1 else f"{len(lines)} offers rest"
        yield Matter("warn", f"{some} after failures", "Others serve in their place meanwhile.", _some(lines))


def _rest(provider: str, model: str, why: str | None) -> str:
    where = f"{model} at {provider}"
    if why is None:
        return f"{where}: in another worker process; it is tried again now and then"
    return why if why.startswith(where) else f"{where}: {why}"


def failing_offers(
    calls: Mapping[tuple[str, str], Mapping[str, int]], told: Collection[tuple[str, str]]
) -> Iterator[Matter]:
    """Tell of offers most of whose calls failed lately, in whichever worker or replica that was.

    `calls` counts those of each (provider, model) by what came of them; `told` are offers that this process
    tells of already. What is the caller's fault counts as none.
    """
    lines = []
    for (provider, model), outcomes in sorted(calls.items()):
        failed = {kind: number for kind, number in outcomes.items() if kind not in _NO_FAULTS}
        bad = sum(failed.values())
        every = bad + outcomes.get("ok", 0)
        many = bad >= LEAST_CALLS and bad >= FAILED_SHARE * every
        if (many or failed.keys() & _OPERATORS_FAULTS) and (provider, model) not in told:
            kinds = sorted(failed.items(), key=lambda each: -each[1])
            of = ", ".join(f"{kind} {number:,}" for kind, number in kinds)
            lines.append(f"{model} at {provider}: {bad:,} of {every:,} calls failed ({of})")
    if lines:
        some = "Calls of an offer fail" if len(lines) == 1 else f"Calls of {len(lines)} offers fail"
        text = f"In the last {RECENT_S // 60} minutes, over all workers and replicas that share the history."
        yield Matter("warn", some, text, _some(lines), "/ui/requests?outcome=not-ok&range=1h")


def old_catalog(catalog: Snapshot, today: date) -> Iterator[Matter]:
    """Tell of prices that nobody has checked for long, and of models that go off soon."""
    offers = usable_offers(catalog)
    old = [
        f"{offer.model} at {offer.provider}: {(today - offer.price_as_of).days} days"
        for offer in sorted(offers, key=lambda each: each.price_as_of or today)
        if offer.price_as_of is not None and (today - offer.price_as_of).days > STALE_PRICE_DAYS
    ]
    if old:
        some = "A price is" if len(old) == 1 else f"{len(old)} prices are"
        text = "Check them at the provider and set price_as_of; savings and charges are counted by them."
        yield Matter("warn", f"{some} older than {STALE_PRICE_DAYS} days", text, _some(old), "/ui/models")
    serving = {offer.model for offer in offers}
    going = [
        f"{model.id}: {model.retires} ({model.file})"
        for model in catalog.models.values()
        if model.id in serving
        and model.retires is not None
        and (model.retires - today).days <= RETIRES_SOON_DAYS
    ]
    if going:
        some = "A model retires" if len(going) == 1 else f"{len(going)} models retire"
        text = "From that day on `auto` goes elsewhere."
        yield Matter("warn", f"{some} soon", text, _some(going), "/ui/models")


def low_keys(keys: Iterable[tuple[ApiKey, Account]], number: int) -> Iterator[Matter]:
    """Tell of keys whose credit ends soon, or whose budget is nearly used up: the first of so many."""
    lines = [line for key, account in keys for line in _low(key, account)][:SHOWN]
    if lines:
        some = "A key runs low" if number == 1 else f"{number:,} keys run low"
        text = "Requests are refused when nothing is left: `router keys topup`, or a larger budget."
        more = [f"and {number - SHOWN:,} more keys"] if number > SHOWN else []
        yield Matter("warn", some, text, (*lines, *more), "/ui/account")


def _low(key: ApiKey, account: Account) -> Iterator[str]:
    """Credit is low below half a dollar, or below what today has cost; a budget from nine tenths on."""
    who = f"{key.name} ({key.hint}…)"
    left = account.available_nusd
    if key.prepaid and account.charged_nusd and left <= max(LOW_NUSD, account.day_charged_nusd):
        yield f"{who}: {usd(left)} of credit left, {usd(account.day_charged_nusd)} spent today"
    for name, budget, spent in (
        ("day", account.budget_day_nusd, account.day_charged_nusd),
        ("month", account.budget_month_nusd, account.month_charged_nusd),
    ):
        if budget is not None and 100 * spent >= BUDGET_USED_PERCENT * budget:
            yield f"{who}: {usd(spent)} of {usd(budget)} for this {name}"


def _some(lines: Sequence[str]) -> tuple[str, ...]:
    more = len(lines) - SHOWN
    return (*lines[:SHOWN], f"and {more} more") if more > 0 else tuple(lines)
