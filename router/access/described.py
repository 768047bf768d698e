"""A key as the command line and the admin routes show it; its text is never part of that."""

from __future__ import annotations

from typing import Any

import msgspec

from router.access.keys import ApiKey
from router.ledger.accounts import Account
from router.ledger.money import nusd_to_usd


def described(key: ApiKey, account: Account, now: str) -> dict[str, Any]:
    """Return a key with its limits and the sums of its account; `now` is like a row's `created_at`."""
    return {
        "id": key.id,
        "name": key.name,
        "hint": key.hint,
        "state": state_of(key, now),
        "prepaid": key.prepaid,
        "credit_usd": usd_number(account.balance_nusd if key.prepaid else None),
        "held_usd": usd_number(account.held_nusd),
        "spent_usd": usd_number(account.charged_nusd),
        "spent_day_usd": usd_number(account.day_charged_nusd),
        "spent_month_usd": usd_number(account.month_charged_nusd),
        "budget_day_usd": usd_number(account.budget_day_nusd),
        "budget_month_usd": usd_number(account.budget_month_nusd),
        "requests": account.requests,
        "concurrency": key.limits.concurrency,
        "rpm": key.limits.rpm,
        "tpm": key.limits.tpm,
        "models": key.models,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
        "created_at": key.created_at,
    }


def state_of(key: ApiKey, now: str) -> str:
    """Return `active`, `expired` or `revoked`."""
    if key.revoked_at is not None:
        return "revoked"
    return "expired" if key.expires_at is not None and key.expires_at <= now else "active"


def usd_number(nusd: int | None) -> msgspec.Raw | None:
    """Return an amount as the exact JSON number that no float could carry."""
    return None if nusd is None else msgspec.Raw(nusd_to_usd(nusd).encode())
