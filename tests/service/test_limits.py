"""Limits of offers and providers: a full offer loses at once, the next serves, 429 says when to return."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.router import Offered, RouterServer, write_catalog
from tests.service.walking import Client, ledger_rows, question, wait_for
from tests.upstream import Gate, ScriptedUpstream, answer, status, stream

Serve = Callable[..., RouterServer]


@pytest.fixture
def up() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as server:
        yield server


@pytest.fixture
def serve(up: ScriptedUpstream, tmp_path: Path) -> Iterator[Serve]:
    """Give a function that serves a catalog of these models."""
    with ExitStack() as stack:

        def start(*models: Offered, provider: str = "") -> RouterServer:
            urls = {"scripted": up.base_url}
            catalog = write_catalog(tmp_path / "catalog", urls, list(models), provider=provider)
            return stack.enter_context(RouterServer(catalog, tmp_path / "data"))

        yield start


@contextmanager
def running(
    router: RouterServer, up: ScriptedUpstream, model: str, upstream: str | None = None
) -> Iterator[Gate]:
    """Keep one streamed request running inside the block."""
    gate = Gate()
    up.on(upstream or model, stream(gate=gate, gate_after=2), answer())
    client = Client(router, question(model=model, stream=True))
    assert client.head().status == 200
    yield gate
    gate.open()
    client.read_rest()


def check_full(router: RouterServer, says: str, **fields: Any) -> int:
    """Check that a request is refused for a limit; returns the seconds to wait."""
    got = router.chat(**fields)
    assert (got.status, got.error["code"], got.error["name"]) == (429, 429, "models_at_limit")
    assert got.error["type"] == "rate_limit_error"
    assert says in got.error["message"]
    return int(got.headers["retry-after"])


def test_a_full_offer_is_a_429_at_once_and_serves_again_when_its_place_is_free(
    serve: Serve, up: ScriptedUpstream
) -> None:
    router = serve(Offered("test/one", limits="concurrency = 1"))

    with running(router, up, "test/one"):
        assert check_full(router, "test/one at scripted is at its concurrency limit") == 1
        assert check_full(router, "concurrency", stream=True) == 1
        assert len(up.requests) == 1

    wait_for(lambda: True if router.chat().status == 200 else None, "a free place")


def test_the_next_offer_serves_when_the_best_is_full(serve: Serve, up: ScriptedUpstream) -> None:
    router = serve(Offered("test/one", limits="concurrency = 1"), Offered("test/two", price=(2, 4)))

    with running(router, up, "test/one"):
        got = router.chat()
        assert got.headers["x-llm-router-resolved-model"] == "test/two"
        assert got.headers["x-llm-router-attempts"] == "1"
        record = router.request("POST", "/v1/route", question()).json
        assert record["chosen"]["model"] == "test/two"
        assert [(x["model"], x["reason"]) for x in record["losers"]] == [("test/one", "at_limit")]


def test_a_named_model_that_is_full_is_not_replaced(serve: Serve, up: ScriptedUpstream) -> None:
    router = serve(Offered("test/one", limits="concurrency = 1"), Offered("test/two"))

    with running(router, up, "test/one"):
        assert check_full(router, "test/one", model="test/one") == 1
        assert router.chat(model="test/one", models=["test/two"]).status == 200


def test_a_providers_limit_counts_all_its_models(serve: Serve, up: ScriptedUpstream) -> None:
    router = serve(Offered("test/one"), Offered("test/two"), provider="limits = { concurrency = 1 }")

    with running(router, up, "test/one"):
        assert check_full(router, "concurrency", model="test/two") == 1

    wait_for(lambda: True if router.chat(model="test/two").status == 200 else None, "a free place")


def test_requests_a_minute_of_an_offer(serve: Serve, up: ScriptedUpstream) -> None:
    router = serve(Offered("test/one", limits="rpm = 2"))

    assert [router.chat().status for _ in range(2)] == [200, 200]

    assert 1 <= check_full(router, "rpm") <= 60
    assert len(up.requests) == 2


def test_requests_a_minute_of_a_provider(serve: Serve) -> None:
    router = serve(Offered("test/one"), Offered("test/two"), provider="limits = { rpm = 2 }")

    assert [router.chat(model=name).status for name in ("test/one", "test/two")] == [200, 200]

    assert 1 <= check_full(router, "rpm") <= 60


def test_tokens_a_minute_count_what_was_used(serve: Serve, up: ScriptedUpstream) -> None:
    router = serve(Offered("test/one", limits="tpm = 2000"))
    up.on("test/one", answer(usage={"prompt_tokens": 1_000, "completion_tokens": 500}))

    assert router.chat(max_tokens=100).status == 200

    assert 1 <= check_full(router, "tpm", max_tokens=600) <= 60
    assert router.chat(max_tokens=100).status == 200


def test_a_failed_attempt_gives_its_place_back(serve: Serve, up: ScriptedUpstream) -> None:
    router = serve(Offered("test/one", limits="concurrency = 1"), Offered("test/two", price=(2, 4)))
    up.on("test/one", status(500), status(503), answer())

    chosen = [router.chat().headers["x-llm-router-resolved-model"] for _ in range(3)]

    assert chosen == ["test/two", "test/two", "test/one"]


def test_a_request_that_a_limit_refused_holds_no_money(serve: Serve, up: ScriptedUpstream) -> None:
    router = serve(Offered("test/one", limits="concurrency = 1"))

    with running(router, up, "test/one"):
        check_full(router, "concurrency")
        assert [row.kind for row in ledger_rows(router)] == ["hold"]


def test_of_many_at_once_exactly_as_many_run_as_there_are_places(serve: Serve, up: ScriptedUpstream) -> None:
    router = serve(Offered("test/one", limits="concurrency = 3"))
    gate = Gate()
    up.on("test/one", stream(gate=gate, gate_after=2))
    clients = [Client(router, question(model="test/one", stream=True)) for _ in range(12)]

    statuses = [client.head().status for client in clients]
    gate.open()
    endings = [client.read_rest() for client, code in zip(clients, statuses, strict=True) if code == 200]

    assert sorted(statuses) == [200] * 3 + [429] * 9
    assert len(up.requests) == 3
    assert all(end.endswith(b"data: [DONE]\n\n") for end in endings)
    for client in clients:
        client.leave()
