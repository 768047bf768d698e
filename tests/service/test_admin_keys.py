"""`/admin/keys`: the operator's way to keys without a shell."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from router.access.keys import well_formed
from tests.postgres import Cluster
from tests.router import Answer, Offered, RouterServer, write_catalog
from tests.service.walking import bearer, make_key, wait_all_ended
from tests.upstream import ScriptedUpstream

KEY = "the operator's own"
ADMIN = bearer(KEY)
ROUTES = [
    ("GET", "/admin/keys"),
    ("POST", "/admin/keys"),
    ("GET", "/admin/keys/key_1"),
    ("POST", "/admin/keys/key_1"),
    ("POST", "/admin/keys/key_1/topup"),
    ("DELETE", "/admin/keys/key_1"),
]


@pytest.fixture(scope="module")
def up() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as server:
        yield server


@pytest.fixture(scope="module")
def router(up: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RouterServer]:
    folder = tmp_path_factory.mktemp("admin")
    models = [Offered("test/a"), Offered("test/b")]
    catalog = write_catalog(folder / "catalog", {"scripted": up.base_url}, models)
    with RouterServer(catalog, folder / "data", admin_key=KEY, access="paid") as server:
        yield server


def made(router: RouterServer, **members: Any) -> dict[str, Any]:
    got = router.request("POST", "/admin/keys", {"name": "me", **members}, ADMIN)
    assert (got.status, got.headers["cache-control"]) == (200, "no-store")
    document: dict[str, Any] = got.json
    return document


def shown(router: RouterServer, key_id: str) -> dict[str, Any]:
    got = router.request("GET", f"/admin/keys/{key_id}", None, ADMIN)
    assert (got.status, got.headers["cache-control"]) == (200, "no-store")
    document: dict[str, Any] = got.json
    return document


def topup(router: RouterServer, key_id: str, usd: Any, external_id: str) -> Answer:
    return router.request(
        "POST", f"/admin/keys/{key_id}/topup", {"usd": usd, "external_id": external_id}, ADMIN
    )


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_only_the_operator_passes(router: RouterServer, method: str, path: str) -> None:
    customer, _ = make_key(router, "--credit", "1")
    for headers in ({}, bearer("x"), bearer(customer), {"authorization": f"Basic {KEY}"}):
        got = router.request(method, path, b"not even JSON", headers)
        assert (got.status, got.error["name"]) == (401, "invalid_api_key")
        assert got.headers["x-request-id"]


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_without_an_admin_key_there_are_no_such_routes(
    up: ScriptedUpstream, tmp_path: Path, method: str, path: str
) -> None:
    catalog = write_catalog(tmp_path / "catalog", {"scripted": up.base_url}, [Offered("test/a")])
    with RouterServer(catalog, tmp_path / "data") as router:
        for headers in ({}, bearer(""), ADMIN):
            got = router.request(method, path, None, headers)
            assert (got.status, got.error["name"]) == (404, "admin_off")


def test_a_key_is_shown_once_and_serves(router: RouterServer) -> None:
    document = made(router, credit_usd=Decimal("1.000000001").__float__())
    assert list(document) == ["id", "key", "name", "credit_usd"]
    assert well_formed(document["key"])
    assert router.chat(headers=bearer(document["key"])).status == 200
    listed = router.request("GET", "/admin/keys", None, ADMIN)
    assert document["id"] in [key["id"] for key in listed.json["data"]]
    assert document["key"] not in listed.body.decode()
    wait_all_ended(router)
    assert shown(router, document["id"])["requests"] == 1


def test_an_amount_is_exact(router: RouterServer) -> None:
    for usd in (b"0.1", b'"0.100000001"', b"1e-7", b"9007199254.740993"):
        body = b'{"name": "exact", "credit_usd": ' + usd + b"}"
        got = router.request("POST", "/admin/keys", body, ADMIN)
        assert Decimal(got.body.decode().split('"credit_usd":')[1].rstrip("}")) == Decimal(
            usd.decode().strip('"')
        )


def test_a_key_takes_all_that_the_command_line_takes(router: RouterServer) -> None:
    bounds = {"rpm": 10, "tpm": 1_000_000, "concurrency": 2, "budget_day_usd": 1.5, "budget_month_usd": 20}
    document = made(router, **bounds, credit_usd=5, models=["test/a"], expires="2099-12-31")
    key = shown(router, document["id"])
    assert {name: key[name] for name in bounds} == bounds
    assert (key["models"], key["expires_at"], key["state"]) == (
        ["test/a"],
        "2100-01-01T00:00:00.000Z",
        "active",
    )
    headers = bearer(document["key"])
    assert router.chat(headers=headers, model="test/a").status == 200
    assert router.chat(headers=headers, model="test/b").status != 200


def test_a_change_holds_at_once_and_null_takes_a_bound_away(router: RouterServer) -> None:
    document = made(router, credit_usd=5, rpm=1, budget_day_usd=2)
    path, headers = f"/admin/keys/{document['id']}", bearer(document["key"])
    assert [router.chat(headers=headers).status for _ in range(2)] == [200, 429]

    changed = router.request("POST", path, {"rpm": None, "name": "you", "models": ["test/b"]}, ADMIN)

    assert (changed.json["rpm"], changed.json["name"]) == (None, "you")
    assert changed.json["budget_day_usd"] == 2  # what is not named stays
    assert router.chat(headers=headers).headers["x-llm-router-resolved-model"] == "test/b"
    router.request("POST", path, {"expires": "2020-01-01"}, ADMIN)
    assert router.chat(headers=headers).status == 401
    assert router.request("POST", path, {"expires": None, "budget_day_usd": 0}, ADMIN).status == 200
    refused = router.chat(headers=headers)
    assert (refused.status, refused.error["name"]) == (402, "budget_exceeded")


def test_a_payment_is_booked_once(router: RouterServer) -> None:
    key_id = made(router, credit_usd=0)["id"]
    first, again = topup(router, key_id, 1.5, "invoice 1"), topup(router, key_id, 1.5, "invoice 1")
    assert first.json == {"id": key_id, "added": True, "credit_usd": 1.5}
    assert again.json == {"id": key_id, "added": False, "credit_usd": 1.5}
    assert topup(router, key_id, "0.5", "invoice 2").json["credit_usd"] == 2


def test_a_revoked_key_is_refused_and_stays_listed(router: RouterServer) -> None:
    document = made(router, credit_usd=1)
    key_id = document["id"]
    assert router.request("DELETE", f"/admin/keys/{key_id}", None, ADMIN).json == {
        "id": key_id,
        "revoked": True,
    }
    assert router.chat(headers=bearer(document["key"])).status == 401
    assert shown(router, key_id)["state"] == "revoked"
    for method, path, body in (
        ("DELETE", "", None),
        ("POST", "", {"rpm": 1}),
        ("POST", "/topup", {"usd": 1, "external_id": "late"}),
    ):
        got = router.request(method, f"/admin/keys/{key_id}{path}", body, ADMIN)
        assert (got.status, "revoked at" in got.error["message"]) == (404, True)


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("", {"name": "x", "account": "open"}, "account"),
        ("", {"name": "x", "prepaid": False}, "prepaid"),
        ("", {"name": "x", "id": "key_mine"}, "id"),
        ("", {}, "name"),
        ("", {"name": 1}, "name"),
        ("", {"name": "x", "rpm": "1"}, "rpm"),
        ("", {"name": "x", "rpm": 0}, None),
        ("", {"name": "x", "models": "test/*"}, "models"),
        ("", {"name": "x", "models": ["a", 1]}, "models"),
        ("", {"name": "x", "expires": "soon"}, "expires"),
        ("", {"name": "x", "credit_usd": -1}, None),
        ("", {"name": "x", "credit_usd": "0.0000000001"}, "credit_usd"),
        ("", {"name": "x", "credit_usd": "NaN"}, "credit_usd"),
        ("", {"name": "x", "budget_day_usd": 1e30}, "budget_day_usd"),
        ("", {"name": "x", "rpm": 2**31}, None),
        ("", {"name": "x", "tpm": 10**19}, None),
        ("", {"name": "x", "concurrency": 2**63}, None),
        ("", {"name": "x", "expires": "9999-12-31"}, None),
        ("", {"name": "x", "models": ["a\0"]}, None),
        ("", {"name": "x", "models": [""]}, None),
        ("", {"name": "a\0b"}, None),
        ("", {"name": "  "}, None),
        ("", b"{", None),
        ("", b"\xff", None),
        ("", b"[]", None),
        ("", b"[" * 5_000, None),
        ("/{id}", {"balance_nusd": 1}, "balance_nusd"),
        ("/{id}", {"credit_usd": 1}, "credit_usd"),
        ("/{id}", {"rpm": -1}, None),
        ("/{id}", {"name": ""}, None),
        ("/{id}", {"rpm": 2**63}, None),
        ("/{id}", {"expires": "9999-01-01"}, None),
        ("/{id}", {"models": ["\u202e"]}, None),
        ("/{id}/topup", {"usd": "9223372036.854775807", "external_id": "x"}, None),
        ("/{id}/topup", {"usd": 1, "external_id": "a\0"}, "external_id"),
        ("/{id}/topup", {"usd": 1, "external_id": "x" * 60_000}, "external_id"),
        ("/{id}/topup", {"usd": 1}, "external_id"),
        ("/{id}/topup", {"usd": 0, "external_id": "x"}, None),
        ("/{id}/topup", {"usd": -1, "external_id": "x"}, None),
        ("/{id}/topup", {"usd": 1, "external_id": " "}, "external_id"),
        ("/{id}/topup", {"usd": 1, "external_id": "x", "source": "cli"}, "source"),
    ],
)
def test_what_makes_no_sense_is_refused_and_changes_nothing(
    router: RouterServer, path: str, body: Any, param: str | None
) -> None:
    key_id = made(router, credit_usd=1, rpm=5)["id"]
    before = router.request("GET", "/admin/keys", None, ADMIN).json
    got = router.request("POST", f"/admin/keys{path}".replace("{id}", key_id), body, ADMIN)
    assert (got.status, got.error["param"]) == (400, param), got.body
    assert router.request("GET", "/admin/keys", None, ADMIN).json == before


def test_the_largest_values_are_kept(router: RouterServer) -> None:
    bounds = {"rpm": 2**31 - 1, "tpm": 2**31 - 1, "concurrency": 2**31 - 1}
    most = "9223372036.854775807"
    document = made(router, **bounds, credit_usd=most, budget_day_usd=most, expires="9998-12-31")
    key = shown(router, document["id"])
    assert {name: key[name] for name in bounds} == bounds
    assert key["expires_at"] == "9999-01-01T00:00:00.000Z"
    assert router.chat(headers=bearer(document["key"])).status == 200


def test_a_payment_that_filled_an_account_is_still_known(router: RouterServer) -> None:
    key_id = made(router, credit_usd=1)["id"]
    assert topup(router, key_id, "9223372035.854775807", "all of it").json["added"] is True
    again, more = topup(router, key_id, "9223372035.854775807", "all of it"), topup(router, key_id, 1, "more")
    assert (again.status, again.json["added"]) == (200, False)
    assert (more.status, "beyond what an account can hold" in more.error["message"]) == (400, True)


def test_a_body_that_is_too_large_is_413(router: RouterServer) -> None:
    got = router.request("POST", "/admin/keys", {"name": "x" * 100_000}, ADMIN)
    assert (got.status, got.error["name"]) == (413, "request_too_large")


@pytest.mark.parametrize(("method", "path"), ROUTES[2:])
def test_an_unknown_key_is_404(router: RouterServer, method: str, path: str) -> None:
    body = {"usd": 1, "external_id": "x"} if path.endswith("topup") else {}
    got = router.request(method, path, body if method == "POST" else None, ADMIN)
    assert (got.status, got.error["name"]) == (404, "not_found")
    assert "key_1" in got.error["message"]


@pytest.mark.parametrize("odd", ["a%00b", "%ff", "%0a", "%e2%80%ae", "x" * 3_000])
@pytest.mark.parametrize(("method", "path"), ROUTES[2:])
def test_an_odd_id_is_404(router: RouterServer, method: str, path: str, odd: str) -> None:
    body = {"usd": 1, "external_id": "odd"} if path.endswith("topup") else {}
    got = router.request(method, path.replace("key_1", odd), body if method == "POST" else None, ADMIN)
    assert (got.status, got.error["name"]) == (404, "not_found")


def test_postgresql_refuses_the_same(up: ScriptedUpstream, tmp_path: Path, cluster: Cluster) -> None:
    catalog = write_catalog(tmp_path / "catalog", {"scripted": up.base_url}, [Offered("test/a")])
    url = cluster.make_database()
    with RouterServer(catalog, tmp_path / "data", admin_key=KEY, database_url=url) as router:
        largest = {"rpm": 2**31 - 1, "credit_usd": "9000000000", "expires": "9998-12-31"}
        key_id = made(router, **largest)["id"]
        assert topup(router, key_id, 200_000_000, "first").json["added"] is True
        got = [
            topup(router, key_id, 200_000_000, "first"),  # known
            topup(router, key_id, 200_000_000, "second"),
            topup(router, key_id, 1, "a\0"),
            topup(router, key_id, 1, "x" * 60_000),
            router.request("POST", "/admin/keys", {"name": "x", "rpm": 2**63}, ADMIN),
            router.request("GET", "/admin/keys/a%00b", None, ADMIN),
            router.request("GET", "/v1/receipts/a%00b"),
        ]
    assert [answer.status for answer in got] == [200, 400, 400, 400, 400, 404, 404]
