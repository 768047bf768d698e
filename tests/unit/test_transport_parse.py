"""The parser below the transport, fed without sockets: any split of the same bytes is the same answer."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from itertools import pairwise
from typing import Any

import httpx2 as httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.upstream.connection import Connection
from router.upstream.fast_exchange import FastExchange
from router.upstream.inflate import INFLATED_LIMIT, Inflater

CHUNKED = (
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nX-Id:  7 \r\ntransfer-encoding: chunked\r\n\r\n"
    b"5;ext=1\r\nhello\r\n1\r\n \r\nA\r\n0123456789\r\n0\r\nx-trailer: t\r\n\r\n"
)
LENGTH = b"HTTP/1.1 200 OK\r\nX-Id: 7\r\ncontent-length: 16\r\n\r\nhello 0123456789"
CLOSE = b"HTTP/1.0 200 OK\r\nX-Id: 7\r\n\r\nhello 0123456789"
BODY = b"hello 0123456789"


class Pipe(asyncio.Transport):
    """A transport that ends in memory and reports its close as the event loop would."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self.connection = connection
        self.written = b""
        self.closing = False

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.closing

    def abort(self) -> None:
        self.close()

    def close(self) -> None:
        if not self.closing:
            self.closing = True
            asyncio.get_running_loop().call_soon(self.connection.connection_lost, None)


async def read(exchange: FastExchange) -> bytes:
    body = b""
    while piece := await exchange.read():
        body += piece
    return body


def answer(pieces: list[bytes]) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Feed the pieces and the end of the connection; return (status, headers, body)."""

    async def main() -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        connection = Connection(asyncio.get_running_loop())
        pipe = Pipe(connection)
        connection.connection_made(pipe)
        exchange = connection.send(
            b"POST / HTTP/1.1\r\n\r\n", b"", write_s=9, first_byte_s=9, idle_s=9, bodiless=False
        )
        for piece in pieces:
            if not pipe.closing:
                connection.data_received(piece)
        pipe.close()
        await exchange.head()
        return exchange.status, exchange.headers, await read(exchange)

    return asyncio.run(main())


@pytest.mark.parametrize("raw", [CHUNKED, LENGTH, CLOSE])
def test_a_split_at_every_byte_changes_nothing(raw: bytes) -> None:
    for at in range(1, len(raw)):
        status, headers, body = answer([raw[:at], raw[at:]])
        assert (status, body) == (200, BODY)
        assert (b"x-id", b"7") in headers
        assert all(name != b"x-trailer" for name, _ in headers)


@pytest.mark.parametrize("raw", [CHUNKED, LENGTH, CLOSE])
def test_bytes_may_come_one_by_one(raw: bytes) -> None:
    assert answer([raw[i : i + 1] for i in range(len(raw))])[2] == BODY


@given(
    chunks=st.lists(st.binary(min_size=1, max_size=300), max_size=8),
    cuts=st.lists(st.integers(min_value=0, max_value=4_000), max_size=12),
)
@settings(max_examples=150, deadline=None)
def test_any_chunks_in_any_pieces_are_the_same_body(chunks: list[bytes], cuts: list[int]) -> None:
    raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    raw += b"".join(b"%X\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    marks = [0, *sorted(cut % len(raw) for cut in cuts), len(raw)]
    pieces = [raw[a:b] for a, b in pairwise(marks)]
    assert answer([piece for piece in pieces if piece])[2] == b"".join(chunks)


@given(
    raw=st.sampled_from([CHUNKED, LENGTH, CLOSE]),
    at=st.integers(min_value=0, max_value=200),
    junk=st.binary(max_size=6),
    cut=st.integers(min_value=1, max_value=200),
)
@settings(max_examples=300, deadline=None)
def test_damaged_answers_end_whole_or_as_a_protocol_fault(raw: bytes, at: int, junk: bytes, cut: int) -> None:
    damaged = raw[:at] + junk + raw[at + len(junk) :]
    try:
        status, _, _ = answer([piece for piece in (damaged[:cut], damaged[cut:]) if piece])
    except httpx.RemoteProtocolError:
        return
    assert status >= 200


@pytest.mark.parametrize("raw", [CHUNKED, LENGTH])
def test_a_cut_anywhere_is_a_fault(raw: bytes) -> None:
    for end in range(len(raw)):
        with pytest.raises(httpx.RemoteProtocolError):
            answer([raw[:end]] if end else [])


HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    "raw",
    [
        HEAD + b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        HEAD + b"content-length: 3\r\ncontent-length: 3\r\n\r\nabc",
        HEAD + b"content-length: 3, 3\r\n\r\nabc",
        HEAD + b"content-length: -3\r\n\r\nabc",
        HEAD + b"transfer-encoding: gzip, chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        HEAD + b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"transfer-encoding: identity\r\n\r\nabc",
        HEAD + b"transfer-encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n",
        HEAD + b"transfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\nabc\r\n0\r\n\r\n",
        HEAD + b"transfer-encoding: chunked\r\n\r\n3\r\nabcX\r\n0\r\n\r\n",
        HEAD + b"transfer-encoding: chunked\r\n\r\n3\nabc\n0\n\n",
        HEAD + b"x: a\r\n folded\r\ncontent-length: 0\r\n\r\n",
        HEAD + b"x: a\0b\r\ncontent-length: 0\r\n\r\n",
        HEAD + b"x : a\r\ncontent-length: 0\r\n\r\n",
        HEAD + b"content-encoding: br\r\ncontent-length: 1\r\n\r\na",
        HEAD + b"content-encoding: gzip\r\ncontent-encoding: gzip\r\ncontent-length: 1\r\n\r\na",
        HEAD + b"content-encoding: gzip\r\ncontent-length: 4\r\n\r\nnope",
        HEAD + b"".join(b"x-%d: y\r\n" % i for i in range(201)) + b"content-length: 0\r\n\r\n",
        HEAD + b"x: " + b"y" * 70_000 + b"\r\ncontent-length: 0\r\n\r\n",
        HEAD + b"x: " + b"y" * 70_000,
        HEAD + b"transfer-encoding: chunked\r\n\r\n3;" + b"e" * 70_000,
        b"HTTP/1.1 103 Early Hints\r\nx: y\r\n\r\n" * 6_000 + LENGTH,
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n",
        b"HTTP/1.1 99 Odd\r\n\r\n",
        b"HTTP/2.0 200 OK\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/0.9 200 OK\r\ncontent-length: 0\r\n\r\n",
        b"<html>hello</html>",
        b"SSH-2.0-OpenSSH_9.2\r\n",
    ],
    ids=lambda raw: repr(raw[17:60]),
)
def test_malformed_answers_are_refused(raw: bytes) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        answer([raw[i : i + 60_000] for i in range(0, len(raw), 60_000)])


@given(body=st.binary(max_size=3_000), step=st.integers(min_value=1, max_value=200), form=st.integers(0, 3))
@settings(max_examples=100, deadline=None)
def test_inflating_in_any_pieces_gives_the_body(body: bytes, step: int, form: int) -> None:
    bare = zlib.compressobj(wbits=-15)
    data = [
        gzip.compress(body),
        zlib.compress(body),
        bare.compress(body) + bare.flush(),
        gzip.compress(body[:9]) + gzip.compress(body[9:]),
    ][form]
    inflater = Inflater(b"deflate" if form in (1, 2) else b"gzip")
    got = b""
    for at in range(0, len(data), step):
        inflater.push(data[at : at + step])
        while piece := inflater.pull():
            got += piece
    inflater.finish()
    assert got == body


def test_a_bomb_is_refused_at_the_limit_and_inflated_in_small_pieces() -> None:
    inflater = Inflater(b"gzip")
    inflater.push(gzip.compress(bytes(INFLATED_LIMIT + 1_000_000)))
    total = 0
    while total < INFLATED_LIMIT:
        piece = inflater.pull()
        assert 0 < len(piece) <= 256 * 1024
        total += len(piece)
    with pytest.raises(httpx.RemoteProtocolError, match="64 MiB"):
        inflater.pull()


def test_a_cut_compressed_body_is_a_fault() -> None:
    inflater = Inflater(b"gzip")
    inflater.push(gzip.compress(b"hello")[:-3])
    assert inflater.pull() == b"hello"
    assert inflater.pull() == b""
    with pytest.raises(httpx.RemoteProtocolError, match="cut short"):
        inflater.finish()
