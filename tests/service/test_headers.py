"""What passes through: a few headers each way, and nothing by which a client could choose an upstream."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.router import Offered, RouterServer, write_catalog
from tests.service.test_raw_sockets import Line
from tests.service.walking import bearer, make_key, question, wait_all_ended
from tests.upstream import ScriptedUpstream, answer, redirect, status, stream

MODEL = "test/model"
OUR_KEY = "sk-of-the-operator"
ALWAYS_SENT = {
    "host",
    "accept",
    "accept-encoding",
    "authorization",
    "content-length",
    "content-type",
    "user-agent",
    "x-provider",
    "x-request-id",
}
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
PASSED_ON = {
    "traceparent": TRACE,
    "tracestate": "a=1",
    "http-referer": "https://app.example",
    "x-title": "An app",
}
KEPT_BACK = {
    "cookie": "session=1",
    "forwarded": "for=10.0.0.1",
    "x-forwarded-for": "10.0.0.1",
    "x-forwarded-host": "evil.example",
    "x-forwarded-proto": "https",
    "x-real-ip": "10.0.0.1",
    "x-original-url": "/admin",
    "x-http-method-override": "GET",
    "payment-signature": "a-payment",
    "x-payment": "a-payment",
    "payment": "a-payment",
    "proxy-authorization": "Basic YTpi",
    "x-api-key": "sk-of-the-client",
    "api-key": "sk-of-the-client",
    "openai-organization": "org-client",
    "openai-project": "proj-client",
    "x-portkey-custom-host": "https://evil.example",
    "x-llm-router-session": "a-session",
    "x-llm-router-mode": "cost",
    "idempotency-key": "an-idempotency-key",
    "te": "trailers",
    "user-agent": "a-client",
    "x-unknown": "1",
}
COMES_BACK = {
    "date",
    "content-type",
    "x-request-id",
    "x-llm-router-logical-model",
    "x-llm-router-resolved-model",
    "x-llm-router-provider",
    "x-llm-router-reason",
    "x-llm-router-catalog",
    "x-llm-router-attempts",
    "server-timing",
}
FROM_UPSTREAM = [
    ("set-cookie", "session=upstream"),
    ("server", "upstream/1.0"),
    ("via", "1.1 proxy"),
    ("x-powered-by", "gpu"),
    ("openai-organization", "org-of-the-operator"),
    ("x-ratelimit-remaining-requests", "1"),
    ("x-llm-router-cost-usd", "0"),
    ("x-llm-router-provider", "forged"),
    ("access-control-allow-origin", "*"),
    ("www-authenticate", "Bearer"),
    ("location", "http://evil.example"),
    ("content-disposition", "attachment"),
    ("keep-alive", "timeout=1"),
    ("x-request-id", "of-the-upstream"),
]


@pytest.fixture(scope="module")
def up() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as server:
        yield server


@pytest.fixture(scope="module")
def evil() -> Iterator[ScriptedUpstream]:
    """Run an upstream that clients name and that must never be called."""
    with ScriptedUpstream() as server:
        yield server
        assert (server.requests, server.probes, server.total_connections) == ([], [], 0)


@pytest.fixture(autouse=True)
def rested(router: RouterServer) -> None:
    router.skip(7_200)  # longer than any offer rests after the failures of another test


@pytest.fixture(scope="module")
def router(up: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RouterServer]:
    folder = tmp_path_factory.mktemp("headers")
    catalog = write_catalog(
        folder / "catalog",
        {"scripted": up.base_url},
        [Offered(MODEL)],
        provider='key_env = "SCRIPTED_KEY"\nheaders = { X-Provider = "set by the operator" }',
    )
    with RouterServer(catalog, folder / "data", environ={"SCRIPTED_KEY": OUR_KEY}) as server:
        yield server


@pytest.mark.parametrize("streams", [False, True], ids=["plain", "stream"])
def test_only_a_few_headers_of_a_client_go_upstream(
    router: RouterServer, up: ScriptedUpstream, streams: bool
) -> None:
    key, _ = make_key(router)
    up.on(MODEL, stream() if streams else answer())
    sent = {**PASSED_ON, **KEPT_BACK, **bearer(key), "x-request-id": "of-the-client"}

    assert router.chat(model=MODEL, stream=streams, headers=sent).status == 200

    request = up.requests[-1]
    got = {name.lower(): value for name, value in request.headers}
    assert set(got) == ALWAYS_SENT | set(PASSED_ON)
    assert len(got) == len(request.headers)
    assert {name: got[name] for name in PASSED_ON} == PASSED_ON
    assert got["authorization"] == f"Bearer {OUR_KEY}"
    assert got["host"] == f"127.0.0.1:{up.port}"
    assert (got["x-provider"], got["x-request-id"]) == ("set by the operator", "of-the-client")
    assert got["user-agent"].startswith("llm-router/")
    assert got["accept-encoding"] == "identity"
    assert key.encode() not in request.body


@pytest.mark.parametrize("streams", [False, True], ids=["plain", "stream"])
def test_only_our_own_headers_come_back(router: RouterServer, up: ScriptedUpstream, streams: bool) -> None:
    kind = ("content-type", "text/event-stream")
    up.on(MODEL, stream(headers=[kind, *FROM_UPSTREAM]) if streams else answer(headers=FROM_UPSTREAM))

    got = router.chat(model=MODEL, stream=streams)

    if streams:
        more = {"cache-control", "transfer-encoding", "x-accel-buffering"}
    else:
        more = {"content-length", "x-llm-router-cost-usd"}
    assert set(got.headers) == COMES_BACK | more
    assert got.headers["x-llm-router-provider"] == "scripted"
    assert got.headers["x-request-id"] != "of-the-upstream"


@pytest.mark.parametrize("code", [400, 401, 403, 404, 429, 500, 503])
def test_nothing_of_a_failed_upstreams_headers_comes_back(
    router: RouterServer, up: ScriptedUpstream, code: int
) -> None:
    up.on(MODEL, status(code, headers=FROM_UPSTREAM))

    got = router.chat(model=MODEL)

    assert set(got.headers) <= {"date", "content-type", "content-length", "x-request-id", "retry-after"}
    assert OUR_KEY not in got.body.decode()
    assert str(up.port) not in got.body.decode()


def fields_naming(address: str) -> dict[str, dict[str, Any]]:
    """Return body fields by which clients of other gateways choose address, key or headers."""
    nested = {
        "api_base": address,
        "base_url": address,
        "api_key": "sk-evil",
        "extra_headers": {"authorization": "Bearer sk-evil", "host": "evil.example"},
        "headers": {"authorization": "Bearer sk-evil"},
    }
    return {
        "api_base": {"api_base": address},
        "base_url": {"base_url": address},
        "api_key": {"api_key": "sk-evil"},
        "custom_host": {"custom_host": address},
        "extra_headers": {"extra_headers": nested["headers"]},
        "headers": {"headers": nested["headers"]},
        "default_headers": {"default_headers": nested["headers"]},
        "extra_body": {"extra_body": nested},
        "litellm_params": {"litellm_params": nested},
        "user_config": {"user_config": {"model_list": [{"model_name": MODEL, "litellm_params": nested}]}},
        "model_list": {"model_list": [{"model_name": MODEL, "litellm_params": nested}]},
        "fallbacks": {"fallbacks": [{MODEL: [nested]}]},
        "organization": {"organization": "org-evil", "api_version": "1", "api_type": "azure"},
        "custom_llm_provider": {"custom_llm_provider": "openai"},
        "mock_response": {"mock_response": "mocked"},
        "all of them": {**nested, "extra_body": nested, "litellm_params": nested},
        "in an unknown field": {"metadata": nested},
        "in a message": {"messages": [{"role": "user", "content": "hi", **nested}]},
    }


@pytest.mark.parametrize("name", fields_naming(""))
@pytest.mark.parametrize("streams", [False, True], ids=["plain", "stream"])
def test_no_field_of_a_body_chooses_address_key_or_headers(
    router: RouterServer, up: ScriptedUpstream, evil: ScriptedUpstream, name: str, streams: bool
) -> None:
    up.on(MODEL, stream("from us") if streams else answer("from us"))
    fields = fields_naming(evil.base_url)[name]

    body = {**question(model=MODEL, stream=streams), **fields}
    got = router.request("POST", "/v1/chat/completions", body)

    assert got.status == 200
    assert b"mocked" not in got.body
    request = up.requests[-1]
    assert request.header("authorization") == f"Bearer {OUR_KEY}"
    assert request.header("host") == f"127.0.0.1:{up.port}"
    assert {key.lower() for key, _ in request.headers} == ALWAYS_SENT
    kept = {"model", "messages", "stream", "stream_options", "max_tokens"} | ({"metadata"} & set(fields))
    assert set(request.json) <= kept


def test_an_escaped_name_is_the_same_name(
    router: RouterServer, up: ScriptedUpstream, evil: ScriptedUpstream
) -> None:
    up.on(MODEL, answer())
    body = json.dumps(question(model=MODEL, api_base=evil.base_url)).replace("api_base", "api\\u005fbase")

    assert router.request("POST", "/v1/chat/completions", body.encode()).status == 200
    assert set(up.requests[-1].json) == {"model", "messages", "max_tokens"}


@pytest.mark.parametrize("field", ["api_base", "base_url", "api_key", "headers", "provider"])
def test_our_own_field_takes_nothing_else(
    router: RouterServer, up: ScriptedUpstream, evil: ScriptedUpstream, field: str
) -> None:
    called = len(up.requests)

    got = router.chat(model=MODEL, router={field: evil.base_url})

    assert (got.status, got.error["param"]) == (400, f"router.{field}")
    assert len(up.requests) == called


def test_a_host_a_query_and_a_redirect_lead_nowhere_else(
    router: RouterServer, up: ScriptedUpstream, evil: ScriptedUpstream
) -> None:
    up.on(MODEL, answer("from us"))
    body = json.dumps(question(model=MODEL)).encode()
    hosts = {f"127.0.0.1:{evil.port}": 200, "169.254.169.254": 200, "evil.example#": 400, "a?b": 400}
    for host, code in hosts.items():
        head = f"POST /v1/chat/completions?api_base={evil.base_url} HTTP/1.1\r\nhost: {host}\r\n"
        with Line(router, head.encode() + b"content-length: %d\r\n\r\n" % len(body) + body) as line:
            assert line.hear(until=b"}}").statuses == [code]

    up.on(MODEL, redirect(f"{evil.base_url}/chat/completions"))
    got = router.chat(model=MODEL)
    assert (got.status, "location" in got.headers) == (502, False)
    assert str(evil.port) not in got.body.decode()
    wait_all_ended(router)


def test_no_address_of_an_image_is_fetched(
    router: RouterServer, up: ScriptedUpstream, evil: ScriptedUpstream
) -> None:
    up.on(MODEL, answer())
    image = {"type": "image_url", "image_url": {"url": f"{evil.base_url}/image.png"}}

    assert router.chat(model=MODEL, messages=[{"role": "user", "content": [image]}]).status == 200
    assert up.requests[-1].json["messages"][0]["content"] == [image]


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/nope"), ("GET", "/v1/chat/completions"), ("POST", "/")]
)
def test_an_error_shows_the_client_s_id_where_it_is_usable(
    router: RouterServer, method: str, path: str
) -> None:
    assert router.request(method, path, None, {"x-request-id": "mine"}).headers["x-request-id"] == "mine"
    ours = router.request(method, path, None, {"x-request-id": "x" * 200}).headers["x-request-id"]
    assert ours.startswith("req_")
