"""The frame of the pages: who may see them, signing in and out, what comes from other sites, their files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest

from router.web.pages import NAV
from tests.router import Answer, Offered, RouterServer, write_catalog
from tests.upstream import ScriptedUpstream

ADMIN_KEY = "the operator's own key"
HTML = {"accept": "text/html"}


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with ScriptedUpstream() as up:
        yield write_catalog(
            tmp_path_factory.mktemp("catalog"), {"scripted": up.base_url}, [Offered("test/a")]
        )


@pytest.fixture(scope="module")
def open_router(catalog: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RouterServer]:
    with RouterServer(catalog, tmp_path_factory.mktemp("data")) as router:
        yield router


@pytest.fixture
def keyed(catalog: Path, tmp_path: Path) -> Iterator[RouterServer]:
    with RouterServer(catalog, tmp_path / "data", admin_key=ADMIN_KEY) as router:
        yield router


def sign_in(router: RouterServer, key: str, to: str = "/ui", **headers: str) -> Answer:
    form = {"content-type": "application/x-www-form-urlencoded", "origin": router.origin, **headers}
    return router.request("POST", "/ui/sign-in", urlencode({"key": key, "next": to}).encode(), form)


def cookie_of(got: Answer) -> dict[str, str]:
    return {"cookie": got.headers["set-cookie"].partition(";")[0]}


def test_a_browser_is_sent_to_the_pages_and_a_program_is_not(open_router: RouterServer) -> None:
    browser = open_router.request("GET", "/", None, {"accept": "text/html,application/xhtml+xml"})

    assert (browser.status, browser.headers["location"]) == (303, "/ui")
    assert open_router.request("GET", "/", None, {"accept": "*/*"}).json["name"] == "llm-router"


def test_on_loopback_without_a_key_the_pages_are_open_to_this_machine(open_router: RouterServer) -> None:
    port = open_router.port

    for host in (f"127.0.0.1:{port}", f"localhost:{port}", f"[::1]:{port}", f"router.localhost:{port}"):
        assert open_router.request("GET", "/ui", None, {"host": host}).status == 200, host


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"host": "127.0.0.1.evil.example:8402"},
        {"host": "localhost.evil.example"},
        {"host": "192.168.0.7:8402"},
        {"host": ""},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"x-forwarded-for": "203.0.113.9"},
        {"forwarded": "for=203.0.113.9"},
    ],
)
def test_open_pages_are_closed_to_names_and_ways_that_others_can_use(
    open_router: RouterServer, headers: dict[str, str]
) -> None:
    got = open_router.request("GET", "/ui", None, headers)

    assert got.status == 403
    assert b"ROUTER_ADMIN_KEY" in got.body
    assert got.headers["content-type"].startswith("text/html")


def test_with_a_key_every_page_asks_for_it_and_signing_in_opens_them(keyed: RouterServer) -> None:
    asked = keyed.request("GET", "/ui")
    assert asked.status == 401
    assert b'name="key"' in asked.body

    got = sign_in(keyed, ADMIN_KEY)
    assert (got.status, got.headers["location"]) == (303, "/ui")
    flags = got.headers["set-cookie"]
    assert all(flag in flags for flag in ("HttpOnly", "SameSite=Strict", "Path=/ui", "Max-Age=28800"))
    assert "Secure" not in flags
    page = keyed.request("GET", "/ui", None, cookie_of(got))
    assert page.status == 200
    assert b"Sign out" in page.body

    out = keyed.request("POST", "/ui/sign-out", b"", {"origin": keyed.origin, **cookie_of(got)})
    assert (out.status, cookie_of(out)["cookie"]) == (303, "router_session=")
    assert "Max-Age=0" in out.headers["set-cookie"]


def test_behind_tls_the_cookie_never_goes_in_the_clear(keyed: RouterServer) -> None:
    got = sign_in(keyed, ADMIN_KEY, **{"x-forwarded-proto": "https"})

    assert got.headers["set-cookie"].endswith("; Secure")


def test_scripts_send_the_key_as_the_admin_routes_take_it(keyed: RouterServer) -> None:
    assert keyed.request("GET", "/ui", None, {"authorization": f"Bearer {ADMIN_KEY}"}).status == 200
    assert keyed.request("GET", "/ui", None, {"authorization": "Bearer other"}).status == 401


def test_a_session_ends_by_itself_and_no_other_cookie_is_one(keyed: RouterServer) -> None:
    cookie = cookie_of(sign_in(keyed, ADMIN_KEY))
    said, _, mac = cookie["cookie"].rpartition(".")
    later = re.sub(r"\d+$", lambda found: str(int(found[0]) + 10), said)

    for forged in (
        f"{later}.{mac}",
        f"{said}.{mac[::-1]}",
        "router_session=operator..9999999999.",
        "router_session=é",
    ):
        assert keyed.request("GET", "/ui", None, {"cookie": forged.encode().decode("latin-1")}).status == 401
    assert keyed.request("GET", "/ui", None, cookie).status == 200
    keyed.step(8 * 3_600 + 1)
    assert keyed.request("GET", "/ui", None, cookie).status == 401


def test_wrong_keys_are_told_so_and_soon_refused_but_lock_nobody_out(keyed: RouterServer) -> None:
    first = sign_in(keyed, "guess")
    assert first.status == 401
    assert b"neither the admin key nor an API key" in first.body
    for _ in range(4):
        sign_in(keyed, "guess")

    refused = sign_in(keyed, "guess")
    assert refused.status == 429
    assert 0 < int(refused.headers["retry-after"]) <= 60
    assert keyed.request("GET", "/ui", None, {"authorization": "Bearer guess"}).status == 429
    assert keyed.request("GET", "/ui", None, {"authorization": f"Bearer {ADMIN_KEY}"}).status == 200
    assert sign_in(keyed, ADMIN_KEY).status == 303
    keyed.skip(61)
    assert sign_in(keyed, "guess").status == 401


def test_a_page_that_says_what_went_wrong_knows_who_looks(
    open_router: RouterServer, keyed: RouterServer
) -> None:
    nowhere = open_router.request("GET", "/ui/nope")
    assert nowhere.status == 404
    assert b'href="/ui/requests"' in nowhere.body
    assert b"Sign in" not in nowhere.body
    assert b"Sign in" in keyed.request("GET", "/ui/nope").body
    signed_in = keyed.request("GET", "/ui/nope", None, cookie_of(sign_in(keyed, ADMIN_KEY)))
    assert b"Sign out" in signed_in.body
    assert b'href="/ui/requests"' in signed_in.body


@pytest.mark.parametrize("origin", ["https://evil.example", "http://127.0.0.1:1", "null", None])
def test_no_other_site_can_send_a_form(keyed: RouterServer, origin: str | None) -> None:
    body = urlencode({"key": ADMIN_KEY}).encode()
    headers = {"content-type": "application/x-www-form-urlencoded"}
    if origin is not None:
        headers["origin"] = origin

    assert keyed.request("POST", "/ui/sign-in", body, headers).status == 403
    assert keyed.request("POST", "/ui/sign-out", b"", headers).status == 403


@pytest.mark.parametrize("to", ["//evil.example", "https://evil.example", "/v1/models", "/ui\\evil", "/uix"])
def test_signing_in_leads_nowhere_else(keyed: RouterServer, to: str) -> None:
    assert sign_in(keyed, ADMIN_KEY, to).headers["location"] == "/ui"


def test_a_customer_signs_in_with_an_api_key_and_sees_no_page_of_the_operator(keyed: RouterServer) -> None:
    made = keyed.request(
        "POST", "/admin/keys", {"name": "ann"}, {"authorization": f"Bearer {ADMIN_KEY}"}
    ).json

    got = sign_in(keyed, made["key"])
    assert (got.status, got.headers["location"]) == (303, "/ui/account")
    page = keyed.request("GET", "/ui", None, cookie_of(got))
    assert page.status == 403
    assert b"for the operator" in page.body


def test_on_a_public_address_without_a_key_the_pages_are_off(catalog: Path, tmp_path: Path) -> None:
    with RouterServer(catalog, tmp_path / "data", host="192.0.2.1", access="paid") as router:
        got = router.request("GET", "/ui")

    assert got.status == 404
    assert b"ROUTER_ADMIN_KEY" in got.body


def test_what_is_no_page_is_said_on_a_page(open_router: RouterServer) -> None:
    got = open_router.request("GET", "/ui/no/such/<page>")

    assert got.status == 404
    assert b"&lt;page&gt;" in got.body
    assert b"<page>" not in got.body


def test_pages_run_no_script_but_their_own_and_load_nothing_from_elsewhere(open_router: RouterServer) -> None:
    for path in ["/ui/no-such-page", *(address for address, _ in NAV)]:
        got = open_router.request("GET", path)
        policy = got.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert got.headers["cache-control"] == "no-store"
        text = got.body.decode()
        assert not re.search(
            r"(?:src|href|action)=\"(?!/|#|\?)|<style|\sstyle=|\son\w+=|javascript:", text
        ), path
        assert not re.search(r"<script(?! src=\"/ui/static/)", text), path
        for address in re.findall(r"(?:src|href)=\"(/ui/static/[^\"]+)\"", text):
            assert open_router.request("GET", address).status == 200, address


def test_a_browser_finds_the_icon_where_no_document_names_it(keyed: RouterServer) -> None:
    sent = keyed.request("GET", "/favicon.ico")
    found = keyed.request("GET", sent.headers["location"])
    assert (sent.status, found.status) == (302, 200)
    assert found.headers["content-type"].startswith("image/svg+xml")


def test_files_are_kept_for_good_and_come_deflated_to_who_takes_that(open_router: RouterServer) -> None:
    page = open_router.request("GET", "/ui").body.decode()
    address = re.findall(r"href=\"(/ui/static/style.css[^\"]+)\"", page)[0]

    plain = open_router.request("GET", address)
    packed = open_router.request("GET", address, None, {"accept-encoding": "gzip"})
    assert "immutable" in plain.headers["cache-control"]
    assert packed.headers["content-encoding"] == "gzip"
    assert len(packed.body) < len(plain.body) / 2
    assert open_router.request("GET", "/ui/static/../guard.py").status == 404
