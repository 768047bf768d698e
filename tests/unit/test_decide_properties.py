import random
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from router.catalog.snapshot import CATEGORIES, MODES, Category, Mode, Model, Policy, Price, Snapshot
from router.routing.decide import TEXT_CATEGORIES, Candidate, Categorised, Decision, Live
from router.routing.need import Need
from tests.unit.parts import FEATURES, catalog, choose, model, need, offer

prices = st.builds(
    Price, st.integers(0, 10**8), st.integers(0, 10**8), st.integers(0, 10**8), st.integers(0, 10**8)
)
points = st.integers(0, 100).map(float)
features = st.sampled_from([FEATURES, frozenset({"tools"}), frozenset({"reasoning"}), frozenset[str]()])
inputs = st.sampled_from([frozenset({"text"}), frozenset({"text", "image"})])


@st.composite
def models(draw: st.DrawFn, name: str) -> Model:
    offers = [
        offer(
            name,
            f"provider{i}",
            price=draw(prices),
            context=draw(st.sampled_from([1_000, 10_000, 10**6])),
            max_output=draw(st.sampled_from([100, 10_000])),
            features=draw(features),
            input=draw(inputs),
            ttft_s=draw(st.sampled_from([0.1, 1.0, 5.0])),
            tok_s=draw(st.sampled_from([5.0, 50.0, 500.0])),
            unusable=draw(st.sampled_from([None, None, None, "set A_KEY"])),
        )
        for i in range(draw(st.integers(1, 3)))
    ]
    rated = draw(st.fixed_dictionaries({}, optional=dict.fromkeys(CATEGORIES, points)))
    return model(name, rated, offers)


@st.composite
def catalogs(draw: st.DrawFn) -> Snapshot:
    names = [f"m{i}" for i in range(draw(st.integers(1, 6)))]
    policy = Policy(time_value_nusd_per_s=draw(st.sampled_from([0, 100_000, 10**9])))
    return catalog(*(draw(models(name)) for name in names), policy=policy)


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
)


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
