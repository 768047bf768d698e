"""`[limits] queue_s`: a request that only limits stop waits for a place, in turn, and not for ever."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.router import Answer, Offered, RouterServer, write_catalog
from tests.service.walking import Client, bearer, make_key, question, wait_all_ended, wait_for
from tests.upstream import Gate, ScriptedUpstream, answer, status, stream

PATIENT_S = 20


@pytest.fixture
def up() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as server:
        yield server


def folder(up: ScriptedUpstream, tmp_path: Path, queue_s: float) -> Path:
    """Write a catalog of a model that takes one request at a time, one that takes three, and a dearer one."""
    models = [
        Offered("test/one", limits="concurrency = 1"),
        Offered("test/three", price=(2, 4), limits="concurrency = 3"),
        Offered("test/free", price=(3, 6)),
    ]
    policy = f"[limits]\nqueue_s = {queue_s}\n"
    return write_catalog(tmp_path / "catalog", {"scripted": up.base_url}, models, policy=policy)


@pytest.fixture
def router(up: ScriptedUpstream, tmp_path: Path) -> Iterator[RouterServer]:
    with RouterServer(folder(up, tmp_path, PATIENT_S), tmp_path / "data") as server:
        yield server


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as executor:
        yield executor


class Busy:
    """One streamed request that runs until it is told to end."""

    def __init__(self, router: RouterServer, up: ScriptedUpstream, model: str = "test/one") -> None:
        self._gate = Gate()
        up.on(model, stream(gate=self._gate, gate_after=2), answer("after the wait"))
        self._client = Client(router, question(model=model, stream=True))
        assert self._client.head().status == 200

    def end(self) -> None:
        self._gate.open()
        self._client.read_rest()


def in_progress(router: RouterServer, count: int) -> None:
    """Wait until the router has so many requests; one that only limits stop is then in the queue."""
    wait_for(lambda: True if router.inflight() == count else None, f"{count} in progress")


def test_it_waits_for_a_place_and_is_served(
    router: RouterServer, up: ScriptedUpstream, pool: ThreadPoolExecutor
) -> None:
    busy = Busy(router, up)
    waits = pool.submit(router.chat, model="test/one", headers={"x-request-id": "patient"})
    in_progress(router, 2)
    assert len(up.requests) == 1
    busy.end()

    got: Answer = waits.result()

    assert (got.status, got.json["choices"][0]["message"]["content"]) == (200, "after the wait")
    assert (got.headers["x-llm-router-attempts"], got.headers["x-request-id"]) == ("1", "patient")
    assert "queue;dur=" in got.headers["server-timing"]
    rows = [row.kind for row in wait_all_ended(router) if row.client_request_id == "patient"]
    assert rows == ["hold", "settle"]


def test_another_model_that_fits_is_taken_at_once(router: RouterServer, up: ScriptedUpstream) -> None:
    busy = Busy(router, up)
    got = router.chat(model="test/one", models=["test/free"])
    assert got.headers["x-llm-router-resolved-model"] == "test/free"
    assert "queue" not in got.headers["server-timing"]
    busy.end()


def test_those_who_wait_are_served_in_the_order_they_came(
    router: RouterServer, up: ScriptedUpstream, pool: ThreadPoolExecutor
) -> None:
    busy = Busy(router, up)
    waiting = []
    for number in range(6):
        waiting.append(pool.submit(router.chat, f"number {number}", model="test/one"))
        in_progress(router, 2 + number)
    busy.end()

    assert [each.result().status for each in waiting] == [200] * 6
    asked = [request.json["messages"][0]["content"] for request in up.requests[1:]]
    assert asked == [f"number {number}" for number in range(6)]


def test_many_at_once_are_all_served_and_never_too_many(router: RouterServer, up: ScriptedUpstream) -> None:
    key, _ = make_key(router, "--rpm", "12")
    gate = Gate()
    up.on("test/three", *[stream(gate=gate, gate_after=2)] * 3, answer())
    body = question(model="test/three", stream=True)
    streams = [Client(router, body, bearer(key)) for _ in range(12)]
    in_progress(router, 12)
    assert len(up.wait_requests(3)) == 3
    gate.open()

    assert [client.head().status for client in streams] == [200] * 12
    for client in streams:
        client.read_rest()
    assert [row.kind for row in wait_all_ended(router)].count("settle") == 12
    assert router.chat(model="test/free", headers=bearer(key)).status == 429  # each had counted once


def test_when_the_time_is_up_it_is_the_429_with_its_retry_after(up: ScriptedUpstream, tmp_path: Path) -> None:
    with RouterServer(folder(up, tmp_path, 0.1), tmp_path / "data") as router:
        busy = Busy(router, up)
        got = router.chat(model="test/one")
        assert (got.status, got.error["name"]) == (429, "models_at_limit")
        assert got.headers["retry-after"] == "1"
        assert "test/one at scripted is at its concurrency limit" in got.error["message"]
        assert len(up.requests) == 1
        busy.end()
        assert router.logged()[0]["outcome"] == "models_at_limit"
        assert router.logged()[0]["seconds"] >= 0.09


def test_a_client_that_leaves_the_queue_leaves_nothing_behind(
    router: RouterServer, up: ScriptedUpstream, pool: ThreadPoolExecutor
) -> None:
    busy = Busy(router, up)
    leaves = Client(router, question("first", model="test/one"))
    in_progress(router, 2)
    stays = pool.submit(router.chat, "second", model="test/one")
    in_progress(router, 3)
    leaves.leave()
    in_progress(router, 2)
    busy.end()

    assert stays.result().status == 200
    assert [request.json["messages"][0]["content"] for request in up.requests[1:]] == ["second"]
    in_progress(router, 0)
    assert [line["outcome"] for line in router.logged()].count("client_gone") == 1
    assert len([row for row in wait_all_ended(router) if row.kind == "hold"]) == 2


def test_a_keys_own_limit_is_answered_at_once(router: RouterServer, up: ScriptedUpstream) -> None:
    key, _ = make_key(router, "--rpm", "1")
    assert router.chat(model="test/free", headers=bearer(key)).status == 200
    got = router.chat(model="test/free", headers=bearer(key))
    assert (got.status, "This API key is at its rpm limit" in got.error["message"]) == (429, True)


def test_a_wait_counts_once_against_the_key(
    router: RouterServer, up: ScriptedUpstream, pool: ThreadPoolExecutor
) -> None:
    key, _ = make_key(router, "--rpm", "1")
    busy = Busy(router, up)
    waits = pool.submit(router.chat, model="test/one", headers=bearer(key))
    in_progress(router, 2)
    busy.end()
    assert waits.result().status == 200
    assert router.chat(model="test/one", headers=bearer(key)).status == 429


def test_an_upstreams_own_429_does_not_wait(router: RouterServer, up: ScriptedUpstream) -> None:
    up.on("test/free", status(429, headers=[("retry-after", "7")]))
    got = router.chat(model="test/free")
    assert (got.status, got.error["name"], got.headers["retry-after"]) == (429, "upstream_rate_limited", "7")


def test_a_dry_run_says_no_at_once(router: RouterServer, up: ScriptedUpstream) -> None:
    busy = Busy(router, up)
    assert router.request("POST", "/v1/route", question(model="test/one")).status == 429
    busy.end()
