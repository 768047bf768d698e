"""A service that is killed at any moment while its clients retry: one charge a key (K2)."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from tests.router import Answer, Offered, write_catalog
from tests.service.ledgers import Books
from tests.serving import WATCHDOG_S, bare_environment
from tests.upstream import ScriptedUpstream, answer, slow, stream

STREAMS, WHOLE = "test/streams", "test/whole"
KEYS, AT_ONCE, KILLS = 120, 8, 4
SEEN_BEFORE_A_KILL = KEYS // (KILLS + 1)


class Service:
    """`router serve` on one port, killed and started again."""

    def __init__(self, folder: Path, catalog: Path, **environ: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        paths = ["--catalog", str(catalog), "--data", "data", "--port", str(self.port)]
        self._command = [sys.executable, "-m", "router", "serve", *paths]
        self._folder = folder
        self._environ = bare_environment(folder, **environ)
        self.start()

    def start(self) -> None:
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command, cwd=self._folder, env=self._environ, stdout=log, stderr=log
            )

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def stop(self) -> int:
        self._process.terminate()
        return self._process.wait(WATCHDOG_S)

    def ask(self, key: str) -> Answer | None:
        """Ask once; None when the service was not there or did not answer to the end."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        streams = int(key) % 2 == 0
        message = {"role": "user", "content": key}
        body = {"model": STREAMS if streams else WHOLE, "stream": streams, "messages": [message]}
        try:
            headers = {"content-type": "application/json", "idempotency-key": key}
            connection.request("POST", "/v1/chat/completions", json.dumps(body).encode(), headers)
            got = connection.getresponse()
            return Answer(got.status, {k.lower(): v for k, v in got.getheaders()}, got.read())
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()


@contextmanager
def serving(folder: Path, catalog: Path, **environ: str) -> Iterator[Service]:
    service = Service(folder, catalog, **environ)
    try:
        yield service
    finally:
        service.kill()


def until_answered(service: Service, key: str, end_s: float) -> Answer:
    """Retry as an SDK does, with the same key."""
    while True:
        got = service.ask(key)
        if got is not None and got.status == 200:
            return got
        assert got is None or got.status in (409, 503), got
        assert time.monotonic() < end_s, f"no answer for {key}"
        time.sleep(0.05)


def run(service: Service) -> list[Answer]:
    """Ask for every key, several at once, and kill the service now and then."""
    answered = threading.Semaphore(0)
    end_s = time.monotonic() + WATCHDOG_S

    def ask(number: int) -> Answer:
        got = until_answered(service, str(number), end_s)
        answered.release()
        return got

    with ThreadPoolExecutor(AT_ONCE) as pool:
        asked = [pool.submit(ask, number) for number in range(KEYS)]
        for _ in range(KILLS):
            for _ in range(SEEN_BEFORE_A_KILL):
                assert answered.acquire(timeout=WATCHDOG_S)
            service.kill()
            service.start()
        return [x.result() for x in asked]


def test_a_killed_service_charges_a_key_once(books: Books, tmp_path: Path) -> None:
    with ScriptedUpstream() as up:
        up.on(STREAMS, stream("one two three four five six", delay_s=0.004))
        up.on(WHOLE, slow(0.02, answer("whole")))
        models = [Offered(STREAMS), Offered(WHOLE)]
        catalog = write_catalog(tmp_path / "catalog", {"scripted": up.base_url}, models)
        environ = {} if books.url is None else {"ROUTER_DATABASE_URL": books.url}
        with serving(tmp_path, catalog, **environ) as service:
            answers = run(service)
            calls = len(up.requests)
            again = [until_answered(service, str(n), time.monotonic() + 20) for n in range(KEYS)]
            assert len(up.requests) == calls  # every answer was kept
            assert service.stop() == 0
    assert [got.body for got in again] == [got.body for got in answers]
    assert all(got.headers["idempotent-replayed"] == "true" for got in again)
    assert calls <= KEYS + KILLS * AT_ONCE
    kept = Books(tmp_path / "data", books.url)
    rows = kept.rows()
    settles = Counter(row.idempotency_key for row in rows if row.kind == "settle")
    assert set(settles.values()) == {1}
    assert len(settles) == KEYS
    ends = Counter(row.request_id for row in rows if row.kind in ("settle", "release"))
    assert ends == Counter(row.request_id for row in rows if row.kind == "hold")
    assert kept.differences() == []
    assert kept.ask(lambda storage: storage.books.faults()) == []
