"""The account pages in a real browser: the operator's keys, a customer's own account, with much to show."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import pytest

from benchmarks.made_up import ACCOUNTS, fill_history, records
from tests.browser.conftest import MANY
from tests.browser.watched import DESK, PHONE, axe, too_wide, watched
from tests.router import RouterServer
from tests.service.walking import bearer

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser
OPERATOR = "the operator"
BOTH = pytest.mark.parametrize("scheme", ["light", "dark"])
WIDE = pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])


@dataclass(frozen=True)
class Kept:
    """A router with keys; `text` and `key_id` are of the one that made most of MANY requests."""

    router: RouterServer
    text: str
    key_id: str


@pytest.fixture(scope="module")
def kept(page_catalog: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    data = tmp_path_factory.mktemp("kept")
    with RouterServer(page_catalog, data, admin_key=OPERATOR) as router:
        wanted = {
            **{"name": "ann@example.com, the analysts", "credit_usd": 25, "rpm": 60, "tpm": 200_000},
            **{"concurrency": 4, "budget_day_usd": 0.00001, "budget_month_usd": 10, "expires": "2031-06-30"},
            "models": ["test/*"],
        }
        made = router.request("POST", "/admin/keys", wanted, bearer(OPERATOR)).json
        for number in range(60):
            body = {"name": f"team {number:02d}", "credit_usd": number}
            router.request("POST", "/admin/keys", body, bearer(OPERATOR))
        for prompt in ("Say hello", "Write a quicksort in Python"):
            assert router.chat(prompt, headers=bearer(made["key"])).status in (200, 402)
        requests = (
            msgspec.structs.replace(each, account=made["id"]) if each.account == ACCOUNTS[0] else each
            for each in records(MANY, time.time(), days=90)
        )
        with ThreadPoolExecutor(1) as worker:  # a thread that has no loop of its own
            worker.submit(lambda: asyncio.run(fill_history(data, requests))).result()
        yield Kept(router, made["key"], made["id"])


def sign_in(page: Page, key: str) -> None:
    page.goto("/ui/account")
    page.locator("#key").fill(key)
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Sign out").wait_for()


@BOTH
@WIDE
def test_everybody_can_read_the_account_pages(
    browser: Browser, kept: Kept, size: tuple[int, int], scheme: str
) -> None:
    with watched(browser, kept.router.origin, size=size, scheme=scheme, expected=("401",)) as page:
        sign_in(page, OPERATOR)
        for path in ("/ui/account", "/ui/account/new", f"/ui/account/keys/{kept.key_id}?days=90"):
            page.goto(path)
            page.locator("details").evaluate_all("all => all.forEach(each => { each.open = true; })")
            assert page.locator("h1").count() == 1
            assert axe(page) == [], path
            assert not too_wide(page), path
        page.get_by_role("button", name="Sign out").click()
        sign_in(page, kept.text)
        for path in ("/ui/account", page.locator(".reqs a").first.get_attribute("href") or ""):
            page.goto(path)
            page.locator("details").evaluate_all("all => all.forEach(each => { each.open = true; })")
            assert axe(page) == [], path
            assert not too_wide(page), path


@BOTH
def test_a_key_is_made_and_copied_by_keyboard(browser: Browser, kept: Kept, scheme: str) -> None:
    with watched(browser, kept.router.origin, scheme=scheme, size=PHONE, expected=("401", "422")) as page:
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        sign_in(page, OPERATOR)
        page.goto("/ui/account/new")
        page.get_by_label("Name").focus()
        page.keyboard.type("by keyboard")
        page.get_by_label("Requests a minute").fill("many")
        page.keyboard.press("Enter")
        page.get_by_role("alert").wait_for()
        assert axe(page) == []
        assert page.get_by_label("Name").input_value() == "by keyboard"
        page.get_by_label("Requests a minute").fill("30")
        page.keyboard.press("Enter")
        text = page.locator("#made-key").inner_text()
        assert re.fullmatch(r"rk_[0-9A-Za-z]{49}", text)
        assert axe(page) == []
        assert not too_wide(page)
        page.get_by_role("button", name="Copy: The new API key").focus()
        page.keyboard.press("Enter")
        page.get_by_role("status").get_by_text("Copied").wait_for()
        assert page.evaluate("navigator.clipboard.readText()") == text
        assert kept.router.chat(headers=bearer(text)).status == 200


def test_a_button_that_is_pressed_twice_does_its_work_once(browser: Browser, kept: Kept) -> None:
    with watched(browser, kept.router.origin, expected=("401",)) as page:
        sign_in(page, OPERATOR)
        page.goto("/ui/account/new")
        page.get_by_label("Name").fill("twice pressed")
        sent: list[str] = []
        page.on("request", lambda asked: sent.append(asked.url) if asked.method == "POST" else None)
        page.get_by_role("button", name="Make the key").dblclick()
        page.locator("#made-key").wait_for()
        assert len(sent) == 1
        page.goto("/ui/account?q=twice+pressed")
        assert page.locator(".keys tbody tr").count() == 1


def test_a_reload_shows_a_new_key_for_a_minute_and_then_where_it_is(browser: Browser, kept: Kept) -> None:
    with watched(browser, kept.router.origin, expected=("401",)) as page:
        sign_in(page, OPERATOR)
        page.goto("/ui/account/new")
        page.get_by_label("Name").fill("reloaded")
        page.get_by_role("button", name="Make the key").click()
        text = page.locator("#made-key").inner_text()
        page.reload()
        assert page.locator("#made-key").inner_text() == text
        kept.router.step(61)
        page.reload()
        page.get_by_text("This form made the key before.").wait_for()
        assert re.fullmatch(r".*/ui/account/keys/key_[0-9a-f]{16}\?done=made", page.url)
        assert text not in page.content()
        page.goto("/ui/account?q=reloaded")
        assert page.locator(".keys tbody tr").count() == 1


def test_a_key_is_changed_topped_up_and_revoked(browser: Browser, kept: Kept) -> None:
    with watched(browser, kept.router.origin, expected=("401",)) as page:
        sign_in(page, OPERATOR)
        page.goto("/ui/account?q=team+07")
        page.get_by_role("link", name="team 07").click()
        page.get_by_text("Change limits, budgets").click()
        page.get_by_label("Requests a minute").fill("12")
        with page.expect_navigation():
            page.get_by_role("button", name="Save").click()
        assert "The key is changed" in page.get_by_role("status").inner_text()
        assert "12 left" in page.locator(".bounds").inner_text()
        page.get_by_label("Amount, USD").fill("3")
        with page.expect_navigation():
            page.get_by_role("button", name="Add credit").click()
        assert "The payment is booked" in page.get_by_role("status").inner_text()
        assert page.locator(".tile .value").first.inner_text() == "$10.00"
        page.get_by_text("Revoke this key…").click()
        with page.expect_navigation():
            page.get_by_role("button", name="Revoke team 07 for good").click()
        assert "The key is revoked" in page.get_by_role("status").inner_text()
        assert page.get_by_role("button", name="Add credit").count() == 0


def test_a_customer_reads_its_usage_with_and_without_scripts(browser: Browser, kept: Kept) -> None:
    for scripts in (True, False):
        with watched(browser, kept.router.origin, scripts=scripts, expected=("401",)) as page:
            sign_in(page, kept.text)
            assert page.get_by_role("navigation", name="Pages").inner_text().split("\n")[-1] == "Account"
            assert page.locator("svg.chart.wide .bar").count() == 30
            with page.expect_navigation():
                page.get_by_role("link", name="90 days").click()
            assert page.locator("svg.chart.wide .bar").count() == 90
            shown = int(page.locator("tr.sum td").first.inner_text().replace(",", ""))
            assert MANY * 0.45 < shown < MANY * 0.55
            with page.expect_navigation():
                page.get_by_role("link", name="Older").click()
            assert page.locator(".reqs tbody tr").count() == 10
            with page.expect_navigation():
                page.locator(".reqs a").first.click()
            assert "Charged" in page.locator("main").inner_text()
