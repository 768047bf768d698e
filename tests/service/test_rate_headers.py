"""How a key stands to its limits, and when to come again: the headers that SDKs read."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.router import Answer, Offered, RouterServer, write_catalog
from tests.service.walking import bearer, make_key, question
from tests.upstream import ScriptedUpstream, answer, status

NAMES = ("limit-requests", "remaining-requests", "limit-tokens", "remaining-tokens")
RESET = re.compile(r"\d+ms|\d+s|\d+m\d+s")


@pytest.fixture(scope="module")
def up() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as server:
        yield server


@pytest.fixture(scope="module")
def router(up: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RouterServer]:
    folder = tmp_path_factory.mktemp("rates")
    models = [
        Offered("test/open"),
        Offered("test/two", limits="rpm = 2"),
        Offered("test/other", limits="rpm = 1"),
    ]
    catalog = write_catalog(folder / "catalog", {"scripted": up.base_url}, models)
    with RouterServer(catalog, folder / "data", cors_origins=("https://a.example",)) as server:
        yield server


def told(answer: Answer) -> dict[str, str]:
    prefix = "x-ratelimit-"
    return {
        name.removeprefix(prefix): value for name, value in answer.headers.items() if name.startswith(prefix)
    }


def test_a_keys_limits_are_told_with_every_answer_and_refusal(router: RouterServer) -> None:
    key, _ = make_key(router, "--rpm", "2", "--tpm", "500000")
    answers = [router.chat(model="test/open", max_tokens=10, headers=bearer(key)) for _ in range(3)]

    assert [got.status for got in answers] == [200, 200, 429]
    assert [told(got)["remaining-requests"] for got in answers] == ["1", "0", "0"]
    assert {told(got)["limit-requests"] for got in answers} == {"2"}
    assert {told(got)["limit-tokens"] for got in answers} == {"500000"}
    left = [int(told(got)["remaining-tokens"]) for got in answers]
    assert 500_000 > left[0] > left[1]
    assert all(
        RESET.fullmatch(told(got)[f"reset-{what}"]) for got in answers for what in ("requests", "tokens")
    )
    assert 1 <= int(answers[2].headers["retry-after"]) <= 60


def test_a_stream_tells_them_too(router: RouterServer) -> None:
    key, _ = make_key(router, "--rpm", "9")
    got = router.chat(model="test/open", stream=True, headers=bearer(key))
    assert (told(got)["limit-requests"], told(got)["remaining-requests"]) == ("9", "8")
    assert "limit-tokens" not in told(got)


def test_an_error_tells_them_once_the_request_has_counted(router: RouterServer, up: ScriptedUpstream) -> None:
    key, _ = make_key(router, "--rpm", "9")
    up.on("test/open", status(500))
    broke = router.chat(model="test/open", headers=bearer(key))
    assert (broke.status, told(broke)["limit-requests"], told(broke)["remaining-requests"]) == (502, "9", "8")
    up.on("test/open", answer("well"))
    router.skip(120)  # the offer rests no more
    assert told(router.chat(model="no/such", headers=bearer(key))) == {}
    poor, _ = make_key(router, "--rpm", "9", "--credit", "0.000000001")
    refused = router.chat(model="test/open", headers=bearer(poor))
    assert (refused.status, told(refused)["remaining-requests"]) == (402, "8")


def test_a_request_that_only_an_offer_stopped_does_not_count(router: RouterServer) -> None:
    key, _ = make_key(router, "--rpm", "9")
    router.skip(120)
    answers = [router.chat(model="test/other", headers=bearer(key)) for _ in range(2)]
    assert [got.status for got in answers] == [200, 429]
    assert [told(got).get("remaining-requests") for got in answers] == ["8", None]
    router.skip(120)


def test_a_replayed_answer_does_not_tell_the_standing_of_then(router: RouterServer) -> None:
    key, _ = make_key(router, "--rpm", "9")
    headers = {**bearer(key), "idempotency-key": "then"}
    first, again = (router.chat(model="test/open", headers=headers) for _ in range(2))
    assert told(first)["remaining-requests"] == "8"
    assert (again.status, again.headers["idempotent-replayed"], told(again)) == (200, "true", {})
    assert "server-timing" in first.headers
    assert "server-timing" not in again.headers


def test_nothing_is_told_where_a_key_has_no_such_limit(router: RouterServer) -> None:
    key, _ = make_key(router, "--concurrency", "2")
    assert told(router.chat(model="test/open", headers=bearer(key))) == {}
    assert told(router.chat(model="test/open")) == {}


def test_an_upstreams_own_are_not_passed_on(router: RouterServer, up: ScriptedUpstream) -> None:
    up.on("test/open", status(429, headers=[("retry-after", "7"), ("x-ratelimit-limit-requests", "3")]))
    assert told(router.chat(model="test/open")) == {}


def test_retry_after_is_the_soonest_opening_of_all_that_could_serve(router: RouterServer) -> None:
    body = question(model="test/two", models=["test/other"])
    assert router.request("POST", "/v1/chat/completions", body).status == 200
    router.skip(20)
    assert [router.request("POST", "/v1/chat/completions", body).status for _ in range(2)] == [200, 200]
    router.skip(10)

    got = router.request("POST", "/v1/chat/completions", body)

    assert got.status == 429  # test/two opens 60 s after its first request, test/other 20 s later
    assert 29 <= int(got.headers["retry-after"]) <= 30


def test_browsers_of_other_origins_may_read_them(router: RouterServer) -> None:
    got = router.request("GET", "/v1/models", headers={"origin": "https://a.example"})
    exposed = got.headers["access-control-expose-headers"].lower()
    for name in (*NAMES, "reset-requests", "reset-tokens"):
        assert f"x-ratelimit-{name}" in exposed
