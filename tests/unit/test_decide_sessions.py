"""What a decision takes from the conversation, from what was learned, and from the day it is made on."""

from dataclasses import replace
from datetime import timedelta

import pytest
from msgspec import structs

from router.catalog.snapshot import Category, Mode, Policy, PriceRule
from router.routing.decide import Categorised, Decision, Live
from router.routing.explain import refusal
from router.routing.need import Need, Pinned
from tests.unit.parts import (
    AT,
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

SIMPLE = Categorised("simple", {"simple": 0.8, "coding": 0.15, "reasoning": 0.05, "vision": 0.0}, 0.8)


def pinned(
    name: str, cached_tokens: int = 0, floor: Category | None = None, provider: str = "acme"
) -> Pinned:
    return Pinned(name, provider, name, cached_tokens, floor)


def after(last: Pinned, decision_of: list[tuple[str, float]], mode: Mode = "balanced") -> Decision:
    """Decide in a conversation between models at these prices; 2 USD a million is the usual output."""
    models = [
        model(name, price=usd_price(dollars, 2 * dollars, dollars / 10)) for name, dollars in decision_of
    ]
    snapshot = catalog(*models, policy=Policy(time_value_nusd_per_s=0))
    return choose(snapshot, need(mode, pinned=last))


def test_a_conversation_stays_while_another_is_less_than_a_tenth_cheaper() -> None:
    decision = after(pinned("a"), [("a", 1.0), ("b", 0.91)])
    assert (winner(decision), decision.reason) == ("a", "session")
    assert lost(decision) == {"b": "session"}
    moved = after(pinned("a"), [("a", 1.0), ("b", 0.9)])
    assert (winner(moved), moved.reason) == ("b", "cheapest_in_band")
    assert lost(moved) == {"a": "dearer"}


def test_what_would_be_lost_of_the_cache_counts_for_staying() -> None:
    # 1,000 tokens in, 250 out: 1.5 mUSD anew at 1 USD; with 900 cached at a tenth, 0.69 mUSD.
    assert winner(after(pinned("a", 900), [("a", 1.0), ("b", 0.5)])) == "a"
    assert winner(after(pinned("a", 900), [("a", 1.0), ("b", 0.4)])) == "b"
    assert winner(after(pinned("a", 0), [("a", 1.0), ("b", 0.5)])) == "b"
    staying = after(pinned("a", 900), [("a", 1.0), ("b", 0.5)]).chosen
    assert staying is not None
    assert staying.expected_nusd == 100 * 1_000 + 900 * 100 + 250 * 2_000
    assert staying.max_nusd == 2_000 * 1_000 + 8_000 * 2_000  # the cache may be gone


def test_more_than_the_prompt_is_never_cached() -> None:
    chosen = after(pinned("a", 10**9), [("a", 1.0)]).chosen
    assert chosen is not None
    assert chosen.expected_nusd == 1_000 * 100 + 250 * 2_000


def test_who_is_cheapest_anyway_did_not_win_by_the_session() -> None:
    assert after(pinned("a"), [("a", 1.0), ("b", 1.2)]).reason == "cheapest_in_band"


def test_a_conversation_does_not_stay_where_the_request_does_not_fit_or_below_the_band() -> None:
    a = model("a", 80, price=usd_price(1, 2))
    b = model("b", 80, price=usd_price(0.95, 1.9))
    last = need(pinned=pinned("a"))
    assert winner(choose(catalog(a, b), last)) == "a"
    for unfit in (
        replace(a, quality={"simple": 74.0}),
        replace(a, offers=(replace(a.offers[0], unusable="set A_KEY"),)),
        replace(a, offers=(replace(a.offers[0], context=100),)),
    ):
        assert winner(choose(catalog(unfit, b), last)) == "b"
    assert winner(choose(catalog(b), last)) == "b"  # gone from the catalog
    plain = replace(a, offers=(replace(a.offers[0], features=FEATURES - {"json_schema", "json_mode"}),))
    assert winner(choose(catalog(plain, b), structs.replace(last, json_mode=True))) == "b"


def test_a_named_model_stays_at_the_provider_that_has_the_conversation() -> None:
    offers = [
        offer("x", "one", price=usd_price(1, 2, 0.1)),
        offer("x", "two", price=usd_price(0.9, 1.8, 0.9)),
    ]
    wanted = need(asked=asked(named="x"), pinned=pinned("x", 900, provider="one"))
    decision = choose(catalog(model("x", None, offers)), wanted, Categorised())
    assert decision.reason == "session"
    assert [c.offer.provider for c in decision.candidates] == ["one", "two"]


@pytest.mark.parametrize(("mode", "moves"), [("nitro", "fast"), ("floor", "slow")])
def test_staying_is_measured_by_what_the_mode_makes_small(mode: Mode, moves: str) -> None:
    slow = model("slow", price=usd_price(1, 1), tok_s=10)
    fast = model("fast", price=usd_price(5, 5), tok_s=100)
    for last in ("slow", "fast"):
        assert winner(choose(catalog(slow, fast), need(mode, pinned=pinned(last)))) == moves


# The category never falls below the conversation's.

CODER = model("coder", {"simple": 10, "coding": 90})
TALKER = model("talker", {"simple": 90, "coding": 10})


def test_what_looks_simple_in_a_conversation_about_code_is_code() -> None:
    decision = choose(catalog(CODER, TALKER), need("quality", pinned=pinned("gone", 0, "coding")), SIMPLE)
    assert winner(decision) == "coder"
    assert decision.categorised.category == "coding"
    assert decision.categorised.confidence == pytest.approx(0.95)
    assert winner(choose(catalog(CODER, TALKER), need("quality"), SIMPLE)) == "talker"


@pytest.mark.parametrize("floor", [None, "simple"])
def test_without_a_harder_category_behind_it_simple_is_simple(floor: Category | None) -> None:
    wanted = need("quality", pinned=pinned("gone", 0, floor))
    assert choose(catalog(CODER, TALKER), wanted, SIMPLE).categorised == SIMPLE


def test_coding_and_reasoning_are_beside_each_other() -> None:
    wanted = need(pinned=pinned("gone", 0, "reasoning"))
    found = Categorised("coding", {"simple": 0.1, "coding": 0.7, "reasoning": 0.2, "vision": 0.0}, 0.7)
    used = choose(catalog(model()), wanted, found).categorised
    assert (used.category, used.confidence) == ("coding", 0.7)


def test_a_category_that_the_client_names_is_left_alone() -> None:
    wanted = need(asked=asked("simple"), pinned=pinned("gone", 0, "coding"))
    assert choose(catalog(model()), wanted, sure("simple")).categorised == sure("simple")


def test_the_text_beside_an_image_is_judged_as_the_conversation() -> None:
    words: dict[Category, float] = {"simple": 1.0, "coding": 0.0, "reasoning": 0.0, "vision": 1.0}
    wanted = need("quality", images=1, pinned=pinned("gone", 0, "coding"))
    seeing = catalog(
        replace(CODER, quality={**CODER.quality, "vision": 50}),
        replace(TALKER, quality={**TALKER.quality, "vision": 50}),
    )
    decision = choose(seeing, wanted, Categorised("vision", words, 1.0))
    assert (winner(decision), decision.categorised.category) == ("coder", "vision")


# What was learned.


def test_the_learned_length_of_answers_goes_before_the_policys() -> None:
    writes = model("writes", price=usd_price(1, 2))
    reads = model("reads", price=usd_price(0.1, 4))
    snapshot = catalog(writes, reads, policy=Policy(expected_output_tokens={"simple": 100}))
    assert winner(choose(snapshot)) == "reads"
    assert winner(choose(snapshot, live=Live("l", output_tokens={"simple": 3_000}))) == "writes"
    assert winner(choose(snapshot, live=Live("l", output_tokens={"coding": 3_000}))) == "reads"
    bounded = need(output_tokens=50)
    assert winner(choose(snapshot, bounded, live=Live("l", output_tokens={"simple": 3_000}))) == "reads"


# Ties.


def test_within_two_percent_the_better_model_wins_and_its_rival_says_so() -> None:
    good = model("good", 80, price=usd_price(1.015, 2.03))
    cheap = model("cheap", 78, price=usd_price(1, 2))
    decision = choose(catalog(cheap, good, policy=Policy(time_value_nusd_per_s=0)))
    assert (winner(decision), lost(decision)) == ("good", {"cheap": "tie"})
    dear = model("good", 80, price=usd_price(1.025, 2.05))
    assert winner(choose(catalog(cheap, dear, policy=Policy(time_value_nusd_per_s=0)))) == "cheap"


def test_the_cheapest_and_the_fastest_are_meant_to_the_last_nano_dollar() -> None:
    good = model("good", 80, price=usd_price(1.001, 2), tok_s=100.1)
    cheap = model("cheap", 78, price=usd_price(1, 2), tok_s=100)
    assert winner(choose(catalog(cheap, good), need("floor"))) == "cheap"
    assert winner(choose(catalog(cheap, good), need("nitro"))) == "good"


# Forced tools and retirement.


def test_who_cannot_be_forced_to_call_a_tool_comes_last() -> None:
    free = model("free", 90, price=usd_price(0.1, 0.1))
    forced = model("forced", 50, price=usd_price(5, 5), features=FEATURES | {"forced_tools"})
    wanted = need(tools=True, forced_tools=True)
    decision = choose(catalog(free, forced), wanted)
    assert [c.model.id for c in decision.candidates] == ["forced", "free"]
    assert lost(decision) == {"free": "forced_tools"}
    assert winner(choose(catalog(free, forced), need(tools=True))) == "free"
    assert winner(choose(catalog(free), wanted)) == "free"


def test_a_model_serves_until_the_day_of_its_retirement() -> None:
    old = replace(model("old", 90), retires=AT.date() + timedelta(days=1))
    snapshot = catalog(old, model("new", 50))

    def on(days: int) -> Need:
        return need(at=AT + timedelta(days=days))

    assert winner(choose(snapshot, on(0))) == "old"
    last_moment = need(at=AT.replace(hour=23, minute=59, second=59))
    assert winner(choose(snapshot, last_moment)) == "old"
    decision = choose(snapshot, on(1))
    assert (winner(decision), lost(decision)) == ("new", {"old": "unusable"})
    gone = refusal(choose(catalog(old), structs.replace(on(1), asked=asked(named="old")), Categorised()))
    assert gone.message == f"The model old has no usable offer: retired on {old.retires}."


def test_the_worst_case_of_a_tier_that_is_cheaper_above_is_below_it() -> None:
    rule = PriceRule(above_input=1_500, multiply_ppm=100_000)
    (candidate,) = choose(catalog(model("a", when=(rule,))), need(output_tokens=10)).candidates
    assert candidate.max_nusd == 1_500 * 1_000 + 10 * 2_000
