"""Bad input: each has its status, the OpenAI error form and the name of the field, and costs nothing."""

from __future__ import annotations

import base64
import http.client
import json
import re
import socket
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests.router import Answer, Offered, RouterServer, write_catalog
from tests.service.walking import question, wait_all_ended
from tests.upstream import ScriptedUpstream

MODEL = "test/model"
PATH = "/v1/chat/completions"
LIMIT_BYTES = 2**20
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(40)).decode()
WEBP = base64.b64encode(b"RIFF\x00\x00\x00\x00WEBPVP8 " + bytes(40)).decode()
GIF = base64.b64encode(b"GIF89a" + bytes(40)).decode()
JPEG = base64.b64encode(b"\xff\xd8\xff\xe0" + bytes(40)).decode()


@pytest.fixture(scope="module")
def up() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as server:
        yield server


@pytest.fixture(scope="module")
def router(up: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RouterServer]:
    folder = tmp_path_factory.mktemp("bad")
    small = Offered("test/text", input=("text",), features=(), quality=None, context=1_000, max_output=100)
    catalog = write_catalog(folder / "catalog", {"scripted": up.base_url}, [Offered(MODEL), small])
    with RouterServer(catalog, folder / "data", max_body_mib=1) as server:
        yield server
        # What was served is settled; of what was refused the ledger knows nothing.
        assert {row.kind for row in wait_all_ended(server)} <= {"hold", "settle"}


def check_error(got: Answer, status: int, param: str | None) -> dict[str, Any]:
    error = got.error
    assert (got.status, error["code"], error["param"]) == (status, status, param), error
    assert set(error) == {"code", "message", "type", "param", "name"}
    assert error["type"] == "invalid_request_error"
    assert error["message"]
    assert error["name"]
    assert "Traceback" not in error["message"]
    assert got.headers["content-type"] == "application/json"
    assert got.headers["x-request-id"]
    return error


def post(router: RouterServer, body: bytes, headers: Mapping[str, str] | None = None) -> Answer:
    return router.request("POST", PATH, body, headers)


MESSAGE = b'"messages":[{"role":"user","content":"hi"}]'
BODIES = {
    "empty": b"",
    "a space": b" ",
    "an array": b"[]",
    "a string": b'"x"',
    "null": b"null",
    "a number": b"1",
    "true": b"true",
    "text": b"hello",
    "HTML": b"<html></html>",
    "cut": b'{"model":"auto","messages":[{"role":"us',
    "two values": b'{"model":"auto",' + MESSAGE + b"} {}",
    "NaN": b'{"model":"auto","temperature":NaN,' + MESSAGE + b"}",
    "Infinity": b'{"model":"auto","temperature":-Infinity,' + MESSAGE + b"}",
    "not UTF-8": b'{"model":"auto","messages":[{"role":"user","content":"\xff\xfe"}]}',
    "UTF-16": '{"model":"auto"}'.encode("utf-16"),
    "not UTF-8 in an unknown field": b'{"model":"auto","x":"\xc3",' + MESSAGE + b"}",
    "a lone surrogate": b'{"model":"auto","messages":[{"role":"user","content":"\\ud800"}]}',
    "a bare control character": b'{"model":"auto","messages":[{"role":"user","content":"a\nb"}]}',
    "deep arrays": b'{"model":"auto","x":' + b"[" * 10_000 + b"]" * 10_000 + b"," + MESSAGE + b"}",
    "deep objects": b'{"x":' * 10_000 + b"1" + b"}" * 10_000,
    "an open depth": b"[" * 100_000,
    "deep content": b'{"model":"auto","messages":[{"role":"user","content":'
    + b"[" * 10_000
    + b"]" * 10_000
    + b"}]}",
}


@pytest.mark.parametrize("name", BODIES)
def test_a_body_that_is_no_json_object_is_a_400(router: RouterServer, name: str) -> None:
    got = post(router, BODIES[name])

    assert got.error["param"] is None or name == "deep content"
    check_error(got, 400, got.error["param"])


FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"messages": None}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": "hi"}, "messages"),
    ({"messages": {"role": "user"}}, "messages"),
    ({"messages": [1]}, "messages[0]"),
    ({"messages": [None]}, "messages[0]"),
    ({"messages": [{"content": "hi"}]}, "messages[0].role"),
    ({"messages": [{"role": 1, "content": "hi"}]}, "messages[0].role"),
    ({"messages": [{"role": "robot", "content": "hi"}]}, "messages[0].role"),
    ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": {"a": 1}}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": True}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": ["hi"]}]}, "messages[0].content[0]"),
    ({"messages": [{"role": "user", "content": [{"text": "hi"}]}]}, "messages[0].content[0].type"),
    ({"messages": [{"role": "user", "content": [{"type": "smell"}]}]}, "messages[0].content[0].type"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
    (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": 1}]}]},
        "messages[0].content[0].text",
    ),
    ({"model": None}, "model"),
    ({"model": 5}, "model"),
    ({"model": ""}, "model"),
    ({"model": "au\nto"}, "model"),
    ({"model": "a\x00"}, "model"),
    ({"model": "m" * 257}, "model"),
    ({"stream": "yes"}, "stream"),
    ({"stream": 1}, "stream"),
    ({"stream": True, "stream_options": {"include_usage": "yes"}}, "stream_options.include_usage"),
    ({"stream_options": []}, "stream_options"),
    ({"n": 0}, "n"),
    ({"n": 129}, "n"),
    ({"n": "2"}, "n"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": 1.5}, "max_tokens"),
    ({"max_tokens": 10**30}, "max_tokens"),
    ({"max_completion_tokens": -5}, "max_completion_tokens"),
    ({"temperature": 3}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"top_p": -0.1}, "top_p"),
    ({"presence_penalty": 9}, "presence_penalty"),
    ({"frequency_penalty": -9}, "frequency_penalty"),
    ({"top_logprobs": 21}, "top_logprobs"),
    ({"stop": 5}, "stop"),
    ({"tools": "f"}, "tools"),
    ({"tools": ["f"]}, "tools[0]"),
    ({"tool_choice": 1}, "tool_choice"),
    ({"response_format": "json"}, "response_format"),
    ({"response_format": {}}, "response_format.type"),
    ({"models": "a"}, "models"),
    ({"models": [1]}, "models[0]"),
    ({"router": []}, "router"),
    ({"router": {"mode": "slow"}}, "router.mode"),
    ({"router": {"speed": 1}}, "router.speed"),
    ({"router": {"max_cost_usd": -1}}, "router.max_cost_usd"),
    ({"router": {"max_cost_usd": "much"}}, "router.max_cost_usd"),
    ({"router": {"allow": "x"}}, "router.allow"),
]


@pytest.mark.parametrize(("fields", "param"), FIELDS)
def test_a_wrong_field_is_named(router: RouterServer, fields: dict[str, Any], param: str) -> None:
    error = check_error(post(router, json.dumps(question(**fields)).encode()), 400, param)

    assert re.split(r"[\[.]", param)[0] in error["message"]


@pytest.mark.parametrize("missing", ["model", "messages"])
def test_a_missing_field_is_named(router: RouterServer, missing: str) -> None:
    body = question()
    del body[missing]

    assert check_error(post(router, json.dumps(body).encode()), 400, missing)["name"] == "missing_field"


@pytest.mark.parametrize("second", [b"", b"null", b'"a"', b'[{"role":"user","content":"ho"}]'])
@pytest.mark.parametrize("name", ["model", "messages", "x_unknown"])
def test_a_field_that_stands_twice_is_named(router: RouterServer, name: str, second: bytes) -> None:
    members = {"model": b'"auto"', "messages": b'[{"role":"user","content":"hi"}]', "x_unknown": b"1"}
    twice = b",".join(b'"%b":%b' % (key.encode(), value) for key, value in members.items())
    body = b"{" + twice + b',"%b":%b}' % (name.encode(), second or members[name])

    check_error(post(router, body), 400, name)


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("x-llm-router-mode", "slow"),
        ("x-llm-router-max-cost-usd", "much"),
        ("x-llm-router-max-cost-usd", "NaN"),
        ("x-llm-router-max-cost-usd", "-1"),
        ("x-llm-router-max-cost-usd", "1e999"),
    ],
)
def test_a_wrong_header_is_named(router: RouterServer, header: str, value: str) -> None:
    check_error(router.chat(headers={header: value}), 400, header)


URL = "messages[0].content[0].image_url.url"


@pytest.mark.parametrize(
    ("image", "param"),
    [
        (None, URL.removesuffix(".url")),
        ({}, URL),
        ({"url": 5}, URL),
        ({"url": None}, URL),
        ({"url": ""}, URL),
        ({"url": "file:///etc/passwd"}, URL),
        ({"url": "ftp://example.com/a.png"}, URL),
        ({"url": "gopher://example.com"}, URL),
        ({"url": "javascript:alert(1)"}, URL),
        ({"url": "https://"}, URL),
        ({"url": "https:///a.png"}, URL),
        ({"url": "http://a\nb/"}, URL),
        ({"url": "/a.png"}, URL),
        ({"url": "data:"}, URL),
        ({"url": f"data:text/html;base64,{PNG}"}, URL),
        ({"url": f"data:image/svg+xml;base64,{PNG}"}, URL),
        ({"url": f"data:image/jpeg;base64,{PNG}"}, URL),
        ({"url": f"data:image/webp;base64,{PNG}"}, URL),
        ({"url": "data:image/png;base64,"}, URL),
        ({"url": "data:image/png;base64,!!!!"}, URL),
        ({"url": f"data:image/png,{PNG}"}, URL),
        ("file:///etc/passwd", URL.removesuffix(".url")),
    ],
)
def test_an_image_that_cannot_be_used_is_named(
    router: RouterServer, up: ScriptedUpstream, image: Any, param: str
) -> None:
    part = {"type": "image_url"} if image is None else {"type": "image_url", "image_url": image}
    before = len(up.requests)

    check_error(router.chat(messages=[{"role": "user", "content": [part]}]), 400, param)
    assert len(up.requests) == before


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/a.png",
        "HTTP://example.com/a",
        "http://169.254.169.254/",  # passed on as it is: the router fetches nothing
        f"data:image/png;base64,{PNG}",
        f"data:image/gif;base64,{GIF}",
        f"data:image/webp;base64,{WEBP}",
        f"data:image/jpeg;base64,{JPEG}",
    ],
)
def test_a_usable_image_is_passed_on(router: RouterServer, up: ScriptedUpstream, url: str) -> None:
    content = [{"type": "text", "text": "what?"}, {"type": "image_url", "image_url": {"url": url}}]

    assert router.chat(messages=[{"role": "user", "content": content}]).status == 200
    assert up.requests[-1].json["messages"][0]["content"] == content
    assert up.probes == []


def test_an_unknown_model_is_a_404_with_the_three_nearest(router: RouterServer) -> None:
    for name in ("test/modell", "auto:fast", "coding:cost:x", "GPT-5"):
        error = check_error(router.chat(model=name), 404, "model")
        assert error["name"] == "model_not_found"
        assert error["message"].count(", ") >= 2
    assert "Nearest: test/model, " in router.chat(model="test/modell").error["message"]


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        (
            {"messages": [{"role": "user", "content": "w " * 200_000}]},
            "messages",
            "the largest allowed model has",
        ),
        ({"max_tokens": 9_000}, "max_tokens", "asks for 9,000 output tokens, the largest"),
        ({"model": "test/text", "max_tokens": 101}, "max_tokens", "writes 100"),
        ({"model": "test/text", "tools": [{"type": "function"}]}, "tools", "calls tools"),
        (
            {"model": "test/text", "response_format": {"type": "json_schema"}},
            "response_format",
            "JSON schema",
        ),
    ],
)
def test_what_no_offer_fits_names_the_tightest_reason(
    router: RouterServer, fields: dict[str, Any], param: str, says: str
) -> None:
    error = check_error(router.chat(**fields), 400, param)

    assert error["name"] == "no_offer_fits"
    assert says in error["message"]


@pytest.mark.parametrize("path", [PATH, "/chat/completions", "/v1/route"])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"])
def test_another_method_is_a_405_that_allows_post(router: RouterServer, path: str, method: str) -> None:
    got = router.request(method, path)

    assert (got.status, got.headers["allow"]) == (405, "POST")
    if method != "HEAD":
        check_error(got, 405, None)


@pytest.mark.parametrize(
    "path",
    ["/", "/v1/models", "/health/live", "/health/ready", "/metrics", "/schema", "/schema/openapi.json"],
)
@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_a_page_takes_no_post(router: RouterServer, path: str, method: str) -> None:
    got = router.request(method, path, b"")

    check_error(got, 405, None)
    assert "GET" in got.headers["allow"]


@pytest.mark.parametrize("path", ["/nope", "/v1", "/v1/chat", "/v1/%2fx", "/admin/nope"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_unknown_route_is_a_404_in_the_openai_form(router: RouterServer, path: str, method: str) -> None:
    got = router.request(method, path)

    assert check_error(got, 404, None)["name"] in ("route_not_found", "not_found")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/v1/v1/chat/completions", "base URL is wrong"),
        ("/v1/chat/completions/chat/completions", "base URL is wrong"),
        ("/api/v1/responses", "base URL is wrong"),
        ("/openai/v1/models/", "base URL is wrong"),
        ("/v1/completions", "POST /v1/chat/completions or"),
        ("/v1/messages", "POST /v1/chat/completions or"),
        ("/v1/embeddings", "chat alone"),
        ("/v1/audio/speech", "chat alone"),
        ("/nope", "; GET /schema lists all."),
    ],
)
def test_a_route_that_clients_ask_for_by_mistake_is_told_the_right_one(
    router: RouterServer, path: str, said: str
) -> None:
    got = router.request("POST", path, b"{}")

    assert said in check_error(got, 404, None)["message"]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/route"])
@pytest.mark.parametrize("body", [b"", b" \n"])
def test_an_empty_body_is_called_empty(router: RouterServer, path: str, body: bytes) -> None:
    got = router.request("POST", path, body)

    assert check_error(got, 400, None)["message"] == "The body is empty; send a JSON object."


def test_a_body_over_the_limit_is_a_413(router: RouterServer) -> None:
    body = json.dumps(question("x" * LIMIT_BYTES)).encode()

    error = check_error(post(router, body), 413, None)

    assert "1 MiB" in error["message"]
    assert "max_body_mib" in error["message"]


def talk(router: RouterServer, head: bytes, body: bytes = b"") -> Answer:
    """Send bytes over a socket of their own and read one answer."""
    with socket.create_connection(("127.0.0.1", router.port), timeout=10) as connection:
        connection.sendall(head + b"\r\n\r\n")
        if body:
            connection.sendall(body)
        response = http.client.HTTPResponse(connection)
        response.begin()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, headers, response.read())


def test_a_declared_length_over_the_limit_is_refused_before_the_body_comes(router: RouterServer) -> None:
    head = f"POST {PATH} HTTP/1.1\r\nhost: x\r\ncontent-length: {LIMIT_BYTES + 1}".encode()

    got = talk(router, head)  # not one byte of the body is sent

    check_error(got, 413, None)
    assert got.headers["connection"] == "close"


def test_a_chunked_body_is_counted_while_it_comes(router: RouterServer) -> None:
    head = f"POST {PATH} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked".encode()
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"

    got = talk(router, head, chunk * 17)  # a little over the limit, and never ended

    check_error(got, 413, None)


def test_a_chunked_body_is_taken(router: RouterServer) -> None:
    body = json.dumps(question()).encode()
    pieces = b"".join(
        b"%x\r\n%b\r\n" % (len(body[i : i + 9]), body[i : i + 9]) for i in range(0, len(body), 9)
    )

    got = talk(
        router,
        f"POST {PATH} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked".encode(),
        pieces + b"0\r\n\r\n",
    )

    assert got.status == 200


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "zstd", "GZIP", "identity, gzip"])
def test_a_compressed_body_is_refused(router: RouterServer, encoding: str) -> None:
    got = post(router, json.dumps(question()).encode(), {"content-encoding": encoding})

    assert check_error(got, 400, "content-encoding")["name"] == "unsupported_encoding"


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_a_wrong_content_type_is_tolerated(router: RouterServer, kind: str) -> None:
    got = post(router, json.dumps(question()).encode(), {"content-type": kind})

    assert got.status == 200


def test_a_connection_serves_on_after_an_error(router: RouterServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", router.port, timeout=10)
    for body, status in ((b"{", 400), (json.dumps(question(model="no")).encode(), 404), (b"[]", 400)):
        connection.request("POST", PATH, body)
        response = connection.getresponse()
        assert (response.status, "error" in json.loads(response.read())) == (status, True)
    connection.request("POST", PATH, json.dumps(question()).encode())
    assert connection.getresponse().status == 200
    connection.close()


def test_the_errors_name_can_be_put_into_code(
    up: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("named")
    catalog = write_catalog(folder / "catalog", {"scripted": up.base_url}, [Offered(MODEL)])
    with RouterServer(catalog, folder / "data", error_code="name") as router:
        assert router.chat(model="no/such").error["code"] == "model_not_found"
        assert router.request("GET", "/nope").error["code"] == "route_not_found"


def test_nothing_of_a_prompt_a_model_or_a_path_breaks_a_line_of_the_log(router: RouterServer) -> None:
    router.chat('"}\n{"at":"x"', model="auto\u2028", user="u\r\nx: y")
    router.chat(model="no/\u2028such", headers={"x-request-id": 'a"b'})

    assert all("at" in line and "request_id" in line for line in router.logged())


def test_a_large_body_on_a_kept_connection_is_no_large_head(router: RouterServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", router.port, timeout=10)
    for _ in range(3):
        connection.request("POST", PATH, json.dumps(question("x" * 300_000)).encode())
        response = connection.getresponse()
        assert (response.status, bool(response.read())) == (200, True)
    connection.close()
