import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from router.catalog.price import Tokens
from router.catalog.snapshot import Policy, PriceRule
from router.upstream.usage import Bill, Delivered, Meter
from tests.unit.parts import AT, offer, usd_price

OFFER = offer(price=usd_price(1, 2, 0.5, 1.5), context=10_000)


def meter(**changes: Any) -> Meter:
    usual: dict[str, Any] = {
        "offer": OFFER,
        "policy": Policy(),
        "at": AT,
        "prompt_tokens": 40,
        "choices": 1,
    }
    return Meter(**{**usual, **changes})


def bill(reported: Any, delivered: Delivered | None = None, **changes: Any) -> Bill:
    raw = reported if isinstance(reported, bytes) else json.dumps(reported).encode()
    return meter(**changes).bill(Raw(raw), delivered or Delivered(7))


def shown(found: Bill) -> dict[str, Any]:
    usage: dict[str, Any] = json.loads(bytes(found.usage), parse_float=Decimal)
    return usage


def test_a_believable_usage_is_billed_and_passed_on_with_its_cost() -> None:
    reported = {
        "prompt_tokens": 100,
        "completion_tokens": 10,
        "total_tokens": 110,
        "completion_tokens_details": {"reasoning_tokens": 3},
        "x_groq": {"id": "é"},
    }
    found = bill(reported)
    assert (found.tokens, found.estimated) == (Tokens(100, 10), False)
    assert found.charge_nusd == found.upstream_nusd == 120_000
    assert shown(found) == {**reported, "cost": Decimal("0.00012")}


def test_an_upstreams_own_cost_is_replaced() -> None:
    assert shown(bill({"prompt_tokens": 1, "completion_tokens": 1, "cost": 99}))["cost"] == Decimal(
        "0.000003"
    )


def thinking(tokens: Any) -> dict[str, Any]:
    return {"completion_tokens_details": {"reasoning_tokens": tokens}}


@pytest.mark.parametrize(
    ("more", "completion"),
    [
        ({"total_tokens": 427} | thinking(317), 327),  # xAI: beside the completion
        ({"total_tokens": 427}, 327),  # Google: in the total alone
        ({"total_tokens": 110} | thinking(7), 10),  # OpenAI: in the completion
        ({"total_tokens": 427} | thinking(7), 17),  # no more than is named
        ({"total_tokens": 427} | thinking(0), 10),
        ({"total_tokens": 427} | thinking(-1), 10),
        ({"total_tokens": 427} | thinking("many"), 327),  # no word on them
        ({"total_tokens": 427, "completion_tokens_details": None}, 327),
        ({"total_tokens": 427, "completion_tokens_details": [1]}, 327),
        ({} | thinking(317), 10),
        ({"total_tokens": 90} | thinking(317), 10),
        ({"total_tokens": 10**9} | thinking(317), 10),
        ({"total_tokens": 30_000}, 10),  # more than the model can write
        ({"total_tokens": 150, "prompt_tokens_details": {"cached_tokens": 40}}, 10),  # beside the prompt
        (
            {
                "total_tokens": 130,
                "prompt_tokens_details": {"cached_tokens": 40, "cache_write_tokens": 20},
            },
            10,
        ),
        ({"total_tokens": 150, "prompt_cache_hit_tokens": 40}, 10),
        (
            {
                "total_tokens": 170,
                "prompt_tokens_details": {"cached_tokens": 40, "cache_write_tokens": 20},
            },
            10,
        ),
    ],
)
def test_thoughts_that_stand_beside_the_completion_are_output_and_charged(
    more: dict[str, Any], completion: int
) -> None:
    found = bill({"prompt_tokens": 100, "completion_tokens": 10, **more})
    assert (found.tokens.prompt, found.tokens.completion, found.estimated) == (100, completion, False)
    usage = shown(found)
    assert usage["completion_tokens"] == completion
    assert usage["cost"] * 10**9 == found.charge_nusd
    cached = found.tokens.cached * 500 + found.tokens.written * -500
    assert found.charge_nusd == found.upstream_nusd == 100_000 + completion * 2_000 - cached


@pytest.mark.parametrize("total", [{}, {"total_tokens": None}])
def test_a_missing_total_is_filled_in(total: dict[str, Any]) -> None:
    assert shown(bill({"prompt_tokens": 100, "completion_tokens": 10, **total}))["total_tokens"] == 110


@pytest.mark.parametrize(
    ("details", "tokens", "nusd"),
    [
        ({"prompt_tokens_details": {"cached_tokens": 40}}, Tokens(100, 1, 40), 82_000),
        ({"prompt_cache_hit_tokens": 40}, Tokens(100, 1, 40), 82_000),
        (
            {"prompt_tokens_details": {"cached_tokens": 40, "cache_write_tokens": 20}},
            Tokens(100, 1, 40, 20),
            92_000,
        ),
        ({"prompt_tokens_details": {"cached_tokens": 900}}, Tokens(100, 1, 100), 52_000),
        (
            {"prompt_tokens_details": {"cached_tokens": 90, "cache_write_tokens": 90}},
            Tokens(100, 1, 90, 10),
            62_000,
        ),
        ({"prompt_tokens_details": {"cached_tokens": -5, "cache_write_tokens": -5}}, Tokens(100, 1), 102_000),
        ({"prompt_tokens_details": {"cached_tokens": None}}, Tokens(100, 1), 102_000),
        ({"prompt_tokens_details": None}, Tokens(100, 1), 102_000),
    ],
)
def test_cached_tokens_are_part_of_the_prompt(details: dict[str, Any], tokens: Tokens, nusd: int) -> None:
    found = bill({"prompt_tokens": 100, "completion_tokens": 1, **details})
    assert (found.tokens, found.charge_nusd) == (tokens, nusd)


@pytest.mark.parametrize(
    "reported",
    [
        None,
        {},
        [],
        "many",
        5,
        {"prompt_tokens": 1},
        {"completion_tokens": 1},
        {"prompt_tokens": -1, "completion_tokens": 1},
        {"prompt_tokens": 1, "completion_tokens": -1},
        {"prompt_tokens": 10**30, "completion_tokens": 1},
        {"prompt_tokens": 1, "completion_tokens": 10**30},
        {"prompt_tokens": 1, "completion_tokens": 20_001},
        {"prompt_tokens": "1", "completion_tokens": 1},
        {"prompt_tokens": 1.5, "completion_tokens": 1},
        {"prompt_tokens": True, "completion_tokens": 1},
        {"prompt_tokens": None, "completion_tokens": None},
        b'{"prompt_tokens":1,"completion_tokens":1e999}',
    ],
)
def test_what_cannot_be_true_is_replaced_by_an_estimate_of_what_was_delivered(reported: Any) -> None:
    found = bill(reported)
    assert (found.tokens, found.estimated) == (Tokens(40, 7), True)
    assert shown(found) == {
        "prompt_tokens": 40,
        "completion_tokens": 7,
        "total_tokens": 47,
        "cost": Decimal("0.000054"),
    }


@pytest.mark.parametrize("reported", [None, Raw(b'{"prompt_tokens":40,"completion_tokens":0}')])
def test_an_answer_of_no_token_costs_the_customer_nothing(reported: Raw | None) -> None:
    found = meter().bill(reported, Delivered())
    assert (found.tokens, found.charge_nusd, found.upstream_nusd) == (Tokens(40, 0), 0, 40_000)
    assert shown(found)["cost"] == 0


def test_a_report_of_no_token_where_some_were_delivered_is_not_believed() -> None:
    found = bill({"prompt_tokens": 100, "completion_tokens": 0})
    assert (found.tokens, found.estimated) == (Tokens(40, 7), True)


@pytest.mark.parametrize("completion", [1, 5, 900])
def test_of_an_answer_that_is_not_whole_what_was_delivered_is_billed(completion: int) -> None:
    reported = {"prompt_tokens": 100, "completion_tokens": completion, "x_groq": 1}
    found = meter().bill(Raw(json.dumps(reported).encode()), Delivered(7), whole=False)
    assert (found.tokens, found.charge_nusd, found.estimated) == (Tokens(100, 7), 114_000, True)
    assert shown(found) == {
        "prompt_tokens": 100,
        "completion_tokens": 7,
        "total_tokens": 107,
        "cost": Decimal("0.000114"),
    }


TIERED = (PriceRule(above_input=50, input=10_000_000),)


@given(
    tokens=st.integers(1, 10_000),
    prompt=st.integers(0, 20_000),
    changes=st.fixed_dictionaries(
        {},
        optional={
            "policy": st.builds(Policy, markup_ppm=st.integers(1, 3_000_000)),
            "most_nusd": st.integers(0, 10_000_000),
            "offer": st.sampled_from(
                [
                    offer(price=usd_price(0.0028, 0.07, 0.001), charge=usd_price(1.234567, 7.654321)),
                    offer(price=usd_price(1, 2), when=TIERED, context=10_000),
                ]
            ),
        },
    ),
)
def test_the_tariff_of_a_growing_answer_says_what_its_bill_would(
    tokens: int, prompt: int, changes: dict[str, Any]
) -> None:
    of = meter(prompt_tokens=prompt, **changes)
    billed, tariff = of.bill(None, Delivered(tokens)), of.tariff()
    assert tariff.prompt_tokens == billed.tokens.prompt
    assert (tariff.charge_nusd(tokens), tariff.cost_nusd(tokens)) == (
        billed.charge_nusd,
        billed.upstream_nusd,
    )


def test_an_estimated_prompt_is_never_larger_than_the_window() -> None:
    assert meter(prompt_tokens=10**9).bill(None, Delivered()).tokens.prompt == 10_000


def test_several_choices_may_write_more_than_one_window() -> None:
    reported = {"prompt_tokens": 1, "completion_tokens": 50_000}
    assert bill(reported).estimated
    assert not bill(reported, choices=3).estimated


def test_markup_is_the_customers_and_not_the_upstreams() -> None:
    found = bill({"prompt_tokens": 100, "completion_tokens": 10}, policy=Policy(markup_ppm=1_500_000))
    assert (found.upstream_nusd, found.charge_nusd) == (120_000, 180_000)
    assert shown(found)["cost"] == Decimal("0.00018")


def test_no_more_than_was_agreed_is_charged_whatever_is_reported() -> None:
    found = bill({"prompt_tokens": 10_000, "completion_tokens": 10_000}, most_nusd=5_000)
    assert (found.charge_nusd, found.upstream_nusd) == (5_000, 30_000_000)
    assert shown(found)["cost"] == Decimal("0.000005")


def test_the_price_is_that_of_the_admission_and_of_the_reported_prompt() -> None:
    tiers = offer(price=usd_price(1, 2), when=(PriceRule(above_input=50, input=10_000_000),))
    assert bill({"prompt_tokens": 50, "completion_tokens": 1}, offer=tiers).charge_nusd == 52_000
    assert bill({"prompt_tokens": 51, "completion_tokens": 1}, offer=tiers).charge_nusd == 512_000


@pytest.mark.parametrize(
    ("sizes", "tokens"),
    [([], 0), ([4], 1), ([4] * 9, 9), ([15], 1), ([16], 4), ([400], 100), ([1, 401], 102), ([0, 0], 0)],
)
def test_short_deltas_are_a_token_each_and_long_ones_several(sizes: list[int], tokens: int) -> None:
    delivered = Delivered()
    for size in sizes:
        delivered.add(size)
    assert delivered.tokens == tokens


@given(st.lists(st.integers(1, 500)), st.integers(1, 500))
def test_more_that_was_delivered_is_never_fewer_tokens(sizes: list[int], more: int) -> None:
    delivered = Delivered()
    for size in sizes:
        delivered.add(size)
    before = delivered.tokens
    delivered.add(more)
    assert delivered.tokens > before >= len(sizes)


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
counts = st.integers(-(10**6), 10**6) | json_like
usages = st.fixed_dictionaries(
    {},
    optional={
        "prompt_tokens": counts,
        "completion_tokens": counts,
        "total_tokens": counts,
        "prompt_cache_hit_tokens": counts,
        "prompt_tokens_details": st.fixed_dictionaries({}, optional={"cached_tokens": counts}) | json_like,
        "completion_tokens_details": st.fixed_dictionaries({}, optional={"reasoning_tokens": counts})
        | json_like,
        "other": json_like,
    },
)


@given(usages | json_like)
def test_any_usage_ends_in_a_bill_that_adds_up(reported: Any) -> None:
    found = bill(reported)
    usage, tokens = shown(found), found.tokens
    assert usage["prompt_tokens"] == tokens.prompt
    assert usage["completion_tokens"] == tokens.completion
    assert usage["cost"] * 10**9 == found.charge_nusd >= 0
    assert 0 <= tokens.cached + tokens.written <= tokens.prompt <= 20_000
    assert 0 <= tokens.completion <= 20_000


@pytest.mark.parametrize(
    ("asked", "lost", "cost"), [(None, 0, 120_000), (500, 0, 500), (0, 7, 7), (None, 7, 120_007)]
)
def test_what_the_wallet_paid_is_the_cost_and_no_part_of_the_charge(
    asked: int | None, lost: int, cost: int
) -> None:
    paid = meter(prompt_tokens=100, asked_nusd=asked, lost_nusd=lost)
    found = paid.bill(Raw(b'{"prompt_tokens": 100, "completion_tokens": 10}'), Delivered(10))
    assert (found.upstream_nusd, found.charge_nusd) == (cost, 120_000)
    assert (paid.tariff().cost_nusd(10), paid.tariff().charge_nusd(10)) == (cost, 120_000)
