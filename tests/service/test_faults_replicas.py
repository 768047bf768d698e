"""Small versions of `python -m benchmarks.faults replicas` and `storage`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from benchmarks.faults import replicas, storage
from benchmarks.faults.book import Verdict
from tests.postgres import Cluster, binaries
from tests.redis_server import needs_redis

SERVED = 40


@pytest.fixture(scope="module")
def own(cluster: Cluster) -> Iterator[Cluster]:
    """Run a server of its own, which may be stopped."""
    folder = binaries()
    assert folder
    with Cluster(folder, fsync="off") as running:  # no power is lost here
        yield running


def assert_clean(verdict: Verdict) -> None:
    assert verdict.clean, (dict(verdict.faults), verdict.examples)


def test_two_replicas_on_one_database_serve_what_a_credit_pays_for(own: Cluster) -> None:
    environ = {"ROUTER_DATABASE_URL": own.make_database()}
    verdict, about = asyncio.run(replicas.one(True, SERVED, 16, environ))
    assert_clean(verdict)
    assert about["statuses"] == {200: SERVED, 402: 4 * SERVED}
    assert (about["upstream_calls"], about["lowest_balance_nusd"]) == (SERVED, 0)


def test_four_workers_on_one_file_serve_what_a_credit_pays_for() -> None:
    verdict, about = asyncio.run(replicas.one(False, SERVED, 16, {}))
    assert_clean(verdict)
    assert about["statuses"] == {200: SERVED, 402: 4 * SERVED}
    assert (about["upstream_calls"], about["lowest_balance_nusd"]) == (SERVED, 0)


def test_a_database_that_is_stopped_and_paused_under_load_makes_nothing_free(own: Cluster) -> None:
    verdict, about = asyncio.run(storage.database(own, stops=2, pause_s=0.5, at_once=16))
    assert_clean(verdict)
    assert about["refusals"] >= 3 * storage.REFUSED


def test_routers_without_their_redis_keep_to_their_part_and_charge_as_ever(own: Cluster) -> None:
    needs_redis()
    verdict, about = asyncio.run(storage.shared_limits(own, kills=1, at_once=32))
    assert_clean(verdict)
    assert about["most_at_once_shared"] == [storage.PLACES]
    assert about["most_at_once_local"] == [storage.PLACES // 2]
