import json
from datetime import UTC, datetime
from typing import Any

import httpx2 as httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from router.errors import (
    LimitReached,
    RouterError,
    Unavailable,
    UpstreamBroke,
    UpstreamRefused,
    UpstreamTimeout,
)
from router.upstream.faults import (
    DEFAULT_RETRY_AFTER_S,
    AttemptFault,
    Kind,
    as_error,
    from_error_object,
    from_exception,
    from_status,
    public_text,
)


def error(message: Any, **more: Any) -> bytes:
    return json.dumps({"error": {"message": message, **more}}).encode()


@pytest.mark.parametrize(
    ("status", "body", "kind", "final"),
    [
        (400, error("temperature is wrong"), "refused", True),
        (413, error("too big"), "refused", True),
        (422, error("no"), "refused", True),
        (400, b"", "refused", True),
        (400, error("This model's maximum context length is 8192 tokens"), "too_long", False),
        (413, error("prompt is too long: 9 > 5"), "too_long", False),
        (400, error("x", code="context_length_exceeded"), "too_long", False),
        (401, error("bad key"), "auth", False),
        (402, b"", "auth", False),
        (403, b"<html>", "auth", False),
        (404, error("no such model"), "not_found", False),
        (408, b"", "timeout", False),
        (429, error("slow down"), "rate_limited", False),
        (500, error("maximum context length"), "server_error", False),
        (502, b"", "server_error", False),
        (503, b"", "unavailable", False),
        (504, b"", "timeout", False),
        (529, b"", "server_error", False),
        (302, b"", "server_error", False),
        (204, b"", "server_error", False),
        (405, b"", "server_error", False),
    ],
)
def test_each_status_is_one_kind_of_fault(status: int, body: bytes, kind: str, final: bool) -> None:
    fault = from_status(status, [], body)
    assert (fault.kind, fault.status, fault.final) == (kind, status, final)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ([], None),
        ([(b"retry-after", b"7")], 7),
        ([(b"retry-after", b" 7 ")], 7),
        ([(b"retry-after", b"0")], 0),
        ([(b"retry-after-ms", b"1500")], 2),
        ([(b"retry-after", b"9999999")], 86_400),
        ([(b"retry-after", b"9" * 10_000)], 86_400),
        ([(b"retry-after-ms", b"9" * 10_000)], 86_400),
        ([(b"retry-after", b"-5")], None),
        ([(b"retry-after", b"soon")], None),
        ([(b"retry-after", b"")], None),
        ([(b"retry-after", b"\xb2")], None),
        ([(b"x-other", b"7")], None),
    ],
)
@pytest.mark.parametrize("status", [408, 429, 500, 503, 504])
def test_retry_after_is_read_and_bounded(
    headers: list[tuple[bytes, bytes]], seconds: int | None, status: int
) -> None:
    assert from_status(status, headers, b"").retry_after_s == seconds


NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
IN_A_MINUTE = b"Sun, 22 Nov 2026 12:01:00 GMT"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ([(b"retry-after", IN_A_MINUTE)], 60),
        ([(b"retry-after", b"Sunday, 22-Nov-26 12:01:00 GMT")], 60),
        ([(b"retry-after", b"Sun Nov 22 12:01:00 2026")], 60),
        ([(b"retry-after", b"Sun, 22 Nov 2026 11:00:00 GMT")], 0),
        ([(b"retry-after", b"Sun, 22 Nov 2099 11:00:00 GMT")], 86_400),
        # The upstream's own clock counts where it tells it.
        ([(b"retry-after", IN_A_MINUTE), (b"date", b"Sun, 22 Nov 2026 12:00:50 GMT")], 10),
        ([(b"retry-after", IN_A_MINUTE), (b"date", b"yesterday")], 60),
        ([(b"retry-after", b"Sun, 22 Nov 99999999999 12:01:00 GMT")], None),
        ([(b"retry-after", b"Sun, 41 Nov 2026 12:01:00 GMT")], None),
        ([(b"retry-after", IN_A_MINUTE * 100)], None),
        ([(b"retry-after", b"\xff, 22 Nov 2026 12:01:00 GMT")], None),
        ([(b"retry-after-ms", b"1500"), (b"retry-after", IN_A_MINUTE)], 2),
    ],
)
def test_a_retry_after_may_be_a_date(headers: list[tuple[bytes, bytes]], seconds: int | None) -> None:
    assert from_status(429, headers, b"", NOW).retry_after_s == seconds


def test_a_date_without_any_clock_is_no_wait() -> None:
    assert from_status(429, [(b"retry-after", IN_A_MINUTE)], b"").retry_after_s is None


@given(st.binary())
def test_any_retry_after_gives_a_bounded_wait_or_none(value: bytes) -> None:
    wait_s = from_status(503, [(b"retry-after", value), (b"date", value)], b"", NOW).retry_after_s
    assert wait_s is None or 0 <= wait_s <= 86_400


OTHER_FORMS = [
    ({"message": "n is wrong", "param": "n", "code": 400, "object": "error"}, "n is wrong", "n"),
    ({"message": "n is wrong"}, "n is wrong", None),
    ({"detail": "n is wrong"}, "n is wrong", None),
    ({"detail": [{"loc": ["body", "n"], "msg": "too large", "type": "x"}]}, "n: too large", "n"),
    (
        {"detail": [{"loc": ["body", "messages", 0, "role"], "msg": "missing"}, {"msg": "and more"}]},
        "messages.0.role: missing; and more",
        "messages.0.role",
    ),
    ({"detail": {"message": "n is wrong"}}, "n is wrong", None),
    ({"error": "n is wrong", "error_type": "validation"}, "n is wrong", None),
    ({"error": None, "message": "n is wrong"}, "n is wrong", None),
    ({"error": {"code": 400}, "message": "n is wrong"}, "n is wrong", None),
    ({"error": {"message": "n is wrong", "param": "n"}, "message": "other", "param": "x"}, "n is wrong", "n"),
    ({"message": 5, "detail": "n is wrong"}, "n is wrong", None),
    ({"message": "see http://10.0.0.5:8000/v1"}, "see [removed]", None),
]


@pytest.mark.parametrize("status", [400, 413, 422])
@pytest.mark.parametrize(("said", "message", "param"), OTHER_FORMS)
def test_the_words_of_other_servers_are_kept(
    status: int, said: dict[str, Any], message: str, param: str | None
) -> None:
    told = as_error([from_status(status, [], json.dumps(said).encode())])
    assert (told.status, told.param) == (status, param)
    assert told.message == f"The upstream refused the request: {message}"


def test_too_long_is_seen_in_every_form() -> None:
    for said in ({"message": "maximum context length is 5"}, {"detail": "prompt is too long"}):
        assert from_status(400, [], json.dumps(said).encode()).kind == "too_long"
    assert from_status(400, [], b'{"message": "x", "code": "context_length_exceeded"}').kind == "too_long"


def test_a_refusal_keeps_status_param_and_words() -> None:
    told = as_error([from_status(422, [], error("n is too large", param="n"))])
    assert isinstance(told, UpstreamRefused)
    assert (told.status, told.param, told.message) == (
        422,
        "n",
        "The upstream refused the request: n is too large",
    )
    assert told.payload()["code"] == 422


def test_too_long_has_openais_name() -> None:
    told = as_error([from_status(400, [], error("maximum context length is 5"))])
    assert (told.status, told.name) == (400, "context_length_exceeded")


def test_a_refusal_without_words_says_so() -> None:
    assert "it gave no reason" in as_error([from_status(400, [], b"<html>x</html>")]).message


SECRETS = [
    "sk-proj-abcdefghijklmnop1234",
    "sk_live_abcdefghijklmnop",
    "gsk_abcdefghijklmnopqrst",
    "Bearer abcdefghijklmnop",
    "key-abcdefghijklmnop",
    "AIzaSyA1234567890abcdefghijklmnopqrstuv",
    "xai-abcdefghijklmnop1234",
    "hf_abcdefghijklmnopqrst",
    "nvapi-abcdefghijklmnop1234",
]
ADDRESSES = [
    "10.0.0.5",
    "192.168.1.1:8000",
    "http://internal.example:8000/v1",
    "https://user:pw@host/x",
    "[fd00::1]:8000",
    "gpu-7.cluster.internal:8000",
]


@pytest.mark.parametrize("secret", SECRETS + ADDRESSES)
def test_no_secret_and_no_address_of_an_upstream_is_shown(secret: str) -> None:
    for text in (f"Incorrect value {secret} given", secret, f"({secret}).", f"a={secret}"):
        for body in (error(text), error("x", param=text), json.dumps({"error": text}).encode()):
            told = as_error([from_status(400, [], body)])
            assert secret not in told.body().decode()


def test_the_upstreams_own_credentials_trouble_is_never_the_clients() -> None:
    for status in (401, 402, 403):
        told = as_error([from_status(status, [], error("Incorrect API key: sk-abcdefghijkl"))])
        assert (told.status, told.message) == (
            502,
            "No upstream gave a usable answer (1 offer tried; the last one refused the router).",
        )


def test_public_text_is_one_bounded_line_without_markup() -> None:
    assert public_text("a\r\nb\tc\x1b[31m\u2028d  e") == "a b c [31m d e"
    assert public_text("<HTML><body>x") == public_text("<!DOCTYPE html>") == ""
    assert len(public_text("x " * 10_000)) <= 600
    ordinary = (
        "max_tokens is 5, use meta-llama/Llama-4-Maverick-17B-128E-Instruct-FP8: version 3.2.1 at 12:30"
    )
    assert public_text(ordinary) == ordinary


@given(st.text(), st.text())
def test_any_words_of_an_upstream_give_a_clean_error(text: str, param: str) -> None:
    told = as_error([from_status(400, [], error(text, param=param))])
    assert told.message.isprintable()
    assert told.param is None or told.param.isprintable()
    assert len(told.body()) < 10_000


@given(st.binary())
def test_any_bytes_of_an_upstream_give_a_fault(body: bytes) -> None:
    for status in (400, 401, 404, 429, 500):
        assert from_status(status, [], body).detail


@given(
    st.binary()
    | st.sampled_from([b'{"\xff":1}', b'{"message":"\xff"}', b'{"message":"\\ud800"}', b"5", b"[]"])
)
def test_any_error_object_gives_a_fault(raw: bytes) -> None:
    assert from_error_object(Raw(raw)).kind == "server_error"


def test_an_error_object_with_a_status_is_that_status() -> None:
    assert from_error_object(Raw(b'{"message":"x","code":429}')).kind == "rate_limited"
    assert from_error_object(Raw(b'{"message":"x","code":"429"}')).kind == "server_error"
    assert from_error_object(Raw(b'{"message":"x","code":200}')).kind == "server_error"


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (httpx.ConnectTimeout("10.0.0.1"), "timeout"),
        (httpx.ReadTimeout("10.0.0.1"), "timeout"),
        (httpx.PoolTimeout("10.0.0.1"), "timeout"),
        (httpx.ConnectError("10.0.0.1"), "connect"),
        (httpx.ReadError("10.0.0.1"), "cut"),
        (httpx.WriteError("10.0.0.1"), "cut"),
        (httpx.RemoteProtocolError("10.0.0.1"), "cut"),
    ],
)
def test_what_the_transport_raises_is_said_without_its_text(raised: httpx.HTTPError, kind: str) -> None:
    fault = from_exception(raised)
    assert (fault.kind, "10.0.0.1" in fault.detail) == (kind, False)


def fault_of(kind: Kind, retry_after_s: int | None = None) -> AttemptFault:
    return AttemptFault(kind, "did that", retry_after_s=retry_after_s)


@pytest.mark.parametrize(
    ("faults", "told", "wait_s"),
    [
        ([fault_of("rate_limited", 30), fault_of("rate_limited", 7)], LimitReached, 7),
        ([fault_of("rate_limited")], LimitReached, DEFAULT_RETRY_AFTER_S),
        ([fault_of("unavailable", 9)], Unavailable, 9),
        ([fault_of("unavailable"), fault_of("rate_limited", 9)], Unavailable, 9),
        ([fault_of("timeout")], UpstreamTimeout, None),
        ([fault_of("timeout"), fault_of("cut")], UpstreamBroke, None),
        ([fault_of("rate_limited", 9), fault_of("cut")], UpstreamBroke, 9),
        ([fault_of("auth"), fault_of("rate_limited", 9)], UpstreamBroke, 9),
        ([fault_of("connect")], UpstreamBroke, None),
        ([fault_of("not_found")], UpstreamBroke, None),
    ],
)
def test_what_the_client_is_told_never_hides_a_known_wait(
    faults: list[AttemptFault], told: type[RouterError], wait_s: int | None
) -> None:
    answer = as_error(faults)
    assert type(answer) is told
    assert answer.retry_after_s == wait_s
    assert ("1 offer " in answer.message) == (len(faults) == 1)
