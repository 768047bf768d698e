"""Put the program together: its routes, what runs beside the requests, how it begins and ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime

from litestar import Litestar, Router
from litestar.config.cors import CORSConfig

from router.access.wallet_key import WalletFault
from router.api.account import account_routes
from router.api.admin import admin_routes
from router.api.admin_keys import key_routes
from router.api.chat import chat_routes
from router.api.documents import document_routes
from router.api.faults import exception_handlers
from router.api.front import Front
from router.api.health import health_routes
from router.api.http import Manner
from router.api.ids import RequestIds
from router.api.models import model_routes
from router.api.responses import responses_routes
from router.api.wallet import wallet_routes
from router.chat import Chat, Rooms
from router.errors import Unavailable
from router.ledger.answers import KEEP_S, SWEEP_ROWS
from router.ledger.ledger import Ledger, TellEnd
from router.ledger.rows import utc_text
from router.parts import Parts, World, parts_of, rooms_of
from router.remembered import interrupted
from router.routing.live import TICK_S
from router.running import RunningCatalog, buys
from router.service import Service
from router.settings import Settings
from router.topup import Topups
from router.web.account import account_pages
from router.web.account_view import Accounts
from router.web.explain import Explaining, explain_routes
from router.web.guard import Guard
from router.web.models import Served, served_routes
from router.web.overview import Sources, overview_routes
from router.web.pages import preparations
from router.web.requests import Log, request_routes
from router.web.routes import web_routes
from router.workers.link import Link

__all__ = ["World", "cors", "create_app"]
_log = logging.getLogger("router.app")
DEAD_HOLDS_S = 2.0
SWEEP_S = 60.0
SWEEP_PAUSE_S = 0.1
PAGES_PAUSE_S = 0.02
EXPOSED_HEADERS = (
    "idempotent-replayed",
    "payment-receipt",
    "payment-required",
    "payment-response",
    "retry-after",
    "server-timing",
    "x-ratelimit-limit-requests",
    "x-ratelimit-limit-tokens",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-remaining-tokens",
    "x-ratelimit-reset-requests",
    "x-ratelimit-reset-tokens",
    "x-request-id",
    "x-llm-router-attempts",
    "x-llm-router-catalog",
    "x-llm-router-category",
    "x-llm-router-confidence",
    "x-llm-router-cost-usd",
    "x-llm-router-logical-model",
    "x-llm-router-provider",
    "x-llm-router-reason",
    "x-llm-router-resolved-model",
    "www-authenticate",
)


def create_app(
    settings: Settings, catalog: RunningCatalog, world: World | None = None, link: Link | None = None
) -> Litestar:
    """Return the ASGI application; it closes its storage when the app shuts down.

    `link` is a worker's, to the supervisor of several. Raises `Unavailable` when the embedded storage cannot
    be opened; a server is connected to at the start.
    """
    parts = parts_of(settings, catalog, world or World(), link)
    service = Service(parts.catalog, parts.ledger, parts.metrics, link, parts.shared)
    rooms = rooms_of(parts)
    topups = Topups(rooms.till, rooms.keys, rooms.ledger, rooms.now) if rooms.till is not None else None
    manner = Manner(settings.max_body_mib * 2**20, settings.error_code, RequestIds(), parts.world.monotonic)
    chat = Chat(rooms)
    hot = [*chat_routes(chat, topups, manner), *responses_routes(chat, manner)]
    app = Front(
        route_handlers=[
            *hot,
            *model_routes(catalog, parts.live.measured),
            *account_routes(
                rooms.keys, parts.ledger, catalog, rooms.access, rooms.now, anonymous=settings.sells
            ),
            *admin_routes(catalog, settings.admin_key, service.reload),
            *key_routes(rooms.keys, settings.admin_key, rooms.now),
            *wallet_routes(rooms.keys, rooms.access, settings, parts.wallet, rooms.now),
            *health_routes(service.ready, service.exposition),
            *document_routes(),
            _pages(parts, rooms, service),
        ],
        lifespan=[_lifespan(parts)],
        exception_handlers=exception_handlers(settings.error_code),
        cors_config=cors(settings),
        openapi_config=None,
        logging_config=None,
        debug=False,
    )
    app.shorten(hot)
    return app


def _pages(parts: Parts, rooms: Rooms, service: Service) -> Router:
    """Return the pages; each module of `web` is handed what it shows."""
    world = parts.world
    guard = Guard(
        parts.settings, rooms.keys, clock=lambda: world.now().timestamp(), monotonic=world.monotonic
    )
    seen = Sources(parts.history, parts.catalog, parts.live, rooms.keys, service, world.now)
    log = Log(parts.history, parts.ledger, rooms.keys, world.now, parts.settings.keep_prompts)
    explaining = Explaining(parts.settings, parts.catalog, rooms.decider, world.now)
    served = Served(parts.catalog, parts.live, service, world.now)
    accounts = Accounts(
        keys=rooms.keys,
        ledger=parts.ledger,
        history=parts.history,
        catalog=parts.catalog,
        standing=rooms.places.standing,
        access=rooms.access,
        sells=parts.settings.sells,
        public_url=parts.settings.public_url,
        now=world.now,
    )
    return web_routes(
        guard,
        overview_routes(guard, seen),
        explain_routes(guard, explaining),
        served_routes(guard, served),
        request_routes(guard, log),
        account_pages(guard, accounts),
    )


def _lifespan(parts: Parts) -> Callable[[Litestar], AbstractAsyncContextManager[None]]:
    """Return what runs beside the requests, and what ends in good order."""

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        await parts.ledger.start()
        await parts.ledger.end_open_holds(tell=_remembering_dead(parts))
        work = [
            parts.catalog.watch(),
            _end_dead_holds(parts.ledger, _remembering_dead(parts)),
            _forget_answers(parts.ledger, parts.world.now),
            _publish(parts),
            parts.wallet.watch(parts.world.now),
            _prepare_pages(parts.settings),
        ]
        await _prepare_wallet(parts)
        if parts.shared is not None:
            work.append(parts.shared.run())
        if parts.shop is not None:
            await parts.shop.start()
            work.append(parts.shop.run())
        if parts.history is not None:
            await parts.history.start()
            work.append(parts.history.run())
        tasks = [asyncio.create_task(coroutine) for coroutine in work]
        if parts.shared is not None:
            await parts.shared.tried()
        _log.info("ready")
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if parts.shop is not None:
                await parts.shop.close(parts.settings.grace_s)
            for transport in parts.transports.values():
                await transport.aclose()
            if parts.buyer is not None:
                await parts.buyer.aclose()
            await parts.wallet.aclose()
            parts.ended.write()
            if parts.history is not None:
                await parts.history.close()
            await parts.ledger.close()
            parts.request_log.flush()
            if parts.exporter is not None:
                await asyncio.to_thread(parts.exporter.close)
            if parts.decisions is not None:
                parts.decisions.close()

    return lifespan


async def _prepare_wallet(parts: Parts) -> None:
    """Have the wallet's key at hand, and made where there is none, if an offer needs it: not at a request."""
    if parts.buyer is None or not buys(parts.catalog.current):
        return
    try:
        key = await parts.wallet.key()
    except WalletFault as fault:
        _log.error("upstreams are not paid: %s", fault)
    else:
        _log.info("the wallet that pays upstreams is %s", key.address)


async def _prepare_pages(settings: Settings) -> None:
    """Make ready what the first look at a page would wait for, a step at a time beside the first requests."""
    if not settings.loopback and settings.admin_key is None:
        return  # the pages are off
    for step in preparations():
        await asyncio.to_thread(step)
        await asyncio.sleep(PAGES_PAUSE_S)


def _remembering_dead(parts: Parts) -> TellEnd | None:
    """Return what has the pages show requests that were ended for processes that died."""
    history = parts.history
    if history is None:
        return None
    return lambda hold, end: history.note(interrupted(hold, end, parts.world.now().timestamp()))


async def _end_dead_holds(ledger: Ledger, tell: TellEnd | None) -> None:
    """End what processes that died beside this one left open; our own start has ended what was before."""
    while True:
        await asyncio.sleep(DEAD_HOLDS_S)
        with contextlib.suppress(Unavailable):  # storage is away; the next round comes
            await ledger.end_open_holds(tell=tell)


async def _forget_answers(ledger: Ledger, now: Callable[[], datetime]) -> None:
    """Forget the answers that were kept for retries long enough, a few at a time."""
    forgotten = 0
    while True:
        await asyncio.sleep(SWEEP_PAUSE_S if forgotten == SWEEP_ROWS else SWEEP_S)
        forgotten = 0
        with contextlib.suppress(Unavailable):
            forgotten = await ledger.answers.sweep(utc_text(now().timestamp() - KEEP_S))


async def _publish(parts: Parts) -> None:
    """Publish what was measured, here and by other replicas, a table at a time."""
    live = parts.live
    while True:
        await asyncio.sleep(TICK_S)
        others = [] if parts.memory is None else await parts.memory.exchange(live.sightings())
        published = live.tick(parts.catalog.current, others)
        if published is not None:
            _log.info("live table %s: %d measured speeds", published.id, len(published.speeds))


def cors(settings: Settings) -> CORSConfig | None:
    """Return what browsers of other origins may do; nothing unless the operator named origins."""
    if not settings.cors_origins:
        return None
    return CORSConfig(
        allow_origins=list(settings.cors_origins),
        allow_methods=["GET", "POST", "OPTIONS"],
        allow_headers=["*"],  # SDKs send many of their own; credentials are not allowed, so no cookie is sent
        expose_headers=list(EXPOSED_HEADERS),
        max_age=600,
    )
