"""A chain's JSON-RPC as a wallet asks it, on a real socket: balances, used authorizations, block times."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self


class ScriptedChain:
    """Answer until the `with` block ends; `broken` takes the place of every answer."""

    def __init__(self, chain_id: int = 84532) -> None:
        self.chain_id = chain_id
        self.balance = 0
        self.used: set[str] = set()
        self.time = 0
        self.broken: bytes | None = None
        self.asked: list[str] = []
        chain = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
                chain.asked.append(asked["method"])
                body = chain.broken or json.dumps({"id": 1, "result": chain.answer(asked)}).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name there
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/secret-path"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), name="chain")

    def answer(self, asked: dict[str, Any]) -> Any:
        """Answer one question."""
        method, params = asked["method"], asked["params"]
        if method == "eth_chainId":
            return hex(self.chain_id)
        if method == "eth_getBlockByNumber":
            return {"timestamp": hex(self.time), "number": "0x1"}
        assert method == "eth_call"
        data = params[0]["data"]
        if data.startswith("0x70a08231"):
            return f"0x{self.balance:064x}"
        assert data.startswith("0xe94a0102")
        return f"0x{int('0x' + data[-64:] in self.used):064x}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
