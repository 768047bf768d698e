"""A facilitator on loopback without a chain: it checks signatures, keeps balances, and errs on order.

    with ScriptedFacilitator() as facilitator:
        facilitator.fund(wallet.address, 5_000_000)
        facilitator.allow(wallet.address)                       # Permit2 may take the token, for upto
        facilitator.on("/settle", status(500), lost())          # the next two calls; then it is honest again
        ...  # let the code under test call facilitator.url
        assert [transfer.amount for transfer in facilitator.transfers] == [4_322]
        assert len(facilitator.calls("/settle")) == 3

It recovers EIP-712 signatures with eth-account, takes every nonce once, and says what Coinbase's classes say.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from router.access.assets import BASE_SEPOLIA, USDC
from router.access.evm import PERMIT2, UPTO_PROXY
from router.access.terms import Asset
from tests.eth import Account, encode_typed_data
from tests.facilitator_behaviours import (
    Behaviour,
    Call,
    Reply,
    html,
    lost,
    lying,
    pending,
    refused,
    reply,
    says,
    slow,
    status,
)
from tests.wallets import (
    EXACT_TYPES,
    GAS_TYPES,
    UPTO_TYPES,
    Json,
    gas_message,
    permit2_domain,
    permit_message,
)

__all__ = [
    "Behaviour",
    "Call",
    "Reply",
    "ScriptedFacilitator",
    "Transfer",
    "html",
    "lost",
    "lying",
    "pending",
    "refused",
    "reply",
    "says",
    "slow",
    "status",
]

GAS_SPONSORING = "eip2612GasSponsoring"
MARGIN_S = 6


@dataclass(frozen=True)
class Transfer:
    """Money that moved; addresses in lower case."""

    network: str
    asset: str
    payer: str
    payee: str
    amount: int
    transaction: str


class ScriptedFacilitator:
    """The server. `remembers`: a repeated settlement of what was done is told its transaction again."""

    def __init__(
        self,
        *,
        assets: Sequence[Asset] = (USDC[BASE_SEPOLIA],),
        schemes: Sequence[str] = ("upto", "exact"),
        extensions: Sequence[str] = (GAS_SPONSORING,),
        now: Callable[[], float] = time.time,
        remembers: bool = False,
    ) -> None:
        self.address = Account.from_key(secrets.token_bytes(32)).address
        self.remembers = remembers
        self._assets = {(asset.network, asset.address.lower()): asset for asset in assets}
        self._schemes = schemes
        self._extensions = extensions
        self._now = now
        self._lock = threading.RLock()
        self._scripts: dict[str, list[Behaviour]] = {}
        self._calls: list[Call] = []
        self._transfers: list[Transfer] = []
        self._balances: dict[str, int] = {}
        self._allowed: set[str] = set()
        self._used: dict[tuple[str, ...], str] = {}
        self._server: ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None
        self.port = 0
        self.up()

    @property
    def url(self) -> str:
        """Return the address for ROUTER_X402_FACILITATOR."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.down()

    def up(self) -> None:
        """Listen, on the same port as before."""
        handler = type("Handler", (_Handler,), {"facilitator": self})
        self._server = _Server(("127.0.0.1", self.port), handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.01,), name="facilitator", daemon=True
        )
        self._thread.start()

    def down(self) -> None:
        """Stop listening, and close what is open."""
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._server.close_all()
            self._server.server_close()
            self._thread.join(10)
            self._server = None

    def on(self, path: str, *behaviours: Behaviour) -> Self:
        """Script the next calls of a path, one behaviour each; after them it is honest again."""
        with self._lock:
            self._scripts[path] = list(behaviours)
        return self

    def fund(self, address: str, amount: int) -> None:
        """Give a payer atomic units."""
        with self._lock:
            self._balances[address.lower()] = self.balance(address) + amount

    def allow(self, address: str, allowed: bool = True) -> None:
        """Let Permit2 take a payer's token, or not."""
        with self._lock:
            (self._allowed.add if allowed else self._allowed.discard)(address.lower())

    def balance(self, address: str) -> int:
        """Return what somebody has."""
        with self._lock:
            return self._balances.get(address.lower(), 0)

    def cancel(self, payload: Json) -> None:
        """Use a payment's nonce up without moving anything, as its payer can."""
        with self._lock:
            self._used[_key(payload)] = ""

    @property
    def transfers(self) -> list[Transfer]:
        """Return what moved, oldest first."""
        with self._lock:
            return list(self._transfers)

    def calls(self, path: str) -> list[Call]:
        """Return the calls of a path, oldest first."""
        with self._lock:
            return [call for call in self._calls if call.path == path]

    def answer(self, path: str, body: Json, headers: dict[str, str]) -> Reply:
        """Take one call."""
        honest = {"/supported": self._supported, "/verify": self._verified, "/settle": self._settled}.get(
            path
        )
        if honest is None:
            return reply({"error": "no such route"}, 404)
        call = Call(path, body, headers, lambda: honest(body))
        with self._lock:
            self._calls.append(call)
            script = self._scripts.get(path)
            behaviour = script.pop(0) if script else None
        return behaviour(call) if behaviour is not None else reply(call.honest())

    def _supported(self, _: Json) -> Json:
        kinds = [
            {
                "x402Version": 2,
                "scheme": scheme,
                "network": network,
                **({"extra": {"facilitatorAddress": self.address}} if scheme == "upto" else {}),
            }
            for network, _ in self._assets
            for scheme in self._schemes
        ]
        return {
            "kinds": [{"x402Version": 1, "scheme": "exact", "network": "base-sepolia"}, *kinds],
            "extensions": list(self._extensions),
            "signers": {"eip155:*": [self.address]},
        }

    def _verified(self, body: Json) -> Json:
        with self._lock:
            payload, required = body["paymentPayload"]["payload"], body["paymentRequirements"]
            reason = self._fault(body, int(required["amount"]))
        payer = _signed(payload)["from"]
        return (
            {"isValid": True, "payer": payer}
            if reason is None
            else _no("isValid", "invalidReason", reason, payer)
        )

    def _settled(self, body: Json) -> Json:
        payload, required = body["paymentPayload"]["payload"], body["paymentRequirements"]
        signed, amount = _signed(payload), int(required["amount"])
        told = {"transaction": "", "network": required["network"], "payer": signed["from"]}
        with self._lock:
            if self.remembers and (transaction := self._used.get(_key(payload))):
                return {**told, "success": True, "transaction": transaction}
            reason = self._fault(body, None)
            if reason is not None:
                return {**told, **_no("success", "errorReason", reason, signed["from"])}
            transaction = "0x" + secrets.token_hex(32)
            self._used[_key(payload)] = transaction
            payer, payee = signed["from"].lower(), required["payTo"].lower()
            self._balances[payer] -= amount
            self._balances[payee] = self.balance(payee) + amount
            self._transfers.append(
                Transfer(required["network"], required["asset"].lower(), payer, payee, amount, transaction)
            )
        settled = {**told, "success": True, "transaction": transaction}
        return {**settled, "amount": str(amount)} if required["scheme"] == "upto" else settled

    def _fault(self, body: Json, maximum: int | None) -> str | None:
        """Return what is wrong with a payment; `maximum` is what a permit must be for, None at settlement."""
        paid, required = body["paymentPayload"], body["paymentRequirements"]
        asset = self._assets.get((required["network"], required["asset"].lower()))
        if body["x402Version"] != 2 or paid["x402Version"] != 2:
            return "invalid_x402_version"
        if asset is None or paid["accepted"]["network"] != required["network"]:
            return "network_mismatch"
        if paid["accepted"]["scheme"] != required["scheme"] or required["scheme"] not in self._schemes:
            return "unsupported_scheme"
        if _key(paid["payload"]) in self._used:
            exact = required["scheme"] == "exact"
            return "invalid_exact_evm_nonce_already_used" if exact else "permit2_invalid_nonce"
        if required["scheme"] == "exact":
            return self._exact_fault(paid["payload"], required, asset)
        return self._upto_fault(paid, required, asset, maximum)

    def _exact_fault(self, payload: Json, required: Json, asset: Asset) -> str | None:
        signed, prefix = payload["authorization"], "invalid_exact_evm_payload"
        if signed["to"].lower() != required["payTo"].lower():
            return f"{prefix}_recipient_mismatch"
        if int(signed["value"]) != int(required["amount"]):
            return f"{prefix}_authorization_value_mismatch"
        if int(signed["validBefore"]) < self._now() + MARGIN_S:
            return f"{prefix}_authorization_valid_before"
        if int(signed["validAfter"]) > self._now():
            return f"{prefix}_authorization_valid_after"
        numbers = {name: int(signed[name]) for name in ("value", "validAfter", "validBefore")}
        if not _is_by(
            signed["from"], _domain(asset), EXACT_TYPES, {**signed, **numbers}, payload["signature"]
        ):
            return f"{prefix}_signature"
        return "invalid_exact_evm_insufficient_balance" if self._lacks(signed, required) else None

    def _upto_fault(self, paid: Json, required: Json, asset: Asset, maximum: int | None) -> str | None:
        signed = paid["payload"]["permit2Authorization"]
        permitted = int(signed["permitted"]["amount"])
        if signed["spender"].lower() != UPTO_PROXY.lower():
            return "invalid_permit2_spender"
        if signed["witness"]["to"].lower() != required["payTo"].lower():
            return "invalid_permit2_recipient_mismatch"
        if signed["witness"]["facilitator"].lower() != self.address.lower():
            return "upto_facilitator_mismatch"
        if int(signed["deadline"]) < self._now() + MARGIN_S:
            return "permit2_deadline_expired"
        if int(signed["witness"]["validAfter"]) > self._now():
            return "permit2_not_yet_valid"
        if maximum is not None and permitted != maximum:
            return "permit2_amount_mismatch"
        if int(required["amount"]) > permitted:
            return "invalid_upto_evm_payload_settlement_exceeds_amount"
        if signed["permitted"]["token"].lower() != required["asset"].lower():
            return "permit2_token_mismatch"
        by = (signed["from"], permit2_domain(required), UPTO_TYPES, permit_message(signed))
        if not _is_by(*by, paid["payload"]["signature"]):
            return "invalid_permit2_signature"
        if signed["from"].lower() not in self._allowed and not self._sponsored(paid, asset):
            return "permit2_allowance_required"
        return "permit2_insufficient_balance" if self._lacks(signed, required) else None

    def _sponsored(self, paid: Json, asset: Asset) -> bool:
        info = (paid.get("extensions") or {}).get(GAS_SPONSORING, {}).get("info", {})
        if GAS_SPONSORING not in self._extensions or "signature" not in info:
            return False
        permits = info["spender"] == PERMIT2 and info["asset"].lower() == asset.address.lower()
        return permits and _is_by(
            info["from"], _domain(asset), GAS_TYPES, gas_message(info), info["signature"]
        )

    def _lacks(self, signed: Json, required: Json) -> bool:
        return self.balance(signed["from"]) < int(required["amount"])


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._open: set[Any] = set()
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def close_all(self) -> None:
        for request in list(self._open):
            self.shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that left."""


class _Handler(BaseHTTPRequestHandler):
    facilitator: ScriptedFacilitator
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._answer({})

    def do_POST(self) -> None:
        self._answer(json.loads(self.rfile.read(int(self.headers["content-length"]))))

    def log_message(self, *args: Any) -> None:
        """Keep quiet."""

    def _answer(self, body: Json) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        told = self.facilitator.answer(self.path, body, headers)
        if told.status is None:
            self.close_connection = True
            return
        named = [("content-type", told.content_type), ("content-length", str(len(told.body))), *told.headers]
        lines = [f"HTTP/1.1 {told.status} Scripted", *(f"{name}: {value}" for name, value in named)]
        self.wfile.write("\r\n".join(lines).encode() + b"\r\n\r\n" + told.body)


def _signed(payload: Json) -> Json:
    signed: Json = payload["authorization"] if "authorization" in payload else payload["permit2Authorization"]
    return signed


def _key(payload: Json) -> tuple[str, ...]:
    signed = _signed(payload)
    kind = "eip3009" if "authorization" in payload else "permit2"
    return kind, signed["from"].lower(), str(int(signed["nonce"], 0))


def _no(verdict: str, name: str, reason: str, payer: str) -> Json:
    return {verdict: False, name: reason, "payer": payer}


def _domain(asset: Asset) -> Json:
    return {
        "name": asset.name,
        "version": asset.version,
        "chainId": asset.chain_id,
        "verifyingContract": asset.address,
    }


def _is_by(address: str, domain: Json, types: Json, message: Json, signature: str) -> bool:
    made = encode_typed_data(domain_data=domain, message_types=types, message_data=message)
    try:
        return bool(Account.recover_message(made, signature=signature).lower() == address.lower())
    except ValueError:
        return False
