"""A failed attempt: who is tried next, what the client is told when nobody answers, and what it is billed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.router import Answer, Offered, RouterServer, write_catalog
from tests.service.walking import bearer, ledger_rows, make_key, question, request_id, wait_end
from tests.upstream import (
    Behaviour,
    ScriptedUpstream,
    answer,
    cut_body,
    empty,
    error_event_after,
    error_in_200,
    hang,
    html,
    raw,
    redirect,
    refused_base_url,
    reset,
    status,
    stream,
    wrong_length,
)

SECRET = "sk-upstream-1234567890"
TEXT = "all is well"
LEAK = f"<html>no {SECRET} at http://10.1.2.3:9/v1 for you</html>"
TOO_LONG = {"error": {"message": "maximum context length is 1000 tokens", "code": "context_length_exceeded"}}
# In the order in which `auto` tries them; the last one is never reached with three attempts.
ORDER = ["test/first", "test/second", "test/third", "test/fourth"]
FAST = "timeout_s = { connect = 1, first_byte = 0.3, idle = 0.3 }"


def offers() -> list[Offered]:
    contexts = (20_000, 20_000, 40_000, 80_000)
    return [
        Offered(model, price=(i + 1.0, 2.0 * (i + 1)), context=context)
        for i, (model, context) in enumerate(zip(ORDER, contexts, strict=True))
    ]


@pytest.fixture(scope="module")
def up() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as server:
        yield server


@pytest.fixture(scope="module")
def router(up: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RouterServer]:
    folder = tmp_path_factory.mktemp("fallback")
    lines = f'key_env = "SCRIPTED_KEY"\n{FAST}'
    catalog = write_catalog(folder / "catalog", {"scripted": up.base_url}, offers(), provider=lines)
    with RouterServer(catalog, folder / "data", environ={"SCRIPTED_KEY": SECRET}) as server:
        yield server


@pytest.fixture(autouse=True)
def scripts(up: ScriptedUpstream, router: RouterServer) -> None:
    for model in ORDER:
        up.on(model, answer(TEXT))
    router.skip(7_200)  # longer than any offer rests after the failures of another test


def well(streams: bool) -> Behaviour:
    return stream(TEXT) if streams else answer(TEXT)


def script(up: ScriptedUpstream, *behaviours: Behaviour, streams: bool = False) -> int:
    """Script the models in the order of their attempts, the others answer; returns the calls so far."""
    for model, behaviour in zip(ORDER, [*behaviours, *[well(streams)] * len(ORDER)], strict=False):
        up.on(model, behaviour)
    return len(up.requests)


def tried(up: ScriptedUpstream, before: int) -> list[str | None]:
    """Return the models that were called, in order; a kept connection that died is called twice."""
    return list(dict.fromkeys(request.model for request in up.requests[before:]))


def no_leak(got: Answer) -> None:
    text = got.body.decode() + str(got.headers)
    for secret in (
        SECRET,
        "10.1.2.3",
        "<html",
        "set-cookie",
        "127.0.0.1:",
        "Traceback",
        "httpx",
        "scripted ",
    ):
        assert secret not in text, secret


FAULTS: list[Any] = [
    *(
        pytest.param(status(code, LEAK, [("set-cookie", "a=b")]), id=str(code))
        for code in (401, 402, 403, 404, 408, 409, 425, 429, 500, 502, 503, 504, 529)
    ),
    pytest.param(status(418), id="an odd 4xx"),
    pytest.param(status(204, b""), id="204"),
    pytest.param(status(201, {"choices": []}), id="201"),
    pytest.param(reset(), id="reset"),
    pytest.param(hang(), id="no first byte"),
    pytest.param(html(), id="HTML"),
    pytest.param(empty(), id="an empty body"),
    pytest.param(error_in_200(), id="an error in a 200"),
    pytest.param(status(200, {"id": "x"}), id="no choices"),
    pytest.param(status(200, b"[" * 200_000), id="deep JSON"),
    pytest.param(status(200, b'{"choices": [{"message": {"content": "\xff"}}]}'), id="not UTF-8"),
    pytest.param(raw(b"SSH-2.0-OpenSSH_9\r\n\r\n"), id="not HTTP"),
    pytest.param(raw(b""), id="closed without a byte"),
    pytest.param(redirect("http://169.254.169.254/latest"), id="redirect"),
]
PLAIN_FAULTS = [
    *FAULTS,
    pytest.param(cut_body(), id="a cut body"),
    pytest.param(wrong_length(), id="a wrong length"),
]
STREAM_FAULTS = [
    *FAULTS,
    pytest.param(stream(TEXT, cut_after=1), id="cut before the text"),
    pytest.param(stream(TEXT, cut_after=1, reset=True), id="reset before the text"),
    pytest.param(stream(TEXT, hang_after=1), id="silent before the text"),
    pytest.param(error_event_after(0), id="an error event first"),
    pytest.param(stream([], finish=False, role=False), id="only [DONE]"),
]


def check_moved_on(router: RouterServer, up: ScriptedUpstream, got: Answer, before: int) -> None:
    assert got.status == 200, got.body
    assert tried(up, before) == ORDER[:2]
    assert got.headers["x-llm-router-resolved-model"] == "test/second"
    assert got.headers["x-llm-router-reason"] == "fallback_after_error"
    assert got.headers["x-llm-router-attempts"] == "2"
    assert b"test/first" not in got.body
    no_leak(got)
    row = wait_end(router, f"{request_id(got)}.2")  # dearer, so it was held anew
    assert (row.kind, row.model) == ("settle", "test/second")


@pytest.mark.parametrize("fault", PLAIN_FAULTS)
def test_the_next_offer_answers_and_nothing_of_the_fault_is_seen(
    router: RouterServer, up: ScriptedUpstream, fault: Behaviour
) -> None:
    before = script(up, fault)

    got = router.chat()

    assert got.json["choices"][0]["message"]["content"] == TEXT
    check_moved_on(router, up, got, before)


@pytest.mark.parametrize("fault", STREAM_FAULTS)
def test_the_next_offer_streams_and_nothing_of_the_fault_is_seen(
    router: RouterServer, up: ScriptedUpstream, fault: Behaviour
) -> None:
    before = script(up, fault, streams=True)

    got = router.chat(stream=True)

    deltas = [choice["delta"] for chunk in got.chunks() for choice in chunk["choices"]]
    assert "".join(delta.get("content", "") for delta in deltas) == TEXT
    assert [delta for delta in deltas if "role" in delta] == [{"role": "assistant", "content": ""}]
    check_moved_on(router, up, got, before)


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("code", [400, 413, 422])
def test_what_is_wrong_with_the_request_keeps_its_status_and_nobody_else_is_tried(
    router: RouterServer, up: ScriptedUpstream, code: int, streams: bool
) -> None:
    error = {
        "error": {"message": f"bad tools, see {SECRET} http://10.1.2.3:9/", "param": "tools", "code": None}
    }
    before = script(up, status(code, error), streams=streams)

    got = router.chat(stream=streams)

    assert (got.status, got.error["code"], got.error["param"]) == (code, code, "tools")
    assert got.error["type"] == "invalid_request_error"
    assert "bad tools" in got.error["message"]
    assert tried(up, before) == ORDER[:1]
    assert wait_end(router, request_id(got)).kind == "release"
    no_leak(got)


@pytest.mark.parametrize("streams", [False, True])
def test_too_long_goes_to_the_next_larger_window(
    router: RouterServer, up: ScriptedUpstream, streams: bool
) -> None:
    before = script(up, status(400, TOO_LONG), streams=streams)

    got = router.chat(stream=streams)

    assert got.status == 200
    assert tried(up, before) == ["test/first", "test/third"]  # the second has the first one's window


def test_too_long_everywhere_keeps_its_status_and_its_name(
    router: RouterServer, up: ScriptedUpstream
) -> None:
    before = script(up, *[status(400, TOO_LONG)] * 4)

    got = router.chat()

    assert (got.status, got.error["name"]) == (400, "context_length_exceeded")
    assert tried(up, before) == ["test/first", "test/third", "test/fourth"]


def test_the_attempts_are_bounded(router: RouterServer, up: ScriptedUpstream) -> None:
    before = script(up, *[status(500)] * 3)

    got = router.chat()

    assert got.status == 502
    assert tried(up, before) == ORDER[:3]


NOON = "Sun, 22 Nov 2026 12:00:00 GMT"
A_MINUTE_LATER = "Sun, 22 Nov 2026 12:01:00 GMT"


def after(code: int, seconds: str | None) -> Behaviour:
    return status(code, LEAK, [("retry-after", seconds)] if seconds else [])


@pytest.mark.parametrize(
    ("behaviours", "code", "retry_after"),
    [
        ([after(429, "7"), after(429, "3"), after(429, None)], 429, "3"),
        ([after(429, None)] * 3, 429, "5"),
        ([status(429, LEAK, [("retry-after-ms", "1500")])] * 3, 429, "2"),
        ([after(429, "Wed, 21 Oct 2026 07:28:00 GMT")] * 3, 429, "1"),
        ([status(429, LEAK, [("date", NOON), ("retry-after", A_MINUTE_LATER)])] * 3, 429, "60"),
        ([after(429, "0")] * 3, 429, "1"),
        ([after(503, "9")] * 3, 503, "9"),
        ([after(503, None)] * 3, 503, "5"),
        ([after(429, "7"), after(503, "4"), after(429, None)], 503, "4"),
        ([after(500, None), after(429, "7"), after(500, None)], 502, "7"),
        ([after(401, "8"), after(402, None), after(403, None)], 502, None),
        ([after(404, None)] * 3, 502, None),
        ([after(409, None), after(425, None), after(529, None)], 502, None),
        ([hang()] * 3, 504, None),
        ([after(408, None), hang(), after(504, None)], 504, None),
        ([after(408, None), after(500, None), hang()], 502, None),
        ([reset()] * 3, 502, None),
        ([html()] * 3, 502, None),
        ([redirect("http://10.1.2.3/")] * 3, 502, None),
    ],
)
@pytest.mark.parametrize("streams", [False, True])
def test_the_last_error_says_what_stood_in_the_way_and_nothing_of_the_upstream(
    router: RouterServer,
    up: ScriptedUpstream,
    behaviours: list[Behaviour],
    code: int,
    retry_after: str | None,
    streams: bool,
) -> None:
    script(up, *behaviours, streams=streams)

    got = router.chat(stream=streams)

    assert (got.status, got.error["code"]) == (code, code)
    assert set(got.error) == {"code", "message", "type", "param", "name"}
    assert got.headers.get("retry-after") == retry_after
    assert got.headers["content-type"] == "application/json"
    assert wait_end(router, request_id(got)).kind == "release"
    no_leak(got)


def test_a_redirect_is_never_followed(router: RouterServer, up: ScriptedUpstream) -> None:
    with ScriptedUpstream() as elsewhere:
        for code in (301, 302, 303, 307, 308):
            script(up, *[redirect(f"{elsewhere.base_url}/chat/completions", code)] * 3)
            assert router.chat().status == 502
            router.skip(7_200)
        assert (elsewhere.requests, elsewhere.probes) == ([], [])


def test_an_upstream_that_refuses_connections_or_has_no_name_is_passed_over(
    up: ScriptedUpstream, tmp_path: Path
) -> None:
    with refused_base_url() as refused:
        urls = {"refused": refused, "nameless": "http://no-such-host.invalid/v1", "scripted": up.base_url}
        models = [
            Offered("test/first", provider="refused", price=(1, 1)),
            Offered("test/second", provider="nameless", price=(2, 2)),
            Offered("test/third", price=(3, 3)),
        ]
        up.on("test/third", answer(TEXT))
        catalog = write_catalog(tmp_path / "catalog", urls, models)
        with RouterServer(catalog, tmp_path / "data") as router:
            got = router.chat()
            alone = router.chat(model="test/first")
    assert got.headers["x-llm-router-resolved-model"] == "test/third"
    assert (alone.status, alone.error["name"]) == (502, "upstream_error")
    no_leak(alone)


def test_a_failed_attempt_is_never_billed(router: RouterServer, up: ScriptedUpstream) -> None:
    script(up, error_in_200(), answer(TEXT, usage={"prompt_tokens": 10, "completion_tokens": 5}))

    got = router.chat()

    wait_end(router, f"{request_id(got)}.2")
    ends = [r for r in ledger_rows(router) if r.request_id.startswith(request_id(got)) and r.kind == "settle"]
    assert [(r.model, r.amount_nusd) for r in ends] == [("test/second", 40_000)]


@pytest.mark.parametrize("streams", [False, True])
def test_a_dearer_fallback_is_held_anew_and_a_cheaper_one_keeps_the_hold(
    router: RouterServer, up: ScriptedUpstream, streams: bool
) -> None:
    script(up, status(500), status(500), streams=streams)

    up_the_price = router.chat(stream=streams, max_tokens=100)
    down_the_price = router.chat(model="test/third", models=["test/first"], stream=streams, max_tokens=100)
    script(up, well(streams), well(streams), status(500), streams=streams)
    router.skip(7_200)
    cheaper = router.chat(model="test/third", models=["test/first"], stream=streams, max_tokens=100)

    assert (up_the_price.status, down_the_price.status, cheaper.status) == (200, 200, 200)
    name = request_id(up_the_price)
    last = wait_end(router, f"{name}.3")
    rows = [r for r in ledger_rows(router) if r.request_id.startswith(name)]
    assert [(r.request_id, r.kind, r.model) for r in rows] == [
        (name, "hold", "test/first"),
        (name, "release", "test/first"),
        (f"{name}.2", "hold", "test/second"),
        (f"{name}.2", "release", "test/second"),
        (f"{name}.3", "hold", "test/third"),
        (f"{name}.3", "settle", "test/third"),
    ]
    holds = [row.amount_nusd for row in rows if row.kind == "hold"]
    assert holds == [holds[0], 2 * holds[0], 3 * holds[0]]
    assert last.amount_nusd < holds[-1]
    end = wait_end(router, request_id(cheaper))
    kept = [r for r in ledger_rows(router) if r.request_id.startswith(request_id(cheaper))]
    assert [(r.kind, r.model) for r in kept] == [("hold", "test/third"), ("settle", "test/first")]
    assert end.model == "test/first"


def test_credit_that_does_not_cover_a_dearer_fallback_is_a_402_that_is_not_billed(
    router: RouterServer, up: ScriptedUpstream
) -> None:
    quote = router.request("POST", "/v1/route", question(max_tokens=100)).json["quote"]["max_usd"]
    key, account = make_key(router, "--credit", f"{quote:.9f}")
    before = script(up, status(500))

    got = router.chat(max_tokens=100, headers=bearer(key))

    assert got.status in (402, 502)
    assert tried(up, before) == ["test/first"]
    kinds = [row.kind for row in ledger_rows(router) if row.account == account]
    assert kinds == ["topup", "hold", "release"]
