"""Forms that change something: from this browser's own page, sent twice with the effect of once.

Beside the Origin (see guard.py) a form carries a token that only a page of ours could have told it: an HMAC
of who is signed in, under a secret that this browser has in a cookie. No process has to remember it.
"""

from __future__ import annotations

import base64
import hmac
import re
import secrets
from collections.abc import Mapping
from datetime import date, timedelta
from typing import Any, Literal

from msgspec import UNSET, UnsetType

from router.access.bounds import MAX_LIMIT
from router.access.keys import ApiKey, NewKey, end_of
from router.catalog.snapshot import Limits
from router.ledger.accounts import Account
from router.ledger.keystore import KeyChange
from router.ledger.money import nusd_to_usd, usd_to_nusd
from router.web.guard import AnyRequest, PageFault
from router.web.sessions import COOKIE as SESSION

COOKIE = "router_form"
FORM_BYTES = 64 * 1024
_SECRET = re.compile(r"[0-9A-Za-z_-]{43}", re.ASCII)
Limit = Literal["rpm", "tpm", "concurrency"]
Budget = Literal["budget_day", "budget_month"]
LIMITS: tuple[Limit, ...] = ("rpm", "tpm", "concurrency")
BUDGETS: tuple[Budget, ...] = ("budget_day", "budget_month")
FIELDS = ("name", *LIMITS, *BUDGETS, "models", "expires")
Fields = dict[str, str]


class Faults(Exception):
    """What is wrong with a form, by field; "" is about all of it."""

    def __init__(self, by_field: Mapping[str, str]) -> None:
        super().__init__(", ".join(by_field))
        self.by_field = dict(by_field)


def token_for(request: AnyRequest) -> tuple[str, dict[str, str]]:
    """Return the token for the forms of a page, and the headers that its answer needs."""
    secret = request.cookies.get(COOKIE, "")
    headers = {}
    if _SECRET.fullmatch(secret) is None:
        secret = secrets.token_urlsafe(32)
        secure = "; Secure" if scheme_of(request) == "https" else ""
        headers["set-cookie"] = f"{COOKIE}={secret}; Path=/ui; HttpOnly; SameSite=Strict{secure}"
    return _token(secret, request), headers


async def sent(request: AnyRequest) -> Fields:
    """Return what a form sent, once its token is right. Raises PageFault."""
    form = await request.form()
    fields = {name: value for name, value in form.items() if isinstance(value, str)}
    secret = request.cookies.get(COOKIE, "")
    told = fields.pop("token", "")
    if _SECRET.fullmatch(secret) is None or not hmac.compare_digest(
        told.encode(), _token(secret, request).encode()
    ):
        raise PageFault(
            403,
            "This form is no longer valid",
            "It was opened before you signed in or out, or the browser keeps no cookies. Nothing was done.",
            "Open the page again and send it once more.",
        )
    return fields


def new_seed() -> str:
    """Return what stands for the key that a form will make."""
    return secrets.token_urlsafe(32)


def seed_of(fields: Mapping[str, str]) -> bytes:
    """Return the bytes of a seed. Raises PageFault for one that no form of ours has."""
    seed = fields.get("seed", "")
    if _SECRET.fullmatch(seed) is None:
        raise PageFault(400, "This form is not whole", "", "Open the page again and send it once more.")
    return seed.encode()


def scheme_of(request: AnyRequest) -> str:
    """Return what the browser speaks, to us or to the proxy before us."""
    return "https" if request.headers.get("x-forwarded-proto") == "https" else request.url.scheme


def new_key(fields: Mapping[str, str]) -> NewKey:
    """Return the key that a form describes. Raises Faults."""
    faults: dict[str, str] = {}
    numbers = {name: _limit(fields, name, faults) for name in LIMITS}
    budgets = {name: _usd(fields, name, faults) for name in BUDGETS}
    made = NewKey(
        name=fields.get("name", "").strip(),
        credit_nusd=_usd(fields, "credit", faults),
        limits=Limits(**numbers),
        budget_day_nusd=budgets["budget_day"],
        budget_month_nusd=budgets["budget_month"],
        models=_globs(fields.get("models", "")),
        last_day=_day(fields, faults),
    )
    if faults:
        raise Faults(faults)
    return made


def key_change(fields: Mapping[str, str]) -> KeyChange:
    """Return what a form changes: the fields that differ from those it was opened with. Raises Faults."""
    faults: dict[str, str] = {}
    wanted = {
        name for name in FIELDS if fields.get(name, "").strip() != fields.get(f"was-{name}", "").strip()
    }
    given: dict[str, Any] = {name: _limit(fields, name, faults) for name in LIMITS if name in wanted}
    given |= {f"{name}_nusd": _usd(fields, name, faults) for name in BUDGETS if name in wanted}
    if "name" in wanted:
        given["name"] = fields.get("name", "").strip()
    if "models" in wanted:
        given["models"] = _globs(fields.get("models", ""))
    if "expires" in wanted:
        last_day = _day(fields, faults)
        given["expires_at"] = None if last_day is None else _ends(last_day, faults)
    if faults:
        raise Faults(faults)
    return KeyChange(**given)


def amount_of(fields: Mapping[str, str]) -> int:
    """Return the nano-USD of a top-up. Raises Faults."""
    faults: dict[str, str] = {}
    amount_nusd = _usd(fields, "usd", faults)
    if amount_nusd is None and not faults:
        faults["usd"] = "say how much, such as 5"
    if faults:
        raise Faults(faults)
    return amount_nusd or 0


def fields_of(key: ApiKey, account: Account) -> Fields:
    """Return a key as its form shows it."""
    budgets = {"budget_day": account.budget_day_nusd, "budget_month": account.budget_month_nusd}
    last_day = None
    if key.expires_at is not None:  # the start of the day after
        last_day = date.fromisoformat(key.expires_at[:10]) - timedelta(days=1)
    return {
        "name": key.name,
        **{name: _text(getattr(key.limits, name)) for name in LIMITS},
        **{name: "" if nusd is None else nusd_to_usd(nusd) for name, nusd in budgets.items()},
        "models": "\n".join(key.models),
        "expires": _text(last_day),
    }


def _text(value: date | int | None) -> str:
    return "" if value is None else str(value)


def _token(secret: str, request: AnyRequest) -> str:
    session = request.cookies.get(SESSION, "").encode("utf-8", "surrogateescape")
    mac = hmac.digest(secret.encode(), b"form " + session, "sha256")
    return base64.urlsafe_b64encode(mac).rstrip(b"=").decode()


def _limit(fields: Mapping[str, str], name: str, faults: dict[str, str]) -> int | None:
    text = fields.get(name, "").strip().replace(",", "")
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 12 and 1 <= int(text) <= MAX_LIMIT):
        faults[name] = f"a whole number from 1 to {MAX_LIMIT:,}; leave it empty for no limit"
        return None
    return int(text)


def _usd(fields: Mapping[str, str], name: str, faults: dict[str, str]) -> int | None:
    text = fields.get(name, "").strip().removeprefix("$").strip()
    if not text:
        return None
    try:
        amount_nusd = usd_to_nusd(text)
    except ValueError as fault:
        faults[name] = str(fault)
        return None
    if amount_nusd < 0:
        faults[name] = "it cannot be negative"
    return amount_nusd


def _globs(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(glob for glob in re.split(r"[\s,]+", text) if glob))


def _day(fields: Mapping[str, str], faults: dict[str, str]) -> date | None:
    text = fields.get("expires", "").strip()
    if not text:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        faults["expires"] = "a day such as 2027-01-31; leave it empty for no end"
        return None


def _ends(last_day: date, faults: dict[str, str]) -> str | UnsetType:
    try:
        return end_of(last_day)
    except ValueError as fault:
        faults["expires"] = str(fault)
        return UNSET
