"""The real parts of the payment tests, started once a session."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chain import anvil
from tests.chain.clients import Clients
from tests.chain.facilitator import Facilitator
from tests.chain.installed import SCRIPTS, needs, node_folder, script_python
from tests.chain.parts import Parts


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this folder."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("chain")


@pytest.fixture(scope="session")
def parts() -> Iterator[Parts]:
    """Run both chains, the facilitator and what the clients need; skip with the reason where it cannot be."""
    node = needs(lambda: node_folder("node"))
    needs(lambda: node_folder("node_earlier"))
    needs(lambda: script_python(SCRIPTS / "pay_x402.py"))
    needs(lambda: script_python(SCRIPTS / "pay_pympp.py"))
    python = needs(lambda: script_python(SCRIPTS / "facilitator.py"))
    with anvil.evm(node) as chain, anvil.tempo(node) as tempo:
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
