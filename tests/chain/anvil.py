"""A chain of one's own: the anvil binary out of its npm package, as an EVM chain or as a Tempo chain."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx2 as httpx

START_S = 30.0
ACCOUNTS = 400
EVM_CHAIN_ID = 84_532
TEMPO_CHAIN_ID = 4217
USDC = "0x036CbD53842c5426634e7929541eC2318f3dCF7e"
PATH_USD = "0x20c0000000000000000000000000000000000000"
PERMIT2 = "0x000000000022D473030F116dDEE9F6B43aC78BA3"
MULTICALL3 = "0xcA11bde05977b3631167028862bE2a173976CA11"
PROXIES = {
    "ExactProxy": "0x402085c248EeA27D92E8b30b2C58ed07f9E20001",
    "UptoProxy": "0x4020A4f3b7b90ccA423B9fabCc0CE57C6C240002",
}
RUNTIME = Path(__file__).parent / "contracts" / "runtime.json"
TRANSFER = "0xddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef"


@dataclass(frozen=True)
class Account:
    """A key that anvil made for its tests, with coin for gas."""

    address: str
    key: str


@dataclass(frozen=True)
class Transfer:
    """A token's `Transfer` event."""

    sender: str
    recipient: str
    value: int
    transaction: str


class Chain:
    """A chain of one process; every transaction is a block at once. Ends with its `with` block."""

    def __init__(self, folder: Path, *options: str) -> None:
        """Name the folder of the npm packages, and anvil's options."""
        self._command = [str(_binary(folder)), "--port", "0", "--accounts", str(ACCOUNTS), *options]
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        with tempfile.TemporaryFile("a+") as said:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT
            )
            text = self._listening(said)
        addresses = re.findall(r"^\(\d+\) (0x\w{40})\b", text, re.MULTILINE)
        keys = re.findall(r"^\(\d+\) (0x\w{64})\b", text, re.MULTILINE)
        self._accounts = [Account(*both) for both in zip(addresses, keys, strict=True)]
        self.url = "http://" + re.findall(r"Listening on (\S+)", text)[0]
        self._http = httpx.Client(base_url=self.url, timeout=START_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()
        self._process.kill()
        self._process.wait()

    @property
    def pid(self) -> int:
        """Return the process id."""
        return self._process.pid

    def account(self) -> Account:
        """Return an account that nobody else uses."""
        with self._lock:
            return self._accounts.pop()

    def call(self, method: str, *parameters: Any) -> Any:
        """Call a JSON-RPC method and return its result; fails with the chain's words."""
        answer = self._http.post(
            "/", json={"jsonrpc": "2.0", "id": 1, "method": method, "params": parameters}
        ).json()
        assert "error" not in answer, (method, parameters, answer["error"])
        return answer["result"]

    def code(self, address: str) -> str:
        """Return the code at an address."""
        return str(self.call("eth_getCode", address, "latest"))

    def block(self) -> int:
        """Return the number of the last block."""
        return int(self.call("eth_blockNumber"), 16)

    def send(self, sender: str, to: str, data: str) -> str:
        """Send a transaction of any account without its key, mined when this returns; returns its hash."""
        self.call("anvil_impersonateAccount", sender)
        receipt = self.call("eth_sendTransactionSync", {"from": sender, "to": to, "data": data})
        assert int(receipt["status"], 16) == 1, (to, data)
        return str(receipt["transactionHash"])

    def pause_mining(self) -> None:
        """Let transactions wait: what is sent is broadcast and has no receipt."""
        self.call("evm_setAutomine", False)

    def resume_mining(self) -> None:
        """Mine what waits, and every transaction at once again."""
        self.call("evm_setAutomine", True)
        self.call("evm_mine")

    def _listening(self, said: Any) -> str:
        end_s = time.monotonic() + START_S
        while True:
            said.seek(0)
            text = str(said.read())
            if "Listening on" in text:
                return text
            if self._process.poll() is not None or time.monotonic() > end_s:
                self._process.kill()
                raise RuntimeError(f"anvil did not start: {text}")
            time.sleep(0.02)


class Token:
    """A token on a chain; amounts are atomic units."""

    def __init__(self, chain: Chain, address: str) -> None:
        """Name the chain and the contract."""
        self.chain = chain
        self.address = address

    def balance_of(self, owner: str) -> int:
        """Return what an address holds."""
        return self._read("70a08231", owner)

    def used(self, authorizer: str, nonce: str) -> bool:
        """Return whether an EIP-3009 authorization was used or cancelled."""
        return bool(self._read("e94a0102", authorizer, nonce))

    def mint(self, to: str, value: int) -> None:
        """Give an address new money (our own token only)."""
        self._write(to, "40c10f19", to, value)

    def approve(self, owner: str, spender: str = PERMIT2, value: int = 2**256 - 1) -> None:
        """Let a spender take the owner's money."""
        self._write(owner, "095ea7b3", spender, value)

    def transfer(self, owner: str, to: str, value: int) -> None:
        """Move the owner's money, as a payer does who empties its wallet."""
        self._write(owner, "a9059cbb", to, value)

    def transfers(self, since_block: int = 0, to: str | None = None) -> list[Transfer]:
        """Return the transfers of the blocks from `since_block` on, or only those of them to one address."""
        topics = [TRANSFER, None, None if to is None else "0x" + _word(to)]
        wanted = {
            "address": self.address,
            "fromBlock": hex(since_block),
            "toBlock": "latest",
            "topics": topics,
        }
        return [_transfer(log) for log in self.chain.call("eth_getLogs", wanted)]

    def _read(self, selector: str, *arguments: str | int) -> int:
        call = {"to": self.address, "data": _data(selector, *arguments)}
        return int(self.chain.call("eth_call", call, "latest"), 16)

    def _write(self, sender: str, selector: str, *arguments: str | int) -> None:
        self.chain.send(sender, self.address, _data(selector, *arguments))


def evm(folder: Path) -> Chain:
    """Return a chain with Base Sepolia's id; `furnish` puts the contracts there."""
    return Chain(folder, "--chain-id", str(EVM_CHAIN_ID))


def tempo(folder: Path) -> Chain:
    """Return a Tempo chain with the mainnet's id, whose accounts (others than `evm` has) hold pathUSD.

    Before the hard fork T3 it takes a transaction of type 0x76 and never mines it.
    """
    kind = ("--network", "tempo", "--hardfork", "T3", "--mnemonic-seed-unsafe", "7")
    return Chain(folder, *kind, "--chain-id", str(TEMPO_CHAIN_ID))


def furnish(chain: Chain, donor: Chain) -> Token:
    """Put our token at USDC's address, x402's proxies at theirs, and the real Permit2 that the donor has."""
    runtime = json.loads(RUNTIME.read_text("ascii"))
    for address in (PERMIT2, MULTICALL3):
        chain.call("anvil_setCode", address, donor.code(address))
    for name, address in PROXIES.items():
        chain.call("anvil_setCode", address, runtime[name])
    chain.call("anvil_setCode", USDC, runtime["Token"])
    # initialize("USDC", "2"): two offsets, then each string's length and its bytes
    words = [64, 128, 4, b"USDC".hex().ljust(64, "0"), 1, b"2".hex().ljust(64, "0")]
    chain.send(chain.account().address, USDC, _data("4cd88b76", *words))
    return Token(chain, USDC)


def _binary(folder: Path) -> Path:
    return folder / "node_modules" / "@foundry-rs" / "anvil-linux-amd64" / "bin" / "anvil"


def _data(selector: str, *arguments: str | int) -> str:
    return "0x" + selector + "".join(map(_word, arguments))


def _word(value: str | int) -> str:
    text = f"{value:x}" if isinstance(value, int) else value.removeprefix("0x").lower()
    return text.rjust(64, "0")


def _transfer(log: dict[str, Any]) -> Transfer:
    sender, recipient = ("0x" + topic[-40:] for topic in log["topics"][1:3])
    return Transfer(sender, recipient, int(log["data"], 16), log["transactionHash"])
