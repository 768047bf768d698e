"""`/admin/catalog`: who may see it, what it says, and a reload on demand."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from router.settings import Settings, load_settings
from tests.router import Answer, Offered, RouterServer, write_catalog
from tests.service.walking import bearer, make_key, request_id, wait_end, wait_for
from tests.serving import serve
from tests.upstream import ScriptedUpstream

KEY = "the operator's own"
LIVE_S = 5.0
FILE = "models/test/a.toml"
ROUTES = [("GET", "/admin/catalog"), ("POST", "/admin/catalog/reload")]


@pytest.fixture(scope="module")
def up() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as server:
        yield server


@pytest.fixture
def catalog(up: ScriptedUpstream, tmp_path: Path) -> Path:
    models = [Offered("test/a"), Offered("test/b", quality=None)]
    return write_catalog(tmp_path / "catalog", {"scripted": up.base_url}, models)


@pytest.fixture
def router(catalog: Path, tmp_path: Path) -> Iterator[RouterServer]:
    with RouterServer(catalog, tmp_path / "data", admin_key=KEY) as server:
        yield server


def shown(router: RouterServer) -> dict[str, Any]:
    return answered(router.request("GET", "/admin/catalog", None, bearer(KEY)))


def reloaded(router: RouterServer) -> dict[str, Any]:
    return answered(router.request("POST", "/admin/catalog/reload", None, bearer(KEY)))


def answered(got: Answer) -> dict[str, Any]:
    assert (got.status, got.headers["cache-control"]) == (200, "no-store")
    document: dict[str, Any] = got.json
    assert list(document) == ["revision", "applied_at", "files", "models", "offers", "warnings", "rejected"]
    return document


def price(catalog: Path, usd: str) -> None:
    file = catalog / FILE
    file.write_text(re.sub(r"input = [\d.]+,", f"input = {usd},", file.read_text()))


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize("key", [None, " "])
def test_without_the_setting_the_routes_are_off(
    catalog: Path, tmp_path: Path, method: str, path: str, key: str | None
) -> None:
    with RouterServer(catalog, tmp_path / "data", admin_key=key) as router:
        for headers in ({}, bearer(""), bearer(KEY)):
            got = router.request(method, path, None, headers)
            assert (got.status, got.error["name"]) == (404, "admin_off")
            assert "ROUTER_ADMIN_KEY" in got.error["message"]


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_only_the_operator_passes(router: RouterServer, method: str, path: str) -> None:
    customer, _ = make_key(router)
    basic = {"authorization": f"Basic {KEY}"}
    for headers in (
        bearer("x"),
        bearer(KEY[:-1]),
        bearer(KEY + "x"),
        bearer(customer),
        basic,
    ):
        got = router.request(method, path, None, headers)
        assert (got.status, got.error["name"], got.error["code"]) == (401, "invalid_api_key", 401)
        assert "Incorrect API key provided" in got.error["message"]
        assert KEY not in got.error["message"]
    assert router.request(method, path, None, {"authorization": f"bearer  {KEY} "}).status == 200


@pytest.mark.parametrize("headers", [{}, bearer(""), {"authorization": ""}, {"authorization": "Bearer"}])
def test_without_a_key_the_message_says_that_none_was_sent(
    router: RouterServer, headers: dict[str, str]
) -> None:
    got = router.request("GET", "/admin/catalog", None, headers)
    assert (got.status, got.error["name"]) == (401, "invalid_api_key")
    assert got.error["message"].startswith("No API key was sent: ")
    assert "Bearer $ROUTER_ADMIN_KEY" in got.error["message"]
    assert "Incorrect" not in got.error["message"]


def test_the_admin_key_is_no_customers_key(router: RouterServer) -> None:
    assert router.chat(headers=bearer(KEY)).status == 401


def test_the_key_is_not_shown_with_the_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ROUTER_ADMIN_KEY", KEY)
    monkeypatch.chdir(tmp_path)
    settings = load_settings()
    assert settings.admin_key is not None
    assert settings.admin_key.get_secret_value() == KEY
    assert KEY not in f"{settings!r} {settings}"
    assert Settings().model_dump_json().count(KEY) == 0


def test_it_says_what_serves_and_since_when(router: RouterServer) -> None:
    document = shown(router)

    assert document["revision"] == router.chat().headers["x-llm-router-catalog"]
    assert (document["files"], document["models"], document["offers"]) == (3, 2, 2)
    age = datetime.now(UTC) - datetime.fromisoformat(document["applied_at"])
    assert timedelta(0) <= age < timedelta(minutes=1)
    assert (document["warnings"], document["rejected"]) == ([], None)


def test_a_warning_has_its_file_line_field_and_message(router: RouterServer, catalog: Path) -> None:
    price(catalog, "9.0")
    assert reloaded(router)["warnings"] == [
        {
            "file": FILE,
            "line": 16,
            "path": "offers[0].price.input",
            "message": "input moved from 1 to 9 USD per million tokens; is it meant?",
        }
    ]
    assert len(reloaded(router)["warnings"]) == 1  # until the next edit


def test_a_reload_takes_an_edit_at_once_and_the_old_text_is_the_old_revision(
    router: RouterServer, catalog: Path
) -> None:
    text = (catalog / FILE).read_text()
    before = shown(router)
    price(catalog, "2.0")
    edited = reloaded(router)
    rows = [wait_end(router, request_id(router.chat(model="test/a")))]
    (catalog / FILE).write_text(text)
    again = reloaded(router)
    rows.append(wait_end(router, request_id(router.chat(model="test/a"))))

    assert edited["revision"] != before["revision"] == again["revision"]
    assert before["applied_at"] < edited["applied_at"] < again["applied_at"]
    assert [row.catalog for row in rows] == [edited["revision"], before["revision"]]
    assert rows[0].amount_nusd > rows[1].amount_nusd


def test_the_same_content_changes_nothing(router: RouterServer, catalog: Path) -> None:
    before = shown(router)
    serving = router.catalog.current
    (catalog / FILE).write_text((catalog / FILE).read_text())
    assert reloaded(router) == before
    assert router.catalog.current is serving


def test_a_faulty_edit_is_shown_with_every_fault_until_it_is_repaired(
    router: RouterServer, catalog: Path
) -> None:
    before = shown(router)
    text = (catalog / FILE).read_text()
    (catalog / FILE).write_text(text.replace("context = ", "context = -").replace("features", "featurs"))
    (catalog / "policy.toml").write_text('mode = "fast"\n')
    found = reloaded(router)

    rejected = found.pop("rejected")
    assert found == {name: value for name, value in before.items() if name != "rejected"}
    assert [(e["file"], e["line"], e["path"]) for e in rejected["errors"]] == [
        (FILE, 2, "context"),
        (FILE, 5, "featurs"),
        ("policy.toml", 1, "mode"),
    ]
    assert 'did you mean "features"?' in rejected["errors"][1]["message"]
    assert rejected["at"] > before["applied_at"]
    assert reloaded(router)["rejected"] == rejected  # since then, and still the same
    assert router.chat().headers["x-llm-router-catalog"] == before["revision"]

    (catalog / "policy.toml").unlink()
    assert len(reloaded(router)["rejected"]["errors"]) == 2
    (catalog / FILE).write_text(text)
    wait_for(lambda: True if shown(router)["rejected"] is None else None, "the repair", LIVE_S)
    assert shown(router) == before


def test_a_catalog_that_goes_away_serves_on(router: RouterServer, catalog: Path, tmp_path: Path) -> None:
    before = shown(router)
    shutil.move(catalog, tmp_path / "away")
    rejected = wait_for(lambda: shown(router)["rejected"], "the rejection", LIVE_S)
    assert rejected["errors"] == [
        {
            "file": str(catalog),
            "line": 1,
            "path": "",
            "message": "no such directory; a catalog's folder holds policy.toml, providers/*.toml"
            " and models/**/*.toml",
        }
    ]
    assert router.chat().status == 200
    shutil.move(tmp_path / "away", catalog)
    wait_for(lambda: True if shown(router) == before else None, "its return", LIVE_S)


def test_no_file_is_ever_written(router: RouterServer, catalog: Path) -> None:
    def files() -> dict[str, tuple[int, bytes]]:
        return {str(p): (p.stat().st_mtime_ns, p.read_bytes()) for p in catalog.rglob("*") if p.is_file()}

    price(catalog, "3.0")
    (catalog / "models/test/half.toml").write_text('name = "half')
    before = files()
    assert reloaded(router)["rejected"] is not None
    (catalog / "models/test/half.toml").unlink()
    assert reloaded(router)["rejected"] is None
    del before[str(catalog / "models/test/half.toml")]
    assert files() == before


def test_a_hangup_signal_reads_the_files_again(catalog: Path, tmp_path: Path) -> None:
    with serve(tmp_path, "--catalog", str(catalog)) as serving:
        serving.read_until("ready")
        serving.hang_up()
        serving.read_until("read again, as asked")
        (catalog / "policy.toml").write_text('mode = "fast"\n')
        serving.hang_up()
        serving.read_until('policy.toml:1: mode: unknown word "fast"')
        serving.terminate()
        assert serving.wait() == 0
