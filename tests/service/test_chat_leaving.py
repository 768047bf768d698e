"""Clients that leave: the upstream call ends, the hold ends, the place is free, and nobody else notices."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from router.ledger.rows import Row
from router.ledger.sqlite import FILE, Database
from tests.router import Offered, RouterServer, write_catalog
from tests.service.walking import (
    Client,
    bearer,
    ledger_rows,
    make_key,
    question,
    request_id,
    wait_all_ended,
    wait_end,
    wait_for,
)
from tests.upstream import Gate, ScriptedUpstream, Turn, answer, hang, status, stream

STREAM_S = 2.0
PLAIN_S = 3.0
WORDS = "one two three four five six"


@pytest.fixture
def up() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as server:
        yield server


@pytest.fixture
def router(up: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RouterServer]:
    """Serve one model that takes one request at a time, and two without a limit."""
    folder = tmp_path_factory.mktemp("leaving")
    models = [
        Offered("test/single", price=(1, 2), limits="concurrency = 1"),
        Offered("test/free", price=(2, 4)),
        Offered("test/other", price=(3, 6)),
    ]
    catalog = write_catalog(folder / "catalog", {"scripted": up.base_url}, models)
    with RouterServer(catalog, folder / "data") as server:
        yield server


def the_end(router: RouterServer, client_id: str) -> Row:
    """Wait for the end of the one hold of a client's own request id."""

    def look() -> Row | None:
        rows = [row for row in ledger_rows(router) if row.client_request_id == client_id]
        return next((row for row in rows if row.kind != "hold"), None)

    return wait_for(look, f"the end of {client_id}")


def serves_again(router: RouterServer, up: ScriptedUpstream, model: str = "test/single") -> None:
    up.on(model, answer("back"))
    got = wait_for(lambda: got if (got := router.chat(model=model)).status == 200 else None, "a free place")
    assert got.json["choices"][0]["message"]["content"] == "back"


def test_leaving_a_stream_closes_the_upstream_and_bills_what_was_delivered(
    router: RouterServer, up: ScriptedUpstream
) -> None:
    up.on("test/single", stream(WORDS, hang_after=4))
    client = Client(router, question(model="test/single", stream=True), {"x-request-id": "mid"})
    client.head()
    client.read_until(b"three")
    assert router.chat(model="test/single").status == 429

    client.leave()

    (left,) = up.wait_abandoned(1, STREAM_S)
    assert left.events_sent == 4
    row = the_end(router, "mid")
    assert (row.kind, row.estimated, row.completion_tokens) == ("settle", True, 3)
    assert row.amount_nusd == (row.prompt_tokens or 0) * 1_000 + 3 * 2_000
    serves_again(router, up)


@pytest.mark.parametrize("streams", [True, False])
def test_leaving_before_the_first_byte_closes_the_upstream_and_costs_nothing(
    router: RouterServer, up: ScriptedUpstream, streams: bool
) -> None:
    up.on("test/single", hang())
    client = Client(router, question(model="test/single", stream=streams), {"x-request-id": "early"})
    up.wait_requests(1)

    client.leave()

    up.wait_abandoned(1, STREAM_S if streams else PLAIN_S)
    row = the_end(router, "early")
    assert (row.kind, row.completion_tokens) == ("release", None)
    serves_again(router, up)


def test_leaving_after_the_role_and_before_the_first_text_costs_nothing(
    router: RouterServer, up: ScriptedUpstream
) -> None:
    up.on("test/single", stream(WORDS, hang_after=1))
    client = Client(router, question(model="test/single", stream=True), {"x-request-id": "role"})
    request = up.wait_requests(1)[0]
    wait_for(lambda: request.events_sent or None, "the role")

    client.leave()

    up.wait_abandoned(1, STREAM_S)
    assert the_end(router, "role").kind == "release"
    serves_again(router, up)


@pytest.mark.parametrize("streams", [True, False])
def test_leaving_during_a_fallback_closes_the_second_upstream(
    router: RouterServer, up: ScriptedUpstream, streams: bool
) -> None:
    up.on("test/free", status(500))
    up.on("test/single", hang())
    body = question(model="test/free", models=["test/single"], stream=streams)
    client = Client(router, body, {"x-request-id": "second"})
    assert [request.model for request in up.wait_requests(2)] == ["test/free", "test/single"]

    client.leave()

    (left,) = up.wait_abandoned(1, STREAM_S)
    assert left.model == "test/single"
    rows = wait_all_ended(router)
    assert {row.kind for row in rows if row.client_request_id == "second"} == {"hold", "release"}
    serves_again(router, up)


def test_leaving_gives_a_keys_place_back(router: RouterServer, up: ScriptedUpstream) -> None:
    key, _ = make_key(router, "--concurrency", "1")
    gate = Gate()
    up.on("test/free", stream(WORDS, gate=gate, gate_after=2))
    client = Client(router, question(model="test/free", stream=True), bearer(key))
    client.head()
    assert router.chat(model="test/other", headers=bearer(key)).status == 429

    client.leave()

    up.wait_abandoned(1, STREAM_S)
    got = wait_for(
        lambda: g if (g := router.chat(model="test/other", headers=bearer(key))).status == 200 else None,
        "the key's place",
    )
    assert got.headers["x-llm-router-resolved-model"] == "test/other"


def test_leaving_while_a_failed_request_waits_for_the_database_gives_the_keys_place_back(
    router: RouterServer, up: ScriptedUpstream
) -> None:
    key, _ = make_key(router, "--concurrency", "1")
    gate = Gate()

    async def fail_later(turn: Turn) -> None:
        await gate.wait()
        await status(500)(turn)

    up.on("test/free", fail_later)
    client = Client(router, question(model="test/free"), bearer(key))
    up.wait_requests(1)
    # Within this block the release cannot be written.
    with closing(Database(router.data / FILE)) as opened, opened.transaction():
        gate.open()
        up.wait_idle()
        client.leave()
        # The service sees the leaving before the end of this block: it still answers others.
        assert router.request("GET", "/health/live").status == 200

    wait_all_ended(router)
    up.on("test/free", answer())
    wait_for(
        lambda: True if router.chat(model="test/free", headers=bearer(key)).status == 200 else None, "a place"
    )


def test_a_client_that_stays_is_not_disturbed_by_those_that_leave(
    router: RouterServer, up: ScriptedUpstream
) -> None:
    gate = Gate()
    up.on("test/other", stream(WORDS, gate=gate, gate_after=3))
    stays = Client(router, question(model="test/other", stream=True))
    stays.head()
    up.on("test/free", hang())
    leavers = [Client(router, question(model="test/free")) for _ in range(10)]
    up.wait_requests(11)
    for leaver in leavers:
        leaver.leave()
    up.wait_abandoned(10, PLAIN_S)
    gate.open()

    assert stays.read_rest().endswith(b"data: [DONE]\n\n")


def test_after_two_hundred_leaving_clients_ten_of_ten_are_served(
    router: RouterServer, up: ScriptedUpstream
) -> None:
    up.on("test/free", hang())
    up.on("test/other", stream(WORDS, hang_after=3))
    waiting: list[Client] = []
    lock = threading.Lock()

    def come(number: int) -> None:
        streams = number % 2 == 0
        client = Client(router, question(model="test/other" if streams else "test/free", stream=streams))
        if streams:
            client.head()
        with lock:
            waiting.append(client)

    for wave in range(1, 5):
        with ThreadPoolExecutor(25) as pool:
            list(pool.map(come, range(50)))
        up.wait_requests(50 * wave)  # who leaves sooner is never sent on
        for client in waiting:
            client.leave()
        waiting.clear()

    up.wait_abandoned(200, PLAIN_S)
    up.wait_idle()
    rows = wait_all_ended(router)
    ends = [row.kind for row in rows if row.kind != "hold"]
    assert (ends.count("settle"), ends.count("release")) == (100, 100)
    up.on("test/free", answer("fine"))
    answers = [router.chat(model="test/free") for _ in range(10)]
    assert [got.status for got in answers] == [200] * 10
    assert wait_end(router, request_id(answers[-1])).kind == "settle"
    assert router.inflight() == 0


def test_a_request_that_was_never_whole_costs_nothing(router: RouterServer, up: ScriptedUpstream) -> None:
    for body in (b"", b'{"model":"auto"'):
        with socket.create_connection(("127.0.0.1", router.port)) as connection:
            connection.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 99\r\n\r\n" + body
            )

    assert router.request("GET", "/health/live").status == 200
    assert (up.requests, ledger_rows(router)) == ([], [])
