"""Bytes on a socket: what is no honest request is refused and closed, and never leaves a second request."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from router.api.protocol import Bounds
from tests.router import Offered, RouterServer, write_catalog
from tests.service.walking import wait_all_ended
from tests.upstream import Gate, ScriptedUpstream, hang, slow, stream

MODEL = "test/model"
BODY = b'{"model":"test/model","messages":[{"role":"user","content":"hi"}]}'
STREAM_BODY = BODY[:-1] + b',"stream":true}'
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
SECOND = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
LIVE = SECOND


def chat(body: bytes = BODY, *headers: bytes) -> bytes:
    """Return a whole request."""
    lines = b"".join(header + b"\r\n" for header in headers)
    return HEAD + lines + b"content-length: %d\r\n\r\n" % len(body) + body


@dataclass(frozen=True)
class Heard:
    """What came back: the bytes, and whether the connection was closed or stayed open and silent."""

    data: bytes
    closed: bool

    @property
    def statuses(self) -> list[int]:
        return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", self.data)]

    @property
    def error(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.data.partition(b"\r\n\r\n")[2])["error"]
        return found


class Line:
    """A TCP connection to a router."""

    def __init__(self, router: RouterServer, data: bytes = b"") -> None:
        self.socket = socket.create_connection(("127.0.0.1", router.port), timeout=10)
        self.socket.sendall(data)

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def hear(self, until: bytes | None = None) -> Heard:
        """Read until a text has come, or (None) until the end."""
        data = b""
        while until is None or until not in data:
            try:
                piece = self.socket.recv(65_536)
            except ConnectionResetError:
                piece = b""
            if not piece:
                return Heard(data, closed=True)
            data += piece
        return Heard(data, closed=False)


@pytest.fixture(scope="module")
def up() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as server:
        yield server


@pytest.fixture(scope="module")
def router(up: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RouterServer]:
    folder = tmp_path_factory.mktemp("raw")
    catalog = write_catalog(folder / "catalog", {"scripted": up.base_url}, [Offered(MODEL)])
    with RouterServer(catalog, folder / "data") as server:
        yield server


SMUGGLED = b"0\r\n\r\n" + SECOND
REFUSED = {
    "length and chunks": HEAD + b"content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n" + SMUGGLED,
    "chunks and length": HEAD + b"transfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n" + SMUGGLED,
    "two lengths": HEAD + b"content-length: 5\r\ncontent-length: %d\r\n\r\n" % len(BODY) + BODY,
    "one length twice": chat(BODY, b"content-length: %d" % len(BODY)),
    "two lengths in one": HEAD + b"content-length: 5, 5\r\n\r\nhello" + SECOND,
    "a signed length": HEAD + b"content-length: +5\r\n\r\nhello" + SECOND,
    "a negative length": HEAD + b"content-length: -5\r\n\r\n" + SECOND,
    "a hexadecimal length": HEAD + b"content-length: 0x5\r\n\r\nhello" + SECOND,
    "an endless length": HEAD + b"content-length: " + b"9" * 40 + b"\r\n\r\n" + SECOND,
    "an unknown coding": HEAD + b"transfer-encoding: xchunked\r\n\r\n" + SMUGGLED,
    "a tab in the coding": HEAD + b"transfer-encoding: \x0bchunked\r\n\r\n" + SMUGGLED,
    "chunked not last": HEAD + b"transfer-encoding: chunked, identity\r\n\r\n" + SMUGGLED,
    "a space before the colon": HEAD + b"transfer-encoding : chunked\r\n\r\n" + SMUGGLED,
    "bare line feeds": chat().replace(b"\r\n", b"\n"),
    "a bare line feed before a header": HEAD[:-2] + b"\ncontent-length: 0\r\n\r\n" + SECOND,
    "a folded line": HEAD + b"x-a: 1\r\n 2\r\ncontent-length: 0\r\n\r\n" + SECOND,
    "a chunk size that is none": HEAD + b"transfer-encoding: chunked\r\n\r\nzz\r\nabc\r\n" + SMUGGLED,
    "a signed chunk size": HEAD + b"transfer-encoding: chunked\r\n\r\n-1\r\na\r\n" + SMUGGLED,
    "an over-long chunk size": HEAD + b"transfer-encoding: chunked\r\n\r\n" + b"f" * 40 + b"\r\n" + SMUGGLED,
    "a bad chunk end": HEAD + b"transfer-encoding: chunked\r\n\r\n3\r\nabcX\r\n" + SMUGGLED,
    "a chunk size with a bare line feed": HEAD + b"transfer-encoding: chunked\r\n\r\n3\nabc\r\n" + SMUGGLED,
    "HTTP/0.9": b"GET /healthz\r\n\r\n" + SECOND,
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/3.7": b"GET /healthz HTTP/3.7\r\nhost: x\r\n\r\n" + SECOND,
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "an absolute target": b"GET http://other/healthz HTTP/1.1\r\nhost: x\r\n\r\n" + SECOND,
    "an authority as target": b"CONNECT other:443 HTTP/1.1\r\nhost: x\r\n\r\n" + SECOND,
    "an asterisk as target": b"OPTIONS * HTTP/1.1\r\nhost: x\r\n\r\n" + SECOND,
    "a NUL in a header": HEAD + b"x-a: a\0b\r\ncontent-length: 0\r\n\r\n" + SECOND,
    "a NUL in a name": HEAD + b"x\0a: b\r\ncontent-length: 0\r\n\r\n" + SECOND,
    "a carriage return in a header": HEAD + b"x-a: a\rb\r\ncontent-length: 0\r\n\r\n" + SECOND,
    "a huge header": HEAD + b"x-a: " + b"a" * 100_000 + b"\r\ncontent-length: 0\r\n\r\n" + SECOND,
    "a huge target": b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n" + SECOND,
    "1,000 headers": HEAD + b"".join(b"x-%d: 1\r\n" % i for i in range(1_000)) + b"\r\n" + SECOND,
    "an endless head": HEAD + b"x-a: 1\r\n" * 20_000,
    "no host": b"GET /healthz HTTP/1.1\r\n\r\n" + SECOND,
    "two hosts": b"GET /healthz HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n" + SECOND,
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_dishonest_request_is_refused_once_and_the_connection_closed(
    router: RouterServer, up: ScriptedUpstream, name: str
) -> None:
    called = len(up.requests)
    with Line(router, REFUSED[name]) as line:
        heard = line.hear()

    assert (heard.statuses, heard.closed) == ([400], True)
    assert heard.error["name"] == "invalid_http"
    assert heard.error["code"] == 400
    assert b"connection: close" in heard.data
    assert len(up.requests) == called


@pytest.mark.parametrize("pieces", [1, 7, 4_096])
def test_a_head_is_measured_however_it_is_cut(router: RouterServer, pieces: int) -> None:
    for size, status in ((60_000, 200), (70_000, 400)):
        data = b"GET /healthz HTTP/1.1\r\nhost: x\r\nx-a: " + b"a" * size + b"\r\n\r\n"
        step = len(data) if pieces == 1 else max(1, len(data) // 8) + pieces
        with Line(router) as line:
            for i in range(0, len(data), step):
                line.send(data[i : i + step])
            assert line.hear(until=b"}").statuses == [status]


def test_pipelined_requests_are_answered_in_their_order(router: RouterServer, up: ScriptedUpstream) -> None:
    up.on(MODEL, slow(0.05), stream("second"))
    with Line(router, chat() + chat(STREAM_BODY) + LIVE) as line:
        heard = line.hear(until=b'{"status":"ok"}')

    assert heard.statuses == [200, 200, 200]
    first, second, third = heard.data.split(b"HTTP/1.1 200 OK")[1:]
    assert b'"chat.completion"' in first
    assert second.count(b"data: [DONE]") == 1
    assert b"[DONE]" not in first + third


def test_bytes_that_are_no_request_behind_one_never_change_its_answer(
    router: RouterServer, up: ScriptedUpstream
) -> None:
    gate = Gate()
    up.on(MODEL, stream("one two three", gate=gate, gate_after=2))
    with Line(router, chat(STREAM_BODY)) as line:
        begun = line.hear(until=b"one")
        line.send(b"\0\0 no request\r\n\r\n")
        rest = line.hear()  # the connection is closed; nothing is written into the answer
    gate.open()

    assert (begun.statuses, rest.statuses, rest.closed) == ([200], [], True)
    assert b"[DONE]" not in rest.data
    wait_all_ended(router)


@pytest.mark.parametrize("second", [b"\0\r\n\r\n", b"GET /healthz HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n"])
def test_a_refusal_is_never_taken_for_the_answer_to_an_earlier_request(
    router: RouterServer, up: ScriptedUpstream, second: bytes
) -> None:
    up.on(MODEL, hang())
    with Line(router, chat() + second) as line:
        assert line.hear() == Heard(b"", closed=True)


def test_nothing_is_served_behind_connection_close(router: RouterServer, up: ScriptedUpstream) -> None:
    up.on(MODEL, slow(0.0))
    with Line(router, chat(BODY, b"connection: close") + SECOND) as line:
        heard = line.hear()

    assert (heard.statuses, heard.closed) == ([200], True)


def test_http_1_0_is_answered_and_closed(router: RouterServer) -> None:
    with Line(router, b"GET /healthz HTTP/1.0\r\n\r\n" + SECOND) as line:
        heard = line.hear()

    assert (heard.statuses, heard.closed) == ([200], True)


def test_a_client_that_expects_100_continue_is_told_to_go_on(
    router: RouterServer, up: ScriptedUpstream
) -> None:
    up.on(MODEL, slow(0.0))
    head, body = chat(BODY, b"expect: 100-continue").split(b"\r\n\r\n")
    with Line(router, head + b"\r\n\r\n") as line:
        assert line.hear(until=b"\r\n\r\n").statuses == [100]
        line.send(body)
        assert line.hear(until=b'"usage"').statuses == [200]


def test_a_body_that_is_too_large_is_never_asked_for(router: RouterServer) -> None:
    head = HEAD + b"expect: 100-continue\r\ncontent-length: 99999999999\r\n\r\n"
    with Line(router, head) as line:
        heard = line.hear(until=b"}}")

    assert 100 not in heard.statuses[:1]
    assert heard.statuses[-1] == 413


@pytest.mark.parametrize("refused", [b"[]", b"{", b'{"model":"no/such","messages":[]}'])
def test_a_connection_serves_on_after_an_error(
    router: RouterServer, up: ScriptedUpstream, refused: bytes
) -> None:
    up.on(MODEL, slow(0.0))
    with Line(router) as line:
        for body, status in ((refused, 400), (BODY, 200), (refused, 400), (BODY, 200)):
            line.send(chat(body))
            assert line.hear(until=b"}}").statuses == [status]


def test_a_client_that_closes_its_half_is_closed_and_costs_nothing(
    router: RouterServer, up: ScriptedUpstream
) -> None:
    up.on(MODEL, hang())
    left = len([request for request in up.requests if request.outcome == "abandoned"])
    called, held = len(up.requests), len(wait_all_ended(router))
    with Line(router, chat()) as line:
        up.wait_requests(called + 1)
        line.socket.shutdown(socket.SHUT_WR)
        assert line.hear() == Heard(b"", closed=True)

    up.wait_abandoned(left + 1)
    rows = wait_all_ended(router)[held:]
    assert [row.kind for row in rows] == ["hold", "release"]


def test_an_upgrade_is_not_followed(router: RouterServer) -> None:
    upgrade = b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n"
    with Line(router, upgrade) as line:
        assert line.hear(until=b'{"status":"ok"}').statuses == [200]
        line.send(LIVE)
        assert line.hear(until=b'{"status":"ok"}').statuses == [200]


TINY = Bounds(head_s=0.2, body_s=0.2, connections=4)
SLOW = {
    "no byte": [b""],
    "a head that stops": [HEAD],
    "line ends only": [b"\r\n"] * 200,
    "a head that drips": [bytes([byte]) for byte in HEAD * 3],
    "a body that never comes": [HEAD + b"content-length: 9\r\n\r\n"],
    "a body that drips": [HEAD + b"content-length: 999\r\n\r\n", *[b" "] * 200],
    "chunks that drip": [HEAD + b"transfer-encoding: chunked\r\n\r\n", *[b"1\r\na\r\n"] * 200],
    "line ends after an answer": [LIVE, *[b"\r\n"] * 200],
    "a head that drips after an answer": [LIVE, *[bytes([byte]) for byte in HEAD * 3]],
}


@pytest.fixture(scope="module")
def hasty(up: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RouterServer]:
    folder = tmp_path_factory.mktemp("hasty")
    catalog = write_catalog(folder / "catalog", {"scripted": up.base_url}, [Offered(MODEL)])
    with RouterServer(catalog, folder / "data", bounds=TINY) as server:
        yield server


@pytest.mark.parametrize("name", SLOW)
def test_a_slow_client_is_closed_while_others_are_served(hasty: RouterServer, name: str) -> None:
    served = 0
    with Line(hasty) as line:
        line.socket.settimeout(0.02)
        closed = False
        for piece in [*SLOW[name], *[b""] * 400]:
            try:
                line.send(piece)
                closed = not line.socket.recv(65_536)
            except TimeoutError:
                served += hasty.request("GET", "/health/live").status == 200
            except (ConnectionResetError, BrokenPipeError):
                closed = True
            if closed:
                break
    assert closed
    assert served > 0


def test_an_answer_may_take_longer_than_any_deadline_of_its_client(
    hasty: RouterServer, up: ScriptedUpstream
) -> None:
    up.on(MODEL, slow(0.6))
    with Line(hasty, chat()) as line:
        assert line.hear(until=b'"usage"').statuses == [200]

    up.on(MODEL, stream("one two three four five six seven", delay_s=0.1))
    with Line(hasty, chat(STREAM_BODY) + HEAD) as line:  # and a head that is begun meanwhile
        assert b"data: [DONE]" in line.hear(until=b"0\r\n\r\n").data
        assert line.hear() == Heard(b"", closed=True)


def test_too_many_connections_are_told_when_to_come_back(hasty: RouterServer, up: ScriptedUpstream) -> None:
    gate = Gate()
    up.on(MODEL, stream("one two three", gate=gate, gate_after=2))
    with ExitStack() as stack:
        lines = [stack.enter_context(Line(hasty, chat(STREAM_BODY))) for _ in range(TINY.connections)]
        for line in lines:
            line.hear(until=b"one")
        with Line(hasty, LIVE) as refused:
            heard = refused.hear()
        gate.open()
        for line in lines:
            assert b"data: [DONE]" in line.hear(until=b"0\r\n\r\n").data

    assert (heard.statuses, heard.closed, heard.error["name"]) == ([503], True, "unavailable")
    assert b"retry-after: 1\r\n" in heard.data
    with Line(hasty, LIVE) as again:
        assert again.hear(until=b'{"status":"ok"}').statuses == [200]
