"""A client of a scripted facilitator that does not wait long, and payments as the router has read them."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from msgspec.structs import replace

from router.access.assets import BASE_SEPOLIA, USDC
from router.access.facilitator import MAX_ANSWER_BYTES, Facilitator
from router.access.terms import Asked, Credential, Quote
from router.access.x402 import X402
from tests.facilitator import (
    Behaviour,
    Reply,
    ScriptedFacilitator,
    html,
    lost,
    lying,
    says,
    status,
)
from tests.wallets import Wallet

PAY_TO = "0x" + "c0ffee" + "0" * 33 + "1"
NUSD = 4_321_987
AMOUNT = 4_322
BODY, ROUTE = hashlib.sha256(b"body").digest(), hashlib.sha256(b"route").digest()
T = TypeVar("T")


def client(scripted: ScriptedFacilitator, **options: Any) -> Facilitator:
    """Return a client of it that does not wait long."""
    quick = {"pause_s": 0.0, "verify_s": 5.0, "settle_s": 5.0, "connect_s": 2.0}
    given = {"headers": {}, "clock": time.monotonic, "now": time.time, **quick, **options}
    network, schemes = given.pop("network", BASE_SEPOLIA), given.pop("schemes", ("upto", "exact"))
    return Facilitator(given.pop("url", scripted.url), network, schemes, **given)


def using(scripted: ScriptedFacilitator, use: Callable[[Facilitator], Awaitable[T]], **options: Any) -> T:
    """Start a client, use it, close it."""

    async def run() -> T:
        facilitator = client(scripted, **options)
        try:
            await facilitator.start()
            return await use(facilitator)
        finally:
            await facilitator.aclose()

    return asyncio.run(run())


def paid(facilitator: Facilitator, wallet: Wallet, scheme: str, **options: Any) -> Credential:
    """Return a wallet's payment, as the router has read it."""
    x402 = X402(
        pay_to=PAY_TO,
        asset=USDC[BASE_SEPOLIA],
        schemes=("upto", "exact"),
        secret=b"s" * 32,
        facilitator=facilitator,
        longest_s=60,
        max_nusd=10**10,
        open_nusd=10**10,
    )
    now = time.time()
    asked = Asked({}, None, BODY, ROUTE, "http://127.0.0.1/v1/chat/completions", now)
    offers = x402.offers(Quote(NUSD, BODY, ROUTE, "0123456789ab", int(now) + 300), asked, None)
    header = wallet.pays({name.decode(): value.decode() for name, value in offers}, scheme, **options)
    credential = x402.read(replace(asked, headers={"payment-signature": header["PAYMENT-SIGNATURE"]}))
    assert credential is not None
    return credential


NO_ANSWERS: dict[str, Behaviour] = {
    "500": status(500),
    "403": status(403, {"isValid": True, "success": True}),
    "400 with a yes": status(400, {"isValid": True, "success": True, "transaction": "0x" + "1" * 64}),
    "redirect": lambda call: Reply(307, headers=(("location", call.path),)),
    "html": html(),
    "no member": says({}),
    "list": says([]),
    "yes as a text": says({"isValid": "true", "success": "true"}),
    "yes as a number": says({"isValid": 1, "success": 1}),
    "deep": lambda call: Reply(200, b'{"isValid":true,"success":true,"extra":' + b"[" * 9_000),
    "too large": lambda call: Reply(200, b'{"isValid":true}' + b" " * MAX_ANSWER_BYTES),
    "compressed": lambda call: Reply(200, b"\x1f\x8b", headers=(("content-encoding", "gzip"),)),
    "closed": lost(done=False),
    "other payer": lying(payer="0x" + "1" * 40),
    "empty payer": lying(payer=""),
}
