"""Claims of an earlier start are for who settles their network."""

from __future__ import annotations

from msgspec.structs import replace

from router.access.assets import BASE, USDC
from router.access.mpp import Way
from router.access.selling import Seller
from router.access.terms import Method
from tests.unit import mpp_parts, x402_parts


def sells(*methods: Method) -> Seller:
    found = Seller(unit_nusd=1_000, floor_nusd=1)
    found.sell_by(methods)
    return found


def test_a_claim_on_another_network_waits_until_that_is_set_again() -> None:
    x402 = x402_parts.read(x402_parts.payment("exact")).claim
    said = mpp_parts.challenges()["evm"]
    mpp = mpp_parts.credential(mpp_parts.WALLET.evm(said, mpp_parts.USDC)).claim
    here = sells(x402_parts.SELLER, mpp_parts.seller())
    base = Way(USDC[BASE], mpp_parts.Idle())
    elsewhere = sells(x402_parts.seller(asset=USDC[BASE]), mpp_parts.seller(ways={"evm": base}))
    assert [here.sells(claim) for claim in (x402, mpp)] == [True, True]
    assert [elsewhere.sells(claim) for claim in (x402, mpp)] == [False, False]


def test_a_claim_of_a_method_that_is_switched_off_waits() -> None:
    said = mpp_parts.challenges()["evm"]
    claim = mpp_parts.credential(mpp_parts.WALLET.evm(said, mpp_parts.USDC)).claim
    tempo = mpp_parts.seller(ways={"tempo": Way(mpp_parts.PATH_USD, mpp_parts.Idle())})
    assert not sells(tempo).sells(claim)
    assert not sells(x402_parts.SELLER).sells(replace(claim, protocol="mpp"))
