"""Prompts and answers that the operator has kept: on their row's page, gone with it, and nowhere else."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from router.cli import main
from router.history.words import MOST_CHARS, Talk
from tests.router import Offered, RouterServer, write_catalog
from tests.service.surfing import Surfer, said
from tests.service.walking import bearer, make_key, request_id
from tests.upstream import ScriptedUpstream, answer, status

ADMIN_KEY = "the operator's own key"
PROMPT = "what goes with quicksilver marmalade?"
ANSWER = "the answer is blancmange"
PNG = "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(64)).decode()


@pytest.fixture(scope="module")
def up() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as server:
        yield server


@pytest.fixture
def catalog(up: ScriptedUpstream, tmp_path: Path) -> Path:
    up.on("test/a", answer(ANSWER))
    return write_catalog(tmp_path / "catalog", {"scripted": up.base_url}, [Offered("test/a")])


@pytest.fixture
def router(catalog: Path, tmp_path: Path, database_url: str | None) -> Iterator[RouterServer]:
    more = {"admin_key": ADMIN_KEY, "database_url": database_url}
    with RouterServer(catalog, tmp_path / "data", keep_prompts=True, **more) as server:
        yield server


def operator(router: RouterServer) -> Surfer:
    surfer = Surfer(router)
    surfer.sign_in(ADMIN_KEY)
    return surfer


@pytest.mark.parametrize("stream", [False, True])
def test_the_operator_reads_what_was_said(router: RouterServer, stream: bool) -> None:
    got = router.chat(PROMPT, stream=stream)
    assert got.status == 200

    page = operator(router).seen(f"/ui/requests/{request_id(got)}")

    assert f"user {PROMPT}" in page
    assert f"answer {ANSWER}" in page
    assert "kept: ROUTER_KEEP_PROMPTS" in page
    assert "prompts are kept" in operator(router).seen("/ui/requests")


def test_it_is_in_no_log_no_list_and_no_file_but_the_history(catalog: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    with RouterServer(catalog, data, keep_prompts=True) as router:
        name = request_id(router.chat(PROMPT))
        surfer = Surfer(router)
        assert PROMPT in surfer.seen(f"/ui/requests/{name}")
        pages = ("/ui", "/ui/requests", "/ui/requests.csv", "/ui/requests/new?after=0", "/metrics")
        places = [surfer.get(path).body for path in pages]
    places.append(router.log.getvalue().encode())
    files = [path for path in data.rglob("*") if path.is_file() and not path.name.startswith("history.db")]
    assert any(path.parent.name == "decisions" for path in files)
    for each in [*places, *(path.read_bytes() for path in files)]:
        assert b"marmalade" not in each
        assert b"blancmange" not in each


def test_a_customer_sees_none_of_it(router: RouterServer) -> None:
    text, _ = make_key(router, "--credit", "1")
    got = router.chat(PROMPT, headers=bearer(text))
    assert got.status == 200
    name = request_id(got)
    customer = Surfer(router)
    customer.sign_in(text)

    receipt = customer.seen(f"/ui/account/receipts/{name}")
    assert name in receipt
    assert "marmalade" not in receipt
    assert customer.get(f"/ui/requests/{name}").status == 403
    api = router.request("GET", f"/v1/receipts/{name}", None, bearer(text))
    assert b"marmalade" not in api.body


def test_what_is_no_text_is_a_note_and_tools_are_named(router: RouterServer, up: ScriptedUpstream) -> None:
    messages = [
        {"role": "system", "content": "be <b>brief</b>"},
        {"role": "assistant", "content": None, "tool_calls": [_call("look", '{"at": "it"}')]},
        {"role": "tool", "tool_call_id": "c1", "content": "a cat"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "see "},
                {"type": "image_url", "image_url": {"url": PNG}},
            ],
        },
    ]
    got = router.request("POST", "/v1/chat/completions", {"model": "auto", "messages": messages})
    assert got.status == 200
    surfer = operator(router)
    shown = surfer.get(f"/ui/requests/{request_id(got)}")

    assert "&lt;b&gt;brief" in shown.body.decode()
    page = said(shown)
    assert "see [an image]" in page
    assert '[calls look] {"at": "it"}' in page
    assert "base64" not in page


def test_a_request_that_was_refused_has_no_answer_and_a_strangers_is_not_kept(
    router: RouterServer, up: ScriptedUpstream
) -> None:
    up.on("test/a", status(400, {"error": {"message": "no"}}))
    refused = router.chat(PROMPT)
    assert refused.status >= 400
    page = operator(router).seen(f"/ui/requests/{refused.headers['x-request-id']}")
    assert PROMPT in page
    assert "None: nothing was answered" in page

    wrong = router.chat(PROMPT, headers=bearer("rk_wrong"))
    assert wrong.status == 401
    page = operator(router).seen(f"/ui/requests/{wrong.headers['x-request-id']}")
    assert "marmalade" not in page
    assert "None are kept of this request" in page


def test_off_keeps_nothing_and_is_the_default(catalog: Path, tmp_path: Path) -> None:
    with RouterServer(catalog, tmp_path / "data") as router:
        page = Surfer(router).seen(f"/ui/requests/{request_id(router.chat(PROMPT))}")
        assert "Words" not in page
        assert "prompts are kept" not in Surfer(router).seen("/ui/requests")
    files = [path.read_bytes() for path in (tmp_path / "data").glob("history.db*")]
    assert files
    assert not any(b"marmalade" in each for each in files)


def test_labels_and_kept_words_become_lines_that_train(catalog: Path, tmp_path: Path) -> None:
    with RouterServer(catalog, tmp_path / "data", keep_prompts=True) as router:
        name = request_id(router.chat("fix my parser"))
        other = request_id(router.chat("weigh both"))
    labels, out = tmp_path / "labels.jsonl", tmp_path / "lines.jsonl"
    labels.write_text(
        "".join(
            json.dumps({"request_id": i, "label": label}) + "\n"
            for i, label in ((name, "coding"), (other, "reasoning"))
        )
    )
    done = CliRunner().invoke(
        main, ["feedback", str(labels), "--kept", "--out", str(out), "--data", str(tmp_path / "data")]
    )
    assert done.exit_code == 0, done.output
    assert [json.loads(line) for line in out.read_text().splitlines()] == [
        {
            "messages": [{"role": "user", "content": text}],
            "label": label,
            "source": "feedback",
        }
        for text, label in (("fix my parser", "coding"), ("weigh both", "reasoning"))
    ]


def test_the_newest_words_are_kept_of_a_long_request() -> None:
    talk = Talk()
    long = "x" * (MOST_CHARS - 10)
    talk.request = raw([("user", "old"), ("user", "y" * 100), ("assistant", long)])
    talk.begin(b"text/event-stream; charset=utf-8")
    event = b'data: {"choices": [{"index": 0, "delta": {"content": "%s"}}]}\n\n'
    talk.add(event % b"begin " + b": a comment\n\n")
    talk.add(b'data:{"choices": [{"index": 1, "delta": {"content": "another choice"}}]}\n\n')
    for _ in range(70):
        talk.add(event % (b"z" * 1_000))
    talk.add(b"data: [DONE]\n\n")

    words = talk.words()

    assert words is not None
    assert [(each.role, len(each.text), each.cut_chars) for each in words.messages] == [
        ("user", 10, 90),
        ("assistant", MOST_CHARS - 10, 0),
    ]
    assert words.older == 1
    assert words.answer is not None
    assert words.answer.startswith("begin zzz")
    assert len(words.answer) == MOST_CHARS
    assert words.answer_cut


def _call(name: str, arguments: str) -> dict[str, object]:
    return {"id": "c1", "type": "function", "function": {"name": name, "arguments": arguments}}


def raw(messages: list[tuple[str, str]]) -> msgspec.Raw:
    return msgspec.Raw(json.dumps([{"role": role, "content": text} for role, text in messages]).encode())
