"""Who may see which page: every combination of address, admin key, page and visitor."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.router import Offered, RouterServer, write_catalog
from tests.service.surfing import Surfer, said
from tests.service.walking import bearer, make_key, run_command
from tests.upstream import ScriptedUpstream

ADMIN_KEY = "the operator's own key"
PUBLIC = "192.0.2.1"
PAGES = ("/ui", "/ui/explain", "/ui/requests", "/ui/account/new", "/ui/account", "/ui/models", "/ui/sign-in")
# (address, admin key): what each page answers to a stranger, and to who signed in with an API key, in the
# order of PAGES. 200 shown, 401 asks for a key, 403 for another, 404 off.
TABLE = {
    ("loopback", "none"): ((200, 200, 200, 200, 200, 200, 200), (200, 200, 200, 200, 200, 200, 200)),
    ("loopback", "set"): ((401, 401, 401, 401, 401, 200, 200), (403, 403, 403, 403, 200, 200, 200)),
    ("public", "none"): ((404, 404, 404, 404, 404, 200, 404), None),
    ("public", "set"): ((401, 401, 401, 401, 401, 200, 200), (403, 403, 403, 403, 200, 200, 200)),
}


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with ScriptedUpstream() as up:
        yield write_catalog(
            tmp_path_factory.mktemp("catalog"), {"scripted": up.base_url}, [Offered("test/a")]
        )


@pytest.fixture(scope="module", params=[*TABLE], ids=" ".join)
def place(
    request: pytest.FixtureRequest, catalog: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[tuple[str, str], RouterServer]]:
    address, key = request.param
    host = PUBLIC if address == "public" else "127.0.0.1"
    more = {"admin_key": ADMIN_KEY} if key == "set" else {}
    with RouterServer(catalog, tmp_path_factory.mktemp("data"), host=host, access="paid", **more) as router:
        yield request.param, router


def test_a_stranger_sees_what_is_open(place: tuple[tuple[str, str], RouterServer]) -> None:
    row, router = place
    assert tuple(router.request("GET", path).status for path in PAGES) == TABLE[row][0]


def test_a_customer_signs_in_with_an_api_key_wherever_the_pages_are_on(
    place: tuple[tuple[str, str], RouterServer],
) -> None:
    row, router = place
    text, key_id = make_key(router, "--credit", "1")
    surfer = Surfer(router)
    got = surfer.sign_in(text)
    wanted = TABLE[row][1]
    if wanted is None:
        assert got.status == 404
        assert not surfer.cookies
        return
    assert (got.status, got.headers["location"]) == (303, "/ui/account")
    assert text[3:] not in surfer.cookies["router_session"]
    assert tuple(surfer.get(path).status for path in PAGES) == wanted
    own = surfer.seen("/ui/account")
    assert key_id in own
    assert "Sign out" in own
    assert "All keys" not in surfer.get("/ui/account").body.decode()


def test_the_operator_signs_in_with_the_admin_key_where_there_is_one(
    place: tuple[tuple[str, str], RouterServer],
) -> None:
    (address, key), router = place
    surfer = Surfer(router)
    got = surfer.sign_in(ADMIN_KEY)
    if key == "none":
        assert got.status == (404 if address == "public" else 401)
        return
    assert got.status == 303
    assert {surfer.get(path).status for path in PAGES} == {200}


def test_a_session_ends_with_its_key_and_no_other_cookie_is_one(
    place: tuple[tuple[str, str], RouterServer],
) -> None:
    (address, key), router = place
    text, key_id = make_key(router)
    if (address, key) == ("public", "none"):
        assert Surfer(router).sign_in(text).status == 404
        return
    other, other_id = make_key(router)
    surfer, forger = Surfer(router), Surfer(router)
    surfer.sign_in(text)
    forger.sign_in(other)
    role, _, ends, mac = forger.cookies["router_session"].split(".")
    for forged in (
        f"{role}.{key_id}.{ends}.{mac}",
        f"{role}.{other_id}.{int(ends) + 9}.{mac}",
        f"operator..{ends}.{mac}",
        f"{role}.{other_id}.{ends}.",
        f"{role}.no-such-key.{ends}.{mac}",
    ):
        forger.cookies["router_session"] = forged
        page = forger.get("/ui/account")
        assert page.status == 401 or "All keys" in page.body.decode(), forged
        assert key_id not in said(page) or "All keys" in page.body.decode()
    assert run_command(router, "keys", "revoke", key_id).exit_code == 0
    out = surfer.get("/ui/account")
    assert (out.status, "revoked or has expired" in said(out)) == (401, True)
    assert surfer.cookies["router_session"] == ""  # so that the next look is a stranger's


@pytest.mark.parametrize(
    "headers",
    [{"host": "evil.example"}, {"x-forwarded-for": "203.0.113.9"}, {"host": "192.168.0.7:8402"}],
)
def test_without_an_admin_key_a_signed_in_customer_is_at_this_machine_too(
    catalog: Path, tmp_path: Path, headers: dict[str, str]
) -> None:
    with RouterServer(catalog, tmp_path / "data", access="paid") as router:
        text, _ = make_key(router)
        surfer = Surfer(router)
        assert surfer.sign_in(text).status == 303
        cookie = {"cookie": f"router_session={surfer.cookies['router_session']}", **headers}
        for path in PAGES:
            assert router.request("GET", path, None, cookie).status == 403, path
        origin = {"origin": f"http://{headers['host']}"} if "host" in headers else {"origin": router.origin}
        form = {"content-type": "application/x-www-form-urlencoded", **origin, **headers}
        assert router.request("POST", "/ui/sign-in", f"key={text}".encode(), form).status == 403


def test_a_session_holds_over_a_restart_and_another_admin_key(catalog: Path, tmp_path: Path) -> None:
    with RouterServer(catalog, tmp_path / "data", admin_key=ADMIN_KEY) as router:
        text, key_id = make_key(router)
        customer, operator = Surfer(router), Surfer(router)
        customer.sign_in(text)
        operator.sign_in(ADMIN_KEY)
        assert operator.get("/ui").status == 200
    with RouterServer(catalog, tmp_path / "data", admin_key="another one") as router:
        customer.router = operator.router = router
        assert key_id in customer.seen("/ui/account")
        assert operator.get("/ui").status == 401
        assert router.request("GET", "/v1/usage", None, bearer(text)).status == 200


def test_signing_out_of_open_pages_leads_back_to_them(catalog: Path, tmp_path: Path) -> None:
    with RouterServer(catalog, tmp_path / "data") as router:
        text, _ = make_key(router)
        surfer = Surfer(router)
        assert "Sign in with an API key" in surfer.seen("/ui/account")
        surfer.sign_in(text)
        assert "Sign in with an API key" not in surfer.seen("/ui/account")
        assert surfer.send("/ui/sign-out", {}).status == 303
        assert "Sign in with an API key" in surfer.seen("/ui/account")
