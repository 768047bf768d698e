"""Wallets that nobody here wrote buy answers of the router: on chain, exactly what it charges."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from tests.chain.clients import CLIENTS, OPENAI_EXACT, OPENAI_UPTO, Client
from tests.chain.facilitator import Facilitator
from tests.chain.parts import Parts
from tests.chain.selling import MODEL, shop
from tests.router import RouterServer
from tests.service.walking import books_of, ledger_rows, wait_all_ended, wait_for
from tests.service.wallets import listed as payments_of
from tests.upstream import ScriptedUpstream, status

BODY = {"model": "auto", "messages": [{"role": "user", "content": "Say hello"}], "max_tokens": 50}
UNIT_NUSD = 1_000


@pytest.fixture(scope="module")
def payee(parts: Parts) -> str:
    return parts.payee()


@pytest.fixture(scope="module")
def sold(
    parts: Parts, payee: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[RouterServer, ScriptedUpstream]]:
    with shop(parts, parts.facilitator, tmp_path_factory.mktemp("shop"), payee) as served:
        yield served


def quoted(router: RouterServer, body: dict[str, object]) -> int:
    """Return what the dry run says that a body may cost, in units of the token."""
    told = router.request("POST", "/v1/route", json.dumps(body, separators=(",", ":")).encode())
    assert told.status == 200
    usd = Decimal(json.loads(told.body, parse_float=str)["quote"]["max_usd"])
    return -int(-usd * 1_000_000 // 1)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("client", CLIENTS, ids=str)
def test_a_stock_client_pays_once_what_the_ledger_says(
    parts: Parts,
    facilitator: Facilitator,
    sold: tuple[RouterServer, ScriptedUpstream],
    payee: str,
    client: Client,
    stream: bool,
) -> None:
    router, _ = sold
    payer, money = parts.payer_for(client), parts.money_for(client)
    before = money.balance_of(payee)
    body = BODY | {"stream": stream}

    seen = parts.clients.pay(client, f"{router.base_url}/chat/completions", payer, body)

    assert (seen.status, seen.error) == (200, None), seen.body
    moved = [one for one in money.transfers(to=payee) if one.sender == payer.address.lower()]
    assert len(moved) == len(seen.credentials) == 1
    assert money.balance_of(payee) - before == moved[0].value
    usage = seen.chunks[-2]["usage"] if stream else json.loads(seen.body)["usage"]
    charged = Decimal(str(usage["cost"])) * 1_000_000
    assert charged == moved[0].value
    if client.pays != "upto":
        assert moved[0].value == quoted(router, body)
    else:
        assert 0 < moved[0].value < quoted(router, body)
    receipt = seen.stream_receipt if stream and client.pays == "upto" else seen.receipt
    assert receipt is not None
    assert moved[0].transaction in (receipt.get("transaction"), receipt.get("reference"))
    rows = [row for row in ledger_rows(router) if row.request_id == seen.headers["x-request-id"]]
    assert [row.kind for row in rows] == ["hold", "settle"]
    assert rows[1].amount_nusd == moved[0].value * UNIT_NUSD
    assert rows[1].account.endswith(payer.address.lower())


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("client", [OPENAI_EXACT, OPENAI_UPTO], ids=str)
def test_the_openai_sdk_pays_over_a_paying_fetch(
    parts: Parts,
    facilitator: Facilitator,
    sold: tuple[RouterServer, ScriptedUpstream],
    client: Client,
    stream: bool,
) -> None:
    router, _ = sold
    seen = parts.clients.pay(client, router.base_url, parts.payer(), BODY | {"stream": stream})
    assert (seen.status, seen.error) == (200, None), seen.body
    assert "Say hello" in seen.body


def test_the_books_are_right_after_all_of_them(
    parts: Parts, facilitator: Facilitator, sold: tuple[RouterServer, ScriptedUpstream], payee: str
) -> None:
    router, _ = sold
    rows = wait_all_ended(router)
    came = parts.usdc.balance_of(payee) + parts.path_usd.balance_of(payee)
    topups = sum(row.amount_nusd for row in rows if row.kind == "topup")
    settles = sum(row.amount_nusd for row in rows if row.kind == "settle")
    assert came * UNIT_NUSD == topups == settles
    assert books_of(router).differences() == []


def test_an_upstream_that_fails_costs_the_payer_nothing(
    parts: Parts, facilitator: Facilitator, payee: str, tmp_path: Path
) -> None:
    client = CLIENTS[0]
    payee = parts.payee()
    with shop(parts, facilitator, tmp_path, payee) as (router, upstream):
        upstream.on(MODEL, status(500))
        seen = parts.clients.pay(client, f"{router.base_url}/chat/completions", parts.payer(), BODY)
        assert (seen.status, parts.usdc.balance_of(payee)) == (502, 0)
        assert wait_for(lambda: [row.kind for row in ledger_rows(router)] or None, "rows") == [
            "hold",
            "release",
        ]
    assert facilitator.counts()["settle"] == 0


def test_what_was_pushed_for_an_answer_that_failed_is_listed(
    parts: Parts, facilitator: Facilitator, tmp_path: Path
) -> None:
    push = next(client for client in CLIENTS if client.task.get("mode") == "push")
    payer, payee = parts.payer_for(push), parts.payee()
    with shop(parts, facilitator, tmp_path, payee) as (router, upstream):
        upstream.on(MODEL, status(500))
        seen = parts.clients.pay(push, f"{router.base_url}/chat/completions", payer, BODY)
        assert seen.status == 502
        (moved,) = parts.path_usd.transfers(to=payee)
        kinds = [row.kind for row in wait_all_ended(router)]
        assert sorted(kinds) == ["hold", "release", "topup"]
        (listed,) = payments_of(books_of(router), open_only=True)
    assert (listed.transaction, listed.taken, listed.unserved) == (moved.transaction, moved.value, True)
