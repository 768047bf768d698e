"""API keys as they are stored: a digest, never the key; limits, and the account of the same id."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import asdict

from router.errors import NotFound
from router.ledger.accounts import Account


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


@dataclass(frozen=True, slots=True)
class Opening:
    """What a new key's account begins with, in nano-USD."""

    credit_nusd: int
    budget_day_nusd: int | None
    budget_month_nusd: int | None


class KeyChange(Struct, frozen=True, kw_only=True):
    """What is to be another way with a key; what is UNSET stays, None takes a bound away."""

    name: str | UnsetType = UNSET
    concurrency: int | UnsetType | None = UNSET
    rpm: int | UnsetType | None = UNSET
    tpm: int | UnsetType | None = UNSET
    models: tuple[str, ...] | UnsetType = UNSET
    expires_at: str | UnsetType | None = UNSET
    budget_day_nusd: int | UnsetType | None = UNSET
    budget_month_nusd: int | UnsetType | None = UNSET


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
