"""What bounds an answer: hold and request say the same, and no bound of ours breaks a request."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.router import Offered, RouterServer, write_catalog
from tests.service.walking import (
    bearer,
    ledger_rows,
    make_key,
    question,
    request_id,
    wait_all_ended,
    wait_end,
)
from tests.upstream import ScriptedUpstream, answer, status, stream

MODEL, SMALL = "test/model", "test/small"
TOO_LARGE = {"error": {"message": "max_tokens is too large: 8000. At most 4096 are supported.", "code": 400}}
NO_FIELD = {"error": {"message": "Unsupported parameter.", "param": "max_tokens"}}
NO_ROOM = {"error": {"message": "maximum context length is 8192, you asked for max_tokens=8000 with 900"}}
OTHER = {"error": {"message": "temperature is not supported", "param": "temperature"}}


@pytest.fixture(scope="module")
def up() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as server:
        yield server


def serve(up: ScriptedUpstream, folder: Path, *, provider: str = "", policy: str = "") -> RouterServer:
    models = [Offered(MODEL), Offered(SMALL, context=1_000, max_output=900)]
    catalog = write_catalog(
        folder / "catalog", {"scripted": up.base_url}, models, provider=provider, policy=policy
    )
    return RouterServer(catalog, folder / "data")


@pytest.fixture(scope="module")
def router(up: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RouterServer]:
    with serve(up, tmp_path_factory.mktemp("bound")) as server:
        yield server


@pytest.fixture(scope="module")
def newer(up: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RouterServer]:
    provider = 'output_limit = "max_completion_tokens"'
    with serve(up, tmp_path_factory.mktemp("newer"), provider=provider) as server:
        yield server


@pytest.fixture(autouse=True)
def answers(up: ScriptedUpstream) -> None:
    up.on(MODEL, answer()).on(SMALL, answer())


def sent(up: ScriptedUpstream) -> dict[str, int]:
    """Return the bounds of the last request as the upstream got it."""
    body = up.requests[-1].json
    return {name: body[name] for name in ("max_tokens", "max_completion_tokens") if name in body}


def held(router: RouterServer, ledger_id: str) -> int:
    (amount,) = [
        row.amount_nusd for row in ledger_rows(router) if (row.request_id, row.kind) == (ledger_id, "hold")
    ]
    return amount


@pytest.mark.parametrize("streams", [True, False])
def test_a_request_without_a_bound_goes_upstream_with_the_offers(
    router: RouterServer, up: ScriptedUpstream, streams: bool
) -> None:
    up.on(MODEL, stream() if streams else answer())
    assert router.chat(model=MODEL, stream=streams).status == 200
    assert sent(up) == {"max_tokens": 8_000}


@pytest.mark.parametrize("given", [{"max_tokens": None}, {"max_completion_tokens": None}])
def test_a_bound_of_null_is_none(router: RouterServer, up: ScriptedUpstream, given: dict[str, Any]) -> None:
    router.chat(model=MODEL, **given)
    assert sent(up) == {"max_tokens": 8_000}


@pytest.mark.parametrize(
    ("given", "tokens"),
    [
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 7}, 7),
        ({"max_tokens": 5, "max_completion_tokens": 7}, 7),
    ],
)
def test_a_clients_bound_goes_on_as_it_is_under_the_name_that_the_provider_reads(
    router: RouterServer, newer: RouterServer, up: ScriptedUpstream, given: dict[str, int], tokens: int
) -> None:
    got = router.chat(model=MODEL, **given)
    assert sent(up) == {"max_tokens": tokens}
    assert newer.chat(model=MODEL, **given).status == 200
    assert sent(up) == {"max_completion_tokens": tokens}
    prompt = held(router, request_id(got)) - tokens * 2_000
    assert 0 < prompt < 100_000  # the hold's output is what was sent


def test_a_hold_is_what_the_sent_bound_can_cost(
    router: RouterServer, newer: RouterServer, up: ScriptedUpstream
) -> None:
    for server in (router, newer):
        got = server.chat(model=MODEL)
        (tokens,) = sent(up).values()
        quote = server.request("POST", "/v1/route", question(model=MODEL)).json["quote"]["max_usd"]
        hold = held(server, request_id(got))
        assert Decimal(str(quote)) * 10**9 == hold
        assert 0 < hold - tokens * 2_000 < 100_000


def test_several_choices_are_each_bounded(router: RouterServer, up: ScriptedUpstream) -> None:
    got = router.chat(model=MODEL, n=3)
    assert sent(up) == {"max_tokens": 8_000}
    assert held(router, request_id(got)) > 3 * 8_000 * 2_000


def test_where_the_window_is_the_tighter_bound_the_upstream_keeps_it(
    router: RouterServer, up: ScriptedUpstream
) -> None:
    router.chat("short", model=SMALL)
    assert sent(up) == {"max_tokens": 900}
    router.chat("long " * 200, model=SMALL)
    assert sent(up) == {}


def test_an_operators_bound_makes_small_credit_go_further(up: ScriptedUpstream, tmp_path: Path) -> None:
    with serve(up, tmp_path, policy="[limits]\noutput_tokens = 500\n") as server:
        key, _ = make_key(server, "--credit", "0.002")
        assert server.chat(model=MODEL, headers=bearer(key)).status == 200
        assert sent(up) == {"max_tokens": 500}
        wait_all_ended(server)
        asked = server.chat(model=MODEL, headers=bearer(key), max_tokens=600)
        assert asked.status == 200
        assert sent(up) == {"max_tokens": 600}  # a bound of the client's own is the client's
        wait_all_ended(server)
        broke = server.chat(model=MODEL, headers=bearer(key), max_tokens=8_000)
        assert broke.status == 402
        assert "lower max_tokens" in broke.error["message"]


def test_a_provider_without_such_a_field_gets_none_of_ours(up: ScriptedUpstream, tmp_path: Path) -> None:
    with serve(up, tmp_path, provider='output_limit = "none"') as server:
        assert server.chat(model=MODEL).status == 200
        assert sent(up) == {}
        server.chat(model=MODEL, max_completion_tokens=5)
        assert sent(up) == {"max_completion_tokens": 5}


@pytest.mark.parametrize("refusal", [TOO_LARGE, NO_FIELD])
def test_an_offer_that_refuses_our_bound_is_called_without_it_from_then_on(
    up: ScriptedUpstream, tmp_path: Path, caplog: pytest.LogCaptureFixture, refusal: dict[str, Any]
) -> None:
    up.on(MODEL, status(400, refusal), answer(), answer())
    with serve(up, tmp_path) as server:
        before = len(up.requests)
        got = [server.chat(model=MODEL) for _ in range(2)]
        assert [one.status for one in got] == [200, 200]
        assert got[0].headers["x-llm-router-attempts"] == "1"
        bounds = [request.json.get("max_tokens") for request in up.requests[before:]]
        assert bounds == [8_000, None, None]
        assert "correct max_output in the model's file" in caplog.text
        assert wait_end(server, request_id(got[0])).kind == "settle"


def test_a_prompt_that_leaves_no_room_for_our_bound_goes_without_it_once(
    router: RouterServer, up: ScriptedUpstream
) -> None:
    up.on(MODEL, status(400, NO_ROOM), answer(), answer())
    before = len(up.requests)
    assert [router.chat(model=MODEL).status for _ in range(2)] == [200, 200]
    assert [request.json.get("max_tokens") for request in up.requests[before:]] == [8_000, None, 8_000]


def test_what_is_refused_for_another_reason_or_for_the_clients_bound_stays_refused(
    router: RouterServer, up: ScriptedUpstream
) -> None:
    up.on(MODEL, status(400, OTHER), status(400, TOO_LARGE))
    before = len(up.requests)
    assert router.chat(model=MODEL).status == 400
    assert router.chat(model=MODEL, max_tokens=7_999).status == 400
    assert len(up.requests) == before + 2
