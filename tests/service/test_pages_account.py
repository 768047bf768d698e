"""The account page: the operator makes and changes keys, a customer sees its own account and no other."""

from __future__ import annotations

import csv
import html
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from router.access.keys import ApiKey
from router.catalog.snapshot import Limits
from router.web.pages import render
from tests.router import Answer, Offered, RouterServer, write_catalog
from tests.service.surfing import Surfer, made, said
from tests.service.walking import bearer, ledger_rows, request_id, run_command, wait_end
from tests.upstream import ScriptedUpstream

ADMIN_KEY = "the operator's own key"
MODELS = [Offered("test/a"), Offered("test/b", price=(5.0, 9.0)), Offered("other/c", price=(7.0, 9.0))]


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with ScriptedUpstream() as up:
        yield write_catalog(tmp_path_factory.mktemp("catalog"), {"scripted": up.base_url}, MODELS)


@pytest.fixture(scope="module")
def router(
    catalog: Path, tmp_path_factory: pytest.TempPathFactory, database_url: str | None
) -> Iterator[RouterServer]:
    data = tmp_path_factory.mktemp("data")
    with RouterServer(catalog, data, admin_key=ADMIN_KEY, database_url=database_url) as server:
        yield server


@pytest.fixture
def operator(router: RouterServer) -> Surfer:
    surfer = Surfer(router)
    assert surfer.sign_in(ADMIN_KEY).status == 303
    return surfer


def customer(router: RouterServer, text: str) -> Surfer:
    surfer = Surfer(router)
    got = surfer.sign_in(text)
    assert (got.status, got.headers["location"]) == (303, "/ui/account")
    return surfer


def listed(router: RouterServer, key_id: str) -> dict[str, object]:
    """Return a key as the command line lists it."""
    result = run_command(router, "keys", "list", "--json")
    [found] = [key for key in json.loads(result.stdout) if key["id"] == key_id]
    return dict(found)


def test_a_key_is_made_with_all_that_the_command_line_knows(operator: Surfer, router: RouterServer) -> None:
    got = operator.fill(
        "/ui/account/new",
        "/ui/account/new",
        {
            **{"name": "Ann & <b>Co</b>", "credit": "2.5", "rpm": "60", "tpm": "100,000", "concurrency": "4"},
            **{
                "budget_day": "0.5",
                "budget_month": "$7",
                "models": "test/*\nother/c",
                "expires": "2031-05-09",
            },
        },
    )
    text, key_id = made(got)

    page = got.body.decode()
    assert page.count(text) == 5  # itself, curl, SDK, OpenClaw, the command
    assert "Ann &amp; &lt;b&gt;Co&lt;/b&gt;" in page
    assert got.headers["cache-control"] == "no-store"
    key = listed(router, key_id)
    assert (key["name"], key["credit_usd"], key["rpm"], key["tpm"]) == ("Ann & <b>Co</b>", 2.5, 60, 100_000)
    assert (key["concurrency"], key["budget_day_usd"], key["budget_month_usd"]) == (4, 0.5, 7)
    assert (key["models"], key["expires_at"]) == (["test/*", "other/c"], "2031-05-10T00:00:00.000Z")
    assert router.chat(model="test/a", headers=bearer(text)).status == 200
    detail = operator.seen(f"/ui/account/keys/{key_id}")
    assert "59 left of 60" in detail
    assert text not in detail


def test_a_form_that_is_sent_twice_makes_one_key_and_shows_it_again(
    operator: Surfer, router: RouterServer
) -> None:
    fields = {**operator.form("/ui/account/new", "/ui/account/new"), "name": "twice", "credit": "1"}

    first, again = (made(operator.send("/ui/account/new", fields)) for _ in range(2))
    other = made(operator.fill("/ui/account/new", "/ui/account/new", {"name": "twice"}))

    assert first == again
    assert other[1] != first[1]
    assert listed(router, first[1])["credit_usd"] == 1
    topups = [row for row in ledger_rows(router) if row.account == first[1]]
    assert [row.kind for row in topups] == ["topup"]


def test_the_form_that_made_a_key_shows_it_for_a_minute_and_never_makes_another(
    catalog: Path, tmp_path: Path, database_url: str | None
) -> None:
    with RouterServer(catalog, tmp_path, admin_key=ADMIN_KEY, database_url=database_url) as router:
        operator = Surfer(router)
        operator.sign_in(ADMIN_KEY)
        form = operator.form("/ui/account/new", "/ui/account/new")
        router.step(3_600)  # a form may be open for long before it is sent
        text, key_id = made(operator.send("/ui/account/new", {**form, "name": "eve"}))
        router.step(50)
        assert made(operator.send("/ui/account/new", {**form, "name": "eve"})) == (text, key_id)
        router.step(15)
        late = operator.send("/ui/account/new", {**form, "name": "eve"})
        assert (late.status, late.headers["location"]) == (303, f"/ui/account/keys/{key_id}?done=made")
        assert text.encode() not in late.body
        page = operator.seen(late.headers["location"])
        assert "This form made the key before." in page
        assert text not in page

        other = operator.form("/ui/account/new", "/ui/account/new")
        _, revoked = made(operator.send("/ui/account/new", {**other, "name": "eve"}))
        operator.fill(f"/ui/account/keys/{revoked}", f"/ui/account/keys/{revoked}/revoke", {})
        assert operator.send("/ui/account/new", {**other, "name": "eve"}).status == 303
        keys = json.loads(run_command(router, "keys", "list", "--json").stdout)
        assert [key["id"] for key in keys if key["name"] == "eve"] == [key_id, revoked]


def test_what_makes_no_sense_is_said_at_its_field_and_nothing_is_done(operator: Surfer) -> None:
    wrong = {"name": "bob", "rpm": "many", "budget_day": "-1", "credit": "5 dollars", "expires": "soon"}
    before = len(operator.seen("/ui/account?q=bob"))

    got = operator.fill("/ui/account/new", "/ui/account/new", wrong)

    assert got.status == 422
    page = got.body.decode()
    assert len(re.findall(r'aria-invalid="true"', page)) == 4
    assert 'value="many"' in page
    assert "is not an amount in USD" in said(got)
    assert len(operator.seen("/ui/account?q=bob")) == before
    blank = operator.fill("/ui/account/new", "/ui/account/new", {"name": "  "})
    assert (blank.status, "needs a name" in said(blank)) == (422, True)


def test_a_key_is_changed_in_what_the_form_changes_only(operator: Surfer, router: RouterServer) -> None:
    _, key_id = operator.make("cal", rpm="10", budget_day="1", models="test/*", expires="2031-01-31")
    here = f"/ui/account/keys/{key_id}"
    fields = operator.form(here, f"{here}/change")
    operator.router.request(
        "POST", f"/admin/keys/{key_id}", {"tpm": 5_000}, bearer(ADMIN_KEY)
    )  # by another, meanwhile

    got = operator.send(f"{here}/change", {**fields, "rpm": "20", "budget_day": "", "expires": ""})

    assert (got.status, got.headers["location"]) == (303, f"{here}?done=changed")
    key = listed(router, key_id)
    assert (key["rpm"], key["tpm"], key["budget_day_usd"]) == (20, 5_000, None)
    assert (key["models"], key["expires_at"], key["name"]) == (["test/*"], None, "cal")
    same = operator.fill(here, f"{here}/change", {})
    assert same.headers["location"].endswith("done=same")
    wrong = operator.fill(here, f"{here}/change", {"rpm": "0"})
    assert (wrong.status, 'id="f-rpm-fault"' in wrong.body.decode()) == (422, True)


def test_a_payment_that_is_sent_twice_is_booked_once(operator: Surfer, router: RouterServer) -> None:
    _, key_id = operator.make("dan", credit="1")
    here = f"/ui/account/keys/{key_id}"
    fields = {**operator.form(here, f"{here}/topup"), "usd": "4"}

    first, again = (operator.send(f"{here}/topup", fields) for _ in range(2))

    assert first.headers["location"].endswith("done=topup")
    assert again.headers["location"].endswith("done=topup-again")
    assert listed(router, key_id)["credit_usd"] == 5
    body = {"usd": 4, "external_id": fields["payment"]}
    admin = router.request("POST", f"/admin/keys/{key_id}/topup", body, bearer(ADMIN_KEY))
    assert admin.json["added"] is False  # the operator's payment, whichever way it came
    for usd, payment in (("0", "x"), ("", "x"), ("1e30", "x"), ("5", " ")):
        wrong = operator.fill(here, f"{here}/topup", {"usd": usd, "payment": payment})
        assert wrong.status == 422, (usd, payment)
        assert 'aria-invalid="true"' in wrong.body.decode()
    assert listed(router, key_id)["credit_usd"] == 5


def test_a_key_is_revoked_and_its_customer_is_out(operator: Surfer, router: RouterServer) -> None:
    text, key_id = operator.make("eve")
    eve = customer(router, text)
    here = f"/ui/account/keys/{key_id}"

    fields = operator.form(here, f"{here}/revoke")
    for _ in range(2):
        assert operator.send(f"{here}/revoke", fields).headers["location"].endswith("done=revoked")

    assert "revoked" in operator.seen(here)
    assert b"/revoke" not in operator.get(here).body
    out = eve.get("/ui/account")
    assert out.status == 401
    assert "was revoked or has expired" in said(out)
    assert eve.sign_in(text).status == 401
    late = operator.send(f"{here}/topup", {**fields, "usd": "1", "payment": "late"})
    assert (late.status, "was revoked at" in said(late)) == (404, True)


@pytest.mark.parametrize("action", ["/ui/account/new", "KEY/change", "KEY/topup", "KEY/revoke"])
def test_no_form_does_anything_without_its_token_and_origin(
    operator: Surfer, router: RouterServer, action: str
) -> None:
    _, key_id = operator.make("fay", credit="1")
    before = listed(router, key_id)
    count = run_command(router, "keys", "list", "--json").stdout.count('"id"')
    path = action.replace("KEY", f"/ui/account/keys/{key_id}")
    page = path if action.startswith("/") else f"/ui/account/keys/{key_id}"
    fields = {**operator.form(page, path), "usd": "5", "name": "new", "rpm": "7"}

    assert operator.send(path, fields, origin="https://evil.example").status == 403
    assert operator.send(path, {**fields, "token": ""}).status == 403
    assert (
        operator.send(path, {name: value for name, value in fields.items() if name != "token"}).status == 403
    )
    stranger = Surfer(router)
    assert stranger.send(path, fields).status == 401
    stranger.sign_in(ADMIN_KEY)
    stranger.get(page)
    assert stranger.send(path, fields).status == 403  # another browser's token
    stranger.cookies["router_form"] = operator.cookies["router_form"]
    stranger.cookies["router_session"] += "x"
    assert stranger.send(path, fields).status == 401

    assert listed(router, key_id) == before
    assert run_command(router, "keys", "list", "--json").stdout.count('"id"') == count


def test_a_customer_sees_its_own_account(operator: Surfer, router: RouterServer) -> None:
    text, key_id = operator.make("gil", credit="3", rpm="30", budget_day="1", models="test/*")
    other, other_id = operator.make("hal the other", credit="3")
    got = router.chat(model="test/b", headers={**bearer(text), "x-request-id": "mine"})
    charge = wait_end(router, _own_id(router, key_id)).amount_nusd
    theirs = request_id(router.chat(model="test/a", headers=bearer(other)))
    assert got.status == 200
    gil = customer(router, text)

    page = gil.seen("/ui/account")
    exact = f"{(3_000_000_000 - charge) / 1e9:.9f}".rstrip("0")
    assert f'title="{exact} USD"' in gil.get("/ui/account").body.decode()
    for part in (
        "29 left of 30",
        "Budget a day",
        "test/*",
        "gil",
        key_id,
        f"{router.origin}/v1",
        "auto:cost",
    ):
        assert part in page, part
    assert "test/b" in page
    assert "2 models by their own name" in page
    assert "other/c" not in page
    for part in ("hal the other", other_id, theirs, "Upstream", "router keys create"):
        assert part not in page, part
    receipt = gil.seen(f"/ui/account/receipts/{_own_id(router, key_id)}")
    assert "settled" in receipt
    assert f"{charge / 1e9:.9f}".rstrip("0") in receipt
    assert "mine" in gil.seen("/ui/account/receipts/mine")
    assert gil.cookies["router_session"].find(text[3:]) == -1
    rows = list(csv.DictReader(io.StringIO(gil.get("/ui/account/usage.csv").body.decode())))
    assert [(row["model"], row["requests"]) for row in rows] == [("test/b", "1")]


def test_nothing_that_a_customer_changes_leads_to_anothers_data(
    operator: Surfer, router: RouterServer
) -> None:
    text, _ = operator.make("ida", credit="3")
    other, other_id = operator.make("jonathan q", credit="3", rpm="7654321")
    theirs = request_id(router.chat(model="test/a", headers={**bearer(other), "x-request-id": "jonathans"}))
    ida = customer(router, text)
    own = _own_id(router, other_id)
    assert theirs == "jonathans"

    for path in (
        f"/ui/account/keys/{other_id}",
        "/ui/account/new",
        "/ui",
        "/ui/requests",
        "/ui/requests.csv",
    ):
        assert ida.get(path).status == 403, path
    assert ida.get(f"/ui/account/keys/{other_id}/usage.csv").status == 403
    assert ida.get(f"/ui/requests/{own}").status == 403
    for name in (own, "jonathans", f"{own}.2", "%00", "..%2f..%2frequests", "%C3%A9"):
        assert ida.get(f"/ui/account/receipts/{name}").status == 404, name
    for query in (
        f"key={other_id}",
        f"account={other_id}",
        f"id={other_id}",
        f"q={other_id}",
        "before=999999",
    ):
        for path in ("/ui/account", "/ui/account/usage.csv"):
            page = ida.get(f"{path}?{query}").body.decode()
            for part in ("jonathan", other_id, own, "7,654,321", "7654321"):
                assert part not in page, (query, part)
    said_mac = ida.cookies["router_session"].split(".")
    ida.cookies["router_session"] = ".".join([said_mac[0], other_id, *said_mac[2:]])
    assert ida.get("/ui/account").status == 401


def test_an_expired_key_signs_in_to_nothing(
    operator: Surfer, router: RouterServer, catalog: Path, tmp_path: Path
) -> None:
    with RouterServer(catalog, tmp_path / "data", admin_key=ADMIN_KEY) as own:
        surfer = Surfer(own)
        surfer.sign_in(ADMIN_KEY)
        text, _ = surfer.make("kim", expires=f"{own.now():%Y-%m-%d}")
        kim = customer(own, text)
        assert kim.get("/ui/account").status == 200
        own.step(86_400)
        assert kim.get("/ui/account").status == 401
        assert kim.sign_in(text).status == 401


def test_keys_are_found_among_many(operator: Surfer, router: RouterServer) -> None:
    names = [f"lot {number:03d}" for number in range(55)]
    for name in names:
        router.request("POST", "/admin/keys", {"name": name}, bearer(ADMIN_KEY))

    first = operator.seen("/ui/account?q=lot")
    assert sum(name in first for name in names) == 50
    second = operator.seen("/ui/account?q=lot&page=2")
    assert [name for name in names if name in second] == names[:5]
    assert "lot 007" in operator.seen("/ui/account?q=LOT 007".replace(" ", "%20"))
    assert "No key matches" in operator.seen("/ui/account?q=lot&state=revoked")
    for page in ("0", "-1", "x", "99", "9" * 30):
        assert "lot" in operator.seen(f"/ui/account?q=lot&page={page}")


def test_who_must_sign_in_before_a_form_is_taken_is_led_to_its_page(
    operator: Surfer, router: RouterServer
) -> None:
    _, key_id = operator.make("oda")
    here = f"/ui/account/keys/{key_id}"
    fields = operator.form(here, f"{here}/topup")
    operator.cookies.pop("router_session")
    asked = operator.send(f"{here}/topup", {**fields, "usd": "5"})
    assert asked.status == 401

    got = operator.send("/ui/sign-in", {**_inputs(asked), "key": ADMIN_KEY})

    there = operator.get(got.headers["location"])
    assert (there.status, there.headers["location"]) == (303, here)
    assert listed(router, key_id)["credit_usd"] is None


def test_usage_by_day_outlives_the_service_and_its_log(catalog: Path, tmp_path: Path) -> None:
    with RouterServer(catalog, tmp_path / "data", admin_key=ADMIN_KEY, history_requests=1) as own:
        surfer = Surfer(own)
        surfer.sign_in(ADMIN_KEY)
        text, key_id = surfer.make("lea")
        for _ in range(3):
            assert own.chat(model="test/a", headers=bearer(text)).status == 200
    with RouterServer(catalog, tmp_path / "data", admin_key=ADMIN_KEY) as own:
        own.step(40 * 86_400)
        surfer = Surfer(own)
        surfer.sign_in(ADMIN_KEY)
        assert "No request in 30 days" in surfer.seen(f"/ui/account/keys/{key_id}")
        page = surfer.seen(f"/ui/account/keys/{key_id}?days=90")
        assert re.search(r"test/ a 3 \d+", page), page


def test_without_a_history_an_account_is_shown_with_its_money(catalog: Path, tmp_path: Path) -> None:
    with RouterServer(catalog, tmp_path / "data", history_requests=0) as own:
        surfer = Surfer(own)
        text, key_id = surfer.make("mia", credit="1")
        got = own.chat(model="test/a", headers=bearer(text))
        wait_end(own, request_id(got))
        page = surfer.seen(f"/ui/account/keys/{key_id}")
        assert "ROUTER_HISTORY_REQUESTS" in page
        assert "Charged requests 1" in page
        assert surfer.get(f"/ui/account/keys/{key_id}/usage.csv").status == 503


def test_on_loopback_without_an_admin_key_the_forms_work_and_other_sites_do_not(
    catalog: Path, tmp_path: Path
) -> None:
    with RouterServer(catalog, tmp_path / "data") as own:
        surfer = Surfer(own)
        assert "No key yet" in surfer.seen("/ui/account")
        _, key_id = surfer.make("ned")
        here = f"/ui/account/keys/{key_id}"
        assert surfer.fill(here, f"{here}/change", {"rpm": "5"}).status == 303
        fields = surfer.form(here, f"{here}/revoke")
        assert surfer.send(f"{here}/revoke", fields, origin="http://127.0.0.1:1").status == 403
        assert Surfer(own).send(f"{here}/revoke", fields).status == 403
        assert listed(own, key_id)["state"] == "active"


def _inputs(got: Answer) -> dict[str, str]:
    return dict(re.findall(r'<input[^>]*name="([^"]+)"[^>]*?value="([^"]*)"', got.body.decode()))


def _own_id(router: RouterServer, account: str) -> str:
    """Return the ledger's id of an account's request."""
    return next(
        row.request_id for row in ledger_rows(router) if row.account == account and row.kind == "hold"
    )


def test_how_to_add_credit_depends_on_what_is_switched_on() -> None:
    key = ApiKey("key_1", "ann", "rk_abcde", True, Limits(), (), None, None, "2026-01-01T00:00:00.000Z")

    def told(**more: bool) -> str:
        return html.unescape(render("account_topup.html", key=key, origin="https://router.example", **more))

    wallet = told(sells=True, need_credit=True)
    assert "curl https://router.example/v1/credits/topup \\\n" in wallet
    assert "-d '{\"amount_usd\": 5}'" in wallet
    assert "router keys topup key_1 5" in told(sells=False, need_credit=True)
    assert "needs none" in told(sells=False, need_credit=False)
