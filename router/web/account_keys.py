"""The operator's part of `/ui/account`: keys are listed, made, changed, topped up and revoked.

All of it is what `router keys` and `/admin/keys` do, by the same functions. Every form may arrive twice: a
key is made from the seed in its form, a payment has an id, a change sets what it sets. A form that comes
again shows the key that it made for a minute, since an answer may be lost, and never later: browsers keep
what was sent for as long as a tab is open, and longer.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

from litestar import Request, Response, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from router.access.bounds import check_payment
from router.access.described import state_of
from router.access.keys import OPERATOR, ApiKey
from router.ledger.keysearch import KeyState, KeyWish
from router.ledger.keystore import KeyChange
from router.ledger.rows import utc_text
from router.web.account_view import Accounts, connection, seen
from router.web.forms import (
    FORM_BYTES,
    Faults,
    Fields,
    amount_of,
    fields_of,
    key_change,
    new_key,
    new_seed,
    seed_of,
    sent,
    token_for,
)
from router.web.guard import AnyRequest, Guard, Visitor
from router.web.pages import HEADERS, page

PAGE_KEYS = 50
FORMS = ("change", "topup", "revoke")
SHOWN_AGAIN_S = 60.0
STATES: tuple[KeyState, ...] = ("active", "expired", "revoked")
DONE = {
    "changed": "The key is changed. A running service knows within a second.",
    "made": "This form made the key before. It was shown then, is kept nowhere and is not shown again;"
    " if nobody has it, revoke it and make another.",
    "same": "Nothing was changed.",
    "topup": "The payment is booked.",
    "topup-again": "This payment was booked before; nothing was added.",
    "revoked": "The key is revoked. Its requests are refused within a second, its books stay.",
}
T = TypeVar("T")
_NEW: Mapping[str, str] = {}
Csv = Callable[[Accounts, ApiKey], Awaitable[Response[str]]]


def operator_routes(guard: Guard, accounts: Accounts, csv_of: Csv) -> list[HTTPRouteHandler]:
    """Return the handlers; whoever is not the operator is refused by each of them."""

    @get("/ui/account/new")
    async def ask_new(request: Request[Any, Any, Any]) -> Response[str]:
        visitor = guard.admin_of(request)
        return _form_page(request, visitor, accounts, {"seed": new_seed()}, {})

    @post("/ui/account/new", status_code=200, request_max_body_size=FORM_BYTES)
    async def create(request: Request[Any, Any, Any]) -> Response[str]:
        visitor = guard.admin_of(request)
        fields = await sent(request)
        seed = seed_of(fields)
        try:
            text, key = await _sound(lambda: accounts.keys.create(new_key(fields), seed))
        except Faults as faults:
            return _form_page(request, visitor, accounts, fields, faults.by_field)
        now_s = accounts.now().timestamp()
        if key.revoked_at is not None or key.created_at < utc_text(now_s - SHOWN_AGAIN_S):
            return _back(key.id, "made")
        _, account = await accounts.keys.one(key.id)
        state = state_of(key, utc_text(now_s))
        more = {**connection(accounts, request, text), "paid": accounts.access == "paid"}
        return page(
            request, "account_made.html", visitor, key=key, account=account, text=text, state=state, **more
        )

    @get("/ui/account/keys/{key_id:str}")
    async def one(request: Request[Any, Any, Any], key_id: FromPath[str]) -> Response[str]:
        visitor = guard.admin_of(request)
        return await _key_page(request, visitor, accounts, key_id)

    @get("/ui/account/keys/{key_id:str}/usage.csv")
    async def table(request: Request[Any, Any, Any], key_id: FromPath[str]) -> Response[str]:
        guard.admin_of(request)
        key, _ = await accounts.keys.one(key_id)
        return await csv_of(accounts, key)

    return [ask_new, create, one, table, *_changes(guard, accounts)]


def _changes(guard: Guard, accounts: Accounts) -> list[HTTPRouteHandler]:
    @post("/ui/account/keys/{key_id:str}/change", status_code=303, request_max_body_size=FORM_BYTES)
    async def change(request: Request[Any, Any, Any], key_id: FromPath[str]) -> Response[str]:
        visitor = guard.admin_of(request)
        fields = await sent(request)
        try:
            wanted = key_change(fields)
            if wanted == KeyChange():
                return _back(key_id, "same")
            await _sound(lambda: accounts.keys.change(key_id, wanted))
        except Faults as faults:
            return await _key_page(request, visitor, accounts, key_id, ("change", fields, faults.by_field))
        return _back(key_id, "changed")

    @post("/ui/account/keys/{key_id:str}/topup", status_code=303, request_max_body_size=FORM_BYTES)
    async def topup(request: Request[Any, Any, Any], key_id: FromPath[str]) -> Response[str]:
        visitor = guard.admin_of(request)
        fields = await sent(request)
        payment = fields.get("payment", "").strip()
        try:
            amount_nusd = amount_of(fields)
            _check_payment(payment)
            added, _ = await _sound(
                lambda: accounts.keys.topup(key_id, amount_nusd, source=OPERATOR, external_id=payment), "usd"
            )
        except Faults as faults:
            return await _key_page(request, visitor, accounts, key_id, ("topup", fields, faults.by_field))
        return _back(key_id, "topup" if added else "topup-again")

    @post("/ui/account/keys/{key_id:str}/revoke", status_code=303, request_max_body_size=FORM_BYTES)
    async def revoke(request: Request[Any, Any, Any], key_id: FromPath[str]) -> Response[str]:
        guard.admin_of(request)
        await sent(request)
        key, _ = await accounts.keys.one(key_id)
        if key.revoked_at is None:
            await accounts.keys.revoke(key_id)
        return _back(key_id, "revoked")

    @get([f"/ui/account/keys/{{key_id:str}}/{form}" for form in FORMS], sync_to_thread=False)
    def back(key_id: FromPath[str]) -> Response[str]:
        """Lead who had to sign in before a form could be taken to the page that has it."""
        return _back(key_id, "")

    return [change, topup, revoke, back]


async def keys_page(request: AnyRequest, visitor: Visitor, accounts: Accounts) -> Response[str]:
    """Return the list of keys, newest first."""
    now = utc_text(accounts.now().timestamp())
    asked = {name: request.query_params.get(name, "").strip()[:100] for name in ("q", "state")}
    wish = KeyWish(asked["q"], next((state for state in STATES if state == asked["state"]), ""))
    text = request.query_params.get("page", "")
    number = max(1, int(text)) if text.isascii() and text.isdigit() and len(text) < 9 else 1
    found, total = await accounts.keys.search(wish, PAGE_KEYS, (number - 1) * PAGE_KEYS)
    last = max(1, -(-total // PAGE_KEYS))
    if number > last:
        number = last
        found, total = await accounts.keys.search(wish, PAGE_KEYS, (number - 1) * PAGE_KEYS)
    totals = await accounts.keys.totals()
    query = urlencode({name: value for name, value in asked.items() if value})
    return page(
        request,
        "account_keys.html",
        visitor,
        rows=[(key, account, state_of(key, now)) for key, account in found],
        total=total,
        asked=asked,
        states=STATES,
        totals=totals,
        number=number,
        last=last,
        query=f"{query}&" if query else "",
    )


def _form_page(
    request: AnyRequest,
    visitor: Visitor,
    accounts: Accounts,
    fields: Mapping[str, str],
    faults: Mapping[str, str],
) -> Response[str]:
    token, headers = token_for(request)
    status = 422 if faults else 200
    more: dict[str, Any] = {"fields": fields, "faults": faults, "token": token}
    more["paid"] = accounts.access == "paid"
    return page(request, "account_new.html", visitor, status=status, headers=headers, **more)


async def _key_page(
    request: AnyRequest,
    visitor: Visitor,
    accounts: Accounts,
    key_id: str,
    wrong: tuple[str, Fields, dict[str, str]] | None = None,
) -> Response[str]:
    """Return the page of one key; `wrong` is a form that came with faults."""
    key, account = await accounts.keys.one(key_id)
    token, headers = token_for(request)
    stored = fields_of(key, account)
    forms: dict[str, tuple[Mapping[str, str], Mapping[str, str]]] = {
        "change": (stored, _NEW),
        "topup": ({"payment": f"page-{secrets.token_hex(8)}"}, _NEW),
    }
    if wrong is not None:
        name, fields, faults = wrong
        forms[name] = fields, faults
    return page(
        request,
        "account_key.html",
        visitor,
        status=200 if wrong is None else 422,
        headers=headers,
        **await seen(accounts, key, account, request),
        token=token,
        stored=stored,
        forms=forms,
        done=DONE.get(request.query_params.get("done", ""), ""),
    )


async def _sound(work: Callable[[], Awaitable[T]], field: str = "") -> T:
    """Do what may find a value that makes no sense. Raises Faults."""
    try:
        return await work()
    except ValueError as fault:
        raise Faults({field: str(fault)}) from None


def _check_payment(payment: str) -> None:
    try:
        check_payment(payment)
    except ValueError as fault:
        raise Faults({"payment": str(fault)}) from None


def _back(key_id: str, done: str) -> Response[str]:
    """Send the browser to the key's page, so that a reload sends no form."""
    here = f"/ui/account/keys/{quote(key_id, safe='')}"
    headers = {**HEADERS, "location": f"{here}?done={done}" if done else here}
    return Response("", status_code=303, media_type="text/html", headers=headers)
