"""What a facilitator is asked with: x402 v2's PaymentPayload and PaymentRequirements.

They are made anew from what was checked, so that no unread member of a stranger's JSON is passed on.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from router.access.assets import checksummed
from router.access.evm import Authorization, ExactPayload, GasPermit, UptoPayload
from router.access.terms import Asset

VERSION = 2
GAS_SPONSORING = "eip2612GasSponsoring"
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}", re.ASCII)


def requirements(
    scheme: str,
    asset: Asset,
    pay_to: str,
    amount: int,
    max_timeout_s: int,
    extra: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Return PaymentRequirements; `extra` goes beside the token's EIP-712 name and version."""
    return {
        "scheme": scheme,
        "network": asset.network,
        "amount": str(amount),
        "asset": asset.address,
        "payTo": pay_to,
        "maxTimeoutSeconds": max_timeout_s,
        "extra": {"name": asset.name, "version": asset.version, **(extra or {})},
    }


def order(
    accepted: dict[str, Any], payload: ExactPayload | UptoPayload, gas: GasPermit | None = None
) -> bytes:
    """Return the order of a payment as JSON, for `PaymentClaim.order`.

    However a client writes addresses: facilitators that build on web3 take EIP-55's mixed case alone.
    """
    paid = {"x402Version": VERSION, "accepted": accepted, "payload": payload}
    if gas is not None:
        paid["extensions"] = {GAS_SPONSORING: {"info": gas}}
    whole = {"paymentPayload": paid, "paymentRequirements": accepted}
    return msgspec.json.encode(_cased(msgspec.to_builtins(whole)))


def exact_order(
    asset: Asset, pay_to: str, amount: int, max_timeout_s: int, signed: Authorization, signature: str
) -> bytes:
    """Return the order of an EIP-3009 authorization that another protocol brought."""
    accepted = requirements("exact", asset, pay_to, amount, max_timeout_s)
    return order(accepted, ExactPayload(signature, signed))


def _cased(tree: Any) -> Any:
    """Return plain data with every address in EIP-55's case."""
    if isinstance(tree, dict):
        return {name: _cased(member) for name, member in tree.items()}
    if isinstance(tree, list):
        return [_cased(member) for member in tree]
    return checksummed(tree) if isinstance(tree, str) and _ADDRESS.fullmatch(tree) else tree
