"""The facilitator of `pay`: its balances and nonces say what moved, and it springs a trap on order."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx2 as httpx

from tests.chain import HERE, SCRIPTS, anvil
from tests.chain.facilitator import Facilitator
from tests.facilitator import Reply, ScriptedFacilitator, Transfer
from tests.installed import NotInstalled, node_folder, script_python
from tests.wallets import Json

PAY_TO = "0x" + "c0ffee" + "0" * 33 + "1"
ANSWER_S = 30.0
LATE_S = 30.0

MOMENTS = (
    "verify",  # asked whether a signature is good
    "verified",  # ... and it has just been said
    "called",  # the upstream has the request
    "first",  # its first token is on the way
    "middle",  # in the middle of a stream
    "last",  # right after its last byte
    "settle",  # asked to move the money: it never does
    "late",  # asked to move the money: it does when the router is there again
    "moved",  # the money has moved, and nobody was told
    "told",  # ... and the router was told just now
)
"""When the process can be killed, in the order of a request; all but the first are hit from both sides."""
_SHORTLY = frozenset(("verified", "called", "first", "middle", "last", "told"))


class Trap:
    """Spring once at a moment: `spring` is called in whichever thread comes by, at most `within_s` later."""

    def __init__(self, random_: random.Random, within_s: float = 0.004) -> None:
        self.spring: Callable[[], None] = _nothing
        self._random = random_
        self._within_s = within_s
        self._lock = threading.Lock()
        self._armed: str | None = None
        self.sprung: Counter[str] = Counter()
        self.back = threading.Event()  # the router is there again

    def arm(self, moment: str) -> None:
        """Wait for a moment."""
        with self._lock:
            self._armed = moment
            self.back.clear()

    def disarm(self) -> bool:
        """Wait no more; return whether it was still waited for."""
        with self._lock:
            armed, self._armed = self._armed, None
            return armed is not None

    def at(self, moment: str) -> bool:
        """Tell of a moment; return whether that was the one."""
        with self._lock:
            if self._armed != moment:
                return False
            self._armed = None
            self.sprung[moment] += 1
            delay_s = self._random.uniform(0, self._within_s) if moment in _SHORTLY else 0.0
        if delay_s:
            threading.Timer(delay_s, self.spring).start()
        else:
            self.spring()
        return True


class Oracle(ScriptedFacilitator):
    """The scripted facilitator with a trap, and payers who empty their wallet between verify and settle."""

    def __init__(self, *, remembers: bool) -> None:
        super().__init__(remembers=remembers)
        self.trap: Trap | None = None
        self.draining: set[str] = set()
        self.refused: set[str] = set()  # payers whose settlement was refused, in lower case

    def answer(self, path: str, body: Json, headers: dict[str, str]) -> Reply:
        """Take one call, or have the router killed around it."""
        at = self.trap.at if self.trap is not None else _nowhere
        if path == "/verify":
            at("verify")
            told = super().answer(path, body, headers)
            payer = _payer(body)
            if payer in self.draining:
                self.drain(payer)
            at("verified")
            return told
        if path != "/settle":
            return super().answer(path, body, headers)
        if at("settle"):
            return Reply(None)
        if at("late") and self.trap is not None:
            self.trap.back.wait(LATE_S)
        told = super().answer(path, body, headers)
        if b'"success": false' in told.body or b'"success":false' in told.body:
            self.refused.add(_payer(body))
        at("moved")
        at("told")
        return told

    def drain(self, payer: str) -> None:
        """Take away what a payer has."""
        self.fund(payer, -self.balance(payer))

    def moved(self, payers: set[str]) -> dict[str, list[Transfer]]:
        """Return what moved of each payer's, in lower case."""
        found: dict[str, list[Transfer]] = {payer: [] for payer in payers}
        for transfer in self.transfers:
            found.setdefault(transfer.payer, []).append(transfer)
        return found


class ChainOracle(Oracle):
    """The published facilitator on an anvil chain behind the same trap; the chain says what moved."""

    def __init__(self, facilitator: Facilitator, token: anvil.Token) -> None:
        super().__init__(remembers=False)
        self._real = httpx.Client(base_url=facilitator.url, timeout=ANSWER_S)
        self._token = token

    def fund(self, address: str, amount: int) -> None:
        """Give a payer atomic units, or take them away."""
        self._token.chain.call("anvil_setBalance", address, hex(10**18))  # for gas
        if amount > 0:
            self._token.mint(address, amount)
        elif amount < 0:
            self._token.transfer(address, "0x" + "dead" * 10, -amount)

    def allow(self, address: str, allowed: bool = True) -> None:
        """Let Permit2 take a payer's token."""
        self._token.approve(address, value=2**256 - 1 if allowed else 0)

    def balance(self, address: str) -> int:
        """Return what somebody has."""
        return self._token.balance_of(address)

    @property
    def transfers(self) -> list[Transfer]:
        """Return what came to the payee."""
        network = f"eip155:{anvil.EVM_CHAIN_ID}"
        return [
            Transfer(network, self._token.address.lower(), one.sender, PAY_TO, one.value, one.transaction)
            for one in self._token.transfers(to=PAY_TO)
        ]

    def _supported(self, _: Json) -> Json:
        return self._asked("GET", "/supported", None)

    def _verified(self, body: Json) -> Json:
        return self._asked("POST", "/verify", body)

    def _settled(self, body: Json) -> Json:
        return self._asked("POST", "/settle", body)

    def _asked(self, method: str, path: str, body: Any) -> Json:
        told: Json = self._real.request(method, path, json=body).json()
        return told


@contextmanager
def scripted(*, remembers: bool) -> Iterator[Oracle]:
    """Run the scripted facilitator."""
    with Oracle(remembers=remembers) as oracle:
        yield oracle


@contextmanager
def on_chain() -> Iterator[Oracle]:
    """Run a chain and the published facilitator. Raises SystemExit where they cannot be had."""
    try:
        node, python = node_folder(HERE / "node"), script_python(SCRIPTS / "facilitator.py")
    except NotInstalled as fault:
        raise SystemExit(str(fault)) from None
    with ExitStack() as stack:
        enter = stack.enter_context
        chain = enter(anvil.evm(node))
        with anvil.tempo(node) as donor:
            token = anvil.furnish(chain, donor)
        facilitator = enter(Facilitator(python, chain))
        yield enter(ChainOracle(facilitator, token))


def _payer(body: Json) -> str:
    payload = body["paymentPayload"]["payload"]
    signed = payload.get("authorization") or payload["permit2Authorization"]
    return str(signed["from"]).lower()


def _nothing() -> None:
    pass


def _nowhere(_: str) -> bool:
    return False
