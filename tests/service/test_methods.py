"""HEAD wherever GET is, without a body; `Allow` names every method of a path, and no other."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.router import Offered, RouterServer, write_catalog
from tests.service.test_raw_sockets import Line
from tests.service.walking import bearer, make_key, request_id
from tests.upstream import ScriptedUpstream

ADMIN_KEY = "operator"
ORIGIN = "https://app.example.com"
PAGES = (
    "/ui",
    "/ui/explain",
    "/ui/models",
    "/ui/requests",
    "/ui/requests.csv",
    "/ui/account",
    "/ui/account/new",
)
OFTEN_NEW = {"date", "x-request-id", "set-cookie"}
VERBS = ("GET", "POST", "PUT", "PATCH", "DELETE", "TRACE")


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with ScriptedUpstream() as up:
        yield write_catalog(
            tmp_path_factory.mktemp("methods"), {"scripted": up.base_url}, [Offered("test/a")]
        )


@pytest.fixture(scope="module")
def router(catalog: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RouterServer]:
    with RouterServer(catalog, tmp_path_factory.mktemp("data"), admin_key=ADMIN_KEY) as server:
        yield server


def paths_of(router: RouterServer) -> dict[str, set[str]]:
    """Return every documented path, filled in, with its methods."""
    filled = {
        "{model_id}": "test/a",
        "{request_id}": request_id(router.chat(model="test/a")),
        "{key_id}": make_key(router)[1],
    }
    document = router.request("GET", "/schema/openapi.json").json
    return {
        re.sub(r"\{\w+\}", lambda found: filled[found[0]], path): {verb.upper() for verb in item}
        for path, item in document["paths"].items()
    }


def heads(router: RouterServer, method: str, path: str, *headers: str) -> tuple[int, dict[str, str]]:
    """Send one request, and a second one behind it: a body of the first would stand before its answer."""
    lines = "".join(f"{header}\r\n" for header in ("host: 127.0.0.1", *headers))
    behind = "GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n"
    with Line(router, f"{method} {path} HTTP/1.1\r\n{lines}\r\n{behind}".encode()) as line:
        head, _, rest = line.hear().data.partition(b"\r\n\r\n")
    if method == "HEAD":
        assert rest.startswith(b"HTTP/1.1 200 OK\r\n"), (path, rest[:100])
        assert rest.endswith(b'{"status":"ok"}')
    status, *told = head.decode().split("\r\n")
    pairs = (line.partition(": ") for line in told)
    return int(status.split()[1]), {name: value for name, _, value in pairs if name not in OFTEN_NEW}


def test_head_is_get_without_a_body_wherever_there_is_get(router: RouterServer) -> None:
    gets = [path for path, methods in paths_of(router).items() if "GET" in methods] + [*PAGES, "/ui/nope"]
    assert len(gets) > 25
    for path in gets:
        key = [f"authorization: Bearer {ADMIN_KEY}"] if path.startswith(("/ui", "/admin")) else []
        asked, told = heads(router, "GET", path, *key), heads(router, "HEAD", path, *key)
        for _, headers in (asked, told):
            headers.pop("transfer-encoding", None)  # there is nothing to frame
        if path == "/metrics":  # its figures move
            assert int(told[1].pop("content-length")) > 1_000
            asked[1].pop("content-length")
        assert told == asked, path
        assert told[0] == (404 if path == "/ui/nope" else 200), path


def test_the_head_of_the_csv_asks_nothing_of_the_history(catalog: Path, tmp_path: Path) -> None:
    with RouterServer(catalog, tmp_path / "data") as router:
        assert router.chat(model="test/a").status == 200
        assert len(router.request("GET", "/ui/requests.csv").body.splitlines()) == 2
        with closing(sqlite3.connect(router.data / "history.db", timeout=20)) as away:
            away.execute("ALTER TABLE history_requests RENAME TO gone")
        asked = [router.request(method, "/ui/requests.csv") for method in ("GET", "HEAD")]
    assert [got.status for got in asked] == [503, 200]
    assert asked[1].headers["content-type"] == "text/csv; header=present; charset=utf-8"
    assert "content-length" not in asked[1].headers  # nobody has counted


def test_head_is_no_way_past_a_key(router: RouterServer) -> None:
    for path in ("/ui", "/ui/requests.csv", "/admin/keys", "/admin/catalog"):
        assert heads(router, "HEAD", path) == heads(router, "GET", path), path
        assert heads(router, "HEAD", path)[0] == 401, path
    guessed = [heads(router, "HEAD", "/ui", f"authorization: Bearer guess-{n}")[0] for n in range(6)]
    assert (guessed[0], guessed[-1]) == (401, 429)  # a guess counts by whatever method it comes


def test_a_405_and_options_name_the_methods_that_there_are(router: RouterServer) -> None:
    for path, methods in paths_of(router).items():
        whole = methods | ({"HEAD"} if "GET" in methods else set())
        for verb in {*VERBS} - methods:
            status, headers = heads(router, verb, path)
            assert status == 405, (verb, path)
            assert {*headers["allow"].split(", ")} - {"OPTIONS"} == whole, (verb, path)
        status, headers = heads(router, "OPTIONS", path)
        assert {*headers["allow"].split(", ")} - {"OPTIONS"} == whole, path
        # The hot routes take POST alone and say so; wherever OPTIONS is allowed, it is answered.
        assert (status == 204) == ("OPTIONS" in headers["allow"]), path
    assert heads(router, "OPTIONS", "/ui/account/new")[1]["allow"] == "GET, HEAD, OPTIONS, POST"
    assert heads(router, "HEAD", "/v1/chat/completions") == heads(router, "GET", "/v1/chat/completions")
    assert heads(router, "OPTIONS", "/nope")[0] == 404


def test_pages_of_named_origins_may_ask_by_head_too(catalog: Path, tmp_path: Path) -> None:
    with RouterServer(catalog, tmp_path, admin_key=ADMIN_KEY, cors_origins=(ORIGIN,)) as router:
        status, headers = heads(router, "HEAD", "/v1/models", f"origin: {ORIGIN}")
        assert (status, headers["access-control-allow-origin"]) == (200, ORIGIN)
        asked = ("access-control-request-method: POST", f"origin: {ORIGIN}")
        status, headers = heads(router, "OPTIONS", "/v1/chat/completions", *asked)
        assert (status, headers["access-control-allow-origin"]) == (204, ORIGIN)
        assert heads(router, "OPTIONS", "/admin/keys")[1]["allow"] == "GET, HEAD, OPTIONS, POST"
        assert router.request("OPTIONS", "/admin/keys", None, bearer(ADMIN_KEY)).body == b""
