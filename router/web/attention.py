"""What needs the operator: everything that is wrong now, worst first, each with its fix."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Literal

from router.access.described import state_of
from router.access.keys import ApiKey
from router.catalog.build import RETIRES_SOON_DAYS, STALE_PRICE_DAYS
from router.catalog.snapshot import Snapshot
from router.ledger.accounts import Account
from router.routing.breaker import Alert
from router.running import Rejected, usable_offers
from router.web.words import usd

Level = Literal["bad", "warn"]
LOW_NUSD = 500_000_000
BUDGET_USED = 0.9
SHOWN = 5


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
        f"{model} at {provider}: {why.get((provider, model), 'it is tried again now and then')}"
        for provider, model, _ in sorted(set(resting))
        if (provider, model) not in told and (provider, None) not in told
    ]
    if lines:
        some = "An offer rests" if len(lines) == 1 else f"{len(lines)} offers rest"
        yield Matter("warn", f"{some} after failures", "Others serve in their place meanwhile.", _some(lines))


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
        yield Matter("warn", f"{some} soon", "Requests for it go elsewhere from then on.", _some(going))


def low_keys(keys: Iterable[tuple[ApiKey, Account]], now: str) -> Iterator[Matter]:
    """Tell of keys whose credit ends soon, or whose budget is nearly used up."""
    lines = [line for key, account in keys if state_of(key, now) == "active" for line in _low(key, account)]
    if lines:
        some = "A key runs low" if len(lines) == 1 else f"{len(lines)} keys run low"
        text = "Its requests are refused when nothing is left: `router keys topup`, or a larger budget."
        yield Matter("warn", some, text, _some(lines), "/ui/account")


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
        if budget is not None and spent >= BUDGET_USED * budget:
            yield f"{who}: {usd(spent)} of {usd(budget)} for this {name}"


def _some(lines: Sequence[str]) -> tuple[str, ...]:
    more = len(lines) - SHOWN
    return (*lines[:SHOWN], f"and {more} more") if more > 0 else tuple(lines)
