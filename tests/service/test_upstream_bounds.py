"""Upstreams that send too much, too slowly or without end, through the whole router over real sockets."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Iterator

import pytest

from router.upstream.sse import MAX_EVENT_BYTES
from tests.router import Offered, RouterServer, write_catalog
from tests.service.walking import wait_all_ended
from tests.upstream import (
    Behaviour,
    ScriptedUpstream,
    Turn,
    answer,
    hang,
    informational,
    raw,
    slow,
    stream,
)

FIRST, SECOND, PATIENT = "test/first", "test/second", "test/patient"
JSON_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
SSE_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
CHUNK = b'data: {"id":"x","choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n'
END = b'data: {"id":"x","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'


@pytest.fixture(scope="module")
def up() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as server:
        yield server


@pytest.fixture(autouse=True)
def rested(router: RouterServer) -> None:
    router.skip(7_200)  # longer than any offer rests after the failures of another test


@pytest.fixture(scope="module")
def router(up: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RouterServer]:
    """Serve two models whose provider may take 0.3 s for the first byte and 0.2 s between two, and one.

    The provider of that one has the default time-outs, which are longer than any test's patience.
    """
    folder = tmp_path_factory.mktemp("bounds")
    catalog = write_catalog(
        folder / "catalog",
        {"scripted": up.base_url},
        [Offered(FIRST), Offered(SECOND)],
        provider="timeout_s = { connect = 1.0, first_byte = 0.3, idle = 0.2 }",
    )
    write_catalog(catalog, {"patient": up.base_url}, [Offered(PATIENT, provider="patient")])
    with RouterServer(catalog, folder / "data") as server:
        yield server
        wait_all_ended(server)


def forever(begin: bytes, piece: bytes) -> Iterator[bytes]:
    yield begin
    while True:
        yield piece


async def storm(turn: Turn) -> None:
    """Send interim answers without end."""
    while True:
        await turn.write(b"HTTP/1.1 102 Processing\r\n\r\n" * 100)
        await asyncio.sleep(0)


async def drip(turn: Turn) -> None:
    """Send a head a byte at a time, without end."""
    await turn.write(b"HTTP/1.1 200 OK\r\nx: ")
    while True:
        await turn.write(b"y")
        await asyncio.sleep(0.01)


def bomb() -> bytes:
    packed = gzip.compress(b'{"choices":[{"message":{"content":"' + b"a" * (80 * 2**20), 6)
    return JSON_HEAD + b"content-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(packed) + packed


TOO_MUCH: dict[str, Behaviour] = {
    "a head without end": raw(lambda: forever(JSON_HEAD, b"x-a: 1\r\n" * 100)),
    "a header without end": raw(lambda: forever(JSON_HEAD + b"x-a: ", b"a" * 1_000)),
    "a status line without end": raw(lambda: forever(b"HTTP/1.1 200 ", b"a" * 1_000)),
    "interim answers without end": storm,
    "chunk extensions without end": raw(
        lambda: forever(JSON_HEAD + b"transfer-encoding: chunked\r\n\r\n5;x=", b"a" * 1_000)
    ),
    "a body without end": raw(lambda: forever(JSON_HEAD + b"\r\n" + b'{"x":"', b"a" * 2**20)),
    "a gzip bomb": raw(bomb()),
    "an unknown coding": raw(JSON_HEAD + b"content-encoding: br\r\ncontent-length: 3\r\n\r\nabc"),
}
TOO_SLOW: dict[str, Behaviour] = {
    "a head that drips": drip,
    "silence": hang(),
    "a first byte that is late": slow(5.0),
    "silence in the body": raw(JSON_HEAD + b"content-length: 99\r\n\r\n{", then="hang"),
}


@pytest.mark.parametrize("name", [*TOO_MUCH, *TOO_SLOW])
@pytest.mark.parametrize("streams", [False, True], ids=["plain", "stream"])
def test_what_is_no_answer_is_bounded_and_the_next_offer_answers(
    router: RouterServer, up: ScriptedUpstream, name: str, streams: bool
) -> None:
    model = PATIENT if name in TOO_MUCH else FIRST
    up.on(model, {**TOO_MUCH, **TOO_SLOW}[name])
    up.on(SECOND, stream("all is well") if streams else answer("all is well"))

    got = router.chat(model=model, models=[SECOND], stream=streams)

    assert (got.status, got.headers["x-llm-router-attempts"]) == (200, "2")
    assert got.headers["x-llm-router-resolved-model"] == SECOND
    up.wait_idle()


ENDLESS_EVENT: dict[str, Behaviour] = {
    "a line without end": raw(lambda: forever(SSE_HEAD + b"data: ", b"a" * 2**20)),
    "an event without end": raw(lambda: forever(SSE_HEAD, b"data: {}\n" * 10_000)),
}
SILENT_STREAM: dict[str, Behaviour] = {
    "silence after the head": raw(SSE_HEAD, then="hang"),
    "silence after the role": stream("x", hang_after=1),
}


@pytest.mark.parametrize("name", [*ENDLESS_EVENT, *SILENT_STREAM])
def test_a_stream_that_brings_no_content_is_left_for_the_next_offer(
    router: RouterServer, up: ScriptedUpstream, name: str
) -> None:
    model = PATIENT if name in ENDLESS_EVENT else FIRST
    up.on(model, {**ENDLESS_EVENT, **SILENT_STREAM}[name])
    up.on(SECOND, stream("all is well"))

    got = router.chat(model=model, models=[SECOND], stream=True)

    assert (got.status, got.headers["x-llm-router-resolved-model"]) == (200, SECOND)
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in got.chunks()) == "all is well"
    up.wait_idle()


BROKEN_LATER: dict[str, tuple[Behaviour, str]] = {
    "silence": (raw(SSE_HEAD + CHUNK % b"begun", then="hang"), "upstream_timeout"),
    "a line without end": (
        raw(lambda: forever(SSE_HEAD + CHUNK % b"begun" + b"data: ", b"a" * 2**20)),
        "upstream_error",
    ),
}


@pytest.mark.parametrize("name", BROKEN_LATER)
def test_a_stream_that_breaks_later_ends_in_an_error_chunk(
    router: RouterServer, up: ScriptedUpstream, name: str
) -> None:
    behaviour, error = BROKEN_LATER[name]
    up.on(FIRST, behaviour)

    got = router.chat(model=FIRST, models=[SECOND], stream=True)

    *_, last = got.chunks()
    assert got.chunks()[0]["choices"][0]["delta"]["content"] == "begun"
    assert (last["error"]["name"], last["choices"][0]["finish_reason"]) == (error, "error")
    assert got.events()[-1] == "[DONE]"
    assert len(got.body) < MAX_EVENT_BYTES
    up.wait_idle()


def test_alone_a_late_first_byte_is_a_504(router: RouterServer, up: ScriptedUpstream) -> None:
    up.on(FIRST, hang())

    got = router.chat(model=FIRST)

    assert (got.status, got.error["name"]) == (504, "upstream_timeout")


def test_an_answer_within_the_time_outs_is_taken_however_slow_it_is(
    router: RouterServer, up: ScriptedUpstream
) -> None:
    up.on(FIRST, slow(0.15, stream("one two three four five six", delay_s=0.1)))

    got = router.chat(model=FIRST, stream=True)

    assert (got.status, got.events()[-1]) == (200, "[DONE]")
    assert "error" not in got.chunks()[-1]


def test_a_chunk_of_one_mebibyte_passes(router: RouterServer, up: ScriptedUpstream) -> None:
    text = b"b" * 2**20
    up.on(FIRST, raw(SSE_HEAD + CHUNK % text + END))

    got = router.chat(model=FIRST, stream=True)

    assert got.chunks()[0]["choices"][0]["delta"]["content"] == text.decode()
    assert got.events()[-1] == "[DONE]"


def test_interim_answers_are_skipped(router: RouterServer, up: ScriptedUpstream) -> None:
    up.on(FIRST, informational(informational(informational(answer("final"), 103), 102), 100))

    assert router.chat(model=FIRST).json["choices"][0]["message"]["content"] == "final"


def test_an_upstream_that_compresses_all_the_same_is_read(router: RouterServer, up: ScriptedUpstream) -> None:
    body = gzip.compress(json.dumps({"choices": [{"message": {"content": "packed"}}]}).encode())
    head = JSON_HEAD + b"content-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(body)
    up.on(FIRST, raw(head + body, then="keep"))

    got = router.chat(model=FIRST)

    assert got.json["choices"][0]["message"]["content"] == "packed"
    assert "content-encoding" not in got.headers
