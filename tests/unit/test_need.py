import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.catalog.snapshot import CATEGORIES, MODES, Policy, Snapshot
from router.errors import BadRequest, ModelNotFound
from router.routing.need import Asked, Need, read_asked, read_need
from router.wire import parse_request
from tests.unit.parts import AT, catalog, model

ALIASES = {"fast": "auto:nitro", "gpt": "openai/gpt-6", "code": "coding", "cheap": "router/auto:cost"}
CATALOG = catalog(
    model("openai/gpt-6"),
    model("openai/gpt-6-mini"),
    model("moonshotai/kimi-k2.6"),
    model("acme/auto:model"),
    policy=Policy(aliases=ALIASES, mode="quality"),
)


def ask(name: str, *fallbacks: str, snapshot: Snapshot = CATALOG) -> Asked:
    return read_asked(name, fallbacks, snapshot)


def read(headers: dict[str, str] | None = None, **fields: Any) -> Need:
    data = {"model": "auto", "messages": [{"role": "user", "content": "hello"}], **fields}
    return read_need(parse_request(json.dumps(data).encode()), headers or {}, CATALOG, at=AT)


@pytest.mark.parametrize("prefix", ["", "llmrouter/", "router/"])
@pytest.mark.parametrize("name", ["auto", *CATEGORIES])
def test_the_routers_own_names(prefix: str, name: str) -> None:
    category = None if name == "auto" else name
    assert ask(prefix + name) == Asked(name, name == "auto", category, None, (), None)  # type: ignore[arg-type]  # one of CATEGORIES


@pytest.mark.parametrize("prefix", ["", "llmrouter/", "router/"])
@pytest.mark.parametrize("mode", MODES)
def test_auto_takes_each_mode_as_a_suffix(prefix: str, mode: str) -> None:
    found = ask(f"{prefix}auto:{mode}")
    assert (found.name, found.auto, found.mode) == ("auto", True, mode)


def test_catalog_ids_with_and_without_prefix() -> None:
    assert ask("openai/gpt-6").model == "openai/gpt-6"
    assert ask("router/openai/gpt-6").model == "openai/gpt-6"
    assert ask("acme/auto:model").model == "acme/auto:model"
    assert ask("openai/gpt-6") == Asked("openai/gpt-6", False, None, "openai/gpt-6", (), None)


def test_aliases_name_models_modes_and_categories() -> None:
    assert ask("gpt").model == "openai/gpt-6"
    assert ask("fast").mode == "nitro"
    assert ask("code").category == "coding"
    assert ask("cheap").mode == "cost"


@pytest.mark.parametrize(
    "name",
    ["AUTO", "auto:", "auto:fast", "auto:cost:x", "autos", "router/", "other/auto", "gpt-7", " auto", "*"],
)
def test_unknown_names_are_told_the_three_nearest(name: str) -> None:
    with pytest.raises(ModelNotFound) as caught:
        ask(name)
    assert caught.value.param == "model"
    assert repr(name) in caught.value.message
    nearest = caught.value.message.split("Nearest: ")[1].split(". ")[0]
    assert nearest.count(", ") == 2


def test_the_nearest_id_is_the_one_that_was_meant() -> None:
    with pytest.raises(ModelNotFound, match=r"Nearest: moonshotai/kimi-k2\.6,"):
        ask("kimi-k2.6")
    with pytest.raises(ModelNotFound, match="Nearest: auto,"):
        ask(" AUTO")
    with pytest.raises(ModelNotFound, match="Nearest: openai/gpt-6"):
        ask("openai/gpt6")


def test_the_list_of_models_keeps_its_order_and_loses_what_is_unknown_or_doubled() -> None:
    listed = ("nope", "moonshotai/kimi-k2.6", "gpt", "openai/gpt-6", "auto", "router/openai/gpt-6-mini")
    assert ask("auto", *listed).fallbacks == ("moonshotai/kimi-k2.6", "openai/gpt-6", "openai/gpt-6-mini")
    assert ask("openai/gpt-6", *listed).fallbacks == ("moonshotai/kimi-k2.6", "openai/gpt-6-mini")


def test_the_mode_comes_from_the_name_then_the_body_then_the_header_then_the_policy() -> None:
    header = {"x-llm-router-mode": "floor"}
    assert read(header, model="auto:cost", router={"mode": "nitro"}).mode == "cost"
    assert read(header, router={"mode": "nitro"}).mode == "nitro"
    assert read(header).mode == "floor"
    assert read().mode == "quality"


def test_an_unknown_mode_is_refused_with_its_place() -> None:
    for headers, fields, param in (
        ({"x-llm-router-mode": "turbo"}, {}, "x-llm-router-mode"),
        ({}, {"router": {"mode": "turbo"}}, "router.mode"),
        ({}, {"router": {"mode": ""}}, "router.mode"),
    ):
        with pytest.raises(
            BadRequest, match="must be one of cost, balanced, quality, nitro, floor"
        ) as caught:
            read(headers, **fields)
        assert caught.value.param == param


@pytest.mark.parametrize(
    ("text", "nusd"),
    [("0", 0), ("0.01", 10_000_000), (" 1 ", 10**9), ("1e-9", 1), ("1E3", 10**12), ("0.0000000019", 1)],
)
def test_a_cap_in_the_header_is_exact_and_never_rounded_up(text: str, nusd: int) -> None:
    assert read({"x-llm-router-max-cost-usd": text}).max_cost_nusd == nusd


@pytest.mark.parametrize(
    "text",
    ["", "much", "NaN", "sNaN", "Infinity", "-Infinity", "-1", "-0.000001", "1e30", "9" * 400, "$1", "1,5"],
)
def test_a_cap_that_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(BadRequest) as caught:
        read({"x-llm-router-max-cost-usd": text})
    assert caught.value.param == "x-llm-router-max-cost-usd"
    assert "number of US dollars" in caught.value.message


@pytest.mark.parametrize("value", [-1, 1e30, "NaN", "-Infinity", "sNaN", 10**40])
def test_a_cap_in_the_body_is_checked_in_the_same_way(value: Any) -> None:
    with pytest.raises(BadRequest) as caught:
        read(router={"max_cost_usd": value})
    assert caught.value.param == "router.max_cost_usd"


def test_a_session_in_the_header_is_as_long_as_one_in_the_body() -> None:
    longest = "x" * 256
    assert read({"x-llm-router-session": longest}).session == longest
    assert read(router={"session": longest}).session == longest
    with pytest.raises(BadRequest, match="x-llm-router-session is longer than 256 characters") as caught:
        read({"x-llm-router-session": longest + "x"})
    assert caught.value.param == "x-llm-router-session"


def test_the_longest_lists_of_globs_are_taken() -> None:
    globs = ["x" * 256] * 100
    assert read(router={"allow": globs, "deny": globs}).allow == tuple(globs)


def test_the_bodys_cap_goes_before_the_headers() -> None:
    assert read({"x-llm-router-max-cost-usd": "5"}, router={"max_cost_usd": 0.1}).max_cost_nusd == 100_000_000
    assert read().max_cost_nusd is None


@given(st.decimals(0, 10**6, places=9))
def test_a_cap_in_the_body_is_never_a_float(usd: Decimal) -> None:
    data = (
        f'{{"model":"auto","messages":[{{"role":"user","content":"x"}}],"router":{{"max_cost_usd":{usd:f}}}}}'
    )
    assert read_need(parse_request(data.encode()), {}, CATALOG, at=AT).max_cost_nusd == int(usd * 10**9)


def test_what_else_is_read_of_a_request() -> None:
    assert read(tools=[{"type": "function"}]).tools
    assert read(response_format={"type": "json_schema"}).json_schema
    assert read(response_format={"type": "json_object"}).json_mode
    assert [read(reasoning_effort=e).reasoning for e in ("none", "minimal", "low", "high", None)] == [
        False,
        False,
        True,
        True,
        False,
    ]
    assert read(max_tokens=7, n=3).output_tokens == 7
    assert read(n=3).choices == 3
    assert read({"x-llm-router-session": "s1"}).session == "s1"
    assert read({"x-llm-router-session": "s1"}, router={"session": "s2"}).session == "s1"
    assert read({"x-llm-router-session": ""}, router={"session": "s2"}).session == "s2"


@pytest.mark.parametrize(
    ("globs", "matches"),
    [
        ("openai/gpt-6", True),
        ("openai/*", True),
        ("*", True),
        ("acme/*", True),
        ("acme/openai/gpt-?", True),
        ("acme:*", True),
        ("*mini*", False),
        ("OPENAI/*", False),
        ("openai", False),
        ("", False),
        ("[", False),
    ],
)
def test_globs_name_a_model_or_its_provider(globs: str, matches: bool) -> None:
    allowed = read(router={"allow": [globs]}).permits("openai/gpt-6", "acme")
    denied = read(router={"deny": ["nothing", globs]}).permits("openai/gpt-6", "acme")
    assert allowed == (None if matches else "not in the request's allow list")
    assert denied == ("in the request's deny list" if matches else None)


def test_deny_goes_before_allow_and_the_key_before_both() -> None:
    fields = {"allow": ["openai/*"], "deny": ["*-mini"]}
    wanted = read(router=fields)
    assert wanted.permits("openai/gpt-6", "acme") is None
    assert wanted.permits("openai/gpt-6-mini", "acme") == "in the request's deny list"
    data = json.dumps(
        {"model": "auto", "messages": [{"role": "user", "content": "x"}], "router": {"allow": ["*"]}}
    )
    keyed = read_need(parse_request(data.encode()), {}, CATALOG, at=AT, key_models=("moonshotai/*",))
    assert keyed.permits("openai/gpt-6", "acme") == "the API key does not allow it"
    assert keyed.permits("moonshotai/kimi-k2.6", "acme") is None


@given(st.text(max_size=300), st.text(min_size=1, max_size=50))
def test_more_text_is_never_fewer_tokens(text: str, more: str) -> None:
    less = read(messages=[{"role": "user", "content": text}])
    longer = read(messages=[{"role": "user", "content": text + more}])
    assert less.prompt_tokens <= longer.prompt_tokens
    assert less.prompt_tokens_bound <= longer.prompt_tokens_bound


@given(st.lists(st.text(max_size=100), min_size=1, max_size=10), st.integers(0, 3))
def test_the_estimate_is_positive_and_never_above_its_bound(texts: list[str], images: int) -> None:
    parts: list[dict[str, Any]] = [{"type": "text", "text": text} for text in texts]
    parts += [{"type": "image_url", "image_url": {"url": "https://example.com"}}] * images
    wanted = read(messages=[{"role": "user", "content": parts}])
    assert 0 < wanted.prompt_tokens <= wanted.prompt_tokens_bound
    assert wanted.images == images
    assert wanted.prompt_tokens > images * 1_000


def test_an_image_counts_as_one_however_large_its_data_is() -> None:
    def uri(size: int) -> dict[str, Any]:
        url = "data:image/png;base64,iVBORw0KGgoA" + "A" * size
        return {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}

    assert read(messages=[uri(100)]).prompt_tokens == read(messages=[uri(100_000)]).prompt_tokens


def test_other_scripts_cost_more_tokens_a_character() -> None:
    latin = read(messages=[{"role": "user", "content": "a" * 1_000}]).prompt_tokens
    for text in ("я" * 1_000, "語" * 1_000, "😀" * 1_000):
        data = json.dumps(
            {"model": "auto", "messages": [{"role": "user", "content": text}]}, ensure_ascii=False
        )
        assert read_need(parse_request(data.encode()), {}, CATALOG, at=AT).prompt_tokens > latin


NAMED = {"type": "function", "function": {"name": "f"}}


@pytest.mark.parametrize(
    ("fields", "forced"),
    [
        ({}, False),
        ({"tool_choice": None}, False),
        ({"tool_choice": "auto"}, False),
        ({"tool_choice": "none"}, False),
        ({"tool_choice": "required"}, True),
        ({"tool_choice": "any"}, True),
        ({"tool_choice": NAMED}, True),
        ({"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}}}, False),
        (
            {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": []}}},
            True,
        ),
        ({"tool_choice": {"type": "allowed_tools", "allowed_tools": 7}}, True),
        ({"function_call": {"name": "f"}}, True),
        ({"function_call": "auto"}, False),
    ],
)
def test_a_tool_that_must_be_called_is_seen(fields: dict[str, Any], forced: bool) -> None:
    assert read(tools=[NAMED], **fields).forced_tools is forced
    assert not read(**fields).forced_tools


def test_a_request_does_not_know_its_conversation() -> None:
    assert read({"x-llm-router-session": "s1"}).pinned is None
