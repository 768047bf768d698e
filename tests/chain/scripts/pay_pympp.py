# /// script
# requires-python = ">=3.11"
# dependencies = ["pympp[evm,tempo]==0.16.0"]
# [tool.uv]
# exclude-newer = "2026-11-16T00:00:00Z"
# ///
"""Pay by MPP with pympp; task: {url, key, body, headers?, method, chain_id, currency} and
{name, version, decimals} where the method is "evm", {rpc} where it is "tempo".
"""

from typing import Any

import httpx
from eth_account import Account
from mpp.client import PaymentTransport
from mpp.methods.evm import client as evm
from mpp.methods.tempo import TempoAccount
from mpp.methods.tempo import client as tempo
from wire import Noting, report


def method(task: dict[str, Any]) -> Any:
    chain_id, currency = task["chain_id"], task["currency"]
    if task["method"] == "tempo":
        account = TempoAccount.from_key(task["key"])
        return tempo.charge(account=account, chain_id=chain_id, rpc_url=task["rpc"], currency=currency)
    return evm.charge(
        account=Account.from_key(task["key"]),
        currency=currency,
        chain_id=chain_id,
        decimals=task["decimals"],
        authorization={"name": task["name"], "version": task["version"]},
    )


def paying(task: dict[str, Any], noting: Noting) -> httpx.AsyncBaseTransport:
    return PaymentTransport(methods=[method(task)], inner=noting)


report(paying)
