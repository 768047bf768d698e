"""A node of a chain over loopback that says what a test wrote down, method by method."""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

SAID = "execution reverted: key=super-secret at http://node.internal/"
Reply = Callable[[BaseHTTPRequestHandler], None]


class RpcNode:
    """Serve JSON-RPC; the last reply of a method is repeated. Ends with its `with` block."""

    def __init__(self) -> None:
        self._replies: dict[str, list[Reply]] = defaultdict(list)
        self.asked: list[tuple[str, list[Any]]] = []

    def on(self, method: str, *replies: Reply) -> None:
        """Say what a method answers, from now on."""
        self._replies[method] = list(replies)

    def methods(self) -> list[str]:
        """Return which methods were asked, in order."""
        return [method for method, _ in self.asked]

    def __enter__(self) -> Self:
        node = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                question = json.loads(self.rfile.read(int(self.headers["content-length"])))
                node.asked.append((question["method"], question["params"]))
                replies = node._replies[question["method"]]
                reply = replies.pop(0) if len(replies) > 1 else replies[0] if replies else error(-32601)
                reply(self)

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1/key-of-ours"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def result(value: Any) -> Reply:
    """Answer with a result."""
    return _json({"jsonrpc": "2.0", "id": 1, "result": value})


def held(gate: threading.Event, then: Reply) -> Reply:
    """Wait for a gate before the answer."""

    def reply(handler: BaseHTTPRequestHandler) -> None:
        gate.wait(30)
        then(handler)

    return reply


def error(code: int) -> Reply:
    """Answer with an error, whose text nobody may see."""
    return _json({"jsonrpc": "2.0", "id": 1, "error": {"code": code, "message": SAID, "data": SAID}})


def page(status: int = 502) -> Reply:
    """Answer as a proxy does."""
    return lambda handler: _write(handler, status, f"<html>{SAID}</html>".encode())


def long_answer(handler: BaseHTTPRequestHandler) -> None:
    """Answer with more than anybody should read."""
    _write(handler, 200, b'{"result": "' + b"a" * (1 << 20) + b'"}')


def elsewhere(handler: BaseHTTPRequestHandler) -> None:
    """Point to another address, with what looks like an answer beside it."""
    body = b'{"result": "0x1"}'
    handler.send_response(307)
    handler.send_header("location", "http://127.0.0.1:9/")
    handler.send_header("content-length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def hang_up(handler: BaseHTTPRequestHandler) -> None:
    """Take the question and close the connection."""
    handler.close_connection = True


def _json(answer: Any) -> Reply:
    return lambda handler: _write(handler, 200, json.dumps(answer).encode())


def _write(handler: BaseHTTPRequestHandler, status: int, body: bytes) -> None:
    handler.send_response(status)
    handler.send_header("content-length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)
