"""The wallet pays upstreams that ask for it: once, what is worth it, and it is in the books."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.router import Answer, Offered, RouterServer, write_catalog
from tests.selling import ADDRESS, KEY, OTHER_PAYEE, PAYEE, PRICE, Shop, signatures
from tests.service.buying import FREE, MODEL, PROTOCOLS, TWIN, buyer, changed, wait_states, wallet
from tests.service.walking import (
    Client,
    ledger_rows,
    question,
    request_id,
    run_command,
    wait_all_ended,
    wait_end,
    wait_for,
)
from tests.upstream import (
    Gate,
    ScriptedUpstream,
    answer,
    cut_body,
    hang,
    redirect,
    reset,
    status,
    stream,
)

NUSD = PRICE * 1_000


@pytest.fixture
def up() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as server:
        yield server


@pytest.fixture
def other() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as server:
        yield server


@pytest.mark.parametrize("transport", ["fast", "stock"])
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("pays", PROTOCOLS)
def test_what_was_paid_is_the_cost_of_the_call(
    up: ScriptedUpstream, tmp_path: Path, pays: Any, streamed: bool, transport: str
) -> None:
    shop = Shop(
        pays, served=lambda receipt: (stream if streamed else answer)(headers=_with_type(receipt, streamed))
    )
    up.on(MODEL, shop)
    with buyer(up, tmp_path, pays, provider=f'transport = "{transport}"') as router:
        got = router.chat(model=MODEL, stream=streamed)
        settle = wait_end(router, request_id(got))
        (payment,) = wait_states(router, "spent")
        today = wallet(router)["today"]

    assert (got.status, shop.faults) == (200, [])
    assert (got.events()[-1] == "[DONE]") if streamed else got.json["choices"]
    assert [paid["from"] for paid in shop.payments] == [ADDRESS]
    assert len(up.requests) == 2
    assert up.requests[0].body == up.requests[1].body
    assert (settle.kind, settle.upstream_cost_nusd) == ("settle", NUSD)
    assert (payment["transaction"], payment["amount"]) == (f"0x{1:064x}", str(PRICE))
    assert payment["request_id"] == settle.request_id
    assert (today["spent_usd"], today["reserved_usd"], today["left_usd"]) == (0.01, 0, 4.99)


def _with_type(receipt: list[tuple[str, str]], streamed: bool) -> list[tuple[str, str]]:
    return [("content-type", "text/event-stream"), *receipt] if streamed else receipt


@pytest.mark.parametrize(
    ("pays", "change"),
    [
        ("x402", changed(maxTimeoutSeconds=10**9)),
        ("mpp", changed(parameters={"expires": "2099-01-01T00:00:00Z"})),
    ],
)
def test_a_signature_is_good_for_ten_minutes_whatever_is_asked_for(
    up: ScriptedUpstream, tmp_path: Path, pays: Any, change: Any
) -> None:
    shop = Shop(pays, change=change)
    up.on(MODEL, shop)
    with buyer(up, tmp_path, pays) as router:
        assert router.chat(model=MODEL).status == 200
    assert (len(shop.payments), shop.faults) == (1, [])


AFTER = {
    "a second 402": lambda shop: status(402, headers=shop.demand(_NOBODY)),
    "500": lambda shop: status(500),
    "a refused bound": lambda shop: status(400, {"error": {"message": "max_tokens is too large"}}),
    "silence": lambda shop: hang(),
    "a reset": lambda shop: reset(),
    "a redirect": lambda shop: redirect("http://127.0.0.1:1/v1"),
}


class _Nobody:
    body = b""
    path = "/v1/chat/completions"

    def header(self, name: str) -> str:
        return "127.0.0.1"


_NOBODY: Any = _Nobody()


@pytest.mark.parametrize("pays", PROTOCOLS)
@pytest.mark.parametrize("what", AFTER)
def test_whatever_follows_a_signature_is_final_at_that_provider(
    up: ScriptedUpstream, other: ScriptedUpstream, tmp_path: Path, pays: Any, what: str
) -> None:
    shop = Shop(pays)
    shop.served = lambda receipt: AFTER[what](shop)
    up.on(MODEL, shop).on(TWIN, shop)
    other.on(FREE, answer())
    provider = "timeout_s = { first_byte = 0.5 }"
    with buyer(
        up, tmp_path, pays, provider=provider, models=[Offered(MODEL), Offered(TWIN)], free=other
    ) as router:
        got = router.chat(model=MODEL, models=[TWIN, FREE])
        end = wait_end(router, request_id(got)) if got.status == 200 else wait_all_ended(router)[-1]
        (payment,) = wait_states(router, "unknown")
        today = wallet(router)["today"]

    assert len(shop.payments) == 1
    assert shop.faults == []
    assert signatures(up.requests) == 1
    # One call without and one with the payment; another offer of this provider is not even asked.
    assert len(up.requests) == 2
    assert got.status == (400 if what == "a refused bound" else 200)
    # The free one's list price is 1 and 2 USD a million tokens; what was lost is on top of it.
    assert end.upstream_cost_nusd is not None
    assert 0 <= end.upstream_cost_nusd - NUSD < 1_000_000
    assert end.kind == ("release" if what == "a refused bound" else "settle")
    assert payment["transaction"] is None
    assert (today["spent_usd"], today["reserved_usd"]) == (0, 0.01)


def test_a_served_answer_that_breaks_off_has_been_paid_for(up: ScriptedUpstream, tmp_path: Path) -> None:
    shop = Shop(served=lambda receipt: cut_body())
    up.on(MODEL, shop)
    with buyer(up, tmp_path) as router:
        got = router.chat(model=MODEL)
        (_, end) = wait_all_ended(router)
        wait_states(router, "unknown")  # its 200 told no transaction

    assert got.status == 502
    assert (end.kind, end.upstream_cost_nusd, len(shop.payments)) == ("release", NUSD, 1)


def test_another_payee_than_at_first_is_not_paid_unless_the_file_names_it(
    up: ScriptedUpstream, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shop = Shop()
    up.on(MODEL, shop)
    with buyer(up, tmp_path) as router:
        assert router.chat(model=MODEL).status == 200
        shop.change = changed(payTo=OTHER_PAYEE)
        assert router.chat(model=MODEL).status == 502
    assert "another one than at first" in caplog.text
    with buyer(up, tmp_path) as router:  # it is remembered beyond the process
        assert router.chat(model=MODEL).status == 502
    assert len(shop.payments) == 1
    with buyer(up, tmp_path, provider=f'pay_to = "{OTHER_PAYEE}"') as router:
        assert router.chat(model=MODEL).status == 200
    assert len(shop.payments) == 2


def test_a_pinned_payee_is_the_only_one(
    up: ScriptedUpstream, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shop = Shop()
    up.on(MODEL, shop)
    with buyer(up, tmp_path, provider=f'pay_to = "{OTHER_PAYEE}"') as router:
        assert router.chat(model=MODEL).status == 502
    assert "its file says pay_to" in caplog.text
    with buyer(up, tmp_path, provider=f'pay_to = "{PAYEE.upper().replace("0X", "0x")}"') as router:
        assert router.chat(model=MODEL).status == 200


def test_of_twenty_requests_at_once_a_cap_for_seven_pays_seven(up: ScriptedUpstream, tmp_path: Path) -> None:
    shop = Shop()
    up.on(MODEL, shop)
    with buyer(up, tmp_path, wallet_cap_day_usd="0.0799") as router, ThreadPoolExecutor(20) as pool:
        ready = threading.Barrier(20)

        def ask(_: int) -> Answer:
            ready.wait()
            return router.chat(model=MODEL)

        got = list(pool.map(ask, range(20)))
        payments = wait_states(router, *["spent"] * 7)
        assert router.chat(model=MODEL).status != 200
        assert wallet(router)["today"]["left_usd"] == 0.0099
        costs = [row.upstream_cost_nusd for row in wait_all_ended(router) if row.kind == "settle"]

    assert sorted(answer.status == 200 for answer in got) == [False] * 13 + [True] * 7
    assert len(shop.payments) == len(payments) == len({paid["nonce"] for paid in shop.payments}) == 7
    assert shop.faults == []
    assert costs == [NUSD] * 7


def test_a_request_stays_below_its_cap_over_all_providers(
    up: ScriptedUpstream, other: ScriptedUpstream, tmp_path: Path
) -> None:
    first, second = Shop(served=lambda receipt: status(500)), Shop()
    up.on(MODEL, first)
    other.on(FREE, second)
    for cap, paid in (("0.0199", 0), ("0.02", 1)):
        second.payments.clear()
        with buyer(up, tmp_path / cap, free=other, free_pays="x402", wallet_cap_request_usd=cap) as router:
            got = router.chat(model=MODEL, models=[FREE])
        assert (got.status == 200, len(second.payments)) == (bool(paid), paid)
    assert len(first.payments) == 2


def test_a_client_that_leaves_costs_what_was_sent_and_no_more(up: ScriptedUpstream, tmp_path: Path) -> None:
    gate = Gate()
    shop = Shop(served=lambda receipt: stream(gate=gate))
    up.on(MODEL, shop)
    with buyer(up, tmp_path) as router:
        client = Client(router, question(model=MODEL, stream=True))
        up.wait_requests(2)
        client.leave()
        up.wait_abandoned(1)
        gate.open()
        wait_all_ended(router)
        wait_for(lambda: wallet(router)["payments"] or None, "the payment")
        assert wallet(router)["today"]["left_usd"] == 4.99


def test_a_signature_that_never_left_is_given_back(up: ScriptedUpstream, tmp_path: Path) -> None:
    """The seller stops listening after its 402: the paid call finds nobody to connect to."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(1)
    port = listener.getsockname()[1]

    def ask_and_vanish() -> None:
        connection, _ = listener.accept()
        with connection:
            data = b""
            while b"}" not in data.partition(b"\r\n\r\n")[2]:
                data += connection.recv(65_536)
            listener.close()
            demand = Shop().demand(_NOBODY)
            head = "".join(f"{name}: {value}\r\n" for name, value in demand)
            connection.sendall(
                f"HTTP/1.1 402 Pay\r\n{head}connection: close\r\ncontent-length: 2\r\n\r\n{{}}".encode()
            )

    seller = threading.Thread(target=ask_and_vanish)
    seller.start()
    catalog = write_catalog(
        tmp_path / "catalog",
        {"scripted": f"http://127.0.0.1:{port}/v1"},
        [Offered(MODEL)],
        provider='pays = "x402"',
    )
    with RouterServer(catalog, tmp_path / "data", wallet_key=KEY) as router:
        got = router.chat(model=MODEL)
        wait_states(router, "freed")
        (_, end) = wait_all_ended(router)
        assert wallet(router)["today"]["left_usd"] == 5
    seller.join()
    assert (got.status, end.upstream_cost_nusd) == (502, None)


def test_our_key_stays_behind_where_the_payment_takes_its_place(up: ScriptedUpstream, tmp_path: Path) -> None:
    for pays in PROTOCOLS:
        shop = Shop(pays)
        up.on(MODEL, shop)
        catalog = write_catalog(
            tmp_path / pays,
            {"scripted": up.base_url},
            [Offered(MODEL)],
            provider=f'pays = "{pays}"\nkey_env = "UP_KEY"\nheaders = {{ api-key = "second" }}',
        )
        before = len(up.requests)
        with RouterServer(
            catalog, tmp_path / f"{pays}-data", environ={"UP_KEY": "first"}, wallet_key=KEY
        ) as router:
            assert router.chat(model=MODEL).status == 200
        asked, paid = up.requests[before:]
        assert (asked.header("authorization"), asked.header("api-key")) == ("Bearer first", "second")
        sent = [value for name, value in paid.headers if name.lower() in ("authorization", "api-key")]
        assert (sent == ["Bearer first", "second"]) if pays == "x402" else len(sent) == 1


def test_nothing_of_the_key_is_told(
    up: ScriptedUpstream, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shop = Shop()
    up.on(MODEL, shop)
    with buyer(up, tmp_path) as router:
        told = [router.chat(model=MODEL).body]
        shop.served = lambda receipt: status(500)
        told += [router.chat(model=MODEL).body]
        told += [router.request("GET", path).body for path in ("/wallet", "/v1/wallet", "/metrics")]
        told += [router.log.getvalue().encode(), run_command(router, "wallet", "--json").output.encode()]
        told += [
            repr(router.settings).encode(),
            caplog.text.encode(),
            json.dumps([str(r) for r in ledger_rows(router)]).encode(),
        ]
        told += [request.body + repr(request.headers).encode() for request in up.requests]
    assert not any(KEY[2:] in text.decode() for text in told)


def test_an_offer_that_cannot_be_paid_says_what_is_missing(up: ScriptedUpstream, tmp_path: Path) -> None:
    for settings, says in (
        ({"wallet_cap_day_usd": "0"}, "set ROUTER_WALLET_CAP_DAY_USD above 0"),
        ({"wallet_key": "0x12"}, "ROUTER_WALLET_KEY must be a private key"),
    ):
        with buyer(up, tmp_path, **settings, access="paid", admin_key="operator") as router:
            (offer,) = router.catalog.current.models[MODEL].offers
            shown = router.request("GET", "/wallet", headers={"authorization": "Bearer operator"}).json
        assert says in (offer.unusable or "")
        assert (shown["can_pay"], says in shown["blocked"]) == (False, True)


def test_money_does_not_go_over_plain_http(tmp_path: Path) -> None:
    catalog = write_catalog(
        tmp_path / "c",
        {"far": "http://far.example/v1"},
        [Offered(MODEL, provider="far")],
        provider='pays = "x402"',
    )
    with RouterServer(catalog, tmp_path / "data", wallet_key=KEY) as router:
        (offer,) = router.catalog.current.models[MODEL].offers
    assert "https://" in (offer.unusable or "")
