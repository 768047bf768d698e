"""What the account page says of one key: its money, its limits, its usage by day and model, its requests."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from router.access.described import state_of
from router.access.keys import Access, ApiKey, Keys
from router.errors import Unavailable
from router.history.history import History
from router.history.record import Found, Wish
from router.ledger.accounts import Account
from router.ledger.ledger import Ledger
from router.ledger.payments import WALLET, Payment
from router.ledger.rows import Topup, utc_text
from router.limits import Standing, Window
from router.running import RunningCatalog, usable_offers
from router.snippets import curl, openai_sdk, openclaw
from router.web.forms import scheme_of
from router.web.guard import AnyRequest
from router.web.usage import SPANS, Usage, first_s, usage_of

RECEIPTS = 10
TOPUPS = 10
NO_HISTORY = "No usage is kept by day, since ROUTER_HISTORY_REQUESTS is 0."


@dataclass(frozen=True, slots=True)
class Accounts:
    """Where the page's figures come from; `history` None where none is kept.

    `standing` tells what is left of a key's minute. `sells` says that wallets can pay here.
    """

    keys: Keys
    ledger: Ledger
    history: History | None
    catalog: RunningCatalog
    standing: Callable[[ApiKey], Awaitable[Standing]]
    access: Access
    sells: bool
    public_url: str | None
    now: Callable[[], datetime]


@dataclass(frozen=True, slots=True)
class Bound:
    """A bound and what is left of it; `renews` says when all of it is there again."""

    title: str
    most: int
    left: int | None
    renews: str = ""

    @property
    def used(self) -> float:
        """Return the part that is used, in percent."""
        return (
            0.0
            if self.left is None
            else round(100 * (self.most - self.left) / self.most, 2)
            if self.most
            else 100.0
        )


@dataclass(frozen=True, slots=True)
class Paid:
    """Credit that was added, and the wallet's payment for it where a wallet paid."""

    topup: Topup
    payment: Payment | None


async def seen(accounts: Accounts, key: ApiKey, account: Account, request: AnyRequest) -> dict[str, Any]:
    """Return what the templates show of a key; `account` holds the sums as of now."""
    now = accounts.now()
    usage, found, trouble = await _past(accounts, key.id, request)
    return {
        "key": key,
        "account": account,
        "state": state_of(key, utc_text(now.timestamp())),
        "need_credit": key.prepaid or accounts.access == "paid",
        "budgets": _budgets(account, now),
        "limits": await _limits(accounts, key),
        "usage": usage,
        "spans": SPANS,
        "found": found,
        "trouble": trouble,
        "paid_in": await _paid_in(accounts, key.id),
        "unlisted_nusd": 0 if usage is None else account.month_charged_nusd - usage.month_nusd,
    }


async def _paid_in(accounts: Accounts, account_id: str) -> list[Paid]:
    """Return the newest payments into an account."""
    payments = accounts.ledger.payments
    return [
        Paid(topup, await payments.find(topup.external_id) if topup.source == WALLET else None)
        for topup in await accounts.ledger.books.topups(account_id, TOPUPS)
    ]


def connection(accounts: Accounts, request: AnyRequest, key: str | None) -> dict[str, Any]:
    """Return what a client needs to connect; `key` is its text where it is known."""
    origin = accounts.public_url or f"{scheme_of(request)}://{request.headers.get('host', '127.0.0.1:8402')}"
    text = key or "YOUR_KEY"
    return {
        "origin": origin,
        "snippets": {
            "curl": curl(origin, text),
            "OpenAI SDK": openai_sdk(origin, text),
            "OpenClaw": openclaw(origin, text),
        },
        "init": f"router init openclaw --url {origin} --key {text}",
    }


def models_for(accounts: Accounts, key: ApiKey) -> list[str]:
    """Return the catalog models that a key may ask for now."""
    serving = {offer.model for offer in usable_offers(accounts.catalog.current)}
    return sorted(model for model in serving if key.allows(model))


async def _past(
    accounts: Accounts, account_id: str, request: AnyRequest
) -> tuple[Usage | None, Found | None, str]:
    """Return the usage of the days that were asked for, the newest requests, or what keeps them."""
    if accounts.history is None:
        return None, None, NO_HISTORY
    days = SPANS.get(request.query_params.get("days", ""), 30)
    before = request.query_params.get("before", "")
    try:
        rows = await spent(accounts, account_id, max(days, 31))
        wish = Wish(
            account=account_id,
            before=int(before) if before.isascii() and before.isdigit() and len(before) < 19 else None,
        )
        found = await accounts.history.store.find(wish, RECEIPTS)
    except Unavailable as fault:
        return None, None, fault.message
    now = accounts.now().astimezone(UTC)
    month_s = int(now.replace(day=1, hour=0, minute=0, second=0, microsecond=0).timestamp())
    return usage_of(rows, days, now.timestamp(), month_s), found, ""


async def spent(accounts: Accounts, account_id: str, days: int) -> list[Any]:
    """Return an account's sums by day and model, newest first. Raises Unavailable."""
    if accounts.history is None:
        raise Unavailable(NO_HISTORY)
    await accounts.history.flush()
    return [*await accounts.history.store.spent(account_id, first_s(days, accounts.now().timestamp()))]


def _budgets(account: Account, now: datetime) -> list[Bound]:
    day = now.astimezone(UTC) + timedelta(days=1)
    month = (now.astimezone(UTC).replace(day=1) + timedelta(days=32)).replace(day=1)
    return [
        Bound(title, limit, max(0, limit - charged - account.held_nusd), f"{at:%Y-%m-%d} 00:00 UTC")
        for title, limit, charged, at in (
            ("Budget a day", account.budget_day_nusd, account.day_charged_nusd, day),
            ("Budget a month", account.budget_month_nusd, account.month_charged_nusd, month),
        )
        if limit is not None
    ]


async def _limits(accounts: Accounts, key: ApiKey) -> list[Bound]:
    """Return the limits of a key; what is left of a minute may be unknown for a moment."""
    limits, standing = key.limits, Standing()
    if limits.rpm is not None or limits.tpm is not None:
        try:
            standing = await accounts.standing(key)
        except Unavailable:
            standing = Standing()
    rows = [
        _minute("Requests a minute", limits.rpm, standing.requests),
        _minute("Tokens a minute", limits.tpm, standing.tokens),
    ]
    if limits.concurrency is not None:
        rows.append(Bound("Requests at once", limits.concurrency, None))
    return [row for row in rows if row is not None]


def _minute(title: str, limit: int | None, window: Window | None) -> Bound | None:
    if limit is None:
        return None
    if window is None:
        return Bound(title, limit, None)
    renews = "" if window.left == limit else f"in {max(1, round(window.reset_s))} s"
    return Bound(title, limit, min(limit, window.left), renews)
