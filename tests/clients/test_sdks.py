"""SDKs as their authors publish them, each against a running router: the same questions, the same answers."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients.agents import PNG, Bench, bench
from tests.clients.packages import run_node, run_python

pytestmark = pytest.mark.clients

TOOL_SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
STATUSES = ("401", "402", "404", "429")
AI_SDK = dict.fromkeys(STATUSES, "AI_APICallError")
PYDANTIC_AI = {
    "401": "ModelAuthenticationError",
    "402": "ModelQuotaExceededError",
    "404": "ModelNotFoundError",
    "429": "ModelRateLimitError",
}
SDKS: dict[str, Any] = {
    "openai-python-2": (run_python, "use_openai.py", {}, {}),
    "openai-node": (run_node, "use_openai.mjs", {"402": "APIError"}, {}),
    "openai-python-2-responses": (run_python, "use_openai_responses.py", {}, {}),
    "openai-node-responses": (run_node, "use_openai_responses.mjs", {"402": "APIError"}, {}),
    "ai-sdk": (run_node, "use_ai_sdk.mjs", AI_SDK, {"PROVIDER": "@ai-sdk/openai-compatible"}),
    "ai-sdk-responses": (run_node, "use_ai_sdk.mjs", AI_SDK, {"PROVIDER": "@ai-sdk/openai"}),
    "openai-agents": (run_python, "use_openai_agents.py", {}, {}),
    "langchain": (run_python, "use_langchain.py", {}, {}),
    # It looks for its prices on the network, but for this.
    "litellm": (run_python, "use_litellm.py", {"402": "APIError"}, {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}),
    "pydantic-ai": (run_python, "use_pydantic_ai.py", PYDANTIC_AI, {}),
    "llm": (run_python, "use_llm.py", {}, {}),
}
ERRORS = {
    "401": "AuthenticationError",
    "402": "APIStatusError",
    "404": "NotFoundError",
    "429": "RateLimitError",
}


@pytest.fixture(scope="module")
def paid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with bench(tmp_path_factory.mktemp("sdks"), access="paid") as running:
        yield running


@pytest.mark.parametrize("sdk", SDKS)
def test_an_sdk_gets_all_that_it_asks_for(
    sdk: str,
    paid: Bench,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    router, upstream = paid.router, paid.upstream
    key = paid.new_key("--credit", "5")
    seen, logged = len(upstream.requests), len(router.logged())
    run, script, kinds, more = SDKS[sdk]
    if sdk == "llm":
        more = {"LLM_USER_PATH": str(tmp_path)}
        paid.init("llm", "--key", key, **more)
    question = {
        "origin": router.origin,
        "base_url": router.base_url,
        "key": key,
        "poor_key": paid.new_key("--credit", "0"),
        "limited_key": paid.new_key("--credit", "5", "--rpm", "1"),
        "image": f"data:image/png;base64,{base64.b64encode(PNG).decode()}",
        "tool_schema": TOOL_SCHEMA,
        "folder": str(tmp_path),
    }
    got: Any = run(script, question, tmp_path / "home", **more)
    record_property("versions", got.pop("versions"))
    requests = upstream.requests[seen:]
    answered = [line for line in router.logged()[logged:] if line["outcome"] == "ok"]
    errors = {**ERRORS, **kinds}
    # llm waits as long as the router says and asks again: its 429 would take the minute of the limit.
    statuses = STATUSES[:3] if sdk == "llm" else STATUSES
    assert got.pop("errors") == {status: [errors[status], int(status)] for status in statuses}
    assert got["usage"] == [answered[0]["prompt_tokens"], answered[0]["completion_tokens"]]
    assert got.pop("usage")[1] == 2
    assert got.pop("stream_usage")[1] == 3
    assert got == {
        "chat": "Say hello",
        "stream": "Say hello again",
        "tool": ["get_weather", {"city": "text"}, "Use get_weather"],
        "image": "Describe it",
        "json": {"echo": "Say hello"},
        "schema": {"name": "text", "people": 1},
        "bare": "Say hello",
    }
    # A refusal never reaches the upstream, and nothing is asked twice.
    assert len(requests) == len(answered) == (8 if sdk == "llm" else 9)
    (tool_turn,) = [r for r in requests if r.json["messages"][-1]["role"] == "tool"]
    assert tool_turn.json["messages"][-1]["content"] == "sunny"
    assert [line["category"] for line in answered].count("vision") == 1
