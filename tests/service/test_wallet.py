"""The wallet as its operator sees it: routes, command, balances, what becomes of signatures, crashes."""

from __future__ import annotations

import asyncio
import http.client
import json
import signal
import stat
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from router.access.wallet import Wallet
from router.ledger.engines import open_storage
from router.ledger.spending import Caps, Spend
from router.settings import Settings
from tests.chain_rpc import ScriptedChain
from tests.router import Offered, RouterServer, write_catalog
from tests.selling import ADDRESS, KEY, SEPOLIA, USDC, Shop
from tests.service.ledgers import Books
from tests.service.walking import bearer, make_key, run_command, wait_for
from tests.serving import run_router, serve
from tests.upstream import ScriptedUpstream, answer, hang
from tests.workers import Workers

MODEL = "test/sold"
NOW = "2026-11-01T12:00:00.000Z"


@pytest.fixture
def up() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as server:
        server.on(MODEL, Shop())
        yield server


@pytest.fixture
def chain() -> Iterator[ScriptedChain]:
    with ScriptedChain() as running:
        yield running


def catalog_of(up: ScriptedUpstream, folder: Path, pays: str = "x402") -> Path:
    return write_catalog(
        folder / "catalog", {"scripted": up.base_url}, [Offered(MODEL)], provider=f'pays = "{pays}"'
    )


def shown(folder: Path, *arguments: str, **environ: str) -> dict[str, Any]:
    done = run_router(folder, "wallet", "--json", "--data", "data", *arguments, **environ)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_open_access_shows_the_wallet_to_anybody(up: ScriptedUpstream, tmp_path: Path) -> None:
    with RouterServer(catalog_of(up, tmp_path), tmp_path / "data", wallet_key=KEY) as router:
        assert router.chat(model=MODEL).status == 200
        one, other = (router.request("GET", path) for path in ("/wallet", "/v1/wallet"))
    assert one.json["address"] == ADDRESS
    assert {network["network"]: network["balance"] for network in one.json["networks"]} == {
        "eip155:8453": None,
        SEPOLIA: None,
    }
    assert one.json["caps"] == {"request_usd": 0.5, "day_usd": 5}
    assert one.json["can_pay"]
    assert one.headers["cache-control"] == "no-store"
    assert len(one.json["payments"]) == 1
    assert "messages" not in one.body.decode()
    assert "hello" not in one.body.decode().lower()
    assert other.json["address"] == ADDRESS


def test_paid_access_shows_payments_to_the_operator_alone(up: ScriptedUpstream, tmp_path: Path) -> None:
    catalog = catalog_of(up, tmp_path)
    with RouterServer(
        catalog, tmp_path / "data", wallet_key=KEY, access="paid", admin_key="operator"
    ) as router:
        key, _ = make_key(router, "--credit", "1")
        assert router.chat(model=MODEL, headers=bearer(key)).status == 200
        nobody, stranger, customer, operator = (
            router.request("GET", "/wallet", headers=headers)
            for headers in ({}, bearer("rk_no"), bearer(key), bearer("operator"))
        )
    assert (nobody.status, stranger.status) == (401, 401)
    assert customer.json["address"] == operator.json["address"] == ADDRESS
    assert "payments" not in customer.json
    assert len(operator.json["payments"]) == 1


def test_balances_come_from_the_rpc_once_in_a_while(
    up: ScriptedUpstream, tmp_path: Path, chain: ScriptedChain
) -> None:
    chain.balance = 1_234_567
    settings = {"wallet_key": KEY, "wallet_rpc": chain.url}
    with RouterServer(catalog_of(up, tmp_path), tmp_path / "data", **settings) as router:
        for _ in range(3):
            found = router.request("GET", "/wallet").json["networks"]
        assert chain.asked.count("eth_call") == 1
        router.skip(11)
        chain.broken = b"<html>secret-path"
        after = router.request("GET", "/wallet")
    assert [(n["balance"], n["balance_usd"]) for n in found] == [(None, None), ("1234567", 1.234567)]
    assert [n["balance"] for n in after.json["networks"]] == [None, None]
    assert "secret-path" not in after.body.decode() + router.log.getvalue()


def test_an_rpc_that_is_away_costs_nobody_the_page(up: ScriptedUpstream, tmp_path: Path) -> None:
    settings = {"wallet_key": KEY, "wallet_rpc": "http://127.0.0.1:1/x"}
    with RouterServer(catalog_of(up, tmp_path), tmp_path / "data", **settings) as router:
        got = router.request("GET", "/wallet")
    assert (got.status, got.json["address"]) == (200, ADDRESS)


def test_the_key_is_made_when_an_offer_needs_it_and_at_no_other_time(
    up: ScriptedUpstream, tmp_path: Path
) -> None:
    file = tmp_path / "data" / "wallet.key"
    with RouterServer(catalog_of(up, tmp_path / "a", "none"), tmp_path / "data") as router:
        found = router.request("GET", "/wallet").json
    assert (found["address"], found["can_pay"], file.exists()) == (None, True, False)
    with RouterServer(catalog_of(up, tmp_path / "b"), tmp_path / "data") as router:
        made = router.request("GET", "/wallet").json["address"]
        before = file.read_bytes()
        assert router.chat(model=MODEL).status == 200
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with RouterServer(tmp_path / "b" / "catalog", tmp_path / "data") as router:
        assert router.request("GET", "/wallet").json["address"] == made
    assert file.read_bytes() == before


def test_a_key_that_others_may_read_pays_nothing_and_says_so(up: ScriptedUpstream, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    file = tmp_path / "data" / "wallet.key"
    file.write_text(KEY)
    file.chmod(0o644)
    with RouterServer(catalog_of(up, tmp_path), tmp_path / "data", access="paid", admin_key="a") as router:
        found = router.request("GET", "/wallet", headers=bearer("a"))
        (offer,) = router.catalog.current.models[MODEL].offers
    assert found.status == 200
    assert f"chmod 600 {file}" in found.json["blocked"]
    assert f"chmod 600 {file}" in (offer.unusable or "")
    assert not found.json["can_pay"]
    assert KEY[2:] not in found.body.decode()


def test_the_command_works_before_the_first_start_and_makes_a_key_when_asked(tmp_path: Path) -> None:
    assert shown(tmp_path)["address"] is None
    assert not (tmp_path / "data").exists()
    made = shown(tmp_path, "--make")
    assert shown(tmp_path)["address"] == made["address"] == shown(tmp_path, "--make")["address"]
    assert shown(tmp_path, ROUTER_WALLET_KEY=KEY)["address"] == ADDRESS
    text = run_router(tmp_path, "wallet", "--data", "data", ROUTER_WALLET_CAP_DAY_USD="0").stdout
    assert "set ROUTER_WALLET_CAP_DAY_USD above 0" in text
    assert made["address"] in text


def test_the_command_works_beside_a_running_service(up: ScriptedUpstream, tmp_path: Path) -> None:
    with RouterServer(catalog_of(up, tmp_path), tmp_path / "data") as router:
        assert router.chat(model=MODEL).status == 200
        address = router.request("GET", "/wallet").json["address"]
        found = run_command(router, "wallet", "--json")
        text = run_command(router, "wallet").output
    assert json.loads(found.output)["address"] == address
    assert json.loads(found.output)["payments"][0]["usd"] == 0.01
    assert address in text
    assert "0.01 USD" in text


def test_the_catalog_commands_say_what_keeps_the_wallet_from_paying(
    up: ScriptedUpstream, tmp_path: Path
) -> None:
    catalog = catalog_of(up, tmp_path)
    environ = {"ROUTER_WALLET_CAP_REQUEST_USD": "0"}
    checked = run_router(tmp_path, "catalog", "check", str(catalog), **environ)
    listed = run_router(tmp_path, "catalog", "show", MODEL, "--catalog", str(catalog), **environ)
    good = run_router(tmp_path, "catalog", "check", str(catalog))
    assert (
        "scripted.toml:3: pays: its offers are off: set ROUTER_WALLET_CAP_REQUEST_USD above 0"
        in checked.stdout
    )
    assert "set ROUTER_WALLET_CAP_REQUEST_USD" in " ".join(listed.stdout.split())
    assert (checked.returncode, good.returncode, "ROUTER_WALLET" in good.stdout) == (0, 0, False)
    (catalog / "providers" / "scripted.toml").write_text(
        f'name = "x"\nbase_url = "{up.base_url}"\npays = "x402"\npay_to = "me"\n'
    )
    assert "pay_to: an address is 0x" in run_router(tmp_path, "catalog", "check", str(catalog)).stdout


def test_what_a_killed_service_had_signed_still_counts(up: ScriptedUpstream, tmp_path: Path) -> None:
    """Killed while the paid call is under way: whether the upstream cashes it, nobody here knows."""
    shop = Shop(served=lambda receipt: hang())
    up.on(MODEL, shop)
    catalog = catalog_of(up, tmp_path)
    environ = {"ROUTER_WALLET_KEY": KEY, "ROUTER_WALLET_CAP_DAY_USD": "0.015"}
    with serve(tmp_path, "--catalog", str(catalog), **environ) as service:
        service.read_until("ready")
        service.drain()
        asking = threading.Thread(target=_ask, args=(service.port,))
        asking.start()
        wait_for(lambda: shop.payments or None, "the payment")
        service.send(signal.SIGKILL)
        asking.join()
    found = shown(tmp_path, **environ)
    assert (found["today"]["reserved_usd"], [p["state"] for p in found["payments"]]) == (0.01, ["reserved"])
    shop.served = lambda receipt: answer(headers=receipt)
    with RouterServer(catalog, tmp_path / "data", wallet_key=KEY, wallet_cap_day_usd="0.015") as router:
        assert router.chat(model=MODEL).status == 502
    assert len(shop.payments) == 1


def _ask(port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "hello"}]})
    connection.request("POST", "/v1/chat/completions", body)
    with pytest.raises((OSError, http.client.HTTPException)):
        connection.getresponse()
    connection.close()


def test_workers_share_one_cap(up: ScriptedUpstream, tmp_path: Path) -> None:
    shop = Shop()
    up.on(MODEL, shop)
    environ = {"ROUTER_WALLET_CAP_DAY_USD": "0.07"}
    with (
        Workers(tmp_path, catalog_of(up, tmp_path), 3, **environ) as service,
        ThreadPoolExecutor(20) as pool,
    ):
        got = list(pool.map(lambda _: service.chat(model=MODEL).status, range(20)))
    assert (sorted(got).count(200), len(shop.payments), shop.faults) == (7, 7, [])
    assert len({payment["from"] for payment in shop.payments}) == 1
    assert shown(tmp_path, **environ)["today"]["left_usd"] == 0


VALID_BEFORE = 1_000_000


def settle(books: Books, chain: ScriptedChain | None, now_s: float, network: str = SEPOLIA) -> list[str]:
    """Have the wallet ask about one used and one unused signature, and one that is not void yet."""

    async def run() -> list[str]:
        storage = await open_storage(books.data, books.url)
        settings = Settings(wallet_key=KEY, wallet_rpc=None if chain is None else chain.url)
        wallet = Wallet(settings, books.data, storage.spending, monotonic=lambda: 0.0)
        try:
            for number, late in ((1, 0), (2, 0), (3, 10_000)):
                spend = Spend(
                    nonce=f"0x{number:064x}",
                    payer=ADDRESS.lower(),
                    provider="acme",
                    origin="https://a",
                    network=network,
                    asset=USDC.lower(),
                    pay_to="0xpayee",
                    amount=1,
                    nusd=1_000,
                    valid_before=VALID_BEFORE + late,
                    request_id=f"req-{number}",
                )
                await storage.spending.reserve(spend, Caps(10**6, 10**6), pinned=False, now=NOW)
            await wallet.reconcile(now_s)
            return [found.state for found in reversed(await storage.spending.recent())]
        finally:
            await wallet.aclose()
            await storage.close()

    return asyncio.run(run())


def test_the_chain_says_what_became_of_signatures_that_are_void(books: Books, chain: ScriptedChain) -> None:
    chain.used = {f"0x{1:064x}"}
    chain.time = VALID_BEFORE + 61
    assert settle(books, chain, VALID_BEFORE + 61) == ["spent", "freed", "reserved"]


def test_without_a_chain_nothing_is_given_back(books: Books) -> None:
    assert settle(books, None, VALID_BEFORE * 2) == ["reserved"] * 3


@pytest.mark.parametrize("what", ["behind", "another", "broken", "early"])
def test_a_chain_that_cannot_know_yet_gives_nothing_back(
    books: Books, chain: ScriptedChain, what: str
) -> None:
    chain.time = VALID_BEFORE + 60 if what == "behind" else VALID_BEFORE + 1_000
    chain.chain_id = 8453 if what == "another" else 84532
    chain.broken = {"broken": b'{"error": {"code": 1}}'}.get(what)
    now_s = VALID_BEFORE + (30 if what == "early" else 1_000)
    assert settle(books, chain, now_s) == ["reserved"] * 3
