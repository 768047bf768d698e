"""What `/ui/models` says of the catalog: to the operator, to everybody; sorted, filtered, with its faults."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.router import Offered, RouterServer, write_catalog
from tests.upstream import ScriptedUpstream, status

ADMIN_KEY = "the operator's own key"
OPERATOR = {"authorization": f"Bearer {ADMIN_KEY}"}
OLD = (datetime.now(UTC) - timedelta(days=120)).date()
MODELS = [
    Offered(
        "test/cheap",
        price=(1.0, 2.0),
        limits="concurrency = 4, rpm = 600, tpm = 2_000_000",
        extra="when = [ { above_input = 20_000, input = 1.6, output = 6.8 },"
        ' { utc = "00:00-24:00", multiply = 2 }, { utc = "22:30-04:00", days = "mon-fri", output = 9 } ]\n'
        "speed = { ttft_s = 0.4, tok_s = 120 }",
    ),
    Offered("test/dear", price=(10.0, 20.0), context=50_000, quality={"coding": 95}),
    Offered("test/plain", price=(3.0, 4.0), input=("text",), features=(), quality=None),
    Offered("test/locked", provider="keyed"),
]


@pytest.fixture(scope="module")
def up() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as server:
        yield server


@pytest.fixture
def catalog(up: ScriptedUpstream, tmp_path: Path) -> Path:
    folder = tmp_path / "catalog"
    write_catalog(folder, {"keyed": "https://keyed.example/v1"}, [], provider='key_env = "KEYED_API_KEY"')
    write_catalog(folder, {"scripted": up.base_url}, MODELS, policy="markup = 1.5\n")
    file = folder / "models/test/dear.toml"
    file.write_text(file.read_text().replace("price_as_of = 2026-11-01", f"price_as_of = {OLD}"))
    return folder


@pytest.fixture
def router(catalog: Path, tmp_path: Path) -> Iterator[RouterServer]:
    with RouterServer(catalog, tmp_path / "data", admin_key=ADMIN_KEY) as server:
        yield server


@pytest.fixture
def operated(catalog: Path, tmp_path: Path) -> Iterator[RouterServer]:
    """Serve where whoever sits at this machine is the operator."""
    with RouterServer(catalog, tmp_path / "data") as server:
        yield server


def seen(router: RouterServer, path: str) -> str:
    """Return what a page says, without its tags."""
    got = router.request("GET", path)
    assert got.status == 200, got.body
    body = re.sub(r"(?s)<(title|option)\b.*?</\1>", " ", got.body.decode())
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


def models(router: RouterServer, query: str = "") -> list[str]:
    """Return the models of the page in their order."""
    body = router.request("GET", f"/ui/models?{query}").body.decode()
    return re.findall(r'class="open" href="/ui/models/([^"]+)"', body)


def test_anybody_sees_what_is_served_and_what_they_pay(router: RouterServer) -> None:
    assert models(router) == ["test/cheap", "test/dear", "test/plain"]
    text = seen(router, "/ui/models/test/dear")
    assert re.search(r"Scripted|scripted", text)
    assert " 15.00 30.00 " in text  # with the markup
    pages = [router.request("GET", path).body for path in ("/ui/models", "/ui/models/test/dear")]
    for page in pages:
        for secret in (b"KEYED_API_KEY", b"dear.toml", b"test/locked", b"10.00"):
            assert secret not in page, secret
    assert router.request("GET", "/ui/models/test/locked").status == 404
    assert router.request("GET", "/ui/models/no/such").status == 404
    assert models(router, "state=unusable") == models(router)


def test_programs_are_told_the_price_that_they_pay(router: RouterServer) -> None:
    (dear,) = [each for each in router.request("GET", "/v1/models").json["data"] if each["id"] == "test/dear"]
    assert (dear["pricing"]["prompt"], dear["pricing"]["completion"]) == ("0.000015", "0.00003")
    (provider,) = router.request("GET", "/v1/catalog").json["providers"]
    (dear,) = [each for each in provider["models"] if each["id"] == "test/dear"]
    assert dear["pricing"]["inputMicrosPerMillion"] == 15_000_000
    assert dear["pricing"]["outputMicrosPerMillion"] == 30_000_000


def test_the_admin_key_in_a_header_is_the_operators_here_too(router: RouterServer) -> None:
    got = router.request("GET", "/ui/models/test/dear", None, {"authorization": f"Bearer {ADMIN_KEY}"})
    assert b"dear.toml" in got.body
    customer = router.request("GET", "/ui/models/test/dear", None, {"authorization": "Bearer rk_some_key"})
    assert (customer.status, b"dear.toml" in customer.body) == (200, False)


def test_the_operator_sees_costs_sources_and_what_is_missing(operated: RouterServer) -> None:
    assert "test/locked" in models(operated)
    text = seen(operated, "/ui/models/test/locked")
    assert "off set KEYED_API_KEY" in text
    assert re.search(r"locked\.toml:13 ", text), text
    text = seen(operated, "/ui/models/test/dear")
    assert " 10.00 20.00 " in text
    assert "customers pay: in 15.00, out 30.00" in text
    assert f"{OLD} 120 days old" in text
    assert "the price is 120 days old" in text


def test_tiers_and_times_of_prices_can_be_read(operated: RouterServer, router: RouterServer) -> None:
    text = seen(operated, "/ui/models/test/cheap")

    assert "prompts above 20,000 tokens: in 1.60, out 6.80" in text
    assert "00:00–24:00 UTC: × 2 now" in text
    assert "22:30–04:00 UTC, Mon–Fri: out 9.00" in text
    assert re.search(r"usable 2\.00 (4\.00|9\.00|18\.00) ", text)  # as of this moment
    assert "4 at once 600 requests/min 2,000,000 tokens/min" in text
    assert "prompts above 20,000 tokens: in 2.40, out 10.20" in seen(router, "/ui/models/test/cheap")


def test_measured_speeds_and_faults_stand_beside_the_priors(
    operated: RouterServer, up: ScriptedUpstream
) -> None:
    assert operated.chat(model="test/cheap", stream=True).status == 200
    up.on("test/dear", status(401))
    assert operated.chat(model="test/dear").status >= 500

    assert "prior 400 ms" in seen(operated, "/ui/models")
    text = seen(operated, "/ui/models/test/dear")
    assert "resting" in text
    assert "100 %" in text
    assert models(operated, "state=resting") == ["test/dear"]
    assert "1 resting" in seen(operated, "/ui/models?state=resting")


def test_columns_sort_both_ways_and_who_has_no_figure_comes_last(operated: RouterServer) -> None:
    by_price = ["test/locked", "test/cheap", "test/plain", "test/dear"]
    assert models(operated, "sort=in") == by_price
    assert models(operated, "sort=in&order=back") == by_price[::-1]
    assert models(operated, "sort=coding")[:1] == ["test/dear"]
    assert models(operated, "sort=coding")[-1:] == ["test/plain"]
    assert models(operated, "sort=coding&order=back")[-1:] == ["test/plain"]
    assert models(operated, "sort=checked")[-1:] == ["test/dear"]
    assert models(operated, "sort=model&order=back")[0] == "test/plain"
    assert sorted(models(operated, "sort=nonsense")) == sorted(by_price)
    body = operated.request("GET", "/ui/models?sort=in&q=test").body.decode()
    assert 'aria-sort="ascending"' in body
    assert "/ui/models?q=test&amp;sort=in&amp;order=back" in body


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("q=CHEAP", {"test/cheap"}),
        ("q=no-such", set()),
        ("provider=keyed", {"test/locked"}),
        ("can=image", {"test/cheap", "test/dear", "test/locked"}),
        ("can=tools&category=simple", {"test/cheap", "test/locked"}),
        ("state=unusable", {"test/locked"}),
        ("state=old+prices", {"test/dear"}),
        ("state=%3Cscript%3E&can=%22", set()),
    ],
)
def test_filters_leave_what_was_asked_for(operated: RouterServer, query: str, found: set[str]) -> None:
    assert set(models(operated, query)) == found


def test_a_rejected_edit_is_shown_to_the_operator_alone(catalog: Path, router: RouterServer) -> None:
    file = catalog / "models/test/dear.toml"
    file.write_text(file.read_text() + "nonsense = 1\n")
    assert router.request("POST", "/admin/catalog/reload", None, OPERATOR).json["rejected"]

    form = {"content-type": "application/x-www-form-urlencoded", "origin": router.origin}
    got = router.request("POST", "/ui/sign-in", b"key=the+operator%27s+own+key", form)
    cookie = {"cookie": got.headers["set-cookie"].partition(";")[0]}
    body = router.request("GET", "/ui/models", None, cookie).body.decode()
    assert "The last catalog edit is rejected" in body
    assert "models/test/dear.toml:14" in body
    assert "rejected" not in seen(router, "/ui/models")


def test_a_thousand_offers_are_one_page(up: ScriptedUpstream, tmp_path: Path) -> None:
    many = [Offered(f"maker{i % 20}/model-{i}", price=(1.0 + i, 2.0)) for i in range(1_000)]
    folder = write_catalog(tmp_path / "many", {"scripted": up.base_url}, many)
    with RouterServer(folder, tmp_path / "data") as router:
        assert len(models(router)) == 1_000
        assert models(router, "q=model-77+maker17") == ["maker17/model-77", "maker17/model-777"]
