"""`/ui/requests`: the log of requests, live, by filters, as CSV; words only where they are kept."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from litestar import Request, Response, get, route
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath
from litestar.response import Stream
from msgspec.structs import replace

from router.access.bounds import can_be_id
from router.access.keys import OPEN_ACCOUNT, Keys
from router.catalog.snapshot import CATEGORIES
from router.errors import Unavailable
from router.history.figures import NAMED, NOBODY, RANGES
from router.history.history import History
from router.history.record import Record, Wish
from router.history.words import Words
from router.ledger.keysearch import KeyWish
from router.ledger.ledger import Ledger
from router.ledger.rows import Row, utc_text
from router.web.csv_rows import CSV_FIRST, csv_rows
from router.web.guard import Guard, PageFault
from router.web.pages import HEADERS, page, piece, render

PAGE_ROWS = 50
NEW_ROWS = 100
MOST_KEYS = 200
FILTERS = ("model", "category", "outcome", "account", "id", "range")


@dataclass(frozen=True, slots=True)
class Log:
    """Where the page's rows come from; `history` None where none is kept."""

    history: History | None
    ledger: Ledger
    keys: Keys
    now: Callable[[], datetime]
    keeps_prompts: bool = False


@dataclass(frozen=True, slots=True)
class Gap:
    """Requests that the live log leaves out, at least `number` where not `whole`; `query` lists them."""

    number: int
    whole: bool
    query: str


def request_routes(guard: Guard, log: Log) -> list[HTTPRouteHandler]:
    """Return the handlers."""

    @get("/ui/requests")
    async def requests(request: Request[Any, Any, Any]) -> Response[str]:
        visitor = guard.admin_of(request)
        history = _kept(log)
        asked = _asked(request.query_params)
        before = _number(request.query_params.get("before"))
        await history.flush()
        now_s = log.now().timestamp()
        found = await history.store.find(wish_of(asked, now_s, before=before), PAGE_ROWS)
        newest = found.records[0].seq if found.records else await history.store.newest()
        return page(
            request,
            "requests.html",
            visitor,
            asked={name: asked.get(name, "") for name in FILTERS},
            query=urlencode(asked),
            found=found,
            newest=newest,
            first=before is None,
            live=before is None and not asked.get("id"),
            older=urlencode({**asked, "before": found.next_before}) if found.next_before else "",
            names=await history.store.names(now_s),
            accounts=await _names(log.keys),
            ranges=list(RANGES.values()),
            categories=(*CATEGORIES, NAMED),
            today=utc_text(now_s)[:10],
            keeps_prompts=log.keeps_prompts,
        )

    @get("/ui/requests/new")
    async def new(request: Request[Any, Any, Any]) -> Response[str]:
        guard.admin_of(request)
        history = _kept(log)
        asked, after = _asked(request.query_params), _number(request.query_params.get("after")) or 0
        await history.flush()
        now_s = log.now().timestamp()
        wish = wish_of(asked, now_s, after=after)
        found = await history.store.find(wish, NEW_ROWS)
        if not found.records:
            return piece("", status=204)
        rows = render(
            "request_rows.html",
            found=found,
            fresh=True,
            gap=await _gap(history, wish, asked, found.next_before),
            accounts=await _names(log.keys),
            today=utc_text(now_s)[:10],
        )
        return piece(rows)

    return [requests, new, *_documents(guard, log)]


def _documents(guard: Guard, log: Log) -> list[HTTPRouteHandler]:
    @route("/ui/requests.csv", http_method=["GET", "HEAD"])
    async def table(request: Request[Any, Any, Any]) -> Stream:
        guard.admin_of(request)
        history = _kept(log)
        name = f"requests-{log.now():%Y%m%d-%H%M%S}.csv"
        headers = {**HEADERS, "content-disposition": f'attachment; filename="{name}"'}
        rows: Iterable[bytes] | AsyncIterable[bytes] = ()
        if request.method != "HEAD":  # a million rows for nobody
            await history.flush()
            wish = wish_of(_asked(request.query_params), log.now().timestamp())
            first = await history.store.find(wish, CSV_FIRST, patience_s=0)  # a fault now is still a page
            rows = csv_rows(history, wish, first.records, first.next_before)
        return Stream(rows, media_type="text/csv; header=present", headers=headers)

    @get("/ui/requests/{request_id:path}")
    async def one(request: Request[Any, Any, Any], request_id: FromPath[str]) -> Response[str]:
        visitor = guard.admin_of(request)
        wanted = request_id.removeprefix("/")
        record, rows = await _one(log, wanted) if can_be_id(wanted) else (None, [])
        if record is None and not rows:
            raise PageFault(
                404,
                "No such request",
                f"Neither the log nor the ledger has {wanted[:128]!r}; the log keeps the newest only.",
                "Look for the x-request-id of the answer in Requests.",
            )
        own_id = record.request_id if record is not None else rows[0].request_id
        return page(
            request,
            "request.html",
            visitor,
            record=record,
            rows=rows,
            wanted=wanted,
            words=await _words(log, own_id),
            keeps_prompts=log.keeps_prompts,
            payment=await log.ledger.payments.of_request(own_id),
        )

    return [table, one]


async def _gap(history: History, wish: Wish, asked: Mapping[str, str], before: int | None) -> Gap | None:
    """Return what came since the last look and is not among the newest, where more came than are listed."""
    if before is None:
        return None
    number, whole = await history.store.between(replace(wish, before=before))
    return Gap(number, whole, urlencode({**asked, "before": before})) if number or not whole else None


def _kept(log: Log) -> History:
    if log.history is None:
        raise PageFault(
            404,
            "No requests are kept",
            "ROUTER_HISTORY_REQUESTS is 0.",
            "Set it to the number of requests to keep, and start the router again.",
        )
    return log.history


def _asked(query: Mapping[str, str]) -> dict[str, str]:
    """Return the filters that were given."""
    return {name: value for name in FILTERS if (value := query.get(name, "").strip()[:200])}


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 19 else None


def wish_of(asked: Mapping[str, str], now_s: float, *, before: int | None = None, after: int = 0) -> Wish:
    """Return what is looked for; a range begins where Overview's first bar does, so both count the same."""
    range_ = RANGES.get(asked.get("range", ""))
    model = asked.get("model")
    return Wish(
        model="" if model == NOBODY else model,
        category="" if asked.get("category") == NAMED else asked.get("category"),
        outcome=asked.get("outcome"),
        account=asked.get("account"),
        found_id=asked.get("id"),
        since_ms=None if range_ is None else range_.start_s(now_s) * 1_000,
        before=before,
        after=after,
    )


async def _names(keys: Keys) -> dict[str, str]:
    """Return accounts to choose from, with the names of their keys."""
    try:
        found, _ = await keys.search(KeyWish(), MOST_KEYS)
    except Unavailable:
        found = []
    return {OPEN_ACCOUNT: "no key", **{key.id: key.name for key, _ in found[::-1]}}


async def _words(log: Log, request_id: str) -> Words | None:
    """Return what was said, where it is kept; a page without it is a page all the same."""
    return None if log.history is None else await log.history.store.words(request_id)


async def _one(log: Log, wanted: str) -> tuple[Record | None, list[Row]]:
    """Return a request and its rows of the ledger, either of which may be gone."""
    record = None
    if log.history is not None:
        await log.history.flush()
        record = await log.history.store.one(wanted)
    books = log.ledger.books
    if record is not None and record.account is not None:
        return record, await books.request_rows(record.account, record.request_id)
    rows = await books.rows_of(wanted) if record is None else []
    return record, await books.request_rows(rows[0].account, wanted) if rows else []
