"""Pages of other sites in the browser of who sits at the router's machine: none may use it without a key."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.router import Offered, RouterServer, write_catalog
from tests.service.walking import bearer, make_key
from tests.upstream import ScriptedUpstream, answer

MODEL, ADMIN_KEY = "test/model", "an-admin-key-of-the-tests"
FOREIGN = [
    "http://evil.example",
    "https://evil.example:8402",
    "http://192.168.7.7:3000",
    "null",
    "http://[::1",
]


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with ScriptedUpstream() as up:
        up.on(MODEL, answer())
        yield write_catalog(tmp_path_factory.mktemp("c"), {"scripted": up.base_url}, [Offered(MODEL)])


@pytest.fixture(scope="module")
def router(catalog: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RouterServer]:
    with RouterServer(catalog, tmp_path_factory.mktemp("data")) as server:
        yield server


@pytest.mark.parametrize("origin", FOREIGN)
def test_another_sites_page_is_refused_without_a_key(router: RouterServer, origin: str) -> None:
    refused = router.chat(model=MODEL, headers={"origin": origin})
    assert (refused.status, refused.error["name"]) == (403, "foreign_origin")
    assert "ROUTER_CORS_ORIGINS" in refused.error["message"]
    asked = {"model": "auto", "messages": [{"role": "user", "content": "hi"}]}
    assert router.request("POST", "/v1/route", asked, {"origin": origin}).status == 403


def test_a_name_that_points_here_does_not_make_it_ours(router: RouterServer) -> None:
    headers = {"origin": "http://evil.example", "host": "evil.example"}
    assert router.chat(model=MODEL, headers=headers).status == 403


@pytest.mark.parametrize(
    "origin",
    ["http://127.0.0.1:3000", "http://localhost", "https://app.localhost", "app://obsidian.md", None],
)
def test_pages_of_this_machine_and_programs_may_ask(router: RouterServer, origin: str | None) -> None:
    assert router.chat(model=MODEL, headers={} if origin is None else {"origin": origin}).status == 200


def test_a_key_speaks_for_itself(router: RouterServer) -> None:
    key, _ = make_key(router, "--credit", "1")
    headers = {"origin": "http://evil.example", **bearer(key)}
    assert router.chat(model=MODEL, headers=headers).status == 200


def test_named_origins_may_ask(catalog: Path, tmp_path: Path) -> None:
    with RouterServer(catalog, tmp_path, cors_origins="https://chat.example") as router:
        assert router.chat(model=MODEL, headers={"origin": "https://chat.example"}).status == 200
        assert router.chat(model=MODEL, headers={"origin": "https://evil.example"}).status == 403


def test_the_pages_behind_a_proxy_may_ask_where_a_key_guards_them(catalog: Path, tmp_path: Path) -> None:
    with RouterServer(catalog, tmp_path, admin_key=ADMIN_KEY) as router:
        ours = {"origin": "https://router.example", "host": "router.example"}
        assert router.chat(model=MODEL, headers=ours).status == 200
        assert router.chat(model=MODEL, headers=ours | {"origin": "https://evil.example"}).status == 403
