"""A router that sells over a scripted facilitator and a scripted upstream, and wallets that pay it.

with counter(tmp_path) as shop:
    payer = shop.payer()
    paid = shop.pay(payer, "exact", question())          # ask, sign the offer, ask again
    assert paid.status == 200
    assert [transfer.amount for transfer in shop.facilitator.transfers] == [...]
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from router.access.assets import BASE_SEPOLIA, USDC
from router.ledger.ledger import Storage
from router.ledger.payments import Payment
from router.ledger.rows import Row
from tests.facilitator import ScriptedFacilitator
from tests.mpp_wallet import MppWallet, parse_challenges
from tests.router import Answer, Asking, Offered, RouterServer, write_catalog
from tests.service.walking import Kept, books_of, wait_all_ended, wait_for
from tests.upstream import ScriptedUpstream
from tests.wallets import Wallet

ASSET = USDC[BASE_SEPOLIA]
PAYEE = "0x" + "c0ffee" + "0" * 33 + "1"
SECRET = "a secret of the tests, 32 bytes or more"
MODEL = "test/model"
PRICE = (3.0, 15.0)
UNIT_NUSD = 1_000
FUNDS = 10**9
CHAT, TOPUP = "/v1/chat/completions", "/v1/credits/topup"
MONEY = ("payment-required", "www-authenticate", "payment-response", "payment-receipt")

Way = Literal["exact", "upto", "evm"]
WAYS: tuple[Way, ...] = ("exact", "upto", "evm")
Body = Mapping[str, Any]


def selling(facilitator: ScriptedFacilitator, **more: Any) -> dict[str, Any]:
    """Return the settings that sell by x402 and MPP's evm."""
    return {
        "access": "paid",
        "x402_pay_to": PAYEE,
        "x402_facilitator": facilitator.url,
        "x402_network": BASE_SEPOLIA,
        "mpp_secret": SECRET,
        **more,
    }


def environ_of(facilitator: ScriptedFacilitator, **more: str) -> dict[str, str]:
    """Return the same as the environment of a process."""
    settings = selling(facilitator)
    return {f"ROUTER_{name.upper()}": str(value) for name, value in settings.items()} | more


def bytes_of(body: Body | bytes) -> bytes:
    """Return a body as it is sent, each time alike."""
    return body if isinstance(body, bytes) else json.dumps(body).encode()


@dataclass
class Shop:
    """The parts of one shop; `router` serves it."""

    router: RouterServer
    upstream: ScriptedUpstream
    facilitator: ScriptedFacilitator

    def payer(self, amount: int = FUNDS) -> Wallet:
        """Return a new wallet with so many units, of which Permit2 may take any."""
        return payer_at(self.facilitator, amount)

    def ask(self, body: Body | bytes, headers: Mapping[str, str] | None = None, path: str = CHAT) -> Answer:
        """Send a request."""
        return self.router.request("POST", path, bytes_of(body), headers)

    def ask_by_lines(self, body: Body, lines: list[tuple[str, str]]) -> Answer:
        """Send a request with header lines of which several may have one name."""
        connection = http.client.HTTPConnection("127.0.0.1", self.router.port, timeout=20)
        try:
            data = bytes_of(body)
            connection.putrequest("POST", CHAT)
            for name, value in [*lines, ("content-length", str(len(data)))]:
                connection.putheader(name, value)
            connection.endheaders(data)
            got = connection.getresponse()
            return Answer(got.status, {k.lower(): v for k, v in got.getheaders()}, got.read())
        finally:
            connection.close()

    def sign(
        self,
        payer: Wallet,
        way: Way,
        body: Body | bytes,
        headers: Mapping[str, str] | None = None,
        path: str = CHAT,
        **bent: Any,
    ) -> dict[str, str]:
        """Ask without a payment, and return the header that pays what is asked."""
        return signed(self.router, payer, way, body, headers, path, **bent)

    def pay(
        self,
        payer: Wallet,
        way: Way,
        body: Body | bytes,
        headers: Mapping[str, str] | None = None,
        path: str = CHAT,
    ) -> Answer:
        """Ask, sign, and ask again."""
        told = dict(headers or {})
        return self.ask(body, told | self.sign(payer, way, body, headers, path), path)

    def copies(self, count: int, body: Body | bytes, headers: Mapping[str, str]) -> list[Answer]:
        """Send the same request so many times at once."""
        return at_once([self.router], count, body, headers)

    def ended(self) -> list[Row]:
        """Return the ledger's rows once no request runs; the books are right then."""
        rows = wait_all_ended(self.router)
        assert books_of(self.router).ask(lambda storage: storage.books.faults()) == []
        return rows

    def payments(self) -> list[Payment]:
        """Return what is stored of payments, oldest first."""
        return payments_of(self.router)

    def payment(self, state: str, timeout_s: float = 10.0) -> Payment:
        """Wait until the newest payment is in a state, and nothing of it runs."""

        def look() -> Payment | None:
            found = self.payments()
            return found[-1] if found and found[-1].state == state and not found[-1].running else None

        return wait_for(look, f"a payment that is {state}", timeout_s)

    def settles(self) -> int:
        """Count the settlements that the facilitator was asked for."""
        return len(self.facilitator.calls("/settle"))


class Process(Asking):
    """A router that is another process, and where its books are."""

    database_url: str | None = None

    def __init__(self, data: Path, port: int) -> None:
        self.data = data
        self.port = port


def payer_at(facilitator: ScriptedFacilitator, amount: int = FUNDS) -> Wallet:
    """Return a new wallet with so many units, of which Permit2 may take any."""
    wallet = Wallet()
    facilitator.fund(wallet.address, amount)
    facilitator.allow(wallet.address)
    return wallet


def signed(
    router: Asking,
    payer: Wallet,
    way: Way,
    body: Body | bytes,
    headers: Mapping[str, str] | None = None,
    path: str = CHAT,
    **bent: Any,
) -> dict[str, str]:
    """Ask a router without a payment, and return the header that pays what it asks."""
    asked = router.request("POST", path, bytes_of(body), headers)
    assert asked.status == 402, asked.body
    return signing(asked, payer, way, **bent)


def signing(asked: Answer, payer: Wallet, way: Way, **bent: Any) -> dict[str, str]:
    """Return the header that pays what a 402 asks."""
    if way != "evm":
        return payer.pays(asked.headers, way, **bent)
    challenge = parse_challenges(asked.headers.items())["evm"]
    return {"authorization": MppWallet(payer.key).evm(challenge, ASSET, **bent)}


def at_once(routers: list[Any], count: int, body: Body | bytes, headers: Mapping[str, str]) -> list[Answer]:
    """Send the same request so many times at once, over all routers in turn."""
    with ThreadPoolExecutor(count) as pool:
        sent = [
            pool.submit(routers[i % len(routers)].request, "POST", CHAT, bytes_of(body), headers)
            for i in range(count)
        ]
        return [one.result() for one in sent]


def payments_of(router: Kept) -> list[Payment]:
    """Return what is stored of payments, oldest first."""

    async def read(storage: Storage) -> list[Payment]:
        return [payment async for payment in storage.payments.all()]

    return books_of(router).ask(read)


def offers_nothing(answer: Answer) -> bool:
    """Say whether an answer asks for no payment."""
    return not {"payment-required", "www-authenticate"} & answer.headers.keys()


def offers_anew(answer: Answer) -> bool:
    """Say whether an answer is a 402 that asks by both protocols."""
    return answer.status == 402 and {"payment-required", "www-authenticate"} <= answer.headers.keys()


def header_lines(
    router: Asking, body: Body, headers: Mapping[str, str] | None = None
) -> list[tuple[str, str]]:
    """Return the header lines of an answer as they came, names in lower case."""
    connection = http.client.HTTPConnection("127.0.0.1", router.port, timeout=20)
    try:
        connection.request("POST", CHAT, bytes_of(body), dict(headers or {}))
        got = connection.getresponse()
        got.read()
        return [(name.lower(), value) for name, value in got.getheaders()]
    finally:
        connection.close()


@contextmanager
def counter(
    folder: Path,
    *,
    facilitator: ScriptedFacilitator | None = None,
    models: list[Offered] | None = None,
    policy: str = "",
    **settings: Any,
) -> Iterator[Shop]:
    """Run a shop in a folder, whose books stay there."""
    with ScriptedUpstream() as upstream, facilitator or ScriptedFacilitator() as facing:
        offered = models or [Offered(MODEL, price=PRICE)]
        catalog = write_catalog(folder / "catalog", {"scripted": upstream.base_url}, offered, policy=policy)
        with RouterServer(catalog, folder / "data", **selling(facing, **settings)) as router:
            yield Shop(router, upstream, facing)
