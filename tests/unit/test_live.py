import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.catalog.snapshot import Category, Policy, Snapshot
from router.routing.decide import Blocked
from router.routing.live import LiveTable, Published, Sightings, content_id
from tests.unit.parts import catalog, model, offer

A, B, C = ("acme", "a/one"), ("acme", "b/two"), ("other", "a/one")
ODD = st.sampled_from([0.0, -1.0, math.inf, -math.inf, math.nan, 1e308, 5e-324])
PRIORS: Mapping[Category, int] = {"simple": 250, "coding": 900, "reasoning": 1_500, "vision": 300}


@dataclass
class Clock:
    now_s: float = 1000.0

    def __call__(self) -> float:
        return self.now_s


def three() -> Snapshot:
    """Offers A and B of one provider, C of another; each has 1.0 s and 100 tok/s as prior."""
    both = [offer("a/one", "acme"), offer("a/one", "other")]
    return catalog(model("a/one", offers=both), model("b/two", offers=[offer("b/two", "acme")]))


class Running:
    """A live table with its clock and catalog."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.catalog = three()
        self.table = LiveTable(self.catalog, self.clock, PRIORS)

    def tick(self, times: int = 1) -> Published | None:
        changed = None
        for _ in range(times):
            self.clock.now_s += 10
            changed = self.table.tick(self.catalog) or changed
        return changed


@pytest.fixture
def live() -> Running:
    return Running()


# Speeds


def test_a_fresh_table_is_empty_and_its_id_is_none(live: Running) -> None:
    assert live.tick(5) is None
    assert live.table.published == Published(id="none", speeds={}, output_tokens={})
    assert live.table.live().id == "none"


def test_a_speed_is_blended_with_the_prior_by_weight() -> None:
    live = Running()
    for _ in range(30):
        live.table.note_speed(A, 3.0, 20.0)
    assert live.tick(2) is None
    published = live.tick()
    assert published is not None
    n = 30 * 0.5 ** (30 / 300)
    ttft_s, tok_s = published.speeds[A]
    assert ttft_s == pytest.approx((10 * 1.0 + n * 3.0) / (10 + n), abs=1e-3)
    assert tok_s == pytest.approx((10 * 100 + n * 20) / (10 + n), abs=0.1)
    assert set(published.speeds) == {A}


def test_a_sighting_counts_half_after_five_minutes(live: Running) -> None:
    for _ in range(8):
        live.table.note_speed(A, 3.0, None)
    live.tick(30)
    assert live.table.measured()[A].samples == pytest.approx(4.0)
    live.tick(30)
    assert live.table.measured()[A].samples == pytest.approx(2.0)


def test_a_change_of_a_fifth_or_less_is_not_published(live: Running) -> None:
    for _ in range(20):
        for _ in range(50):
            live.table.note_speed(A, 1.2, 83.5)
        assert live.tick() is None


def test_a_change_that_does_not_last_three_ticks_is_not_published(live: Running) -> None:
    for _ in range(20):
        live.table.note_speed(A, 2.0, None)
    assert live.tick(2) is None
    for _ in range(400):
        live.table.note_speed(A, 1.0, None)
    assert live.tick(10) is None


def test_the_published_speed_follows_and_comes_back_to_the_prior_when_nothing_is_seen_any_more(
    live: Running,
) -> None:
    for _ in range(100):
        live.table.note_speed(A, 10.0, 10.0)
    live.tick(3)
    assert live.table.published.speeds[A][0] > 8
    live.tick(600)
    ttft_s, tok_s = live.table.published.speeds[A]
    assert ttft_s == pytest.approx(1.0, rel=0.25)
    assert tok_s == pytest.approx(100.0, rel=0.25)


def test_one_burst_does_not_hide_ten_slow_answers(live: Running) -> None:
    for _ in range(10):
        live.table.note_speed(A, 1.0, 20.0)
    live.table.note_speed(A, 1.0, 10_000.0)
    measured = live.table.measured()[A].tok_s
    assert measured == pytest.approx(22.0, abs=0.1)


@given(ODD, st.one_of(st.none(), ODD))
def test_absurd_speeds_never_leave_their_bounds(ttft_s: float, tok_s: float | None) -> None:
    live = Running()
    for _ in range(1_000):
        live.table.note_speed(A, ttft_s, tok_s)
    live.tick(3)
    for ttft, tok in live.table.published.speeds.values():
        assert 0.001 <= ttft <= 600
        assert 0.1 <= tok <= 10_000
    measured = live.table.measured()[A]
    assert measured.ttft_s is None or 0.001 <= measured.ttft_s <= 600
    assert measured.tok_s is None or 0.1 <= measured.tok_s <= 10_000


@pytest.mark.parametrize("absurd", [0.0, -1.0, math.inf, math.nan])
def test_what_cannot_be_is_left_out(live: Running, absurd: float) -> None:
    live.table.note_speed(A, absurd, absurd)
    assert live.table.measured()[A].samples == 0
    live.table.note_speed(A, 2.0, absurd)
    assert live.table.measured()[A].ttft_s == 2.0
    assert live.table.measured()[A].tok_s is None


def test_a_clock_that_stands_still_or_goes_back_ages_nothing(live: Running) -> None:
    live.table.note_speed(A, 2.0, None)
    for step_s in (0.0, -3_600.0, 0.0):
        live.clock.now_s += step_s
        live.table.tick(live.catalog)
    assert live.table.measured()[A].samples == 1
    live.table.note_stream(A, 5.0, 5.0, 5.0, 100)
    live.table.note_stream(A, 5.0, 4.0, 3.0, 100)
    live.table.note_whole(A, 0.0, 100)
    live.table.note_whole(A, -1.0, 100)
    assert live.table.measured()[A].samples == 1


def test_a_streams_pace_counts_from_32_tokens_on(live: Running) -> None:
    live.table.note_stream(A, 10.0, 12.0, 13.0, 31)
    assert live.table.measured()[A].ttft_s == 2.0
    assert live.table.measured()[A].tok_s is None
    live.table.note_stream(A, 10.0, 12.0, 13.0, 32)
    assert live.table.measured()[A].tok_s == 31.0


def test_a_stream_that_waited_for_its_client_tells_no_pace(live: Running) -> None:
    live.table.note_stream(A, 10.0, 12.0, 22.0, 1_001, client_s=5.0)
    assert live.table.measured()[A].tok_s is None
    live.table.note_stream(A, 10.0, 12.0, 22.0, 1_001, client_s=0.5)
    assert live.table.measured()[A].tok_s == 100.0


def test_whole_answers_teach_the_time_that_they_take(live: Running) -> None:
    for _ in range(1_000):
        live.table.note_whole(A, 6.0, 200)
    live.tick(3)
    ttft_s, tok_s = live.table.published.speeds[A]
    assert ttft_s + 200 / tok_s == pytest.approx(6.0, rel=0.05)


def test_a_short_whole_answer_teaches_no_pace(live: Running) -> None:
    live.table.note_whole(A, 5.0, 3)
    assert live.table.measured()[A].tok_s is None
    live.table.note_whole(("nobody", "x"), 5.0, 300)
    assert set(live.table.measured()) == {A}


# Output tokens


def test_expected_output_is_learned_with_the_same_blend_and_steadiness(live: Running) -> None:
    for _ in range(40):
        live.table.note_output("simple", 1_000)
    assert live.tick(2) is None
    published = live.tick()
    assert published is not None
    n = 40 * 0.5 ** (30 / 300)
    assert published.output_tokens == {"simple": round((10 * 250 + n * 1_000) / (10 + n))}


def test_the_policys_prior_goes_before_the_default(live: Running) -> None:
    live.catalog = replace(live.catalog, policy=Policy(expected_output_tokens={"simple": 1_000}))
    for _ in range(40):
        live.table.note_output("simple", 1_000)
        live.table.note_output("coding", 5_000)
    published = live.tick(3)
    assert published is not None
    assert set(published.output_tokens) == {"coding"}


def test_answers_without_a_category_or_a_token_teach_nothing(live: Running) -> None:
    for _ in range(100):
        live.table.note_output(None, 5_000)
        live.table.note_output("coding", 0)
        live.table.note_output("coding", -5)
    assert live.tick(3) is None


def test_absurd_lengths_are_bounded(live: Running) -> None:
    live.table.note_output("coding", 10**30)
    live.tick(3)
    assert live.table.published.output_tokens["coding"] < 1_000_000


# Tables and catalogs


def test_the_same_content_has_the_same_id_in_any_order() -> None:
    speeds = {A: (1.5, 80.0), B: (0.2, 10.0)}
    output: dict[Category, int] = {"simple": 100, "coding": 2_000}
    backwards = content_id(dict(reversed(speeds.items())), dict(reversed(output.items())))
    assert backwards == content_id(speeds, output)
    assert content_id({**speeds, A: (1.5, 80.1)}, output) != backwards
    assert content_id(speeds, {**output, "coding": 2_001}) != backwards
    assert len(backwards) == 12
    assert int(backwards, 16) >= 0


def test_two_tables_that_saw_the_same_publish_the_same_id() -> None:
    ids = set()
    for order in ((A, C), (C, A)):
        live = Running()
        for key in order:
            for _ in range(50):
                live.table.note_speed(key, 4.0, 30.0)
        published = live.tick(3)
        assert published is not None
        assert published.id == content_id(published.speeds, published.output_tokens)
        ids.add(published.id)
    assert len(ids) == 1


def test_a_published_table_is_not_changed_by_what_comes_later(live: Running) -> None:
    for _ in range(50):
        live.table.note_speed(A, 4.0, 30.0)
    first = live.tick(3)
    assert first is not None
    speeds = dict(first.speeds)
    for _ in range(200):
        live.table.note_speed(A, 40.0, 3.0)
    second = live.tick(3)
    assert second is not None
    assert first.speeds == speeds
    assert second.id != first.id


def test_what_leaves_the_catalog_is_forgotten_and_the_rest_survives_a_reload(live: Running) -> None:
    for key in (A, C):
        for _ in range(50):
            live.table.note_speed(key, 4.0, 30.0)
        live.table.note_failure(key, "rate_limited", 3_000, False)
    live.tick(3)
    assert set(live.table.published.speeds) == {A, C}
    live.catalog = catalog(model("a/one", offers=[offer("a/one", "acme", ttft_s=1.1)]))
    published = live.tick()
    assert published is not None
    assert set(published.speeds) == {A}
    assert set(live.table.measured()) == {A}
    assert set(live.table.blocked()) == {A}


def test_a_late_note_for_an_offer_that_left_is_dropped_at_the_next_tick(live: Running) -> None:
    gone = ("gone", "x")
    for _ in range(50):
        live.table.note_success(gone)
        live.table.note_speed(gone, 9.0, 9.0)
        live.table.note_failure(gone, "server_error", None, False)
    assert live.tick(3) is None
    assert live.table.measured() == {}
    assert live.table.blocked() == {}


def test_outcomes_are_counted_by_kind_and_fade(live: Running) -> None:
    live.table.note_success(A)
    live.table.note_success(A)
    live.table.note_failure(A, "timeout", None, False)
    assert live.table.measured()[A].outcomes == {"ok": 2.0, "timeout": 1.0}
    live.tick(30)
    assert live.table.measured()[A].outcomes == {"ok": 1.0, "timeout": 0.5}
    live.tick(300)
    assert live.table.measured()[A].outcomes == {}


def test_what_a_decision_reads_joins_full_and_resting_offers(live: Running) -> None:
    full = {C: Blocked("at_limit", 3, "full")}
    assert live.table.live(full).blocked is full
    live.table.note_failure(A, "rate_limited", 9, False)
    both = live.table.live(full).blocked
    assert both[C] is full[C]
    assert both[A].reason == "rate_limited"
    assert set(live.table.live().blocked) == {A}
    assert set(full) == {C}


@given(st.lists(st.tuples(st.floats(0.01, 100), st.floats(0.5, 5_000)), min_size=1, max_size=60))
def test_a_published_speed_lies_between_the_prior_and_what_was_seen(seen: list[tuple[float, float]]) -> None:
    live = Running()
    for ttft_s, tok_s in seen:
        live.table.note_speed(A, ttft_s, tok_s)
        live.tick()
    for ttft_s, tok_s in live.table.published.speeds.values():
        ttfts, toks = [1.0, *(s[0] for s in seen)], [100.0, *(s[1] for s in seen)]
        assert min(ttfts) - 0.001 <= ttft_s <= max(ttfts) + 0.001
        assert min(toks) - 0.1 <= tok_s <= max(toks) + 0.1


def test_what_others_saw_counts_by_its_weight() -> None:
    here, there, quiet = Running(), Running(), Running()
    for _ in range(10):
        here.table.note_speed(A, 2.0, 50.0)
    for _ in range(30):
        there.table.note_speed(A, 4.0, 25.0)
    there.table.note_output("coding", 5_000)
    gone = Sightings(offers=[("nobody", "at/all", 9.0, 9.0, 9.0, 9.0)])
    told = [there.table.sightings(), quiet.table.sightings(), gone]
    assert told[1] == Sightings()

    changed = None
    for _ in range(3):  # at one moment, so nothing is aged
        changed = here.table.tick(here.catalog, told) or changed

    assert changed is not None
    # Seen 40 times: 3.5 s and 35 ms a token; the prior counts 10 times.
    assert changed.speeds == {A: (3.0, round((10 * 100 + 40 / 0.035) / 50, 1))}
    assert changed.output_tokens == {"coding": round((10 * 900 + 5_000) / 11)}


def test_a_replica_that_saw_nothing_decides_by_what_others_saw() -> None:
    here, there = Running(), Running()
    for _ in range(10):
        there.table.note_speed(B, 3.0, None)
    for _ in range(3):
        here.table.tick(here.catalog, [there.table.sightings()])
    assert here.table.published.speeds == {B: (2.0, 100.0)}
    assert here.table.sightings() == Sightings()  # only what was seen here is told on
