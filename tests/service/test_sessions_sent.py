"""Sessions that programs name to any server, as OpenCode and OpenClaw do: what they hold together."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.router import Answer, Offered, RouterServer, write_catalog
from tests.service.walking import bearer, make_key, wait_for
from tests.upstream import ScriptedUpstream

CHEAP, DEAR = "vendor/cheap", "vendor/dear"
AGENT = "You are an agent that helps with software. Use your tools."
TITLES = "You are a title generator. You output only a title."
HARD = "Write a lock-free queue in C++ with its tests, and fix the race in the code of this service"
EASY = "Say hello in French"


@pytest.fixture
def router(tmp_path: Path) -> Iterator[RouterServer]:
    cheap = Offered(CHEAP, quality={"simple": 80, "coding": 30, "reasoning": 30}, price=(0.1, 0.2))
    dear = Offered(DEAR, quality={"simple": 80, "coding": 90, "reasoning": 90}, price=(5, 15))
    with ScriptedUpstream() as up:
        catalog = write_catalog(tmp_path / "catalog", {"scripted": up.base_url}, [cheap, dear])
        with RouterServer(catalog, tmp_path / "data") as running:
            yield running


def ask(router: RouterServer, turns: list[str], system: str = AGENT, **headers: str) -> Answer:
    """Send a conversation, the user's and the model's messages in turn."""
    messages = [{"role": "system", "content": system}] if system else []
    messages += [
        {"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(turns)
    ]
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    got = router.request("POST", "/v1/chat/completions", {"model": "auto", "messages": messages}, named)
    assert got.status == 200, got.body
    return got


def served(answer: Answer) -> tuple[str, str]:
    return answer.headers["x-llm-router-resolved-model"], answer.headers["x-llm-router-category"]


def pinned(router: RouterServer, requests: int) -> list[Any]:
    """Return the model that each request so far was found to go on with, once all are in the decision log."""

    def look() -> list[Any] | None:
        lines = [line for file in router.data.glob("decisions/*") for line in file.read_text().splitlines()]
        needs = [line["need"] for line in map(json.loads, lines) if "need" in line]
        return needs if len(needs) == requests else None

    return [need["pinned"] and need["pinned"]["model"] for need in wait_for(look, "the decision log")]


def test_a_title_is_not_drawn_to_the_dear_model_nor_the_talk_to_the_cheap_one(router: RouterServer) -> None:
    session = "ses_dfa530613ffeHDRxLgNNMTcABI"
    turns = [HARD]
    assert served(ask(router, turns, x_session_id=session)) == (DEAR, "coding")
    assert served(ask(router, [EASY], TITLES, x_session_id=session)) == (CHEAP, "simple")
    turns += ["Done.", "go on"]
    assert served(ask(router, turns, x_session_id=session)) == (DEAR, "coding")
    # Nor where a title asks with a whole talk in it: it goes on with titles.
    assert served(ask(router, [EASY, "Bonjour", "thanks"], TITLES, x_session_id=session)) == (CHEAP, "simple")
    assert pinned(router, 4) == [None, None, DEAR, CHEAP]


def test_easy_talk_is_not_drawn_to_what_a_hard_helper_used(router: RouterServer) -> None:
    assert served(ask(router, [EASY], x_session_id="ses_1")) == (CHEAP, "simple")
    helper = "You explore a code base for another agent."
    assert served(ask(router, [HARD], helper, x_session_id="ses_1")) == (DEAR, "coding")
    assert served(ask(router, [EASY, "Bonjour", "Say goodbye too"], x_session_id="ses_1")) == (
        CHEAP,
        "simple",
    )
    assert pinned(router, 3) == [None, None, CHEAP]


def test_two_talks_that_begin_alike_at_once_stay_apart(router: RouterServer) -> None:
    """Without names the second would be taken for the first one's next turn."""
    ask(router, [HARD], session_id="s1")
    ask(router, [HARD, "Which compiler?", EASY], session_id="s2")
    ask(router, [HARD, "Done.", "Say hello", "Hello.", "go on"], session_id="s1")
    ask(router, [HARD, "Which compiler?", EASY, "Bonjour", "go on"], session_id="s2")
    ask(router, [HARD, "Which compiler?", EASY, "Bonjour", "go on", "Done.", "go on"])
    assert pinned(router, 5) == [None, None, DEAR, DEAR, None]


def test_our_own_header_goes_before_the_body_and_both_before_what_others_read(router: RouterServer) -> None:
    ask(router, [HARD], x_llm_router_session="mine")
    ask(router, [EASY], "", x_llm_router_session="mine", x_session_id="ses_1")
    body = {"model": "auto", "messages": [{"role": "user", "content": EASY}]}
    theirs = {"x-llm-router-session": "other"}
    router.request("POST", "/v1/chat/completions", {**body, "router": {"session": "mine"}}, theirs)
    router.request("POST", "/v1/chat/completions", {**body, "router": {"session": "mine"}})
    assert [model is not None for model in pinned(router, 4)] == [False, True, False, True]


def test_a_session_belongs_to_the_account_that_sent_it(router: RouterServer) -> None:
    mine, yours = (bearer(make_key(router)[0]) for _ in range(2))
    for whose in (mine, yours, mine):
        ask(router, [HARD, "Done.", "go on"], **{"x-session-id": "ses_1", **whose})
    assert pinned(router, 3) == [None, None, DEAR]


@pytest.mark.parametrize("name", ["x" * 5_000, "caf\xe9", " ", "a\tb"])
def test_a_header_that_could_not_be_a_name_breaks_nothing(router: RouterServer, name: str) -> None:
    assert served(ask(router, [EASY], x_session_id=name)) == (CHEAP, "simple")


def test_no_name_leaves_for_the_upstream_or_is_kept(router: RouterServer) -> None:
    ask(router, [EASY], x_session_id="ses_private", session_id="ses_private")
    kept = b"".join(file.read_bytes() for file in router.data.rglob("*") if file.is_file())
    assert b"ses_private" not in kept + router.log.getvalue().encode()
