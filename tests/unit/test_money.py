import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.ledger.money import MAX_NUSD, nusd_to_usd, usd_to_nusd
from router.ledger.rows import utc_text

amounts = st.integers(min_value=-MAX_NUSD, max_value=MAX_NUSD)


@given(amounts)
def test_text_and_integer_are_the_same_amount(nusd: int) -> None:
    assert usd_to_nusd(nusd_to_usd(nusd)) == nusd


@given(amounts)
def test_text_is_a_json_number_of_exactly_that_value(nusd: int) -> None:
    text = nusd_to_usd(nusd)
    assert json.loads(text, parse_float=Decimal, parse_int=Decimal) * 10**9 == nusd
    assert "e" not in text.lower()


@given(st.decimals(min_value=-9_000_000_000, max_value=9_000_000_000, places=9))
def test_nine_decimals_are_exact(usd: Decimal) -> None:
    assert usd_to_nusd(f"{usd:f}") == int(usd * 10**9)


@pytest.mark.parametrize(
    ("text", "nusd"),
    [
        ("5", 5_000_000_000),
        ("0.25", 250_000_000),
        ("+1", 1_000_000_000),
        ("-0.000000001", -1),
        ("1e-7", 100),
        ("1E2", 100_000_000_000),
        ("0.1000000000000", 100_000_000),
        ("9223372036.854775807", MAX_NUSD),
    ],
)
def test_what_people_write(text: str, nusd: int) -> None:
    assert usd_to_nusd(text) == nusd


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not an amount"),
        ("NaN", "not an amount"),
        ("Infinity", "not an amount"),
        ("$5", "not an amount"),
        ("1_000", "not an amount"),
        ("1,5", "not an amount"),
        (" 5", "not an amount"),
        ("5\n", "not an amount"),
        ("٥", "not an amount"),
        ("1e999", "not an amount"),
        ("9" * 50, "not an amount"),
        ("0.0000000001", "finer than a nano-dollar"),
        ("1e-10", "finer than a nano-dollar"),
        ("9223372036.854775808", "beyond"),
        ("1e99", "beyond"),
    ],
)
def test_what_is_refused_says_why(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        usd_to_nusd(text)


@pytest.mark.parametrize(
    ("nusd", "text"), [(0, "0"), (123_456, "0.000123456"), (12_500_000_000, "12.5"), (-1, "-0.000000001")]
)
def test_printing(nusd: int, text: str) -> None:
    assert nusd_to_usd(nusd) == text


@given(st.integers(min_value=0, max_value=4_102_444_800_000))
def test_a_moment_is_written_to_the_millisecond(unix_ms: int) -> None:
    moment = datetime.fromisoformat(utc_text(unix_ms / 1_000))
    assert moment == datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=unix_ms)


def test_a_moment_is_written_as_rows_carry_it() -> None:
    assert utc_text(1_793_534_400.0) == "2026-11-01T12:00:00.000Z"
    assert utc_text(1_793_534_399.999_999_9) == "2026-11-01T12:00:00.000Z"
