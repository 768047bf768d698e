"""The real parts of the payment tests, started once a session."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chain import HERE, SCRIPTS, anvil
from tests.chain.clients import Clients
from tests.chain.facilitator import Facilitator
from tests.chain.parts import Parts
from tests.installed import NotInstalled, needs, node, node_folder, script_python, side_by_side


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this folder."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("chain")


def _install() -> None:
    """Install all at once. Raises NotInstalled."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise NotInstalled("the anvil that is pinned here is for Linux on x86_64")
    node()  # npm needs it
    side_by_side(
        *(lambda name=name: node_folder(HERE / name) for name in ("node", "node_earlier")),
        *(lambda name=name: script_python(SCRIPTS / name) for name in ("pay_x402.py", "pay_pympp.py")),
        lambda: script_python(SCRIPTS / "facilitator.py"),
    )


@pytest.fixture(scope="session")
def parts() -> Iterator[Parts]:
    """Run both chains, the facilitator and what the clients need; skip with the reason where it cannot be."""
    needs(_install)
    packages, python = node_folder(HERE / "node"), script_python(SCRIPTS / "facilitator.py")
    with anvil.evm(packages) as chain, anvil.tempo(packages) as tempo:
        usdc = anvil.furnish(chain, tempo)
        path_usd = anvil.Token(tempo, anvil.PATH_USD)
        clients = Clients(chain, tempo)
        try:
            with Facilitator(python, chain) as facilitator:
                yield Parts(chain, tempo, usdc, path_usd, facilitator, clients)
        finally:
            clients.close()


@pytest.fixture
def facilitator(parts: Parts) -> Facilitator:
    """Return the facilitator with no order and no call."""
    parts.facilitator.reset()
    return parts.facilitator
