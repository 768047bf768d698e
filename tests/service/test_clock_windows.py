"""K8: the wall clock steps by an hour; windows, holds and durations do not notice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.router import Offered, RouterServer, write_catalog
from tests.service.walking import Client, bearer, ledger_rows, make_key, question, wait_all_ended
from tests.upstream import Gate, ScriptedUpstream, stream


@pytest.fixture
def up() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as server:
        yield server


@pytest.fixture
def router(up: ScriptedUpstream, tmp_path: Path) -> Iterator[RouterServer]:
    models = [Offered("test/free"), Offered("test/two", limits="rpm = 2"), Offered("test/held")]
    catalog = write_catalog(tmp_path / "catalog", {"scripted": up.base_url}, models)
    with RouterServer(catalog, tmp_path / "data") as server:
        yield server


@pytest.mark.parametrize("hours", [1, -1])
def test_a_step_opens_and_closes_no_window(router: RouterServer, hours: float) -> None:
    key, _ = make_key(router, "--rpm", "2")
    assert [router.chat(model="test/two").status for _ in range(2)] == [200, 200]
    assert [router.chat(model="test/free", headers=bearer(key)).status for _ in range(2)] == [200, 200]

    router.step(hours * 3_600)

    for got in (router.chat(model="test/two"), router.chat(model="test/free", headers=bearer(key))):
        assert got.status == 429
        assert 1 <= int(got.headers["retry-after"]) <= 60
    router.skip(60)
    assert router.chat(model="test/two").status == 200
    assert router.chat(model="test/free", headers=bearer(key)).status == 200


@pytest.mark.parametrize("hours", [1, -1])
def test_a_request_that_runs_meanwhile_keeps_its_hold_and_its_time(
    router: RouterServer, up: ScriptedUpstream, hours: float
) -> None:
    gate = Gate()
    up.on("test/held", stream("one two three", gate=gate, gate_after=2))
    client = Client(router, question(model="test/held", stream=True))
    assert client.head().status == 200
    client.read_until(b"one")

    router.step(hours * 3_600)

    assert router.chat(model="test/free").status == 200
    assert [row.kind for row in ledger_rows(router) if row.model == "test/held"] == ["hold"]
    gate.open()
    assert client.read_rest().endswith(b"data: [DONE]\n\n")
    rows = [row for row in wait_all_ended(router) if row.model == "test/held"]
    assert [(row.kind, row.estimated) for row in rows] == [("hold", False), ("settle", False)]
    assert all(0 <= line["seconds"] < 600 for line in router.logged())
