"""A router sells, another one buys: what one takes is what the other's wallet pays, on chain and in books."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.chain.anvil import Account
from tests.chain.facilitator import Facilitator
from tests.chain.parts import Parts
from tests.chain.selling import MODEL, PRICE, shop
from tests.router import Offered, RouterServer, write_catalog
from tests.service.walking import ledger_rows, wait_all_ended
from tests.upstream import ScriptedUpstream, status

UNIT_NUSD = 1_000
BOUGHT = "bought/model"


@contextmanager
def chain_of_routers(
    parts: Parts, facilitator: Facilitator, folder: Path, payer: Account, payee: str, pays: str, **buying: Any
) -> Iterator[tuple[RouterServer, RouterServer, ScriptedUpstream]]:
    """Run a seller, and a buyer whose only upstream it is."""
    with ExitStack() as stack:
        seller, upstream = stack.enter_context(shop(parts, facilitator, folder / "seller", payee))
        catalog = write_catalog(
            folder / "buyer" / "catalog",
            {"seller": seller.base_url},
            [Offered(BOUGHT, provider="seller", upstream=MODEL, price=PRICE)],
            provider=f'pays = "{pays}"\npay_to = "{payee}"',
        )
        settings = {"wallet_key": payer.key, "wallet_rpc": parts.chain.url, **buying}
        buyer = stack.enter_context(RouterServer(catalog, folder / "buyer" / "data", **settings))
        yield seller, buyer, upstream


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("pays", ["x402", "mpp"])
def test_a_router_buys_from_a_router(
    parts: Parts, facilitator: Facilitator, tmp_path: Path, pays: str, stream: bool
) -> None:
    payer, payee = parts.payer(), parts.payee()
    with chain_of_routers(parts, facilitator, tmp_path, payer, payee, pays) as (seller, buyer, _):
        got = buyer.chat("Say hello", stream=stream, max_tokens=50)
        assert got.status == 200, got.body
        (moved,) = parts.usdc.transfers(to=payee)
        assert moved.sender == payer.address.lower()
        bought = wait_all_ended(buyer)
        sold = wait_all_ended(seller)
        wallet = json.loads(buyer.request("GET", "/wallet").body)
    settle = next(row for row in bought if row.kind == "settle")
    assert settle.upstream_cost_nusd == moved.value * UNIT_NUSD
    assert next(row for row in sold if row.kind == "settle").amount_nusd == moved.value * UNIT_NUSD
    assert wallet["address"].lower() == payer.address.lower()


def test_a_seller_whose_upstream_fails_takes_nothing_and_the_buyer_says_so(
    parts: Parts, facilitator: Facilitator, tmp_path: Path
) -> None:
    payer, payee = parts.payer(), parts.payee()
    with chain_of_routers(parts, facilitator, tmp_path, payer, payee, "x402") as (seller, buyer, upstream):
        upstream.on(MODEL, status(500))
        got = buyer.chat("Say hello", max_tokens=50)
        assert got.status == 502
        assert parts.usdc.balance_of(payee) == 0
        assert [row.kind for row in ledger_rows(seller)] == ["hold", "release"]
    assert facilitator.counts()["settle"] == 0


def test_the_wallet_stops_at_its_cap_of_the_day(
    parts: Parts, facilitator: Facilitator, tmp_path: Path
) -> None:
    payer, payee = parts.payer(), parts.payee()
    caps = {"wallet_cap_request_usd": "0.005", "wallet_cap_day_usd": "0.002"}
    with chain_of_routers(parts, facilitator, tmp_path, payer, payee, "x402", **caps) as (_, buyer, _up):
        answers = [buyer.chat(f"Say hello {n}", max_tokens=50).status for n in range(5)]
        assert parts.usdc.balance_of(payee) <= 2_000
    assert answers.count(200) == 2
    assert all(answer in {200, 502, 503} for answer in answers), answers
