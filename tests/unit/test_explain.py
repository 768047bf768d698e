import json
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from router.catalog.snapshot import CATEGORIES, Policy, Price
from router.routing.decide import Categorised, Live
from router.routing.explain import number, record
from router.routing.need import Need, Pinned
from tests.unit.parts import asked, catalog, choose, model, need, offer, sure, usd_price

PROBABILITIES = Categorised("coding", {"simple": 0.1, "coding": 1 / 1.5, "reasoning": 0.2333333}, 1 / 1.5)
CATALOG = catalog(
    model("a", 80, price=usd_price(0.0028, 0.1)),
    model("b", 79, price=usd_price(3, 15)),
    model("c", 10),
    model("d", unusable="set D_KEY"),
)


def said(wanted: Need | None = None, categorised: Categorised = PROBABILITIES) -> dict[str, Any]:
    """Return the record as a client reads it."""
    decision = choose(CATALOG, wanted or need(), categorised, Live("live42"))
    data = msgspec.json.encode(record(decision, "req-1", stripped=True))
    found: dict[str, Any] = json.loads(data, parse_float=Decimal)
    return found


def test_a_record_has_every_field_of_the_contract() -> None:
    found = said()
    assert (
        found.items()
        >= {
            "request_id": "req-1",
            "category": "coding",
            "stripped": True,
            "mode": "balanced",
            "catalog": "0123456789ab",
            "live": "live42",
        }.items()
    )
    assert set(found["probabilities"]) == set(CATEGORIES)
    assert found["probabilities"]["vision"] == 0
    assert found["confidence"] == found["probabilities"]["coding"] == Decimal("0.666667")
    assert set(found["chosen"]) == {"model", "provider", "expected_cost_usd", "expected_seconds", "quality"}
    assert [set(other) for other in found["fallbacks"]] == [set(found["chosen"])] * 2
    assert {(x["model"], x["provider"], x["reason"]) for x in found["losers"]} == {
        ("b", "acme", "dearer"),
        ("c", "acme", "outside_band"),
        ("d", "acme", "unusable"),
    }
    assert all(set(x) == {"model", "provider", "reason", "detail"} for x in found["losers"])
    assert set(found["quote"]) == {"usd", "max_usd"}


def test_the_chosen_offer_and_its_quote_are_exact_numbers() -> None:
    found = said(need(output_tokens=100))
    # 1,000 prompt tokens at 0.0028 and 100 at 0.1 USD per million; worst case 2,000 prompt tokens.
    assert found["chosen"] == {
        "model": "a",
        "provider": "acme",
        "expected_cost_usd": Decimal("0.0000128"),
        "expected_seconds": 2,
        "quality": 80,
    }
    assert found["quote"] == {"usd": Decimal("0.0000128"), "max_usd": Decimal("0.0000156")}


def test_a_named_model_has_no_category() -> None:
    found = said(need(asked=asked(named="b")), Categorised())
    assert (found["category"], found["probabilities"], found["confidence"]) == (None, None, None)
    assert found["chosen"]["model"] == "b"


def test_a_category_that_was_named_has_probability_one() -> None:
    found = said(need(asked=asked("reasoning")), sure("reasoning"))
    assert found["confidence"] == 1
    assert found["probabilities"] == {"simple": 0, "coding": 0, "reasoning": 1, "vision": 0}


def test_without_a_winner_the_losers_stay_and_there_is_no_quote() -> None:
    found = said(need(deny=("*",)))
    assert (found["chosen"], found["quote"], found["fallbacks"]) == (None, None, [])
    assert {x["model"] for x in found["losers"]} == {"a", "b", "c", "d"}


def test_a_free_offer_costs_zero() -> None:
    decision = choose(catalog(model("free", price=Price(0, 0, 0, 0))))
    found = json.loads(msgspec.json.encode(record(decision, "r", stripped=False)))
    assert found["quote"] == {"usd": 0, "max_usd": 0}


@given(st.integers(0, 2**63))
def test_an_amount_is_a_json_number_of_exactly_that_value(nusd: int) -> None:
    data = msgspec.json.encode({"usd": number(nusd)})
    assert json.loads(data, parse_float=Decimal, parse_int=Decimal)["usd"] * 10**9 == nusd


def test_a_conversation_that_stays_moves_or_cannot_stay_is_said() -> None:
    def session(last: str, snapshot_need: Need) -> Any:
        pinned = Pinned(last, "acme", last, 500, "coding")
        return said(structs.replace(snapshot_need, pinned=pinned))["session"]

    stayed = session("a", need())
    assert stayed == {
        "model": "a",
        "provider": "acme",
        "cached_tokens": 500,
        "floor": "coding",
        "outcome": "stayed",
    }
    assert session("b", need())["outcome"] == "moved"
    assert session("d", need())["outcome"] == "unfit"
    assert session("gone", need())["outcome"] == "unfit"
    assert said()["session"] is None


def test_savings_are_measured_at_the_baselines_cheapest_usable_offer() -> None:
    offers = [
        offer("base", "off", price=usd_price(1, 1), unusable="set A_KEY"),
        offer("base", "dear", price=usd_price(9, 9)),
        offer("base", "fair", price=usd_price(4, 8, 0.4)),
    ]
    snapshot = catalog(
        model("cheap", price=usd_price(1, 2, 0.1)),
        model("base", None, offers),
        policy=Policy(baseline="base", markup_ppm=2_000_000),
    )
    found = record(choose(snapshot, need(output_tokens=100)), "r", stripped=False)["baseline"]
    # 1,000 in and 100 out at 4 and 8, against 1 and 2 USD per million, twice for the markup.
    assert json.loads(msgspec.json.encode(found)) == {
        "model": "base",
        "expected_cost_usd": 0.0096,
        "saved_usd": 0.0072,
    }
    talk = need(output_tokens=100, pinned=Pinned("cheap", "acme", "cheap", 500, None))
    cached = record(choose(snapshot, talk), "r", stripped=False)["baseline"]
    assert json.loads(msgspec.json.encode(cached))["expected_cost_usd"] == 0.006


def test_without_a_baseline_there_are_no_savings_and_a_dear_choice_saves_less_than_nothing() -> None:
    assert said()["baseline"] is None
    named = need(asked=asked(named="b"), output_tokens=100)
    snapshot = catalog(*CATALOG.models.values(), policy=Policy(baseline="a"))
    dear = record(choose(snapshot, named, Categorised()), "r", stripped=False)["baseline"]
    assert json.loads(msgspec.json.encode(dear))["saved_usd"] == pytest.approx(0.0000128 - 0.0045)
