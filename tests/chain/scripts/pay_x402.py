# /// script
# requires-python = ">=3.11"
# dependencies = ["x402[evm,httpx,extensions]==2.25.0"]
# [tool.uv]
# exclude-newer = "2026-11-16T00:00:00Z"
# ///
"""Pay by x402 with the Python client over httpx; task: {url, key, body, headers?, schemes, rpc?}."""

from typing import Any

import httpx
from eth_account import Account
from wire import Noting, report
from x402 import x402Client
from x402.http.clients import x402_httpx_transport
from x402.mechanisms.evm.exact import ExactEvmScheme
from x402.mechanisms.evm.signers import EthAccountSigner, EthAccountSignerWithRPC
from x402.mechanisms.evm.upto.client import UptoEvmScheme

KNOWN = {"exact": ExactEvmScheme, "upto": UptoEvmScheme}


def paying(task: dict[str, Any], noting: Noting) -> httpx.AsyncBaseTransport:
    account = Account.from_key(task["key"])
    signer = EthAccountSignerWithRPC(account, task["rpc"]) if "rpc" in task else EthAccountSigner(account)
    client = x402Client()
    for name in task["schemes"]:
        client.register("eip155:*", KNOWN[name](signer))
    return x402_httpx_transport(client, noting)


report(paying)
