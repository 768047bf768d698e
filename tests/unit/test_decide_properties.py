import random
import re
from dataclasses import replace
from datetime import timedelta

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from router.catalog.snapshot import (
    CATEGORIES,
    MODES,
    Category,
    Mode,
    Model,
    Policy,
    Price,
    PriceRule,
    Snapshot,
)
from router.errors import LimitReached, Unavailable
from router.routing.decide import TEXT_CATEGORIES, Blocked, Candidate, Categorised, Decision, Live, decide
from router.routing.explain import refusal
from router.routing.losers import FILTERS
from router.routing.need import Need, Pinned
from tests.unit.parts import AT, FEATURES, asked, catalog, choose, model, need, offer
from tests.unit.plain_decide import plain_decide

prices = st.builds(
    Price, st.integers(0, 10**8), st.integers(0, 10**8), st.integers(0, 10**8), st.integers(0, 10**8)
)
points = st.integers(0, 100).map(float)
features = st.sampled_from(
    [FEATURES, FEATURES | {"forced_tools"}, frozenset({"tools"}), frozenset({"reasoning"}), frozenset[str]()]
)
inputs = st.builds(
    lambda more: frozenset({"text", *more}),
    st.lists(st.sampled_from(["image", "image", "audio", "file"]), max_size=3, unique=False),
)
rules = st.builds(
    PriceRule,
    above_input=st.sampled_from([None, 499, 500, 5_000]),
    utc=st.sampled_from([None, (11 * 60, 12 * 60), (22 * 60, 12 * 60 + 1)]),
    days=st.sampled_from([None, frozenset({0, 1}), frozenset({2})]),
    starts=st.sampled_from([None, AT, AT + timedelta(seconds=1)]),
    input=st.none() | st.integers(0, 10**8),
    multiply_ppm=st.sampled_from([None, 333_333, 2_000_000]),
)
some_rules = st.lists(rules, max_size=2).map(tuple)


@st.composite
def models(draw: st.DrawFn, name: str, *, rich: bool) -> Model:
    offers = [
        offer(
            name,
            f"provider{i}",
            price=draw(prices),
            when=draw(some_rules) if rich else (),
            charge=draw(st.none() | st.none() | prices) if rich else None,
            context=draw(st.sampled_from([1_000, 10_000, 10**6])),
            max_output=draw(st.sampled_from([100, 10_000])),
            features=draw(features),
            input=draw(inputs),
            ttft_s=draw(st.sampled_from([0.1, 1.0, 5.0])),
            tok_s=draw(st.sampled_from([5.0, 50.0, 500.0])),
            unusable=draw(st.sampled_from([None, None, None, "set A_KEY"])),
            local=rich and draw(st.booleans()),
        )
        for i in range(draw(st.integers(1, 3)))
    ]
    rated = draw(st.fixed_dictionaries({}, optional=dict.fromkeys(CATEGORIES, points)))
    retires = draw(st.sampled_from([None, None, None, AT.date(), AT.date() + timedelta(days=1)]))
    return replace(model(name, rated, offers), retires=retires if rich else None)


@st.composite
def catalogs(draw: st.DrawFn, *, rich: bool = False) -> Snapshot:
    """Return a catalog; a rich one has price rules, own charges, local servers and retiring models."""
    names = [f"m{i}" for i in range(draw(st.integers(1, 6)))]
    policy = Policy(
        time_value_nusd_per_s=draw(st.sampled_from([0, 100_000, 10**9])),
        markup_ppm=draw(st.sampled_from([1_000_000, 1_234_567])),
        output_tokens=draw(st.sampled_from([None, None, 200, 3_000])),
    )
    return catalog(*(draw(models(name, rich=rich)) for name in names), policy=policy)


BANDED: tuple[Mode, ...] = ("quality", "balanced", "cost")
needs = st.builds(
    need,
    st.sampled_from(MODES),
    prompt_tokens=st.sampled_from([1, 500, 5_000]),
    prompt_tokens_bound=st.just(10_000),
    output_tokens=st.sampled_from([None, 50, 5_000]),
    choices=st.integers(1, 3),
    images=st.sampled_from([0, 0, 2]),
    tools=st.booleans(),
    json_mode=st.booleans(),
    reasoning=st.booleans(),
    forced_tools=st.booleans(),
    media=st.sampled_from([(), (), ("audio",), ("audio", "file")]),
)


@st.composite
def wide_needs(draw: st.DrawFn, snapshot: Snapshot) -> Need:
    """Return a need with everything that a request can bring: lists, globs, caps, a session."""
    names = list(snapshot.models)
    named = draw(st.sampled_from([None, None, *names]))
    category = None if named else draw(st.sampled_from([None, None, *CATEGORIES]))
    listed = tuple(draw(st.lists(st.sampled_from(names), max_size=2, unique=True)))
    globs = st.lists(st.sampled_from(["m1", "m?", "provider0/*", "*:m2", "[", "*"]), max_size=2).map(tuple)
    last = draw(st.sampled_from([o for m in snapshot.models.values() for o in m.offers]))
    floor = draw(st.sampled_from([None, *CATEGORIES]))
    pinned = Pinned(last.model, *last.key, draw(st.sampled_from([0, 400, 10**6])), floor)
    return structs.replace(
        draw(needs),
        asked=asked(category, named, tuple(name for name in listed if name != named)),
        json_schema=draw(st.booleans()),
        key_models=draw(st.sampled_from([(), (), ("m*",), ("provider1:*", "m0")])),
        allow=draw(st.just(()) | globs),
        deny=draw(st.just(()) | st.just(()) | globs),
        max_cost_nusd=draw(st.none() | st.integers(0, 10**7)),
        pinned=draw(st.sampled_from([None, pinned])),
    )


@st.composite
def tables(draw: st.DrawFn, snapshot: Snapshot) -> Live:
    keys = sorted({o.key for m in snapshot.models.values() for o in m.offers})
    some = st.lists(st.sampled_from(keys), max_size=3, unique=True)
    speeds = {
        key: (draw(st.sampled_from([0.5, 3.0])), draw(st.sampled_from([7.0, 70.0]))) for key in draw(some)
    }
    blocked = {key: Blocked(draw(st.sampled_from(["at_limit", "cooling"])), 3, "wait") for key in draw(some)}
    output: dict[Category, int] = {"simple": draw(st.sampled_from([20, 99, 5_000]))}
    return Live("live1", speeds, output, draw(st.sampled_from([{}, {}, blocked])))


@st.composite
def categories(draw: st.DrawFn) -> Categorised:
    category = draw(st.sampled_from(CATEGORIES))
    if category == "vision":
        return Categorised(category, {"simple": 0.5, "coding": 0.5, "vision": 1.0}, 1.0)
    share = draw(st.sampled_from([0.4, 0.5, 0.7, 1.0]))
    shares: dict[Category, float] = dict.fromkeys(TEXT_CATEGORIES, (1 - share) / 2)
    return Categorised(category, {**shares, category: share}, share)


def score(wanted: Need, candidate: Candidate, snapshot: Snapshot) -> tuple[bool, float]:
    """Return what a mode with a band minimises: first the wishes, then cost with the value of time."""
    has = candidate.offer.features
    lacks = (wanted.json_mode and not has & {"json_mode", "json_schema"}) or (
        wanted.reasoning and "reasoning" not in has
    )
    value = snapshot.policy.time_value_nusd_per_s
    return bool(lacks), candidate.expected_nusd + candidate.seconds * value


def chosen(decision: Decision) -> tuple[str, str] | None:
    return None if decision.chosen is None else (decision.chosen.model.id, decision.chosen.offer.provider)


def with_model(snapshot: Snapshot, added: Model) -> Snapshot:
    return replace(snapshot, models={**snapshot.models, added.id: added})


@given(catalogs(), needs, categories(), st.sampled_from(["a", "z"]))
def test_a_cheaper_equal_offer_always_wins(
    snapshot: Snapshot, wanted: Need, categorised: Categorised, name: str
) -> None:
    best = choose(snapshot, wanted, categorised).chosen
    if best is None or best.offer.price.input == 0:
        return
    price = replace(best.offer.price, input=best.offer.price.input - min(best.offer.price.input, 10**6))
    same = replace(best.offer, model=name, upstream_model=name, price=price)
    decision = choose(with_model(snapshot, replace(best.model, id=name, offers=(same,))), wanted, categorised)
    cheaper = decision.chosen
    assert cheaper is not None
    if cheaper.expected_nusd < best.expected_nusd:
        assert cheaper.model.id == name


@given(catalogs(), needs, categories(), st.integers(0, 100), st.sampled_from(["a", "z"]))
def test_an_offer_that_is_dearer_slower_and_no_better_changes_no_winner(
    snapshot: Snapshot, wanted: Need, categorised: Categorised, worse: int, name: str
) -> None:
    before = choose(snapshot, wanted, categorised)
    best = before.chosen
    if best is None:
        return
    price = Price(*(p + 10**9 for p in (best.offer.price.input, best.offer.price.output, 0, 0)))
    dear = replace(
        best.offer, model=name, upstream_model=name, price=price, ttft_s=99.0, tok_s=1.0, features=FEATURES
    )
    if (wanted.json_mode or wanted.reasoning) and score(wanted, best, snapshot)[0]:
        dear = replace(dear, features=best.offer.features)
    quality = {c: max(0.0, q - worse) for c, q in best.model.quality.items()}
    added = replace(best.model, id=name, offers=(dear,), quality=quality)
    after = choose(with_model(snapshot, added), wanted, categorised)
    assert chosen(after) == chosen(before)


@given(catalogs(), needs, categories(), st.sampled_from(BANDED), st.sampled_from(["a", "z"]))
def test_an_offer_of_low_quality_changes_no_winner_however_cheap(
    snapshot: Snapshot, wanted: Need, categorised: Categorised, mode: Mode, name: str
) -> None:
    wanted = structs.replace(wanted, mode=mode)
    before = choose(snapshot, wanted, categorised)
    best = before.chosen
    if best is None or best.quality is None or best.quality < 40:
        return
    free = replace(
        best.offer, model=name, upstream_model=name, price=Price(0, 0, 0, 0), ttft_s=0.0, tok_s=1e6
    )
    added = replace(best.model, id=name, offers=(free,), quality=dict.fromkeys(CATEGORIES, 20.0))
    assert chosen(choose(with_model(snapshot, added), wanted, categorised)) == chosen(before)


@given(catalogs(), needs, categories())
def test_a_wider_band_never_costs_more_and_a_narrower_one_is_never_worse(
    snapshot: Snapshot, wanted: Need, categorised: Categorised
) -> None:
    winners = [choose(snapshot, structs.replace(wanted, mode=mode), categorised).chosen for mode in BANDED]
    if winners[0] is None:
        assert winners == [None, None, None]
        return
    found = [candidate for candidate in winners if candidate is not None]
    assert len(found) == 3
    scores = [score(wanted, candidate, snapshot) for candidate in found]
    assert scores == sorted(scores, reverse=True)
    qualities = [candidate.quality or 0.0 for candidate in found]
    assert qualities == sorted(qualities, reverse=True)


@given(catalogs(), needs, categories(), st.integers())
def test_the_same_need_is_decided_the_same_in_any_order_of_the_catalog(
    snapshot: Snapshot, wanted: Need, categorised: Categorised, seed: int
) -> None:
    first = choose(snapshot, wanted, categorised)
    assert choose(snapshot, wanted, categorised) == first
    names = list(snapshot.models)
    random.Random(seed).shuffle(names)
    shuffled = replace(snapshot, models={name: snapshot.models[name] for name in names})
    again = choose(shuffled, wanted, categorised)
    assert again.candidates == first.candidates
    assert set(again.losers) == set(first.losers)


@given(catalogs(), needs, categories())
def test_every_offer_is_chosen_or_has_its_reason_once(
    snapshot: Snapshot, wanted: Need, categorised: Categorised
) -> None:
    decision = choose(snapshot, wanted, categorised)
    offers = {(o.model, o.provider) for m in snapshot.models.values() for o in m.offers}
    losers = [(loser.model, loser.provider) for loser in decision.losers]
    assert len(losers) == len(set(losers))
    assert set(losers) == offers - {chosen(decision)}
    assert all(loser.reason and loser.detail for loser in decision.losers)


@given(catalogs(), needs, categories(), st.integers(0, 10**9))
def test_a_cap_lets_through_exactly_what_it_covers(
    snapshot: Snapshot, wanted: Need, categorised: Categorised, cap_nusd: int
) -> None:
    free = choose(snapshot, wanted, categorised, Live()).candidates
    capped = choose(snapshot, structs.replace(wanted, max_cost_nusd=cap_nusd), categorised).candidates
    assert {(*c.offer.key, c.model.id) for c in capped} == {
        (*c.offer.key, c.model.id) for c in free if c.max_nusd <= cap_nusd
    }


@given(catalogs(), needs, categories())
def test_what_is_held_covers_what_is_expected(
    snapshot: Snapshot, wanted: Need, categorised: Categorised
) -> None:
    for candidate in choose(snapshot, wanted, categorised).candidates:
        assert 0 <= candidate.expected_nusd <= candidate.max_nusd


@settings(max_examples=400)
@given(st.data(), catalogs(rich=True), categories())
def test_the_compiled_decision_is_the_plain_one(
    data: st.DataObject, snapshot: Snapshot, categorised: Categorised
) -> None:
    wanted, live = data.draw(wide_needs(snapshot)), data.draw(tables(snapshot))
    if wanted.asked.model is not None:
        categorised = Categorised()
    plain = plain_decide(wanted, categorised, snapshot, live, snapshot.policy)
    found = choose(snapshot, wanted, categorised, live)
    assert found.chosen == (found.candidates[0] if plain.ranked else None)
    assert [
        (c.offer.model, *c.offer.key, c.quality, c.expected_nusd, c.max_nusd, c.seconds)
        for c in found.candidates
    ] == [(*p.id, p.quality, p.expected_nusd, p.max_nusd, p.seconds) for p in plain.ranked]
    assert found.categorised == plain.categorised
    assert found.reason == plain.reason
    behind = len(plain.ranked[1:])
    refused = {(x.model, x.provider): x.reason for x in found.losers[behind:]}
    assert refused == {key[:2]: word for key, word in plain.refused.items()}
    assert found.losers_total == len(found.losers)
    assert len(found.candidates) == len(plain.ranked)


@given(st.data(), catalogs(rich=True), categories())
def test_a_replay_of_what_was_logged_is_exact(
    data: st.DataObject, snapshot: Snapshot, categorised: Categorised
) -> None:
    wanted, live = data.draw(wide_needs(snapshot)), data.draw(tables(snapshot))
    first = choose(snapshot, wanted, categorised, live)
    read_need = msgspec.json.decode(msgspec.json.encode(wanted), type=Need)
    read_live = msgspec.msgpack.decode(msgspec.msgpack.encode(live), type=Live)
    fresh = replace(snapshot)
    for logged in (categorised, first.categorised):
        read = msgspec.json.decode(msgspec.json.encode(logged), type=Categorised)
        again = decide(read_need, read, fresh, read_live, fresh.policy)
        assert (again, again.losers) == (first, first.losers)


@given(st.data(), catalogs(rich=True), categories())
def test_what_is_remembered_of_one_request_changes_no_other(
    data: st.DataObject, snapshot: Snapshot, categorised: Categorised
) -> None:
    many = [(data.draw(wide_needs(snapshot)), data.draw(tables(snapshot))) for _ in range(3)]
    moved = [structs.replace(wanted, at=wanted.at + timedelta(hours=11, minutes=30)) for wanted, _ in many]
    for wanted in (*(wanted for wanted, _ in many), *moved):
        for _, live in many:
            choose(snapshot, wanted, categorised, live)
    for (wanted, live), later in zip(many, moved, strict=True):
        for one in (wanted, later):
            assert choose(snapshot, one, categorised, live) == choose(
                replace(snapshot), one, categorised, live
            )


@given(st.data(), catalogs(rich=True), categories())
def test_a_session_stays_unless_another_is_a_tenth_cheaper(
    data: st.DataObject, snapshot: Snapshot, categorised: Categorised
) -> None:
    wanted = structs.replace(data.draw(needs), pinned=None)
    free = choose(snapshot, wanted, categorised)
    if free.chosen is None:
        return
    last = data.draw(st.sampled_from(list(free.candidates))).offer
    pinned = Pinned(last.model, *last.key, 300, None)
    decision = choose(snapshot, structs.replace(wanted, pinned=pinned), categorised)
    assert decision.chosen is not None
    if decision.reason == "session":
        assert decision.chosen.offer is last
        assert free.chosen.offer is not last
    else:
        assert decision.chosen.offer is free.chosen.offer


@given(st.data(), catalogs(rich=True), categories())
def test_a_refusal_names_the_tightest_reason(
    data: st.DataObject, snapshot: Snapshot, categorised: Categorised
) -> None:
    wanted = data.draw(wide_needs(snapshot))
    decision = choose(snapshot, wanted, categorised, data.draw(tables(snapshot)))
    if decision.chosen is not None:
        return
    error = refusal(decision)
    words = {loser.reason for loser in decision.losers}
    if words & {"at_limit", "cooling"}:
        assert isinstance(error, LimitReached if "at_limit" in words else Unavailable)
        return
    tightest = max(words, key=FILTERS.index)
    says = {
        "unusable": "no usable offer|be used here yet",
        "denied": "is shut out",
        "no_quality": "quality in the",
    }
    says |= {"modality": "reads images", "tools": "calls tools", "json_schema": "JSON schema"}
    says |= {"max_output": "output tokens", "context": "tokens of context", "cap": "the cap is"}
    assert re.search(says[tightest], error.message)
