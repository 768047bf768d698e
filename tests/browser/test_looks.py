"""How pages look and feel at the edges: narrow windows, odd amounts, the keyboard alone, forced colours."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import msgspec
import pytest

from benchmarks.made_up import fill_history, records
from router.history.record import Record
from tests.browser.watched import DESK, LAPTOP, PHONE, SMALL, TABLET, axe, too_wide, watched
from tests.router import RouterServer

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser
LONG = "an-organisation-of-tests/" + "a-model-with-a-long-name-" * 4 + "v9"
SIZES = pytest.mark.parametrize(
    "size", [DESK, LAPTOP, TABLET, PHONE, SMALL], ids=["desk", "laptop", "tablet", "phone", "small"]
)
# What hides something: text that is wider than the box around it, and all that stands beyond the window.
CUT = """selector => Array.from(document.querySelectorAll(selector))
    .filter(each => each.getBoundingClientRect().right > innerWidth + 1
        || each.firstElementChild?.getBoundingClientRect().right > each.getBoundingClientRect().right + 1)
    .map(each => each.textContent.trim())"""
SIDEWAYS = """label => Array.from(document.querySelectorAll(`[aria-label="${label}"].scroll`))
    .some(each => each.scrollWidth > each.clientWidth + 1)"""


def odd(made: Iterator[Record]) -> Iterator[Record]:
    """Yield requests, some of which cost a nano-dollar or a fortune, or went to a model with a long name."""
    for number, each in enumerate(made):
        changes: dict[str, object] = {}
        if number % 50 == 1 and each.model:
            changes["model"] = LONG
        if number % 50 == 2:
            changes |= {"charged_nusd": 3, "upstream_nusd": 2}
        if number % 500 == 3:
            changes |= {"charged_nusd": 12_345_678 * 10**9, "upstream_nusd": 12_345_677 * 10**9}
        if number % 7 == 0:
            changes["asked"] = "企業/模型" * 12
        yield msgspec.structs.replace(each, **changes)


@pytest.fixture(scope="module")
def strange(page_catalog: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RouterServer]:
    data = tmp_path_factory.mktemp("strange")
    with ThreadPoolExecutor(1) as worker:  # a thread that has no loop of its own
        made = odd(records(3_000, time.time(), days=6))
        worker.submit(lambda: asyncio.run(fill_history(data, made))).result()
    with RouterServer(page_catalog, data) as router:
        yield router


@SIZES
def test_nothing_is_cut_off_in_any_window(
    browser: Browser, strange: RouterServer, size: tuple[int, int]
) -> None:
    with watched(browser, strange.origin, size=size) as page:
        for path in (
            *("/ui?range=7d", "/ui/explain", "/ui/models", "/ui/requests", "/ui/requests?outcome=not-ok"),
            *("/ui/account", "/ui/account/new", "/ui/sign-in", "/schema"),
        ):
            page.goto(path)
            assert not too_wide(page), path
            assert page.evaluate(CUT, ".top nav a, .tabs a, .tile .value, .filters button, .filters a") == []
            for label in ("Models", "Requests"):
                assert not page.evaluate(SIDEWAYS, label), path


@SIZES
def test_what_a_request_was_fits_beside_the_log(
    browser: Browser, strange: RouterServer, size: tuple[int, int]
) -> None:
    with watched(browser, strange.origin, size=size) as page:
        page.goto(f"/ui/requests?model={LONG}")
        page.locator("a.open").first.click()
        page.locator("#request").wait_for()
        assert not too_wide(page)
        assert not page.evaluate(SIDEWAYS, "Requests")


def test_a_long_name_pushes_no_figure_out_of_sight(browser: Browser, strange: RouterServer) -> None:
    with watched(browser, strange.origin) as page:
        page.goto("/ui?range=7d")
        assert page.get_by_role("link", name=LONG).count() == 1
        assert not page.evaluate(SIDEWAYS, "Spend by model")


def renew(page: Page) -> None:
    """Let the figures renew themselves as they do every 15 seconds, and wait until they are others."""
    page.locator("#figures").evaluate("each => { each.dataset.old = 'yes'; }")
    page.evaluate(
        "htmx.ajax('GET', location.pathname + location.search,"
        " {source: '#figures', target: '#figures', select: '#figures', swap: 'outerHTML'})"
    )
    page.locator("#figures:not([data-old])").wait_for()


def focused(page: Page) -> str:
    text: str = page.evaluate("document.activeElement.textContent.trim()")
    return text


def test_who_is_at_a_link_stays_there_when_the_page_renews_itself(
    browser: Browser, strange: RouterServer
) -> None:
    with watched(browser, strange.origin) as page:
        page.goto("/ui?range=7d")
        for link in (page.get_by_role("link", name="30 days"), page.get_by_role("link", name="zai/glm-4.6v")):
            link.focus()
            before = focused(page)
            renew(page)
            page.locator("#figures :focus").wait_for()
            assert focused(page) == before
        page.get_by_text("As a table").first.focus()
        page.keyboard.press("Enter")
        renew(page)
        assert page.locator("#bars-table").get_attribute("open") is not None


def test_what_was_renewed_can_be_used_in_the_same_moment(browser: Browser, strange: RouterServer) -> None:
    with watched(browser, strange.origin) as page:
        page.context.add_init_script(
            "const later = setTimeout; window.setTimeout = (what, ms) => later(what, ms + 1e9)"
        )
        page.goto("/ui?range=7d")
        page.locator("summary", has_text="As a table").first.click()
        renew(page)
        assert page.locator("#bars-table").get_attribute("open") is not None
        page.goto("/ui/models")
        page.get_by_role("link", name="Output", exact=True).click()
        page.locator("[aria-sort=ascending]").wait_for()
        page.locator("a.open").first.click()
        page.locator("tr.detail #model").wait_for()
        assert page.url.endswith("/ui/models?sort=out")


def test_a_formula_is_closed_by_escape(browser: Browser, strange: RouterServer) -> None:
    with watched(browser, strange.origin) as page:
        page.goto("/ui")
        tip, box = page.get_by_role("button", name="How success is counted"), page.locator("#tip-success")
        tip.focus()
        box.wait_for(state="visible")
        page.keyboard.press("Escape")
        box.wait_for(state="hidden")
        page.keyboard.press("Tab")
        tip.focus()
        box.wait_for(state="visible")


def test_the_keyboard_stops_at_what_it_can_use(browser: Browser, strange: RouterServer) -> None:
    with watched(browser, strange.origin) as page:
        page.goto("/ui")
        page.keyboard.press("Tab")
        assert focused(page) == "Skip to the content"
        page.keyboard.press("Enter")
        page.locator("#main:focus").wait_for()
        page.keyboard.press("Tab")
        assert focused(page) == "1 hour"
        page.locator("summary", has_text="As a table").last.click()
        table = page.locator("[aria-label=Times].scroll")
        page.locator("[aria-label=Times].scroll[tabindex='-1']").wait_for()
        page.set_viewport_size({"width": SMALL[0], "height": SMALL[1]})
        page.locator("[aria-label=Times].scroll[tabindex='0']").wait_for()
        table.focus()
        assert page.evaluate("document.activeElement.ariaLabel") == "Times"


def test_a_filtered_address_says_what_is_asked_and_can_be_shared(
    browser: Browser, used: RouterServer
) -> None:
    with watched(browser, used.origin) as page:
        page.goto("/ui/models")
        page.get_by_label("Ability").select_option("image")
        page.wait_for_url(re.compile(r"/ui/models\?can=image$"))
        page.get_by_role("link", name="Output", exact=True).click()
        page.wait_for_url(re.compile(r"/ui/models\?can=image&sort=out$"))
        shown, address = page.locator("tr.row").all_inner_texts(), page.url
        page.locator("a.open").first.click()
        page.locator("#model").wait_for()
        page.get_by_role("navigation", name="Pages").get_by_role("link", name="Requests").click()
        page.wait_for_url("**/ui/requests")
        page.go_back()
        page.wait_for_url(address)
        assert page.get_by_label("Ability").input_value() == "image"
        assert page.locator("tr.row").all_inner_texts() == shown
    with watched(browser, used.origin, scripts=False) as page:
        page.goto(address)
        assert page.locator("tr.row").all_inner_texts() == shown


def test_a_figure_leads_to_the_requests_that_it_counts(browser: Browser, strange: RouterServer) -> None:
    with watched(browser, strange.origin) as page:
        page.goto("/ui?range=7d")
        row = page.locator("tr", has=page.get_by_role("link", name="upstream_error", exact=True))
        assert "every offer that was tried failed" in row.inner_text()
        counted = int(row.locator("td").last.inner_text())
        row.get_by_role("link").click()
        page.wait_for_url("**/ui/requests?outcome=upstream_error&range=7d")
        assert page.locator("tr.row").count() == min(50, counted)
        page.goto("/ui?range=7d")
        page.get_by_role("link", name="zai/glm-4.6v").click()
        page.wait_for_url("**/ui/requests?model=zai/glm-4.6v&range=7d")
        assert page.get_by_label("When").input_value() == "7d"


def test_the_pointer_learns_what_a_time_is_here(browser: Browser, strange: RouterServer) -> None:
    with watched(browser, strange.origin, zone="Asia/Tokyo") as page:
        page.goto("/ui/requests")
        shown = page.locator("tr.row time").first
        shown.hover()
        told = shown.get_attribute("title") or ""
        assert re.fullmatch(r"\d{4}-\d\d-\d\d (\d\d):\d\d:\d\d UTC = .* GMT\+9", told)


def test_forced_colours_show_what_is_chosen(browser: Browser, strange: RouterServer) -> None:
    style = "(each, name) => getComputedStyle(each)[name]"
    with watched(browser, strange.origin) as page:
        page.emulate_media(forced_colors="active")
        for path, here, other, name in (
            ("/ui", ".top nav [aria-current]", ".top nav a:not([aria-current])", "borderBottomColor"),
            ("/ui", ".tabs [aria-current]", ".tabs a:not([aria-current])", "backgroundColor"),
            ("/ui/explain", ".modes :checked + label", ".modes :not(:checked) + label", "backgroundColor"),
        ):
            page.goto(path)
            chosen = page.locator(here).first.evaluate(style, name)
            assert chosen != page.locator(other).first.evaluate(style, name), here
        page.goto("/ui?range=7d")
        colours = {each.evaluate(style, "backgroundColor") for each in page.locator(".legend .key").all()}
        assert len(colours) == 4


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESK, SMALL], ids=["desk", "small"])
def test_everybody_can_read_the_api_document(
    browser: Browser, strange: RouterServer, size: tuple[int, int], scheme: str
) -> None:
    with watched(browser, strange.origin, size=size, scheme=scheme) as page:
        page.goto("/schema")
        page.locator("details").evaluate_all("all => all.forEach(each => { each.open = true; })")
        assert axe(page) == []
        assert not too_wide(page)
        page.get_by_role("link", name="Pages").click()
        page.wait_for_url("**/ui")
