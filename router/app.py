"""Build the whole program from its settings: every object is made here, and nothing else happens here."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import IO

from litestar import Litestar
from litestar.config.cors import CORSConfig

from router import __version__
from router.access.keys import OPEN_ACCOUNT, Keys
from router.api.admin import admin_routes
from router.api.chat import chat_routes
from router.api.documents import document_routes
from router.api.faults import exception_handlers
from router.api.front import Front
from router.api.health import health_routes
from router.api.models import model_routes
from router.chat import Chat, Rooms
from router.classifier.model import Classifier
from router.decider import Decider
from router.ended import BATCH, Ended
from router.errors import Unavailable
from router.learning import Learning
from router.ledger.keystore import KeyStore
from router.ledger.ledger import Ledger
from router.limits import Admission
from router.places import Places
from router.routing.live import TICK_S, LiveTable
from router.routing.recorder import Recorder
from router.routing.sessions import Sessions
from router.running import RunningCatalog
from router.settings import Settings
from router.telemetry.decisions import FILE_BYTES, FOLDER, DecisionLog
from router.telemetry.log import RequestLog
from router.telemetry.metrics import Metrics
from router.upstream.exchange import Transport
from router.upstream.send import Sender
from router.upstream.transports import default_transports

_log = logging.getLogger("router.app")
DEAD_HOLDS_S = 5.0
EXPOSED_HEADERS = (
    "retry-after",
    "server-timing",
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
)


@dataclass(frozen=True, slots=True)
class World:
    """What the program takes from outside; tests hand in their own."""

    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    monotonic: Callable[[], float] = time.monotonic
    transports: Mapping[str, Transport] | None = None
    log_stream: IO[str] | None = None


@dataclass(frozen=True, slots=True)
class _Parts:
    """What the program is built of, below the walk."""

    settings: Settings
    world: World
    catalog: RunningCatalog
    ledger: Ledger
    live: LiveTable
    sessions: Sessions
    metrics: Metrics
    transports: Mapping[str, Transport]
    request_log: RequestLog
    decisions: DecisionLog | None
    ended: Ended


def create_app(settings: Settings, catalog: RunningCatalog, world: World | None = None) -> Litestar:
    """Return the ASGI application; it opens its storage at once and closes it when the app shuts down.

    Raises `Unavailable` when storage cannot be opened.
    """
    parts = _parts(settings, catalog, world or World())
    chat = chat_routes(Chat(_rooms(parts)), settings, parts.world.monotonic)
    app = Front(
        route_handlers=[
            *chat,
            *model_routes(catalog, parts.live.measured),
            *admin_routes(catalog, settings.admin_key),
            *health_routes(lambda: ready(parts.ledger), parts.metrics),
            *document_routes(),
        ],
        lifespan=[_lifespan(parts)],
        exception_handlers=exception_handlers(settings.error_code),
        cors_config=cors(settings),
        openapi_config=None,
        logging_config=None,
        debug=False,
    )
    app.shorten(chat)
    return app


def _parts(settings: Settings, catalog: RunningCatalog, world: World) -> _Parts:
    ledger = Ledger.open(
        settings.data, clock=lambda: world.now().timestamp(), sync_hold=settings.ledger_sync == "hold"
    )
    live = LiveTable(catalog.current, world.monotonic)
    metrics = Metrics(live.states, lambda: len(live.alerts()))
    request_log, decisions = RequestLog(settings.log, world.log_stream), _decision_log(settings, world)
    recorder = Recorder(decisions) if decisions is not None else None
    return _Parts(
        settings=settings,
        world=world,
        catalog=catalog,
        ledger=ledger,
        live=live,
        sessions=Sessions(),
        metrics=metrics,
        transports=world.transports or default_transports(world.environ),
        request_log=request_log,
        decisions=decisions,
        ended=Ended(request_log, recorder, metrics, BATCH if world.log_stream is None else 1),
    )


def _rooms(parts: _Parts) -> Rooms:
    world, ledger, monotonic = parts.world, parts.ledger, parts.world.monotonic
    return Rooms(
        settings=parts.settings,
        catalog=parts.catalog,
        decider=Decider(Classifier.load(), parts.live, parts.sessions, monotonic),
        keys=Keys(KeyStore(ledger.database), clock=lambda: world.now().timestamp(), monotonic=monotonic),
        ledger=ledger,
        places=Places(Admission(monotonic), monotonic),
        sender=Sender(parts.transports, world.environ, __version__, world.now),
        live=parts.live,
        learning=Learning(parts.live, parts.sessions, monotonic),
        metrics=parts.metrics,
        ended=parts.ended,
        now=world.now,
        monotonic=monotonic,
    )


def _lifespan(parts: _Parts) -> Callable[[Litestar], AbstractAsyncContextManager[None]]:
    """Return what runs beside the requests, and what ends in good order."""

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        await parts.ledger.end_open_holds()
        _log.info("ready")
        work = (parts.catalog.watch(), _end_dead_holds(parts.ledger), _publish(parts.live, parts.catalog))
        tasks = [asyncio.create_task(coroutine) for coroutine in work]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for transport in parts.transports.values():
                await transport.aclose()
            await parts.ledger.close()
            parts.ended.write()
            parts.request_log.flush()
            if parts.decisions is not None:
                parts.decisions.close()

    return lifespan


def _decision_log(settings: Settings, world: World) -> DecisionLog | None:
    """Return the log of this process, None where the operator wants none."""
    files = settings.decision_log_mib * 2**20 // FILE_BYTES
    if not settings.decision_log_mib:
        return None
    return DecisionLog(settings.data / FOLDER, now=world.now, files=max(1, files))


async def _end_dead_holds(ledger: Ledger) -> None:
    """End what processes that died beside this one left open; our own start has ended what was before."""
    while True:
        await asyncio.sleep(DEAD_HOLDS_S)
        with contextlib.suppress(Unavailable):  # storage is away; the next round comes
            await ledger.end_open_holds()


async def _publish(live: LiveTable, catalog: RunningCatalog) -> None:
    """Publish what was measured, a table at a time."""
    while True:
        await asyncio.sleep(TICK_S)
        published = live.tick(catalog.current)
        if published is not None:
            _log.info("live table %s: %d measured speeds", published.id, len(published.speeds))


def ready(ledger: Ledger) -> None:
    """Raise `Unavailable` unless the storage answers."""
    ledger.account(OPEN_ACCOUNT)


def cors(settings: Settings) -> CORSConfig | None:
    """Return what browsers of other origins may do; nothing unless the operator named origins."""
    if not settings.cors_origins:
        return None
    return CORSConfig(
        allow_origins=list(settings.cors_origins),
        allow_methods=["GET", "POST", "OPTIONS"],
        allow_headers=["*"],  # SDKs send many of their own; no cookie is ever read, so none can be abused
        expose_headers=list(EXPOSED_HEADERS),
        max_age=600,
    )
