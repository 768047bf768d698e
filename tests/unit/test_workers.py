"""What workers and their supervisor say to each other, and their numbers added up."""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

import pytest

from router.limits import Full, Standing, Window
from router.telemetry.metrics import Gauge, Metrics, added
from router.workers.messages import (
    Ask,
    Begin,
    Crew,
    Enter,
    Entered,
    FromWorker,
    Fulls,
    Gathered,
    Leave,
    Line,
    Listed,
    Message,
    ToWorker,
    Wait,
)

TO_SUPERVISOR = [
    Listed(1, [(("offer", "a", "one"), (1, None, 3)), (("key", "k"), (None, 2, None))]),
    Ask(2, 1, 300),
    Enter(3, [(("provider", "a"), (None, 60, None))], 10, True),
    Leave(3, None, False),
    Wait(4, 1, 2.5, [[(("offer", "a", "one"), (1, None, None))]], 7),
]
TO_WORKER = [
    Begin({"port": 1, "demo": False, "data": "here"}, 4),
    Fulls(2, [(0, Full("rpm", 12))]),
    Entered(3, None, Standing(Window(60, 59, 59.5), None)),
    Entered(4, Full("concurrency", 1), None),
    Gathered(5, [b"\x00\xff", b""]),
    Crew(3),
]


class Pipe(asyncio.WriteTransport):
    """Keep what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""

    def write(self, data: Any) -> None:
        self.written += bytes(data)


def framed(messages: list[Any]) -> bytes:
    """Return what one turn of the loop sends."""

    async def say() -> bytes:
        line: Line[Message] = Line(FromWorker, lambda _: None, lambda: None)
        pipe = Pipe()
        line.connection_made(pipe)
        for message in messages:
            line.say(message)
        await asyncio.sleep(0)
        return pipe.written

    return asyncio.run(say())


@pytest.mark.parametrize(("said", "messages"), [(FromWorker, TO_SUPERVISOR), (ToWorker, TO_WORKER)])
@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 11, 64, 10_000])
def test_messages_arrive_whole_however_the_bytes_are_cut(said: Any, messages: list[Any], size: int) -> None:
    data = framed(messages[:2]) + framed(messages[2:])
    heard: list[Any] = []
    line: Line[Any] = Line(said, heard.append, lambda: None)
    for at in range(0, len(data), size):
        line.data_received(data[at : at + size])
    assert heard == messages


def test_what_is_said_after_the_other_end_is_gone_is_dropped() -> None:
    lost: list[bool] = []

    async def steps() -> bytes:
        line: Line[Any] = Line(FromWorker, lambda _: None, lambda: lost.append(True))
        pipe = Pipe()
        line.connection_made(pipe)
        line.connection_lost(None)
        line.say(Leave(1, None, False))
        await asyncio.sleep(0)
        assert not line.open
        return pipe.written

    assert asyncio.run(steps()) == b""
    assert lost == [True]


class At(NamedTuple):
    """A request in progress."""

    model_id: str | None


def counted(requests: int, alerts: int, state: str) -> Metrics:
    metrics = Metrics(
        lambda: {("acme", "one"): state},
        lambda: alerts,
        lambda: 2,
        lambda: 5,
        lambda: [Gauge("router_workers", 2)],
    )
    metrics.requests["coding", "a/one", "ok", "key"] += requests
    metrics.requests["simple", "a/one", f"failed {requests}", "open"] += 1
    metrics.attempts["acme", "ok"] += requests
    metrics.spent["a/one"].cost_nusd += 100 * requests
    metrics.compare(30, 10 * requests)
    for number in range(requests):
        metrics.running[f"req_{number}"] = At("a/one" if number else None)
    for _ in range(requests):
        metrics.seconds.observe(0.2)
    return metrics


def test_numbers_of_workers_add_up() -> None:
    here, there = counted(3, 1, "open"), counted(4, 2, "half-open")
    text = here.render(added([here.numbers(), there.numbers()])).decode()
    for line in (
        'router_requests_total{category="coding",model="a/one",outcome="ok",payer="key"} 7.0',
        'router_requests_total{category="simple",model="a/one",outcome="failed 3",payer="open"} 1.0',
        'router_upstream_attempts_total{outcome="ok",provider="acme"} 7.0',
        'router_request_seconds_bucket{le="0.1"} 0.0',
        'router_request_seconds_bucket{le="0.25"} 7.0',
        "router_request_seconds_count 7.0",
        'router_cost_nusd_total{model="a/one"} 700.0',
        "router_saved_nusd_total 10.0",
        "router_overspent_nusd_total 0.0",
        'router_inflight{model="none"} 2.0',
        'router_inflight{model="a/one"} 5.0',
        "router_ledger_held_nusd 10.0",
        "router_waiting 4.0",
        "router_alerts 2.0",
        "router_workers 2.0",
    ):
        assert line in text.splitlines()
    for state in ("open", "half-open"):
        assert f'model="one",provider="acme",state="{state}"' in text


def test_what_an_ended_worker_was_doing_is_not_counted_on() -> None:
    numbers = counted(3, 1, "open").numbers()
    ended = added([numbers.ended(), numbers.ended()])
    assert (ended.inflight, ended.waiting, ended.held_nusd, ended.alerts, ended.resting) == ([], 0, 0, 0, [])
    assert dict(ended.requests)["coding", "a/one", "ok", "key"] == 6
    assert (dict(ended.spent)["a/one"].cost_nusd, ended.spreads[0][0][2]) == (600, 6)
