"""The published x402 facilitator as a process on loopback; it settles on our chain, and fails to order."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx2 as httpx

from tests.chain import SCRIPTS
from tests.chain.anvil import EVM_CHAIN_ID, Account, Chain

NETWORK = f"eip155:{EVM_CHAIN_ID}"
ANSWER_S = 60.0


class Facilitator:
    """Serve until the `with` block ends; `kill` and `start` at will, always at the same address."""

    def __init__(
        self, python: Path, chain: Chain, account: Account | None = None, confirm_s: float = 30.0
    ) -> None:
        """Name an interpreter with x402, the chain, who pays gas, and how long it waits for a receipt."""
        self.python = python
        self._chain = chain
        self._confirm_s = confirm_s
        self._port = 0
        self._process: subprocess.Popen[str] | None = None
        self.account = account or chain.account()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def url(self) -> str:
        """Return the address for `ROUTER_X402_FACILITATOR`."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start it with no order and no call, and wait until it listens."""
        options = {
            "rpc": self._chain.url,
            "network": NETWORK,
            "port": self._port,
            "confirm-s": self._confirm_s,
        }
        command = [str(self.python), str(SCRIPTS / "facilitator.py")]
        self._process = subprocess.Popen(
            command + [f"--{name}={value}" for name, value in options.items()],
            env={"PATH": os.environ["PATH"], "FACILITATOR_KEY": self.account.key},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        said = self._process.stdout.readline()
        self._port = int(said.rpartition(":")[2])

    def kill(self) -> None:
        """End it at once: whoever calls now is refused."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def order(self, on: str, **what: Any) -> None:
        """Say what becomes of the next call of `on`: "supported", "verify" or "settle".

        `times` of them (1); `wait="before"` or `"after"` the real work until `release()`;
        `seconds_before`, `seconds_after`; `real=False` leaves the work out; `answer={...}` is put over the
        real answer; `status`; `text` is sent as HTML in place of JSON; `drop=True` closes without an answer;
        `die="before"` or `"after"` ends the process.
        """
        self._post("orders", [{"on": on, **what}])

    def release(self) -> None:
        """Let go the calls that wait."""
        self._post("release")

    def reset(self) -> None:
        """Forget orders and calls."""
        self._post("reset")

    def calls(self, what: str | None = None) -> list[dict[str, Any]]:
        """Return the calls so far as {what, body, headers, answer}; `answer` is None while one is at work."""
        calls: list[dict[str, Any]] = httpx.get(f"{self.url}/calls", timeout=ANSWER_S).json()
        return [call for call in calls if what in (None, call["what"])]

    def counts(self) -> dict[str, int]:
        """Return how many `/verify` and `/settle` calls there were, and how many of them really settled."""
        settles = self.calls("settle")
        settled = [call for call in settles if (call["answer"] or {}).get("success")]
        return {"verify": len(self.calls("verify")), "settle": len(settles), "settled": len(settled)}

    def _post(self, path: str, body: Any = None) -> None:
        httpx.post(f"{self.url}/{path}", json=body, timeout=ANSWER_S).raise_for_status()
