"""A stop between a paying client and a seller: it shows the client the 402 and keeps the payment it signs.

So a test holds a payment that a stock client made for this seller and that nobody has used, and can send it
changed, late or many times.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

import httpx2 as httpx

PAYMENT_HEADERS = ("payment-signature", "authorization", "payment-authorization")
_HOP = {"connection", "content-length", "host", "transfer-encoding", "content-encoding", "accept-encoding"}


@dataclass(frozen=True)
class Signed:
    """The payment headers that a client made, and the very bytes of the body that they pay for."""

    headers: dict[str, str]
    body: bytes


class Catcher:
    """Stand in front of one URL until the `with` block ends; `caught` holds the payment that came."""

    def __init__(self, target: str) -> None:
        """Name the seller's URL."""
        self.target = target
        self.caught: Signed | None = None

    def __enter__(self) -> Self:
        catcher = self

        class Bound(_Handler):
            pass

        Bound.catcher = catcher
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Bound)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1/chat/completions"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), name="catcher")
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    catcher: Catcher

    def do_POST(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self.rfile.read(int(headers["content-length"]))
        paid = {name: headers[name] for name in PAYMENT_HEADERS if name in headers}
        paid = {name: value for name, value in paid.items() if not value.startswith("Bearer ")}
        if paid:
            self.catcher.caught = Signed(paid, body)
            self._write(200, [("content-type", "application/json")], b"{}")
            return
        passed = {name: value for name, value in headers.items() if name not in _HOP}
        answer = httpx.post(self.catcher.target, content=body, headers=passed, timeout=60)
        kept = [(name, value) for name, value in answer.headers.multi_items() if name.lower() not in _HOP]
        self._write(answer.status_code, kept, answer.content)

    def _write(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002  the base class's name
        """Say nothing."""
