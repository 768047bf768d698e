"""API keys: their form, who may make and stop them, and whose request this is.

A key is `rk_`, 256 random bits in base62 (43 characters) and a checksum (CRC-32 of what precedes it, 6
characters), so that a mistyped or invented key costs no look-up and a secret scanner recognises a real one.
Only its SHA-256 is stored: with 256 random bits nothing slower is needed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import re
import secrets
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from fnmatch import fnmatchcase
from typing import Literal

from msgspec import UNSET, Struct
from msgspec.structs import asdict

from router.access.bounds import MAX_YEAR, can_be_id, check_payment, check_values
from router.catalog.snapshot import Limits
from router.errors import InternalError, InvalidKey
from router.ledger.accounts import Account
from router.ledger.keysearch import KeyTotals, KeyWish, Low
from router.ledger.keystore import KeyChange, KeyRecord, KeyStore, Opening, unknown_key
from router.ledger.payments import WALLET
from router.ledger.rows import utc_text

Access = Literal["open", "paid"]
OPEN_ACCOUNT = "open"
PREFIX = "rk_"
OPERATOR = "admin"
"""The source of payments that the operator books, by the admin routes or on a page."""
CACHE_S = 0.5
CACHE_KEYS = 10_000

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_FORM = re.compile(r"rk_[0-9A-Za-z]{49}", re.ASCII)
_HINT_CHARACTERS = 8
# What people write into SDKs that insist on a key: it means "no key".
_PLACEHOLDERS = frozenset({b"", b"unused", b"none", b"empty", b"sk-no-key-required"})


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key: its id is also its account; `models` are globs, empty for every model."""

    id: str
    name: str
    hint: str
    prepaid: bool
    limits: Limits
    models: tuple[str, ...]
    expires_at: str | None
    revoked_at: str | None
    created_at: str

    def allows(self, model: str) -> bool:
        """Say whether this key may use a catalog id."""
        return not self.models or any(fnmatchcase(model, glob) for glob in self.models)


@dataclass(frozen=True, slots=True)
class NewKey:
    """Describe a key to make; no credit (None) is a key that needs none in open access.

    `payment` is the key of the claim by which a wallet has bought the credit.
    """

    name: str
    credit_nusd: int | None = None
    limits: Limits = field(default_factory=Limits)
    budget_day_nusd: int | None = None
    budget_month_nusd: int | None = None
    models: tuple[str, ...] = ()
    last_day: date | None = None
    payment: str | None = None


class Caller(Struct, frozen=True, gc=False):
    """Say whose request it is, and whether it must be covered by credit."""

    account: str
    key: ApiKey | None
    require_credit: bool


Listed = list[tuple[ApiKey, Account]]
"""Keys with the sums of their accounts."""


class Keys:
    """The keys of one database.

    `clock` gives seconds since 1970, `monotonic` seconds of a clock that never steps, `entropy` random bytes.
    A known key is read again after CACHE_S, so a revocation by another process holds within a second. Every
    method raises Unavailable when storage fails.
    """

    def __init__(
        self,
        store: KeyStore,
        *,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        entropy: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._store = store
        self._clock = clock
        self._monotonic = monotonic
        self._entropy = entropy
        self._cache: OrderedDict[bytes, tuple[float, ApiKey]] = OrderedDict()

    async def create(self, new: NewKey, seed: bytes | None = None) -> tuple[str, ApiKey]:
        """Make a key and return its text, which is shown once and kept nowhere.

        A `seed` of 32 random bytes stands for the key: the same one again makes no second key, it gives the
        one that was made, as it is. Raises ValueError with the fix for a name, limit or amount that makes no
        sense.
        """
        _check(new)
        ends = end_of(new.last_day) if new.last_day else None
        if ends is not None and ends <= utc_text(self._clock()):
            raise ValueError(f"the last day of the key, {new.last_day}, is past; name one that comes")
        entropy = self._entropy if seed is None else _drawn_from(seed)
        text = key_text(entropy(32))
        record = KeyRecord(
            id="key_" + entropy(8).hex(),
            digest=_digest(text),
            hint=text[:_HINT_CHARACTERS],
            name=new.name,
            prepaid=new.credit_nusd is not None,
            concurrency=new.limits.concurrency,
            rpm=new.limits.rpm,
            tpm=new.limits.tpm,
            models=new.models,
            expires_at=ends,
            revoked_at=None,
            created_at=utc_text(self._clock()),
        )
        opening = Opening(new.credit_nusd or 0, new.budget_day_nusd, new.budget_month_nusd)
        if new.payment is not None:
            opening = dataclasses.replace(opening, source=WALLET, external_id=new.payment)
        if not await self._store.add(record, opening):
            made, _ = await self._store.one(record.id)
            if made.digest != record.digest:
                raise InternalError(f"the id {record.id} is another key's")
            record = made
        return text, _api_key(record)

    async def list(self) -> Listed:
        """Return every key with the sums of its account, oldest first."""
        return self._rolled(await self._store.all(), 0)[0]

    async def search(self, wish: KeyWish, limit: int, offset: int = 0) -> tuple[Listed, int]:
        """Return the newest keys that match, after `offset` others, and how many match in all."""
        return self._rolled(*await self._store.search(_plain(wish), utc_text(self._clock()), limit, offset))

    async def low(self, bounds: Low, limit: int) -> tuple[Listed, int]:
        """Return the first active keys that run low, oldest first, and how many do."""
        return self._rolled(*await self._store.low(bounds, utc_text(self._clock()), limit))

    async def totals(self) -> KeyTotals:
        """Return the sums of all keys."""
        return await self._store.totals(utc_text(self._clock()))

    async def one(self, key_id: str) -> tuple[ApiKey, Account]:
        """Return a key with the sums of its account. Raises NotFound."""
        record, account = await self._store.one(_possible(key_id))
        account.roll(utc_text(self._clock()))
        return _api_key(record), account

    def _rolled(self, found: Sequence[tuple[KeyRecord, Account]], number: int) -> tuple[Listed, int]:
        """Return keys with the sums of this day and month, and the number that came with them."""
        now = utc_text(self._clock())
        for _, account in found:
            account.roll(now)
        return [(_api_key(record), account) for record, account in found], number

    async def signing(self, key_id: str) -> tuple[ApiKey, bytes]:
        """Return a key and a secret of its own, to sign what is given to who has shown it. Raises NotFound.

        It is the same in every process and for as long as the key is there; no key follows from it.
        """
        record, _ = await self._store.one(_possible(key_id))
        return _api_key(record), hmac.digest(record.digest, b"llm-router session", "sha256")

    async def change(self, key_id: str, change: KeyChange) -> None:
        """Change a key's name, limits, budgets, models or expiry; a running service knows within a second.

        Raises NotFound, and ValueError with the fix for what makes no sense.
        """
        given = {name: value for name, value in asdict(change).items() if value is not UNSET}
        check_values(given)
        await self._store.change(_possible(key_id), change)
        self._cache.clear()

    async def topup(
        self, key_id: str, amount_nusd: int, *, source: str, external_id: str
    ) -> tuple[bool, int]:
        """Add credit; return whether this payment was new, and the balance in nano-USD.

        The key is prepaid from now on. Raises NotFound and ValueError.
        """
        check_payment(external_id)
        now = utc_text(self._clock())
        return await self._store.topup(
            _possible(key_id), amount_nusd, source=source, external_id=external_id, now=now
        )

    async def revoke(self, key_id: str) -> None:
        """Stop a key for good. Raises NotFound."""
        await self._store.revoke(_possible(key_id), utc_text(self._clock()))
        self._cache.clear()

    async def lookup(self, text: str) -> ApiKey | None:
        """Return the key with that text, revoked and expired ones too; None for any other text.

        Only a look-up in the database gives the loop away, and only where the engine does.
        """
        digest = _digest(text)
        now_s = self._monotonic()
        cached = self._cache.get(digest)
        if cached is not None and now_s - cached[0] < CACHE_S:
            return cached[1]
        record = await self._store.find(digest) if well_formed(text) else None
        if record is None:
            return None
        key = _api_key(record)
        self._cache[digest] = (now_s, key)
        self._cache.move_to_end(digest)
        if len(self._cache) > CACHE_KEYS:
            self._cache.popitem(last=False)
        return key

    async def identify(self, authorization: bytes | None, access: Access) -> Caller:
        """Say who asks, from the `Authorization` header (see `authorization_of`).

        A key that is sent is checked in both modes. Raises InvalidKey, the same for unknown, mistyped and
        revoked keys.
        """
        token = _bearer(authorization)
        if token is None:
            if access == "paid":
                raise InvalidKey(
                    "This router needs an API key: send `Authorization: Bearer rk_...`. Its operator makes"
                    " one with `router keys create --name me --credit 5`."
                )
            return Caller(OPEN_ACCOUNT, None, require_credit=False)
        key = await self.lookup(token.decode("ascii", "replace"))
        if key is None or key.revoked_at is not None:
            raise _invalid("it is unknown, mistyped or revoked")
        if key.expires_at is not None and key.expires_at <= utc_text(self._clock()):
            raise _invalid("it has expired")
        return Caller(key.id, key, require_credit=key.prepaid or access == "paid")


def authorization_of(headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    """Return the one `authorization` header of an ASGI request; several become one that is not valid."""
    found: Sequence[bytes] = [value for name, value in headers if name == b"authorization"]
    return b", ".join(found) if found else None


def key_text(entropy: bytes) -> str:
    """Return the key made of 32 random bytes."""
    body = PREFIX + _base62(int.from_bytes(entropy), 43)
    return body + _checksum(body)


def well_formed(text: str) -> bool:
    """Say whether a text has a key's form and its checksum is right."""
    return _FORM.fullmatch(text) is not None and _checksum(text[:-6]) == text[-6:]


def _drawn_from(seed: bytes) -> Callable[[int], bytes]:
    """Return what draws bytes from a secret seed, the same for the same number of them."""
    return lambda count: hmac.digest(seed, b"llm-router key %d" % count, "sha256")[:count]


def _bearer(authorization: bytes | None) -> bytes | None:
    """Return the token that was sent, None for none or a placeholder. Raises InvalidKey for odd schemes."""
    if authorization is None or not authorization.strip():
        return None
    scheme, _, token = authorization.strip().partition(b" ")
    if scheme.lower() != b"bearer":
        raise _invalid("the Authorization header is not `Bearer rk_...`")
    token = token.strip(b" \t")
    return None if token.lower() in _PLACEHOLDERS else token


def _invalid(why: str) -> InvalidKey:
    return InvalidKey(
        f"Invalid API key. Incorrect API key provided: {why}. Use a key that `router keys create` has made"
        " and `router keys list` still shows as active."
    )


def _plain(wish: KeyWish) -> KeyWish:
    """Return a wish without what no database can hold."""
    return KeyWish(wish.text.encode("utf-8", "replace").decode().replace("\0", ""), wish.state)


def _possible(key_id: str) -> str:
    if not can_be_id(key_id):
        raise unknown_key(key_id)
    return key_id


def _check(new: NewKey) -> None:
    check_values(
        {
            "name": new.name,
            "credit_nusd": new.credit_nusd,
            "budget_day_nusd": new.budget_day_nusd,
            "budget_month_nusd": new.budget_month_nusd,
            "concurrency": new.limits.concurrency,
            "rpm": new.limits.rpm,
            "tpm": new.limits.tpm,
            "models": new.models,
        }
    )


def _api_key(record: KeyRecord) -> ApiKey:
    return ApiKey(
        id=record.id,
        name=record.name,
        hint=record.hint,
        prepaid=record.prepaid,
        limits=Limits(concurrency=record.concurrency, rpm=record.rpm, tpm=record.tpm),
        models=record.models,
        expires_at=record.expires_at,
        revoked_at=record.revoked_at,
        created_at=record.created_at,
    )


def end_of(day: date) -> str:
    """Return the moment at which a key's last day ends. Raises ValueError for a year that is too late."""
    if day.year > MAX_YEAR:
        raise ValueError(f"the last day of a key is in {MAX_YEAR} at the latest; leave it out for no end")
    return utc_text(datetime.combine(day + timedelta(days=1), time(), UTC).timestamp())


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _checksum(body: str) -> str:
    return _base62(zlib.crc32(body.encode()), 6)


def _base62(number: int, width: int) -> str:
    digits = []
    for _ in range(width):
        number, digit = divmod(number, 62)
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))
