"""What the pages say of real requests: attempts, money, reasons, alerts, CSV; never a prompt."""

from __future__ import annotations

import csv
import html
import io
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from router.history.record import FAILED, group_of
from router.web.requests import NEW_ROWS
from tests.router import Answer, Asking, Offered, RouterServer, write_catalog
from tests.service.walking import bearer, make_key, request_id, wait_end, wait_for
from tests.serving import serve
from tests.upstream import ScriptedUpstream, answer, error_event_after, status

POLICY = 'baseline = "test/best"\n[bands.simple]\nbalanced = 50\n'
MODELS = [
    Offered("test/cheap", price=(1.0, 2.0)),
    Offered("test/next", price=(2.0, 4.0)),
    Offered("test/best", price=(10.0, 20.0)),
    Offered("test/off", extra="enabled = false"),
]


@pytest.fixture(scope="module")
def up() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as server:
        yield server


@pytest.fixture
def catalog(up: ScriptedUpstream, tmp_path: Path) -> Path:
    for model in ("test/cheap", "test/next", "test/best"):
        up.on(model, answer("yes"))
    return write_catalog(tmp_path / "catalog", {"scripted": up.base_url}, MODELS, policy=POLICY)


@pytest.fixture
def router(catalog: Path, tmp_path: Path) -> Iterator[RouterServer]:
    with RouterServer(catalog, tmp_path / "data") as server:
        yield server


def seen(router: RouterServer, path: str) -> str:
    """Return what a page says, without its tags."""
    got = router.request("GET", path)
    assert got.status == 200, got.body
    body = re.sub(r"(?s)<(script|title|option)\b.*?</\1>", " ", got.body.decode().replace("<wbr>", ""))
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


def test_one_request_and_its_attempts_are_told_apart(router: RouterServer, up: ScriptedUpstream) -> None:
    up.on("test/cheap", status(503), answer("yes"))
    got = router.chat("Say hello", model="auto")
    assert got.status == 200
    name = request_id(got)
    wait_end(router, f"{name}.2")

    text = seen(router, "/ui?range=1h")
    assert "Requests 1 " in text
    assert "100 %" in text
    assert re.search(r"Calls to upstreams .* scripted 2 1 50.0 % \w+ 1", text)
    detail = seen(router, f"/ui/requests/{name}")
    assert re.search(r"1 test/cheap scripted \w+ 503", detail)
    assert "2 test/next scripted answered 200" in detail
    assert "test/off" in detail
    assert detail.count("hold") >= 1
    assert "settle" in detail


def test_a_stream_that_breaks_is_a_failed_request_and_a_failed_call(
    router: RouterServer, up: ScriptedUpstream
) -> None:
    up.on("test/cheap", error_event_after(2))
    got = router.chat(stream=True)
    assert got.status == 200

    text = seen(router, f"/ui/requests/{request_id(got)}")
    assert "1 test/cheap scripted broke 200" in text
    assert "1 failed" in seen(router, "/ui")


def test_success_is_what_was_answered_of_all_that_should_have_been(
    up: ScriptedUpstream, tmp_path: Path, database_url: str | None
) -> None:
    up.on("test/one", answer("yes"), status(400), status(400), status(500), answer("yes"))
    models = [Offered("test/one", limits="rpm = 4"), Offered("test/off", extra="enabled = false")]
    catalog = write_catalog(tmp_path / "catalog", {"scripted": up.base_url}, models)
    with RouterServer(catalog, tmp_path / "data", database_url=database_url) as router:
        slow, poor = bearer(make_key(router, "--rpm", "1")[0]), bearer(make_key(router, "--credit", "0")[0])
        asked = [
            (200, "ok", router.chat(model="test/one", headers=slow)),
            (429, "rate_limit_exceeded", router.chat(model="test/one", headers=slow)),
            (402, "insufficient_credits", router.chat(model="test/one", headers=poor)),
            (404, "model_not_available", router.chat(model="test/off")),
            (400, "upstream_refused", router.chat(model="test/one")),
            (400, "upstream_refused", router.chat(model="test/one")),
            (502, "upstream_error", router.chat(model="test/one")),
            (429, "models_at_limit", router.chat(model="test/one")),
        ]
        text = seen(router, "/ui?range=1h")
        ended = router.request("GET", "/ui/requests.csv?outcome=all-failed&range=1h").body.decode()
        (bad,) = (got for _, name, got in asked if name == "upstream_error")
        by_id = router.request(
            "GET", f"/ui/requests.csv?outcome=all-failed&id={request_id(bad)}"
        ).body.decode()
        page = router.request("GET", "/ui/requests?outcome=all-failed").body.decode()

    for wanted, name, got in asked:
        assert (got.status, name) == (wanted, name if got.status == 200 else got.error["name"]), name
    assert "served ÷ (served + failed) = 1 ÷ 3: " in text
    assert re.search(r"33.3 % 2 failed · 5 refused · 0 left early", text), text
    rows = list(csv.DictReader(io.StringIO(ended)))
    assert {row["outcome"] for row in rows} == {"upstream_error", "models_at_limit"}
    assert {row["request_id"] for row in rows} >= {
        row["request_id"] for row in csv.DictReader(io.StringIO(by_id))
    }
    assert len(by_id.splitlines()) == 2
    assert page.count('class="row') == 2
    assert '<option value="all-failed" selected>' in page


def test_money_is_told_exactly_and_savings_are_those_of_the_same_tokens(router: RouterServer) -> None:
    got = router.chat(model="auto")
    usage = got.json["usage"]
    prompt, completion = usage["prompt_tokens"], usage["completion_tokens"]

    cost, best = prompt * 1000 + completion * 2000, prompt * 10_000 + completion * 20_000
    page = router.request("GET", "/ui").body.decode()
    usd = lambda nusd: f"{nusd / 1e9:.9f}".rstrip("0") + " USD"  # noqa: E731
    assert f'title="{usd(cost)}"' in page
    assert f"{usd(best)} − {usd(cost)}" in page
    assert f'title="{usd(best - cost)}"' in page
    assert "against test/<wbr>best" in page


def test_figures_outlive_the_service(catalog: Path, tmp_path: Path, database_url: str | None) -> None:
    with RouterServer(catalog, tmp_path / "data", database_url=database_url) as first:
        before = _requests(seen(first, "/ui?range=30d"))
        name = request_id(first.chat())
    with RouterServer(catalog, tmp_path / "data", database_url=database_url) as second:
        assert _requests(seen(second, "/ui?range=30d")) == before + 1
        assert "test/cheap" in seen(second, f"/ui/requests/{name}")


def _requests(text: str) -> int:
    found = re.search(r"Requests (\d+) \S+ tokens", text)
    assert found is not None, text
    return int(found[1])


def test_no_prompt_and_no_answer_is_kept(router: RouterServer, up: ScriptedUpstream) -> None:
    up.on("test/cheap", answer("the answer is blancmange"))
    name = request_id(router.chat("what goes with quicksilver marmalade?"))

    pages = [router.request("GET", path).body for path in ("/ui", "/ui/requests", f"/ui/requests/{name}")]
    pages += [router.request("GET", "/ui/requests.csv").body]
    pages += [path.read_bytes() for path in router.data.glob("history.db*")]
    assert len(pages) > 4
    for each in pages:
        assert b"marmalade" not in each
        assert b"blancmange" not in each


def test_filters_leave_what_was_asked_for(router: RouterServer) -> None:
    ok = request_id(router.chat())
    bad = router.chat(model="test/off")
    named = request_id(router.chat(model="test/next", headers={"x-request-id": "mine-1"}))
    assert (bad.status, named) == (404, "mine-1")

    def ids(query: str) -> set[str]:
        rows = list(
            csv.DictReader(io.StringIO(router.request("GET", f"/ui/requests.csv?{query}").body.decode()))
        )
        return {row["client_request_id"] or row["request_id"] for row in rows}

    assert len(ids("")) == 3
    assert ids("outcome=ok") == {ok, "mine-1"}
    assert ids("model=test/next") == ids("id=mine") == ids("category=named&outcome=ok") == {"mine-1"}
    assert ids("outcome=not-ok") == {bad.headers["x-request-id"]}
    assert ids("outcome=ok&range=1h&account=open&category=simple") == {ok}
    assert ids("account=key_1") == set()
    page = router.request("GET", "/ui/requests?model=test/next").body.decode()
    assert 'href="/ui/requests.csv?model=test%2Fnext"' in page
    assert page.count('class="row') == 1


def test_what_is_new_comes_alone(router: RouterServer) -> None:
    router.chat()
    newest = re.search(r'id="newest" value="(\d+)"', router.request("GET", "/ui/requests").body.decode())
    assert newest is not None
    assert router.request("GET", f"/ui/requests/new?after={newest[1]}").status == 204
    name = request_id(router.chat())

    got = router.request("GET", f"/ui/requests/new?after={newest[1]}")
    assert got.body.count(b'class="row') == 1
    assert name.encode() in got.body
    assert f'value="{int(newest[1]) + 1}" hx-swap-oob'.encode() in got.body
    assert router.request("GET", f"/ui/requests/new?after={newest[1]}&model=test/best").status == 204


def test_what_the_live_log_leaves_out_is_counted_and_one_click_away(
    router: RouterServer, up: ScriptedUpstream
) -> None:
    up.on("test/cheap", status(400))
    names = []
    for number in range(NEW_ROWS + 40):
        got = router.chat(model="test/cheap" if number % 20 else "test/next")
        assert got.status == (400 if number % 20 else 200)
        names.append(request_id(got))

    got = router.request("GET", "/ui/requests/new?after=0")
    assert listed(got) == names[: -NEW_ROWS - 1 : -1]
    assert b"40 more ended in between and are not listed here." in got.body
    [older] = re.findall(r'href="(/ui/requests\?[^"]+)">Show them', got.body.decode())
    assert listed(router.request("GET", html.unescape(older))) == names[39::-1]

    newest = re.search(r'name="after" id="newest" value="(\d+)"', got.body.decode())
    assert newest is not None
    seen_before = int(newest[1]) - NEW_ROWS
    got = router.request("GET", f"/ui/requests/new?after={seen_before}")
    assert listed(got) == names[: -NEW_ROWS - 1 : -1]
    assert b"more ended" not in got.body
    failed = router.request("GET", "/ui/requests/new?after=0&outcome=not-ok").body
    assert b"33 more ended in between" in failed
    assert b'href="/ui/requests?outcome=not-ok&amp;before=' in failed
    few = router.request("GET", "/ui/requests/new?after=0&model=test/next")
    assert listed(few) == names[::20][::-1]
    assert b"more ended" not in few.body


def listed(got: Answer) -> list[str]:
    """Return the requests of a page's rows."""
    return re.findall(r'class="open" href="/ui/requests/(\w+)"', got.body.decode())


@pytest.mark.parametrize(
    "text", ["=cmd|' /C calc'!A0", '+1+"1"', "-2", "@SUM(A1)", "<script>alert(1)</script>"]
)
def test_what_clients_send_is_text_in_pages_and_in_spreadsheets(router: RouterServer, text: str) -> None:
    router.chat(headers={"x-request-id": text})

    got = router.request("GET", "/ui/requests.csv")
    assert got.headers["content-type"].startswith("text/csv")
    assert got.body.endswith(b"\r\n")
    assert got.body.count(b"\r\n") == got.body.count(b"\n") == 2
    [row] = csv.DictReader(io.StringIO(got.body.decode(), newline=""))
    assert row["client_request_id"] == (text if text.startswith("<") else f"'{text}")
    page = router.request("GET", f"/ui/requests/{row['request_id']}").body.decode()
    assert html.escape(text, quote=False).replace("'", "&#39;").replace('"', "&#34;") in page
    assert "<script>alert" not in page


def test_a_long_log_goes_out_whole(router: RouterServer) -> None:
    names = [request_id(router.chat()) for _ in range(60)]
    first = router.request("GET", "/ui/requests").body.decode()
    older = re.search(r'href="(/ui/requests\?before=\d+)"', first)
    assert older is not None
    pages = first + router.request("GET", older[1]).body.decode()

    assert [name for name in names if name not in pages] == []
    assert pages.count('class="row') == 60
    rows = router.request("GET", "/ui/requests.csv").body.decode().splitlines()
    assert [row.split(",")[1] for row in rows[1:]] == names[::-1]


def test_what_is_wrong_stands_on_top_with_its_fix(
    catalog: Path, tmp_path: Path, up: ScriptedUpstream
) -> None:
    old = (catalog / "models/test/next.toml").read_text().replace("2026-11-01", "2025-01-01")
    (catalog / "models/test/next.toml").write_text(old)
    up.on("test/cheap", status(401))
    key = {"authorization": "Bearer the operator"}
    with RouterServer(catalog, tmp_path / "data", admin_key="the operator") as router:
        calm = router.request("GET", "/ui", None, key).body.decode()
        made = router.request("POST", "/admin/keys", {"name": "ann", "credit_usd": 0.4}, key).json
        assert router.chat(headers={"authorization": f"Bearer {made['key']}"}).status == 200
        (catalog / "models/test/best.toml").write_text('name = "x"\ncontext = "many"\n')
        router.request("POST", "/admin/catalog/reload", None, key)
        page = router.request("GET", "/ui", None, key).body.decode()

    assert "older than 90 days" in calm
    assert "rejected" not in calm
    text = " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())
    assert "The last catalog edit is rejected" in text
    assert "models/test/best.toml:2: context:" in text
    assert re.search(r"test/cheap at scripted: the key was refused \(401\) check the key", text)
    assert re.search(r"A key runs low .*ann \(rk_\w+…\): \$0\.4", text)
    assert text.index("rejected") < text.index("older than 90 days")


def test_what_fails_at_another_process_is_told_from_the_history(
    catalog: Path, tmp_path: Path, up: ScriptedUpstream, database_url: str | None
) -> None:
    up.on("test/next", *[status(503)] * 12)
    up.on("test/best", status(401))
    with (
        RouterServer(catalog, tmp_path / "data", database_url=database_url) as one,
        RouterServer(catalog, tmp_path / "data", database_url=database_url) as other,
    ):
        for _ in range(6):
            assert one.chat(model="test/next").status >= 500
        assert one.chat(model="test/best").status >= 500
        assert one.chat(model="test/cheap").status == 200
        seen(one, "/ui")  # it writes what it knows
        text = seen(other, "/ui")
        own = seen(one, "/ui")

    assert "Calls of 2 offers fail In the last 10 minutes" in text
    assert re.search(r"test/next at scripted: \d+ of \d+ calls failed \(unavailable \d+\)", text), text
    assert "test/best at scripted: 1 of 1 calls failed (auth 1)" in text
    assert "test/cheap at" not in text
    assert "test/best at scripted: the key was refused (401)" in own
    assert "of 1 calls failed" not in own  # it is told once


def test_without_a_history_the_pages_say_how_to_have_one(catalog: Path, tmp_path: Path) -> None:
    with RouterServer(catalog, tmp_path / "data", history_requests=0) as router:
        assert router.chat().status == 200
        assert "ROUTER_HISTORY_REQUESTS" in seen(router, "/ui")
        assert router.request("GET", "/ui/requests").status == 404
        assert not list(router.data.glob("history*"))


def test_a_request_that_only_the_ledger_knows_is_shown(catalog: Path, tmp_path: Path) -> None:
    with RouterServer(catalog, tmp_path / "data", history_requests=0) as router:
        name = request_id(router.chat())
        wait_end(router, name)
        assert "settle" in seen(router, f"/ui/requests/{name}")
        assert router.request("GET", "/ui/requests/req_nope").status == 404


def test_every_outcome_has_its_meaning() -> None:
    assert {
        "upstream_error",
        "upstream_timeout",
        "internal_error",
        "unavailable",
        "models_at_limit",
    } <= FAILED
    meant = {
        "ok": "served",
        "replayed": "served",
        "client_gone": "left",
        "storage_unavailable": "failed",
        "insufficient_credits": "refused",
        "invalid_api_key": "refused",
        "rate_limit_exceeded": "refused",
        "models_at_limit": "failed",
        "upstream_rate_limited": "failed",
        "upstream_refused": "refused",
        "an_upstreams_own_word": "refused",
    }
    assert {name: group_of(name) for name in meant} == meant


def test_a_customers_requests_are_found_by_their_account(catalog: Path, tmp_path: Path) -> None:
    key = {"authorization": "Bearer the operator"}
    with RouterServer(catalog, tmp_path / "data", admin_key="the operator") as router:
        text, account = make_key(router)
        router.chat(headers={"authorization": f"Bearer {text}"})
        router.chat()
        rows = (
            router.request("GET", f"/ui/requests.csv?account={account}", None, key).body.decode().splitlines()
        )
        assert len(rows) == 2
        assert account in rows[1]


def test_any_worker_tells_what_all_have_served(tmp_path: Path) -> None:
    with serve(tmp_path, "--demo", "--workers", "2") as serving:
        serving.read_until("2 workers are ready")
        ask = Elsewhere(serving.port)
        for _ in range(20):
            assert ask.chat().status == 200

        def all_told() -> bool | None:
            texts = [ask.request("GET", "/ui?range=1h").body.decode() for _ in range(6)]
            return all(re.search(r'<dd class="value"><span>20</span></dd>', text) for text in texts) or None

        wait_for(all_told, "both workers to tell of 20 requests", 20.0)
        rows = ask.request("GET", "/ui/requests.csv").body.decode().splitlines()
        assert len({row.split(",")[1] for row in rows[1:]}) == 20


class Elsewhere(Asking):
    """Ask a router that another process runs."""

    def __init__(self, port: int) -> None:
        self.port = port
