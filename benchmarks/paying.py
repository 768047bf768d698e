"""The payer of `benchmarks.payments`, and the parts of a payment that can be timed alone."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from benchmarks.prompts import PROMPTS
from router.access.assets import BASE_SEPOLIA, USDC
from router.access.facilitator import Facilitator
from router.access.facilitator_answers import Supported
from router.access.mpp import Mpp, Way
from router.access.terms import Asked, Credential, Method, Quote
from router.access.x402 import X402
from router.ledger.rows import HoldRequest, Release
from router.ledger.sqlite_ledger import SqliteLedger
from tests.mpp_wallet import MppWallet, parse_challenge
from tests.wallets import Wallet, decoded

PAY_TO = "0x" + "c0ffee" + "0" * 33 + "1"
SECRET = "the secret of a benchmark, of 32 bytes or more"
SELLING = {
    "ROUTER_ACCESS": "paid",
    "ROUTER_X402_PAY_TO": PAY_TO,
    "ROUTER_X402_NETWORK": "eip155:84532",
    "ROUTER_MPP_SECRET": SECRET,
    "ROUTER_MPP_METHODS": "evm",
}
TURNS, EACH = 9, 40
_HEADER = re.compile(rb"\r\n([^:\r\n]+): ([^\r\n]*)")
Ask = Callable[[bytes], Awaitable[bytes]]


class Payer:
    """Make requests that pay: a wallet of its own for each, so that none is held up by another one."""

    def __init__(self, port: int, authorization: str) -> None:
        self._authorization = authorization
        messages = [{"role": "user", "content": PROMPTS[0]}]
        body = {"model": "auto", "messages": messages, "max_tokens": 256}
        self._body = json.dumps(body, separators=(",", ":")).encode()
        self._host = f"127.0.0.1:{port}"

    def plain(self, headers: str) -> bytes:
        """Return the request with some headers, each with its line's end."""
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: {self._host}\r\n"
            f"content-type: application/json\r\n{headers}content-length: {len(self._body)}\r\n\r\n"
        )
        return head.encode() + self._body

    async def request(self, kind: str, ask: Ask) -> bytes:
        """Return a request that pays by a kind, at the price that `ask` is told."""
        told = await ask(self.plain(""))
        if kind == "key":
            return self.plain(f"authorization: {self._authorization}\r\n")
        found = [(name.decode().lower(), value.decode()) for name, value in _HEADER.findall(told)]
        return self.plain("".join(f"{name}: {value}\r\n" for name, value in paying(found, kind).items()))


def paying(headers: list[tuple[str, str]], kind: str) -> dict[str, str]:
    """Return the header that pays a 402 by a kind."""
    wallet = Wallet()
    if kind == "evm":
        challenge = next(parse_challenge(value) for name, value in headers if name == "www-authenticate")
        return {"authorization": MppWallet(wallet.key).evm(challenge, USDC[BASE_SEPOLIA])}
    assert decoded(dict(headers)["payment-required"])["x402Version"] == 2
    return wallet.pays(dict(headers), kind)


def parts_alone(folder: Path) -> dict[str, float]:
    """Return the median microseconds of each part alone: reading, offering, holding with and without."""
    asked = Asked(
        {}, None, hashlib.sha256(b"body").digest(), hashlib.sha256(b"r").digest(), "http://r/", time.time()
    )
    methods, quote = _methods(), Quote(4_321_000, asked.body, asked.route, "c" * 12, int(asked.now) + 300)
    found: dict[str, float] = {}
    credentials: list[Credential] = []
    for kind, method in (("exact", methods[0]), ("upto", methods[0]), ("evm", methods[1])):
        paid = [_paid(method, kind, quote, asked) for _ in range(EACH)]
        found[f"read {kind}"] = _median_us(
            lambda paid=paid, method=method: [method.read(one) for one in paid]
        )
        credentials += [credential for one in paid if (credential := method.read(one)) is not None]
    for name, method in (("x402", methods[0]), ("mpp", methods[1])):
        found[f"offer {name}"] = _median_us(
            lambda method=method: [method.offers(quote, asked, None) for _ in range(EACH)]
        )
    found |= asyncio.run(_holds(folder, credentials))
    return found


def _methods() -> tuple[Method, Method]:
    facilitator = Facilitator(
        "http://127.0.0.1:1",
        BASE_SEPOLIA,
        ("upto", "exact"),
        headers=dict[str, SecretStr](),
        clock=time.monotonic,
        now=time.time,
    )
    address = "0x" + "fa" * 20
    facilitator.learn(Supported(frozenset(("upto", "exact")), address, frozenset((address,)), frozenset()))
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
    way = Way(USDC[BASE_SEPOLIA], facilitator)
    return x402, Mpp(SECRET.encode(), "bench", PAY_TO, {"evm": way})


def _paid(method: Method, kind: str, quote: Quote, asked: Asked) -> Asked:
    offers = [(name.decode(), value.decode()) for name, value in method.offers(quote, asked, None)]
    ((name, value),) = paying(offers, kind).items()
    key = value.encode() if name == "authorization" else None
    return Asked({name.lower(): value}, key, asked.body, asked.route, asked.resource_url, asked.now)


def _median_us(work: Callable[[], Any]) -> float:
    work()
    spent = []
    for _ in range(TURNS):
        began_s = time.perf_counter()
        work()
        spent.append((time.perf_counter() - began_s) * 1e6 / EACH)
    return statistics.median(spent)


async def _holds(folder: Path, credentials: list[Credential]) -> dict[str, float]:
    """Hold one by one, by key and with a claim in turn, and release; returns the median of each."""
    ledger = SqliteLedger.open(folder, clock=time.time)
    spent: dict[str, list[float]] = {"hold": [], "hold with a claim": []}
    for number, credential in enumerate(credentials):
        for name, payment in (("hold", None), ("hold with a claim", credential.claim)):
            account = f"payer:{credential.claim.payer}" if payment else "key"
            request = HoldRequest(
                *(f"{name}-{number}", None, account, 1_000, "m", "p", "c", None, False, None, payment)
            )
            began_s = time.perf_counter()
            await ledger.hold(request)
            spent[name].append((time.perf_counter() - began_s) * 1e6)
            await ledger.settle(Release(request.request_id))
    await ledger.close()
    return {name: statistics.median(each) for name, each in spent.items()}
