"""Several workers are one service: limits and credit exact, a dead one replaced, one end for all of them."""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.redis_server import RedisServer, needs_redis
from tests.router import Answer, Offered, write_catalog
from tests.service.walking import Client, bearer, make_key, question, wait_all_ended, wait_for
from tests.serving import run_router, serve
from tests.upstream import Gate, ScriptedUpstream, answer, stream
from tests.workers import Workers

ADMIN_KEY = "the operator's own"
ONE, THREE, FREE = "test/one", "test/three", "test/free"


@pytest.fixture(scope="module")
def up() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as server:
        yield server


def catalog_of(up: ScriptedUpstream, folder: Path, policy: str = "") -> Path:
    models = [
        Offered(ONE, limits="concurrency = 1"),
        Offered(THREE, limits="concurrency = 3"),
        Offered(FREE),
    ]
    return write_catalog(folder / "catalog", {"scripted": up.base_url}, models, policy=policy)


@pytest.fixture(scope="module")
def router(up: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    folder = tmp_path_factory.mktemp("workers")
    catalog = catalog_of(up, folder, "[limits]\nqueue_s = 0\n")
    with Workers(folder, catalog, 4, ROUTER_ADMIN_KEY=ADMIN_KEY) as service:
        yield service


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(32) as executor:
        yield executor


def at_once(
    pool: ThreadPoolExecutor, router: Workers, count: int, key: str, **fields: object
) -> list[Answer]:
    """Send so many requests over as many connections, 32 at a time."""

    def ask(_: int) -> Answer:
        return router.chat(headers=bearer(key), **fields)

    return list(pool.map(ask, range(count)))


def test_a_keys_requests_a_minute_are_exact_over_all_workers(
    router: Workers, pool: ThreadPoolExecutor
) -> None:
    key, _ = make_key(router, "--rpm", "20")
    answers = at_once(pool, router, 80, key, model=FREE)

    assert Counter(got.status for got in answers) == {200: 20, 429: 60}
    left = sorted(int(got.headers["x-ratelimit-remaining-requests"]) for got in answers if got.status == 200)
    assert left == list(range(20))
    assert all(1 <= int(got.headers["retry-after"]) <= 60 for got in answers if got.status == 429)
    wait_for(lambda: router.served_by() == set(router.pids()) or None, "a decision of each worker")


def test_of_many_at_once_exactly_as_many_run_as_there_are_places(
    router: Workers, up: ScriptedUpstream
) -> None:
    gate = Gate()
    up.on(THREE, stream(gate=gate, gate_after=2))
    clients = [Client(router, question(model=THREE, stream=True)) for _ in range(24)]
    statuses = [client.head().status for client in clients]
    gate.open()
    endings = [client.read_rest() for client, code in zip(clients, statuses, strict=True) if code == 200]

    assert Counter(statuses) == {200: 3, 429: 21}
    assert all(end.endswith(b"data: [DONE]\n\n") for end in endings)
    for client in clients:
        client.leave()


def test_a_place_that_its_client_left_is_free_for_the_other_workers(
    router: Workers, up: ScriptedUpstream
) -> None:
    up.on(ONE, stream(hang_after=2))
    for _ in range(8):
        client = Client(router, question(model=ONE, stream=True))
        assert client.head().status == 200
        assert router.chat(model=ONE).status == 429
        client.leave()
        up.wait_idle()
        wait_for(lambda: True if router.inflight() == 0 else None, "the end of the request")


def test_credit_for_so_many_requests_serves_exactly_so_many(
    router: Workers, up: ScriptedUpstream, pool: ThreadPoolExecutor
) -> None:
    """K6: what is held is what is charged here, so nobody is refused who could be served later."""
    served, cost_nusd = 25, prices_exactly(router, up)
    key, account = make_key(router, "--credit", f"{served * cost_nusd / 1e9:.9f}")
    answers = at_once(pool, router, 5 * served, key, model=FREE, max_tokens=10)

    assert Counter(got.status for got in answers) == {200: served, 402: 4 * served}
    assert all("locked" not in got.body.decode() for got in answers)
    rows = [row for row in wait_all_ended(router) if row.kind == "settle" and row.account == account]
    assert sorted(row.balance_after_nusd for row in rows) == [i * cost_nusd for i in range(served)]


def prices_exactly(router: Workers, up: ScriptedUpstream) -> int:
    """Have the upstream count what is held; returns nano-USD a request."""
    told = router.request("POST", "/v1/route", question(model=FREE, max_tokens=10))
    most_nusd = round(float(told.json["quote"]["max_usd"]) * 1e9)
    prompt = (most_nusd - 10 * 2_000) // 1_000
    up.on(FREE, answer(usage={"prompt_tokens": prompt, "completion_tokens": 10, "total_tokens": prompt + 10}))
    assert prompt * 1_000 + 10 * 2_000 == most_nusd
    return most_nusd


def metrics(router: Workers) -> str:
    return router.request("GET", "/metrics").body.decode()


def served_of(text: str, model: str = FREE) -> float:
    """Return the requests that ended well, as the metrics tell."""
    lines = [line for line in text.splitlines() if f'model="{model}"' in line and 'outcome="ok"' in line]
    return sum(float(line.split()[-1]) for line in lines if line.startswith("router_requests_total"))


def test_metrics_of_any_worker_are_those_of_all(router: Workers, pool: ThreadPoolExecutor) -> None:
    before = served_of(metrics(router))
    assert all(got.status == 200 for got in at_once(pool, router, 24, "unused", model=FREE))
    texts = [metrics(router) for _ in range(12)]
    assert {served_of(text) - before for text in texts} == {24.0}
    assert all("router_workers 4.0\n" in text for text in texts)
    assert router.request("GET", "/health/ready").json == {"status": "ok", "workers": 4}


def revisions(router: Workers) -> set[str]:
    return {
        router.request("GET", "/admin/catalog", None, bearer(ADMIN_KEY)).json["revision"] for _ in range(16)
    }


def test_a_reload_reaches_every_worker(router: Workers) -> None:
    file = router.folder / "catalog" / "models" / f"{FREE}.toml"
    before = revisions(router)
    file.write_text(file.read_text().replace("8000", "7900"))
    reloaded = router.request("POST", "/admin/catalog/reload", None, bearer(ADMIN_KEY))
    assert (reloaded.status, len(before)) == (200, 1)
    assert revisions(router) == {reloaded.json["revision"]} != before

    file.write_text(file.read_text().replace("7900", "7800"))
    router.serving.hang_up()
    wait_for(
        lambda: True if revisions(router).isdisjoint(before | {reloaded.json["revision"]}) else None, "it"
    )


def test_a_killed_worker_comes_back_and_its_places_at_once(router: Workers, up: ScriptedUpstream) -> None:
    up.on(THREE, stream(hang_after=2))
    clients = [Client(router, question(model=THREE, stream=True)) for _ in range(3)]
    assert [client.head().status for client in clients] == [200] * 3
    assert router.chat(model=THREE).status == 429
    pids = router.pids()
    count = served_of(metrics(router))

    for pid in pids:
        router.kill(pid)

    assert set(pids).isdisjoint(router.pids())
    up.wait_idle()
    up.on(THREE, answer())
    assert [router.chat(model=THREE).status for _ in range(3)] == [200] * 3
    assert served_of(metrics(router)) == count  # what the dead had counted is not forgotten
    for client in clients:
        client.leave()


def test_those_who_wait_at_different_workers_are_served_in_turn(
    up: ScriptedUpstream, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    gate = Gate()
    up.on(ONE, stream(gate=gate, gate_after=2), answer())
    with Workers(tmp_path, catalog_of(up, tmp_path, "[limits]\nqueue_s = 20\n"), 2) as router:
        busy = Client(router, question(model=ONE, stream=True))
        assert busy.head().status == 200
        before = len(up.requests)
        waiting = []
        for number in range(6):
            waiting.append(pool.submit(router.chat, f"number {number}", model=ONE))
            waits(router, number + 1)
        leaves = Client(router, question("who leaves", model=ONE))
        waits(router, 7)
        leaves.leave()
        waits(router, 6)
        gate.open()
        busy.read_rest()

        assert [each.result().status for each in waiting] == [200] * 6
        asked = [request.json["messages"][0]["content"] for request in up.requests[before:]]
        assert asked == [f"number {number}" for number in range(6)]


def waits(router: Workers, count: int) -> None:
    """Look until so many requests wait for a place."""
    says = f"router_waiting {float(count)}\n"
    wait_for(lambda: True if says in metrics(router) else None, says)


def test_with_redis_each_worker_is_a_replica(
    up: ScriptedUpstream, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    needs_redis()
    up.on(FREE, answer())
    with (
        RedisServer() as redis,
        Workers(tmp_path, catalog_of(up, tmp_path), 2, ROUTER_SHARED_URL=redis.url) as router,
    ):
        told = {"status": "ok", "workers": 2, "limits": "shared", "replicas": 2}
        for _ in range(8):  # of either worker
            wait_for(lambda: router.request("GET", "/health/ready").json == told or None, "both")
        key, _ = make_key(router, "--rpm", "10")
        assert Counter(got.status for got in at_once(pool, router, 40, key, model=FREE)) == {200: 10, 429: 30}
        redis.kill()
        wait_for(lambda: router.request("GET", "/health/ready").json["limits"] == "local" or None, "the loss")
        assert {got.status for got in at_once(pool, router, 20, "unused", model=FREE)} == {200}
        router.serving.terminate()
        assert router.serving.wait() == 0


def test_at_a_stop_the_streams_of_all_workers_end_whole(up: ScriptedUpstream, tmp_path: Path) -> None:
    gate = Gate()
    up.on(FREE, stream("one two three", gate=gate, gate_after=2))
    with Workers(tmp_path, catalog_of(up, tmp_path), 2, ROUTER_GRACE_S="600") as router:
        clients = [Client(router, question(model=FREE, stream=True)) for _ in range(16)]
        for client in clients:
            assert client.head().status == 200
            client.read_until(b"one")
        router.serving.terminate_all()  # to the workers too, as a container or a terminal does
        router.said("stopping 2 workers")
        wait_for(lambda: refuses(router), "the end of the listening")
        gate.open()
        assert all(client.read_rest().endswith(b"data: [DONE]\n\n") for client in clients)
        assert router.serving.wait() == 0
        assert len(router.served_by()) == 2
    rows = run_router(tmp_path, "ledger", "export", "--json", "--data", "data").stdout.splitlines()
    assert Counter(json.loads(row)["kind"] for row in rows) == {"hold": 16, "settle": 16}


def refuses(router: Workers) -> bool | None:
    try:
        router.request("GET", "/health/live")
    except ConnectionRefusedError:
        return True
    except OSError:  # it was in the line of a worker that has just stopped to listen
        return None
    return None


def test_a_killed_supervisor_ends_its_workers(up: ScriptedUpstream, tmp_path: Path) -> None:
    with Workers(tmp_path, catalog_of(up, tmp_path), 2) as router:
        up.on(FREE, answer())
        assert router.chat(model=FREE).status == 200
        router.serving.send(signal.SIGKILL)
        assert router.serving.wait() == -signal.SIGKILL  # and all that held its output have ended


def test_what_keeps_the_service_from_starting_is_said_and_ends_it(
    up: ScriptedUpstream, tmp_path: Path
) -> None:
    (tmp_path / "data").write_text("a file stands where the folder should be")
    with serve(tmp_path, "--catalog", str(catalog_of(up, tmp_path)), "--workers", "2") as serving:
        assert serving.wait() == 1
    assert "cannot use the database" in serving.text
    assert "the first worker did not start" in serving.text


def test_the_address_of_another_router_is_not_shared(
    router: Workers, tmp_path: Path, up: ScriptedUpstream
) -> None:
    got = run_router(
        tmp_path,
        "serve",
        "--port",
        str(router.port),
        "--catalog",
        str(catalog_of(up, tmp_path)),
        "--workers",
        "2",
    )
    assert (got.returncode, "cannot listen on 127.0.0.1" in got.stderr) == (1, True)
