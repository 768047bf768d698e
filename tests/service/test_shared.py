"""Two routers on one Redis: limits exact over both, each with its part while Redis is away."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from tests.redis_server import RedisServer, needs_redis
from tests.router import Answer, Offered, RouterServer, write_catalog
from tests.service.walking import Client, bearer, make_key, question, wait_all_ended, wait_for
from tests.upstream import Gate, ScriptedUpstream, answer, stream

FREE, THREE, RPM, TPM = "test/free", "test/three", "test/rpm", "test/tpm"
RECOVERY_S = 4.0
Pair = tuple[RouterServer, RouterServer]


@pytest.fixture(scope="module")
def up() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as server:
        yield server


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    needs_redis()
    with RedisServer() as server:
        yield server


@pytest.fixture
def catalog(up: ScriptedUpstream, tmp_path: Path) -> Path:
    models = [
        Offered(FREE),
        Offered(THREE, limits="concurrency = 3"),
        Offered(RPM, limits="rpm = 20"),
        Offered(TPM, limits="tpm = 10_000"),
    ]
    up.on(THREE, answer()).on(FREE, answer())
    return write_catalog(tmp_path / "catalog", {"scripted": up.base_url}, models)


@pytest.fixture
def both(redis: RedisServer, catalog: Path, tmp_path: Path) -> Iterator[Pair]:
    data = tmp_path / "data"
    with (
        RouterServer(catalog, data, shared_url=redis.url) as one,
        RouterServer(catalog, data, shared_url=redis.url) as two,
    ):
        wait_for(lambda: ready(one)["replicas"] == 2 or None, "the first to see the second")
        yield one, two


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(32) as executor:
        yield executor


def ready(router: RouterServer) -> dict[str, Any]:
    got = router.request("GET", "/health/ready")
    assert got.status == 200
    return dict(got.json)


def in_turn(
    pool: ThreadPoolExecutor, routers: Pair, count: int, key: str = "", **fields: Any
) -> list[Answer]:
    """Send so many requests at once, to the two in turn."""
    headers = bearer(key) if key else {}
    asked = [
        pool.submit(each.chat, headers=headers, **fields)
        for each in itertools.islice(itertools.cycle(routers), count)
    ]
    return [each.result() for each in asked]


def codes(answers: list[Answer]) -> Counter[int]:
    return Counter(got.status for got in answers)


def test_requests_a_minute_are_exact_over_both(both: Pair, pool: ThreadPoolExecutor) -> None:
    answers = in_turn(pool, both, 80, model=RPM)
    assert codes(answers) == {200: 20, 429: 60}
    waits = [int(got.headers["retry-after"]) for got in answers if got.status == 429]
    assert all(50 <= seconds <= 60 for seconds in waits)
    assert all("rpm limit" in got.error["message"] for got in answers if got.status == 429)


def test_a_keys_own_limit_is_one_over_both(both: Pair, pool: ThreadPoolExecutor) -> None:
    key, _ = make_key(both[0], "--rpm", "10", "--tpm", "1000000")
    answers = in_turn(pool, both, 40, key, model=FREE, max_tokens=10)
    assert codes(answers) == {200: 10, 429: 30}
    left = sorted(int(got.headers["x-ratelimit-remaining-requests"]) for got in answers if got.status == 200)
    assert left == list(range(10))
    refused = next(got for got in answers if got.status == 429)
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert 0 < int(refused.headers["x-ratelimit-remaining-tokens"]) < 1_000_000


def test_of_many_at_once_exactly_as_many_run_as_there_are_places(both: Pair, up: ScriptedUpstream) -> None:
    for _ in range(3):
        gate = Gate()
        up.on(THREE, stream(gate=gate, gate_after=2))
        clients = [Client(each, question(model=THREE, stream=True)) for each in both * 6]
        statuses = [client.head().status for client in clients]
        gate.open()
        for client, code in zip(clients, statuses, strict=True):
            assert code == 429 or client.read_rest().endswith(b"data: [DONE]\n\n")
            client.leave()
        assert Counter(statuses) == {200: 3, 429: 9}
        wait_for(lambda: inflight(both) == 0 or None, "the end of all")


def inflight(both: Pair) -> int:
    return sum(each.inflight() for each in both)


def test_tokens_a_minute_count_what_was_used_at_the_other(
    redis: RedisServer, both: Pair, up: ScriptedUpstream
) -> None:
    used = {"prompt_tokens": 1_000, "completion_tokens": 1_500, "total_tokens": 2_500}
    up.on(TPM, answer(usage=used))

    def counted() -> int:
        with redis.client() as client:
            return int(client.hget(f"llmrouter:t:offer:scripted:{TPM}", "sum") or 0)

    for number, router in enumerate(both, 1):
        assert router.chat(model=TPM, max_tokens=6_000).status == 200
        wait_for(lambda number=number: counted() == number * 2_500 or None, "what was used")
    # 5,000 of 10,000 are used: there is room for about 3,010, and none for 6,010.
    assert [router.chat(model=TPM, max_tokens=6_000).status for router in both] == [429, 429]
    assert both[0].chat(model=TPM, max_tokens=3_000).status == 200


def test_places_of_a_client_that_leaves_come_back_to_the_other(both: Pair, up: ScriptedUpstream) -> None:
    up.on(THREE, stream(hang_after=2))
    clients = [Client(both[0], question(model=THREE, stream=True)) for _ in range(3)]
    assert [client.head().status for client in clients] == [200] * 3
    assert both[1].chat(model=THREE).status == 429
    for client in clients:
        client.leave()
    up.wait_idle()
    up.on(THREE, answer())
    wait_for(lambda: both[1].chat(model=THREE).status == 200 or None, "a place")


def test_places_of_a_dead_replica_come_back_with_its_lease(redis: RedisServer, both: Pair) -> None:
    with redis.client() as client:
        now = float(client.hget("llmrouter:clock", "steady") or 0)
        client.zadd("llmrouter:replicas", {"dead.1": now + 1_500_000})
        client.hset(f"llmrouter:a:offer:scripted:{THREE}", "dead.1", 3)
        client.sadd("llmrouter:busy", f"offer:scripted:{THREE}")
    assert both[0].chat(model=THREE).status == 429
    wait_for(lambda: both[0].chat(model=THREE).status == 200 or None, "the end of its lease")
    with redis.client() as client:
        assert client.hget(f"llmrouter:a:offer:scripted:{THREE}", "dead.1") is None
        # What has nothing running or counting any more is forgotten at a beat.
        wait_for(lambda: client.scard("llmrouter:busy") == 0 or None, "it")


def test_without_redis_each_has_its_part_and_says_so(
    redis: RedisServer, both: Pair, pool: ThreadPoolExecutor
) -> None:
    assert ready(both[0]) == {"status": "ok", "limits": "shared", "replicas": 2}
    redis.kill()

    answers = in_turn(pool, both, 60, model=RPM)

    assert codes(answers) == {200: 20, 429: 40}
    for each in both:
        assert ready(each) == {"status": "ok", "limits": "local", "replicas": 2}
        metrics = each.request("GET", "/metrics").body.decode()
        assert "router_limits_shared 0.0\n" in metrics
        assert "router_replicas 2.0\n" in metrics

    redis.start()  # it knows nothing, and is told what the minute has admitted
    back(both)
    assert codes(in_turn(pool, both, 6, model=RPM)) == {429: 6}


def back(both: Pair) -> None:
    for each in both:
        wait_for(lambda each=each: ready(each)["limits"] == "shared" or None, "Redis", RECOVERY_S)
    for each in both:
        wait_for(lambda each=each: ready(each)["replicas"] == 2 or None, "the other", RECOVERY_S)


def test_redis_killed_and_started_under_load_fails_no_request(
    redis: RedisServer, both: Pair, pool: ThreadPoolExecutor, up: ScriptedUpstream
) -> None:
    gate = Gate()
    up.on(THREE, stream(gate=gate, gate_after=2))
    running = Client(both[0], question(model=THREE, stream=True))
    assert running.head().status == 200
    for _ in range(3):
        asked = [pool.submit(each.chat, model=FREE, models=[RPM]) for each in both * 30]
        redis.kill()
        more = [pool.submit(each.chat, model=FREE) for each in both * 15]
        redis.start()
        assert codes([each.result() for each in (*asked, *more)]) == {200: 90}
        back(both)
        # What runs since before the crash is still counted: two places are left over both.
        gates = Gate()
        up.on(THREE, stream(gate=gates, gate_after=2))
        clients = [Client(each, question(model=THREE, stream=True)) for each in both * 2]
        assert Counter(client.head().status for client in clients) == {200: 2, 429: 2}
        gates.open()
        for client in clients:
            client.read_rest()
        wait_for(lambda: idle(both, 1) or None, "the end of the two")
    gate.open()
    running.read_rest()
    wait_all_ended(both[0])


def idle(both: Pair, left: int) -> bool:
    return sum(each.inflight() for each in both) == left


def test_a_redis_that_hangs_holds_nobody_up(redis: RedisServer, both: Pair, pool: ThreadPoolExecutor) -> None:
    redis.freeze()
    answers = in_turn(pool, both, 20, model=THREE)
    assert set(codes(answers)) <= {200, 429}
    assert ready(both[0])["limits"] == "local"
    redis.thaw()
    back(both)


@pytest.mark.parametrize("step_us", [3_600_000_000, -3_600_000_000])
def test_a_step_of_rediss_clock_changes_nothing(
    redis: RedisServer, both: Pair, pool: ThreadPoolExecutor, step_us: int
) -> None:
    assert codes(in_turn(pool, both, 30, model=RPM)) == {200: 20, 429: 10}
    with redis.client() as client:
        client.hincrby("llmrouter:clock", "wall", -step_us)  # as if TIME went the other way
    assert codes(in_turn(pool, both, 10, model=RPM)) == {429: 10}
    assert [both[i % 2].chat(model=THREE).status for i in range(4)] == [200] * 4
    assert ready(both[0])["limits"] == "shared"


def test_a_conversation_goes_on_at_the_other_router(both: Pair) -> None:
    session = {"x-llm-router-session": "about code"}

    def category(router: RouterServer, **headers: str) -> str:
        body = question("What is the capital of France?")
        return router.request("POST", "/v1/route", body, headers).headers["x-llm-router-category"]

    assert both[0].chat("Write a binary search in Rust, with tests", headers=session).status == 200
    wait_for(lambda: category(both[1], **session) == "coding" or None, "the conversation")
    assert category(both[1]) == "simple"


def names_in(client: Redis) -> list[bytes]:
    """Return every key of a small Redis."""
    return [bytes(name) for name in client.scan_iter()]


def test_nothing_in_redis_names_a_session_or_a_key(redis: RedisServer, both: Pair) -> None:
    key, key_id = make_key(both[0], "--rpm", "10")
    headers = {**bearer(key), "x-llm-router-session": "a private name"}
    assert both[0].chat("a private question", model=FREE, headers=headers).status == 200
    with redis.client() as client:
        wait_for(
            lambda: any(name.startswith(b"llmrouter:s:") for name in names_in(client)) or None, "the session"
        )
        names = names_in(client)
        held = b"".join(client.dump(name) or b"" for name in names) + b"".join(names)
    assert all(name.startswith(b"llmrouter:") for name in names)
    assert f"llmrouter:w:key:{key_id}".encode() in names
    for secret in (key, "a private name", "a private question"):
        assert secret.encode() not in held


def test_a_router_starts_without_redis(catalog: Path, tmp_path: Path) -> None:
    with RouterServer(catalog, tmp_path / "data", shared_url="unix:///nowhere/redis.sock") as router:
        assert router.chat(model=FREE).status == 200
        assert ready(router) == {"status": "ok", "limits": "local", "replicas": 1}


def test_those_who_wait_are_served_when_the_other_router_has_room(
    redis: RedisServer, up: ScriptedUpstream, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    one_place = Offered("test/one", limits="concurrency = 1")
    catalog = write_catalog(
        tmp_path / "queue", {"scripted": up.base_url}, [one_place], policy="[limits]\nqueue_s = 20\n"
    )
    gate = Gate()
    up.on("test/one", stream(gate=gate, gate_after=2), answer())
    with (
        RouterServer(catalog, tmp_path / "data", shared_url=redis.url) as one,
        RouterServer(catalog, tmp_path / "data", shared_url=redis.url) as two,
    ):
        busy = Client(one, question(model="test/one", stream=True))
        assert busy.head().status == 200
        waits = [pool.submit(two.chat, json.dumps(i), model="test/one") for i in range(3)]
        wait_for(lambda: "router_waiting 3.0\n" in two.request("GET", "/metrics").body.decode() or None, "3")
        gate.open()
        busy.read_rest()
        assert [each.result().status for each in waits] == [200] * 3
