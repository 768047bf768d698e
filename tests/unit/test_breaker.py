import logging
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.routing.breaker import FREE, Breakers
from tests.unit.test_live import A, B, C, Clock

MODELS = {A: "a/one", B: "b/two", C: "a/one"}
PLAIN = ("unavailable", "server_error", "timeout", "connect", "cut", "bad_answer", "not_found")


class Running:
    """Breakers of three offers, with their clock."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.breakers = Breakers(self.clock)
        self.breakers.keep(MODELS)

    def fail(
        self, key: tuple[str, str] = A, kind: str = "server_error", times: int = 1, *, alone: bool = False
    ) -> None:
        for _ in range(times):
            self.breakers.note_failure(key, kind, None, alone)

    def wait_s(self, key: tuple[str, str] = A) -> int:
        """Return for how long an offer rests, 0 when it does not."""
        block = self.breakers.blocked().get(key)
        return 0 if block is None else block.retry_after_s

    def passes(self, seconds: float) -> None:
        self.clock.now_s += seconds

    def fail_trials(self, kind: str, times: int) -> list[int]:
        """Wait and fail a trial, again and again; returns how long the offer then rested."""
        waits = []
        for _ in range(times):
            self.passes(self.wait_s())
            entry = self.breakers.enter(A)
            assert entry not in (None, FREE)
            self.fail(kind=kind)
            self.breakers.release(entry)
            waits.append(self.wait_s())
        return waits


@pytest.fixture
def run() -> Running:
    return Running()


def test_a_healthy_offer_is_free(run: Running) -> None:
    run.breakers.note_success(A)
    assert run.breakers.enter(A) is FREE
    assert run.breakers.may_try(A)
    assert run.breakers.blocked() == {}
    assert run.breakers.states() == {}


def test_a_rate_limit_rests_for_what_the_provider_asks(run: Running) -> None:
    run.breakers.note_failure(A, "rate_limited", 42, False)
    block = run.breakers.blocked()[A]
    assert (block.reason, block.retry_after_s) == ("rate_limited", 42)
    assert block.detail == "a/one at acme is at its provider's limit: the provider asked to wait"
    assert run.breakers.enter(A) is None
    assert not run.breakers.may_try(A)
    assert run.breakers.enter(C) is FREE
    run.passes(41.5)
    assert run.wait_s() == 1
    run.passes(0.5)
    assert run.wait_s() == 0
    assert run.breakers.states() == {A: "half_open"}


def test_without_a_retry_after_the_wait_doubles_up_to_five_minutes(run: Running) -> None:
    run.fail(kind="rate_limited")
    assert run.wait_s() == 10
    assert run.fail_trials("rate_limited", 7) == [20, 40, 80, 160, 300, 300, 300]


def test_rate_limits_that_arrive_together_do_not_double_the_wait(run: Running) -> None:
    run.fail(kind="rate_limited", times=20)
    assert run.wait_s() == 10
    run.breakers.note_failure(A, "rate_limited", 30, False)
    run.breakers.note_failure(A, "rate_limited", 20, False)
    assert run.wait_s() == 30


@pytest.mark.parametrize(
    ("asked_s", "wait_s"),
    [(0, 1), (0.2, 1), (-5, 10), (math.inf, 10), (math.nan, 10), (1e9, 3_600), (2.5, 3)],
)
def test_a_retry_after_is_bounded(run: Running, asked_s: float, wait_s: int) -> None:
    run.breakers.note_failure(A, "rate_limited", asked_s, False)
    assert run.wait_s() == wait_s


def test_a_success_forgets_how_often_the_wait_was_doubled(run: Running) -> None:
    run.fail(kind="rate_limited")
    run.fail_trials("rate_limited", 3)
    run.passes(80)
    run.breakers.note_success(A)
    run.fail(kind="rate_limited")
    assert run.wait_s() == 10


def test_an_overloaded_provider_that_names_a_time_is_left_alone_for_it(run: Running) -> None:
    run.breakers.note_failure(A, "unavailable", 7, False)
    assert run.wait_s() == 7
    run.breakers.note_failure(C, "unavailable", None, False)
    assert run.wait_s(C) == 0


@pytest.mark.parametrize("kind", PLAIN)
def test_half_of_at_least_five_calls_must_fail(run: Running, kind: str) -> None:
    run.fail(kind=kind, times=4)
    assert run.wait_s() == 0
    run.fail(kind=kind)
    assert run.wait_s() == 15
    assert "5 of 5 calls failed in the last minute" in run.breakers.blocked()[A].detail


def test_fewer_failures_than_half_do_not_open(run: Running) -> None:
    for _ in range(50):
        run.breakers.note_success(A)
        run.breakers.note_success(A)
        run.fail()
    assert run.wait_s() == 0


def test_calls_older_than_a_minute_do_not_count(run: Running) -> None:
    run.fail(times=4)
    run.passes(60)
    run.fail()
    assert run.wait_s() == 0
    for _ in range(30):
        run.passes(16)
        run.fail()
    assert run.wait_s() == 0


def test_an_old_good_minute_does_not_hide_a_bad_one(run: Running) -> None:
    for _ in range(1_000):
        run.breakers.note_success(A)
    run.passes(60)
    run.fail(times=5)
    assert run.wait_s() == 15


def test_failed_trials_double_the_wait_and_a_good_one_closes(run: Running) -> None:
    run.fail(times=5)
    assert run.fail_trials("timeout", 6) == [30, 60, 120, 240, 300, 300]
    run.passes(300)
    entry = run.breakers.enter(A)
    assert entry
    run.breakers.note_success(A)
    run.breakers.release(entry)
    assert run.breakers.states() == {}
    run.fail(times=4)
    assert run.wait_s() == 0  # what had failed before counts no more


def test_while_a_trial_runs_others_are_kept_away(run: Running) -> None:
    run.fail(times=5)
    run.passes(15)
    assert run.breakers.may_try(A)
    assert run.wait_s() == 0
    trial = run.breakers.enter(A)
    assert trial
    assert run.breakers.enter(A) is None
    assert not run.breakers.may_try(A)
    assert run.wait_s() == 1
    run.breakers.release(FREE)
    assert run.breakers.enter(A) is None


@pytest.mark.parametrize("kind", ["refused", "too_long", None])
def test_a_trial_without_a_verdict_makes_room_for_the_next(run: Running, kind: str | None) -> None:
    run.fail(times=5)
    run.passes(15)
    trial = run.breakers.enter(A)
    assert trial
    if kind is not None:
        run.fail(kind=kind)
    run.breakers.release(trial)
    assert run.breakers.may_try(A)
    assert run.breakers.states() == {A: "half_open"}
    assert run.breakers.enter(A) not in (None, FREE)


def test_a_trial_whose_end_is_never_told_does_not_shut_an_offer_for_ever(run: Running) -> None:
    run.fail(times=5)
    run.passes(15)
    assert run.breakers.enter(A)
    run.passes(599)
    assert run.breakers.enter(A) is None
    run.passes(1)
    assert run.breakers.enter(A)


def test_a_success_that_began_before_does_not_close_an_open_breaker(run: Running) -> None:
    run.fail(kind="rate_limited")
    run.breakers.note_success(A)
    assert run.wait_s() == 10


@given(st.lists(st.sampled_from(["refused", "too_long"]), max_size=50))
def test_the_callers_faults_never_count(kinds: list[str]) -> None:
    run = Running()
    for kind in kinds:
        run.fail(kind=kind)
    assert run.breakers.blocked() == {}
    run.fail(times=4)
    for kind in kinds:
        run.fail(kind=kind)
    assert run.breakers.blocked() == {}


@pytest.mark.parametrize("status", [401, 402, None])
def test_a_key_that_two_offers_are_refused_with_rests_the_whole_provider(
    run: Running, status: int | None
) -> None:
    run.breakers.note_failure(A, "auth", None, False, status)
    assert run.breakers.states() == {A: "open"}
    run.breakers.note_failure(B, "auth", None, False, status)
    assert {key: b.retry_after_s for key, b in run.breakers.blocked().items()} == {A: 300, B: 300}
    assert run.breakers.states() == {A: "open", B: "open"}
    assert run.breakers.enter(B) is None
    assert run.breakers.enter(C) is FREE
    told = "its provider turns the router away"  # why is for the operator's log and alerts
    assert run.breakers.blocked()[B].detail == f"b/two at acme is cooling down: {told}"
    (alert,) = run.breakers.alerts()
    assert (alert.provider, alert.upstream_model, alert.status) == ("acme", None, status)


def test_an_offer_that_answers_shows_that_the_key_is_right(run: Running) -> None:
    run.breakers.note_failure(A, "auth", None, False, 401)
    run.breakers.note_success(B)
    run.breakers.note_failure(B, "auth", None, False, 401)
    assert run.breakers.states() == {A: "open", B: "open"}
    assert {alert.upstream_model for alert in run.breakers.alerts()} == {A[1], B[1]}


def test_a_forbidden_offer_rests_alone(run: Running) -> None:
    run.breakers.note_failure(A, "auth", None, False, 403)
    assert set(run.breakers.blocked()) == {A}
    assert run.breakers.alerts()[0].upstream_model == "a/one"


def test_one_trial_serves_a_whole_provider(run: Running) -> None:
    for offer in (A, B):
        run.breakers.note_failure(offer, "auth", None, False, 401)
    run.passes(300)
    trial = run.breakers.enter(B)
    assert trial
    assert run.breakers.enter(A) is None
    assert set(run.breakers.blocked()) == {A, B}
    run.breakers.note_success(B)
    run.breakers.release(trial)
    assert run.breakers.enter(A) is FREE


def test_an_alert_is_logged_once_and_cleared_by_a_success(
    run: Running, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for _ in range(3):
        run.breakers.note_failure(A, "auth", None, False, 401)
        run.passes(300)
    errors = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    assert len(errors) == 1
    assert "acme" in errors[0]
    assert "key_env" in errors[0]
    (alert,) = run.breakers.alerts()
    assert (alert.provider, alert.upstream_model, alert.status) == ("acme", A[1], 401)
    run.breakers.note_success(A)
    assert run.breakers.alerts() == ()
    assert "works again" in caplog.records[-1].getMessage()


def test_an_unknown_model_needs_attention_until_it_answers(run: Running) -> None:
    run.fail(kind="not_found", times=3)
    (alert,) = run.breakers.alerts()
    assert "model's id" in alert.detail
    assert run.breakers.blocked() == {}
    run.breakers.note_success(A)
    assert run.breakers.alerts() == ()


def test_an_alert_goes_with_its_offer(run: Running) -> None:
    run.breakers.note_failure(A, "auth", None, False, 401)
    run.breakers.keep({C: "a/one"})
    assert run.breakers.alerts() == ()
    assert run.breakers.blocked() == {}


def test_plain_failures_do_not_rest_the_only_offer(run: Running) -> None:
    for kind in PLAIN:
        run.fail(kind=kind, times=10, alone=True)
    run.breakers.note_failure(A, "unavailable", 60, True)
    assert run.breakers.blocked() == {}


@pytest.mark.parametrize(("kind", "status"), [("rate_limited", 429), ("auth", 401), ("auth", 403)])
def test_limits_and_refused_keys_rest_the_only_offer_too(run: Running, kind: str, status: int) -> None:
    run.breakers.note_failure(A, kind, None, True, status)
    assert A in run.breakers.blocked(alone=True)
    assert run.breakers.enter(A, alone=True) is None


def test_who_has_no_other_offer_may_use_one_that_rests_for_failures(run: Running) -> None:
    run.fail(times=5)
    assert A in run.breakers.blocked()
    assert run.breakers.blocked(alone=True) == {}
    assert run.breakers.may_try(A, alone=True)
    assert run.breakers.enter(A, alone=True) is FREE
    run.fail(alone=True, times=10)
    assert run.wait_s() == 15
    run.passes(15)
    assert run.breakers.may_try(A)


def test_a_harder_cause_takes_over(run: Running) -> None:
    run.fail(times=5)
    run.breakers.note_failure(A, "rate_limited", 60, False)
    block = run.breakers.blocked(alone=True)[A]
    assert block.retry_after_s == 60
    assert "asked to wait" in block.detail


kinds = st.sampled_from([*PLAIN, "rate_limited", "auth", "refused", "too_long", "ok", "enter", "release"])
steps = st.tuples(
    kinds,
    st.sampled_from([A, B, C]),
    st.sampled_from([None, 0.0, 5.0, 10.0**9, -1.0, math.nan]),
    st.booleans(),
    st.sampled_from([0.0, 0.4, 7.0, 20.0, 400.0]),
)


@given(st.lists(steps, max_size=60))
def test_whatever_happens_every_offer_is_tried_again_and_waits_are_sane(
    happened: list[tuple[str, tuple[str, str], float | None, bool, float]],
) -> None:
    run = Running()
    entries = []
    for kind, key, asked_s, alone, seconds in happened:
        run.passes(seconds)
        may = run.breakers.may_try(key, alone)
        if kind == "ok":
            run.breakers.note_success(key)
        elif kind == "enter":
            entry = run.breakers.enter(key, alone)
            assert (entry is not None) == may
            entries += [entry] if entry is not None else []
        elif kind == "release":
            run.breakers.release(entries.pop() if entries else FREE)
        else:
            run.breakers.note_failure(key, kind, asked_s, alone)
        blocked = run.breakers.blocked()
        assert set(run.breakers.blocked(alone=True)) <= set(blocked)
        for each in MODELS:
            assert run.breakers.may_try(each) == (each not in blocked)
        assert all(1 <= block.retry_after_s <= 3_600 for block in blocked.values())
    run.passes(3_601)
    assert run.breakers.blocked() == {}
    for key in MODELS:
        entry = run.breakers.enter(key)
        assert entry is not None
        run.breakers.note_success(key)
        run.breakers.release(entry)
    assert run.breakers.states() == {}
    assert run.breakers.blocked() == {}
