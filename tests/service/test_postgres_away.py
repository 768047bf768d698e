"""The service while its PostgreSQL is stopped, stands still, or serves two replicas the last of a credit."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from decimal import Decimal
from pathlib import Path

import pytest

from router.errors import Unavailable
from router.ledger.postgres_lease import Pace
from router.ledger.postgres_ledger import PostgresLedger
from tests.postgres import Cluster, binaries, execute, fetch
from tests.router import Answer, Offered, RouterServer, write_catalog
from tests.service.ledgers import Books, Ticks, request, settlement
from tests.service.walking import (
    bearer,
    books_of,
    make_key,
    question,
    request_id,
    wait_all_ended,
    wait_for,
)
from tests.upstream import ScriptedUpstream, answer

MODEL = "test/model"
USAGE = {"prompt_tokens": 1_000, "completion_tokens": 500, "total_tokens": 1_500}
MORE = {"prompt_tokens": 1_000, "completion_tokens": 90_000, "total_tokens": 91_000}
CLIENTS = 8
AWAY_S = 20.0


@pytest.fixture(scope="module")
def own(cluster: Cluster) -> Iterator[Cluster]:
    """Run a server that these tests may stop; that of the others goes on."""
    folder = binaries()
    assert folder
    with Cluster(folder) as running:
        yield running


@pytest.fixture(scope="module")
def up() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as server:
        server.on(MODEL, answer(usage=USAGE))
        yield server


@pytest.fixture(scope="module")
def catalog(up: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_catalog(tmp_path_factory.mktemp("away"), {"scripted": up.base_url}, [Offered(MODEL)])


@pytest.fixture
def router(catalog: Path, own: Cluster, tmp_path: Path) -> Iterator[RouterServer]:
    with RouterServer(catalog, tmp_path, access="paid", database_url=own.make_database()) as server:
        yield server


class Load:
    """Clients that ask one request after another until the block ends; `answers` is all that came back."""

    def __init__(self, router: RouterServer, key: str) -> None:
        self.answers: list[Answer] = []
        self._router = router
        self._key = key
        self._over = threading.Event()

    def ask(self) -> None:
        while not self._over.is_set():
            self.answers.append(self._router.chat(headers=bearer(self._key), model=MODEL))

    def end(self) -> None:
        self._over.set()

    def wait_more(self, status: int, count: int = 3 * CLIENTS) -> None:
        """Wait until so many more answers with a status have come."""
        wanted = self.count(status) + count
        wait_for(lambda: self.count(status) >= wanted or None, f"{count} times {status}", AWAY_S)

    def count(self, status: int) -> int:
        return sum(got.status == status for got in self.answers)


@contextmanager
def load(router: RouterServer, key: str) -> Iterator[Load]:
    clients = Load(router, key)
    with ThreadPoolExecutor(CLIENTS) as pool:
        asking = [pool.submit(clients.ask) for _ in range(CLIENTS)]
        try:
            yield clients
        finally:
            clients.end()
    for one in asking:
        one.result()


def stopped(own: Cluster) -> Callable[[], None]:
    own.stop()
    return own.start


def killed(own: Cluster) -> Callable[[], None]:
    own.kill()
    return own.start


def paused(own: Cluster) -> Callable[[], None]:
    own.pause()
    return own.resume


@pytest.mark.parametrize("go", [stopped, killed, paused])
def test_while_the_database_is_away_nothing_is_served_and_nothing_is_lost(
    router: RouterServer, own: Cluster, go: Callable[[Cluster], Callable[[], None]]
) -> None:
    key, account = make_key(router, "--credit", "1000")
    with load(router, key) as clients:
        clients.wait_more(200)
        come_back = go(own)
        clients.wait_more(503)
        unready = router.request("GET", "/health/ready")
        alive = router.request("GET", "/health/live")
        come_back()
        clients.wait_more(200)
    wait_for(lambda: router.request("GET", "/health/ready").status == 200 or None, "readiness")

    assert (unready.status, unready.error["name"], alive.status) == (503, "storage_unavailable", 200)
    served = [got for got in clients.answers if got.status == 200]
    refused = [got for got in clients.answers if got.status != 200]
    assert {(got.status, got.error["name"]) for got in refused} == {(503, "storage_unavailable")}
    assert all(int(got.headers["retry-after"]) >= 1 for got in refused)
    rows = [row for row in wait_all_ended(router) if row.account == account]
    settled = sorted(row.request_id for row in rows if row.kind == "settle")
    assert settled == sorted(request_id(got) for got in served)
    connections = "SELECT FROM pg_stat_activity WHERE application_name = 'llm-router'"
    assert len(fetch(own.url(), connections)) <= 4


def away_for_an_hour(own: Cluster, url: str) -> None:
    own.stop()
    own.start()
    execute(url, "UPDATE owners SET expires_at = clock_timestamp() - interval '1 hour'")


def test_leases_that_ran_out_while_the_database_was_away_end_no_hold_of_the_living(
    own: Cluster, tmp_path: Path
) -> None:
    books = Books(tmp_path, own.make_database())
    books.add_credit(100)
    pace = Pace(renew_s=0.05, lease_s=0.3)
    replicas = [
        PostgresLedger.of(str(books.url), tmp_path / name, clock=Ticks(), wait_s=10, pace=pace)
        for name in "ab"
    ]

    async def through_it() -> list[int | None]:
        for number, ledger in enumerate(replicas):
            await ledger.start()
            await ledger.hold(request(number))
        await asyncio.to_thread(away_for_an_hour, own, str(books.url))
        for _ in range(30):  # for five times as long as a lease
            for ledger in replicas:
                with suppress(Unavailable):
                    assert await ledger.end_open_holds() == 0
            await asyncio.sleep(pace.renew_s)
        settled = [await ledger.settle(settlement(number)) for number, ledger in enumerate(replicas)]
        for ledger in replicas:
            await ledger.close()
        return settled

    assert asyncio.run(through_it()) == [4, 4]
    assert books.differences() == []


def test_two_replicas_serve_exactly_what_a_credit_pays_for(
    catalog: Path, own: Cluster, up: ScriptedUpstream, tmp_path: Path
) -> None:
    paid_for = 100
    url = own.make_database()
    up.on(MODEL, answer(usage=MORE))  # it uses all that is held
    with (
        RouterServer(catalog, tmp_path / "one", access="paid", database_url=url) as one,
        RouterServer(catalog, tmp_path / "two", access="paid", database_url=url) as two,
        ThreadPoolExecutor(2 * CLIENTS) as pool,
    ):
        asked, _ = make_key(one)
        body = question(model=MODEL, max_tokens=100)
        quote = one.request("POST", "/v1/route", body, bearer(asked)).json["quote"]["max_usd"]
        key, account = make_key(one, "--credit", str(paid_for * Decimal(str(quote))))

        def ask(number: int) -> Answer:
            replica = (one, two)[number % 2]
            return replica.chat(headers=bearer(key), model=MODEL, max_tokens=100)

        answers = list(pool.map(ask, range(3 * paid_for)))
        rows = [row for row in wait_all_ended(one) if row.account == account]

    assert sorted(got.status for got in answers) == [200] * paid_for + [402] * 2 * paid_for
    assert min(row.balance_after_nusd for row in rows) == 0
    assert sum(row.kind == "settle" for row in rows) == paid_for
    assert books_of(one).account(account).balance_nusd == 0
