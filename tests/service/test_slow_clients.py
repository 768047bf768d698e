"""Clients that do not read: cut off by a deadline, billed for what was relayed, and nobody else notices."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from router.api.protocol import Bounds
from router.ledger.rows import Row
from tests.router import Offered, RouterServer, write_catalog
from tests.service.test_raw_sockets import BODY, LIVE, STREAM_BODY, chat
from tests.service.walking import ledger_rows, wait_all_ended, wait_for
from tests.upstream import ScriptedUpstream, answer, raw

MODEL = "test/model"
STALL_S = 0.3
MEBIBYTE = 2**20
SSE_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
EVENT = b'data: {"id":"x","choices":[{"index":0,"delta":{"content":"' + b"a" * 1_000 + b'"}}]}\n\n'
END = b'data: {"id":"x","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'


@pytest.fixture
def up() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as server:
        yield server


@pytest.fixture
def router(up: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RouterServer]:
    folder = tmp_path_factory.mktemp("slow")
    catalog = write_catalog(
        folder / "catalog",
        {"scripted": up.base_url},
        [Offered(MODEL, limits="concurrency = 1"), Offered("test/other")],
    )
    with RouterServer(catalog, folder / "data", bounds=Bounds(client_stall_s=STALL_S)) as server:
        yield server


def long_stream(sent: list[int], size_bytes: int) -> Iterator[bytes]:
    """Give the bytes of a stream; `sent` notes the size of each piece that was taken."""
    yield SSE_HEAD
    block = EVENT * 64
    for _ in range(size_bytes // len(block)):
        sent.append(len(block))
        yield block
    yield END


@contextmanager
def unread(router: RouterServer, data: bytes) -> Iterator[socket.socket]:
    """Send a request with a small window and read nothing."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    connection.settimeout(10)
    connection.connect(("127.0.0.1", router.port))
    connection.sendall(data)
    with connection:
        yield connection


def the_settle(router: RouterServer) -> Row:
    def look() -> Row | None:
        rows = [row for row in ledger_rows(router) if row.kind == "settle" and row.model == MODEL]
        return rows[0] if rows else None

    return wait_for(look, "the settle")


def test_a_client_that_never_reads_its_stream_is_cut_off_and_billed(
    router: RouterServer, up: ScriptedUpstream
) -> None:
    sent: list[int] = []
    up.on(MODEL, raw(lambda: long_stream(sent, 400 * MEBIBYTE)))

    with unread(router, chat(STREAM_BODY)):
        up.wait_requests(1)
        assert [router.chat(model="test/other").status for _ in range(20)] == [200] * 20
        up.wait_abandoned(1)
        settle = the_settle(router)

    assert settle.estimated
    assert 0 < (settle.completion_tokens or 0) <= sum(sent) // 4
    assert sum(sent) < 32 * MEBIBYTE  # the upstream was held back meanwhile
    up.on(MODEL, answer())
    assert router.chat(model=MODEL).status == 200  # its place is free


def test_a_client_that_never_reads_a_whole_answer_is_cut_off(
    router: RouterServer, up: ScriptedUpstream
) -> None:
    up.on(MODEL, answer("x" * (16 * MEBIBYTE)))

    with unread(router, chat(BODY)):
        settle = the_settle(router)
        assert router.connections() == 1
        wait_for(lambda: True if router.connections() == 0 else None, "the end of the connection")

    assert not settle.estimated


@pytest.mark.parametrize("streams", [False, True], ids=["plain", "stream"])
def test_a_client_that_reads_slowly_gets_everything(
    router: RouterServer, up: ScriptedUpstream, streams: bool
) -> None:
    size_bytes = 12 * MEBIBYTE
    up.on(MODEL, raw(lambda: long_stream([], size_bytes)) if streams else answer("x" * size_bytes))
    received, tail = 0, b""
    began_s = time.monotonic()

    with unread(router, chat(STREAM_BODY if streams else BODY)) as connection:
        while not tail.endswith(b"0\r\n\r\n" if streams else b"}}"):
            piece = connection.recv(MEBIBYTE // 4)
            assert piece, f"cut off after {received} bytes"
            received += len(piece)
            tail = tail[-32:] + piece
            # Slow enough that the whole takes several times the deadline, and never pauses for so long.
            while time.monotonic() < began_s + 4 * STALL_S * received / size_bytes:
                router.request("GET", "/health/live")

    assert received > size_bytes * 0.95
    assert wait_all_ended(router)[-1].kind == "settle"


def test_an_idle_client_that_has_read_everything_is_kept(router: RouterServer, up: ScriptedUpstream) -> None:
    up.on(MODEL, answer("x" * (4 * MEBIBYTE)))
    with unread(router, chat(BODY)) as connection:
        received = b""
        while not received.endswith(b"}"):
            received += connection.recv(MEBIBYTE)
        end_s = time.monotonic() + 2 * STALL_S
        while time.monotonic() < end_s:
            router.request("GET", "/health/live")
        connection.sendall(LIVE)
        assert connection.recv(MEBIBYTE).startswith(b"HTTP/1.1 200")
