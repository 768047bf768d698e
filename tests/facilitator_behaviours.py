"""What a scripted facilitator can do with one call, honest or not."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.wallets import Json


@dataclass
class Call:
    """One request to it; `honest` does what was asked and returns the true answer."""

    path: str
    body: Json
    headers: dict[str, str]
    honest: Callable[[], Json] = field(repr=False)


@dataclass(frozen=True)
class Reply:
    """What it answers; no status closes the connection without a word."""

    status: int | None
    body: bytes = b""
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


Behaviour = Callable[[Call], Reply]


def reply(tree: Any, code: int = 200) -> Reply:
    """Return JSON as an answer."""
    return Reply(code, json.dumps(tree).encode())


def status(code: int, body: Any = None) -> Behaviour:
    """Answer with a status and do nothing."""
    return lambda _: reply(body if body is not None else {"error": "scripted"}, code)


def html(code: int = 200) -> Behaviour:
    """Answer with a page, as a proxy before it does, and do nothing."""
    return lambda _: Reply(code, b"<html><body>Bad gateway</body></html>", "text/html")


def says(tree: Any, code: int = 200) -> Behaviour:
    """Answer with this JSON and do nothing."""
    return lambda _: reply(tree, code)


def lying(**members: Any) -> Behaviour:
    """Do it, and answer with these members in place of the true ones; None leaves a member out."""

    def answer(call: Call) -> Reply:
        told = {**call.honest(), **members}
        return reply({name: value for name, value in told.items() if value is not None})

    return answer


def refused(reason: str, code: int = 200, *, transaction: str = "") -> Behaviour:
    """Say no for a reason, and do nothing."""

    def answer(call: Call) -> Reply:
        if call.path == "/verify":
            return reply({"isValid": False, "invalidReason": reason, "payer": ""}, code)
        network = call.body["paymentRequirements"]["network"]
        told = {
            "success": False,
            "errorReason": reason,
            "transaction": transaction,
            "network": network,
            "payer": "",
        }
        return reply(told, code)

    return answer


def pending(*, done: bool) -> Behaviour:
    """Answer that the transfer was sent and not yet seen; `done` says whether it goes through."""

    def answer(call: Call) -> Reply:
        told = call.honest() if done else {"network": call.body["paymentRequirements"]["network"]}
        return reply({"transaction": "", **told, "success": False, "errorReason": "settlement_pending"})

    return answer


def lost(*, done: bool = True) -> Behaviour:
    """Do it (or not), and close the connection without an answer."""

    def answer(call: Call) -> Reply:
        if done:
            call.honest()
        return Reply(None)

    return answer


def slow(gate: threading.Event, *, then: Behaviour | None = None) -> Behaviour:
    """Wait for a gate before it does anything."""

    def answer(call: Call) -> Reply:
        gate.wait(30)
        return then(call) if then is not None else reply(call.honest())

    return answer
