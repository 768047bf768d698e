"""Replaying logged decisions: exact on their own catalog, compared and re-priced on an edited one."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import structs

from router.catalog.snapshot import (
    Category,
    Limits,
    Model,
    Offer,
    Policy,
    PriceRule,
    Provider,
    Snapshot,
    Timeouts,
)
from router.routing.decide import Blocked, Categorised, Live, decide
from router.routing.need import Need, Pinned
from router.routing.recorded import Actual, Entry, LogReader
from router.routing.recorder import Recorder, offers_line
from router.routing.replay import Replay, Report, adapted, as_recorded
from router.telemetry.decisions import DecisionLog, decision_files
from tests.unit.parts import AT, NOBODY, asked, catalog, model, need, offer, sure, usd_price
from tests.unit.test_decide_properties import catalogs, categories, needs

EDITED = "ba9876543210"


def provided(snapshot: Snapshot) -> Snapshot:
    """Give a catalog the providers that its offers name."""
    names = {o.provider for m in snapshot.models.values() for o in m.offers}
    usual = Provider("", "", "https://api.invalid/v1", "A_KEY", Timeouts(), Limits(), "key", None, ())
    return replace(snapshot, providers={name: replace(usual, name=name) for name in names})


def assumed(snapshot: Snapshot, **changes: Any) -> Snapshot:
    """Return a catalog as a replay loads it: with every key, so that no offer is off."""
    models = {
        name: replace(m, offers=tuple(replace(o, unusable=None) for o in m.offers))
        for name, m in snapshot.models.items()
    }
    return provided(replace(snapshot, models=models, **changes))


def served(offer: Offer | None, **changes: Any) -> Actual:
    usual = Actual(
        outcome="ok",
        seconds=2.0,
        model=offer.model if offer else None,
        provider=offer.provider if offer else None,
        upstream_model=offer.upstream_model if offer else None,
        attempts=1,
        prompt_tokens=1_000,
        completion_tokens=100,
        upstream_nusd=1_200_000,
        charged_nusd=1_200_000,
    )
    return structs.replace(usual, **changes)


class Recording:
    """A decision log in a folder, with one request after another in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = DecisionLog(folder, delayed=False)
        self.recorder = Recorder(self.log)
        self.count = 0

    def add(
        self,
        snapshot: Snapshot,
        wanted: Need | None = None,
        categorised: Categorised | None = None,
        live: Live = NOBODY,
        **actual: Any,
    ) -> None:
        """Decide and log one request, served as it was decided unless `actual` says otherwise."""
        decision = decide(wanted or need(), categorised or sure(), snapshot, live, snapshot.policy)
        self.count += 1
        happened = served(decision.chosen.offer if decision.chosen else None, **actual)
        request_id = f"req_{self.count}"
        self.recorder.note(decision, snapshot, live, happened, request_id=request_id, stripped=False)

    def entries(self) -> list[Entry]:
        self.log.flush()
        return list(LogReader(decision_files(self.folder)))


def replayed(entries: Iterable[Entry], snapshot: Snapshot, **options: Any) -> Report:
    replay = Replay(snapshot, **options)
    for entry in entries:
        replay.add(entry)
    return replay.report()


@pytest.fixture
def recording(tmp_path: Path) -> Recording:
    return Recording(tmp_path)


CHEAP = model("m/cheap", price=usd_price(1, 2))
DEAR = model("m/dear", price=usd_price(3, 6))
PLAIN = catalog(CHEAP, DEAR)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(catalogs(), min_size=1, max_size=3), st.data(), st.randoms(use_true_random=False))
def test_thousands_of_generated_decisions_come_out_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory,
    snapshots: list[Snapshot],
    data: st.DataObject,
    chance: random.Random,
) -> None:
    recording = Recording(tmp_path_factory.mktemp("log"))
    numbered = [replace(s, revision=f"{i:012x}") for i, s in enumerate(snapshots)]
    requests = data.draw(st.lists(st.tuples(needs, categories()), min_size=1, max_size=5))
    for number in range(60):
        wanted, categorised = chance.choice(requests)
        snapshot = chance.choice(numbered)
        wanted = structs.replace(
            wanted,
            at=AT + timedelta(microseconds=chance.randrange(10**12)),
            pinned=some_pin(snapshot, chance),
        )
        recording.add(snapshot, wanted, categorised, some_live(snapshot, chance, number))
    entries = recording.entries()
    assert len(entries) == 60
    for snapshot in numbered:
        own = [entry for entry in entries if entry.line.catalog == snapshot.revision]
        report = replayed(own, assumed(snapshot))
        assert report.differences == []
        assert (report.reproduced, report.same) == (len(own), len(own))


def some_pin(snapshot: Snapshot, chance: random.Random) -> Pinned | None:
    """Return the offer of a conversation, or none."""
    if chance.random() < 0.5:
        return None
    chosen = chance.choice([o for m in snapshot.models.values() for o in m.offers])
    floor: Category = chance.choice(["simple", "coding", "reasoning"])
    return Pinned(chosen.model, *chosen.key, chance.randrange(600), floor)


def some_live(snapshot: Snapshot, chance: random.Random, number: int) -> Live:
    """Return a live table with odd numbers in it, and some offers that take nothing."""
    keys = [o.key for m in snapshot.models.values() for o in m.offers]
    blocked = {
        key: Blocked(chance.choice(["at_limit", "cooling"]), 3, f"{key[1]} is full")
        for key in chance.sample(keys, chance.randrange(2))
    }
    if chance.random() < 0.5:
        return Live(blocked=blocked)
    speeds = {key: (chance.uniform(0.01, 9), chance.uniform(1, 900)) for key in chance.sample(keys, 1)}
    return Live(f"table{number}", speeds, {"simple": chance.randrange(1, 2_000)}, blocked)


def test_a_changed_price_on_the_same_revision_is_a_difference(recording: Recording) -> None:
    recording.add(PLAIN)
    lied = assumed(catalog(model("m/cheap", price=usd_price(1, 2.5)), DEAR))
    report = replayed(recording.entries(), lied)
    assert (report.reproduced, report.same) == (0, 1)
    (found,) = report.differences
    assert found.request_id == "req_1"
    assert found.what.startswith("chosen was m/cheap at acme (0.0015 USD")


def test_the_number_of_losers_is_compared_too(recording: Recording) -> None:
    recording.add(PLAIN)
    third = model("m/third", price=usd_price(9, 9))  # not in the log, so it cannot be used, and loses
    (found,) = replayed(recording.entries(), assumed(catalog(CHEAP, DEAR, third))).differences
    assert found.what == "losers: was 1, is 2"


def test_offers_without_a_key_then_stay_out_now(recording: Recording) -> None:
    recording.add(catalog(model("m/cheap", price=usd_price(1, 2), unusable="set A_KEY"), DEAR))
    report = replayed(recording.entries(), assumed(PLAIN))
    assert (report.reproduced, report.same) == (1, 1)


def test_a_dearer_price_moves_requests_and_prices_their_tokens_anew(recording: Recording) -> None:
    for _ in range(3):
        recording.add(PLAIN)
    edited = assumed(catalog(model("m/cheap", price=usd_price(10, 20)), DEAR), revision=EDITED)
    report = replayed(recording.entries(), edited)
    assert (report.same, report.total.requests, report.total.moved) == (0, 3, 3)
    assert report.total.cost_before_nusd == 3 * 1_200_000
    assert report.total.cost_after_nusd == 3 * (1_000 * 3_000 + 100 * 6_000)
    move = report.moves[0]
    assert (move.from_offer, move.to_offer) == ("m/cheap at acme", "m/dear at acme")
    assert (move.cost_before_nusd, move.cost_after_nusd) == (1_200_000, 3_600_000)
    assert move.seconds_before == move.seconds_after == 3.5


def test_a_price_that_moves_nobody_still_changes_the_cost(recording: Recording) -> None:
    recording.add(PLAIN)
    edited = assumed(catalog(model("m/cheap", price=usd_price(1.5, 2)), DEAR), revision=EDITED)
    report = replayed(recording.entries(), edited)
    assert report.total.moved == 0
    assert report.total.cost_after_nusd == 1_000 * 1_500 + 100 * 2_000


def test_cached_tokens_are_priced_as_cached(recording: Recording) -> None:
    recording.add(PLAIN, cached_tokens=900)
    edited = assumed(catalog(model("m/cheap", price=usd_price(1, 2, 0.1)), DEAR), revision=EDITED)
    assert replayed(recording.entries(), edited).total.cost_after_nusd == 100_000 + 90_000 + 200_000


def test_a_price_rule_counts_from_the_moment_of_the_request(recording: Recording) -> None:
    recording.add(PLAIN)
    recording.add(PLAIN, need(at=AT + timedelta(hours=2)))
    rule = PriceRule(starts=AT + timedelta(hours=1), multiply_ppm=1_100_000)
    edited = assumed(catalog(model("m/cheap", price=usd_price(1, 2), when=(rule,)), DEAR), revision=EDITED)
    assert replayed(recording.entries(), edited).total.cost_after_nusd == 1_200_000 + 1_320_000


def test_a_fallback_that_served_stays_where_the_choice_does(recording: Recording) -> None:
    recording.add(PLAIN, model="m/dear", upstream_model="m/dear", upstream_nusd=3_600_000, attempts=2)
    report = replayed(recording.entries(), assumed(PLAIN, revision=EDITED))
    assert report.total.cost_after_nusd == report.total.cost_before_nusd == 3_600_000


def test_requests_that_nobody_would_serve_are_counted_apart(recording: Recording) -> None:
    recording.add(PLAIN, need(asked=asked(named="m/cheap")), Categorised())
    recording.add(PLAIN, need(tools=True))
    recording.add(PLAIN)
    dull = assumed(catalog(model("m/dear", features=frozenset(), price=usd_price(3, 6))), revision=EDITED)
    report = replayed(recording.entries(), dull)
    reasons = {lost.request_id: lost.reason for lost in report.unroutable}
    assert reasons["req_1"] == "The model m/cheap is not in the catalog."
    assert "calls tools" in reasons["req_2"]
    assert (report.total.unroutable, report.total.compared) == (2, 1)
    assert report.total.cost_before_nusd == 1_200_000
    assert set(report.categories) == {"named", "simple"}


def test_a_request_that_was_refused_may_be_served_now(recording: Recording) -> None:
    recording.add(PLAIN, need(prompt_tokens=150_000), prompt_tokens=None)
    wide = assumed(catalog(CHEAP, model("m/wide", context=1_000_000)), revision=EDITED)
    report = replayed(recording.entries(), wide)
    assert (report.newly_routable, report.total.compared, report.total.moved) == (1, 0, 0)


def test_the_ten_largest_moves_are_kept_by_money_then_seconds(recording: Recording) -> None:
    for number in range(30):
        recording.add(PLAIN, upstream_nusd=1_000_000 * (number % 15), prompt_tokens=0, completion_tokens=0)
    edited = assumed(catalog(model("m/cheap", price=usd_price(10, 20)), DEAR), revision=EDITED)
    report = replayed(recording.entries(), edited)
    assert report.total.moved == 30
    assert [m.cost_before_nusd // 1_000_000 for m in report.moves] == [14, 14, 13, 13, 12, 12, 11, 11, 10, 10]


def test_savings_are_measured_against_the_baseline_before_and_after(recording: Recording) -> None:
    policy = Policy(baseline="m/dear")
    recording.add(catalog(CHEAP, DEAR, policy=policy))
    edited = assumed(catalog(CHEAP, model("m/dear", price=usd_price(5, 6)), policy=policy), revision=EDITED)
    savings = replayed(recording.entries(), edited).savings
    assert (savings.baseline, savings.requests) == ("m/dear", 1)
    assert savings.baseline_before_nusd - savings.cost_before_nusd == 3_600_000 - 1_200_000
    assert savings.baseline_after_nusd - savings.cost_after_nusd == 5_600_000 - 1_200_000


def test_another_mode_is_tried_on_every_request(recording: Recording) -> None:
    good = model("m/good", 90.0, price=usd_price(5, 5))
    recording.add(catalog(CHEAP, good), need("quality"))
    report = replayed(recording.entries(), assumed(catalog(CHEAP, good)), mode="floor")
    assert (report.same, report.total.moved) == (0, 1)
    assert report.moves[0].to_offer == "m/cheap at acme"


def test_an_edited_default_mode_reaches_those_who_named_none() -> None:
    side = offers_line(PLAIN)
    edited = catalog(CHEAP, policy=Policy(mode="cost"))
    by_suffix = structs.replace(asked(), mode="balanced")
    modes = [
        adapted(wanted, side, edited, None) for wanted in (need(), need("quality"), need(asked=by_suffix))
    ]
    assert [wanted.mode for wanted in modes if wanted is not None] == ["cost", "quality", "balanced"]


def test_fallbacks_that_the_catalog_has_no_more_are_left_out() -> None:
    wanted = need(asked=asked(named="m/cheap", fallbacks=("m/dear", "m/gone")))
    found = adapted(wanted, offers_line(PLAIN), PLAIN, None)
    assert found is not None
    assert found.asked.fallbacks == ("m/dear",)


@pytest.mark.parametrize(
    ("edit", "usable"),
    [
        (offer("m/cheap", "acme"), True),  # could be used then
        (offer("m/cheap", "acme", upstream_model="new-name"), True),  # new, of a provider with a key
        (offer("m/cheap", "other"), False),  # a provider that had no key then
        (offer("m/cheap", "acme", unusable="set enabled = true in its catalog file"), False),
    ],
)
def test_an_edited_offer_can_be_used_when_it_could_have_been(edit: Offer, usable: bool) -> None:
    side = offers_line(PLAIN)
    edited = provided(replace(catalog(model("m/cheap", offers=[edit])), revision=EDITED))
    seen = as_recorded(edited, side).models["m/cheap"].offers[0]
    assert (seen.unusable is None) == usable


def test_a_local_model_that_was_not_loaded_cannot_be_used() -> None:
    def local(*names: str) -> Snapshot:
        models: list[Model] = [model(name, provider="ollama") for name in names]
        snapshot = provided(catalog(*models))
        ollama = replace(snapshot.providers["ollama"], base_url="http://localhost:11434/v1", key_env=None)
        return replace(snapshot, providers={"ollama": ollama})

    side = offers_line(local("o/loaded"))
    seen = as_recorded(replace(local("o/loaded", "o/other"), revision=EDITED), side)
    assert [seen.models[name].offers[0].unusable is None for name in ("o/loaded", "o/other")] == [True, False]
    assert all(o.local for m in seen.models.values() for o in m.offers)


def test_a_decision_without_its_side_lines_is_left_out(recording: Recording) -> None:
    recording.add(PLAIN)
    (entry,) = recording.entries()
    report = replayed([structs.replace(entry, live=None)], assumed(PLAIN))
    assert (report.incomplete, report.total.requests) == (1, 0)
