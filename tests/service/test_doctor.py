"""`router doctor` as a command: in an empty folder, beside a running router, with real servers."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from router import __version__
from router.doctor import service, storage
from router.settings import Settings
from tests.postgres import Cluster, binaries
from tests.redis_server import RedisServer
from tests.router import Offered, RouterServer, write_catalog
from tests.serving import run_router
from tests.upstream import ScriptedUpstream


def looked(folder: Path, *arguments: str, **environ: str) -> tuple[int, list[dict[str, Any]]]:
    done = run_router(folder, "doctor", "--json", *arguments, **environ)
    assert not done.stderr
    return done.returncode, json.loads(done.stdout)["checks"]


def check(found: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(finding for finding in found if finding["check"] == name)


@pytest.fixture(scope="module")
def up() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as server:
        yield server


@pytest.fixture
def router(up: ScriptedUpstream, tmp_path: Path) -> Iterator[RouterServer]:
    catalog = write_catalog(tmp_path / "catalog", {"scripted": up.base_url}, [Offered("test/a")])
    with RouterServer(catalog, tmp_path / "data") as server:
        yield server


def test_an_empty_folder_is_fine_and_stays_empty(tmp_path: Path) -> None:
    status, found = looked(tmp_path, ROUTER_PORT="0")
    assert status == 0, [finding for finding in found if finding["state"] == "failure"]
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    assert f"router {__version__}" in check(found, "version")["message"]


def test_each_line_that_is_not_well_ends_with_the_fix_and_a_failure_ends_with_1(tmp_path: Path) -> None:
    (tmp_path / "router.toml").write_text('port = "many"\n')
    done = run_router(tmp_path, "doctor")
    assert done.returncode == 1
    lines = done.stdout.strip().splitlines()
    assert any("router.toml:1: port" in line for line in lines)
    for line in lines[:-2]:
        assert line.startswith(("ok ", "note ")) or " -> " in line
    assert "1 failures" in lines[-1]


def test_a_running_router_on_the_address_is_well(router: RouterServer, tmp_path: Path) -> None:
    status, found = looked(
        tmp_path,
        "--catalog",
        str(tmp_path / "catalog"),
        "--data",
        str(router.data),
        ROUTER_PORT=str(router.port),
    )
    assert status == 0
    assert "answers on" in check(found, "address")["message"]
    assert check(found, "readiness")["state"] == "ok"
    assert "WAL" in check(found, "database")["message"]


def test_a_stranger_on_the_address_is_a_failure(up: ScriptedUpstream, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        stranger.settimeout(0)
        port = stranger.getsockname()[1]
        status, found = looked(tmp_path, ROUTER_PORT=str(port))
    assert status == 1
    assert "--port" in check(found, "address")["fix"]


def test_providers_are_reached_only_when_asked_to(
    router: RouterServer, tmp_path: Path, up: ScriptedUpstream
) -> None:
    arguments = ("--catalog", str(tmp_path / "catalog"))
    _, found = looked(tmp_path, *arguments, ROUTER_PORT="0")
    assert not [finding for finding in found if finding["check"] == "reachable"]
    _, found = looked(tmp_path, *arguments, "--online", ROUTER_PORT="0")
    assert check(found, "reachable")["state"] == "ok"
    assert not up.requests
    text = (tmp_path / "catalog" / "providers" / "scripted.toml").read_text()
    with socket.create_server(("127.0.0.1", 0)) as closed:
        away = closed.getsockname()[1]
    (tmp_path / "catalog" / "providers" / "scripted.toml").write_text(
        text.replace(str(up.base_url.split(":")[2].split("/")[0]), str(away))
    )
    status, found = looked(tmp_path, *arguments, "--online", ROUTER_PORT="0")
    assert status == 0
    assert check(found, "reachable")["state"] == "warning"


def test_a_redis_is_asked_and_one_that_is_away_is_named() -> None:
    with RedisServer() as redis:
        (found,) = storage.shared(Settings(shared_url=redis.url))
        assert found.state == "ok"
        redis.kill()
        (found,) = storage.shared(Settings(shared_url=redis.url))
    assert found.state == "warning"
    assert "ROUTER_SHARED_URL" in found.fix


def test_a_postgresql_is_asked_and_one_that_is_away_is_named() -> None:
    folder = binaries()
    if folder is None:
        pytest.skip("no PostgreSQL here (Debian: apt-get install postgresql)")
    with Cluster(folder) as cluster:
        url = cluster.url()
        found = storage.database(Settings(database_url=url))
        assert found.state == "ok"
        assert "schema 0, the next start brings it to" in found.message
    found = storage.database(Settings(database_url=url))
    assert found.state == "failure"
    assert "ROUTER_DATABASE_URL" in found.fix


def test_an_address_of_another_machine_is_named_with_its_own_fix() -> None:
    (found,) = service.address(Settings(host="192.0.2.1", access="paid"))
    assert found.state == "failure"
    assert found.fix.startswith("set --host or ROUTER_HOST")
