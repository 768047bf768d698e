"""Two routers behind Caddy with the configuration of deploy/."""

from __future__ import annotations

import asyncio
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.caddy import Caddy
from tests.rawserver import Peer, RawServer
from tests.router import Offered, RouterServer, write_catalog
from tests.service.walking import Client, question
from tests.upstream import Gate, ScriptedUpstream, answer, stream

MODEL = "test/model"


@pytest.fixture(scope="module")
def up() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as server:
        yield server


@pytest.fixture(scope="module")
def catalog(up: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("catalog")
    return write_catalog(folder, {"scripted": up.base_url}, [Offered(MODEL)])


@pytest.fixture
def two(catalog: Path, tmp_path: Path) -> Iterator[list[RouterServer]]:
    with RouterServer(catalog, tmp_path / "1") as one, RouterServer(catalog, tmp_path / "2") as other:
        yield [one, other]


@pytest.fixture
def caddy(two: list[RouterServer], tmp_path: Path) -> Iterator[Caddy]:
    with Caddy(tmp_path, [router.port for router in two]) as running:
        yield running


def test_caddy_accepts_its_configuration(tmp_path: Path) -> None:
    caddy = Caddy(tmp_path, [1, 2])
    done = subprocess.run(
        caddy.command("validate"), env=caddy.environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert '"level":"warn"' not in done.stderr


def test_the_first_words_arrive_before_the_answer_ends(caddy: Caddy, up: ScriptedUpstream) -> None:
    gate = Gate()
    up.on(MODEL, stream("first second", gate=gate, gate_after=2))
    client = Client(caddy, question(model=MODEL, stream=True))
    assert client.head().status == 200
    assert b"second" not in client.read_until(b"first")
    gate.open()
    assert b"data: [DONE]\n\n" in client.read_rest()


def test_both_replicas_serve_and_errors_pass_untouched(
    caddy: Caddy, two: list[RouterServer], up: ScriptedUpstream
) -> None:
    up.on(MODEL, answer())
    assert Counter(caddy.chat(model=MODEL).status for _ in range(12)) == {200: 12}
    assert min(len(router.logged()) for router in two) > 0
    found = caddy.chat(model="no/such")
    assert (found.status, found.error["name"]) == (404, "model_not_found")


def test_requests_go_on_when_a_replica_is_away(catalog: Path, up: ScriptedUpstream, tmp_path: Path) -> None:
    up.on(MODEL, answer())
    with RouterServer(catalog, tmp_path / "gone") as gone:
        closed = gone.port
    with RouterServer(catalog, tmp_path / "1") as router, Caddy(tmp_path, [closed, router.port]) as caddy:
        found = Counter(caddy.chat(model=MODEL).status for _ in range(8))
    # Caddy before 2.7 cannot try a body again, and loses what comes before its first look at the replicas.
    assert found[200] >= 7
    assert set(found) <= {200, 503}


def test_a_request_that_was_sent_is_not_sent_again(tmp_path: Path) -> None:
    received = []

    async def take_and_close(peer: Peer) -> None:
        asked = await peer.request()
        if asked is None:
            return
        head, body = asked
        if head.startswith(b"GET /health/ready"):
            await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        else:
            received.append(body)

    async def ask() -> int:
        async with RawServer(take_and_close) as one, RawServer(take_and_close) as other:
            with Caddy(tmp_path, [one.port, other.port]) as caddy:
                return (await asyncio.to_thread(caddy.chat)).status

    assert asyncio.run(ask()) == 503
    assert len(received) == 1


def test_what_caddy_itself_says_has_the_form_of_an_error(catalog: Path, tmp_path: Path) -> None:
    with RouterServer(catalog, tmp_path / "gone") as gone:
        closed = gone.port
    with Caddy(tmp_path, [closed, closed]) as caddy:
        away = caddy.chat(model=MODEL)
        assert (away.status, away.error["name"]) == (503, "unavailable")
        assert away.headers["retry-after"] == "1"
        assert away.headers["content-type"] == "application/json"


@pytest.mark.parametrize("path", ["/metrics", "/admin/catalog"])
def test_what_is_the_operators_is_not_published(caddy: Caddy, path: str) -> None:
    assert caddy.request("GET", path).status == 404
