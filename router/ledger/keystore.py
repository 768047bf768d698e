"""API keys as they are stored: a digest, never the key; limits, and the account of the same id."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import asdict

from router.errors import NotFound
from router.ledger.accounts import Account
from router.ledger.keysearch import KeyTotals, KeyWish, Low


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """One stored key; `prepaid` needs credit in every access mode, times are `created_at` texts."""

    id: str
    digest: bytes
    hint: str
    name: str
    prepaid: bool
    concurrency: int | None
    rpm: int | None
    tpm: int | None
    models: tuple[str, ...]
    expires_at: str | None
    revoked_at: str | None
    created_at: str


KEY = ", ".join(each.name for each in fields(KeyRecord))
"""The columns of the table `api_keys`, in the order of a KeyRecord."""


@dataclass(frozen=True, slots=True)
class Opening:
    """What a new key's account begins with, in nano-USD; `source` and `external_id` say where from.

    Without an external id the credit came with the key.
    """

    credit_nusd: int
    budget_day_nusd: int | None
    budget_month_nusd: int | None
    source: str = "create"
    external_id: str | None = None


class KeyChange(Struct, frozen=True, kw_only=True):
    """What to change of a key; what is UNSET stays, None takes a bound away."""

    name: str | UnsetType = UNSET
    concurrency: int | UnsetType | None = UNSET
    rpm: int | UnsetType | None = UNSET
    tpm: int | UnsetType | None = UNSET
    models: tuple[str, ...] | UnsetType = UNSET
    expires_at: str | UnsetType | None = UNSET
    budget_day_nusd: int | UnsetType | None = UNSET
    budget_month_nusd: int | UnsetType | None = UNSET


Listed = list[tuple[KeyRecord, Account]]
"""Keys with the sums of their accounts."""


class KeyStore(Protocol):
    """Keys of one database; every write is durable when it returns. Each method raises Unavailable."""

    async def add(self, record: KeyRecord, opening: Opening) -> bool:
        """Store a key, its account and its first credit in one transaction; False when its id is taken."""
        ...

    async def find(self, digest: bytes) -> KeyRecord | None:
        """Return the key with that digest, revoked and expired ones too."""
        ...

    async def all(self) -> list[tuple[KeyRecord, Account]]:
        """Return every key with its account, oldest first."""
        ...

    async def search(self, wish: KeyWish, now: str, limit: int, offset: int) -> tuple[Listed, int]:
        """Return the newest keys that match, after `offset` others, and how many match in all."""
        ...

    async def low(self, bounds: Low, now: str, limit: int) -> tuple[Listed, int]:
        """Return the first active keys that run low, oldest first, and how many do."""
        ...

    async def totals(self, now: str) -> KeyTotals:
        """Return the sums of all keys; `now` is like a row's `created_at`."""
        ...

    async def one(self, key_id: str) -> tuple[KeyRecord, Account]:
        """Return a key with its account, a revoked one too. Raises NotFound."""
        ...

    async def change(self, key_id: str, change: KeyChange) -> None:
        """Change a key and its budgets. Raises NotFound for an unknown or revoked key."""
        ...

    async def topup(
        self, key_id: str, amount_nusd: int, *, source: str, external_id: str, now: str
    ) -> tuple[bool, int]:
        """Add credit and make the key prepaid; return whether it was new, and the balance in nano-USD.

        The same (source, external_id) again changes nothing. Raises NotFound for an unknown or revoked key,
        ValueError for an amount that cannot be added.
        """
        ...

    async def revoke(self, key_id: str, now: str) -> None:
        """Stop a key for good. Raises NotFound for an unknown or revoked key."""
        ...


def values_of(record: KeyRecord) -> tuple[str | bytes | int | None, ...]:
    """Return what the columns KEY hold of a key."""
    values = {each.name: getattr(record, each.name) for each in fields(record)}
    return tuple((values | {"models": json.dumps(record.models)}).values())


def record_of(row: Sequence[Any]) -> KeyRecord:
    """Return the key of a row's columns KEY."""
    key_id, digest, hint, name, prepaid, *limits, models, expires_at, revoked_at, created_at = row
    rest = *limits, tuple(json.loads(models)), expires_at, revoked_at, created_at
    return KeyRecord(key_id, digest, hint, name, bool(prepaid), *rest)


def with_account(row: Sequence[Any]) -> tuple[KeyRecord, Account]:
    """Return a key and its account, as `keysearch.SELECT_KEYS` reads them."""
    count = len(fields(KeyRecord))
    return record_of(row[:count]), Account(*row[count:])


def changed(record: KeyRecord, account: Account, change: KeyChange) -> tuple[KeyRecord, Account]:
    """Return a key and its account as a change leaves them."""
    given = {name: value for name, value in asdict(change).items() if value is not UNSET}
    budgets = {name: given.pop(name) for name in list(given) if name.startswith("budget")}
    return replace(record, **given), replace(account, **budgets)


def unknown_key(key_id: str) -> NotFound:
    """Return the error for an id that no key has."""
    return NotFound(f"no key has the id {key_id!r}; `router keys list` shows the ids")


def revoked_key(key_id: str, revoked_at: str) -> NotFound:
    """Return the error for a key that is revoked."""
    return NotFound(f"the key {key_id} was revoked at {revoked_at}; make a new one with `router keys create`")
