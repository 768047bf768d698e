"""Two services on one data folder: the second says so, and ends no hold of the first before it is dead."""

from __future__ import annotations

import http.client
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.redis_server import RedisServer, needs_redis
from tests.router import Asking, Offered, write_catalog
from tests.service.walking import Client, question, wait_for
from tests.serving import Serving, run_router, serve
from tests.upstream import Gate, ScriptedUpstream, answer, stream

MODEL = "test/model"
WARNING = "another router serves from the folder data"


@pytest.fixture
def up() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as server:
        yield server


def started(folder: Path, up: ScriptedUpstream, *arguments: str, **environ: str) -> Serving:
    write_catalog(folder / "catalog", {"scripted": up.base_url}, [Offered(MODEL)])
    return serve(folder, "--catalog", "catalog", *arguments, **environ)


def ready(serving: Serving) -> Asking:
    """Return the way to ask a service, once it is ready."""
    serving.read_until("app: ready")
    found = Asking()
    found.port = serving.port
    return found


def rows(folder: Path) -> list[dict[str, Any]]:
    lines = run_router(folder, "ledger", "export", "--json", "--data", "data").stdout.splitlines()
    return [json.loads(line) for line in lines]


def kinds(folder: Path) -> list[str]:
    return [row["kind"] for row in rows(folder)]


def test_a_second_one_warns_and_leaves_the_holds_of_the_first_alone_while_it_lives(
    up: ScriptedUpstream, tmp_path: Path
) -> None:
    gate = Gate()
    up.on(
        MODEL,
        stream("one two three", gate=gate, gate_after=2),
        stream("one two three", hang_after=3),
        answer(),
    )
    with started(tmp_path, up) as first:
        one = ready(first)
        running = Client(one, question(model=MODEL, stream=True))
        assert running.head().status == 200
        with started(tmp_path, up) as second:
            other = ready(second)  # ready: the holds of the dead are ended
            assert f"{WARNING} (1 process): credit, keys and payments stay exact" in second.text
            assert WARNING not in first.text
            assert kinds(tmp_path) == ["hold"]
            gate.open()
            assert running.read_rest().endswith(b"data: [DONE]\n\n")
            wait_for(lambda: kinds(tmp_path) == ["hold", "settle"] or None, "the settle")

            cut = Client(one, question(model=MODEL, stream=True))
            assert cut.head().status == 200
            cut.read_until(b"one")
            first.send(signal.SIGKILL)
            wait_for(lambda: kinds(tmp_path)[2:] == ["hold", "settle"] or None, "the end of its hold")
            with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
                cut.read_rest()
            cut.leave()
            assert [row["estimated"] for row in rows(tmp_path) if row["kind"] == "settle"] == [False, True]
            assert other.chat(model=MODEL).status == 200
    assert run_router(tmp_path, "ledger", "check", "--data", "data").returncode == 0


def test_the_workers_of_one_service_and_a_start_after_its_end_are_no_second_one(
    up: ScriptedUpstream, tmp_path: Path
) -> None:
    for _ in range(2):
        with started(tmp_path, up, "--workers", "2") as service:
            service.read_until("2 workers are ready")
            assert run_router(tmp_path, "keys", "list", "--data", "data").returncode == 0
            service.terminate()
            assert service.wait() == 0
        assert WARNING not in service.text


def test_beside_several_workers_their_number_is_told(up: ScriptedUpstream, tmp_path: Path) -> None:
    with started(tmp_path, up, "--workers", "2") as first:
        first.read_until("2 workers are ready")
        with started(tmp_path, up, "--workers", "2") as second:
            second.read_until("2 workers are ready")
    assert f"{WARNING} (2 processes)" in second.text


def test_who_shares_limits_is_told_nothing(up: ScriptedUpstream, tmp_path: Path) -> None:
    needs_redis()
    with (
        RedisServer() as redis,
        started(tmp_path, up, ROUTER_SHARED_URL=redis.url) as first,
    ):
        ready(first)
        with started(tmp_path, up, ROUTER_SHARED_URL=redis.url) as second:
            ready(second)
    assert WARNING not in second.text
