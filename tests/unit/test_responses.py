"""The Responses API said as chat and back: pure functions, whatever comes."""

from __future__ import annotations

import json
import re
from typing import Any, get_args, get_type_hints

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from openai.types.responses.response_input_item_param import ResponseInputItemParam

from router.errors import BadRequest
from router.responses.answer import whole_answer
from router.responses.events import ResponseEvents
from router.responses.request import Asked, read_request
from router.responses.tools import MAX_NAME_CHARS, chat_name
from router.wire import RequestBody

JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 9) | st.text('ab{"\\', max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "text"]), inner),
    max_leaves=5,
)
TYPES = st.sampled_from(
    [
        "message",
        "function_call",
        "function_call_output",
        "custom_tool_call",
        "custom_tool_call_output",
        "reasoning",
        "web_search_call",
        "item_reference",
        "input_text",
        "output_text",
        "input_image",
        "input_file",
        "refusal",
        "other",
    ]
)
ITEM_TYPES = [get_type_hints(item)["type"] for item in get_args(ResponseInputItemParam)]
FIELDS = [
    "role",
    "content",
    "call_id",
    "name",
    "namespace",
    "arguments",
    "input",
    "output",
    "id",
    "text",
    "refusal",
    "image_url",
    "detail",
]
PARTS = st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=4).flatmap(
    lambda part: TYPES.map(lambda kind: {"type": kind, **part})
)
ITEMS = st.builds(
    lambda kind, role, content, more: {
        "call_id": "c",
        "name": "f",
        **more,
        "type": kind,
        "role": role,
        "content": content,
    },
    TYPES,
    st.sampled_from(["user", "assistant", "developer", "system", "tool"]),
    st.text("ab", max_size=3) | st.lists(PARTS, max_size=3),
    st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=3),
)


def read(**fields: Any) -> RequestBody:
    return read_request(json.dumps({"model": "auto", "input": "hi", **fields}).encode())[0]


def chat(request: RequestBody) -> dict[str, Any]:
    """Return what an upstream would be sent."""
    told: dict[str, Any] = json.loads(request.for_upstream("m"))
    return told


def messages(*items: Any, **fields: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = chat(read(input=list(items), **fields))["messages"]
    return found


def outcome(**fields: Any) -> list[dict[str, Any]] | BadRequest:
    """Return the messages, or the refusal."""
    try:
        found: list[dict[str, Any]] = chat(read(**fields))["messages"]
    except BadRequest as refused:
        return refused
    return found


def call(call_id: str, name: str = "f", **more: Any) -> dict[str, Any]:
    return {"type": "function_call", "call_id": call_id, "name": name, "arguments": "{}", **more}


def output(call_id: str, said: Any = "ok") -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call_id, "output": said}


def user(text: Any) -> dict[str, Any]:
    return {"role": "user", "content": text}


@given(st.dictionaries(st.sampled_from(["input", "tools", "tool_choice", "text", "reasoning"]), JSON))
def test_any_values_are_read_or_refused(fields: dict[str, Any]) -> None:
    read_or_refused = outcome(**fields)
    assert isinstance(read_or_refused, list) or read_or_refused.param is not None


@given(st.lists(ITEMS, max_size=5))
def test_any_items_are_read_or_refused_and_every_output_follows_its_call(items: list[Any]) -> None:
    told = outcome(input=items)
    if isinstance(told, BadRequest):
        assert (told.param or "").startswith("input")
        return
    for number, message in enumerate(told):
        if message["role"] == "tool":
            before = told[number - 1]
            assert before["role"] == "tool" or before["tool_calls"]


@given(st.lists(st.tuples(st.sampled_from(["user", "assistant", "call", "output"]), st.sampled_from("abc"))))
def test_a_talk_of_any_order_keeps_all_its_words_and_every_output(steps: list[tuple[str, str]]) -> None:
    items: list[dict[str, Any]] = []
    open_calls: list[str] = []
    for number, (kind, name) in enumerate(steps):
        if kind == "call":
            items.append(call(f"{name}{number}"))
            open_calls.append(f"{name}{number}")
        elif kind == "output" and open_calls:
            items.append(output(open_calls.pop(len(name) % len(open_calls)), f"out{number}"))
        elif kind != "output":
            items.append({"role": kind, "content": f"said{number}"})
    if not items:
        return
    told = messages(*items)
    answered: list[str] = []
    for message in told:
        if message["role"] == "tool":
            assert message["tool_call_id"] in answered
        else:
            answered = [made["id"] for made in message.get("tool_calls", [])]
    texts = [m["content"] for m in told if m["role"] != "tool" and m["content"]]
    assert texts == [item["content"] for item in items if "role" in item]
    outputs = {item["call_id"]: item["output"] for item in items if "output" in item}
    assert {m["tool_call_id"]: m["content"] for m in told if m["role"] == "tool"} == outputs


@given(st.binary(max_size=40))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(BadRequest):
        read_request(data)


def test_calls_join_the_message_before_them_and_outputs_follow_at_once() -> None:
    told = messages(
        user("do both"),
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"},
        {
            "role": "assistant",
            "content": [{"type": "output_text", "text": "I "}, {"type": "refusal", "refusal": "may."}],
        },
        call("a"),
        call("b", "g", namespace="mcp__x"),
        {"type": "web_search_call", "id": "ws_1", "status": "completed"},
        output("b"),
        user("hurry"),
        output("a", [{"type": "input_text", "text": "1"}, {"type": "input_text", "text": "2"}]),
        call("a", arguments='{"x":1}'),
        output("a", "again"),
    )
    assert [(m["role"], m.get("tool_call_id"), m.get("content")) for m in told] == [
        ("user", None, "do both"),
        ("assistant", None, "I may."),
        ("tool", "b", "ok"),
        ("tool", "a", "1\n2"),
        ("user", None, "hurry"),
        ("assistant", None, None),
        ("tool", "a", "again"),
    ]
    assert [c["function"]["name"] for c in told[1]["tool_calls"]] == ["f", "mcp__x__g"]


def test_calls_that_were_made_in_turn_stay_in_turn() -> None:
    told = messages(user("do both"), call("a"), output("a"), call("b"), output("b"))
    assert [m["role"] for m in told] == ["user", "assistant", "tool", "assistant", "tool"]


def test_an_image_of_a_tool_comes_behind_all_outputs_and_is_no_persons() -> None:
    picture = {"type": "input_image", "image_url": "https://x.example/a.png", "detail": "original"}
    request = read(input=[user("look"), call("a"), call("b"), output("a", [picture]), output("b", "text")])
    told = chat(request)["messages"]
    assert [m["role"] for m in told] == ["user", "assistant", "tool", "tool", "user"]
    assert told[-1]["content"] == [
        {"type": "text", "text": "Image(s) from tool result #1:"},
        {"type": "image_url", "image_url": {"url": "https://x.example/a.png"}},
    ]
    assert request.images == 1


def test_a_file_of_a_tool_comes_behind_all_outputs_too() -> None:
    paper = {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,AA=="}
    picture = {"type": "input_image", "image_url": "https://x.example/a.png"}
    request = read(input=[user("read"), call("a"), call("b"), output("a"), output("b", [paper, picture])])
    told = chat(request)["messages"]
    assert [m["role"] for m in told] == ["user", "assistant", "tool", "tool", "user"]
    assert told[3]["content"] == "The file follows."
    assert told[-1]["content"] == [
        {"type": "text", "text": "File(s) from tool result #2:"},
        {
            "type": "file",
            "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AA=="},
        },
        {"type": "image_url", "image_url": {"url": "https://x.example/a.png"}},
    ]


def test_items_may_add_tools_and_change_settings() -> None:
    function = {"type": "function", "name": "f"}
    update = {"type": "configuration_update", "reasoning": {"effort": "high"}}
    request = read(
        input=[
            update,
            user("hi"),
            {"type": "additional_tools", "role": "developer", "tools": [{**function, "name": "g"}]},
            {**update, "text": {"format": {"type": "json_object"}}, "reasoning": {"effort": "low"}},
        ],
        tools=[function],
        reasoning={"effort": "medium"},
        tool_choice={"type": "function", "name": "g"},
    )
    told = chat(request)
    assert [tool["function"]["name"] for tool in told["tools"]] == ["f", "g"]
    assert told["tool_choice"]["function"] == {"name": "g"}
    assert (told["reasoning_effort"], told["response_format"]) == ("low", {"type": "json_object"})


@pytest.mark.parametrize(
    ("item", "param"),
    [
        ({"type": "additional_tools", "tools": [{"type": "function"}]}, "input[1].tools[0].name"),
        ({"type": "configuration_update", "reasoning": {"effort": 3}}, "input[1].reasoning.effort"),
        ({"type": "compaction_trigger"}, "input[1]"),
    ],
)
def test_what_an_item_sets_wrongly_is_named_by_its_place(item: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as refused:
        read(input=[user("hi"), item])
    assert refused.value.param == param


@pytest.mark.parametrize("kind", sorted(set(re.findall(r"Literal\['(\w+)'\]", str(ITEM_TYPES)))))
def test_every_kind_of_item_that_openais_sdk_sends_is_known(kind: str) -> None:
    told = outcome(input=[user("hi"), {"type": kind}])
    assert isinstance(told, list) or told.param != "input[1].type"


def test_what_begins_a_conversation_is_one_system_message() -> None:
    told = messages(
        {"role": "developer", "content": [{"type": "input_text", "text": "B"}]},
        {"role": "system", "content": "C"},
        user("hi"),
        {"role": "developer", "content": "D"},
        instructions="A",
    )
    assert [(m["role"], m["content"]) for m in told] == [
        ("system", "A\n\nB\n\nC"),
        ("user", "hi"),
        ("system", "D"),
    ]


def test_tools_that_openai_runs_are_left_out_with_their_choice() -> None:
    hosted = [{"type": "web_search"}, {"type": "image_generation"}, {"type": "local_shell"}]
    told = chat(read(tools=hosted, tool_choice="auto", parallel_tool_calls=True))
    assert told.keys() == {"model", "messages"}
    told = chat(
        read(tools=[*hosted, {"type": "function", "name": "f", "strict": True}], tool_choice="required")
    )
    assert [tool["function"] for tool in told["tools"]] == [{"name": "f", "strict": True}]
    assert told["tool_choice"] == "required"


def test_allowed_tools_are_the_only_ones_that_are_sent() -> None:
    tools = [{"type": "function", "name": name} for name in "fg"]
    allowed = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "g"}]}
    told = chat(read(tools=tools, tool_choice=allowed))
    assert [tool["function"]["name"] for tool in told["tools"]] == ["g"]
    assert told["tool_choice"] == "required"
    named = chat(read(tools=tools, tool_choice={"type": "function", "name": "f"}))
    assert named["tool_choice"] == {"type": "function", "function": {"name": "f"}}


@given(st.text("abc_é", min_size=1, max_size=60), st.text("abc_", min_size=1, max_size=60))
@example("spawn" * 9, "mcp__server" * 4)
def test_a_tools_name_fits_chat_and_is_always_the_same(name: str, namespace: str) -> None:
    told = chat_name(name, namespace)
    assert len(told) <= MAX_NAME_CHARS
    assert told == chat_name(name, namespace)
    assert chat_name(f"{name}x", namespace) != told


def test_settings_get_the_names_of_chat_and_what_is_nobodys_stays() -> None:
    schema = {"type": "object"}
    told = chat(
        read(
            max_output_tokens=9,
            temperature=0.5,
            top_p=0.1,
            user="ada",
            reasoning={"effort": "low", "summary": "auto"},
            text={
                "format": {"type": "json_schema", "name": "x", "schema": schema, "strict": True},
                "verbosity": "low",
            },
            metadata={"a": "b"},
            store=True,
            include=["reasoning.encrypted_content"],
            prompt_cache_key="k",
            truncation="auto",
            stream=True,
        )
    )
    assert told.pop("messages") == [user("hi")]
    assert told == {
        "model": "m",
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_completion_tokens": 9,
        "temperature": 0.5,
        "top_p": 0.1,
        "user": "ada",
        "reasoning_effort": "low",
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "x", "schema": schema, "strict": True},
        },
    }


TOOLS = [
    {"type": "function", "name": "f"},
    {"type": "custom", "name": "patch"},
    {"type": "namespace", "name": "space", "tools": [{"type": "function", "name": "g"}]},
]
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5, "cost": 0.000007}
ASKED = read_request(json.dumps({"model": "auto", "input": "hi", "tools": TOOLS}).encode())[1]
NAMES = st.sampled_from(["f", "patch", "space__g", "unknown"])
WORDS = st.text('ab \n"é\\', max_size=6)
WRITER = "provider/model"
FINISHES = st.sampled_from(["stop", "length", "content_filter", "tool_calls"])


def stream_of(deltas: list[Any], finish: str | None, **last: Any) -> bytes:
    """Return chunks as the relay sends them."""
    base = {"id": "chatcmpl-1", "created": 1_700_000_000, "model": "m"}
    chunks: list[Any] = [{**base, "choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    chunks.append(
        {**base, "choices": [{"index": 0, "delta": {}, "finish_reason": finish}], "usage": USAGE, **last}
    )
    return b"".join(b"data: %b\n\n" % json.dumps(c).encode() for c in chunks) + b"data: [DONE]\n\n"


def events_of(data: bytes, size: int = 10_000) -> list[dict[str, Any]]:
    """Return the events of a stream that comes in pieces of that size."""
    events = ResponseEvents(ASKED, 1.0, WRITER)
    said = b"".join(events.feed(data[at : at + size]) for at in range(0, len(data), size))
    return [json.loads(block.split(b"\ndata: ")[1]) for block in said.split(b"\n\n") if block]


def check_stream(events: list[dict[str, Any]]) -> dict[str, Any]:
    """Check what holds for every stream; return its last response."""
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"]
    last = events[-1]
    assert last["type"] == f"response.{last['response']['status']}"
    open_items: dict[int, dict[str, Any]] = {}
    texts: dict[tuple[str, int], str] = {}
    done: dict[int, Any] = {}
    for one in events[2:-1]:
        kind, place = one["type"].removeprefix("response."), one["output_index"]
        if kind == "output_item.added":
            assert place == len(open_items) + len(done)
            open_items[place] = one["item"]
            continue
        if kind == "output_item.done":
            assert open_items.pop(place)["id"] == one["item"]["id"]
            done[place] = one["item"]
            continue
        assert one["item_id"] == open_items[place]["id"]
        part = (one["item_id"], one.get("content_index", 0))
        if kind.endswith(".delta"):
            texts[part] = texts.get(part, "") + one["delta"]
        elif kind.endswith(".done") and not kind.endswith("part.done"):
            (whole,) = [one[name] for name in ("text", "refusal", "arguments", "input") if name in one]
            assert whole == texts.get(part, "")
    assert open_items == {}
    assert last["response"]["output"] == [done[place] for place in sorted(done)]
    response: dict[str, Any] = last["response"]
    return response


DELTAS = st.dictionaries(
    st.sampled_from(
        ["content", "reasoning_content", "reasoning", "refusal", "tool_calls", "function_call", "other"]
    ),
    JSON | WORDS | st.lists(st.fixed_dictionaries({"index": st.integers(0, 2), "function": JSON})),
    max_size=3,
)


@given(st.lists(DELTAS, max_size=5), FINISHES | st.none(), st.integers(1, 60))
@example([{"tool_calls": [{"index": 0, "id": "late"}]}, {"content": "a"}], None, 9)  # its name never comes
@example([{"function_call": {}}, {"content": "a"}], "stop", 9)
def test_any_stream_is_said_whole_however_it_is_cut(deltas: list[Any], finish: str | None, size: int) -> None:
    data = stream_of(deltas, finish)
    events = events_of(data, size)
    check_stream(events)
    assert events == events_of(data)


@given(
    WORDS,
    WORDS,
    st.lists(st.tuples(NAMES, st.text('a{}:"', min_size=1, max_size=6)), max_size=3),
    FINISHES,
    st.integers(1, 3),
)
def test_a_stream_says_what_the_whole_answer_says(
    thoughts: str, text: str, calls: list[tuple[str, str]], finish: str, step: int
) -> None:
    """Of a stream that has neither text nor call, the whole answer has an empty message as well."""
    made = [
        {"id": f"c{i}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for i, (name, arguments) in enumerate(calls)
    ]
    message = {"role": "assistant", "content": text, "reasoning_content": thoughts, "tool_calls": made}
    base = {"id": "chatcmpl-1", "created": 1_700_000_000, "model": "m", "usage": USAGE}
    body = {**base, "choices": [{"index": 0, "message": message, "finish_reason": finish}]}
    whole = json.loads(whole_answer(json.dumps(body).encode(), ASKED, 1.0, WRITER))
    deltas: list[Any] = [{"role": "assistant", "content": ""}]
    deltas += [{"reasoning_content": thoughts[i : i + step]} for i in range(0, len(thoughts), step)]
    deltas += [{"content": text[i : i + step]} for i in range(0, len(text), step)]
    for index, (name, arguments) in enumerate(calls):
        head = {"index": index, "id": f"c{index}", "function": {"name": name, "arguments": ""}}
        deltas.append({"tool_calls": [head]})
        pieces = [arguments[i : i + step] for i in range(0, len(arguments), step)]
        deltas += [{"tool_calls": [{"index": index, "function": {"arguments": piece}}]} for piece in pieces]
    streamed = check_stream(events_of(stream_of(deltas, finish)))
    if not text and not calls:
        assert whole["output"].pop()["content"][0]["text"] == ""
    if text and calls:  # a message ends where a call begins, before anybody knows that the call is cut
        place = 1 if thoughts else 0
        whole["output"][place]["status"] = "completed"
    assert streamed == whole


def test_calls_get_back_their_names_and_their_inputs() -> None:
    def function(index: int, name: str, *pieces: str) -> list[dict[str, Any]]:
        head = {"index": index, "id": f"c{index}", "function": {"name": name}}
        rest = [{"index": index, "function": {"arguments": piece}} for piece in pieces]
        return [{"tool_calls": [one]} for one in (head, *rest)]

    deltas = [
        *function(0, "space__g", "{}"),
        *function(1, "patch", '{"inp', 'ut": "x\\ny"}'),
        *function(2, "patch", "raw"),
    ]
    told = check_stream(events_of(stream_of(deltas, "tool_calls")))["output"]
    assert [(item["type"], item["name"], item.get("namespace")) for item in told] == [
        ("function_call", "g", "space"),
        ("custom_tool_call", "patch", None),
        ("custom_tool_call", "patch", None),
    ]
    assert (told[0]["arguments"], told[1]["input"], told[2]["input"]) == ("{}", "x\ny", "raw")


def test_a_stream_that_broke_is_failed_with_its_error_and_its_bill() -> None:
    error = {"error": {"code": 502, "message": "It broke.", "type": "server_error", "name": "upstream_error"}}
    told = check_stream(events_of(stream_of([{"content": "half"}], "error", **error)))
    assert told["error"] == {"code": "server_error", "message": "It broke.", "name": "upstream_error"}
    assert told["status"] == "failed"
    assert told["output"][0]["status"] == "incomplete"
    assert told["usage"]["cost"] == USAGE["cost"]


@pytest.mark.parametrize("error", [None, "", [], {}])
def test_an_error_that_is_none_is_none(error: Any) -> None:
    told = check_stream(events_of(stream_of([{"content": "a"}], "stop", error=error)))
    assert (told["status"], told["error"]) == ("completed", None)


def test_comments_pass_in_their_place() -> None:
    events = ResponseEvents(Asked(), 1.0, WRITER)
    said = events.feed(b": waiting\n\n" + stream_of([{"content": "a"}], "stop"))
    assert said.startswith(b": waiting\n\nevent: response.created\n")


def test_an_answer_without_id_and_time_gets_them() -> None:
    body = json.dumps({"choices": [{"message": {"content": "a"}}], "usage": USAGE}).encode()
    told = [json.loads(whole_answer(body, Asked(salt=salt), 12.9, WRITER)) for salt in (b"a", b"b", b"a")]
    assert [one["created_at"] for one in told] == [12, 12, 12]
    assert told[0] == told[2]
    assert told[0]["id"] != told[1]["id"]
