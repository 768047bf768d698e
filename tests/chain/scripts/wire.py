"""What the paying Python clients share: the task from standard input, a noting transport, one line out."""

import asyncio
import json
import sys
from collections.abc import Callable
from typing import Any

import httpx

PAYMENT_HEADERS = ("payment-signature", "authorization", "payment-authorization", "x-payment")


class Noting(httpx.AsyncHTTPTransport):
    """The stock transport; keeps the payment headers of every request, as the client wrote them."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[dict[str, str]] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.sent.append({name: request.headers[name] for name in PAYMENT_HEADERS if name in request.headers})
        return await super().handle_async_request(request)


async def _pay(
    task: dict[str, Any], paying: Callable[[dict[str, Any], Noting], httpx.AsyncBaseTransport]
) -> dict[str, Any]:
    noting = Noting()
    said: dict[str, Any] = {"status": 0, "headers": {}, "body": "", "error": None, "sent": noting.sent}
    try:
        async with (
            httpx.AsyncClient(transport=paying(task, noting), timeout=60.0) as http,
            http.stream("POST", task["url"], json=task["body"], headers=task.get("headers")) as answer,
        ):
            said |= {"status": answer.status_code, "headers": dict(answer.headers)}
            said["body"] = (await answer.aread()).decode()
    except Exception as fault:  # noqa: BLE001  whatever the client raises is the result
        said["error"] = repr(fault)
    return said


def report(paying: Callable[[dict[str, Any], Noting], httpx.AsyncBaseTransport]) -> None:
    """Do the task over the transport that `paying` makes of it and of the one that notes."""
    print(json.dumps(asyncio.run(_pay(json.load(sys.stdin), paying))))  # noqa: T201  this line is the result
