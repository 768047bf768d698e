from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.catalog.snapshot import Limits
from router.limits import WINDOW_S, Admission, Full, Standing, Window
from router.walk import duration


@dataclass
class Clock:
    now_s: float = 1000.0

    def __call__(self) -> float:
        return self.now_s


def test_nothing_is_limited_without_limits() -> None:
    admission = Admission(Clock())
    assert all(admission.enter([("offer", Limits())], 10**9) for _ in range(1000))
    assert admission.active("offer") == 1000


def test_concurrency_opens_when_a_place_is_left() -> None:
    clock = Clock()
    admission = Admission(clock)
    limits = Limits(concurrency=2)
    first = admission.enter([("offer", limits)], 1)
    assert first
    assert admission.enter([("offer", limits)], 1)
    assert admission.blocked("offer", limits, 1, clock()) == ("concurrency", 1)
    assert admission.enter([("offer", limits)], 1) is None
    first.leave()
    assert admission.blocked("offer", limits, 1, clock()) is None


def test_leaving_twice_gives_one_place_back() -> None:
    admission = Admission(Clock())
    limits = Limits(concurrency=2)
    place = admission.enter([("offer", limits)], 1)
    assert place
    assert admission.enter([("offer", limits)], 1)
    place.leave(5)
    place.leave(5)
    assert admission.active("offer") == 1


def test_rpm_says_when_the_oldest_request_leaves_the_window() -> None:
    clock = Clock()
    admission = Admission(clock)
    limits = Limits(rpm=2)
    for _ in range(2):
        place = admission.enter([("key", limits)], 1)
        assert place
        place.leave()
        clock.now_s += 10
    assert admission.blocked("key", limits, 1, clock()) == ("rpm", 40)
    clock.now_s += 39.5
    assert admission.blocked("key", limits, 1, clock()) == ("rpm", 1)
    clock.now_s += 0.5
    assert admission.enter([("key", limits)], 1)
    assert admission.blocked("key", limits, 1, clock()) == ("rpm", 10)


def test_tpm_counts_what_was_used_instead_of_the_estimate() -> None:
    clock = Clock()
    admission = Admission(clock)
    limits = Limits(tpm=1000)
    place = admission.enter([("offer", limits)], 900)
    assert place
    assert admission.blocked("offer", limits, 200, clock()) == ("tpm", 60)
    place.leave(300)
    assert admission.blocked("offer", limits, 700, clock()) is None
    assert admission.blocked("offer", limits, 701, clock()) == ("tpm", 60)


def test_tpm_waits_only_for_as_many_requests_as_it_needs() -> None:
    clock = Clock()
    admission = Admission(clock)
    limits = Limits(tpm=1000)
    for tokens in (300, 300, 400):
        assert admission.enter([("offer", limits)], tokens)
        clock.now_s += 10
    assert admission.blocked("offer", limits, 300, clock()) == ("tpm", 30)
    assert admission.blocked("offer", limits, 301, clock()) == ("tpm", 40)


def test_a_request_larger_than_the_limit_runs_in_an_empty_window() -> None:
    clock = Clock()
    admission = Admission(clock)
    limits = Limits(tpm=1000)
    assert admission.enter([("offer", limits)], 5000)
    assert admission.blocked("offer", limits, 1, clock()) == ("tpm", 60)
    clock.now_s += 60
    assert admission.enter([("offer", limits)], 5000)


def test_use_that_is_known_after_the_window_counts_nowhere() -> None:
    clock = Clock()
    admission = Admission(clock)
    limits = Limits(tpm=1000)
    place = admission.enter([("offer", limits)], 900)
    assert place
    clock.now_s += 61
    place.leave(900)
    assert admission.blocked("offer", limits, 1000, clock()) is None
    assert admission.enter([("offer", limits)], 1000)


def test_a_place_is_taken_everywhere_or_nowhere() -> None:
    admission = Admission(Clock())
    free, full = Limits(concurrency=5), Limits(concurrency=1)
    assert admission.enter([("provider", full)], 1)
    assert admission.enter([("offer", free), ("provider", full)], 1) is None
    assert admission.active("offer") == 0


def test_the_last_limit_to_open_is_named() -> None:
    clock = Clock()
    admission = Admission(clock)
    limits = Limits(concurrency=1, rpm=1)
    assert admission.enter([("key", limits)], 1)
    clock.now_s += 20
    assert admission.blocked("key", limits, 1, clock()) == ("rpm", 40)


def test_asking_changes_nothing() -> None:
    clock = Clock()
    admission = Admission(clock)
    limits = Limits(rpm=1)
    for _ in range(100):
        assert admission.blocked("key", limits, 1, clock()) is None
    assert admission.enter([("key", limits)], 1)


def test_idle_subjects_are_forgotten_and_busy_ones_kept() -> None:
    clock = Clock()
    admission = Admission(clock)
    running = admission.enter([("busy", Limits(concurrency=1, rpm=5))], 1)
    assert running
    for number in range(100):
        place = admission.enter([(number, Limits(rpm=5))], 1)
        assert place
        place.leave()
    clock.now_s += 61
    admission.enter([("other", Limits())], 1)
    clock.now_s += 61
    admission.enter([("other", Limits())], 1)
    assert admission.enter([("busy", Limits(concurrency=1))], 1) is None
    running.leave()
    assert admission.enter([("busy", Limits(concurrency=1))], 1)


steps = st.lists(
    st.tuples(st.integers(0, 400), st.integers(0, 60), st.one_of(st.none(), st.integers(0, 60))), max_size=200
)


@given(steps, st.integers(1, 8), st.integers(60, 200))
def test_no_minute_admits_more_than_its_limits(
    steps: list[tuple[int, int, int | None]], rpm: int, tpm: int
) -> None:
    clock = Clock()
    admission = Admission(clock)
    limits = Limits(rpm=rpm, tpm=tpm)
    admitted: list[tuple[float, int]] = []
    for wait_eighths, tokens, used in steps:
        clock.now_s += wait_eighths / 8  # no rounding, so the seconds to wait are exact
        blocked = admission.blocked("key", limits, tokens, clock())
        place = admission.enter([("key", limits)], tokens)
        assert (place is None) == (blocked is not None)
        if place is not None:
            place.leave(used)
            admitted.append((clock.now_s, tokens if used is None else min(used, tokens)))
            window = [each for at_s, each in admitted if at_s > clock.now_s - WINDOW_S]
            assert len(window) <= rpm
            assert sum(window) <= tpm
        else:
            assert blocked
            clock.now_s += blocked[1]
            assert admission.blocked("key", limits, tokens, clock()) is None


def test_a_standing_says_what_is_left_and_when_all_of_it_is() -> None:
    clock = Clock()
    admission = Admission(clock)
    limits = Limits(concurrency=9, rpm=3, tpm=1000)
    assert admission.standing("key", limits, clock()) == Standing(Window(3, 3, 0.0), Window(1000, 1000, 0.0))
    assert admission.enter([("key", limits)], 400)
    clock.now_s += 20
    assert admission.enter([("key", limits)], 900) is None
    assert admission.enter([("key", limits)], 500)
    clock.now_s += 10
    assert admission.standing("key", limits, clock()) == Standing(Window(3, 1, 50.0), Window(1000, 100, 50.0))
    clock.now_s += 30
    assert admission.standing("key", limits, clock()) == Standing(Window(3, 2, 20.0), Window(1000, 500, 20.0))
    assert admission.standing("key", Limits(concurrency=9), clock()) == Standing()


def test_of_many_subjects_the_full_ones_are_told() -> None:
    clock = Clock()
    admission = Admission(clock)
    one, rpm = Limits(concurrency=1), Limits(rpm=1)
    assert admission.enter([("a", one), ("b", rpm)], 1)
    clock.now_s += 20
    full = admission.full([("a", one), ("b", rpm), ("c", one)], 1, clock())
    assert full == {"a": Full("concurrency", 1), "b": Full("rpm", 40)}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, b"0ms"),
        (0.0001, b"1ms"),
        (0.12, b"120ms"),
        (1, b"1s"),
        (11.2, b"12s"),
        (59.5, b"1m0s"),
        (90, b"1m30s"),
    ],
)
def test_times_are_written_as_openai_writes_them(seconds: float, text: bytes) -> None:
    assert duration(seconds) == text
