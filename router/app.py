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
from typing import IO, TYPE_CHECKING

from litestar import Litestar
from litestar.config.cors import CORSConfig

from router import __version__
from router.access.keys import Keys
from router.api.account import account_routes
from router.api.admin import admin_routes
from router.api.admin_keys import key_routes
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
from router.gate import Gate, LocalGate
from router.learning import Learning
from router.ledger.answers import KEEP_S, SWEEP_ROWS
from router.ledger.engines import open_ledger
from router.ledger.ledger import Ledger
from router.ledger.rows import utc_text
from router.limits import Admission
from router.places import Places
from router.routing.live import TICK_S, LiveTable
from router.routing.recorder import Recorder
from router.routing.sessions import Sessions
from router.running import RunningCatalog
from router.service import Service, gauges
from router.settings import Settings
from router.telemetry.decisions import FILE_BYTES, FOLDER, DecisionLog
from router.telemetry.log import RequestLog
from router.telemetry.metrics import Metrics
from router.upstream.exchange import Transport
from router.upstream.send import Sender
from router.upstream.transports import default_transports
from router.workers.link import Link, LinkedGate

if TYPE_CHECKING:
    from router.shared.gate import SharedGate
    from router.shared.memory import Memory

_log = logging.getLogger("router.app")
DEAD_HOLDS_S = 2.0
SWEEP_S = 60.0
SWEEP_PAUSE_S = 0.1
EXPOSED_HEADERS = (
    "idempotent-replayed",
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
)


@dataclass(frozen=True, slots=True)
class World:
    """What the program takes from outside; tests and benchmarks hand in their own.

    A `ledger` takes the place of the one that the settings name.
    """

    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    monotonic: Callable[[], float] = time.monotonic
    transports: Mapping[str, Transport] | None = None
    log_stream: IO[str] | None = None
    ledger: Ledger | None = None


@dataclass(frozen=True, slots=True)
class _Parts:
    """What the program is built of, below the walk."""

    settings: Settings
    world: World
    catalog: RunningCatalog
    ledger: Ledger
    live: LiveTable
    gate: Gate
    shared: SharedGate | None
    memory: Memory | None
    sessions: Sessions
    metrics: Metrics
    transports: Mapping[str, Transport]
    request_log: RequestLog
    decisions: DecisionLog | None
    ended: Ended


def create_app(
    settings: Settings, catalog: RunningCatalog, world: World | None = None, link: Link | None = None
) -> Litestar:
    """Return the ASGI application; it closes its storage when the app shuts down.

    `link` is a worker's, to the supervisor of several. Raises `Unavailable` when the embedded storage cannot
    be opened; a server is connected to at the start.
    """
    parts = _parts(settings, catalog, world or World(), link)
    service = Service(parts.catalog, parts.ledger, parts.metrics, link, parts.shared)
    rooms = _rooms(parts)
    chat = chat_routes(Chat(rooms), settings, parts.world.monotonic)
    app = Front(
        route_handlers=[
            *chat,
            *model_routes(catalog, parts.live.measured),
            *account_routes(rooms.keys, parts.ledger, catalog, rooms.access, rooms.now),
            *admin_routes(catalog, settings.admin_key, service.reload),
            *key_routes(rooms.keys, settings.admin_key, rooms.now),
            *health_routes(service.ready, service.exposition),
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


def _parts(settings: Settings, catalog: RunningCatalog, world: World, link: Link | None) -> _Parts:
    ledger = world.ledger or open_ledger(
        settings.data,
        settings.storage_url,
        clock=lambda: world.now().timestamp(),
        sync_hold=settings.ledger_sync == "hold",
    )
    live = LiveTable(catalog.current, world.monotonic)
    sessions = Sessions()
    shared = None if settings.redis_url is None else _shared_gate(settings.redis_url, world)
    gate: Gate = shared or (
        LocalGate(Admission(world.monotonic), world.monotonic) if link is None else LinkedGate(link)
    )
    metrics = Metrics(
        live.states,
        lambda: len(live.alerts()),
        lambda: gate.waiting,
        lambda: gauges(link, shared),
    )
    request_log, decisions = RequestLog(settings.log, world.log_stream), _decision_log(settings, world)
    recorder = Recorder(decisions) if decisions is not None else None
    return _Parts(
        settings=settings,
        world=world,
        catalog=catalog,
        ledger=ledger,
        live=live,
        gate=gate,
        shared=shared,
        memory=_memory(shared, sessions, world),
        sessions=sessions,
        metrics=metrics,
        transports=world.transports or default_transports(world.environ),
        request_log=request_log,
        decisions=decisions,
        ended=Ended(request_log, recorder, metrics, BATCH if world.log_stream is None else 1),
    )


def _shared_gate(url: str, world: World) -> SharedGate:
    """Return the gate to a Redis; its client is imported only where there is one. Raises Unavailable."""
    from router.shared.gate import SharedGate

    try:
        return SharedGate(url, world.monotonic)
    except ValueError as fault:  # without the URL, which may hold a password
        raise Unavailable(
            "ROUTER_SHARED_URL cannot be used: write it as redis://:PASSWORD@HOST:6379/0", retry_after_s=1
        ) from fault


def _memory(shared: SharedGate | None, sessions: Sessions, world: World) -> Memory | None:
    if shared is None:
        return None
    from router.shared.memory import Memory

    return Memory(shared, sessions, world.monotonic)


def _rooms(parts: _Parts) -> Rooms:
    world, ledger, monotonic = parts.world, parts.ledger, parts.world.monotonic
    memory = parts.memory
    return Rooms(
        settings=parts.settings,
        catalog=parts.catalog,
        decider=Decider(Classifier.load(), parts.live, parts.sessions, monotonic),
        keys=Keys(ledger.keys, clock=lambda: world.now().timestamp(), monotonic=monotonic),
        ledger=ledger,
        places=Places(parts.gate),
        sender=Sender(parts.transports, world.environ, __version__, world.now),
        live=parts.live,
        learning=Learning(parts.live, parts.sessions, monotonic, memory.tell if memory is not None else None),
        metrics=parts.metrics,
        ended=parts.ended,
        recall=memory.recall if memory is not None else None,
        now=world.now,
        monotonic=monotonic,
    )


def _lifespan(parts: _Parts) -> Callable[[Litestar], AbstractAsyncContextManager[None]]:
    """Return what runs beside the requests, and what ends in good order."""

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        await parts.ledger.start()
        await parts.ledger.end_open_holds()
        work = [
            parts.catalog.watch(),
            _end_dead_holds(parts.ledger),
            _forget_answers(parts.ledger, parts.world.now),
            _publish(parts),
        ]
        if parts.shared is not None:
            work.append(parts.shared.run())
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


async def _forget_answers(ledger: Ledger, now: Callable[[], datetime]) -> None:
    """Forget the answers that were kept for retries long enough, a few at a time."""
    forgotten = 0
    while True:
        await asyncio.sleep(SWEEP_PAUSE_S if forgotten == SWEEP_ROWS else SWEEP_S)
        forgotten = 0
        with contextlib.suppress(Unavailable):
            forgotten = await ledger.answers.sweep(utc_text(now().timestamp() - KEEP_S))


async def _publish(parts: _Parts) -> None:
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
        allow_headers=["*"],  # SDKs send many of their own; no cookie is ever read, so none can be abused
        expose_headers=list(EXPOSED_HEADERS),
        max_age=600,
    )
