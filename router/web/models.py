"""`/ui/models`: the catalog as it serves, with what was measured beside what its files say; public.

The operator sees the costs, what is off and which setting it lacks, and where it is written; anybody else
sees what can be asked for and what they pay.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from litestar import Request, Response, get
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from router.catalog.lines import offer_lines
from router.catalog.snapshot import CATEGORIES, Fault, Model
from router.routing.live import LiveTable
from router.running import RunningCatalog, is_demo
from router.service import Service
from router.web.attention import rejected_edit
from router.web.guard import Guard, PageFault, Visitor
from router.web.model_rows import SORTS, STATES, Asked, Sight, filtered, in_order, row_of, rows_of
from router.web.pages import page

FILTERS = ("q", "provider", "can", "category", "state")
ABLE = {
    "image": "reads images",
    "tools": "calls tools",
    "forced_tools": "can be made to call a tool",
    "json_schema": "answers by a JSON schema",
    "json_mode": "has a JSON mode",
    "reasoning": "takes a reasoning effort",
    "open_weights": "has open weights",
}
COLUMNS = (
    ("in", "Input", "USD per million prompt tokens"),
    ("out", "Output", "USD per million answer tokens"),
    ("context", "Context", "tokens, prompt and answer"),
    *((category, category.capitalize(), "quality, 0 to 100, one scale") for category in CATEGORIES),
    ("first", "First token", "measured lately, else the catalog's prior"),
    ("speed", "Tokens/s", "measured lately, else the catalog's prior"),
    ("offers", "Offers", "that can be used"),
    ("checked", "Price as of", "when the price was looked up"),
)
MOST_CHARS = 100


@dataclass(frozen=True, slots=True)
class Served:
    """Where the page's figures come from."""

    catalog: RunningCatalog
    live: LiveTable
    service: Service
    now: Callable[[], datetime]


def served_routes(guard: Guard, served: Served) -> list[HTTPRouteHandler]:
    """Return the handlers."""

    @get("/ui/models")
    async def models(request: Request[Any, Any, Any]) -> Response[str]:
        visitor = await guard.anyone_of(request)
        sight = await sight_of(served, visitor)
        asked = _asked(request.query_params, sight.operator)
        column = request.query_params.get("sort", "")
        backwards = request.query_params.get("order") == "back"
        everything = rows_of(sight)
        rows = in_order(filtered(everything, asked), column, backwards)
        return page(
            request,
            "models.html",
            visitor,
            sight=sight,
            rows=rows,
            total=len(everything),
            offers=sum(len(row.offers) for row in everything),
            usable=sum(len(row.offers) - row.count("unusable") for row in everything),
            asked={name: asked.get(name, "") for name in FILTERS},
            filtering=bool(asked),
            sort=column if column == "model" or column in SORTS else "",
            backwards=backwards,
            sort_links=_sort_links(asked, column, backwards),
            columns=COLUMNS,
            able=ABLE,
            categories=CATEGORIES,
            states=STATES if sight.operator else STATES[:2],
            providers=sorted({each.offer.provider for row in everything for each in row.offers}),
            matters=list(rejected_edit(served.catalog.rejected)) if sight.operator else [],
            applied_at=served.catalog.applied_at,
            demo=is_demo(sight.catalog),
        )

    @get("/ui/models/{model_id:path}")
    async def one(request: Request[Any, Any, Any], model_id: FromPath[str]) -> Response[str]:
        visitor = await guard.anyone_of(request)
        sight = await sight_of(served, visitor)
        wanted = model_id.removeprefix("/")
        model = sight.catalog.models.get(wanted)
        row = None if model is None else row_of(model, sight)
        if model is None or row is None or not (row.usable or sight.operator):
            raise PageFault(
                404, "No such model", f"Nothing serves {wanted[:128]!r} here.", "Take one from Models."
            )
        lines = await _lines(served.catalog, model) if sight.operator else {}
        warnings = [each for each in sight.catalog.warnings if each.file == model.file]
        return page(
            request,
            "model.html",
            visitor,
            sight=sight,
            row=row,
            lines=lines,
            warnings=warnings if sight.operator else list[Fault](),
        )

    return [models, one]


async def sight_of(served: Served, visitor: Visitor) -> Sight:
    """Return what is known now; the operator sees what every worker lets rest, anybody else what this one."""
    operator = visitor.role == "operator"
    resting = dict.fromkeys(served.live.states(), "it is tried again now and then")
    if operator:
        numbers = await served.service.numbers()
        resting |= {(provider, name): "in another worker process" for provider, name, _ in numbers.resting}
    resting |= {key: blocked.detail for key, blocked in served.live.blocked().items()}
    return Sight(served.catalog.current, served.now(), served.live.measured(), resting, operator)


def _asked(query: Mapping[str, str], operator: bool) -> Asked:
    """Return the filters that were given."""
    given = {name: value for name in FILTERS if (value := query.get(name, "").strip()[:MOST_CHARS])}
    if given.get("state") not in (STATES if operator else STATES[:2]):
        given.pop("state", None)
    return given


def _sort_links(asked: Asked, column: str, backwards: bool) -> dict[str, str]:
    """Return the query behind each column's title; a second click turns its order round."""
    links = {}
    for name in ("model", *SORTS):
        order = {"order": "back"} if name == column and not backwards else {}
        links[name] = urlencode({**asked, "sort": name, **order})
    return links


async def _lines(catalog: RunningCatalog, model: Model) -> dict[tuple[str, str], int]:
    """Return the line of each offer in its file as it is now, {} where that cannot be read."""
    path = catalog.directory / model.file

    def read() -> dict[tuple[str, str], int]:
        try:
            return offer_lines(path.read_text("utf-8"))
        except (OSError, UnicodeDecodeError):
            return {}

    return await asyncio.to_thread(read) if model.file else {}
