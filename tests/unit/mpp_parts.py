"""A seller by MPP, and what is asked of it."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from router.access.mpp import Mpp, Way
from router.access.terms import Asked, Asset, Credential, Quote, Refused, Settled
from router.ledger.payments import PaymentClaim
from tests.mpp_wallet import MppWallet, Wire, parse_challenges

SECRET = b"a secret of thirty-two bytes, ok"
REALM = "router.example"
PAY_TO = "0x" + "ab" * 20
USDC = Asset("eip155:84532", "0x036CbD53842c5426634e7929541eC2318f3dCF7e", "USDC", "2", 6)
PATH_USD = Asset("eip155:4217", "0x20c0000000000000000000000000000000000000", "", "", 6)
NOW = 1_800_000_000.25
BODY = hashlib.sha256(b'{"model": "auto"}').digest()
ROUTE = hashlib.sha256(b"balanced").digest()
QUOTE = Quote(4_999_001, BODY, ROUTE, "0123456789ab", 1_800_000_300)
WALLET = MppWallet("0x" + "01" * 32)
STRANGER = MppWallet("0x" + "02" * 32)


class Idle:
    """A settler that is asked nothing."""

    def __init__(self, *, available: bool = True) -> None:
        self.available = available

    async def start(self) -> None:
        raise AssertionError

    async def verify(self, claim: PaymentClaim) -> None:
        raise AssertionError

    async def settle(self, claim: PaymentClaim, amount: int) -> Settled:
        raise AssertionError

    async def moved(self, claim: PaymentClaim) -> Settled | None:
        raise AssertionError

    async def aclose(self) -> None:
        raise AssertionError


def seller(**changes: Any) -> Mpp:
    said: dict[str, Any] = {
        "secret": SECRET,
        "realm": REALM,
        "pay_to": PAY_TO,
        "ways": {"evm": Way(USDC, Idle()), "tempo": Way(PATH_USD, Idle())},
        **changes,
    }
    return Mpp(said["secret"], said["realm"], said["pay_to"], said["ways"])


def asked(authorization: str | bytes | None = None, **changes: Any) -> Asked:
    said: dict[str, Any] = {
        "headers": {},
        "authorization": authorization.encode() if isinstance(authorization, str) else authorization,
        "body": BODY,
        "route": ROUTE,
        "resource_url": "http://router.example/v1/chat/completions",
        "now": NOW,
        **changes,
    }
    return Asked(**said)


def challenges(mpp: Mpp | None = None, **changes: Any) -> dict[str, Wire]:
    headers = (mpp or seller()).offers(QUOTE, asked(**changes), None)
    return parse_challenges((name.decode(), value.decode()) for name, value in headers)


def credential(header: str, mpp: Mpp | None = None, **changes: Any) -> Credential:
    found = (mpp or seller()).read(asked(header, **changes))
    assert found is not None
    return found


def refusal(header: str, mpp: Mpp | None = None, **changes: Any) -> tuple[str, str]:
    with pytest.raises(Refused) as caught:
        credential(header, mpp, **changes)
    assert caught.value.fresh
    return caught.value.reason, caught.value.problem
