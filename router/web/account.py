"""`/ui/account`: who has signed in with an API key sees its own account, the operator every key.

A customer's pages take no id of a key from anywhere but the session, and each id of a request together with
that: there is nothing to change that would lead to another's data.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from litestar import Request, Response, get
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from router.access.bounds import can_be_id
from router.access.keys import ApiKey
from router.errors import Unavailable
from router.history.record import Record
from router.ledger.payments import Payment
from router.ledger.receipts import Receipt, receipt
from router.web.account_keys import keys_page, operator_routes
from router.web.account_view import Accounts, connection, models_for, seen, spent
from router.web.guard import Guard, PageFault
from router.web.pages import HEADERS, page
from router.web.usage import usage_csv

CSV_DAYS = 3_660


def account_pages(guard: Guard, accounts: Accounts) -> list[HTTPRouteHandler]:
    """Return the handlers."""

    @get("/ui/account")
    async def account(request: Request[Any, Any, Any]) -> Response[str]:
        visitor = await guard.customer_of(request)
        if visitor.key is None:
            return await keys_page(request, visitor, accounts)
        key, sums = await accounts.keys.one(visitor.key.id)
        return page(
            request,
            "account.html",
            visitor,
            **await seen(accounts, key, sums, request),
            **connection(accounts, request, None),
            models=models_for(accounts, key),
            sells=accounts.sells,
        )

    @get("/ui/account/usage.csv")
    async def table(request: Request[Any, Any, Any]) -> Response[str]:
        visitor = await guard.customer_of(request)
        if visitor.key is None:
            raise PageFault(404, "Whose usage?", "", "Open a key in Account; its page has the link.")
        return await csv_of(accounts, visitor.key)

    @get("/ui/account/receipts/{request_id:path}")
    async def one_receipt(request: Request[Any, Any, Any], request_id: FromPath[str]) -> Response[str]:
        visitor = await guard.customer_of(request)
        wanted = request_id.removeprefix("/")
        if visitor.key is None:
            headers = {**HEADERS, "location": f"/ui/requests/{quote(wanted)}"}
            return Response("", status_code=303, media_type="text/html", headers=headers)
        found, record = await _receipt(accounts, visitor.key.id, wanted)
        if found is None and record is None:
            raise PageFault(
                404,
                "No such request",
                f"This account has no request {wanted[:128]!r}.",
                "Take it from the list in Account; its id is the answer's x-request-id.",
            )
        origin = connection(accounts, request, None)["origin"]
        return page(
            request,
            "account_receipt.html",
            visitor,
            receipt=found,
            payment=await _payment(accounts, visitor.key.id, found),
            record=record,
            wanted=wanted,
            origin=origin,
        )

    return [account, table, one_receipt, *operator_routes(guard, accounts, csv_of)]


async def csv_of(accounts: Accounts, key: ApiKey) -> Response[str]:
    """Return all of a key's usage by day and model."""
    rows = await spent(accounts, key.id, CSV_DAYS)
    headers = {**HEADERS, "content-disposition": f'attachment; filename="usage-{key.id}.csv"'}
    return Response(usage_csv(rows), media_type="text/csv; header=present", headers=headers)


async def _payment(accounts: Accounts, account_id: str, found: Receipt | None) -> Payment | None:
    """Return the wallet's payment for an account's own request."""
    if found is None:
        return None
    payment = await accounts.ledger.payments.of_request(found.request_id)
    return payment if payment is not None and payment.account == account_id else None


async def _receipt(accounts: Accounts, account_id: str, wanted: str) -> tuple[Receipt | None, Record | None]:
    """Return what the ledger and the history know of an account's own request."""
    if not can_be_id(wanted):
        return None, None
    found = receipt(await accounts.ledger.books.request_rows(account_id, wanted))
    record = None
    if accounts.history is not None:
        try:
            await accounts.history.flush()
            record = await accounts.history.store.one(found.request_id if found is not None else wanted)
        except Unavailable:
            record = None
    return found, record if record is not None and record.account == account_id else None
