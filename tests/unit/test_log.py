import io
import json
import logging
import re
import sys
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from router.telemetry.log import LineFormatter, LogForm, RequestLog

AT = "2026-11-18T12:00:00Z"
any_text = st.text(st.characters())  # surrogates too
FORGED = "x\r\n2026-11-18T12:00:00Z INFO router: all is well"


def formatted(form: LogForm, message: str, *args: Any, trace: bool = False) -> str:
    exc_info = None
    if trace:
        try:
            raise ValueError(FORGED)
        except ValueError:
            exc_info = sys.exc_info()
    record = logging.LogRecord("router.chat", logging.WARNING, __file__, 1, message, args, exc_info)
    return LineFormatter(form).format(record)


def written(form: LogForm, fields: dict[str, Any]) -> str:
    stream = io.StringIO()
    RequestLog(form, stream).write(AT, fields)
    text = stream.getvalue()
    assert text.endswith("\n")
    return text[:-1]


def test_a_line_of_text_has_time_level_and_place() -> None:
    line = formatted("text", "attempt at %s failed", "a/one")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ WARNING router.chat: attempt at a/one failed", line)


def test_a_json_line_has_the_same() -> None:
    line = json.loads(formatted("json", "attempt at %s failed", "a/one"))
    assert (line["level"], line["logger"], line["message"]) == (
        "warning",
        "router.chat",
        "attempt at a/one failed",
    )
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", line["at"])


@pytest.mark.parametrize("form", ["text", "json"])
@given(any_text)
@example("\ud800")
def test_no_message_makes_a_second_line(form: LogForm, text: str) -> None:
    for message in (text, FORGED, f"{text}\nTraceback (most recent call last):\nforged", f"a\rb{text}"):
        line = formatted(form, "%s", message)
        assert not re.search(r"[\r\n]", line)
        line.encode()


def test_a_json_message_is_the_message() -> None:
    assert json.loads(formatted("json", "%s", FORGED))["message"] == FORGED


def test_a_traceback_is_kept_and_what_an_exception_says_cannot_pass_for_a_line() -> None:
    head, *rest = formatted("text", "broke", trace=True).splitlines()
    assert head.endswith("router.chat: broke")
    assert rest[0].strip() == "Traceback (most recent call last):"
    assert any("ValueError: x" in line for line in rest)
    assert all(line.startswith(" ") for line in rest)


def test_a_traceback_in_json_stays_in_its_line() -> None:
    line = formatted("json", "broke", trace=True)
    assert "\n" not in line
    assert "ValueError" in json.loads(line)["trace"]


FIELDS = {
    "request_id": "r1",
    "model": "a/one",
    "category": None,
    "stream": True,
    "seconds": 1.23456789,
    "tokens": 7,
}


def test_a_request_is_one_line_of_what_is_known() -> None:
    assert written("text", FIELDS) == (
        f"{AT} request request_id=r1 model=a/one stream=True seconds=1.235 tokens=7"
    )
    assert json.loads(written("json", FIELDS)) == {
        "at": AT,
        "level": "info",
        "logger": "router.request",
        **{name: value for name, value in FIELDS.items() if value is not None},
    }


@pytest.mark.parametrize("form", ["text", "json"])
@given(any_text)
@example("\ud800")
@example('" tokens=9 x="')
def test_no_field_makes_a_second_line_or_a_second_field(form: LogForm, text: str) -> None:
    line = written(form, {"client_request_id": text, "model": f"{text} outcome=ok\r\n", "tokens": 7})
    assert not re.search(r"[\r\n\x00-\x1f]", line)
    line.encode()
    if form == "json":
        assert json.loads(line)["tokens"] == 7
    else:
        # Quoted values hold the spaces, so what stands outside of quotes are our own three fields.
        bare = re.sub(r'"(?:[^"\\]|\\.)*"', '""', line)
        assert re.findall(r"(\w+)=", bare.split(" request ", 1)[1].split(' model=""')[-1]) == ["tokens"]
