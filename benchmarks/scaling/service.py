"""One arrangement of the service: an engine, so many processes, with Redis or without, and its load."""

from __future__ import annotations

import asyncio
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import uvloop

from benchmarks import load, processes
from benchmarks.measure import set_profile
from benchmarks.ours import CREDIT_USD, write_catalog
from benchmarks.site import CHAT, Site, Unavailable
from router.access.keys import Keys, NewKey
from router.ledger.engines import open_storage
from router.limits import Limits
from tests.postgres import Cluster, fetch
from tests.redis_server import RedisServer

Engine = Literal["sqlite", "postgresql"]
ACCOUNTS = 16
CONNECTIONS = 64
RPM = 100_000_000  # a limit that never bites, so that every request asks for its place


@dataclass(frozen=True, slots=True)
class Setup:
    """Say what runs: `processes` are workers of one service on SQLite, replicas on PostgreSQL."""

    engine: Engine
    processes: int
    redis: bool = False
    accounts: int = ACCOUNTS

    @property
    def name(self) -> str:
        """Return it in a few words."""
        if self.engine == "sqlite":
            return f"SQLite, --workers {self.processes}"
        replicas = f"{self.processes} replica{'s' if self.processes > 1 else ''}"
        one = ", one account" if self.accounts == 1 else ""
        return f"PostgreSQL, {replicas}{' + Redis' if self.redis else ''}{one}"


SETUPS = (
    *(Setup("sqlite", count) for count in (1, 2, 4)),
    *(Setup("postgresql", count, redis) for redis in (False, True) for count in (1, 2, 4)),
    Setup("postgresql", 2, accounts=1),
)
QUICK = (Setup("sqlite", 2), Setup("postgresql", 2, redis=True))


@dataclass(frozen=True, slots=True)
class Running:
    """A setup that answers: where, for whom, and the processes by what they are."""

    urls: list[str]
    authorizations: list[str]
    pids: Mapping[str, list[int]]
    database_url: str | None
    redis: RedisServer | None


@contextmanager
def upstream(site: Site) -> Iterator[tuple[int, int]]:
    """Run the bare upstream on no core of its own; gives its port and process id."""
    port, log = processes.free_port(), site.folder("upstream") / "log"
    command = [sys.executable, "-m", "benchmarks.upstream", "--port", str(port)]
    with processes.running(command, None, site.environ(), log) as process:
        processes.wait_ready(process, port, "/v1/models", log, timeout_s=20)
        set_profile(port, "answer=chat")
        yield port, process.pid


@contextmanager
def start(site: Site, setup: Setup, upstream_port: int, cluster: Cluster | None) -> Iterator[Running]:
    """Run a setup with an empty database and fresh keys. Raises `Unavailable`."""
    folder = site.folder("setup")
    write_catalog(folder / "catalog", upstream_port)
    environ = {"ROUTER_ACCESS": "paid", "ROUTER_CATALOG": str(folder / "catalog")}
    workers, replicas, url, pids = setup.processes, 1, None, {}
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder)
        if setup.engine == "postgresql":
            if cluster is None:
                raise Unavailable("no PostgreSQL here: apt-get install postgresql")
            workers, replicas, url = 1, setup.processes, cluster.make_database()
            pids["database"] = [cluster.pid]
            environ["ROUTER_DATABASE_URL"] = url
        redis = stack.enter_context(RedisServer()) if setup.redis else None
        if redis is not None:
            pids["redis"] = [redis.pid]
            environ["ROUTER_SHARED_URL"] = redis.url
        keys = asyncio.run(_keys(folder / "0", url, setup.accounts))
        ports = [processes.free_port() for _ in range(replicas)]
        pids["router"] = [
            stack.enter_context(_replica(site, folder / str(number), port, workers, environ))
            for number, port in enumerate(ports)
        ]
        urls = [f"http://127.0.0.1:{port}{CHAT}" for port in ports]
        yield Running(urls, [f"Bearer {key}" for key in keys], pids, url, redis)


async def _keys(data: Path, url: str | None, count: int) -> list[str]:
    storage = await open_storage(data, url)
    try:
        keys = Keys(storage.keys, clock=time.time, monotonic=time.monotonic)
        new = NewKey("bench", credit_nusd=CREDIT_USD * 10**9, limits=Limits(rpm=RPM))
        return [(await keys.create(new))[0] for _ in range(count)]
    finally:
        await storage.close()


@contextmanager
def _replica(site: Site, data: Path, port: int, workers: int, environ: Mapping[str, str]) -> Iterator[int]:
    data.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "router", "serve", "--port", str(port), "--data", str(data)]
    command += ["--workers", str(workers)]
    try:
        with site.gateway(
            command, data / "log", port=port, ready="/health/ready", environ=environ
        ) as running:
            if workers > 1:  # readiness is that of the first one
                _wait_for_workers(data / "log", workers)
            yield running[1]
    except processes.NotReady as failed:
        raise Unavailable(str(failed)) from None


def _wait_for_workers(log: Path, workers: int) -> None:
    end_s = time.monotonic() + 30
    while f"{workers} workers are ready" not in log.read_text():
        if time.monotonic() > end_s:
            raise Unavailable(f"{workers} workers did not start: {log.read_text()[-500:]}")
        time.sleep(0.02)


def measure(site: Site, setup: Setup, cluster: Cluster | None, seconds: float) -> dict[str, Any]:
    """Apply the load to a fresh service; returns its figures. Raises `Unavailable`, also for any error."""
    with upstream(site) as (port, upstream_pid), start(site, setup, port, cluster) as running:
        _load(running, connections=CONNECTIONS, seconds=seconds / 2)  # warm
        one = _load(running, connections=1, seconds=seconds / 2)
        pids = {**running.pids, "upstream": [upstream_pid]}
        before, wal = _cpu_s(pids), _wal_bytes(running)
        calls = _redis_calls(running)
        report = _load(running, connections=CONNECTIONS, seconds=seconds)
        answers = report["answers_with_warmup"]
        after = _cpu_s(pids) | {"load": report["load_cpu_s"]}
        found = {
            "rps": report["rps"],
            "p50_ms": report["latency_ms"]["p50"],
            "p99_ms": report["latency_ms"]["p99"],
            "p50_at_one_ms": one["latency_ms"]["p50"],
            "p99_at_one_ms": one["latency_ms"]["p99"],
            "cpu_us": {
                name: round((used_s - before.get(name, 0.0)) / answers * 1e6, 1)
                for name, used_s in after.items()
            },
        }
        if running.database_url is not None:
            found["wal_bytes"] = round((_wal_bytes(running) - wal) / answers)
            found["connections"] = _sessions(running.database_url)
        if running.redis is not None:
            found["redis_calls"] = round((_redis_calls(running) - calls) / answers, 2)
        return found


def ceiling(site: Site, seconds: float) -> dict[str, Any]:
    """Measure the load generator and the upstream with nothing between them."""
    with upstream(site) as (port, pid):
        bare = Running([f"http://127.0.0.1:{port}{CHAT}"], [""], {"upstream": [pid]}, None, None)
        before = _cpu_s(bare.pids)
        report = _load(bare, connections=CONNECTIONS, seconds=seconds)
        used = {"upstream": _cpu_s(bare.pids)["upstream"] - before["upstream"], "load": report["load_cpu_s"]}
        answers = report["answers_with_warmup"]
        return {
            "rps": report["rps"],
            "cpu_us": {name: round(used_s / answers * 1e6, 1) for name, used_s in used.items()},
        }


def _load(running: Running, *, connections: int, seconds: float) -> dict[str, Any]:
    count = max(len(running.urls), len(running.authorizations))
    senders = [
        (running.urls[n % len(running.urls)], running.authorizations[n % len(running.authorizations)])
        for n in range(count)
    ]
    (url, authorization), *more = senders
    plan = load.Plan(url, connections, seconds, min(0.5, seconds), authorization=authorization)
    report = uvloop.run(load.run(plan, *more))
    if report["errors"] or not report["requests"]:
        raise Unavailable(f"errors under load: {report['error_kinds']} {report['first_error']}")
    return report


def _cpu_s(pids: Mapping[str, list[int]]) -> dict[str, float]:
    return {name: sum(processes.cost(pid).cpu_s for pid in members) for name, members in pids.items()}


def _wal_bytes(running: Running) -> int:
    if running.database_url is None:
        return 0
    return int(fetch(running.database_url, "SELECT pg_current_wal_lsn() - '0/0'::pg_lsn")[0][0])


def _sessions(url: str) -> int:
    ours = "datname = current_database() AND application_name = 'llm-router'"
    return int(fetch(url, f"SELECT count(*) FROM pg_stat_activity WHERE {ours}")[0][0])


def _redis_calls(running: Running) -> int:
    if running.redis is None:
        return 0
    with running.redis.client() as client:
        stats: Any = client.info("commandstats")
    return sum(int(found["calls"]) for name, found in stats.items() if name in _SCRIPTS)


_SCRIPTS = ("cmdstat_evalsha", "cmdstat_eval", "cmdstat_fcall")
