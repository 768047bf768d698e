import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.catalog.snapshot import CATEGORIES, Category, Offer
from router.routing.need import Pinned
from router.routing.sessions import Session, Sessions, session_of
from router.wire import RequestBody, parse_request
from tests.unit.parts import offer, usd_price

CACHING = offer("a/one", price=usd_price(1, 2, 0.1))
PLAIN = offer("b/two", price=usd_price(1, 2))
NAMED = Session("mine", True, None)
IDLE_S = 600.0


def body(*messages: tuple[str, Any]) -> RequestBody:
    listed = [{"role": role, "content": content} for role, content in messages]
    return parse_request(json.dumps({"model": "auto", "messages": listed}).encode())


def turns(count: int, first: str = "Plan a trip", system: str = "Be kind.") -> RequestBody:
    """Return a conversation at the user's `count`-th message."""
    messages: list[tuple[str, Any]] = [("system", system), ("user", first)]
    for number in range(1, count):
        messages += [("assistant", f"Answer {number}"), ("user", f"Question {number}")]
    return body(*messages)


def derived(request: RequestBody) -> Session:
    session = session_of(None, request)
    assert session is not None
    return session


def note(
    sessions: Sessions,
    session: Session | None,
    served: Offer = CACHING,
    *,
    category: Category | None = None,
    prompt: int = 10_000,
    cached: int = 0,
    completion: int = 500,
    now_s: float = 0.0,
    estimated: int | None = None,
    account: str = "me",
) -> None:
    sessions.note(
        *(account, session, served, category, prompt, cached, completion, now_s),
        idle_s=IDLE_S,
        estimated_tokens=prompt if estimated is None else estimated,
    )


def find(
    sessions: Sessions,
    session: Session | None,
    now_s: float = 0.0,
    prompt: int = 1_000_000,
    account: str = "me",
) -> Pinned | None:
    return sessions.find(account, session, now_s, idle_s=IDLE_S, prompt_tokens=prompt)


def found(sessions: Sessions, session: Session, now_s: float = 0.0, prompt: int = 1_000_000) -> Pinned:
    pinned = find(sessions, session, now_s, prompt)
    assert pinned is not None
    return pinned


# Which session a request belongs to


def test_the_named_session_goes_before_the_conversations_own() -> None:
    assert session_of("mine", turns(3)) == NAMED
    assert session_of("", turns(3)) == session_of(None, turns(3))


def test_a_long_name_is_kept_as_a_hash() -> None:
    long = session_of("x" * 100_000, turns(1))
    assert long is not None
    assert len(long.id) < 64
    assert long != session_of("x" * 99_999, turns(1))
    assert session_of("\ud800" * 100, turns(1)) is not None


def test_every_turn_of_a_conversation_has_the_same_id_and_no_text_is_in_it() -> None:
    first, second, tenth = (derived(turns(n)) for n in (1, 2, 10))
    assert first.id == second.id == tenth.id
    assert not first.goes_on
    assert second.goes_on
    assert "trip" not in first.id


@pytest.mark.parametrize(
    "other", [turns(1, first="Plan a party"), turns(1, system="Be rude."), body(("user", "Plan a trip"))]
)
def test_another_beginning_is_another_conversation(other: RequestBody) -> None:
    assert derived(other).id != derived(turns(1)).id


def test_the_end_of_a_long_system_prompt_does_not_matter() -> None:
    long = "You are a helper. " * 50
    at_one, at_two = (derived(turns(2, system=f"{long} It is {clock}.")) for clock in ("12:00", "12:05"))
    assert at_one == at_two


def test_without_a_word_of_the_user_there_is_no_session() -> None:
    image = [{"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}]
    assert session_of(None, body(("system", "Be kind."), ("user", image))) is None
    assert session_of(None, body(("system", "Be kind."))) is None
    sessions = Sessions()
    note(sessions, None)
    assert len(sessions) == 0
    assert find(sessions, None) is None


def test_the_first_words_may_be_handed_in() -> None:
    assert session_of(None, turns(2), "Plan a trip") == session_of(None, turns(2))


# What is remembered


def test_the_second_turn_finds_the_offer_of_the_first() -> None:
    sessions = Sessions()
    note(sessions, derived(turns(1)), category="coding")
    pinned = found(sessions, derived(turns(2)))
    assert (pinned.model, pinned.provider, pinned.upstream_model) == ("a/one", "acme", "a/one")
    assert pinned.floor == "coding"


def test_a_request_that_begins_alike_does_not_go_on() -> None:
    sessions = Sessions()
    note(sessions, derived(turns(1)))
    assert find(sessions, derived(turns(1))) is None
    note(sessions, derived(turns(3)))
    assert find(sessions, derived(turns(3))) is None
    assert find(sessions, derived(turns(2))) is None
    assert find(sessions, derived(turns(4)))


def test_another_conversation_with_the_same_beginning_starts_anew() -> None:
    sessions = Sessions()
    note(sessions, derived(turns(4)), category="reasoning")
    note(sessions, derived(turns(1)), PLAIN, category="simple")
    pinned = found(sessions, derived(turns(2)))
    assert (pinned.model, pinned.floor) == ("b/two", "simple")


def test_a_named_session_goes_on_whatever_it_sends() -> None:
    sessions = Sessions()
    assert find(sessions, NAMED) is None
    note(sessions, NAMED)
    assert found(sessions, NAMED).model == "a/one"


def test_accounts_do_not_see_each_other() -> None:
    sessions = Sessions()
    note(sessions, NAMED, account="me")
    assert find(sessions, NAMED, account="you") is None


def test_finding_changes_nothing() -> None:
    sessions = Sessions(bound=2)
    note(sessions, replaced("a"))
    note(sessions, replaced("b"))
    before = [find(sessions, replaced("a"), 500), find(sessions, replaced("b"), 500)]
    for _ in range(100):
        find(sessions, replaced("a"), 500)
        find(sessions, replaced("nobody"), 500)
    assert [find(sessions, replaced("a"), 500), find(sessions, replaced("b"), 500)] == before
    assert len(sessions) == 2
    note(sessions, replaced("c"))
    assert find(sessions, replaced("a")) is None  # reading did not make it younger than b
    assert find(sessions, replaced("a"), IDLE_S + 1) is None


def replaced(name: str) -> Session:
    return Session(name, True, None)


def test_an_idle_session_ends() -> None:
    sessions = Sessions()
    note(sessions, NAMED, category="coding")
    assert find(sessions, NAMED, IDLE_S)
    assert find(sessions, NAMED, IDLE_S + 0.1) is None
    note(sessions, NAMED, PLAIN, now_s=IDLE_S + 1)
    assert found(sessions, NAMED, IDLE_S + 1).floor is None


# What may be cached


def test_what_was_sent_and_answered_may_be_cached_for_five_minutes() -> None:
    sessions = Sessions()
    note(sessions, NAMED, prompt=10_000, completion=500)
    assert found(sessions, NAMED, 300).cached_tokens == 10_500
    assert found(sessions, NAMED, 301).cached_tokens == 0


def test_no_more_than_the_new_prompt_is_cached() -> None:
    sessions = Sessions()
    note(sessions, NAMED)
    assert found(sessions, NAMED, prompt=700).cached_tokens == 700


def test_an_offer_without_a_cache_price_has_nothing_cached_unless_it_says_so() -> None:
    sessions = Sessions()
    note(sessions, NAMED, PLAIN)
    assert found(sessions, NAMED).cached_tokens == 0
    note(sessions, NAMED, PLAIN, prompt=20_000, cached=10_500)
    assert found(sessions, NAMED).cached_tokens == 20_500


def test_cached_tokens_are_counted_as_the_need_counts_them() -> None:
    sessions = Sessions()
    note(sessions, NAMED, prompt=12_000, completion=600, estimated=10_000)
    assert found(sessions, NAMED).cached_tokens == 10_500


def test_an_offer_whose_cache_misses_is_believed_less_each_time() -> None:
    sessions = Sessions()
    note(sessions, NAMED, completion=0)
    seen = []
    for _ in range(4):
        note(sessions, NAMED, completion=0, cached=0)
        seen.append(found(sessions, NAMED).cached_tokens)
    assert seen == [5_000, 2_500, 1_250, 625]
    for _ in range(10):
        note(sessions, NAMED, completion=0, cached=10_000)
    assert found(sessions, NAMED).cached_tokens > 9_900


def test_a_miss_on_a_short_prompt_says_nothing() -> None:
    sessions = Sessions()
    note(sessions, NAMED, prompt=400, completion=100)
    note(sessions, NAMED, prompt=600, completion=100, cached=0)
    assert found(sessions, NAMED).cached_tokens == 700


def test_another_offer_begins_without_a_history() -> None:
    sessions = Sessions()
    note(sessions, NAMED)
    note(sessions, NAMED, cached=0)
    other = replace(CACHING, provider="other")
    note(sessions, NAMED, other)
    pinned = found(sessions, NAMED)
    assert (pinned.provider, pinned.cached_tokens) == ("other", 10_500)


# The floor


@pytest.mark.parametrize(
    ("categories", "floor"),
    [
        (["simple"], "simple"),
        (["coding", "simple", "simple"], "coding"),
        (["coding", "reasoning"], "reasoning"),
        (["reasoning", "coding", "simple"], "coding"),
        (["vision", None], None),
        (["simple", "vision"], "simple"),
    ],
)
def test_the_floor_is_the_hardest_text_category(categories: list[Category | None], floor: Category) -> None:
    sessions = Sessions()
    for category in categories:
        note(sessions, NAMED, category=category)
    assert found(sessions, NAMED).floor == floor


def test_the_floor_sinks_when_the_hard_part_is_over() -> None:
    sessions = Sessions()
    note(sessions, NAMED, category="coding", now_s=0)
    for now_s in (200, 400, 600):
        note(sessions, NAMED, category="simple", now_s=now_s)
    assert found(sessions, NAMED, 600).floor == "coding"
    assert found(sessions, NAMED, 601).floor == "simple"


# The bound


def test_a_conversation_that_goes_on_outlives_many_that_were_seen_once() -> None:
    sessions = Sessions(bound=10)
    note(sessions, NAMED)
    note(sessions, NAMED)
    for number in range(1_000):
        note(sessions, replaced(f"once {number}"))
    assert len(sessions) == 10
    assert find(sessions, NAMED)


def test_new_conversations_reach_their_second_turn_however_many_go_on() -> None:
    sessions = Sessions(bound=100)
    for number in range(1_000):
        for _ in range(2):
            note(sessions, replaced(f"going {number}"))
    for number in range(20):
        note(sessions, replaced(f"new {number}"))
    assert all(find(sessions, replaced(f"new {number}")) for number in range(20))
    assert find(sessions, replaced("going 999"))


def test_what_has_expired_goes_first() -> None:
    sessions = Sessions(bound=4)
    for _ in range(2):
        note(sessions, replaced("old"), now_s=0)
    for number in range(4):
        note(sessions, replaced(f"new {number}"), now_s=IDLE_S + 1)
    assert all(find(sessions, replaced(f"new {number}"), IDLE_S + 1) for number in range(4))


@given(
    st.lists(
        st.tuples(
            st.integers(0, 12),
            st.sampled_from([CACHING, PLAIN]),
            st.sampled_from([None, *CATEGORIES]),
            st.integers(0, 50_000),
            st.integers(0, 60_000),
            st.integers(0, 400),
        ),
        max_size=60,
    ),
    st.integers(0, 30_000),
)
def test_whatever_is_noted_the_bound_and_the_new_prompt_hold(
    noted: list[tuple[int, Offer, Category | None, int, int, int]], prompt: int
) -> None:
    sessions, now_s = Sessions(bound=5), 0.0
    for number, served, category, sent, cached, seconds in noted:
        now_s += seconds
        session = replaced(str(number))
        note(sessions, session, served, category=category, prompt=sent, cached=cached, now_s=now_s)
        assert len(sessions) <= 5
        pinned = found(sessions, session, now_s, prompt)
        assert (pinned.model, pinned.provider) == (served.model, served.provider)
        assert 0 <= pinned.cached_tokens <= prompt
        assert pinned.floor != "vision"


def test_what_one_replica_tells_another_takes_as_old_as_it_is() -> None:
    here, there = Sessions(), Sessions()
    note(here, NAMED, category="coding", now_s=1_000.0)
    note(here, NAMED, category="simple", now_s=1_100.0)
    told = here.told("me", NAMED, 1_130.0)
    assert told is not None

    there.learn("me", NAMED, told, age_s=20.0, now_s=50.0)  # written 20 s ago, of an answer 30 s before that

    def floor(now_s: float, idle_s: float) -> Category | None:
        found = there.find("me", NAMED, now_s, idle_s=idle_s, prompt_tokens=10)
        return None if found is None else found.floor

    assert floor(50.0, 600.0) == "coding"
    assert floor(50.0, 149.0) == "simple"  # the words about code are 150 s old
    assert floor(50.0, 49.0) is None  # and the answer is 50 s old
    assert here.told("me", Session("another", True, None), 1_130.0) is None


def test_an_older_answer_does_not_replace_what_is_known() -> None:
    here, there = Sessions(), Sessions()
    note(here, NAMED, category="coding", now_s=1_000.0)
    told = here.told("me", NAMED, 1_000.0)
    assert told is not None
    note(there, NAMED, category="simple", now_s=1_000.0)
    there.learn("me", NAMED, told, age_s=5.0, now_s=1_001.0)
    there.learn("me", NAMED, b"of another version", age_s=0.0, now_s=1_001.0)
    found = there.find("me", NAMED, 1_001.0, idle_s=600.0, prompt_tokens=10)
    assert found is not None
    assert found.floor == "simple"
