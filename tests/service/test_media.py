"""Audio and files through the service: who gets them, over either API, and that `explain` says why."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import pytest

from tests.router import Answer, Offered, RouterServer, write_catalog
from tests.upstream import ScriptedUpstream, answer

if TYPE_CHECKING:
    from collections.abc import Iterator

# More bytes than any of these contexts has tokens, were they read as text.
SPEECH = base64.b64encode(bytes(1_500_000)).decode()
PDF = "data:application/pdf;base64," + base64.b64encode(b"%PDF-1.7\n" + bytes(1_500_000)).decode()
MODELS = [
    Offered("test/cheap"),
    Offered("test/ears", price=(5.0, 9.0), input=("text", "image", "audio")),
    Offered("test/reader", price=(6.0, 9.0), input=("text", "image", "file")),
]
CHAT: dict[str, dict[str, Any]] = {
    "test/ears": {"type": "input_audio", "input_audio": {"data": SPEECH, "format": "wav"}},
    "test/reader": {"type": "file", "file": {"filename": "a.pdf", "file_data": PDF}},
    "test/cheap": {"type": "video_url", "video_url": {"url": "https://example.com/a.mp4"}},
}
RESPONSES: dict[str, dict[str, Any]] = {
    "test/ears": CHAT["test/ears"],
    "test/reader": {"type": "input_file", "filename": "a.pdf", "file_data": PDF},
}


@pytest.fixture(scope="module")
def up() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as server:
        yield server


@pytest.fixture(scope="module")
def router(up: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RouterServer]:
    folder = tmp_path_factory.mktemp("catalog")
    catalog = write_catalog(folder, {"scripted": up.base_url}, MODELS)
    with RouterServer(catalog, tmp_path_factory.mktemp("data")) as running:
        yield running


def chat(router: RouterServer, part: dict[str, Any], path: str = "/v1/chat/completions") -> Answer:
    content = [{"type": "text", "text": "What is said in it?"}, part]
    return router.request("POST", path, {"model": "auto", "messages": [{"role": "user", "content": content}]})


@pytest.mark.parametrize("model", CHAT)
def test_it_goes_to_the_model_that_reads_it(router: RouterServer, up: ScriptedUpstream, model: str) -> None:
    up.on(model, answer("yes"))
    got = chat(router, CHAT[model])

    assert (got.status, got.headers["x-llm-router-resolved-model"]) == (200, model)
    assert up.requests[-1].json["messages"][0]["content"][1] == CHAT[model]


@pytest.mark.parametrize("model", RESPONSES)
def test_so_it_does_over_the_responses_api(router: RouterServer, up: ScriptedUpstream, model: str) -> None:
    up.on(model, answer("yes"))
    content = [{"type": "input_text", "text": "What is said in it?"}, RESPONSES[model]]
    body = {"model": "auto", "input": [{"role": "user", "content": content}]}
    got = router.request("POST", "/v1/responses", body)

    assert (got.status, got.headers["x-llm-router-resolved-model"]) == (200, model)


def test_the_decision_says_so(router: RouterServer) -> None:
    decision = chat(router, CHAT["test/ears"], "/v1/route").json

    assert decision["need"]["media"] == ["audio"]
    assert decision["need"]["prompt_tokens"] < 20_000
    lost = {loser["model"]: (loser["reason"], loser["detail"]) for loser in decision["losers"]}
    assert lost == dict.fromkeys(("test/cheap", "test/reader"), ("modality", "does not read audio"))
