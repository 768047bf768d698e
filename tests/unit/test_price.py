from datetime import UTC, datetime, timedelta, timezone
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.catalog.price import Tokens, charge_nusd, cost_nusd, price_at, worst_nusd
from router.catalog.snapshot import Policy, Price, PriceRule
from tests.unit.parts import AT, offer, rules, usd_price

USUAL = usd_price(1, 2, 0.5, 1.5)
DOUBLE = Price(*(2 * p for p in (USUAL.input, USUAL.output, USUAL.cache_read, USUAL.cache_write)))
WEDNESDAY = datetime(2026, 11, 18, tzinfo=UTC)
TWICE = 2_000_000


def at(text: str, day: int = 0) -> datetime:
    """Return a time of the week of Wednesday 2026-11-18, `day` days later."""
    hour, minute = text.split(":")
    return WEDNESDAY + timedelta(days=day, hours=int(hour), minutes=int(minute))


def minutes(window: str) -> tuple[int, int]:
    start, end = (part.split(":") for part in window.split("-"))
    return int(start[0]) * 60 + int(start[1]), int(end[0]) * 60 + int(end[1])


def test_without_rules_the_price_is_the_price() -> None:
    assert price_at(rules(), AT, 10**9) == USUAL


@pytest.mark.parametrize(("tokens", "price"), [(0, 1), (200_000, 1), (200_001, 1.6), (500_001, 9)])
def test_a_tier_begins_above_its_number_of_tokens(tokens: int, price: float) -> None:
    tiers = rules(
        PriceRule(above_input=200_000, input=1_600_000), PriceRule(above_input=500_000, input=9_000_000)
    )
    assert price_at(tiers, AT, tokens) == usd_price(price, 2, 0.5, 1.5)


@pytest.mark.parametrize(
    ("window", "moment", "inside"),
    [
        ("01:00-04:00", "00:59", False),
        ("01:00-04:00", "01:00", True),
        ("01:00-04:00", "03:59", True),
        ("01:00-04:00", "04:00", False),
        ("00:00-24:00", "23:59", True),
        ("22:00-02:00", "21:59", False),
        ("22:00-02:00", "22:00", True),
        ("22:00-02:00", "00:00", True),
        ("22:00-02:00", "01:59", True),
        ("22:00-02:00", "02:00", False),
    ],
)
def test_a_window_of_the_day(window: str, moment: str, inside: bool) -> None:
    night = rules(PriceRule(utc=minutes(window), multiply_ppm=TWICE))
    assert price_at(night, at(moment), 1) == (DOUBLE if inside else USUAL)


@pytest.mark.parametrize(
    ("moment", "day", "inside"),
    [
        ("23:00", 2, True),  # Friday
        ("01:00", 3, True),  # Saturday, in the window that began on Friday
        ("23:00", 3, False),  # Saturday
        ("01:00", 4, False),
        ("23:00", 4, False),  # Sunday
        ("01:00", 5, False),  # Monday, in the window that began on Sunday
        ("23:00", 5, True),  # Monday
    ],
)
def test_over_midnight_the_day_of_the_windows_start_counts(moment: str, day: int, inside: bool) -> None:
    weekdays = frozenset(range(5))
    night = rules(PriceRule(utc=minutes("22:00-02:00"), days=weekdays, multiply_ppm=TWICE))
    assert price_at(night, at(moment, day), 1) == (DOUBLE if inside else USUAL)


@pytest.mark.parametrize(("day", "inside"), [(2, False), (3, True), (4, True), (5, False)])
def test_days_without_a_window_are_whole_days(day: int, inside: bool) -> None:
    weekend = rules(PriceRule(days=frozenset({5, 6}), multiply_ppm=TWICE))
    for moment in ("00:00", "12:00", "23:59"):
        assert price_at(weekend, at(moment, day), 1) == (DOUBLE if inside else USUAL)


def test_a_scheduled_price_holds_from_its_first_moment_wherever_the_clock_is() -> None:
    soon = rules(PriceRule(starts=at("12:00"), multiply_ppm=TWICE))
    assert price_at(soon, at("12:00") - timedelta(microseconds=1), 1) == USUAL
    assert price_at(soon, at("12:00"), 1) == DOUBLE
    assert price_at(soon, at("12:00").astimezone(timezone(timedelta(hours=9))), 1) == DOUBLE


def test_every_condition_of_a_rule_must_hold() -> None:
    rule = PriceRule(above_input=10, utc=minutes("01:00-02:00"), starts=at("00:00"), multiply_ppm=TWICE)
    assert price_at(rules(rule), at("01:30"), 11) == DOUBLE
    assert price_at(rules(rule), at("01:30"), 10) == USUAL
    assert price_at(rules(rule), at("02:30"), 11) == USUAL
    assert price_at(rules(rule), at("01:30", day=-1), 11) == USUAL


def test_the_later_rule_wins_for_each_price_by_itself() -> None:
    both = rules(PriceRule(input=7, output=8), PriceRule(input=9, cache_read=1))
    assert price_at(both, AT, 1) == Price(9, 8, 1, USUAL.cache_write)


def test_a_factor_scales_what_earlier_rules_and_the_rule_itself_say() -> None:
    both = rules(PriceRule(input=7), PriceRule(output=3, multiply_ppm=TWICE))
    assert price_at(both, AT, 1) == Price(14, 6, 1_000_000, 3_000_000)


def test_a_factor_never_rounds_down() -> None:
    third = rules(PriceRule(multiply_ppm=333_333), price=Price(1, 10, 0, 3))
    assert price_at(third, AT, 1) == Price(1, 4, 0, 1)


prices = st.builds(Price, *[st.integers(0, 10**9)] * 4)
tokens = st.builds(
    lambda plain, cached, written, completion: Tokens(plain + cached + written, completion, cached, written),
    *[st.integers(0, 10**8)] * 4,
)
factors = st.integers(0, 100_000_000)


def exact_nusd(price: Price, used: Tokens, ppm: int) -> Fraction:
    pusd = (
        (used.prompt - used.cached - used.written) * price.input
        + used.cached * price.cache_read
        + used.written * price.cache_write
        + used.completion * price.output
    )
    return Fraction(pusd * ppm, 1_000_000 * 1_000)


@given(prices, tokens, factors)
def test_a_cost_is_rounded_up_once_by_less_than_a_nano_dollar(price: Price, used: Tokens, ppm: int) -> None:
    exact = exact_nusd(price, used, ppm)
    assert exact <= cost_nusd(price, used, ppm) < exact + 1


@given(prices, tokens, factors)
def test_the_charge_is_the_upstream_cost_times_the_markup(price: Price, used: Tokens, ppm: int) -> None:
    policy = Policy(markup_ppm=ppm)
    exact = exact_nusd(price, used, ppm)
    assert exact <= charge_nusd(offer(price=price), policy, AT, used) < exact + 1


def test_an_offers_own_charge_knows_no_markup_and_no_rules() -> None:
    sold = offer(charge=usd_price(10, 20), when=(PriceRule(multiply_ppm=TWICE),))
    assert charge_nusd(sold, Policy(markup_ppm=5_000_000), AT, Tokens(1_000, 100)) == 12_000_000


def test_cached_and_written_tokens_have_their_own_price() -> None:
    # 600 plain at 1, 300 read at 0.5, 100 written at 1.5, 10 out at 2 USD per million.
    assert cost_nusd(USUAL, Tokens(1_000, 10, cached=300, written=100)) == 920_000
    assert cost_nusd(Price(1, 1, 1, 1), Tokens(1, 0)) == 1
    assert cost_nusd(USUAL, Tokens(0, 0)) == 0


@given(prices, tokens, st.integers(0, 10**8), st.integers(0, 10**8))
def test_the_worst_case_covers_every_part_of_it(
    price: Price, used: Tokens, threshold: int, more: int
) -> None:
    tiered = offer(price=price, when=(PriceRule(above_input=threshold, multiply_ppm=500_000),))
    for sold in (offer(price=price), tiered, offer(charge=price)):
        policy = Policy(markup_ppm=1_234_567)
        most = worst_nusd(sold, policy, AT, Tokens(used.prompt + more, used.completion))
        assert charge_nusd(sold, policy, AT, used) <= most
