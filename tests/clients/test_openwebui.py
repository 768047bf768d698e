"""Open WebUI itself, with the variables that `router init openwebui` wrote, in a real browser."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from router.cli.init_merge import value_at
from router.cli.init_yaml import Env
from tests.browser.watched import chromium
from tests.clients.agents import ANSWERING, PNG, Bench, bench
from tests.installed import NotInstalled, needs, python_folder
from tests.upstream import Turn, answer, stream

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.openwebui

OPEN_WEBUI = "open-webui==0.12.4"
START_S = 240.0
SEEN_MS = 30_000
# It fetches a model for its own search in documents, and news of its versions; neither is asked about here.
ALONE = {
    "OFFLINE_MODE": "true",
    "HF_HUB_OFFLINE": "1",
    "RAG_EMBEDDING_ENGINE": "openai",
    "ENABLE_OLLAMA_API": "false",
    "ANONYMIZED_TELEMETRY": "false",
    "DO_NOT_TRACK": "true",
    "WEBUI_AUTH": "false",
    "WEBUI_SECRET_KEY": "of a test",
}
TASK = json.dumps({"title": "A French hello", "tags": ["French"], "follow_ups": ["And in Spanish?"]})


async def talk(turn: Turn) -> None:
    """Answer the chat in a stream, and what Open WebUI asks for itself at once."""
    body = turn.request.json
    await (stream(["Bonjour ", "tout le monde"]) if body.get("stream") else answer(TASK))(turn)


@pytest.fixture(scope="module")
def paid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with bench(tmp_path_factory.mktemp("openwebui"), access="paid") as running:
        running.upstream.on(ANSWERING, talk)
        yield running


@pytest.fixture(scope="module")
def origin(paid: Bench) -> Iterator[str]:
    """Start it with an empty HOME; torch, 5 GB with what it brings, is for embeddings and speech alone."""
    program = needs(lambda: python_folder("openwebui", OPEN_WEBUI, without=("torch",))) / "bin" / "open-webui"
    file = paid.home / "openwebui.env"
    paid.init("openwebui", "--key", paid.new_key("--credit", "5"), "--file", str(file))
    ours: Any = value_at(file.read_text(), (), Env())
    port = free_port()
    places = {"HOME": str(paid.home), "DATA_DIR": str(paid.home / "data"), "PATH": os.environ["PATH"]}
    with (paid.home / "log").open("w") as log:
        running = subprocess.Popen(
            [str(program), "serve", "--host", "127.0.0.1", "--port", str(port)],
            cwd=paid.home,
            env={**places, **ALONE, **ours},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        try:
            wait_healthy(f"http://127.0.0.1:{port}", running, paid.home / "log")
            yield f"http://127.0.0.1:{port}"
        finally:
            running.kill()
            running.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_healthy(origin: str, running: subprocess.Popen[bytes], log: Path) -> None:
    end_s = time.monotonic() + START_S
    while running.poll() is None and time.monotonic() < end_s:
        try:
            with urllib.request.urlopen(f"{origin}/health", timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"Open WebUI did not start: {log.read_text()[-3_000:]}")


@pytest.fixture(scope="module")
def page(origin: str) -> Iterator[Page]:
    def browser() -> tuple[Any, str]:
        program = chromium()
        try:
            from playwright.sync_api import sync_playwright
        except ImportError as fault:
            raise NotInstalled("no playwright here: uv run --group browser pytest -m openwebui") from fault
        if program is None:
            raise NotInstalled("no chromium here: apt-get install chromium")
        return sync_playwright, program

    start, program = needs(browser)
    flags = ["--no-sandbox"] if os.geteuid() == 0 else []
    with start() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=flags)
        shown = started.new_context(viewport={"width": 1280, "height": 900}).new_page()
        shown.set_default_timeout(SEEN_MS)
        shown.goto(origin)
        shown.get_by_role("button", name="Okay, Let's Go!").click()
        yield shown
        started.close()


def say(page: Page, text: str) -> None:
    page.locator("#chat-input").click()
    page.keyboard.type(text)
    page.keyboard.press("Enter")


def chats(paid: Bench) -> list[dict[str, Any]]:
    return [line for line in paid.router.logged() if line["asked"] == "auto"]


def test_the_routers_models_are_offered_and_auto_is_the_first(page: Page) -> None:
    page.locator("#model-selector-model-button").click()
    offered = page.locator("button[aria-roledescription=model-item], [aria-label=model-item], [role=option]")
    offered.first.wait_for()
    names = [text.split("\n")[0] for text in offered.all_inner_texts()]
    assert names[:5] == [f"Router: {name}" for name in ("auto", "simple", "coding", "reasoning", "vision")]
    page.keyboard.press("Escape")


def test_a_chat_streams_with_its_usage_and_is_named_by_the_cheap_model(page: Page, paid: Bench) -> None:
    say(page, "Say hello in French")
    page.get_by_text("Bonjour tout le monde").wait_for()
    page.get_by_text("And in Spanish?").wait_for()
    page.wait_for_function("document.title.startsWith('A French hello')")
    (chat,) = chats(paid)
    assert (chat["outcome"], chat["stream"], chat["category"]) == ("ok", True, "simple")
    assert "estimated" not in chat
    page.locator("button[id^=info-]").last.hover()
    told = dict(line.split(": ") for line in page.locator(".tippy-box").last.inner_text().splitlines())
    assert int(told["prompt_tokens"]) == chat["prompt_tokens"]
    assert float(told["cost"]) == pytest.approx(chat["charged_nusd"] / 1e9)
    others = [line for line in paid.router.logged() if line is not chat and line["asked"] != "auto"]
    assert {line["asked"] for line in others} == {"simple"}
    assert len(others) >= 2  # the title, tags and follow-ups


def test_an_image_reaches_a_model_that_sees(page: Page, paid: Bench) -> None:
    picture = paid.home / "pic.png"
    picture.write_bytes(PNG)
    page.locator("input[type=file]").first.set_input_files(picture)
    page.get_by_alt_text("pic.png").or_(page.locator("img[src*='/api/v1/files/']")).first.wait_for()
    say(page, "What is in this picture?")
    page.get_by_text("Bonjour tout le monde").nth(1).wait_for()
    assert chats(paid)[-1]["category"] == "vision"
    sent = next(r for r in reversed(paid.upstream.requests) if r.json.get("stream"))
    assert "data:image/png;base64," in str(sent.json["messages"][-1]["content"])


def test_a_wrong_key_is_told_in_the_chat(page: Page, origin: str, paid: Bench) -> None:
    token = asked(f"{origin}/api/v1/auths/signin", {"email": "", "password": ""})["token"]
    settings = asked(f"{origin}/openai/config", None, token)
    asked(f"{origin}/openai/config/update", {**settings, "OPENAI_API_KEYS": ["sk-wrong"]}, token)
    before = len(paid.upstream.requests)
    say(page, "Say hello again")
    page.get_by_text("Invalid API key").first.wait_for()
    assert len(paid.upstream.requests) == before


def asked(url: str, body: Any, token: str = "") -> Any:
    headers = {"content-type": "application/json", "authorization": f"Bearer {token}"}
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=30) as got:
            return json.load(got)
    except urllib.error.HTTPError as fault:
        pytest.fail(f"{url}: {fault.code} {fault.read()[:500]!r}")
