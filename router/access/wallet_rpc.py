"""Ask a chain's JSON-RPC about the wallet: its balances, and whether a signature was used.

Methods of Ethereum's JSON-RPC; selectors of ERC-20 `balanceOf(address)` and EIP-3009
`authorizationState(address,bytes32)`. Nothing that the other end says goes into a message, since its address
may hold a key.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import httpx2 as httpx
import msgspec
from msgspec import Struct

from router.access.terms import Asset

TIMEOUT_S: Final = 2.0
_BALANCE_OF: Final = "0x70a08231"
_AUTHORIZATION_STATE: Final = "0xe94a0102"
_MAX_ANSWER_BYTES: Final = 1 << 20
_MAX_HEX: Final = 66


class RpcAway(Exception):
    """The chain could not be asked."""


class _Block(Struct):
    timestamp: str


class _Answer(Struct):
    result: str | _Block | None = None


class Chain:
    """One chain, by its RPC; made on the loop that uses it."""

    def __init__(self, url: str, timeout_s: float = TIMEOUT_S) -> None:
        self._url = url
        self._timeout_s = timeout_s
        self._client: httpx.AsyncClient | None = None
        self._network: str | None = None

    async def network(self) -> str:
        """Return which chain it is, by CAIP-2. Raises RpcAway."""
        if self._network is None:
            self._network = f"eip155:{_number(await self._ask('eth_chainId'))}"
        return self._network

    async def balance(self, asset: Asset, address: str) -> int:
        """Return what an address has of a token, in atomic units. Raises RpcAway."""
        return _number(await self._call(asset, _BALANCE_OF + _word(address)))

    async def used(self, asset: str, payer: str, nonce: str) -> bool:
        """Say whether an authorization was used (or cancelled). Raises RpcAway."""
        data = _AUTHORIZATION_STATE + _word(payer) + _word(nonce)
        return _number(await self._ask("eth_call", {"to": asset, "data": data}, "latest")) != 0

    async def time(self) -> int:
        """Return the time of the newest block, in seconds since 1970. Raises RpcAway."""
        block = await self._ask("eth_getBlockByNumber", "latest", False)
        if not isinstance(block, _Block):
            raise RpcAway
        return _number(block.timestamp)

    async def aclose(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()

    async def _call(self, asset: Asset, data: str) -> str | _Block | None:
        return await self._ask("eth_call", {"to": asset.address, "data": data}, "latest")

    async def _ask(self, method: str, *params: Any) -> str | _Block | None:
        body = msgspec.json.encode({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
        try:
            async with asyncio.timeout(self._timeout_s):
                if self._client is None:  # a TLS context takes tens of milliseconds
                    self._client = await asyncio.to_thread(httpx.AsyncClient, timeout=self._timeout_s)
                got = await self._client.post(
                    self._url, content=body, headers={"content-type": "application/json"}
                )
            if got.status_code != 200 or len(got.content) > _MAX_ANSWER_BYTES:
                raise RpcAway
            return msgspec.json.decode(got.content, type=_Answer).result
        except (httpx.HTTPError, TimeoutError, msgspec.MsgspecError, RecursionError):
            raise RpcAway from None


def _number(text: str | _Block | None) -> int:
    if not isinstance(text, str) or len(text) > _MAX_HEX or not text.startswith("0x"):
        raise RpcAway
    try:
        return int(text, 16)
    except ValueError:
        raise RpcAway from None


def _word(text: str) -> str:
    return text.removeprefix("0x").lower().rjust(64, "0")
