"""Explain and Models in a real browser: live decisions, an image, a sent answer, sorting, opening."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser.watched import DESK, PHONE, axe, too_wide, watched
from tests.router import Offered, RouterServer, write_catalog
from tests.upstream import ScriptedUpstream

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser
WIDE = pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
SCHEMES = pytest.mark.parametrize("scheme", ["light", "dark"])
WRAPPED = "[Telegram Ann id:42 2026-11-20 10:02 UTC] Fix the race in my Go worker pool"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(64)


def explained(page: Page, text: str) -> None:
    page.goto("/ui/explain")
    page.locator("#x-text").fill(text)
    page.locator(".winner").wait_for()


@SCHEMES
@WIDE
def test_explain_can_be_read_by_everybody(
    browser: Browser, used: RouterServer, size: tuple[int, int], scheme: str
) -> None:
    with watched(browser, used.origin, size=size, scheme=scheme) as page:
        page.goto("/ui/explain")
        assert axe(page) == []
        explained(page, WRAPPED)
        page.locator("label[for=x-mode-quality]").first.click()
        page.locator(".compare").wait_for()
        for summary in page.locator("#result details > summary").all():
            summary.click()
        assert axe(page) == []
        assert not too_wide(page)
        page.locator("#x-cap").fill("not a number")
        page.locator("#x-cap").press("Tab")
        page.get_by_text("must be a number of US dollars").wait_for()
        assert axe(page) == []


@SCHEMES
@WIDE
def test_models_can_be_read_by_everybody(
    browser: Browser, used: RouterServer, size: tuple[int, int], scheme: str
) -> None:
    with watched(browser, used.origin, size=size, scheme=scheme) as page:
        page.goto("/ui/models")
        assert axe(page) == []
        page.locator("a.open").first.click()
        page.locator("#model").wait_for()
        assert axe(page) == []
        assert not too_wide(page)
        page.goto("/ui/models/test/cheap")
        assert axe(page) == []
        assert not too_wide(page)


def test_a_change_decides_again_and_says_who_won_before(browser: Browser, used: RouterServer) -> None:
    with watched(browser, used.origin) as page:
        explained(page, "Say hello")
        first = page.locator(".winner h2").inner_text()
        page.locator(".bymode").get_by_text("floor").click()
        page.locator(".compare").wait_for()
        assert "Before: balanced" in page.locator(".compare").inner_text()
        assert first in page.locator(".compare").inner_text()
        assert page.locator("#x-mode-floor").is_checked()
        page.locator("#x-said").get_by_text("wins").wait_for(state="attached")
        assert "hello" not in page.url


def test_an_image_stays_here_and_makes_it_vision(
    browser: Browser, used: RouterServer, tmp_path: Path
) -> None:
    picture = tmp_path / "picture.png"
    picture.write_bytes(PNG)
    with watched(browser, used.origin) as page:
        explained(page, "What is this?")
        page.locator("#x-file").set_input_files(picture)
        page.get_by_role("heading", name="vision, 100 %").wait_for()
        assert (page.locator("#x-preview").get_attribute("src") or "").startswith("data:image/png;base64,")
        page.get_by_role("button", name="Remove the image").click()
        page.get_by_role("heading", name="vision, 100 %").wait_for(state="detached")
        note = tmp_path / "note.txt"
        note.write_text("no picture")
        page.locator("#x-file").set_input_files(note)
        assert "Attach a PNG" in page.locator("#x-note").inner_text()


def test_sending_streams_the_answer_with_its_cost(browser: Browser, used: RouterServer) -> None:
    with watched(browser, used.origin) as page:
        explained(page, "Say hello")
        page.get_by_role("button", name="Send it").click()
        page.locator("#answer-state").get_by_text("done").wait_for()
        assert page.locator("#answer-text").inner_text().strip()
        facts = page.locator("#answer-facts").inner_text()
        for word in ("test/", "scripted", "Cost", "USD", "First token here", "Tokens"):
            assert word in facts, word
        assert axe(page) == []
        with page.expect_navigation():
            page.locator("#answer-facts").get_by_role("link").click()
        assert "settle" in page.locator("main").inner_text()


def test_sending_where_keys_are_asked_takes_one_and_says_what_is_wrong(
    browser: Browser, page_catalog: Path, tmp_path: Path
) -> None:
    with (
        RouterServer(page_catalog, tmp_path / "data", access="paid") as router,
        watched(browser, router.origin, expected=("401",)) as page,
    ):
        explained(page, "Say hello")
        page.get_by_role("button", name="Send it").click()
        page.get_by_text("This router asks for an API key").wait_for()
        page.locator("#answer-key").fill("rk_wrong")
        page.get_by_role("button", name="Send it").click()
        page.get_by_text("Invalid API key").wait_for()
        assert axe(page) == []


def test_explain_works_without_scripts(browser: Browser, used: RouterServer) -> None:
    with watched(browser, used.origin, scripts=False) as page:
        page.goto("/ui/explain")
        page.locator("#x-text").fill("Say hello")
        page.get_by_role("button", name="Explain").click()
        assert page.locator(".winner h2").inner_text()
        assert page.locator("#x-text").input_value() == "Say hello"
        page.locator("label[for=x-mode-floor]").first.click()
        page.get_by_role("button", name="Explain").click()
        assert "Before: balanced" in page.locator(".compare").inner_text()


def test_a_body_and_a_catalog_on_disk(
    browser: Browser, used: RouterServer, up: ScriptedUpstream, tmp_path: Path
) -> None:
    other = write_catalog(tmp_path / "other", {"scripted": up.base_url}, [Offered("other/only")])
    body = {"model": "auto", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 77}
    with watched(browser, used.origin) as page:
        explained(page, json.dumps(body))
        assert "77 tokens" in page.locator(".need").inner_text()
        page.locator("#x-catalog").fill(str(other))
        page.locator("#x-catalog").press("Tab")
        page.locator(".winner h2").get_by_text("other/only").wait_for()
        (other / "models/other/only.toml").write_text("name = 1\n")
        page.get_by_role("button", name="Explain").click()
        page.get_by_text("That catalog cannot be used").wait_for()
        assert "models/other/only.toml:1" in page.locator("#result").inner_text()
        assert axe(page) == []


def test_models_sort_filter_and_open_by_keyboard(browser: Browser, used: RouterServer) -> None:
    with watched(browser, used.origin) as page:
        page.goto("/ui/models")
        page.get_by_role("link", name="Output").focus()
        page.keyboard.press("Enter")
        page.locator("[aria-sort=ascending]").wait_for()
        assert page.locator("a.open").all_inner_texts() == ["test/cheap", "test/next", "test/best"]
        page.get_by_role("link", name="Output").click()
        page.locator("[aria-sort=descending]").wait_for()
        assert page.locator("a.open").first.inner_text() == "test/best"
        page.get_by_label("Name").fill("next")
        page.get_by_text("1 of 3 models").wait_for()
        assert "sort=out" in page.url
        assert "q=next" in page.url
        link = page.locator("a.open").first
        link.focus()
        page.keyboard.press("Enter")
        page.locator("#model").wait_for()
        assert link.get_attribute("aria-expanded") == "true"
        page.keyboard.press("Enter")
        page.locator("#model").wait_for(state="detached")
