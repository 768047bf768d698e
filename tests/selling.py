"""A seller of answers for tests: behaviours of the scripted upstream that ask 402 before they serve.

Signatures are checked by eth-account, which the router does not use, and against what was asked.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from eth_hash.auto import keccak

from tests.eth import Account, encode_typed_data
from tests.upstream import Behaviour, Received, Turn, answer, status

SEPOLIA, USDC = "eip155:84532", "0x036CbD53842c5426634e7929541eC2318f3dCF7e"
PAYEE = "0x" + "ab" * 20
OTHER_PAYEE = "0x" + "cd" * 20
PRICE = 10_000  # units: one cent
KEY = "0x" + "11" * 32
ADDRESS = "0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A"
Pairs = list[tuple[str, str]]
TYPES = {
    "TransferWithAuthorization": [
        {"name": name, "type": kind}
        for name, kind in (
            ("from", "address"),
            ("to", "address"),
            ("value", "uint256"),
            ("validAfter", "uint256"),
            ("validBefore", "uint256"),
            ("nonce", "bytes32"),
        )
    ]
}


def b64(value: Any) -> str:
    return base64.b64encode(json.dumps(value).encode()).decode()


def b64url(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def unb64url(text: str) -> Any:
    return json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))


def recovered(signed: dict[str, str], signature: str, *, name: str = "USDC", chain: int = 84532) -> str:
    """Return who signed an authorization."""
    domain = {"name": name, "version": "2", "chainId": chain, "verifyingContract": USDC}
    message = {
        **{word: signed[word] for word in ("from", "to")},
        **{word: int(signed[word]) for word in ("value", "validAfter", "validBefore")},
        "nonce": bytes.fromhex(signed["nonce"][2:]),
    }
    found: str = Account.recover_message(encode_typed_data(domain, TYPES, message), signature=signature)
    return found


@dataclass
class Shop:
    """Sell by one protocol; `change` edits what is asked for, `served` is what follows a good payment.

    `payments` holds the authorizations that came, `faults` what was wrong with them. What `served` returns
    answers; it gets the receipt's header.
    """

    protocol: Literal["x402", "mpp"] = "x402"
    price: int = PRICE
    change: Callable[[dict[str, Any]], None] = lambda asked: None
    served: Callable[[Pairs], Behaviour] = lambda receipt: answer(headers=receipt)
    payments: list[dict[str, str]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    _asked: list[dict[str, Any]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    async def __call__(self, turn: Turn) -> None:
        paid = self._payment(turn.request)
        if paid is None:
            await status(402, headers=self.demand(turn.request))(turn)
            return
        signed, signature = paid
        with self._lock:
            self._check(signed, signature)
            self.payments.append(signed)
        await self.served([self.receipt()])(turn)

    def demand(self, request: Received) -> Pairs:
        """Return the headers of the 402."""
        if self.protocol == "x402":
            asked: dict[str, Any] = {
                "scheme": "exact",
                "network": SEPOLIA,
                "amount": str(self.price),
                "asset": USDC,
                "payTo": PAYEE,
                "maxTimeoutSeconds": 300,
                "extra": {"name": "USDC", "version": "2", "ours": [1]},
            }
            self.change(asked)
            required = {"x402Version": 2, "resource": {"url": _url(request)}, "accepts": [asked]}
            required.update(asked.pop("whole", {}))
            self._asked.append(asked)
            return [("PAYMENT-REQUIRED", b64(required))]
        asked = {
            "amount": str(self.price),
            "currency": USDC,
            "recipient": PAYEE,
            "methodDetails": {"chainId": 84532, "credentialTypes": ["authorization"], "decimals": 6},
        }
        self.change(asked)
        told = asked.pop("parameters", {})
        parameters = {
            "id": secrets.token_urlsafe(16),
            "realm": "the shop",
            "method": "evm",
            "intent": "charge",
            "request": b64url(asked),
            "expires": _moment(120),
            "digest": f"sha-256=:{base64.b64encode(hashlib.sha256(request.body).digest()).decode()}:",
            "description": 'at most, "one" request',
            "opaque": b64url({"our": "own"}),
            **told,
        }
        self._asked.append({**asked, "challenge": parameters})
        quoted = [f"{name}={_quoted(text)}" for name, text in parameters.items()]
        return [("WWW-Authenticate", 'Basic realm="x", Payment ' + ", ".join(quoted))]

    def receipt(self) -> tuple[str, str]:
        """Return the header that tells the transaction: the number of the sale."""
        transaction = f"0x{len(self.payments):064x}"
        if self.protocol == "x402":
            told: dict[str, Any] = {"success": True, "transaction": transaction, "network": SEPOLIA}
            return "PAYMENT-RESPONSE", b64(told)
        return "Payment-Receipt", b64url({"status": "success", "method": "evm", "reference": transaction})

    def _payment(self, request: Received) -> tuple[dict[str, str], str] | None:
        if self.protocol == "x402":
            header = request.header("payment-signature")
            if header is None:
                return None
            payload = json.loads(base64.b64decode(header, validate=True))
            if payload["accepted"] not in self._asked or payload["x402Version"] != 2:
                self.faults.append("accepted is not what was offered")
            return payload["payload"]["authorization"], payload["payload"]["signature"]
        header = request.header("authorization") or ""
        if not header.startswith("Payment "):
            return None
        credential = unb64url(header.removeprefix("Payment "))
        challenge, signed = credential["challenge"], dict(credential["payload"])
        if challenge not in [asked["challenge"] for asked in self._asked]:
            self.faults.append("the challenge is not one of ours")
        if signed["nonce"] != "0x" + keccak((challenge["id"] + challenge["realm"]).encode()).hex():
            self.faults.append("the nonce does not bind the challenge")
        if credential["source"] != f"did:pkh:{SEPOLIA}:{signed['from']}" or signed["type"] != "authorization":
            self.faults.append("the credential is of another kind")
        return signed, signed.pop("signature")

    def _check(self, signed: dict[str, str], signature: str) -> None:
        now = time.time()
        wanted = {
            "another signer": recovered(signed, signature) == signed["from"],
            "another payee": signed["to"].lower() == PAYEE,
            "another amount": signed["value"] == str(self.price),
            "not valid now": int(signed["validAfter"]) <= now < int(signed["validBefore"]),
            "valid for too long": int(signed["validBefore"]) <= now + 600,
            "a nonce twice": signed["nonce"] not in [payment["nonce"] for payment in self.payments],
        }
        self.faults += [fault for fault, good in wanted.items() if not good]


def _url(request: Received) -> str:
    return f"http://{request.header('host')}{request.path}"


def _moment(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + seconds))


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def signatures(requests: Sequence[Received]) -> int:
    """Count the requests that carry a payment."""
    return sum(
        request.header("payment-signature") is not None
        or (request.header("authorization") or "").startswith("Payment ")
        for request in requests
    )
