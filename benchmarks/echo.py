"""A bare Litestar app that answers a POST with its own body: what the server alone costs, for the guard."""

from __future__ import annotations

import argparse
import socket

import uvicorn
from litestar import Litestar, asgi
from litestar.types import Receive, Scope, Send

from benchmarks.site import CHAT

JSON_HEADERS = [(b"content-type", b"application/json")]


@asgi(CHAT, copy_scope=False)
async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Send the request's body back."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            return
        body, more = body + message["body"], message["more_body"]
    headers = [*JSON_HEADERS, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


def main() -> None:
    """Serve on a port of loopback, set as the router sets its own server."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.echo", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args()
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", given.port))
    listener.listen(2_048)
    config = uvicorn.Config(
        Litestar([echo], openapi_config=None),
        loop="uvloop",
        http="httptools",
        ws="none",
        log_config=None,
        access_log=False,
    )
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
