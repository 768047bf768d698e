"""A router that sells by everything there is, over the real parts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.chain.anvil import EVM_CHAIN_ID, TEMPO_CHAIN_ID
from tests.chain.facilitator import Facilitator
from tests.chain.parts import Parts
from tests.router import Offered, RouterServer, write_catalog
from tests.upstream import ScriptedUpstream

SECRET = "a secret of the tests, 32 bytes or more"
MODEL = "test/model"
PRICE = (3.0, 15.0)


def selling(parts: Parts, facilitator: Facilitator, payee: str, **more: Any) -> dict[str, Any]:
    """Return the settings that sell by x402 and MPP to one payee."""
    return {
        "access": "paid",
        "x402_pay_to": payee,
        "x402_facilitator": facilitator.url,
        "x402_network": f"eip155:{EVM_CHAIN_ID}",
        "mpp_secret": SECRET,
        "mpp_pay_to": payee,
        "mpp_tempo_rpc": parts.tempo.url,
        "mpp_tempo_chain_id": TEMPO_CHAIN_ID,
        **more,
    }


@contextmanager
def shop(
    parts: Parts, facilitator: Facilitator, folder: Path, payee: str, **more: Any
) -> Iterator[tuple[RouterServer, ScriptedUpstream]]:
    """Run a router that sells one model of a scripted upstream."""
    with ScriptedUpstream() as upstream:
        catalog = write_catalog(
            folder / "catalog", {"scripted": upstream.base_url}, [Offered(MODEL, price=PRICE)]
        )
        settings = selling(parts, facilitator, payee, **more)
        with RouterServer(catalog, folder / "data", **settings) as router:
            yield router, upstream
