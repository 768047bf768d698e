"""Two routers behind nginx with the configuration of deploy/, and the image's own health check."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest

from benchmarks.processes import free_port
from tests.nginx import Nginx
from tests.rawserver import Peer, RawServer
from tests.router import Offered, RouterServer, write_catalog
from tests.service.walking import Client, question
from tests.upstream import Gate, ScriptedUpstream, answer, stream

MODEL = "test/model"
ADMIN_KEY = "an-admin-key-of-the-tests"
CONTAINERFILE = Path(__file__).parents[2] / "deploy" / "Containerfile"


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
def nginx(two: list[RouterServer], tmp_path: Path) -> Iterator[Nginx]:
    with Nginx(tmp_path, [router.port for router in two]) as running:
        yield running


def served(two: list[RouterServer]) -> list[int]:
    return [len(router.logged()) for router in two]


def test_nginx_accepts_its_configuration_without_a_warning(tmp_path: Path) -> None:
    done = Nginx(tmp_path, [1, 2]).check()
    assert done.returncode == 0, done.stderr
    assert "warn" not in done.stderr


def test_the_first_words_arrive_before_the_answer_ends(nginx: Nginx, up: ScriptedUpstream) -> None:
    gate = Gate()
    up.on(MODEL, stream("first second", gate=gate, gate_after=2))
    client = Client(nginx, question(MODEL, stream=True))
    head = client.head()
    assert head.status == 200
    assert b"second" not in client.read_until(b"first")
    gate.open()
    assert client.read_rest().endswith(b"data: [DONE]\n\n")


def test_both_replicas_serve(nginx: Nginx, two: list[RouterServer], up: ScriptedUpstream) -> None:
    up.on(MODEL, answer())
    found = Counter(nginx.chat(model=MODEL).status for _ in range(8))
    assert found == {200: 8}
    assert min(served(two)) > 0


def test_requests_go_on_when_a_replica_is_away(catalog: Path, up: ScriptedUpstream, tmp_path: Path) -> None:
    up.on(MODEL, answer())
    with RouterServer(catalog, tmp_path / "gone") as gone:
        closed = gone.port
    with RouterServer(catalog, tmp_path / "1") as router, Nginx(tmp_path, [closed, router.port]) as nginx:
        assert Counter(nginx.chat(model=MODEL).status for _ in range(6)) == {200: 6}


def test_the_operator_signs_in_through_it(catalog: Path, tmp_path: Path) -> None:
    with (
        RouterServer(catalog, tmp_path / "keyed", admin_key=ADMIN_KEY) as router,
        Nginx(tmp_path, [router.port, router.port]) as nginx,
    ):
        form = urlencode({"key": ADMIN_KEY}).encode()
        headers = {"content-type": "application/x-www-form-urlencoded"}
        signed_in = nginx.request(
            "POST", "/ui/sign-in", form, headers | {"origin": f"http://127.0.0.1:{nginx.port}"}
        )
        assert (signed_in.status, signed_in.headers["location"]) == (303, "/ui")
        assert nginx.request("POST", "/ui/sign-in", form, headers | {"origin": router.origin}).status == 403


def test_a_request_that_was_sent_is_not_sent_again(tmp_path: Path) -> None:
    received = []

    async def take_and_close(peer: Peer) -> None:
        received.append(await peer.request())

    async def ask() -> int:
        async with RawServer(take_and_close) as one, RawServer(take_and_close) as other:
            with Nginx(tmp_path, [one.port, other.port]) as nginx:
                return (await asyncio.to_thread(nginx.chat)).status

    assert asyncio.run(ask()) == 503
    assert len(received) == 1


def test_an_error_of_the_router_passes_untouched(nginx: Nginx) -> None:
    found = nginx.chat(model="no/such")
    assert found.status == 404
    assert "no/such" in found.error["message"]


def test_what_nginx_itself_says_has_the_form_of_an_error(catalog: Path, tmp_path: Path) -> None:
    with RouterServer(catalog, tmp_path / "gone") as gone:
        closed = gone.port
    with Nginx(tmp_path, [closed, closed]) as nginx:
        away = nginx.chat(model=MODEL)
        assert (away.status, away.error["name"]) == (503, "unavailable")
        assert away.headers["retry-after"] == "1"
        too_large = nginx.request("POST", "/v1/chat/completions", b" " * (34 << 20))
        assert (too_large.status, too_large.error["name"]) == (413, "request_too_large")


@pytest.mark.parametrize("path", ["/metrics", "/admin/catalog"])
def test_what_is_the_operators_is_not_published(nginx: Nginx, path: str) -> None:
    assert nginx.request("GET", path).status == 404


def test_the_health_check_of_the_image_asks_for_readiness(two: list[RouterServer]) -> None:
    (form,) = re.findall(r"^\s+CMD (\[.+\])$", CONTAINERFILE.read_text(), re.MULTILINE)
    _python, *arguments = json.loads(form)

    def status(port: int) -> int:
        nowhere = f"http://127.0.0.1:{free_port()}"
        environ = {"ROUTER_PORT": str(port), "HTTP_PROXY": nowhere, "http_proxy": nowhere}
        command = [sys.executable, *arguments]
        return subprocess.run(command, env=environ, capture_output=True, check=False).returncode

    assert status(two[0].port) == 0
    assert status(free_port()) == 1
