"""What an upstream or a client can make a router keep in memory, measured in a process of its own."""

from __future__ import annotations

import gzip
import json
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.router import Offered, write_catalog
from tests.service.test_raw_sockets import chat
from tests.service.walking import wait_for
from tests.serving import Serving, run_router, serve
from tests.upstream import ScriptedUpstream, answer, raw

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads the memory's size from /proc")

MEBIBYTE = 2**20
FIRST, SECOND, THIRD = "test/first", "test/second", "test/third"
MESSAGES = [{"role": "user", "content": "hi"}]
BODY = json.dumps({"model": FIRST, "models": [SECOND, THIRD], "messages": MESSAGES})
STREAM_BODY = BODY[:-1] + ', "stream": true}'
EXPORT = ("ledger", "export", "--json", "--data", "data")
SSE_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"


@pytest.fixture
def up() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as server:
        yield server


@pytest.fixture
def router(up: ScriptedUpstream, tmp_path: Path) -> Iterator[Serving]:
    models = [Offered(FIRST), Offered(SECOND), Offered(THIRD)]
    write_catalog(tmp_path / "catalog", {"scripted": up.base_url}, models)
    up.on(FIRST, answer())
    up.on(SECOND, answer("from the second offer"))
    with serve(tmp_path, "--catalog", "catalog", ROUTER_CLIENT_STALL_S="0.5") as serving:
        serving.read_until("ready")
        for _ in range(20):  # what is made at first use is there
            ask(serving)
        yield serving


def connect(router: Serving, body: str = BODY) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", router.port), timeout=20)
    connection.sendall(chat(body.encode(), b"connection: close"))
    return connection


def ask(router: Serving, body: str = BODY) -> bytes:
    """Return the whole answer, head included."""
    pieces = []
    with connect(router, body) as connection:
        while piece := connection.recv(2**20):
            pieces.append(piece)
    return b"".join(pieces)


def gzip_bomb(content_type: str) -> bytes:
    """Return 300 KB that inflate to 300 MB of JSON."""
    head = b'{"choices":[{"message":{"role":"assistant","content":"'
    bomb = gzip.compress(head + b"a" * (300 * 10**6), 9)
    return (
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-type: %s\r\ncontent-length: %d\r\n\r\n%s"
        % (content_type.encode(), len(bomb), bomb)
    )


@pytest.mark.parametrize(
    ("body", "kind"),
    [(BODY, "application/json"), (STREAM_BODY, "text/event-stream")],
    ids=["plain", "stream"],
)
def test_a_gzip_bomb_is_refused_and_the_next_offer_answers(
    up: ScriptedUpstream, router: Serving, body: str, kind: str
) -> None:
    bomb = gzip_bomb(kind)
    assert len(bomb) < 400_000
    up.on(FIRST, raw(bomb, then="keep"))
    before = router.memory_bytes()

    assert b"from the second offer" in ask(router, body)
    assert [request.model for request in up.requests[-2:]] == [FIRST, SECOND]
    assert router.peak_bytes() - before < 100 * MEBIBYTE


def test_failed_attempts_keep_nothing_of_what_they_read(up: ScriptedUpstream, router: Serving) -> None:
    for model in (FIRST, SECOND, THIRD):
        up.on(model, raw(gzip_bomb("application/json"), then="keep"))
    before = router.memory_bytes()

    assert b"(3 offers tried" in ask(router)
    assert router.peak_bytes() - before < 100 * MEBIBYTE


def test_an_answer_of_50_mb_passes_whole(up: ScriptedUpstream, router: Serving) -> None:
    up.on(FIRST, answer("x" * (50 * 10**6)))
    before = router.memory_bytes()

    got = ask(router)

    assert got.startswith(b"HTTP/1.1 200 OK")
    assert got.count(b"x") > 50 * 10**6
    assert router.peak_bytes() - before < 160 * MEBIBYTE


def settled(folder: Path) -> dict[str, Any] | None:
    """Return the settle of a streamed answer whose usage was never told."""
    rows = [json.loads(line) for line in run_router(folder, *EXPORT).stdout.splitlines()]
    return next((row for row in rows if row["kind"] == "settle" and row["estimated"]), None)


def test_a_client_that_never_reads_holds_the_upstream_back_and_is_cut_off(
    up: ScriptedUpstream, router: Serving, tmp_path: Path
) -> None:
    delta = b"a" * 1_000
    event = b'data: {"id":"x","choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n' % delta
    block, blocks = event * 100, 4_000  # 400 MB and more
    sent = 0

    def pieces() -> Iterator[bytes]:
        nonlocal sent
        yield SSE_HEAD
        for _ in range(blocks):
            sent += len(block)
            yield block

    up.on(FIRST, raw(pieces))
    before = router.memory_bytes()
    connection = connect(router, STREAM_BODY)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    assert connection.recv(4)

    other = ask(router, BODY.replace(FIRST, SECOND))  # nobody else notices

    assert b"from the second offer" in other
    up.wait_abandoned(1)
    assert sent < 60 * MEBIBYTE
    assert router.peak_bytes() - before < 60 * MEBIBYTE
    row = wait_for(lambda: settled(tmp_path), "the settle")
    assert row["estimated"] is True
    assert MEBIBYTE // 4 < row["completion_tokens"] <= sent // 4  # billed for what was relayed
    connection.close()
