"""How the pages write figures, and that each outcome has a meaning in words."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from router.errors import RouterError
from router.history.record import FAILED, SERVED
from router.web.outcomes import meaning
from router.web.words import short, signed, signed_percent, usd


@pytest.mark.parametrize(
    ("nusd", "text"),
    [
        (None, "–"),
        (0, "$0"),
        (1, "$0.000000001"),
        (3, "$0.000000003"),
        (35, "$0.000000035"),
        (351, "$0.00000035"),
        (210_000, "$0.00021"),
        (25_000_000, "$0.025"),
        (1_999_000_000, "$2.00"),
        (-99_999_908_000_000_000, "−$99,999,908"),
    ],
)
def test_an_amount_has_the_digits_that_say_something_and_none_below_a_nano_dollar(
    nusd: int | None, text: str
) -> None:
    assert usd(nusd) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [(999, "999"), (1_000, "1k"), (999_499, "999k"), (999_950, "1M"), (999_999_999, "1G"), (16_384, "16.4k")],
)
def test_a_short_number_never_has_an_exponent(number: float, text: str) -> None:
    assert short(number) == text


def test_a_difference_has_the_sign_of_a_text_and_zero_has_none() -> None:
    assert [signed(each, ".1f") for each in (2.25, -2.25, 0.0, -0.04)] == ["+2.2", "−2.2", "0.0", "0.0"]


@pytest.mark.parametrize(
    ("before", "now", "text"),
    [(100, 4, "−96 %"), (100, 135, "+35 %"), (100, 100, "0 %"), (100, 1_100, "× 11"), (0, 5, "–")],
)
def test_a_change_is_a_percentage_until_that_says_nothing(before: float, now: float, text: str) -> None:
    assert signed_percent(before, now) == text


def errors(of: type[RouterError]) -> Iterator[type[RouterError]]:
    yield of
    for each in of.__subclasses__():
        yield from errors(each)


def test_each_outcome_of_ours_has_a_meaning_of_its_own() -> None:
    names = {each.name for each in errors(RouterError)} | FAILED | {*SERVED, "client_gone", "budget_exceeded"}
    others = {meaning("an_upstreams_own_word")}

    assert all(meaning(name) and meaning(name) not in others for name in names - {"upstream_refused"}), names
    assert others == {"the request was refused, by this name"}
