"""Who has signed in: a signed cookie of a few hours, and a bound on wrong keys.

Nothing is stored. A cookie names whom it is for and when it ends, and an HMAC-SHA256 that only this service
can make says so. The operator's secret is derived from the admin key, so every worker and replica takes it,
and another admin key ends the session; deriving is slow on purpose (scrypt): whoever has a cookie must not be
able to try out admin keys against it. A customer's secret is made of what is stored of the API key, which has
256 random bits that nobody can try out: so it needs no admin key.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

COOKIE = "router_session"
SESSION_S = 8 * 3_600
ATTEMPTS = 5
ALL_ATTEMPTS = 200
WINDOW_S = 60.0
ADDRESSES = 4_096
_ENDS = re.compile(r"[0-9]{1,12}", re.ASCII)
_SCRYPT = {"n": 2**14, "r": 8, "p": 1, "dklen": 32}

Role = Literal["operator", "customer"]


@dataclass(frozen=True, slots=True)
class Session:
    """Say who signed in; `key_id` is a customer's, empty for the operator."""

    role: Role
    key_id: str = ""


class Sessions:
    """Make and read cookies; `clock` gives seconds since 1970. Without an admin key no operator signs in."""

    def __init__(self, admin_key: str | None, clock: Callable[[], float]) -> None:
        self._admin_key = admin_key
        self._clock = clock

    @cached_property
    def operator_secret(self) -> bytes | None:
        """Return what the operator's cookies are signed with."""
        if self._admin_key is None:
            return None
        return hashlib.scrypt(self._admin_key.encode(), salt=b"llm-router pages", **_SCRYPT)

    def cookie(self, session: Session, secret: bytes) -> str:
        """Return the value of a new cookie."""
        said = f"{session.role}.{session.key_id}.{int(self._clock()) + SESSION_S}"
        return f"{said}.{_mac(said, secret)}"

    def claim(self, cookie: str) -> Session | None:
        """Return for whom a cookie says that it is, unproven; None for one that has ended or says nothing."""
        role, _, rest = cookie.partition(".")
        key_id, _, rest = rest.partition(".")
        ends_s = rest.partition(".")[0]
        if role not in ("operator", "customer") or not _ENDS.fullmatch(ends_s):
            return None
        if int(ends_s) <= self._clock():
            return None
        return Session("operator" if role == "operator" else "customer", key_id)

    def proves(self, cookie: str, secret: bytes | None) -> bool:
        """Tell whether we made a cookie, with this secret."""
        said, _, mac = cookie.rpartition(".")
        proper = secret is not None and said.isascii() and mac.isascii()
        return proper and hmac.compare_digest(mac, _mac(said, secret or b""))


def _mac(said: str, secret: bytes) -> str:
    mac = hmac.digest(secret, said.encode(), "sha256")
    return base64.urlsafe_b64encode(mac).rstrip(b"=").decode()


class Attempts:
    """Bound wrong keys: ATTEMPTS a minute from one address, ALL_ATTEMPTS from all of them.

    `monotonic` gives seconds. Counted in each worker, since a wrong key changes nothing that they share.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._wrong: OrderedDict[str, list[float]] = OrderedDict()

    def wait_s(self, address: str) -> int:
        """Return the seconds after which this address may try again, 0 where it may now."""
        mine = self._recent(address)
        everybody = self._recent("")
        waits = [
            times[-bound] + WINDOW_S - self._monotonic()
            for times, bound in ((mine, ATTEMPTS), (everybody, ALL_ATTEMPTS))
            if len(times) >= bound
        ]
        return max(1, round(max(waits))) if waits else 0

    def wrong(self, address: str) -> None:
        """Note a wrong key."""
        for name in (address, ""):
            self._wrong[name] = [*self._recent(name), self._monotonic()]
            self._wrong.move_to_end(name)
        while len(self._wrong) > ADDRESSES:
            self._wrong.popitem(last=False)

    def _recent(self, name: str) -> list[float]:
        since_s = self._monotonic() - WINDOW_S
        return [moment for moment in self._wrong.get(name, ()) if moment > since_s]
