"""What `/ui/explain` says: as the dry run does, before against now, other catalogs; nothing is kept."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from router.running import OTHER_BYTES, OTHER_FILES
from router.web.explain import FAULTS_SHOWN
from tests.router import Answer, Offered, RouterServer, write_catalog
from tests.upstream import ScriptedUpstream, answer

PIXEL = "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(24)).decode()
MODELS = [
    Offered("test/cheap", price=(1.0, 2.0), quality={"simple": 60, "coding": 50, "reasoning": 50}),
    Offered("test/next", price=(2.0, 4.0), quality={"simple": 70, "coding": 72, "reasoning": 72}),
    Offered("test/best", price=(10.0, 20.0), quality=dict.fromkeys(("simple", "coding", "vision"), 90)),
    Offered("test/blind", price=(0.1, 0.1), input=("text",), quality={"simple": 70, "coding": 70}),
    Offered("test/off", provider="keyed"),
]


@pytest.fixture(scope="module")
def up() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as server:
        yield server


@pytest.fixture(scope="module")
def router(up: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RouterServer]:
    folder = tmp_path_factory.mktemp("catalog")
    write_catalog(folder, {"keyed": "https://keyed.example/v1"}, [], provider='key_env = "KEYED_API_KEY"')
    write_catalog(folder, {"scripted": up.base_url}, MODELS, policy="[bands.simple]\nbalanced = 40\n")
    with RouterServer(folder, tmp_path_factory.mktemp("data")) as server:
        yield server


def post(router: RouterServer, path: str, headers: Mapping[str, str] = {}, /, **fields: str) -> Answer:
    form = {"content-type": "application/x-www-form-urlencoded", "origin": router.origin, **headers}
    return router.request("POST", path, urlencode(fields).encode(), form)


def told(router: RouterServer, **fields: str) -> str:
    """Return what the result says, without its tags."""
    got = post(router, "/ui/explain", {"hx-request": "true"}, **fields)
    assert got.status == 200, got.body
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", got.body.decode())).split())


def before_of(router: RouterServer, **fields: str) -> str:
    """Return what the form sends along of what it has shown."""
    body = post(router, "/ui/explain", {"hx-request": "true"}, **fields).body.decode()
    found = re.search(r'name="before" form="explain" value="([^"]*)"', body)
    assert found is not None
    return html.unescape(found[1])


def routed(router: RouterServer, body: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = router.request("POST", "/v1/route", body).json
    return found


@pytest.mark.parametrize(
    ("fields", "body"),
    [
        ({}, {}),
        ({"mode": "quality"}, {"router": {"mode": "quality"}}),
        ({"model": "auto:cost", "mode": "quality"}, {"router": {"mode": "quality"}}),
        ({"cap": "0.02"}, {"router": {"max_cost_usd": 0.02}}),
        ({"model": "coding"}, {"model": "coding"}),
        ({"model": "test/best"}, {"model": "test/best"}),
    ],
)
def test_it_decides_as_the_dry_run_does(
    router: RouterServer, fields: dict[str, str], body: dict[str, Any]
) -> None:
    prompt = "Write a Python function that merges two sorted lists, with tests."
    said = routed(router, {"model": "auto", "messages": [{"role": "user", "content": prompt}], **body})

    text = told(router, text=prompt, **fields)
    assert f"Winner {said['reason']} {said['model'].replace('/', '/ ')}" in text
    assert f"Could serve it: {1 + len(said['fallbacks'])} " in text
    for loser in said["losers"]:
        assert loser["detail"] in text
    if said["category"]:
        assert f"{said['category']} {100 * said['probabilities'][said['category']]:.1f} %" in text


def test_the_words_and_what_was_stripped_are_shown(router: RouterServer) -> None:
    wrapped = "[Telegram Ann id:42 2026-11-20 10:02 UTC] Fix the race in <my> Go worker pool."

    body = post(router, "/ui/explain", {"hx-request": "true"}, text=wrapped).body.decode()
    assert "<del>[Telegram Ann id:42 2026-11-20 10:02 UTC]</del>" in body
    assert "<p>Fix the race in &lt;my&gt; Go worker pool.</p>" in body
    assert re.search(r'class="chip coding">fix <', body)


def test_another_mode_shows_who_wins_now_and_who_did_before(router: RouterServer) -> None:
    before = before_of(router, text="Say hello")

    text = told(router, text="Say hello", mode="quality", before=before)
    assert re.search(r"Before: balanced test/ blind at scripted .* Now: quality test/ best at scripted", text)
    assert "Before:" not in told(router, text="Say hello", before=before)  # nothing was changed
    assert "Before:" not in told(router, text="Another", mode="quality", before=before)
    assert "Before:" not in told(router, text="Say hello", mode="quality", before="{not json")


def test_every_modes_winner_is_that_modes_own_decision(router: RouterServer) -> None:
    text = told(router, text="Say hello")

    for mode in ("cost", "balanced", "quality", "nitro", "floor"):
        model = routed(
            router,
            {"model": f"auto:{mode}", "messages": [{"role": "user", "content": "Say hello"}]},
        )["model"]
        assert f" {mode} {model.replace('/', '/ ')} scripted" in text


def test_an_image_makes_it_vision_and_drops_who_is_blind(router: RouterServer) -> None:
    text = told(router, text="What is this?", image=PIXEL)

    assert "vision, 100 %" in text
    assert "Not rated for this category" in text
    assert "does not read images" in told(router, text="What is this?", image=PIXEL, model="test/blind")
    assert told(router, text="x", image="data:text/html;base64,aGk=").count("must be base64 data") == 1
    assert "vision, 100 %" in told(router, text="", image=PIXEL)


def test_a_large_image_comes_as_a_browser_sends_it(router: RouterServer) -> None:
    image = PIXEL + "A" * 16 * 2**20
    parts = {"text": "What is this?", "image": image}
    body = "".join(
        f'--edge\r\ncontent-disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in parts.items()
    )
    headers = {
        "content-type": "multipart/form-data; boundary=edge",
        "origin": router.origin,
        "hx-request": "true",
    }

    got = router.request("POST", "/ui/explain", f"{body}--edge--\r\n".encode(), headers)
    assert (got.status, b"vision, 100 %" in got.body) == (200, True)
    assert len(got.body) < 2**20  # it is not sent back


def test_a_body_is_taken_as_it_is(router: RouterServer) -> None:
    body = {
        "model": "auto",
        "messages": [
            {"role": "system", "content": "Be short."},
            {"role": "user", "content": "Say hello"},
        ],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
        "max_tokens": 77,
    }

    text = told(router, text=json.dumps(body))
    assert "Answer, at most 77 tokens" in text
    assert "Tools yes" in text
    assert "max_tokens" in told(router, text=json.dumps({**body, "max_tokens": -1}))
    assert "not valid JSON" in told(router, text='{"messages": [')
    assert "Prompt, about" in told(router, text='{"messages": [', kind="prompt")


def test_what_is_sent_is_what_was_decided_for(router: RouterServer, up: ScriptedUpstream) -> None:
    up.on("test/best", answer("yes"))
    body = json.dumps({"model": "auto:cost", "messages": [{"role": "user", "content": "Hi"}], "seed": 7})
    fields = {"text": body, "mode": "quality", "cap": "5", "image": PIXEL}

    got = post(router, "/ui/explain/body", **fields)
    sent = got.json
    assert (sent["model"], sent["seed"], sent["stream"]) == ("auto", 7, True)
    assert sent["router"] == {"mode": "quality", "max_cost_usd": 5} or sent["router"]["max_cost_usd"] == "5"
    assert sent["messages"][0]["content"] == [
        {"type": "text", "text": "Hi"},
        {"type": "image_url", "image_url": {"url": PIXEL}},
    ]
    served = router.request("POST", "/v1/chat/completions", got.body)
    assert served.headers["x-llm-router-resolved-model"] == "test/best"
    assert "Winner only_fit test/ best" in told(router, **fields)


def test_a_catalog_on_disk_decides_and_its_faults_have_their_line(
    router: RouterServer, up: ScriptedUpstream, tmp_path: Path
) -> None:
    other = write_catalog(tmp_path / "other", {"scripted": up.base_url}, [Offered("other/only")])
    before = before_of(router, text="Say hello")

    text = told(router, text="Say hello", catalog=str(other), before=before)
    assert "Now: balanced" in text
    assert "Winner only_fit other/ only" in text
    assert "Send it" not in text
    file = other / "models/other/only.toml"
    file.write_text(file.read_text().replace("input = 1.0", 'input = "1"'))
    text = told(router, text="Say hello", catalog=str(other), before=before)
    assert re.search(r"models/other/only.toml:\d+: offers\[0\].price.input: ", text), text
    assert before_of(router, text="Say hello", catalog=str(other), before=before) == before
    assert "Winner cheapest_in_band test/ blind" in told(router, text="Say hello")


def test_a_folder_that_is_too_large_is_not_read(
    router: RouterServer, up: ScriptedUpstream, tmp_path: Path
) -> None:
    other = write_catalog(tmp_path / "other", {"scripted": up.base_url}, [Offered("other/only")])
    many = other / "models" / "many"
    many.mkdir()
    for number in range(OTHER_FILES - len([*other.rglob("*")])):
        (many / f"{number}.txt").touch()
    assert "other/ only" in told(router, text="Say hello", catalog=str(other))  # as many as may be
    (many / "last.txt").touch()
    text = told(router, text="Say hello", catalog=str(other))
    assert f"not read: it holds more than {OTHER_FILES:,} files and folders" in text
    assert f"router explain --catalog {other}" in text

    for file in many.iterdir():
        file.unlink()
    for number in range(3):
        (many / f"{number}.toml").write_text("#" * (OTHER_BYTES // 3 + 1))
    assert f"bytes, more than {OTHER_BYTES:,}" in told(router, text="Say hello", catalog=str(other))


def test_a_folder_in_circles_ends(router: RouterServer, up: ScriptedUpstream, tmp_path: Path) -> None:
    other = write_catalog(tmp_path / "other", {"scripted": up.base_url}, [Offered("other/only")])
    for number in range(10):  # a million ways to the bottom
        (other / "models" / f"again{number}").symlink_to(other)
    assert "files and folders" in told(router, text="Say hello", catalog=str(other))


@pytest.mark.parametrize("linked", ["policy.toml", "models/a/secret.toml", "providers/own", "models/b"])
def test_a_link_out_of_the_folder_is_not_followed(
    router: RouterServer, up: ScriptedUpstream, tmp_path: Path, linked: str
) -> None:
    other = write_catalog(tmp_path / "other", {"scripted": up.base_url}, [Offered("other/only")])
    private = tmp_path / "private"
    private.mkdir()
    (private / "secret.toml").write_text('the_admins_own_name = "hunter2"\npays = "hunter2"\n')
    link = other / linked
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(private if "." not in linked else private / "secret.toml")
    text = told(router, text="Say hello", catalog=str(other))
    assert "that leads out of the folder" in text
    assert "hunter2" not in text
    assert "the_admins_own_name" not in text

    link.unlink()
    (other / "models" / "other" / "same.toml").symlink_to(other / "models" / "other" / "only.toml")
    assert "other/ same" in told(router, text="Say hello", catalog=str(other))  # one inside is followed


def test_of_many_faults_the_first_are_shown(
    router: RouterServer, up: ScriptedUpstream, tmp_path: Path
) -> None:
    other = write_catalog(tmp_path / "other", {"scripted": up.base_url}, [Offered("other/only")])
    (other / "policy.toml").write_text("".join(f"unknown_{number} = 1\n" for number in range(5_000)))
    body = post(router, "/ui/explain", text="Say hello", catalog=str(other)).body.decode()
    assert body.count("<li>policy.toml:") == FAULTS_SHOWN
    assert f"And {101 - FAULTS_SHOWN} more: <code>router catalog check" in body


@pytest.mark.parametrize(
    "path", ["/", "/no/such/folder", "/etc/hostname", "a\0b", "x" * 5_000, "~nobody-here/x"]
)
def test_what_is_no_catalog_is_not_walked(router: RouterServer, path: str) -> None:
    text = told(router, text="Say hello", catalog=path)

    assert "That catalog cannot be used." in text
    assert "no catalog here" in text or "no path" in text or "cannot be read" in text


@pytest.mark.parametrize("cap", ["x", "-1", "nan", "1e400", "inf"])
def test_a_cap_is_a_number_of_dollars(router: RouterServer, cap: str) -> None:
    assert "number of US dollars" in told(router, text="Say hello", cap=cap)


def test_a_refusal_is_told_with_what_stands_in_the_way(router: RouterServer) -> None:
    text = told(router, text="Say hello", cap="0.0000001")

    assert "Nobody can serve this" in text
    assert "the cap is 0.0000001 USD" in text
    assert "May cost more than the cap" in text


def test_no_other_site_can_ask_and_no_prompt_is_kept(router: RouterServer) -> None:
    body = urlencode({"text": "quicksilver marmalade"}).encode()
    form = {"content-type": "application/x-www-form-urlencoded"}
    for path in ("/ui/explain", "/ui/explain/body"):
        for origin in ({}, {"origin": "https://evil.example"}, {"origin": "null"}):
            assert router.request("POST", path, body, {**form, **origin}).status == 403

    assert "marmalade" in told(router, text="quicksilver marmalade")
    got = post(router, "/ui/explain", text="quicksilver marmalade")
    assert b"</html>" in got.body
    assert got.headers["cache-control"] == "no-store"
    assert "marmalade" not in router.log.getvalue()
    for file in router.data.rglob("*"):
        assert file.is_dir() or b"marmalade" not in file.read_bytes(), file


def test_it_asks_for_the_admin_key_where_there_is_one(router: RouterServer, tmp_path: Path) -> None:
    assert router.settings.catalog is not None
    with RouterServer(router.settings.catalog, tmp_path / "data", admin_key="the operator") as keyed:
        assert keyed.request("GET", "/ui/explain").status == 401
        for path in ("/ui/explain", "/ui/explain/body"):
            assert post(keyed, path, text="hi").status == 401
        authorized = {"authorization": "Bearer the operator"}
        assert post(keyed, "/ui/explain", authorized, text="hi").status == 200
