"""Names, modes, caps and globs: which model a request gets by what its client wrote."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

import pytest

from tests.router import Answer, Offered, RouterServer, write_catalog
from tests.service.walking import question
from tests.upstream import ScriptedUpstream, answer, status

MODEL = "test/good"
UPSTREAM = "vendor/good-v1"
POLICY = '[aliases]\nhouse = "test/cheap"\nfinest = "auto:quality"\n"gpt-x" = "house"\n'


def same(quality: float, *categories: str) -> dict[str, float]:
    return dict.fromkeys(("simple", "coding", "reasoning", *categories), quality)


MODELS = [
    Offered("test/tiny", price=(0.01, 0.02), quality=same(10), input=("text",)),
    Offered("test/cheap", price=(0.1, 0.2), quality=same(60), input=("text",)),
    Offered(MODEL, upstream=UPSTREAM, price=(1, 2), quality=same(70, "vision"), context=2_000_000),
    Offered("test/best", price=(5, 10), quality=same(74, "vision")),
    Offered(
        "test/fast",
        price=(20, 40),
        quality=same(20, "vision"),
        extra="speed = { ttft_s = 0.1, tok_s = 2000 }",
    ),
    Offered("test/unrated", price=(1, 1), quality=None),
]


@pytest.fixture(scope="module")
def up() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as server:
        yield server


@pytest.fixture(scope="module")
def router(up: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RouterServer]:
    folder = tmp_path_factory.mktemp("names")
    catalog = write_catalog(folder / "catalog", {"scripted": up.base_url}, MODELS, policy=POLICY)
    with RouterServer(catalog, folder / "data") as server:
        yield server


@pytest.fixture(autouse=True)
def scripts(up: ScriptedUpstream) -> None:
    """Let every model answer well, whatever the test before scripted."""
    for model in MODELS:
        up.on(model.upstream or model.id, answer())


def answered_by(got: Answer) -> str:
    assert got.status == 200, got.body
    return got.headers["x-llm-router-resolved-model"]


def test_a_named_model_is_never_replaced(router: RouterServer, up: ScriptedUpstream) -> None:
    up.on(UPSTREAM, status(500))
    before = len(up.requests)

    got = router.chat(model=MODEL)

    assert got.status == 502
    assert [request.model for request in up.requests[before:]] == [UPSTREAM]


def test_the_models_list_is_tried_in_its_order_and_unknown_ids_in_it_are_skipped(
    router: RouterServer, up: ScriptedUpstream
) -> None:
    up.on(UPSTREAM, status(500))
    up.on("test/best", status(503))
    before = len(up.requests)

    got = router.chat(
        model=MODEL, models=["no/such", "test/best", MODEL, "llmrouter/test/cheap", "test/fast"]
    )

    assert answered_by(got) == "test/cheap"
    assert [request.model for request in up.requests[before:]] == [UPSTREAM, "test/best", "test/cheap"]
    assert got.headers["x-llm-router-reason"] == "fallback_after_error"
    assert got.headers["x-llm-router-attempts"] == "3"


@pytest.mark.parametrize(
    ("asked", "model"),
    [
        ("auto", MODEL),
        ("llmrouter/auto", MODEL),
        ("router/auto", MODEL),
        ("auto:balanced", MODEL),
        ("auto:cost", "test/cheap"),
        ("auto:quality", "test/best"),
        ("auto:floor", "test/tiny"),
        ("router/auto:nitro", "test/fast"),
        ("simple", MODEL),
        ("llmrouter/coding", MODEL),
        ("router/reasoning", MODEL),
        ("vision", MODEL),
        ("llmrouter/test/cheap", "test/cheap"),
        ("router/test/unrated", "test/unrated"),
        ("house", "test/cheap"),
        ("gpt-x", "test/cheap"),
        ("finest", "test/best"),
    ],
)
def test_every_name_leads_to_its_model(router: RouterServer, asked: str, model: str) -> None:
    assert answered_by(router.chat(model=asked)) == model


def test_a_category_that_the_client_named_is_certain(router: RouterServer) -> None:
    got = router.chat(model="llmrouter/reasoning")

    assert got.headers["x-llm-router-category"] == "reasoning"
    assert float(got.headers["x-llm-router-confidence"]) == 1


def test_an_image_makes_it_vision(router: RouterServer) -> None:
    image = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    messages = [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, image]}]

    got = router.chat(model="auto:cost", messages=messages)

    assert (got.headers["x-llm-router-category"], answered_by(got)) == ("vision", MODEL)


def test_the_mode_comes_from_the_name_else_the_body_else_the_header(router: RouterServer) -> None:
    header = {"x-llm-router-mode": "floor"}
    assert answered_by(router.chat(headers=header)) == "test/tiny"
    assert answered_by(router.chat(headers=header, router={"mode": "cost"})) == "test/cheap"
    named = router.chat(headers=header, model="auto:quality", router={"mode": "cost"})
    assert answered_by(named) == "test/best"


def test_a_cap_filters_by_the_worst_case_price(router: RouterServer) -> None:
    quote = router.request("POST", "/v1/route", question(max_tokens=100)).json["quote"]
    just_enough = {"x-llm-router-max-cost-usd": str(quote["max_usd"])}
    too_little = f"{Decimal(str(quote['max_usd'])) - Decimal('0.000000001'):f}"
    assert answered_by(router.chat(max_tokens=100, headers=just_enough)) == MODEL
    # The band is drawn around the best of what is left.
    assert (
        answered_by(router.chat(max_tokens=100, router={"max_cost_usd": float(too_little)})) == "test/cheap"
    )


def test_a_cap_that_nothing_meets_is_a_400_that_says_what_the_cheapest_costs(router: RouterServer) -> None:
    got = router.chat(headers={"x-llm-router-max-cost-usd": "0.000000001"})

    assert (got.status, got.error["name"], got.error["param"]) == (400, "no_offer_fits", "max_cost_usd")
    assert "the cap is 0.000000001 USD" in got.error["message"]


def test_allow_and_deny_shut_models_out(router: RouterServer) -> None:
    assert answered_by(router.chat(router={"allow": ["test/t*", "test/c*"]})) == "test/cheap"
    assert answered_by(router.chat(router={"deny": [MODEL]})) == "test/best"
    assert (
        answered_by(router.chat(router={"allow": ["*"], "deny": ["test/g*", "scripted/test/b*"]}))
        == "test/cheap"
    )
    named = router.chat(model=MODEL, router={"deny": ["test/*"]})
    assert (named.status, named.error["param"]) == (400, "model")
