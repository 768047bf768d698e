"""The catalog of a running service, and the pages beside the chat route: models, health, schema, CORS."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from litestar.routes import HTTPRoute

from router.api.chat import TOPUP_PATH
from router.app import World, create_app
from router.running import RunningCatalog, Sources
from router.settings import Settings
from tests.router import Offered, RouterServer, write_catalog
from tests.service.test_raw_sockets import Line
from tests.service.walking import bearer, make_key, question, request_id, wait_end, wait_for
from tests.upstream import ScriptedUpstream

LIVE_S = 5.0
ADMIN_KEY = "operator"
ORIGIN = "https://app.example.com"
MODELS = [
    Offered(
        "test/plain",
        price=(0.1, 0.4),
        context=50_000,
        max_output=4_000,
        limits="rpm = 600",
        features=("tools",),
    ),
    Offered("test/eyes", price=(3, 15)),
    Offered("test/text", price=(1, 2), input=("text",), quality={"simple": 40}),
    Offered("test/locked", provider="locked"),
    Offered("test/off", extra="enabled = false"),
]


@pytest.fixture(scope="module")
def up() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as server:
        yield server


def with_locked(folder: Path, up: ScriptedUpstream, models: list[Offered]) -> Path:
    """Write a catalog with the provider `locked`, whose key is not set."""
    catalog = write_catalog(folder, {"scripted": up.base_url}, models)
    return write_catalog(catalog, {"locked": up.base_url}, [], provider='key_env = "LOCKED_KEY"')


@pytest.fixture(scope="module")
def router(up: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RouterServer]:
    folder = tmp_path_factory.mktemp("running")
    catalog = with_locked(folder / "catalog", up, MODELS)
    with RouterServer(catalog, folder / "data", admin_key=ADMIN_KEY) as server:
        yield server


def test_an_edit_is_live_within_five_seconds_and_the_old_text_is_the_old_revision(
    up: ScriptedUpstream, tmp_path: Path
) -> None:
    catalog = write_catalog(
        tmp_path / "catalog", {"scripted": up.base_url}, [Offered("test/a"), Offered("test/b")]
    )
    file = catalog / "models/test/a.toml"
    text = file.read_text()
    with RouterServer(catalog, tmp_path / "data") as router:
        old = router.chat(model="test/a")
        file.write_text(text.replace("input = 1.0,", "input = 7.0,"))
        new = wait_for(lambda: changed(router, old.headers["x-llm-router-catalog"]), "the edit", LIVE_S)
        file.write_text(text)
        again = wait_for(lambda: changed(router, new.headers["x-llm-router-catalog"]), "the old text", LIVE_S)
        rows = [wait_end(router, request_id(got)) for got in (old, new, again)]

    revisions = [got.headers["x-llm-router-catalog"] for got in (old, new, again)]
    assert revisions[0] == revisions[2] != revisions[1]
    assert all(re.fullmatch("[0-9a-f]{12}", revision) for revision in revisions)
    assert [row.catalog for row in rows] == revisions
    prompt = old.json["usage"]["prompt_tokens"]
    assert rows[1].amount_nusd - rows[0].amount_nusd == 6_000 * prompt


def changed(router: RouterServer, revision: str) -> Any:
    got = router.chat(model="test/a")
    return got if got.headers["x-llm-router-catalog"] != revision else None


def test_a_broken_edit_changes_nothing_and_its_repair_is_taken(up: ScriptedUpstream, tmp_path: Path) -> None:
    catalog = write_catalog(tmp_path / "catalog", {"scripted": up.base_url}, [Offered("test/a")])
    sound = (catalog / "models/test/a.toml").read_text()
    broken = {
        "models/test/a.toml": sound.replace("name = ", "name == "),
        "models/test/new.toml": sound.replace("context = ", "context = -"),
        "policy.toml": '[aliases]\nx = "no/such"\n',
    }
    with RouterServer(catalog, tmp_path / "data") as router:
        revision = router.catalog.current.revision
        for file, text in broken.items():
            (catalog / file).write_text(text)
            wait_for(partial(rejected_for, router, file), file, LIVE_S)
            got = router.chat(model="test/a")
            assert (got.status, got.headers["x-llm-router-catalog"]) == (200, revision)
            (catalog / file).unlink()
            (catalog / "models/test/a.toml").write_text(sound)
        wait_for(lambda: True if rejected_file(router) is None else None, "the repair", LIVE_S)
        assert router.chat(model="test/a").headers["x-llm-router-catalog"] == revision


def rejected_for(router: RouterServer, file: str) -> bool | None:
    return True if rejected_file(router) == file else None


def rejected_file(router: RouterServer) -> str | None:
    """Name the one file that the last edit was rejected for."""
    rejected = router.catalog.rejected
    if rejected is None:
        return None
    (file,) = {fault.file for fault in rejected.faults}
    return file


@pytest.fixture(scope="module")
def locked(up: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a catalog of which nothing can be used."""
    folder = tmp_path_factory.mktemp("locked")
    return with_locked(folder, up, [Offered("test/locked", provider="locked")])


def test_the_demo_answers_only_when_nothing_else_can(
    up: ScriptedUpstream, locked: Path, tmp_path: Path, router: RouterServer
) -> None:
    assert router.chat().headers["x-llm-router-provider"] == "scripted"
    assert not any("demo" in entry["id"] for entry in router.request("GET", "/v1/models").json["data"])

    with RouterServer(locked, tmp_path / "data") as bare:
        got = bare.chat("Say hello to the demo")
        named = bare.chat(model="test/locked")
    assert (got.status, got.headers["x-llm-router-provider"]) == (200, "demo")
    assert "built-in demo" in got.json["choices"][0]["message"]["content"]
    assert (named.status, named.error["name"]) == (404, "model_not_available")

    with RouterServer(locked, tmp_path / "set", environ={"LOCKED_KEY": "k"}) as usable:
        assert usable.chat().headers["x-llm-router-provider"] == "locked"


def test_the_demo_can_be_forced(up: ScriptedUpstream, locked: Path, tmp_path: Path) -> None:
    with RouterServer(locked, tmp_path / "data", environ={"LOCKED_KEY": "k"}, demo=True) as router:
        assert router.chat().headers["x-llm-router-provider"] == "demo"
        assert "--demo" in router.chat(model="test/locked").error["message"]


def test_paid_access_never_falls_back_to_the_demo(locked: Path, tmp_path: Path) -> None:
    with RouterServer(locked, tmp_path / "data", access="paid") as router:
        key, _ = make_key(router, "--credit", "5")
        got = router.chat(headers=bearer(key))

    assert (got.status, got.error["name"]) == (404, "model_not_available")
    assert "LOCKED_KEY" in got.error["message"]


@pytest.mark.parametrize(("model", "says"), [("test/locked", "LOCKED_KEY"), ("test/off", "enabled = true")])
def test_a_model_that_cannot_be_used_names_the_setting(router: RouterServer, model: str, says: str) -> None:
    for got in (router.chat(model=model), router.request("GET", f"/v1/models/{model}")):
        assert (got.status, got.error["name"], got.error["param"]) == (404, "model_not_available", "model")
        assert says in got.error["message"]


@pytest.mark.parametrize("path", ["/v1/models", "/models"])
def test_the_model_list_is_what_can_be_served_now(router: RouterServer, path: str) -> None:
    listed = router.request("GET", path).json

    assert listed["object"] == "list"
    ids = ["auto", "simple", "coding", "reasoning", "vision", "test/eyes", "test/plain", "test/text"]
    assert sorted(entry["id"] for entry in listed["data"]) == sorted(ids)
    for entry in listed["data"]:
        assert entry["object"] == "model"
        assert isinstance(entry["created"], int)
        assert entry["owned_by"]
        assert router.chat(model=entry["id"]).status == 200


@pytest.mark.parametrize(
    "path", ["/v1/models/test/plain", "/models/test/plain", "/v1/models/llmrouter/test/plain"]
)
def test_one_model_has_the_catalogs_facts(router: RouterServer, path: str) -> None:
    entry = router.request("GET", path).json

    assert entry["id"] == "test/plain"
    assert (entry["context_length"], entry["max_output"]) == (50_000, 4_000)
    assert entry["architecture"]["input_modalities"] == ["image", "text"]
    assert {"tools", "tool_choice", "max_tokens"} <= set(entry["supported_parameters"])
    assert "response_format" not in entry["supported_parameters"]
    assert (entry["pricing"]["prompt"], entry["pricing"]["completion"]) == ("0.0000001", "0.0000004")
    assert set(entry["throughput"]) == {"prior", "measured"}
    assert entry["limits"] == {"concurrency": None, "rpm": 600, "tpm": None}


def test_an_unknown_model_of_the_list_is_a_404(router: RouterServer) -> None:
    got = router.request("GET", "/v1/models/test/plane")

    assert (got.status, got.error["name"]) == (404, "model_not_found")
    assert "test/plain" in got.error["message"]


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/healthz"])
def test_the_probes_answer(router: RouterServer, path: str) -> None:
    got = router.request("GET", path)
    assert (got.status, got.json) == (200, {"status": "ok"})


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/healthz"])
def test_a_probe_by_head_gets_the_same_without_a_body(router: RouterServer, path: str) -> None:
    said = b"%b " + path.encode() + b" HTTP/1.1\r\nhost: x\r\n%b\r\n"
    with Line(router, said % (b"GET", b"") + said % (b"HEAD", b"connection: close\r\n")) as line:
        data = line.hear().data
    (got, body), (head, rest) = (
        answer.split(b"\r\n\r\n") for answer in data.replace(b"}HTTP", b"}\0HTTP").split(b"\0")
    )
    assert got.startswith(b"HTTP/1.1 200 ")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"content-length: %d" % len(body) in head.lower()
    assert rest == b""


def test_the_metrics_count_requests_tokens_and_money(router: RouterServer) -> None:
    def value(name: str) -> float:
        got = router.request("GET", "/metrics")
        assert got.headers["content-type"].startswith("text/plain")
        found = re.search(rf"^{re.escape(name)} ([0-9.e+]+)$", got.body.decode(), re.MULTILINE)
        return float(found[1]) if found else 0.0

    names = (
        'router_requests_total{category="named",model="test/eyes",outcome="ok",payer="open"}',
        'router_requests_total{category="named",model="none",outcome="model_not_found",payer="open"}',
        'router_tokens_total{direction="completion",model="test/eyes"}',
        'router_cost_nusd_total{model="test/eyes"}',
    )
    before = [value(name) for name in names]
    got = router.chat(model="test/eyes")
    router.chat(model="no/such")
    row = wait_end(router, request_id(got))
    wait_for(lambda: True if value(names[3]) > before[3] else None, "the count")
    counted = [value(name) - old for name, old in zip(names, before, strict=True)]
    assert counted == [1, 1, row.completion_tokens, row.amount_nusd]


@pytest.mark.parametrize("path", ["/schema", "/docs", "/"])
def test_no_page_needs_another_host(router: RouterServer, path: str) -> None:
    got = router.request("GET", path)

    assert got.status == 200
    assert not re.search(rb"(?i)<script|(?:src|href)=[\"']?(?:https?:)?//|url\(|@import", got.body)


def app_routes(up: ScriptedUpstream, folder: Path) -> set[tuple[str, str]]:
    catalog = write_catalog(folder / "catalog", {"scripted": up.base_url}, [Offered("test/a")])
    fields: dict[str, Any] = {"data": folder / "data", "catalog": catalog}
    settings = Settings(**fields)
    sources = Sources(catalog, {}, lambda: datetime.now(UTC).date())
    app = create_app(settings, RunningCatalog(sources, {}), World(environ={}))

    async def run() -> None:
        async with app.lifespan():
            pass

    asyncio.run(run())
    found: set[tuple[str, str]] = set()
    for route in app.routes:
        if route.path_format.startswith(("/ui", "/favicon.ico")):  # pages for people, see tests/browser
            continue
        methods = route.methods - {"OPTIONS"} if isinstance(route, HTTPRoute) else {"POST"}
        found |= {(route.path_format, method.lower()) for method in methods}
    return found


def test_the_schema_lists_every_route_and_no_other(
    router: RouterServer, up: ScriptedUpstream, tmp_path: Path
) -> None:
    document = router.request("GET", "/schema/openapi.json").json

    documented = {(path, verb) for path, item in document["paths"].items() for verb in item}
    assert documented == app_routes(up, tmp_path)
    assert document["openapi"].startswith("3.1")
    examples = {
        "{model_id}": "test/plain",
        "{request_id}": request_id(router.chat(model="test/plain")),
        "{key_id}": make_key(router)[1],
    }
    for path, verb in sorted(documented, key=lambda route: route[1] == "delete"):
        asked = (
            document["paths"][path][verb].get("requestBody", {}).get("content", {}).get("application/json")
        )
        bodies = [None]
        if asked is not None:
            bodies = [example["value"] for example in asked.get("examples", {}).values()] or [question()]
        for body in bodies:
            got = router.request(
                verb.upper(),
                re.sub(r"\{\w+\}", lambda found: examples[found[0]], path),
                body,
                bearer(ADMIN_KEY) if path.startswith("/admin/") else None,
            )
            # Nobody sells here: test_payments_documented.py asks where somebody does.
            assert got.status == (404 if path == TOPUP_PATH else 200), (verb, path, got.body)
    references = set(re.findall(r'"\$ref": ?"([^"]+)"', router.request("GET", "/openapi.json").body.decode()))
    assert references
    assert all(reference.startswith("#/components/") for reference in references)


def preflight(router: RouterServer, origin: str) -> dict[str, str]:
    asked = {
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,x-stainless-os",
    }
    return router.request("OPTIONS", "/v1/chat/completions", None, {"origin": origin, **asked}).headers


def test_cors_is_off_by_default(router: RouterServer) -> None:
    for headers in (preflight(router, ORIGIN), router.chat(headers={"origin": ORIGIN}).headers):
        assert not [name for name in headers if name.startswith("access-control-")]


def test_a_browser_of_a_named_origin_may_call_and_no_other(up: ScriptedUpstream, tmp_path: Path) -> None:
    catalog = write_catalog(tmp_path / "catalog", {"scripted": up.base_url}, [Offered("test/a")])
    with RouterServer(catalog, tmp_path / "data", cors_origins=(ORIGIN, "http://localhost:3000")) as router:
        allowed, refused = preflight(router, ORIGIN), preflight(router, "https://evil.example")
        answers = [
            router.chat(headers={"origin": ORIGIN}),
            router.chat(stream=True, headers={"origin": ORIGIN}),
            router.chat(model="no/such", headers={"origin": ORIGIN}),
            router.request("GET", "/v1/models", None, {"origin": ORIGIN}),
            router.request("GET", "/nope", None, {"origin": ORIGIN}),
        ]
        strange = router.chat(headers={"origin": "https://evil.example"})

    assert allowed["access-control-allow-origin"] == ORIGIN
    assert "POST" in allowed["access-control-allow-methods"]
    assert "authorization" in allowed["access-control-allow-headers"].lower()
    assert refused.get("access-control-allow-origin") is None
    assert [got.status for got in answers] == [200, 200, 404, 200, 404]
    assert [got.headers.get("access-control-allow-origin") for got in answers] == [ORIGIN] * 5
    assert "x-llm-router-cost-usd" in answers[0].headers["access-control-expose-headers"]
    assert strange.headers.get("access-control-allow-origin") is None
