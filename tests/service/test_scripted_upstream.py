"""The scripted upstream itself: what it says when well, what it breaks when told, what it notices."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import urllib.parse
from collections.abc import Iterator
from typing import Any

import pytest

from tests.upstream import (
    MISSING,
    Behaviour,
    Gate,
    ScriptedUpstream,
    answer,
    cut_body,
    empty,
    error_event_after,
    error_in_200,
    hang,
    html,
    informational,
    raw,
    redirect,
    refused_base_url,
    reset,
    slow,
    status,
    stream,
    wrong_length,
)


@pytest.fixture
def up() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as scripted:
        yield scripted


def request_body(text: str = "hello there", model: str = "m", **fields: Any) -> bytes:
    return json.dumps({"model": model, "messages": [{"role": "user", "content": text}], **fields}).encode()


@contextlib.contextmanager
def connected(up: ScriptedUpstream) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection("127.0.0.1", up.port, timeout=10)
    try:
        yield connection
    finally:
        connection.close()


def post(up: ScriptedUpstream, text: str = "hello there", **fields: Any) -> tuple[int, dict[str, str], bytes]:
    with connected(up) as connection:
        connection.request("POST", "/v1/chat/completions", request_body(text, **fields))
        response = connection.getresponse()
        return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()


def events(body: bytes) -> list[Any]:
    lines = [line[6:] for line in body.decode().split("\n") if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def content(received: list[Any]) -> str:
    deltas = [c["choices"][0]["delta"] for c in received if c != "[DONE]" and c.get("choices")]
    return "".join(d.get("content") or "" for d in deltas)


@contextlib.contextmanager
def open_call(up: ScriptedUpstream, **fields: Any) -> Iterator[socket.socket]:
    body = request_body(**fields)
    with socket.create_connection(("127.0.0.1", up.port), timeout=10) as connection:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        yield connection


def test_default_answer_echoes_and_counts(up: ScriptedUpstream) -> None:
    code, headers, body = post(up, "say it back")
    parsed = json.loads(body)
    assert (code, headers["content-type"]) == (200, "application/json")
    assert parsed["model"] == "m"
    assert parsed["choices"][0]["message"] == {"role": "assistant", "content": "say it back"}
    assert parsed["usage"]["completion_tokens"] == 3


def test_default_stream_gives_usage_only_when_asked(up: ScriptedUpstream) -> None:
    plain = events(post(up, "one two", stream=True)[2])
    asked = events(post(up, "one two", stream=True, stream_options={"include_usage": True})[2])
    assert content(plain) == content(asked) == "one two"
    assert plain[-1] == asked[-1] == "[DONE]"
    assert plain[-2]["choices"][0]["finish_reason"] == "stop"
    assert not [c for c in plain[:-1] if "usage" in c]
    assert asked[-2]["choices"] == []
    assert asked[-2]["usage"]["completion_tokens"] == 2


def test_default_calls_a_named_tool_and_answers_its_result(up: ScriptedUpstream) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
    tools = [{"type": "function", "function": {"name": "get_weather", "parameters": schema}}]
    choice = json.loads(post(up, "use get_weather please", tools=tools)[2])["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    call = choice["message"]["tool_calls"][0]["function"]
    assert (call["name"], json.loads(call["arguments"])) == ("get_weather", {"city": "text", "days": 1})
    assert json.loads(post(up, "just talk", tools=tools)[2])["choices"][0]["finish_reason"] == "stop"
    streamed = events(post(up, "just talk", tools=tools, tool_choice="required", stream=True)[2])
    assert streamed[1]["choices"][0]["delta"]["tool_calls"][0]["index"] == 0
    assert streamed[2]["choices"][0]["finish_reason"] == "tool_calls"


def test_default_writes_json_when_asked(up: ScriptedUpstream) -> None:
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    text = json.loads(post(up, response_format=wanted)[2])["choices"][0]["message"]["content"]
    assert json.loads(text) == {"ok": True}


def test_everything_received_is_recorded(up: ScriptedUpstream) -> None:
    with connected(up) as connection:
        connection.request("POST", "/v1/chat/completions?x=1", request_body("äöü"), {"X-Two": "b"})
        connection.getresponse().read()
    up.wait_idle()
    (seen,) = up.requests
    assert (seen.path, seen.model, seen.outcome) == ("/v1/chat/completions?x=1", "m", "ended")
    assert ("X-Two", "b") in seen.headers
    assert seen.header("x-two") == "b"
    assert seen.json["messages"][0]["content"] == "äöü"
    assert json.loads(seen.body) == seen.json


def test_chunked_request_and_broken_json_are_read(up: ScriptedUpstream) -> None:
    with connected(up) as connection:
        connection.request("POST", "/v1/chat/completions", iter([b"not ", b"json"]), encode_chunked=True)
        assert connection.getresponse().status == 400
    assert (up.requests[0].body, up.requests[0].json, up.requests[0].model) == (b"not json", None, None)


def test_behaviours_are_taken_in_turn_and_the_last_repeats(up: ScriptedUpstream) -> None:
    up.on("m", status(500), status(429, headers=[("retry-after", "7")]), answer("fine"))
    up.on("other", answer("another model"))
    codes = [post(up)[0] for _ in range(4)]
    assert codes == [500, 429, 200, 200]
    assert b"another model" in post(up, model="other")[2]


def test_keep_alive_serves_many_calls_on_one_connection(up: ScriptedUpstream) -> None:
    with connected(up) as connection:
        for streamed in (False, True, False):
            connection.request("POST", "/v1/chat/completions", request_body(stream=streamed))
            assert connection.getresponse().read()
        assert (up.total_connections, up.open_connections) == (1, 1)
        assert up.wait_idle()
    assert up.wait_closed()
    assert len(up.requests) == 3


def test_models_are_listed_and_kept_apart_from_calls(up: ScriptedUpstream) -> None:
    up.on("tiny", answer())
    with connected(up) as connection:
        connection.request("GET", "/v1/models")
        assert json.loads(connection.getresponse().read())["data"][0]["id"] == "tiny"
    assert (len(up.requests), up.probes[0].path) == (0, "/v1/models")


@pytest.mark.parametrize(
    ("place", "carriers"),
    [("last_chunk", [4]), ("finish_chunk", [3]), ("early", [0]), ("twice", [3, 4]), ("every", [0, 1, 2, 3])],
)
def test_usage_can_come_anywhere(up: ScriptedUpstream, place: Any, carriers: list[int]) -> None:
    up.on("m", stream(["a", "b"], usage=place, counts={"prompt_tokens": -1}))
    received = events(post(up, stream=True)[2])[:-1]
    assert [i for i, c in enumerate(received) if "usage" in c] == carriers
    assert received[carriers[0]]["usage"] == {"prompt_tokens": -1}


def test_usage_of_an_answer_can_be_missing_or_odd(up: ScriptedUpstream) -> None:
    up.on("m", answer(usage=MISSING), answer(usage=None), answer(usage={"prompt_tokens": 10**30}))
    bodies = [json.loads(post(up)[2]) for _ in range(3)]
    assert "usage" not in bodies[0]
    assert bodies[1]["usage"] is None
    assert bodies[2]["usage"]["prompt_tokens"] == 10**30


def test_stream_shapes(up: ScriptedUpstream) -> None:
    up.on("m", stream("a b", crlf=True, comments="keep-alive", split=3, bom=True, done=2))
    body = post(up, stream=True)[2]
    assert body.startswith(b"\xef\xbb\xbf: keep-alive\r\n\r\ndata: ")
    assert body.count(b"data: [DONE]\r\n\r\n") == 2
    up.on("m", stream(["a"], multi_line=True, done=False, finish=False))
    lines = post(up, stream=True)[2].decode().split("\n\n")[1].split("\n")
    assert len(lines) > 5
    assert json.loads("".join(line.removeprefix("data: ") for line in lines))["choices"]
    up.on("m", stream([b"data: raw\n\n", {"reasoning_content": "hm"}], role=False, framing="close"))
    code, headers, body = post(up, stream=True)
    assert (code, headers["connection"]) == (200, "close")
    assert body.startswith(b"data: raw\n\ndata: {")


def test_split_writes_one_http_chunk_a_piece(up: ScriptedUpstream) -> None:
    up.on("m", stream([b"0123456789"], role=False, finish=False, done=False, split=4))
    with open_call(up, stream=True) as connection, connection.makefile("rb") as answered:
        while answered.readline() != b"\r\n":
            pass
        assert answered.read(30) == b"4\r\n0123\r\n4\r\n4567\r\n2\r\n89\r\n0\r\n\r\n"


@pytest.mark.parametrize("framing", ["chunked", "length"])
def test_a_cut_stream_is_incomplete(up: ScriptedUpstream, framing: Any) -> None:
    up.on("m", stream("a b c", cut_after=2, framing=framing))
    with pytest.raises(http.client.IncompleteRead) as caught:
        post(up, stream=True)
    assert content(events(caught.value.partial)) == "a"
    assert up.requests[0].events_sent == 2


def test_resets(up: ScriptedUpstream) -> None:
    up.on("m", reset(), stream("a b c", cut_after=2, reset=True))
    with pytest.raises(ConnectionResetError):
        post(up)
    with pytest.raises((ConnectionResetError, http.client.IncompleteRead)):
        post(up, stream=True)
    up.wait_idle()
    assert {r.outcome for r in up.requests} == {"ended"}


@pytest.mark.parametrize("behaviour", [hang(), stream("a b", hang_after=2), slow(3600)])
def test_a_client_that_leaves_is_noticed(up: ScriptedUpstream, behaviour: Behaviour) -> None:
    up.on("m", behaviour)
    with open_call(up, stream=True):
        up.wait_requests(1)
        assert (up.open_connections, up.requests[0].outcome) == (1, "running")
    assert up.wait_closed()
    (left,) = up.wait_abandoned(1)
    assert left is up.requests[0]


def test_a_client_that_leaves_while_it_does_not_read_is_noticed(up: ScriptedUpstream) -> None:
    def endless() -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\n\r\n"
        while True:
            yield b"x" * 65536

    up.on("m", raw(endless))
    with open_call(up) as connection:
        assert connection.recv(4) == b"HTTP"
    assert up.wait_abandoned(1)
    assert up.wait_closed()


def test_waiting_in_vain_says_what_is_there(up: ScriptedUpstream) -> None:
    with pytest.raises(TimeoutError, match=r"1 requests; now 0 requests .* 0 open connections"):
        up.wait_requests(1, timeout_s=0.01)


def test_a_gate_holds_the_stream_until_the_test_has_read_the_start(up: ScriptedUpstream) -> None:
    gate = Gate()
    up.on("m", stream(["first", "second"], gate=gate, gate_after=2))
    with connected(up) as connection:
        connection.request("POST", "/v1/chat/completions", request_body(stream=True))
        response = connection.getresponse()
        start = b"".join(response.readline() for _ in range(4))
        assert content(events(start)) == "first"
        gate.open()
        assert content(events(response.read())) == "second"


def test_whole_answer_faults(up: ScriptedUpstream) -> None:
    up.on("m", html(502), empty(), error_in_200("boom"), redirect("http://127.0.0.1:1/"), status(418, "tea"))
    page, nothing, error, moved, tea = (post(up) for _ in range(5))
    assert (page[0], page[1]["content-type"]) == (502, "text/html; charset=utf-8")
    assert nothing[2] == b""
    assert json.loads(error[2])["error"]["message"] == "boom"
    assert (moved[0], moved[1]["location"]) == (307, "http://127.0.0.1:1/")
    assert (tea[0], tea[2]) == (418, b"tea")


def test_bodies_that_do_not_fit_their_length(up: ScriptedUpstream) -> None:
    up.on("m", cut_body(), wrong_length())
    with pytest.raises(http.client.IncompleteRead):
        post(up)
    with pytest.raises(json.JSONDecodeError):
        json.loads(post(up)[2])


def test_error_event_in_a_stream(up: ScriptedUpstream) -> None:
    up.on("m", error_event_after(2, "boom"))
    received = events(post(up, stream=True)[2])
    assert content(received) == "word0 word1 "
    assert received[-2]["error"]["message"] == "boom"
    assert received[-1] == "[DONE]"


def test_informational_and_raw_heads(up: ScriptedUpstream) -> None:
    up.on("m", informational(answer("after")), raw(b"HTTP/1.1 200 OK\r\nno colon here\r\n\r\n"))
    with open_call(up) as connection, connection.makefile("rb") as answered:
        assert answered.readline() == b"HTTP/1.1 103 Early\r\n"
        assert answered.readline().startswith(b"link:")
        assert (answered.readline(), answered.readline()) == (b"\r\n", b"HTTP/1.1 200 Scripted\r\n")
    with open_call(up) as connection, connection.makefile("rb") as answered:
        assert answered.read() == b"HTTP/1.1 200 OK\r\nno colon here\r\n\r\n"


def test_a_refusing_address() -> None:
    with refused_base_url() as base_url:
        parts = urllib.parse.urlsplit(base_url)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((parts.hostname, parts.port), timeout=5)
    assert parts.path == "/v1"


def test_a_behaviour_that_breaks_fails_the_test() -> None:
    async def broken(turn: object) -> None:
        raise ZeroDivisionError

    up = ScriptedUpstream().on("m", broken)
    with pytest.raises(ZeroDivisionError), up, pytest.raises(http.client.RemoteDisconnected):
        post(up)
