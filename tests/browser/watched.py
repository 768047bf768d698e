"""A page in a real browser that is watched: what its console says, what it asks for, what axe finds."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
DESK, PHONE = (1280, 900), (390, 844)
LAPTOP, TABLET = (1024, 800), (768, 1024)
# 320 pixels are also what a window of 1280 has at 400 %, which WCAG 1.4.10 asks for.
SMALL = (320, 640)
# What a page may ask for that is not on the router: what it has in itself.
_OWN = ("data:", "blob:", "about:")


def chromium() -> str | None:
    """Return the browser of this machine."""
    return next((found for name in PROGRAMS if (found := shutil.which(name)) is not None), None)


@contextmanager
def watched(
    browser: Browser,
    origin: str,
    *,
    size: tuple[int, int] = DESK,
    scheme: str = "light",
    scripts: bool = True,
    headers: dict[str, str] | None = None,
    zone: str = "UTC",
    expected: tuple[str, ...] = (),
) -> Iterator[Page]:
    """Give a page; afterwards nothing may have gone wrong in it, and nothing may have left the machine.

    `expected` are parts of console errors that are meant, such as a status that is being tested.
    """
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        color_scheme=scheme,  # type: ignore[arg-type]  # a literal there
        java_script_enabled=scripts,
        base_url=origin,
        extra_http_headers=headers or {},
        reduced_motion="reduce",
        timezone_id=zone,
    )
    faults: list[str] = []
    page = context.new_page()
    page.on("console", lambda told: faults.append(told.text) if told.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on(
        "request", lambda asked: asked.url.startswith((origin, *_OWN)) or faults.append(f"left: {asked.url}")
    )
    try:
        yield page
        unmeant = [fault for fault in faults if not any(part in fault for part in expected)]
        assert unmeant == []
    finally:
        context.close()


def axe(page: Page) -> list[str]:
    """Return what axe-core finds against WCAG 2 A and AA and its best practices, contrast included."""
    page.wait_for_load_state()
    script = files("axe_playwright_python").joinpath("axe.min.js").read_text("utf-8")
    page.evaluate(script)
    tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
    run = f"() => axe.run({{runOnly: {tags!r}}})"
    found: dict[str, Any] = page.evaluate(run)
    return [
        f"{each['id']}: {node['target']} {node['failureSummary']}"
        for each in found["violations"]
        for node in each["nodes"]
    ]


def too_wide(page: Page) -> bool:
    """Tell whether a page must be pushed sideways to be read."""
    wide: bool = page.evaluate("document.documentElement.scrollWidth > window.innerWidth")
    return wide
