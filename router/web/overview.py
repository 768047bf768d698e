"""`/ui`: what was routed where, what it cost, what it saved, what needs attention."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from litestar import Request, Response, get
from litestar.handlers import HTTPRouteHandler

from router.access.keys import Keys
from router.errors import Unavailable
from router.history.figures import RANGES, Range, Summary, Sums
from router.history.history import History
from router.history.record import group_of
from router.routing.breaker import Alert
from router.routing.live import LiveTable
from router.running import RunningCatalog, is_demo
from router.service import Service
from router.web.attention import (
    LOW,
    RECENT_S,
    SHOWN,
    Matter,
    failing_offers,
    low_keys,
    old_catalog,
    rejected_edit,
    resting_offers,
)
from router.web.chart import CATEGORIES, span, stacked
from router.web.guard import Guard
from router.web.pages import page

MODELS_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the page's figures come from; `history` None where none is kept."""

    history: History | None
    catalog: RunningCatalog
    live: LiveTable
    keys: Keys
    service: Service
    now: Callable[[], datetime]


def overview_routes(guard: Guard, sources: Sources) -> list[HTTPRouteHandler]:
    """Return the handlers."""

    @get("/ui")
    async def overview(request: Request[Any, Any, Any]) -> Response[str]:
        visitor = guard.admin_of(request)
        chosen = RANGES.get(request.query_params.get("range", ""), RANGES["24h"])
        matters = await matters_of(sources)
        summary, trouble = await _summary(sources, chosen)
        return await asyncio.to_thread(  # tens of milliseconds that requests do not wait for
            page,
            request,
            "overview.html",
            visitor,
            ranges=list(RANGES.values()),
            chosen=chosen,
            matters=matters,
            trouble=trouble,
            told=None
            if summary is None
            else figures(summary, chosen, sources.catalog.current.policy.baseline),
            demo=is_demo(sources.catalog.current),
            origin=f"{request.url.scheme}://{request.headers.get('host', '127.0.0.1:8402')}",
        )

    return [overview]


async def _summary(sources: Sources, chosen: Range) -> tuple[Summary | None, str]:
    """Return what the range came to, or what keeps it from being told."""
    if sources.history is None:
        return (
            None,
            "No figures are kept, since ROUTER_HISTORY_REQUESTS is 0. Set it, and start the router again.",
        )
    try:
        await sources.history.flush()
        return await sources.history.store.summary(chosen, sources.now().timestamp()), ""
    except Unavailable as fault:
        return None, fault.message


async def matters_of(sources: Sources) -> list[Matter]:
    """Return what needs attention, worst first."""
    now, catalog = sources.now(), sources.catalog
    matters = [*rejected_edit(catalog.rejected)]
    try:
        health = await sources.service.ready()
        keys, low = await sources.keys.low(LOW, SHOWN)
    except Unavailable as fault:
        matters.append(Matter("bad", "Storage is away", fault.message))
        health, keys, low = {}, [], 0
    if health.get("limits") == "local":
        text = (
            "Each replica goes by its part of the limits; sessions and speeds are not shared. Look at Redis."
        )
        matters.append(Matter("bad", "What replicas share is away", text))
    numbers = await sources.service.numbers()
    alerts = sources.live.alerts()
    why = {key: blocked.detail for key, blocked in sources.live.blocked().items()}
    matters += resting_offers(numbers.resting, why, alerts)
    matters += failing_offers(await _recent_calls(sources), _told(sources, numbers.resting, alerts))
    if numbers.alerts > len(alerts):
        matters.append(Matter("bad", "Another worker process needs attention", "Its log says what for."))
    matters += low_keys(keys, low)
    matters += old_catalog(catalog.current, now.date())
    return sorted(matters, key=lambda matter: matter.level != "bad")


async def _recent_calls(sources: Sources) -> dict[tuple[str, str], dict[str, int]]:
    """Return the calls of the last minutes; none where no history is kept or it is away."""
    if sources.history is None:
        return {}
    try:
        await sources.history.flush()
        return await sources.history.store.calls(int(sources.now().timestamp()) - RECENT_S)
    except Unavailable:
        return {}


def _told(
    sources: Sources, resting: Iterable[tuple[str, str, str]], alerts: Iterable[Alert]
) -> set[tuple[str, str]]:
    """Return the (provider, model) of offers that are told of as resting, or with what is wrong of them."""
    keys = {(provider, name) for provider, name, _ in resting}
    keys |= {(alert.provider, alert.upstream_model or "") for alert in alerts}
    return {
        (offer.provider, offer.model)
        for model in sources.catalog.current.models.values()
        for offer in model.offers
        if offer.key in keys or (offer.provider, "") in keys
    }


def figures(summary: Summary, chosen: Range, baseline: str | None) -> dict[str, Any]:
    """Return what the template shows of a range."""
    served, of = summary.success
    compared = sorted(
        summary.baselines, key=lambda name: (name != baseline, -summary.baselines[name].requests)
    )
    bars = (summary.categories, summary.start_s, chosen.bar_s)
    return {
        "summary": summary,
        "served": served,
        "counted": of,
        "saved": {
            "nusd": summary.total.saved_nusd,
            "of_nusd": summary.total.baseline_nusd,
            "against": compared[0] if compared else baseline,
            "before": compared[1:],
        },
        "wide": stacked(*bars, width=1120, height=250, labels=10),
        "narrow": stacked(*bars, width=360, height=210, labels=4),
        "rows": [
            (span(summary.start_s + number * chosen.bar_s, chosen.bar_s), bar)
            for number, bar in enumerate(summary.categories)
            if bar
        ],
        "categories": [
            (name, total)
            for name in CATEGORIES
            if (total := sum(bar.get(name, 0) for bar in summary.categories))
        ],
        "models": models_of(summary.models),
        "times": [
            (
                summary.start_s + number * chosen.bar_s,
                span(summary.start_s + number * chosen.bar_s, chosen.bar_s),
                *pair,
            )
            for number, pair in enumerate(
                zip(summary.spreads_by_bar["total"], summary.spreads_by_bar["first"], strict=True)
            )
        ],
        "outcomes": sorted(
            ((name, group_of(name), number) for name, number in summary.outcomes.items()),
            key=lambda row: -row[2],
        ),
    }


def models_of(models: Mapping[str, Sums]) -> list[tuple[str, Sums, float]]:
    """Return the dearest models with their share of the dearest, the rest in one row."""
    spent = sorted(models.items(), key=lambda each: (-each[1].charged_nusd, -each[1].requests))
    named = [each for each in spent if each[0] != "none"]
    rest = named[MODELS_SHOWN:]
    if len(rest) > 1:
        others = Sums()
        for _, sums in rest:
            others.add(sums)
        named = [*named[:MODELS_SHOWN], (f"{len(rest)} others", others)]
    most = max((sums.charged_nusd for _, sums in named), default=0) or 1
    return [(name, sums, round(100 * sums.charged_nusd / most, 2)) for name, sums in named]
