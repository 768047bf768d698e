from dataclasses import replace
from typing import Any

import pytest
from msgspec import structs

from router.catalog.snapshot import Category, Mode, Model, Policy, Price, PriceRule, Snapshot
from router.errors import LimitReached, ModelNotAvailable, NothingFits, RouterError, Unavailable
from router.routing.decide import Blocked, Categorised, Decision, Live, band_points
from router.routing.explain import refusal
from router.routing.need import Need
from tests.unit.parts import (
    FEATURES,
    asked,
    catalog,
    choose,
    lost,
    model,
    need,
    offer,
    sure,
    usd_price,
    winner,
)

UNSURE = Categorised("coding", {"simple": 0.4, "coding": 0.5, "reasoning": 0.1, "vision": 0.0}, 0.5)


def refused(snapshot: Snapshot, wanted: Need, categorised: Categorised | None = None) -> RouterError:
    decision = choose(snapshot, wanted, categorised)
    assert decision.chosen is None
    return refusal(decision)


def reason_of(decision: Decision, name: str) -> tuple[str, str]:
    (found,) = [loser for loser in decision.losers if loser.model == name]
    return found.reason, found.detail


FILTERS: list[tuple[str, Model, Need, str, str, str | None]] = [
    (
        "unusable",
        model("bad", unusable="set ACME_API_KEY"),
        need(),
        "set ACME_API_KEY",
        "No model can be used here yet: set ACME_API_KEY.",
        "model",
    ),
    (
        "denied",
        model("bad"),
        need(deny=("bad",)),
        "in the request's deny list",
        "No offer fits: the request is shut out: in the request's deny list"
        " (globs of model, provider/model or provider:model; GET /v1/models).",
        "model",
    ),
    (
        "no_quality",
        model("bad", None),
        need(),
        "the catalog has no simple quality for it",
        "No offer fits: the request is simple, and no usable model has a simple quality in the catalog.",
        "model",
    ),
    (
        "modality",
        model("bad", input=frozenset({"text"})),
        need(images=1),
        "does not read images",
        "No offer fits: the request needs a model that reads images, and no allowed one does.",
        "messages",
    ),
    (
        "tools",
        model("bad", features=FEATURES - {"tools"}),
        need(tools=True),
        "does not call tools",
        "No offer fits: the request needs a model that calls tools, and no allowed one does.",
        "tools",
    ),
    (
        "json_schema",
        model("bad", features=FEATURES - {"json_schema"}),
        need(json_schema=True),
        "does not answer by a JSON schema",
        "No offer fits: the request needs a model that answers by a JSON schema, and no allowed one does.",
        "response_format",
    ),
    (
        "max_output",
        model("bad", max_output=4_000),
        need(output_tokens=5_000),
        "writes at most 4,000 tokens",
        "No offer fits: the request asks for 5,000 output tokens, the largest allowed model writes 4,000.",
        "max_tokens",
    ),
    (
        "context",
        model("bad", context=200_000),
        need(prompt_tokens=200_000, output_tokens=2_000),
        "needs 212,000 tokens of context, has 200,000",
        "No offer fits: the request needs 212,000 tokens of context, the largest allowed model has 200,000.",
        "messages",
    ),
    (
        "cap",
        model("bad"),
        need(output_tokens=1_000, max_cost_nusd=3_999_999),
        "may cost 0.004 USD, the cap is 0.004 USD",
        "No offer fits: the request may cost 0.004 USD at the cheapest allowed model,"
        " the cap is 0.003999999 USD.",
        "max_cost_usd",
    ),
]


@pytest.mark.parametrize(
    ("reason", "bad", "wanted", "detail", "_text", "_param"), FILTERS, ids=lambda x: str(x)[:12]
)
def test_a_filter_gives_its_reason_and_the_next_offer_is_chosen(
    reason: str, bad: Model, wanted: Need, detail: str, _text: str, _param: str
) -> None:
    able = model("good", context=10**6, price=Price(0, 0, 0, 0), max_output=10**5)
    decision = choose(catalog(bad, able), wanted)
    assert winner(decision) == "good"
    assert reason_of(decision, "bad") == (reason, detail)


@pytest.mark.parametrize(
    ("reason", "bad", "wanted", "_detail", "text", "param"), FILTERS, ids=lambda x: str(x)[:12]
)
def test_a_request_that_never_fits_is_told_what_is_in_the_way(
    reason: str, bad: Model, wanted: Need, _detail: str, text: str, param: str
) -> None:
    error = refused(catalog(bad), wanted)
    assert error.message == text
    assert error.param == param
    assert isinstance(error, ModelNotAvailable if reason == "unusable" else NothingFits)


def test_the_refusal_names_the_largest_window_and_the_reason_that_came_last() -> None:
    wanted = need(prompt_tokens=200_000, output_tokens=2_000, tools=True)
    snapshot = catalog(
        model("small", context=8_000),
        model("large", context=200_000),
        model("huge", context=10**6, features=frozenset()),
    )
    text = refused(snapshot, wanted).message
    assert "needs 212,000 tokens of context, the largest allowed model has 200,000" in text


def test_a_named_model_is_called_by_its_name_in_the_refusal() -> None:
    snapshot = catalog(model("x/a", unusable="set A_KEY"), model("y/b", context=1_000), model("z/c"))
    named = refused(snapshot, need(asked=asked(named="x/a")), Categorised())
    assert (named.status, named.message) == (404, "The model x/a has no usable offer: set A_KEY.")
    assert named.name == "model_not_available"
    small = refused(snapshot, need(asked=asked(named="y/b")), Categorised())
    assert "y/b needs 1,550 tokens of context, the largest allowed model has 1,000" in small.message


def test_an_empty_catalog_says_how_to_fill_it() -> None:
    error = refused(catalog(), need())
    assert error.status == 404
    assert "models_catalog/models" in error.message


# Quality bands and modes.

LADDER = catalog(
    model("top", 90, price=usd_price(20, 80)),
    model("near", 86, price=usd_price(5, 20)),
    model("mid", 78, price=usd_price(1, 4)),
    model("low", 40, price=usd_price(0.01, 0.02), ttft_s=0.1, tok_s=500),
)


@pytest.mark.parametrize(
    ("mode", "chosen", "reason"),
    [
        ("quality", "top", "cheapest_in_band"),
        ("balanced", "near", "cheapest_in_band"),
        ("cost", "mid", "cheapest_in_band"),
        ("floor", "low", "cheapest"),
        ("nitro", "low", "fastest"),
    ],
)
def test_each_mode_has_its_winner(mode: Mode, chosen: str, reason: str) -> None:
    decision = choose(LADDER, need(mode))
    assert (winner(decision), decision.reason) == (chosen, reason)


def test_the_policys_band_goes_before_the_usual_one() -> None:
    narrow: dict[Category, Any] = {"simple": {"quality": 0.0, "balanced": 1.0, "cost": 60.0}}
    ladder = catalog(*LADDER.models.values(), policy=Policy(bands=narrow))
    assert winner(choose(ladder, need("balanced"))) == "top"
    assert winner(choose(ladder, need("cost"))) == "low"
    assert winner(choose(ladder, need("balanced"), sure("coding"))) == "near"
    assert band_points(need("cost"), sure("coding"), Policy()) == 15


def test_behind_the_winner_comes_the_band_then_the_rest_by_quality() -> None:
    decision = choose(LADDER, need("balanced"))
    assert [c.model.id for c in decision.candidates] == ["near", "top", "mid", "low"]
    assert lost(decision) == {"top": "dearer", "mid": "outside_band", "low": "outside_band"}
    assert reason_of(decision, "mid")[1] == "quality 78, the band begins at 85"
    assert reason_of(choose(LADDER, need("nitro")), "mid")[0] == "slower"


def test_of_two_equal_prices_the_faster_wins_and_time_is_worth_money() -> None:
    slow = model("slow", price=usd_price(1, 2), tok_s=10)
    fast = model("fast", price=usd_price(1, 2), tok_s=100)
    decision = choose(catalog(slow, fast))
    assert (winner(decision), lost(decision)) == ("fast", {"slow": "later"})
    dearer = model("fast", price=usd_price(1.001, 2), tok_s=100)
    assert winner(choose(catalog(slow, dearer))) == "fast"
    assert winner(choose(catalog(slow, dearer, policy=Policy(time_value_nusd_per_s=0)))) == "slow"
    assert winner(choose(catalog(slow, dearer), need("floor"))) == "slow"


def test_a_measured_speed_replaces_the_prior() -> None:
    snapshot = catalog(model("a", ttft_s=0.1, tok_s=1_000), model("b", ttft_s=5, tok_s=10))
    live = Live("live1", speeds={("acme", "a"): (9.0, 5.0), ("acme", "b"): (0.2, 300.0)})
    assert winner(choose(snapshot, need("nitro"))) == "a"
    decision = choose(snapshot, need("nitro"), live=live)
    assert (winner(decision), decision.live) == ("b", "live1")


def test_one_fit_is_said_to_be_the_only_one() -> None:
    assert choose(catalog(model("a"))).reason == "only_fit"


# Which quality counts.


def test_unsure_between_texts_the_qualities_are_mixed_by_probability() -> None:
    coder = model("coder", {"simple": 10, "coding": 90, "reasoning": 90, "vision": 0})
    allround = model("allround", {"simple": 80, "coding": 70, "reasoning": 70, "vision": 0})
    snapshot = catalog(coder, allround)
    decision = choose(snapshot, need("quality"), UNSURE)
    assert winner(decision) == "allround"  # 74 against 58
    assert decision.candidates[0].quality == pytest.approx(74)
    certain = structs.replace(UNSURE, confidence=0.6)
    assert winner(choose(snapshot, need("quality"), certain)) == "coder"


def test_with_an_image_text_and_vision_quality_count_half_each() -> None:
    words: dict[Category, float] = {"simple": 0.0, "coding": 1.0, "reasoning": 0.0, "vision": 1.0}
    seen = Categorised("vision", words, 1.0)
    eyes = model("eyes", {"vision": 90, "coding": 20})
    both = model("both", {"vision": 80, "coding": 80})
    decision = choose(catalog(eyes, both), need("quality", images=1), seen)
    assert winner(decision) == "both"
    assert decision.candidates[0].quality == pytest.approx(80)
    named = choose(catalog(eyes, both), need("quality", asked=asked("vision")), sure("vision"))
    assert winner(named) == "eyes"


def test_vision_that_was_named_needs_a_model_that_reads_images() -> None:
    blind = model("blind", input=frozenset({"text"}))
    decision = choose(catalog(blind, model("eyes")), need(asked=asked("vision")), sure("vision"))
    assert (winner(decision), lost(decision)) == ("eyes", {"blind": "modality"})


@pytest.mark.parametrize("mode", ["cost", "balanced", "quality", "nitro", "floor"])
def test_what_is_not_rated_is_never_chosen_by_auto(mode: Mode) -> None:
    free = model("free", {"coding": 99}, price=Price(0, 0, 0, 0), tok_s=10_000)
    decision = choose(catalog(free, model("rated", 5)), need(mode))
    assert (winner(decision), lost(decision)) == ("rated", {"free": "no_quality"})
    assert choose(catalog(free), need(mode)).chosen is None


def test_a_local_model_without_rating_serves_only_when_nothing_rated_fits() -> None:
    local = model("local/m", None, provider="ollama", price=Price(0, 0, 0, 0), local=True, discovered=True)
    remote = model("remote", None, price=Price(0, 0, 0, 0))
    assert winner(choose(catalog(local, remote, model("rated", 5)))) == "rated"
    decision = choose(catalog(local, remote, model("rated", 5, context=10)))
    assert (winner(decision), decision.reason) == ("local/m", "unrated_local")
    assert lost(decision) == {"remote": "no_quality", "rated": "context"}
    assert choose(catalog(local), need(deny=("local/*",))).chosen is None


# Named models and fallbacks.


def test_a_named_model_is_a_pool_of_one_and_its_cheapest_offer_wins() -> None:
    offers = [offer("x", "dear", price=usd_price(9, 9)), offer("x", "cheap", price=usd_price(0.1, 0.1))]
    snapshot = catalog(model("x", None, offers), model("better", 99, price=Price(0, 0, 0, 0)))
    decision = choose(snapshot, need(asked=asked(named="x")), Categorised())
    assert [c.offer.provider for c in decision.candidates] == ["cheap", "dear"]
    assert {c.model.id for c in decision.candidates} == {"x"}
    assert decision.reason == "named"


def test_the_list_of_models_is_tried_after_the_winner_in_its_order() -> None:
    wanted = need("quality", asked=asked(fallbacks=("low", "mid")))
    assert [c.model.id for c in choose(LADDER, wanted).candidates] == ["top", "low", "mid", "near"]
    named = need(asked=asked(named="mid", fallbacks=("low", "top")))
    assert [c.model.id for c in choose(LADDER, named, Categorised()).candidates] == ["mid", "low", "top"]


def test_the_list_serves_when_the_named_model_cannot_and_may_hold_unrated_ones() -> None:
    snapshot = catalog(model("a", unusable="set A_KEY"), model("b", None), model("c", context=10))
    wanted = need(asked=asked(named="a", fallbacks=("c", "b")))
    decision = choose(snapshot, wanted, Categorised())
    assert (winner(decision), decision.reason) == ("b", "fallback_list")
    assert lost(decision) == {"a": "unusable", "c": "context"}


def test_what_most_servers_call_by_some_name_is_a_wish_and_not_a_filter() -> None:
    plain = model("plain", price=usd_price(0.01, 0.01), features=frozenset())
    snapshot = catalog(plain, model("able", price=usd_price(5, 5)))
    assert winner(choose(snapshot, need(json_mode=True))) == "able"
    assert winner(choose(snapshot, need(reasoning=True))) == "able"
    assert winner(choose(snapshot)) == "plain"
    assert winner(choose(catalog(plain), need(json_mode=True, reasoning=True))) == "plain"


def test_among_offers_without_the_wish_the_cheapest_by_a_nano_dollar_is_first() -> None:
    dear = model("a", price=Price(1_001_000, 0, 0, 0), features=frozenset())
    cheap = model("b", price=Price(1_000_000, 0, 0, 0), features=frozenset())
    for least in (1, 1_000):
        assert winner(choose(catalog(dear, cheap), need(json_mode=True, prompt_tokens=least))) == "b"


# Prices, caps and limits.


def test_the_worst_case_is_the_bound_and_the_whole_output_of_every_choice() -> None:
    (candidate,) = choose(catalog(model("a")), need(choices=2)).candidates
    assert candidate.max_nusd == 2_000 * 1_000 + 2 * 8_000 * 2_000
    assert candidate.expected_nusd == 1_000 * 1_000 + 2 * 250 * 2_000
    (candidate,) = choose(catalog(model("a")), need(output_tokens=10)).candidates
    assert candidate.max_nusd == 2_000 * 1_000 + 10 * 2_000
    written = model("a", price=usd_price(1, 2, cache_write=1.25))
    (candidate,) = choose(catalog(written), need(output_tokens=10)).candidates
    assert candidate.max_nusd == 2_000 * 1_250 + 10 * 2_000


@pytest.mark.parametrize(
    ("asks", "policy_tokens", "sent", "held"),
    [
        ({}, None, 8_000, 8_000),
        ({}, 500, 500, 500),
        ({}, 9_000, 8_000, 8_000),
        ({"output_tokens": 600}, 500, 600, 600),
        ({"output_tokens": 10}, None, 10, 10),
        ({"prompt_tokens": 90_000}, None, None, 8_000),  # the window leaves less, and the upstream knows it
        ({"prompt_tokens": 90_000, "output_tokens": 10}, None, 10, 10),
        ({"prompt_tokens": 90_000}, 500, 500, 500),
    ],
)
def test_what_is_held_for_is_what_bounds_the_answer(
    asks: dict[str, int], policy_tokens: int | None, sent: int | None, held: int
) -> None:
    policy = Policy(output_tokens=policy_tokens)
    (candidate,) = choose(catalog(model("a"), policy=policy), need(**asks)).candidates
    assert candidate.output_tokens == sent
    assert candidate.max_nusd == 2_000 * 1_000 + held * 2_000
    assert candidate.expected_nusd <= asks.get("prompt_tokens", 1_000) * 1_000 + held * 2_000


def test_a_cap_that_is_just_met_is_met() -> None:
    assert winner(choose(catalog(model("a")), need(output_tokens=1_000, max_cost_nusd=4_000_000))) == "a"


def test_the_price_of_the_moment_decides() -> None:
    peak = PriceRule(utc=(11 * 60, 13 * 60), multiply_ppm=10_000_000)
    snapshot = catalog(model("peaks", price=usd_price(0.5, 1), when=(peak,)), model("flat"))
    assert winner(choose(snapshot)) == "flat"
    later = need(at=need().at.replace(hour=14))
    assert winner(choose(snapshot, later)) == "peaks"


AT_LIMIT = Blocked("at_limit", 7, "a at acme is at its rpm limit")
COOLING = Blocked("cooling", 9, "b at acme answered 503")


@pytest.mark.parametrize(
    ("blocked", "error", "status", "wait_s"),
    [
        ({("acme", "a"): AT_LIMIT, ("acme", "b"): replace(AT_LIMIT, retry_after_s=3)}, LimitReached, 429, 3),
        ({("acme", "a"): COOLING, ("acme", "b"): COOLING}, Unavailable, 503, 9),
    ],
)
def test_what_only_load_or_health_stops_may_be_tried_again(
    blocked: dict[tuple[str, str], Blocked], error: type[RouterError], status: int, wait_s: int
) -> None:
    snapshot = catalog(model("a"), model("b"), model("never", context=10))
    decision = choose(snapshot, live=Live(blocked=blocked))
    refusal_now = refusal(decision)
    assert decision.chosen is None
    assert isinstance(refusal_now, error)
    assert (refusal_now.status, refusal_now.retry_after_s) == (status, wait_s)
    assert f"try again in {wait_s} s" in refusal_now.message


def test_the_losers_that_could_be_used_here_are_told_before_those_that_could_not() -> None:
    off = model("a", 80, unusable="set A_KEY")
    decision = choose(catalog(off, model("blind", input=frozenset({"text"})), model("eyes")), need(images=1))
    assert [loser.model for loser in decision.losers] == ["blind", "a"]


def test_a_blocked_offer_loses_and_the_next_one_serves() -> None:
    live = Live(blocked={("acme", "a"): AT_LIMIT})
    decision = choose(catalog(model("a"), model("b")), live=live)
    assert winner(decision) == "b"
    assert reason_of(decision, "a") == ("at_limit", AT_LIMIT.detail)


def test_an_offer_that_never_fits_is_not_called_full() -> None:
    live = Live(blocked={("acme", "a"): AT_LIMIT})
    error = refusal(choose(catalog(model("a", context=10)), live=live))
    assert error.status == 400
