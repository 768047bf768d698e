"""Every page in a real browser: empty, used, full; light and dark; desk and phone; without scripts."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from router.web.requests import NEW_ROWS
from tests.browser.conftest import MANY, MODELS, POLICY
from tests.browser.watched import DESK, PHONE, axe, too_wide, watched
from tests.router import Offered, RouterServer, write_catalog
from tests.upstream import ScriptedUpstream

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser
PAGES = ("/ui", "/ui/explain", "/ui/models", "/ui/requests")
WIDE = pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
SCHEMES = pytest.mark.parametrize("scheme", ["light", "dark"])


@pytest.fixture(params=["empty", "used", "full"])
def router(request: pytest.FixtureRequest) -> RouterServer:
    found: RouterServer = request.getfixturevalue(request.param)
    return found


@SCHEMES
@WIDE
@pytest.mark.parametrize("path", PAGES)
def test_a_page_can_be_read_by_everybody(
    browser: Browser, router: RouterServer, path: str, size: tuple[int, int], scheme: str
) -> None:
    with watched(browser, router.origin, size=size, scheme=scheme) as page:
        page.goto(path)
        assert page.locator("h1").count() == 1
        assert axe(page) == []
        assert not too_wide(page)


@pytest.mark.parametrize("path", PAGES)
def test_a_page_says_the_same_without_scripts(browser: Browser, router: RouterServer, path: str) -> None:
    with watched(browser, router.origin, scripts=False) as page:
        page.goto(path)
        text = page.locator("main").inner_text()
        assert "Scripts are off" in page.locator("header").inner_text()
    with watched(browser, router.origin) as page:
        page.goto(path)
        with_scripts = page.locator("main").inner_text()
    assert len(text) > 50
    missing = set(re.findall(r"[a-z]{4,}", text)) - set(re.findall(r"[a-z]{4,}", with_scripts))
    assert not missing


@SCHEMES
def test_signing_in_works_by_keyboard_and_says_what_was_wrong(
    browser: Browser, page_catalog: Path, tmp_path: Path, scheme: str
) -> None:
    with (
        RouterServer(page_catalog, tmp_path / "data", admin_key="the operator") as router,
        watched(browser, router.origin, scheme=scheme, expected=("401", "404")) as page,
    ):
        page.goto("/ui/requests")
        assert axe(page) == []
        page.locator("#key").focus()
        page.keyboard.type("wrong")
        page.keyboard.press("Enter")
        page.get_by_text("That is neither the admin key").wait_for()
        assert axe(page) == []
        page.locator("#key").fill("the operator")
        page.keyboard.press("Enter")
        page.wait_for_url("**/ui/requests")
        page.get_by_role("button", name="Sign out").click()
        page.get_by_role("heading", name="Sign in").wait_for()
        page.goto("/ui/no-such-page")
        assert axe(page) == []


@SCHEMES
@WIDE
def test_odd_names_and_kept_words_break_no_page(
    browser: Browser, up: ScriptedUpstream, tmp_path: Path, size: tuple[int, int], scheme: str
) -> None:
    name = f"{'an-organisation-' * 4}of-tests/{'a-model-with-a-long-name-' * 4}v9"
    catalog = write_catalog(tmp_path / "catalog", {"scripted": up.base_url}, [Offered(name), *MODELS])
    with (
        RouterServer(catalog, tmp_path / "data", keep_prompts=True) as router,
        watched(browser, router.origin, size=size, scheme=scheme) as page,
    ):
        for who in ("x" * 100, "مفاتيح التجربة 🚀", "<b>bold</b> & co"):
            page.goto("/ui/account/new")
            page.get_by_label("Name").fill(who)
            page.get_by_role("button", name="Make the key").click()
            page.locator("#made-key").wait_for()
        text = page.locator("#made-key").inner_text()
        got = router.chat("word " * 2_000, model=name, headers={"authorization": f"Bearer {text}"})
        assert got.status == 200
        request = f"/ui/requests/{got.headers['x-request-id']}"
        for path in ("/ui", "/ui/requests", request, "/ui/account", f"/ui/models/{name}", "/ui/sign-in"):
            page.goto(path)
            assert axe(page) == [], path
            assert not too_wide(page), path
        page.goto("/ui/models")
        page.locator("a.open").first.click()
        page.locator("#model").wait_for()
        sizes = "each => [each.scrollWidth, each.clientWidth]"
        inner, outer = page.locator("[aria-label=Models].scroll").evaluate(sizes)
        assert inner <= outer + 1  # what is opened scrolls in itself
        page.goto("/ui/explain")
        page.locator("#x-text").fill("Say hello")
        page.locator(".winner").wait_for()
        inner, outer = page.locator("[aria-label='Offers that could serve it']").evaluate(sizes)
        assert inner <= outer + 1


def test_paper_shows_the_page_and_none_of_its_buttons(browser: Browser, used: RouterServer) -> None:
    with watched(browser, used.origin) as page:
        page.goto("/ui")
        page.emulate_media(media="print")
        assert page.locator("svg.chart.wide").is_visible()
        assert not page.get_by_role("navigation", name="Range").is_visible()
        assert not page.get_by_role("navigation", name="Pages").is_visible()


def test_a_customer_signs_in_where_no_admin_key_is_set(browser: Browser, used: RouterServer) -> None:
    with watched(browser, used.origin) as page:
        page.goto("/ui/account/new")
        page.get_by_label("Name").fill("ann")
        page.get_by_role("button", name="Make the key").click()
        text = page.locator("#made-key").inner_text()
        page.goto("/ui/account")
        page.get_by_role("link", name="Sign in with an API key").click()
        page.get_by_label("Your API key").fill(text)
        page.keyboard.press("Enter")
        page.get_by_role("heading", level=1, name="ann").wait_for()
        assert page.get_by_role("navigation", name="Pages").inner_text().split("\n")[-1] == "Account"
        page.get_by_role("button", name="Sign out").click()
        page.wait_for_url("**/ui")


def test_the_menu_leads_to_the_pages(browser: Browser, used: RouterServer) -> None:
    with watched(browser, used.origin) as page:
        page.goto("/ui")
        page.get_by_role("navigation", name="Pages").get_by_role("link", name="Requests").click()
        page.wait_for_url("**/ui/requests")
        assert page.get_by_role("heading", level=1).inner_text() == "Requests"
        assert page.locator("nav [aria-current=page]").inner_text() == "Requests"


def test_a_formula_shows_to_the_pointer_and_to_the_keyboard(browser: Browser, used: RouterServer) -> None:
    with watched(browser, used.origin) as page:
        page.goto("/ui")
        box = page.locator("#tip-saved")
        assert not box.is_visible()
        page.get_by_role("button", name="How savings are computed").hover()
        box.wait_for(state="visible")
        assert "at test/best − what the upstreams asked" in box.inner_text()
        page.mouse.move(0, 0)
        box.wait_for(state="hidden")
        page.get_by_role("button", name="How savings are computed").focus()
        box.wait_for(state="visible")


def test_the_range_is_changed_and_drawn(browser: Browser, full: RouterServer) -> None:
    with watched(browser, full.origin) as page:
        page.goto("/ui?range=30d")
        page.locator("figure.plot canvas").wait_for()
        assert page.locator("svg.chart.wide .bar").count() == 30
        shown = int(page.locator(".tile .value").first.inner_text().replace(",", ""))
        assert MANY * 0.97 < shown <= MANY
        page.get_by_role("link", name="7 days").click()
        page.wait_for_url("**range=7d")
        assert page.locator("svg.chart.wide .bar").count() == 28
        assert int(page.locator(".tile .value").first.inner_text().replace(",", "")) < shown


def test_new_requests_come_by_themselves_and_open_and_close(browser: Browser, used: RouterServer) -> None:
    with watched(browser, used.origin) as page:
        page.goto("/ui/requests")
        rows = page.locator("tr.row")
        before = rows.count()
        assert used.chat("Say hello").status == 200
        rows.nth(before).wait_for()
        assert rows.count() == before + 1
        link = rows.first.locator("a.open")
        link.click()
        opened = page.locator("tr.detail #request").first
        opened.wait_for()
        assert "Attempts" in opened.inner_text()
        assert "settle" in opened.inner_text()
        assert axe(page) == []
        assert link.get_attribute("aria-expanded") == "true"
        link.click()
        assert page.locator("tr.detail #request").count() == 0


@WIDE
def test_a_log_that_comes_too_fast_says_what_it_leaves_out(
    browser: Browser, page_catalog: Path, tmp_path: Path, size: tuple[int, int]
) -> None:
    with (
        RouterServer(page_catalog, tmp_path / "data") as router,
        watched(browser, router.origin, size=size) as page,
    ):
        assert router.chat().status == 200
        page.goto("/ui/requests")
        live, rows, gaps = page.get_by_label("Live"), page.locator("tr.row"), page.locator("tr.gap")
        for last in (NEW_ROWS, 2 * NEW_ROWS - 2):  # the page keeps 400 lines, two a request, none cut in half
            live.uncheck()
            for _ in range(NEW_ROWS + 9):
                router.chat()
            live.check()
            rows.nth(last).wait_for()
        assert gaps.all_inner_texts() == ["9 more ended in between and are not listed here. Show them"]
        assert rows.count() == page.locator("tr.detail").count() == last + 1
        assert axe(page) == []
        assert not too_wide(page)
        gaps.get_by_role("link").click()
        page.wait_for_url("**/ui/requests?before=*")
        assert rows.count() == 50


def test_a_page_says_that_the_router_is_gone_and_that_it_is_back(
    browser: Browser, used: RouterServer
) -> None:
    with watched(browser, used.origin, expected=("ERR_INTERNET_DISCONNECTED", "htmx:")) as page:
        page.goto("/ui/requests")
        link = page.locator("a.open").first
        page.context.set_offline(True)
        link.click()
        gone = page.get_by_role("alert")
        gone.get_by_text("The router does not answer").wait_for()
        assert link.get_attribute("aria-expanded") == "false"
        assert axe(page) == []
        page.context.set_offline(False)
        gone.wait_for(state="hidden")


def test_a_stopped_log_stands_still(browser: Browser, used: RouterServer) -> None:
    with watched(browser, used.origin) as page:
        page.goto("/ui/requests")
        page.get_by_label("Live").uncheck()
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.evaluate("htmx.trigger('[data-live]', 'every')")
        assert used.chat("Say hello").status == 200
        assert (
            page.evaluate("document.readyState") == "complete"
        )  # what was asked for before this is told by now
        assert asked == []
        with page.expect_response("**/ui/requests/new*"):
            page.get_by_label("Live").check()


def test_filters_and_older_pages_find_their_way(browser: Browser, full: RouterServer) -> None:
    with watched(browser, full.origin) as page:
        page.goto("/ui/requests")
        page.get_by_label("Outcome").select_option("upstream_error")
        page.get_by_role("button", name="Show").click()
        page.wait_for_url(re.compile(r"/ui/requests\?outcome=upstream_error$"))
        assert page.locator("tr.row").count() == 50
        assert set(page.locator("tr.row td:nth-child(4) .tag").all_inner_texts()) == {"upstream_error"}
        page.get_by_role("link", name="Older").click()
        page.wait_for_url(re.compile(r"outcome=upstream_error&before=\d+$"))
        assert page.locator("tr.row").count() == 50
        with page.expect_download() as got:
            page.get_by_role("link", name="CSV").click()
        text = got.value.path().read_text()
        assert 300 < text.count("\n") < MANY / 100
        page.get_by_role("link", name="Clear").click()
        page.wait_for_url("**/ui/requests")
        page.get_by_label("Request id").fill("no-such")
        page.keyboard.press("Enter")
        page.get_by_text("No request matches").wait_for()


def test_what_needs_attention_stays_open_when_the_page_renews_itself(
    browser: Browser, up: ScriptedUpstream, tmp_path: Path
) -> None:
    catalog = write_catalog(tmp_path / "catalog", {"scripted": up.base_url}, MODELS, policy=POLICY)
    with RouterServer(catalog, tmp_path / "data") as router, watched(browser, router.origin) as page:
        (catalog / "models/test/best.toml").write_text('name = "x"\n')
        page.goto("/ui")
        page.get_by_text("The last catalog edit is rejected").wait_for(timeout=30_000)
        assert "models/test/best.toml:1" in page.locator(".matters").inner_text()
        assert axe(page) == []
