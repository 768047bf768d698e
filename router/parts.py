"""Every object that the program is built of, made from its settings and the world around it."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING

from router import __version__
from router.access.buying import Buyer
from router.access.keys import Keys
from router.access.wallet import Wallet, caps_of
from router.chat import Rooms
from router.classifier.model import Classifier
from router.decider import Decider
from router.ended import BATCH, Ended
from router.errors import Unavailable
from router.gate import Gate, LocalGate
from router.history.history import History, open_history
from router.learning import Learning
from router.ledger.engines import open_ledger
from router.ledger.ledger import Ledger
from router.limits import Admission
from router.places import Places
from router.routing.live import LiveTable
from router.routing.recorder import Recorder
from router.routing.sessions import Sessions
from router.running import RunningCatalog
from router.service import gauges
from router.settings import Settings
from router.telemetry.decisions import FILE_BYTES, FOLDER, DecisionLog
from router.telemetry.log import RequestLog
from router.telemetry.metrics import Metrics
from router.upstream.exchange import Transport
from router.upstream.send import Sender
from router.upstream.transports import default_transports
from router.workers.link import Link, LinkedGate

if TYPE_CHECKING:
    from router.ledger.payments import PaymentClaim
    from router.shared.gate import SharedGate
    from router.shared.memory import Memory
    from router.shop import Shop
    from router.telemetry.otlp import Exporter


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
class Parts:
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
    shop: Shop | None
    wallet: Wallet
    buyer: Buyer | None
    exporter: Exporter | None
    history: History | None


def parts_of(settings: Settings, catalog: RunningCatalog, world: World, link: Link | None) -> Parts:
    """Make them; nothing runs yet. Raises Unavailable where the embedded storage cannot be opened."""
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
        lambda: ledger.held_nusd,
        lambda: gauges(link, shared, catalog, world.now()),
    )
    exporter = None if settings.otlp_endpoint is None else _exporter(settings.otlp_endpoint)
    request_log, decisions = RequestLog(settings.log, world.log_stream), _decision_log(settings, world)
    recorder = Recorder(decisions) if decisions is not None else None
    wallet, caps = (
        Wallet(settings, settings.data, ledger.spending, monotonic=world.monotonic),
        caps_of(settings),
    )
    kept = (settings.data, settings.storage_url, settings.history_requests)
    history = open_history(*kept, lambda: world.now().timestamp(), ledger)
    return Parts(
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
        shop=_shop(settings, ledger, metrics, world),
        exporter=exporter,
        ended=Ended(
            *(request_log, recorder, metrics, BATCH if world.log_stream is None else 1),
            *(exporter, settings.otlp_sample, history),
        ),
        history=history,
        wallet=wallet,
        buyer=Buyer(wallet, caps, world.now) if caps.allow_any else None,
    )


def _shop(settings: Settings, ledger: Ledger, metrics: Metrics, world: World) -> Shop | None:
    """Return what takes the payments of wallets, where the operator has switched that on."""
    if not settings.sells:
        return None
    from router.shop import open_shop

    def count(claim: PaymentClaim, outcome: str) -> None:
        metrics.payments[claim.protocol, claim.scheme, outcome] += 1

    return open_shop(settings, ledger, count=count, now=world.now, monotonic=world.monotonic)


def _exporter(endpoint: str) -> Exporter:
    """Return who sends traces; its packages are imported for nobody else. Raises Unavailable."""
    try:
        from router.telemetry.otlp import Exporter
    except ImportError as fault:
        raise Unavailable(
            "ROUTER_OTLP_ENDPOINT is set and OpenTelemetry is not installed: install the extra `otel`"
            " (`router doctor` prints the command), or unset it (and OTEL_EXPORTER_OTLP_ENDPOINT)",
            retry_after_s=1,
        ) from fault
    return Exporter(endpoint, f"{socket.gethostname()}-{os.getpid()}")


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


def rooms_of(parts: Parts) -> Rooms:
    """Return what a walk goes through."""
    world, ledger, monotonic = parts.world, parts.ledger, parts.world.monotonic
    memory = parts.memory
    return Rooms(
        settings=parts.settings,
        catalog=parts.catalog,
        decider=Decider(Classifier.load(), parts.live, parts.sessions, monotonic),
        keys=Keys(ledger.keys, clock=lambda: world.now().timestamp(), monotonic=monotonic),
        ledger=ledger,
        places=Places(parts.gate),
        sender=Sender(parts.transports, world.environ, __version__, world.now, parts.buyer),
        live=parts.live,
        learning=Learning(parts.live, parts.sessions, monotonic, memory.tell if memory is not None else None),
        metrics=parts.metrics,
        ended=parts.ended,
        till=parts.shop.till if parts.shop is not None else None,
        recall=memory.recall if memory is not None else None,
        now=world.now,
        monotonic=monotonic,
    )


def _decision_log(settings: Settings, world: World) -> DecisionLog | None:
    """Return the log of this process, None where the operator wants none."""
    files = settings.decision_log_mib * 2**20 // FILE_BYTES
    if not settings.decision_log_mib:
        return None
    return DecisionLog(settings.data / FOLDER, now=world.now, files=max(1, files))
