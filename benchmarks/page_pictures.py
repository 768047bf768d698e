"""Take the pictures of the pages for docs/: a month of made-up requests, in the machine's own chromium.

    uv run --group browser python -m benchmarks.page_pictures [--out docs/pages]

Writes PNG files of at most 150 kB; exit status 1 when one is larger.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from playwright.sync_api import sync_playwright

from benchmarks.made_up import ACCOUNTS, fill_history, fill_keys, records
from benchmarks.pages import serving
from benchmarks.site import Site
from tests.browser.watched import DESK, PHONE, chromium

REQUESTS = 120_000
KEYS = 12
MOST_BYTES = 150_000
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


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.page_pictures", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/pages"))
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    large = []
    with tempfile.TemporaryDirectory(prefix="router-pictures-") as home:
        data = Path(home) / "data"
        data.mkdir()
        asyncio.run(fill_history(data, records(REQUESTS, time.time())))
        fill_keys(data, KEYS, datetime.now(UTC))
        with serving(Site(Path(home), Path(home), None, None), data) as port, sync_playwright() as playwright:
            flags = ["--no-sandbox"] if os.geteuid() == 0 else []
            browser = playwright.chromium.launch(executable_path=chromium(), args=flags)
            for name, path, (width, height), scheme in PICTURES:
                context = browser.new_context(
                    viewport={"width": width, "height": height},
                    color_scheme="dark" if scheme == "dark" else "light",
                )
                page = context.new_page()
                page.goto(f"http://127.0.0.1:{port}{path}", wait_until="networkidle")
                if path.startswith("/ui/requests?"):
                    page.locator("a.open").nth(1).click()
                    page.locator("#request").wait_for()
                file = given.out / f"{name}.png"
                page.screenshot(path=file)
                print(f"{file}: {file.stat().st_size:,} bytes")
                large += [name] if file.stat().st_size > MOST_BYTES else []
                context.close()
            browser.close()
    if large:
        sys.exit(f"error: above {MOST_BYTES:,} bytes: {', '.join(large)}")


if __name__ == "__main__":
    main()
