"""A wall clock that steps by an hour, either way: no hold ends early, no budget is given twice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from router.ledger.owners import FOLDER, Owner
from router.ledger.rows import utc_text
from router.ledger.sqlite import FILE, Database
from router.ledger.sqlite_books import end_dead
from tests.router import Offered, RouterServer, write_catalog
from tests.service.walking import (
    Client,
    bearer,
    ledger_rows,
    make_key,
    question,
    wait_all_ended,
)
from tests.upstream import Gate, ScriptedUpstream, answer, stream

MODEL = "test/model"
HOUR_S = 3_600.0
USAGE = {"prompt_tokens": 10, "completion_tokens": 200}  # 410,000 nano-USD, within the hold
PRICE_NUSD = 410_000


@pytest.fixture
def up() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as server:
        yield server


@pytest.fixture
def router(up: ScriptedUpstream, tmp_path: Path) -> Iterator[RouterServer]:
    catalog = write_catalog(tmp_path / "catalog", {"scripted": up.base_url}, [Offered(MODEL)])
    with RouterServer(catalog, tmp_path / "data") as server:
        yield server


def set_clock(router: RouterServer, hour: int, minute: int) -> None:
    """Step the clock to a time of today."""
    now = router.now()
    router.step((now.replace(hour=hour, minute=minute, second=0) - now) / timedelta(seconds=1))


def ask(router: RouterServer, key: str) -> int:
    status = router.chat(model=MODEL, max_tokens=200, headers=bearer(key)).status
    wait_all_ended(router)
    return status


@pytest.mark.parametrize("step_s", [HOUR_S, -HOUR_S])
def test_a_hold_stays_open_while_its_stream_runs_whatever_the_clock_says(
    router: RouterServer, up: ScriptedUpstream, step_s: float
) -> None:
    gate = Gate()
    up.on(MODEL, stream("one two three", gate=gate, gate_after=2))
    client = Client(router, question(model=MODEL, stream=True))
    client.head()
    client.read_until(b"one")
    router.step(step_s)
    with (
        closing(Database(router.data / FILE)) as database,
        closing(Owner(router.data / FOLDER)) as beside,
    ):
        assert end_dead(database, beside, beside.delivered, utc_text(router.now().timestamp())) == 0
    assert [row.kind for row in ledger_rows(router)] == ["hold"]
    gate.open()
    assert client.read_rest().endswith(b"data: [DONE]\n\n")
    hold, settle = wait_all_ended(router)
    assert (hold.kind, settle.kind) == ("hold", "settle")
    assert (settle.created_at > hold.created_at) == (step_s > 0)
    (line,) = router.logged()
    assert 0 <= line["first_s"] <= line["seconds"] < 60


@pytest.mark.parametrize("step_s", [HOUR_S, -HOUR_S])
def test_within_a_day_a_step_neither_gives_nor_takes_budget(
    router: RouterServer, up: ScriptedUpstream, step_s: float
) -> None:
    up.on(MODEL, answer(usage=USAGE))
    set_clock(router, 12, 0)
    key, _ = make_key(router, "--budget-day", "0.0012")  # for two of them
    assert [ask(router, key), ask(router, key)] == [200, 200]
    router.step(step_s)
    assert ask(router, key) == 402
    router.step(-step_s)
    assert ask(router, key) == 402


def test_a_clock_that_steps_over_midnight_and_back_gives_one_new_budget(
    router: RouterServer, up: ScriptedUpstream
) -> None:
    up.on(MODEL, answer(usage=USAGE))
    set_clock(router, 23, 30)
    key, _ = make_key(router, "--budget-day", "0.0012")
    assert [ask(router, key) for _ in range(3)] == [200, 200, 402]
    router.step(HOUR_S)
    assert [ask(router, key) for _ in range(3)] == [200, 200, 402]
    for _ in range(2):
        router.step(-HOUR_S)
        assert ask(router, key) == 402
        router.step(HOUR_S)
        assert ask(router, key) == 402
    settled = [row.amount_nusd for row in ledger_rows(router) if row.kind == "settle"]
    assert settled == [PRICE_NUSD] * 4
