# /// script
# requires-python = ">=3.11"
# dependencies = ["x402[evm,httpx,extensions]==2.25.0"]
# [tool.uv]
# exclude-newer = "2026-11-16T00:00:00Z"
# ///
"""A facilitator on loopback: the published x402 classes behind HTTP; it lists its calls and fails to order.

The key comes by FACILITATOR_KEY. Beside `/supported`, `/verify` and `/settle`: `GET /calls`, `POST /orders`
(a list, see `Order`), `POST /release` (lets go who waits), `POST /reset`.
"""

import argparse
import json
import os
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from x402 import x402FacilitatorSync
from x402.extensions.eip2612_gas_sponsoring import EIP2612_GAS_SPONSORING
from x402.mechanisms.evm import FacilitatorWeb3Signer
from x402.mechanisms.evm.exact.facilitator import ExactEvmScheme
from x402.mechanisms.evm.upto.facilitator import UptoEvmScheme
from x402.schemas import PaymentPayload, PaymentRequirements


@dataclass
class Order:
    """What to do with the next `times` calls of `on` ("supported", "verify", "settle")."""

    on: str
    times: int = 1
    wait: str = ""  # "before" or "after" the real work: until POST /release
    seconds_before: float = 0.0
    seconds_after: float = 0.0
    real: bool = True  # do the work of this call
    answer: dict[str, Any] = field(default_factory=dict)  # put over the real answer
    status: int = 200
    text: str | None = None  # sent as text/html in place of JSON
    drop: bool = False  # close the connection without an answer
    die: str = ""  # "before" or "after" the real work: the process ends at once


class Desk:
    """The facilitator with the orders that are open and the calls that it had."""

    def __init__(self, rpc: str, network: str, confirm_s: float) -> None:
        signer = FacilitatorWeb3Signer(
            os.environ["FACILITATOR_KEY"], rpc, confirmation_timeout_seconds=confirm_s
        )
        self._facilitator = x402FacilitatorSync()
        self._facilitator.register([network], ExactEvmScheme(signer))
        self._facilitator.register([network], UptoEvmScheme(signer))
        self._facilitator.register_extension(EIP2612_GAS_SPONSORING)
        self.lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        self.orders: list[Order] = []
        self.calls: list[dict[str, Any]] = []
        self.released = threading.Event()

    def take(self, what: str) -> Order:
        with self.lock:
            for order in self.orders:
                if order.on == what and order.times > 0:
                    order.times -= 1
                    return order
        return Order(what)

    def work(self, what: str, body: dict[str, Any]) -> dict[str, Any]:
        if what == "supported":
            answer: Any = self._facilitator.get_supported()
        else:
            payload = PaymentPayload.model_validate(body["paymentPayload"])
            asked = PaymentRequirements.model_validate(body["paymentRequirements"])
            answer = getattr(self._facilitator, what)(payload, asked)
        said = answer.model_dump(by_alias=True, exclude_none=True, mode="json")
        return dict(said)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    desk: Desk

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        raw = self.rfile.read(int(self.headers.get("content-length", 0)))
        body = json.loads(raw) if raw else None
        what = self.path.removeprefix("/")
        desk = self.desk
        if what in ("supported", "verify", "settle"):
            self._obey(what, body)
        elif what == "calls":
            self._send(200, desk.calls)
        elif what == "orders":
            desk.orders.extend(Order(**order) for order in body)
            self._send(200, {})
        elif what == "release":
            desk.released.set()
            self._send(200, {})
        elif what == "reset":
            desk.released.set()
            desk.reset()
            self._send(200, {})
        else:
            self._send(404, {"error": f"no route {self.path}"})

    def _obey(self, what: str, body: Any) -> None:
        order, released = self.desk.take(what), self.desk.released
        call = {"what": what, "body": body, "headers": dict(self.headers), "answer": None}
        self.desk.calls.append(call)
        self._hold(order, "before", order.seconds_before, released)
        answer = self.desk.work(what, body) if order.real else {}
        call["answer"] = answer
        self._hold(order, "after", order.seconds_after, released)
        if order.drop:
            self.close_connection = True
        elif order.text is not None:
            self._write(order.status, "text/html", order.text.encode())
        else:
            self._send(order.status, answer | order.answer)

    def _hold(self, order: Order, when: str, seconds: float, released: threading.Event) -> None:
        if order.die == when:
            os._exit(1)
        if order.wait == when:
            released.wait()
        time.sleep(seconds)

    def _send(self, status: int, answer: Any) -> None:
        self._write(status, "application/json", json.dumps(answer).encode())

    def _write(self, status: int, kind: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002  the base class's name
        """Say nothing."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rpc", required=True)
    parser.add_argument("--network", required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--confirm-s", type=float, default=30.0)
    asked = parser.parse_args()
    Handler.desk = Desk(asked.rpc, asked.network, asked.confirm_s)
    server = ThreadingHTTPServer(("127.0.0.1", asked.port), Handler)
    print(f"on http://127.0.0.1:{server.server_port}", flush=True)  # noqa: T201  who started it reads this
    server.serve_forever()


if __name__ == "__main__":
    main()
