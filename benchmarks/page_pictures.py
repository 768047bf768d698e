"""Take the pictures of the pages for docs/: a month of made-up requests, in the machine's own chromium.

    uv run --group browser python -m benchmarks.page_pictures [--out docs/pages]

Writes PNG files of at most 250 kB; exit status 1 when one is larger.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from benchmarks.made_up import ACCOUNTS, fill_history, fill_keys, records
from benchmarks.pages import serving
from benchmarks.site import Site
from tests.browser.watched import DESK, PHONE, chromium

REQUESTS = 120_000
KEYS = 12
MOST_BYTES = 250_000
WRAPPED = "[Telegram Ann id:42 2026-11-20 10:02 UTC] Fix the race in my Go worker pool and show the diff."
PICTURES = (
    ("overview-light", "/ui?range=7d", DESK, "light"),
    ("overview-dark", "/ui?range=7d", DESK, "dark"),
    ("overview-phone", "/ui?range=7d", PHONE, "light"),
    ("requests-light", "/ui/requests?outcome=upstream_error", DESK, "light"),
    ("requests-phone-dark", "/ui/requests", PHONE, "dark"),
    ("account-keys-light", "/ui/account", DESK, "light"),
    ("account-key-dark", f"/ui/account/keys/{ACCOUNTS[0]}", DESK, "dark"),
    ("account-phone", f"/ui/account/keys/{ACCOUNTS[0]}", PHONE, "light"),
)


Picture = tuple[str, str, tuple[int, int], str]
"""The file, the address, the size of the window, the theme."""
LONG, TALL = (1280, 1500), (390, 1500)
# Over the catalog as it is shipped; nobody is called, so any text does for a key.
CATALOG_PICTURES = (
    ("explain-light", "/ui/explain", LONG, "light"),
    ("explain-dark", "/ui/explain", LONG, "dark"),
    ("explain-phone", "/ui/explain", TALL, "light"),
    ("models-light", "/ui/models?q=deepseek-v4&sort=in", (1280, 1100), "light"),
    ("models-dark", "/ui/models?q=deepseek-v4&sort=in", (1280, 1100), "dark"),
    ("models-phone", "/ui/models?q=deepseek-v4&sort=in", TALL, "light"),
)
KEYS_SET = ("ANTHROPIC", "DEEPSEEK", "NOVITA", "OPENAI", "OPENROUTER")


def _show(page: Page, path: str) -> None:
    """Do what a page is there for, before its picture is taken."""
    if path.startswith("/ui/requests?"):
        page.locator("a.open").nth(1).click()
        page.locator("#request").wait_for()
    elif path.startswith("/ui/models"):
        page.locator("a.open").first.click()
        page.locator("#model").wait_for()
    elif path == "/ui/explain":
        page.locator("#x-text").fill(WRAPPED)
        page.locator(".winner").wait_for()
        page.locator("label[for=x-mode-cost]").first.click()
        page.locator(".compare").wait_for()
    page.evaluate("document.activeElement.blur()")


def _taken(browser: Browser, port: int, pictures: Sequence[Picture], out: Path) -> list[str]:
    """Take pictures of a router; return the names of those that are too large."""
    large = []
    for name, path, (width, height), scheme in pictures:
        context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if scheme == "dark" else "light",
        )
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{port}{path}", wait_until="networkidle")
        _show(page, path)
        file = out / f"{name}.png"
        page.screenshot(path=file)
        print(f"{file}: {file.stat().st_size:,} bytes")
        large += [name] if file.stat().st_size > MOST_BYTES else []
        context.close()
    return large


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.page_pictures", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/pages"))
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    large: list[str] = []
    with tempfile.TemporaryDirectory(prefix="router-pictures-") as home:
        data = Path(home) / "data"
        data.mkdir()
        asyncio.run(fill_history(data, records(REQUESTS, time.time())))
        fill_keys(data, KEYS, datetime.now(UTC))
        site = Site(Path(home), Path(home), None, None)
        with sync_playwright() as playwright:
            flags = ["--no-sandbox"] if os.geteuid() == 0 else []
            browser = playwright.chromium.launch(executable_path=chromium(), args=flags)
            with serving(site, data) as port:
                large += _taken(browser, port, PICTURES, given.out)
            keys = {f"{name}_API_KEY": "no key" for name in KEYS_SET}
            with serving(site, Path(home) / "none", demo=False, environ=keys) as port:
                large += _taken(browser, port, CATALOG_PICTURES, given.out)
            browser.close()
    if large:
        sys.exit(f"error: above {MOST_BYTES:,} bytes: {', '.join(large)}")


if __name__ == "__main__":
    main()
