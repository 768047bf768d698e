"""A service that is told to stop: running streams end whole, nothing new is taken, everything is settled."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.router import Offered, write_catalog
from tests.service.walking import question, wait_for
from tests.serving import Serving, run_router, serve
from tests.upstream import Gate, ScriptedUpstream, stream

MODEL = "test/model"
BODY = json.dumps(question(model=MODEL, stream=True)).encode()


@pytest.fixture
def up() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as server:
        yield server


def start(up: ScriptedUpstream, folder: Path, grace_s: int) -> Serving:
    write_catalog(folder / "catalog", {"scripted": up.base_url}, [Offered(MODEL)])
    return serve(folder, "--catalog", "catalog", ROUTER_GRACE_S=str(grace_s))


def connect(serving: Serving) -> http.client.HTTPConnection:
    """Open a connection and see that it is served and kept."""
    connection = http.client.HTTPConnection("127.0.0.1", serving.port, timeout=20)
    assert get(connection, "/health/ready")[0] == 200
    assert connection.sock is not None
    return connection


def get(connection: http.client.HTTPConnection, path: str) -> tuple[int, http.client.HTTPMessage, bytes]:
    connection.request("GET", path)
    response = connection.getresponse()
    return response.status, response.headers, response.read()


def begin_stream(connection: http.client.HTTPConnection) -> http.client.HTTPResponse:
    connection.request("POST", "/v1/chat/completions", BODY, {"content-type": "application/json"})
    response = connection.getresponse()
    received = b""
    while b"one" not in received:
        received += response.read1()
    return response


def refuses(serving: Serving) -> bool | None:
    with socket.socket() as probe:
        return True if probe.connect_ex(("127.0.0.1", serving.port)) else None


def exported(folder: Path) -> list[str]:
    rows = run_router(folder, "ledger", "export", "--json", "--data", "data").stdout.splitlines()
    assert run_router(folder, "ledger", "check", "--data", "data").returncode == 0
    return [json.loads(row)["kind"] for row in rows]


def test_at_a_stop_streams_end_whole_and_open_connections_are_told(
    up: ScriptedUpstream, tmp_path: Path
) -> None:
    gate = Gate()
    up.on(MODEL, stream("one two three", gate=gate, gate_after=2))
    with start(up, tmp_path, grace_s=600) as serving:
        serving.read_until("ready")
        streaming, probe, live, new, idle = connections = [connect(serving) for _ in range(5)]
        running = begin_stream(streaming)

        serving.terminate()
        wait_for(lambda: refuses(serving), "the end of the listening")

        status, headers, body = get(probe, "/health/ready")
        assert (status, headers["connection"], headers["retry-after"]) == (503, "close", "1")
        assert json.loads(body)["error"]["name"] == "unavailable"
        assert get(live, "/health/live")[0] == 200
        new.request("POST", "/v1/chat/completions", BODY, {"content-type": "application/json"})
        refused = new.getresponse()
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        assert json.loads(refused.read())["error"]["code"] == 503

        gate.open()
        assert running.read().endswith(b"data: [DONE]\n\n")
        assert idle.sock.recv(1) == b""  # and closed once the last answer is out
        assert serving.wait() == 0
        for connection in connections:
            connection.close()
    assert len(up.requests) == 1
    assert exported(tmp_path) == ["hold", "settle"]


def test_idle_connections_hold_up_no_stop(up: ScriptedUpstream, tmp_path: Path) -> None:
    with start(up, tmp_path, grace_s=600) as serving:
        serving.read_until("ready")
        idle = [connect(serving) for _ in range(5)]
        serving.terminate()
        assert serving.wait() == 0
        for connection in idle:
            connection.close()


def test_a_stream_that_outlasts_the_grace_is_cut_and_settled(up: ScriptedUpstream, tmp_path: Path) -> None:
    up.on(MODEL, stream("one two three", hang_after=3))
    with start(up, tmp_path, grace_s=1) as serving:
        serving.read_until("ready")
        connection = connect(serving)
        running = begin_stream(connection)
        serving.terminate()
        with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
            running.read()
        assert serving.wait() == 0
        connection.close()
    up.wait_abandoned(1)
    assert exported(tmp_path) == ["hold", "settle"]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_ctrl_c_a_second_time_cuts_what_runs_and_settles_it(
    up: ScriptedUpstream, tmp_path: Path, workers: str
) -> None:
    up.on(MODEL, stream("one two three", hang_after=3))
    write_catalog(tmp_path / "catalog", {"scripted": up.base_url}, [Offered(MODEL)])
    with serve(tmp_path, "--catalog", "catalog", "--workers", workers, ROUTER_GRACE_S="600") as serving:
        for _ in range(int(workers)):
            serving.read_until("app: ready")
        wait_for(lambda: None if refuses(serving) else True, "the workers")
        connection = connect(serving)
        running = begin_stream(connection)
        serving.drain()
        serving.interrupt_all()
        wait_for(lambda: refuses(serving), "the end of the listening")
        serving.interrupt_all()
        with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
            running.read()
        assert serving.wait() == 0
        connection.close()
    assert "Traceback" not in serving.text
    up.wait_abandoned(1)
    assert exported(tmp_path) == ["hold", "settle"]


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("moment", ["while it starts", "when it serves"])
def test_whoever_goes_on_asking_gets_no_traceback(tmp_path: Path, workers: str, moment: str) -> None:
    with serve(tmp_path, "--demo", "--workers", workers) as serving:
        # Python alone says one when Ctrl-C comes before the command begins: the banner is after that.
        serving.read_until("app: ready" if moment == "when it serves" else "LLM router")
        serving.drain()
        with contextlib.suppress(ProcessLookupError):
            while serving.running:
                serving.interrupt_all()
                serving.terminate_all()
        assert serving.wait() == 0, serving.text
    assert "Traceback" not in serving.text
    assert refuses(serving)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked for in Linux's /proc")
@pytest.mark.parametrize("moment", ["the first has begun", "the first is ready", "all have begun"])
def test_ctrl_c_while_workers_start_ends_them_without_a_word(tmp_path: Path, moment: str) -> None:
    with serve(tmp_path, "--demo", "--workers", "4") as serving:
        if moment != "the first has begun":
            serving.read_until("router.app: ready")
        count = 4 if moment == "all have begun" else 1
        wait_for(lambda: len(workers_of(serving)) >= count or None, "workers that begin")
        serving.interrupt_all()
        assert serving.wait() == 0, serving.text
        assert "stopping" in serving.text
        assert "Traceback" not in serving.text
        assert workers_of(serving) == []
        assert refuses(serving)


def workers_of(serving: Serving) -> list[int]:
    """Return the workers that run in the service's group, as the kernel tells (proc(5))."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            group = (folder / "stat").read_text().rpartition(") ")[2].split()[2]
            if int(group) == serving.pid and b"router.cli.worker" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found
