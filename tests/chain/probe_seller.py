"""A seller that is not the router: it proves the payment tools, and asks whatever a buyer must not pay.

Deliberately naive: it takes the payment by the book of each protocol and checks nothing that the facilitator
or the chain does not check. Never a model for a seller.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

import httpx2 as httpx

from tests.chain.anvil import EVM_CHAIN_ID, PATH_USD, TEMPO_CHAIN_ID, USDC
from tests.chain.clients import decoded

SECRET = b"a secret of the probe, 32 bytes or more"
REALM = "probe"
SCHEMA = {"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object"}


@dataclass
class Terms:
    """What is asked, and how the seller behaves; change any of it for a hostile one."""

    pay_to: str
    units: int = 700
    used_units: int = 450  # what `upto` settles
    asset: str = USDC
    network: str = f"eip155:{EVM_CHAIN_ID}"
    extra: dict[str, Any] = field(default_factory=lambda: {"name": "USDC", "version": "2"})
    decimals: int = 6
    schemes: tuple[str, ...] = ("upto", "exact")
    methods: tuple[str, ...] = ("evm", "tempo")
    sponsored: bool = True  # say that the facilitator takes the gasless approval
    expires_s: int = 25
    paid: str = "serve"  # what a payment gets: "serve", "ask again" (402), "fail" (500), "hang"
    settle: bool = True  # False: serve without taking the money
    redirect: str | None = None  # where every request is sent instead


class ProbeSeller:
    """Serve `POST /v1/chat/completions` for money on a free port until the `with` block ends."""

    def __init__(self, facilitator: str, tempo: str, terms: Terms) -> None:
        """Name the facilitator and the RPC of the Tempo chain."""
        self._facilitator = facilitator
        self._tempo = tempo
        self.terms = terms
        self.requests: list[tuple[dict[str, str], dict[str, Any]]] = []
        self._hang = threading.Event()

    def __enter__(self) -> Self:
        seller = self

        class Bound(_Handler):
            pass

        Bound.seller = seller
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Bound)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), name="probe seller")
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hang.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        """Return the address, up to `/v1`."""
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    @property
    def paid(self) -> int:
        """Return how many requests came with a payment."""
        return sum(
            "payment-signature" in headers or _credential(headers) is not None for headers, _ in self.requests
        )

    def offers(self, body: bytes = b"{}") -> list[tuple[str, str]]:
        """Return the headers of a 402 for a request with this body."""
        terms = self.terms
        accepts = []
        for scheme in terms.schemes:
            extra = terms.extra | (self._upto_extra() if scheme == "upto" else {})
            accepts.append(
                {"scheme": scheme, "network": terms.network, "amount": str(terms.units), "asset": terms.asset}
                | {"payTo": terms.pay_to, "maxTimeoutSeconds": 300, "extra": extra}
            )
        asked: dict[str, Any] = {"x402Version": 2, "resource": {"url": self.url}, "accepts": accepts}
        if terms.sponsored:
            asked["extensions"] = {"eip2612GasSponsoring": {"info": {"version": "1"}, "schema": SCHEMA}}
        headers = [("WWW-Authenticate", self._challenge(method, body)) for method in terms.methods]
        if accepts:
            headers.append(("PAYMENT-REQUIRED", base64.b64encode(_json(asked)).decode()))
        return headers

    def take(self, headers: dict[str, str]) -> dict[str, Any] | None:
        """Take the money of a request: the receipt's header as {name: value}, None when nothing was paid."""
        if "payment-signature" in headers:
            return self._take_x402(decoded(headers["payment-signature"]))
        credential = _credential(headers)
        return None if credential is None else self._take_mpp(credential)

    def wait(self) -> None:
        """Hang until the end."""
        self._hang.wait()

    def _upto_extra(self) -> dict[str, Any]:
        kinds = httpx.get(f"{self._facilitator}/supported", timeout=30).json()["kinds"]
        extra: dict[str, Any] = next(kind["extra"] for kind in kinds if kind["scheme"] == "upto")
        return extra

    def _challenge(self, method: str, body: bytes) -> str:
        terms = self.terms
        details: dict[str, Any] = {"chainId": TEMPO_CHAIN_ID}
        if method == "evm":
            details = {
                "chainId": EVM_CHAIN_ID,
                "credentialTypes": ["authorization"],
                "decimals": terms.decimals,
            }
        currency = PATH_USD if method == "tempo" else terms.asset
        asked = {
            "amount": str(terms.units),
            "currency": currency,
            "recipient": terms.pay_to,
            "methodDetails": details,
        }
        request = _b64url(_json(asked))
        expires = (datetime.now(UTC) + timedelta(seconds=terms.expires_s)).strftime("%Y-%m-%dT%H:%M:%SZ")
        digest = "sha-256=:" + base64.b64encode(hashlib.sha256(body).digest()).decode() + ":"
        opaque = _b64url(_json({"quote": "1"}))
        signed = "|".join([REALM, method, "charge", request, expires, digest, opaque]).encode()
        said = {
            "id": _b64url(hmac.new(SECRET, signed, hashlib.sha256).digest()),
            "realm": REALM,
            "method": method,
        }
        said |= {
            "intent": "charge",
            "request": request,
            "expires": expires,
            "digest": digest,
            "opaque": opaque,
        }
        return "Payment " + ", ".join(f'{name}="{value}"' for name, value in said.items())

    def _take_x402(self, payment: dict[str, Any]) -> dict[str, Any]:
        asked = payment["accepted"]
        verified = self._call("verify", payment, asked)
        assert verified["isValid"], verified
        if asked["scheme"] == "upto":
            asked = asked | {"amount": str(self.terms.used_units)}
        settled = self._call("settle", payment, asked)
        assert settled["success"], settled
        return {"PAYMENT-RESPONSE": base64.b64encode(_json(settled)).decode()}

    def _take_mpp(self, credential: dict[str, Any]) -> dict[str, Any]:
        challenge, payload = credential["challenge"], credential["payload"]
        if challenge["method"] == "evm":
            names = ("from", "to", "value", "validAfter", "validBefore", "nonce")
            authorization = {name: payload[name] for name in names}
            asked = {"scheme": "exact", "network": self.terms.network, "amount": payload["value"]}
            asked |= {"asset": self.terms.asset, "payTo": self.terms.pay_to, "maxTimeoutSeconds": 300}
            asked |= {"extra": self.terms.extra}
            inner = {"signature": payload["signature"], "authorization": authorization}
            settled = self._call("settle", {"x402Version": 2, "accepted": asked, "payload": inner}, asked)
            assert settled["success"], settled
            reference = settled["transaction"]
        else:
            reference = self._take_tempo(payload)
        receipt = {"status": "success", "method": challenge["method"], "reference": reference}
        receipt |= {
            "challengeId": challenge["id"],
            "timestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        return {"Payment-Receipt": _b64url(_json(receipt))}

    def _take_tempo(self, payload: dict[str, Any]) -> str:
        push = payload["type"] == "hash"
        method, said = "eth_getTransactionReceipt", payload.get("hash")
        if not push:
            method, said = "eth_sendRawTransactionSync", payload["signature"]
        call = {"jsonrpc": "2.0", "id": 1, "method": method, "params": [said]}
        receipt = httpx.post(self._tempo, json=call, timeout=30).json()
        assert receipt.get("result", {}).get("status") == "0x1", receipt
        return str(receipt["result"]["transactionHash"])

    def _call(self, what: str, payment: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
        body = {"x402Version": 2, "paymentPayload": payment, "paymentRequirements": asked}
        answer: dict[str, Any] = httpx.post(f"{self._facilitator}/{what}", json=body, timeout=30).json()
        return answer


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    seller: ProbeSeller

    def do_POST(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        raw = self.rfile.read(int(headers["content-length"]))
        body = json.loads(raw)
        seller, terms = self.seller, self.seller.terms
        seller.requests.append((headers, body))
        paying = "payment-signature" in headers or _credential(headers) is not None
        if terms.redirect is not None:
            self._send(307, [("Location", terms.redirect)], {})
        elif not paying or terms.paid == "ask again":
            fault = {"error": {"code": 402, "message": "Pay for this request.", "type": "insufficient_quota"}}
            self._send(402, [*seller.offers(raw), ("Cache-Control", "no-store")], fault)
        elif terms.paid == "fail":
            self._send(500, [], {"error": {"code": 500, "message": "broken"}})
        elif terms.paid == "hang":
            seller.wait()
            self.close_connection = True
        else:
            self._serve(body, seller.take(headers) if terms.settle else {})

    def _serve(self, body: dict[str, Any], receipt: dict[str, Any] | None) -> None:
        headers = list((receipt or {}).items())
        said = {"id": "1", "created": 1, "model": body["model"]}
        usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
        if not body.get("stream"):
            message = {"role": "assistant", "content": "paid answer"}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            self._send(
                200, headers, said | {"object": "chat.completion", "choices": [choice], "usage": usage}
            )
            return
        chunk: Callable[..., Any] = lambda delta, end: (  # noqa: E731
            said
            | {
                "object": "chat.completion.chunk",
                "choices": [{"index": 0, "delta": delta, "finish_reason": end}],
            }
        )
        events = [chunk({"content": word}, None) for word in ("paid ", "answer")] + [chunk({}, "stop")]
        text = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
        self._write(200, [*headers, ("Content-Type", "text/event-stream")], text.encode())

    def _send(self, status: int, headers: list[tuple[str, Any]], body: dict[str, Any]) -> None:
        self._write(status, [*headers, ("Content-Type", "application/json")], _json(body))

    def _write(self, status: int, headers: list[tuple[str, Any]], content: bytes) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        """Say nothing."""


def _credential(headers: dict[str, str]) -> dict[str, Any] | None:
    said = headers.get("payment-authorization") or headers.get("authorization", "")
    return decoded(said.removeprefix("Payment ")) if said.startswith("Payment ") else None


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _b64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
