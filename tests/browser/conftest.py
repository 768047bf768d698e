"""The browser and the routers of the page tests: one that is empty, one that was used, one that is full."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from benchmarks.made_up import fill_history, records
from tests.browser.watched import chromium
from tests.router import Offered, RouterServer, write_catalog
from tests.upstream import ScriptedUpstream, answer, status

if TYPE_CHECKING:
    from playwright.sync_api import Browser

MANY = 100_000
POLICY = 'baseline = "test/best"\n'
MODELS = [
    Offered("test/cheap", price=(1.0, 2.0)),
    Offered("test/next", price=(2.0, 4.0)),
    Offered("test/best", price=(10.0, 20.0)),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Start the machine's chromium; it downloads none."""
    from playwright.sync_api import sync_playwright

    program = chromium()
    if program is None:
        pytest.fail("no chromium here: apt-get install chromium")
    # Its sandbox needs rights that a container has not; the pages are ours.
    flags = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=flags)
        yield started
        started.close()


@pytest.fixture(scope="session")
def up() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as server:
        yield server


@pytest.fixture(scope="session")
def page_catalog(up: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("catalog")
    return write_catalog(folder, {"scripted": up.base_url}, MODELS, policy=POLICY)


@pytest.fixture(scope="session")
def empty(page_catalog: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RouterServer]:
    """Serve what nobody has asked yet."""
    with RouterServer(page_catalog, tmp_path_factory.mktemp("empty")) as router:
        yield router


@pytest.fixture(scope="session")
def used(
    page_catalog: Path, up: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RouterServer]:
    """Serve after some requests, good ones and bad ones, and with something to attend to."""
    with RouterServer(page_catalog, tmp_path_factory.mktemp("used")) as router:
        up.on("test/cheap", status(503), answer("yes"), answer("yes"), status(401))
        for prompt in ("Say hello", "Write a quicksort in Python", "Prove it", "Say hello"):
            assert router.chat(prompt).status == 200
        assert router.chat(model="no/such").status == 404
        yield router


@pytest.fixture(scope="session")
def full(page_catalog: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RouterServer]:
    """Serve with a month of MANY requests."""
    data = tmp_path_factory.mktemp("full")
    with ThreadPoolExecutor(
        1
    ) as worker:  # a thread has no loop of its own yet, whatever the browser runs here
        worker.submit(lambda: asyncio.run(fill_history(data, records(MANY, time.time())))).result()
    with RouterServer(page_catalog, data) as router:
        yield router
