"""Credit and budgets while requests run, over both APIs: never more is served than there is money for."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.router import Answer, Offered, RouterServer, write_catalog
from tests.service.walking import (
    Client,
    bearer,
    books_of,
    ledger_rows,
    make_key,
    question,
    request_id,
    run_command,
    wait_all_ended,
    wait_end,
    wait_for,
)
from tests.upstream import Gate, ScriptedUpstream, stream
from tests.workers import Workers

MODEL = "test/model"
CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
AT_ONCE, PAID_FOR = 64, 9
DAY_S = 24 * 3_600.0
Served = RouterServer | Workers
BODIES: dict[str, dict[str, Any]] = {
    CHAT: question(max_tokens=100, stream=True),
    RESPONSES: {"model": "auto", "input": "Say hello", "max_output_tokens": 100, "stream": True},
}


@pytest.fixture
def up() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as server:
        yield server


@pytest.fixture
def router(up: ScriptedUpstream, tmp_path: Path, database_url: str | None) -> Iterator[RouterServer]:
    catalog = write_catalog(tmp_path / "catalog", {"scripted": up.base_url}, [Offered(MODEL)])
    with RouterServer(catalog, tmp_path / "data", access="paid", database_url=database_url) as server:
        yield server


def price_usd(router: Served, path: str) -> Decimal:
    """Return what is held for a request."""
    key, account = make_key(router, "--credit", "1")
    assert ask(router, path, key).status == 200
    (held,) = (row.amount_nusd for row in ledger_rows(router) if (row.account, row.kind) == (account, "hold"))
    return Decimal(held) / 10**9


def ask(router: Served, path: str, key: str) -> Answer:
    return router.request("POST", path, BODIES[path], bearer(key))


def test_of_many_at_once_over_workers_exactly_as_many_are_served_as_are_paid_for(
    up: ScriptedUpstream, tmp_path: Path
) -> None:
    catalog = write_catalog(tmp_path / "catalog", {"scripted": up.base_url}, [Offered(MODEL)])
    gate = Gate()
    with Workers(tmp_path, catalog, 2, ROUTER_ACCESS="paid") as router:
        price = price_usd(router, CHAT)
        up.on(MODEL, stream("one two three", gate=gate))
        key, account = make_key(router, "--credit", str(price * PAID_FOR + price - Decimal("0.000000001")))
        paths = [CHAT, RESPONSES] * (AT_ONCE // 2)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            sent = [pool.submit(ask, router, path, key) for path in paths]
            wait_for(lambda: sum(one.done() for one in sent) >= AT_ONCE - PAID_FOR or None, "the others", 20)
            gate.open()
            got = [one.result() for one in sent]
        assert sorted(answer.status for answer in got) == [200] * PAID_FOR + [402] * (AT_ONCE - PAID_FOR)
        rows = wait_all_ended(router)
        assert all(row.balance_after_nusd >= 0 for row in rows)
        charged = sum(row.amount_nusd for row in rows if (row.account, row.kind) == (account, "settle"))
        books = books_of(router).account(account)
        assert (books.held_nusd, books.charged_nusd) == (0, charged)
        assert run_command(router, "ledger", "check").exit_code == 0


@pytest.mark.parametrize("path", [CHAT, RESPONSES])
def test_a_key_that_is_revoked_in_the_middle_of_its_stream_gets_the_rest_and_is_charged(
    router: RouterServer, up: ScriptedUpstream, path: str
) -> None:
    gate = Gate()
    up.on(MODEL, stream("one two three four", gate=gate, gate_after=2))
    key, account = make_key(router, "--credit", "1")
    client = Client(router, BODIES[path], bearer(key), path=path)
    ledger_id = request_id(client.head())
    client.read_until(b"one")
    assert run_command(router, "keys", "revoke", account).exit_code == 0
    usage = "/v1/usage"
    wait_for(
        lambda: router.request("GET", usage, headers=bearer(key)).status == 401 or None, "the revocation"
    )
    gate.open()
    assert b"four" in client.read_rest()
    row = wait_end(router, ledger_id)
    assert (row.kind, row.completion_tokens, row.estimated) == ("settle", 4, False)
    assert books_of(router).account(account).balance_nusd == 10**9 - row.amount_nusd


@pytest.mark.parametrize("path", [CHAT, RESPONSES])
def test_credit_that_comes_while_everything_is_held_is_there_at_once(
    router: RouterServer, up: ScriptedUpstream, path: str
) -> None:
    price, gate = price_usd(router, path), Gate()
    up.on(MODEL, stream("one two three", gate=gate, gate_after=2), stream("one two three"))
    key, account = make_key(router, "--credit", str(price))
    client = Client(router, BODIES[path], bearer(key), path=path)
    client.head()
    client.read_until(b"one")
    assert ask(router, path, key).status == 402
    assert run_command(router, "keys", "topup", account, str(price)).exit_code == 0
    assert ask(router, path, key).status == 200
    gate.open()
    client.read_rest()
    rows = [row for row in wait_all_ended(router) if row.account == account]
    charged = sum(row.amount_nusd for row in rows if row.kind == "settle")
    assert [row.kind for row in rows].count("settle") == 2
    assert books_of(router).account(account).balance_nusd == int(price * 10**9) * 2 - charged


def test_a_stream_over_midnight_is_charged_to_the_day_it_ends_and_frees_the_other(
    router: RouterServer, up: ScriptedUpstream
) -> None:
    price, gate = price_usd(router, RESPONSES), Gate()
    up.on(MODEL, stream("one two three", gate=gate, gate_after=2), stream("one two three"))
    key, account = make_key(router, "--credit", "1", "--budget-day", str(price))
    client = Client(router, BODIES[RESPONSES], bearer(key), path=RESPONSES)
    client.head()
    client.read_until(b"one")
    assert ask(router, CHAT, key).status == 402
    try:
        router.step(DAY_S)
        assert ask(router, CHAT, key).status == 402  # what runs may still take all of the new day's
        gate.open()
        client.read_rest()
        wait_all_ended(router)
        assert ask(router, CHAT, key).status == 402  # it is charged today
        router.step(DAY_S)
        assert ask(router, CHAT, key).status == 200
    finally:
        router.step(-2 * DAY_S)
    ended = [row for row in wait_all_ended(router) if (row.account, row.kind) == (account, "settle")]
    assert len(ended) == 2
