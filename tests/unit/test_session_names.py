"""What programs call their sessions, in headers and elsewhere, and which requests that brings together."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.routing.sessions import SESSION_HEADERS, Session, session_of
from router.wire import RequestBody, parse_request

AGENT = "You are an agent that helps with software. Use your tools."
TITLES = "You are a title generator. You output only a title."
RUNTIME = "Runtime: agent=main | session=agent:main:s1 | sessionId={} | host=box | os=Linux | node=v24"


def body(*turns: tuple[str, str], **members: Any) -> RequestBody:
    messages = [{"role": role, "content": content} for role, content in turns]
    return parse_request(json.dumps({"model": "auto", "messages": messages, **members}).encode())


def talk(turns: int, first: str = "Say hello", system: str = AGENT, **members: Any) -> RequestBody:
    """Return a conversation at the user's message of that number."""
    later = [turn for n in range(1, turns) for turn in (("assistant", f"Answer {n}"), ("user", f"More {n}"))]
    return body(*([("system", system)] if system else []), ("user", first), *later, **members)


def session(request: RequestBody, **headers: str) -> Session:
    found = session_of(
        None, request, None, {name.replace("_", "-"): value for name, value in headers.items()}
    )
    assert found is not None
    return found


@pytest.mark.parametrize("header", SESSION_HEADERS)
def test_a_header_tells_conversations_apart_that_begin_alike(header: str) -> None:
    one, two = (session_of(None, talk(2), None, {header: name}) for name in ("ses_1", "ses_2"))
    assert one is not None
    assert two is not None
    assert one.id != two.id != session(talk(2)).id


def test_a_session_goes_on_where_its_first_words_are_gone() -> None:
    """Agents that run out of context put a summary in the place of what was said first."""
    before = session(talk(9), x_session_id="ses_1")
    after = session(talk(2, first="Summary of what was said so far"), x_session_id="ses_1")
    assert before == after
    assert after.goes_on
    assert session(talk(9)).id != session(talk(2, first="Summary of what was said so far")).id


def test_a_request_without_an_answer_in_it_begins_anew() -> None:
    assert not session(talk(1), x_session_id="ses_1").goes_on


def test_titles_and_helpers_of_a_session_are_no_part_of_its_conversation() -> None:
    main = session(talk(2), x_session_id="ses_1")
    assert session(talk(2, system=TITLES), x_session_id="ses_1").id != main.id
    # Without system prompts the words tell them apart, as where nothing is named.
    plain = session(talk(2, system=""), x_session_id="ses_1")
    title = session(body(("user", "### Task: Suggest a title for this chat")), x_session_id="ses_1")
    assert len({main.id, plain.id, title.id}) == 3


def test_the_names_have_an_order() -> None:
    names = {header: f"name-{number}" for number, header in enumerate(SESSION_HEADERS)}
    for number, header in enumerate(SESSION_HEADERS):
        alone = session_of(None, talk(2), None, {header: f"name-{number}"})
        assert session_of(None, talk(2), None, names) == alone
        del names[header]
    assert session_of("mine", talk(2), None, {"x-session-id": "ses_1"}) == session_of("mine", talk(2))


def test_what_differs_with_each_request_is_no_name() -> None:
    assert session(talk(2), x_client_request_id="req_1", x_request_id="req_2") == session(talk(2))


@pytest.mark.parametrize("name", ["", "x" * 257, "a\tb", "caf\xe9", "a\x7fb", "\x00"])
def test_what_could_not_be_a_name_is_passed_over(name: str) -> None:
    assert session(talk(2), x_session_id=name) == session(talk(2))
    assert session(talk(2), x_session_id=name, x_session_affinity="ses_1") == session(
        talk(2), x_session_id="ses_1"
    )


@given(st.text(st.characters(max_codepoint=255), max_size=300))
def test_a_name_is_kept_as_a_hash(name: str) -> None:
    found = session(talk(2), x_session_id=name)
    assert len(found.id) == 33


def test_openclaws_own_id_is_read_where_it_sends_no_header() -> None:
    def openclaw(session_id: str, first: str = "Say hello") -> RequestBody:
        return talk(2, first=f"[Sun 2026-11-22 08:44 UTC] {first}\n\n{RUNTIME.format(session_id)}")

    assert (
        session(openclaw("0b1e")) == session(openclaw("0b1e", "Something else")) != session(openclaw("77aa"))
    )
    assert session(openclaw("0b1e")) == session(talk(2), session_id="0b1e")
    quoted = "What does '| sessionId=0b1e |' mean in a log?"
    assert session(talk(2, first=quoted)).messages == 4  # recognised by its beginning


def test_a_cache_key_tells_apart_and_never_brings_together() -> None:
    """Programs may send one key for all that they do."""
    plain = session(talk(2))
    keyed = session(talk(2, prompt_cache_key="app"))
    assert keyed.id != plain.id
    assert keyed.messages == plain.messages == 4
    assert keyed == session(talk(2, prompt_cache_key="app"))
    assert keyed.id != session(talk(2, prompt_cache_key="other")).id
    assert keyed.id != session(talk(2, first="Say goodbye", prompt_cache_key="app")).id
    assert session(talk(2, prompt_cache_key="x" * 300)) == plain
    for odd in (None, 7, {"a": 1}, "\u20ac"):
        session(talk(2, prompt_cache_key=odd))
