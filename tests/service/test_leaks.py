"""After hundreds of faults and leaving clients nothing is left: no descriptor, task, call, place or hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.router import Offered, RouterServer, write_catalog
from tests.service.test_raw_sockets import HEAD, LIVE, Line, chat
from tests.service.transports import descriptors
from tests.service.walking import Client, question, wait_all_ended, wait_for
from tests.upstream import (
    Behaviour,
    ScriptedUpstream,
    answer,
    cut_body,
    empty,
    error_event_after,
    error_in_200,
    hang,
    html,
    redirect,
    refused_base_url,
    reset,
    status,
    stream,
    wrong_length,
)

EACH = 46  # each misbehaviour once as a stream and once not
PLACES = 16
FAULTS: list[Behaviour] = [
    status(500),
    status(429, headers=[("retry-after", "1")]),
    status(401),
    reset(),
    html(),
    empty(),
    cut_body(),
    wrong_length(),
    redirect("http://127.0.0.1:9/"),
    error_in_200(),
    error_event_after(2),
    stream("one two three", cut_after=2),
    stream("one two three", cut_after=2, reset=True),
    stream("one two three", finish=False, done=False),
]


@pytest.fixture
def up() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as server:
        yield server


@pytest.fixture
def router(up: ScriptedUpstream, tmp_path: Path) -> Iterator[RouterServer]:
    """Serve models that fail in their ways, one that hangs, one whose upstream refuses, one that is well."""
    limits = f"concurrency = {PLACES}"
    models = [Offered(f"test/fault-{i}", limits=limits) for i in range(len(FAULTS))]
    models += [Offered(f"test/{name}", limits=limits) for name in ("hangs", "stops", "well")]
    models.append(Offered("test/nobody", provider="nobody", limits=limits))
    with refused_base_url() as nobody:
        addresses = {"scripted": up.base_url, "nobody": nobody}
        with RouterServer(
            write_catalog(tmp_path / "catalog", addresses, models), tmp_path / "data"
        ) as server:
            for i, fault in enumerate(FAULTS):
                up.on(f"test/fault-{i}", fault)
            up.on("test/hangs", hang())
            up.on("test/stops", stream("one two three four", hang_after=3))
            up.on("test/well", answer())
            yield server


def misbehave(router: RouterServer, number: int) -> None:
    """Do one thing that a client or an upstream does wrong; `number` chooses which."""
    router.skip(7_200)  # what rests after failures is tried again, by one request at a time
    streams = number % 2 == 0
    one = number % (EACH // 2)
    if one < len(FAULTS):
        expect_answer(router, f"test/fault-{one}", stream=streams)
        return
    kinds: list[Callable[[], None]] = [
        lambda: expect_answer(router, "test/nobody", stream=streams),
        lambda: expect_answer(router, "no/such", stream=streams),
        lambda: expect_answer(router, "test/fault-0", stream=streams, models=["test/fault-3", "test/well"]),
        lambda: Client(router, question(model="test/hangs", stream=streams)).leave(),
        lambda: leave_in_the_middle(router),
        lambda: leave_with(router, HEAD + b"content-length: 99\r\n\r\n{"),
        lambda: leave_with(router, b"\0\r\n\r\n"),
        lambda: leave_with(router, chat() * 3),
        lambda: leave_with(router, LIVE),
    ]
    kinds[one - len(FAULTS)]()


def expect_answer(router: RouterServer, model: str, **fields: Any) -> None:
    assert router.chat(model=model, **fields).status in (200, 404, 429, 502, 503)


def leave_in_the_middle(router: RouterServer) -> None:
    client = Client(router, question(model="test/stops", stream=True))
    client.head()
    client.read_until(b"one")
    client.leave()


def leave_with(router: RouterServer, data: bytes) -> None:
    with Line(router, data):
        pass


def own_descriptors(up: ScriptedUpstream) -> int:
    """Count descriptors but those of the connections that a pool keeps: both ends are in this process."""
    return descriptors() - 2 * up.open_connections


def wait_rest(router: RouterServer, up: ScriptedUpstream, tasks: int) -> None:
    """Wait until no call, no hold and no task is left."""
    up.wait_idle()
    wait_all_ended(router)
    wait_for(lambda: True if router.tasks() <= tasks else None, f"only {tasks} tasks")


def test_faults_and_leaving_clients_leave_nothing_behind(router: RouterServer, up: ScriptedUpstream) -> None:
    tasks = router.tasks()
    for number in range(EACH):  # what is made at first use is there
        misbehave(router, number)
    wait_rest(router, up, tasks)
    wait_for(lambda: next(router.data.glob("decisions/*"), None), "the decision log's file")
    tasks = min(tasks, router.tasks())  # what a start has to do once is done
    before = wait_for(lambda: own_descriptors(up), "the descriptors")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: misbehave(router, number), range(EACH, EACH + 300)))

    wait_rest(router, up, tasks)
    wait_for(lambda: True if own_descriptors(up) <= before else None, f"{before} descriptors")
    assert len([row for row in wait_all_ended(router) if row.kind == "hold"]) > 200
    assert router.inflight() == 0


def test_after_them_every_place_is_free(router: RouterServer, up: ScriptedUpstream) -> None:
    for number in range(3 * EACH):
        misbehave(router, number)
    up.wait_idle()
    wait_all_ended(router)

    for model in ("test/hangs", "test/stops", "test/fault-0"):
        up.on(model, stream("one two three", hang_after=3))
        clients = [Client(router, question(model=model, stream=True)) for _ in range(PLACES)]
        assert [client.head().status for client in clients] == [200] * PLACES
        assert router.chat(model=model).status == 429
        for client in clients:
            client.leave()
    wait_all_ended(router)
