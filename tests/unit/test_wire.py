import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.errors import BadRequest, RouterError
from router.wire import BOUNDS, NEVER_FORWARDED, ROLES, RequestBody, parse_request

HELLO = {"role": "user", "content": "hello"}


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "auto", "messages": [HELLO], **fields}).encode()


def fault(data: bytes) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        parse_request(data)
    assert caught.value.status == 400
    return caught.value


def with_message(message: Any) -> bytes:
    return body(messages=[HELLO, message])


@pytest.mark.parametrize("data", [b"[]", b'"x"', b"null", b"1", b"true", b"[1,2]", b"1e999"])
def test_json_that_is_no_object_is_refused(data: bytes) -> None:
    assert "must be a JSON object" in fault(data).message


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" ",
        b"{",
        b'{"model"',
        b"NaN",
        b"{'model': 1}",
        b'{"model":"auto",}',
        b"\xef\xbb\xbf{}",
        b"[" * 10_000,
        body() + b"x",
        body(x=1).replace(b"1", b"NaN"),
        body(x="surrogate").replace(b"surrogate", b"\\ud800"),
        body(messages=[{"role": "user", "content": "surrogate"}]).replace(b"surrogate", b"\\udc00\\ud800"),
        body(messages=[{"role": "user", "content": "q"}]).replace(b'"q"', b'"\\q"'),
        body(messages=[{"role": "user", "content": "q"}]).replace(b'"q"', b'"a\nb"'),
    ],
)
def test_what_is_not_json_is_said_to_be_that(data: bytes) -> None:
    if data.startswith(b"[["):
        assert fault(data).status == 400
    else:
        assert fault(data).name == "invalid_json"


@pytest.mark.parametrize("where", ["x", "metadata", "tools", "messages"])
def test_deep_nesting_is_refused(where: str) -> None:
    data = body(x=1).replace(b'"x": 1', b'"%s": ' % where.encode() + b"[" * 100_000 + b"]" * 100_000)
    assert fault(data).status == 400


@pytest.mark.parametrize(
    "data", [b"\xff", body().replace(b"hello", b"\xff"), body(x="?").replace(b"?", b"\xc3")]
)
def test_bytes_that_are_not_utf8_are_refused_also_where_nobody_reads(data: bytes) -> None:
    assert "not UTF-8" in fault(data).message


@pytest.mark.parametrize(
    ("data", "param"),
    [
        (b"{}", "model"),
        (b'{"model":"auto"}', "messages"),
        (body(model=5), "model"),
        (body(model=None), "model"),
        (body(model=""), "model"),
        (body(model="x" * 257), "model"),
        (body(model="a\nb"), "model"),
        (body(messages=[]), "messages"),
        (body(messages=None), "messages"),
        (body(messages="hello"), "messages"),
        (body(messages={"role": "user"}), "messages"),
        (body(messages=["hello"]), "messages[0]"),
        (body(stream="yes"), "stream"),
        (body(stream=1), "stream"),
        (body(stream_options=[]), "stream_options"),
        (body(stream_options={"include_usage": "yes"}), "stream_options.include_usage"),
        (body(max_tokens=-1), "max_tokens"),
        (body(max_tokens=0), "max_tokens"),
        (body(max_tokens=1.5), "max_tokens"),
        (body(max_tokens=10**9), "max_tokens"),
        (body(max_tokens=10**30), "max_tokens"),
        (body(max_tokens="5"), "max_tokens"),
        (body(max_completion_tokens=0), "max_completion_tokens"),
        (body(n=0), "n"),
        (body(n=1_000), "n"),
        (body(temperature=3), "temperature"),
        (body(temperature="hot"), "temperature"),
        (body(top_p=-0.1), "top_p"),
        (body(presence_penalty=9), "presence_penalty"),
        (body(frequency_penalty=-9), "frequency_penalty"),
        (body(seed="x"), "seed"),
        (body(stop=5), "stop"),
        (body(stop=[5]), "stop[0]"),
        (body(user=5), "user"),
        (body(tools={}), "tools"),
        (body(tools=["x"]), "tools[0]"),
        (body(functions="x"), "functions"),
        (body(tool_choice=1), "tool_choice"),
        (body(response_format="json"), "response_format"),
        (body(response_format={}), "response_format.type"),
        (body(reasoning_effort=1), "reasoning_effort"),
        (body(top_logprobs=21), "top_logprobs"),
        (body(models="auto"), "models"),
        (body(models=[1]), "models[0]"),
        (body(router=[]), "router"),
        (body(router={"mood": "good"}), "router.mood"),
        (body(router={"mode": 1}), "router.mode"),
        (body(router={"max_cost_usd": "much"}), "router.max_cost_usd"),
        (body(router={"allow": "x"}), "router.allow"),
        (body(router={"allow": ["*"] * 101}), "router.allow"),
        (body(router={"allow": ["*", "x" * 257]}), "router.allow[1]"),
        (body(router={"deny": ["*"] * 101}), "router.deny"),
        (body(router={"deny": ["x" * 257]}), "router.deny[0]"),
        (body(router={"session": "x" * 257}), "router.session"),
        (body(router={"deny": [1]}), "router.deny[0]"),
        (with_message({"content": "x"}), "messages[1].role"),
        (with_message({"role": 5, "content": "x"}), "messages[1].role"),
        (with_message({"role": "robot", "content": "x"}), "messages[1].role"),
        (with_message({"role": "user"}), "messages[1].content"),
        (with_message({"role": "user", "content": None}), "messages[1].content"),
        (with_message({"role": "user", "content": 5}), "messages[1].content"),
        (with_message({"role": "user", "content": True}), "messages[1].content"),
        (with_message({"role": "user", "content": {"type": "text"}}), "messages[1].content"),
        (with_message({"role": "user", "content": ["x"]}), "messages[1].content[0]"),
        (with_message({"role": "user", "content": [{"text": "x"}]}), "messages[1].content[0].type"),
        (with_message({"role": "user", "content": [{"type": "smell"}]}), "messages[1].content[0].type"),
        (with_message({"role": "user", "content": [{"type": "text"}]}), "messages[1].content[0].text"),
        (
            with_message({"role": "user", "content": [{"type": "text", "text": 1}]}),
            "messages[1].content[0].text",
        ),
    ],
)
def test_a_wrong_field_is_named(data: bytes, param: str) -> None:
    # The decoder says of a list only that an element is wrong, not which one.
    anywhere = param.replace("[1]", "").replace("[0]", "")
    refused = fault(data)
    assert refused.param in (param, anywhere)
    assert anywhere.rpartition(".")[2] in refused.message


def test_what_is_read_of_a_request() -> None:
    request = parse_request(
        body(
            messages=[
                {"role": "system", "content": "be kind"},
                {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
                {"role": "assistant", "content": "", "tool_calls": []},
                {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            ],
            stream=True,
            stream_options={"include_usage": False},
            max_tokens=5,
            max_completion_tokens=7,
            n=2,
            functions=[{"name": "f"}],
            response_format={"type": "json_object"},
            models=["x", "y"],
            router={"mode": "cost", "max_cost_usd": 0.1},
        )
    )
    assert [m.texts for m in request.messages] == [("be kind",), (), ("",), ("a", "b")]
    assert [m.has_tool_calls for m in request.messages] == [False, True, False, False]
    assert (request.stream, request.include_usage, request.max_output_tokens) == (True, False, 7)
    assert (request.choices, request.has_tools, request.response_format) == (2, True, "json_object")
    assert request.models == ("x", "y")
    assert (request.router.mode, str(request.router.max_cost_usd)) == ("cost", "0.1")


@pytest.mark.parametrize("field", BOUNDS)
def test_a_bound_goes_up_once_under_the_name_that_is_asked_for(field: str) -> None:
    for theirs in ({}, {"max_tokens": 5}, {"max_completion_tokens": 6}, dict.fromkeys(BOUNDS, 7)):
        request = parse_request(body(**theirs, x_new=1))
        sent = json.loads(request.for_upstream("m", (field, 9)))
        assert {name: sent[name] for name in BOUNDS if name in sent} == {field: 9}
        assert sent["x_new"] == 1
        kept = json.loads(request.for_upstream("m"))
        assert {name: kept[name] for name in BOUNDS if name in kept} == theirs


@pytest.mark.parametrize("text", ["a\u2028b", "😀", "nul \x00", "e\u0301", "\u202e", "\x7f", '"\\/\b\f'])
def test_odd_text_passes(text: str) -> None:
    for ascii_only in (True, False):
        message = {"role": "user", "content": text}
        data = json.dumps({"model": "auto", "messages": [message]}, ensure_ascii=ascii_only).encode()
        request = parse_request(data)
        assert request.messages[0].texts == (text,)
        kept = request.for_upstream("m")
        assert json.dumps([message], ensure_ascii=ascii_only).encode() in kept


def test_what_would_choose_an_upstreams_address_or_key_is_not_forwarded() -> None:
    data = body(
        **dict.fromkeys(NEVER_FORWARDED - {"router", "models"}, "x"), models=["a"], router={"mode": "cost"}
    )
    assert set(json.loads(parse_request(data).for_upstream("up"))) == {"model", "messages"}


def test_usage_is_asked_for_in_every_stream_and_other_stream_options_stay() -> None:
    for options in (None, {}, {"include_usage": False}, {"include_usage": True, "more": [1e5, "x"]}):
        sent = json.loads(parse_request(body(stream=True, stream_options=options)).for_upstream("up"))
        assert sent["stream_options"] == {**(options or {}), "include_usage": True}
    assert "stream_options" not in json.loads(parse_request(body(stream=False)).for_upstream("up"))


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
READ = frozenset(parse_request.__globals__["_Fields"].__struct_fields__)
unknown_fields = st.dictionaries(
    st.text().filter(lambda name: name not in READ | NEVER_FORWARDED), json_values, max_size=5
)
layouts = st.sampled_from([{}, {"indent": 1}, {"separators": (",", ":")}, {"indent": "\t \r\n"}])


@given(unknown_fields, st.booleans(), st.booleans(), layouts, st.text(), st.randoms(use_true_random=False))
def test_only_the_routers_own_fields_change(
    unknown: dict[str, Any], stream: bool, ascii_only: bool, layout: dict[str, Any], text: str, order: Any
) -> None:
    fields = {
        "model": "auto",
        "messages": [{"role": "user", "content": text, "extra": 1.50}],
        "stream": stream,
    }
    names = [*fields, *unknown]
    order.shuffle(names)
    sent = {name: {**fields, **unknown}[name] for name in names}
    data = json.dumps(sent, ensure_ascii=ascii_only, **layout).encode()
    upstream = json.loads(parse_request(data).for_upstream("upstream/modél"))
    assert upstream.pop("model") == "upstream/modél"
    if stream:
        assert upstream.pop("stream_options") == {"include_usage": True}
    sent.pop("model")
    assert upstream == sent


@given(st.binary() | st.text().map(str.encode))
def test_any_bytes_are_answered_with_an_error_of_ours(data: bytes) -> None:
    with pytest.raises(RouterError):
        parse_request(data)


hints = st.sampled_from(
    ["auto", "user", "assistant", "text", "image_url", "https://x.y/z", "data:image/png;base64,iVBORw0KGgo="]
)
part_like = st.dictionaries(
    st.sampled_from(["type", "text", "image_url", "url"]),
    hints | json_values | st.fixed_dictionaries({"url": hints | json_values}),
)
message_like = st.fixed_dictionaries(
    {"role": st.sampled_from(sorted(ROLES)) | json_values},
    optional={"content": hints | json_values | st.lists(part_like, max_size=3), "tool_calls": json_values},
)


@given(
    st.fixed_dictionaries(
        {"model": hints | json_values, "messages": st.lists(message_like | json_values, max_size=3)},
        optional=dict.fromkeys(READ - {"model", "messages"}, json_values),
    ),
    st.lists(st.tuples(st.integers(0, 10_000), st.binary(max_size=3)), max_size=2),
)
def test_a_body_that_is_nearly_right_is_read_or_refused(fields: Any, damage: list[tuple[int, bytes]]) -> None:
    data = json.dumps(fields).encode()
    for at, junk in damage:
        place = at % len(data)
        data = data[:place] + junk + data[place + len(junk) :]
    result = outcome(data)
    if isinstance(result, RouterError):
        assert result.status == 400
        assert json.loads(result.body())["error"]["message"]
    else:
        assert isinstance(json.loads(result.for_upstream("m")), dict)


def outcome(data: bytes) -> RequestBody | RouterError:
    try:
        return parse_request(data)
    except RouterError as refused:
        return refused


PNG = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAAB"


def many_parts(count: int, part: dict[str, Any]) -> list[dict[str, Any]]:
    """Spread parts over messages."""
    return [{"role": "user", "content": [part] * 50}] * (count // 50)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "function"}] * 1_001}, "tools"),
        ({"functions": [{"name": "f"}] * 1_001}, "functions"),
        ({"models": ["auto"] * 101}, "models"),
        ({"messages": [HELLO] * 20_001}, "messages"),
        (
            {"messages": many_parts(300, {"type": "image_url", "image_url": {"url": PNG}})},
            "messages[5].content",
        ),
        ({"messages": many_parts(20_050, {"type": "text", "text": ""})}, "messages[400].content"),
        ({"messages": [{"role": "user", "content": [{"type": "file"}] * 20_001}]}, "messages[0].content"),
    ],
)
def test_what_one_request_can_hold_is_bounded(fields: dict[str, Any], param: str) -> None:
    assert fault(body(**fields)).param == param


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"type": "function"}] * 1_000},
        {"models": ["auto"] * 100},
        {"messages": [HELLO] * 20_000},
        {"messages": many_parts(250, {"type": "image_url", "image_url": {"url": PNG}})},
        {"messages": many_parts(20_000, {"type": "text", "text": ""})},
    ],
)
def test_up_to_the_bounds_everything_is_taken(fields: dict[str, Any]) -> None:
    assert parse_request(body(**fields)).model == "auto"
