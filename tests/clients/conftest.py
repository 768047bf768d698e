"""The clients' packages, installed before the first test that runs one."""

from __future__ import annotations

import pytest

from tests.clients import packages
from tests.installed import needs, node, node_folder


@pytest.fixture(scope="session", autouse=True)
def installed(request: pytest.FixtureRequest) -> None:
    """Install what the chosen tests run, and no more: OpenClaw alone is 650 MB."""
    if any(_runs(item, "clients") for item in request.session.items):
        packages.install()
    if any(_runs(item, "openclaw") for item in request.session.items):
        needs(lambda: node() and node_folder(packages.HERE / "openclaw"))


def _runs(item: pytest.Item, marker: str) -> bool:
    return item.get_closest_marker(marker) is not None and item.get_closest_marker("skip") is None
