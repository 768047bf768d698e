"""A payer for tests: reads the offers of a 402 as a client does, and signs them with a key of its own.

    payer = Wallet()
    headers = payer.pays(response.headers, scheme="upto")     # {"PAYMENT-SIGNATURE": ...}

What is signed can be bent: `pays(..., edit=lambda payment: ...)` changes the payment after it was signed,
`sign(offer, value=...)` signs other values than the offer's.
"""

from __future__ import annotations

import base64
import json
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any

from router.access.evm import PERMIT2, UPTO_PROXY
from tests.eth import Account

Json = dict[str, Any]

EXACT_TYPES = {
    "TransferWithAuthorization": [
        {"name": "from", "type": "address"},
        {"name": "to", "type": "address"},
        {"name": "value", "type": "uint256"},
        {"name": "validAfter", "type": "uint256"},
        {"name": "validBefore", "type": "uint256"},
        {"name": "nonce", "type": "bytes32"},
    ]
}
UPTO_TYPES = {
    "PermitWitnessTransferFrom": [
        {"name": "permitted", "type": "TokenPermissions"},
        {"name": "spender", "type": "address"},
        {"name": "nonce", "type": "uint256"},
        {"name": "deadline", "type": "uint256"},
        {"name": "witness", "type": "Witness"},
    ],
    "TokenPermissions": [
        {"name": "token", "type": "address"},
        {"name": "amount", "type": "uint256"},
    ],
    "Witness": [
        {"name": "to", "type": "address"},
        {"name": "facilitator", "type": "address"},
        {"name": "validAfter", "type": "uint256"},
    ],
}
GAS_TYPES = {
    "Permit": [
        {"name": "owner", "type": "address"},
        {"name": "spender", "type": "address"},
        {"name": "value", "type": "uint256"},
        {"name": "nonce", "type": "uint256"},
        {"name": "deadline", "type": "uint256"},
    ]
}


def decoded(header: str | bytes) -> Any:
    """Return the JSON of a header of x402."""
    return json.loads(base64.b64decode(header, validate=True))


def encoded(tree: Any) -> str:
    """Return something as a header of x402."""
    return base64.b64encode(json.dumps(tree).encode()).decode()


def token_domain(offer: Json) -> Json:
    """Return the EIP-712 domain of the token that an offer asks for."""
    return {
        "name": offer["extra"]["name"],
        "version": offer["extra"]["version"],
        "chainId": chain_of(offer),
        "verifyingContract": offer["asset"],
    }


def permit2_domain(offer: Json) -> Json:
    """Return the EIP-712 domain of Permit2 on the network of an offer."""
    return {"name": "Permit2", "chainId": chain_of(offer), "verifyingContract": PERMIT2}


def chain_of(offer: Json) -> int:
    """Return the chain of an offer."""
    return int(offer["network"].removeprefix("eip155:"))


class Wallet:
    """One key and its address; `now` tells the time that windows are counted from."""

    def __init__(self, key: str | None = None, *, now: Callable[[], float] = time.time) -> None:
        self._account = Account.from_key(key or secrets.token_bytes(32))
        self._now = now
        self.address: str = self._account.address

    @property
    def key(self) -> str:
        """Return the private key."""
        return "0x" + bytes(self._account.key).hex()

    def pays(
        self,
        headers: Mapping[str, str],
        scheme: str | None = None,
        *,
        edit: Callable[[Json], object] | None = None,
        **signed: Any,
    ) -> dict[str, str]:
        """Return the header that pays the first offer of a scheme (of any) in a 402's headers.

        `signed` are values to sign in place of the offer's; `edit` changes the payment after that.
        """
        required = decoded(headers["payment-required"])
        offer = next(offer for offer in required["accepts"] if scheme in {None, offer["scheme"]})
        payment = self.payment(required, offer, **signed)
        if edit is not None:
            edit(payment)
        return {"PAYMENT-SIGNATURE": encoded(payment)}

    def payment(self, required: Json, offer: Json, **signed: Any) -> Json:
        """Return the PaymentPayload for one offer, with what the 402 said beside it, as clients send it."""
        payment = {
            "x402Version": 2,
            "resource": required["resource"],
            "accepted": offer,
            "payload": self.sign(offer, **signed),
        }
        if required.get("extensions"):
            payment["extensions"] = required["extensions"]
        return json.loads(json.dumps(payment))  # a copy, so that an edit reaches nothing else

    def sign(self, offer: Json, **signed: Any) -> Json:
        """Return the payload of an offer."""
        return (
            self.sign_upto(offer, **signed) if offer["scheme"] == "upto" else self.sign_exact(offer, **signed)
        )

    def sign_exact(self, offer: Json, **signed: Any) -> Json:
        """Sign an EIP-3009 authorization; `signed` are values in place of the offer's."""
        authorization = {
            "from": self.address,
            "to": offer["payTo"],
            "value": offer["amount"],
            "validAfter": "0",
            "validBefore": str(int(self._now()) + offer["maxTimeoutSeconds"]),
            "nonce": "0x" + secrets.token_hex(32),
            **signed,
        }
        numbers = {name: int(authorization[name]) for name in ("value", "validAfter", "validBefore")}
        message = {**authorization, **numbers}
        return {
            "signature": self._signature(token_domain(offer), EXACT_TYPES, message),
            "authorization": authorization,
        }

    def sign_upto(
        self,
        offer: Json,
        *,
        permitted: Json | None = None,
        witness: Json | None = None,
        **signed: Any,
    ) -> Json:
        """Sign a Permit2 permit; the arguments are values in place of the offer's."""
        permit = {
            "permitted": {"token": offer["asset"], "amount": offer["amount"], **(permitted or {})},
            "from": self.address,
            "spender": UPTO_PROXY,
            "nonce": str(secrets.randbits(256)),
            "deadline": str(int(self._now()) + offer["maxTimeoutSeconds"]),
            "witness": {
                "to": offer["payTo"],
                "facilitator": offer["extra"]["facilitatorAddress"],
                "validAfter": "0",
                **(witness or {}),
            },
            **signed,
        }
        return {
            "signature": self._signature(permit2_domain(offer), UPTO_TYPES, permit_message(permit)),
            "permit2Authorization": permit,
        }

    def sign_gas(self, offer: Json, *, nonce: int = 0, **signed: Any) -> Json:
        """Return the `info` of eip2612GasSponsoring: a permit that lets Permit2 take the token."""
        info = {
            "from": self.address,
            "asset": offer["asset"],
            "spender": PERMIT2,
            "amount": offer["amount"],
            "nonce": str(nonce),
            "deadline": str(int(self._now()) + offer["maxTimeoutSeconds"]),
            "version": "1",
            **signed,
        }
        return {**info, "signature": self._signature(token_domain(offer), GAS_TYPES, gas_message(info))}

    def adds_gas(self, payment: Json) -> None:
        """Add the gas permit to a payment of `upto`, as a client without an allowance does."""
        sponsored = payment["extensions"]["eip2612GasSponsoring"]
        sponsored["info"] = {**sponsored["info"], **self.sign_gas(payment["accepted"])}

    def _signature(self, domain: Json, types: Json, message: Json) -> str:
        made = Account.sign_typed_data(
            self._account.key, domain_data=domain, message_types=types, message_data=message
        )
        return "0x" + bytes(made.signature).hex()


def permit_message(permit: Json) -> Json:
    """Return what is signed of a permit of `upto`."""
    return {
        "permitted": {
            "token": permit["permitted"]["token"],
            "amount": int(permit["permitted"]["amount"]),
        },
        "spender": permit["spender"],
        "nonce": int(permit["nonce"]),
        "deadline": int(permit["deadline"]),
        "witness": {**permit["witness"], "validAfter": int(permit["witness"]["validAfter"])},
    }


def gas_message(info: Json) -> Json:
    """Return what is signed of a permit of eip2612GasSponsoring."""
    numbers = {"value": int(info["amount"]), "nonce": int(info["nonce"]), "deadline": int(info["deadline"])}
    return {"owner": info["from"], "spender": info["spender"], **numbers}
