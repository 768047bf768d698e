"""A service that is told to stop: running streams end whole, nothing new is taken, everything is settled."""

from __future__ import annotations

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
