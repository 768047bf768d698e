"""What becomes of a settlement whose client, facilitator or storage goes away in its middle."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from router.access.selling import Seller
from router.access.terms import Settled
from router.errors import Unavailable
from router.ledger.payments import Payment
from router.ledger.rows import Release
from router.settling import Settling
from tests.facilitator import ScriptedFacilitator, refused, slow, status
from tests.router import Offered, RouterServer, write_catalog
from tests.service.ledgers import Books, running
from tests.service.walking import Client, books_of, run_command, wait_all_ended, wait_for
from tests.service.wallets import claim, metered, paying, stored
from tests.upstream import ScriptedUpstream
from tests.wallets import Wallet

PAY_TO = "0x" + "c0ffee" + "0" * 33 + "1"
BODY = {"model": "auto", "messages": [{"role": "user", "content": "Say hello"}], "max_tokens": 50}


@pytest.fixture
def facilitator() -> Iterator[ScriptedFacilitator]:
    with ScriptedFacilitator() as scripted:
        yield scripted


@pytest.fixture
def router(facilitator: ScriptedFacilitator, tmp_path: Path) -> Iterator[RouterServer]:
    with ScriptedUpstream() as upstream:
        models = [Offered("test/model", price=(3.0, 15.0))]
        catalog = write_catalog(tmp_path / "catalog", {"scripted": upstream.base_url}, models)
        settings = {
            "x402_pay_to": PAY_TO,
            "x402_facilitator": facilitator.url,
            "x402_network": "eip155:84532",
        }
        with RouterServer(catalog, tmp_path / "data", access="paid", **settings) as served:
            yield served


def signed(router: RouterServer, facilitator: ScriptedFacilitator, scheme: str) -> dict[str, str]:
    """Return the header that pays BODY."""
    wallet = Wallet()
    facilitator.fund(wallet.address, 1_000_000)
    facilitator.allow(wallet.address)
    asked = router.request("POST", "/v1/chat/completions", BODY)
    assert asked.status == 402
    return wallet.pays(asked.headers, scheme)


def payments(router: RouterServer) -> list[Payment]:
    async def read(storage: Any) -> list[Payment]:
        return [payment async for payment in storage.payments.all()]

    return books_of(router).ask(read)


def left_while_it_is_settled(
    router: RouterServer, facilitator: ScriptedFacilitator, scheme: str, gate: threading.Event
) -> None:
    """Pay, and leave while the facilitator thinks; then let it answer."""
    client = Client(router, BODY, signed(router, facilitator, scheme))
    wait_for(lambda: facilitator.calls("/settle") or None, "the settlement")
    client.leave()
    wait_all_ended(router)
    gate.set()


@pytest.mark.parametrize("scheme", ["exact", "upto"])
def test_who_leaves_during_a_settlement_that_fails_owes_nothing(
    router: RouterServer, facilitator: ScriptedFacilitator, scheme: str
) -> None:
    gate = threading.Event()
    facilitator.on("/settle", slow(gate, then=refused("insufficient_funds")))
    left_while_it_is_settled(router, facilitator, scheme, gate)
    wait_for(lambda: None if payments(router) else True, "the end of the payment")
    assert [row.kind for row in wait_all_ended(router)] == ["hold", "release"]
    assert facilitator.transfers == []


@pytest.mark.parametrize("scheme", ["exact", "upto"])
def test_who_leaves_during_a_settlement_has_paid_for_what_was_not_served(
    router: RouterServer, facilitator: ScriptedFacilitator, scheme: str
) -> None:
    gate = threading.Event()
    facilitator.on("/settle", slow(gate))
    left_while_it_is_settled(router, facilitator, scheme, gate)
    wait_for(lambda: payments(router)[0].state == "settled" or None, "the settlement's note")
    listed = json.loads(run_command(router, "ledger", "payments", "--json").stdout)
    assert (listed["unserved"], listed["unpaid"]) == (True, False)
    assert int(listed["taken"]) == facilitator.transfers[0].amount
    assert [row.kind for row in wait_all_ended(router)] == ["hold", "release", "topup"]
    assert run_command(router, "ledger", "check").exit_code == 0


def test_upto_is_not_asked_for_again_where_nothing_was_served(
    router: RouterServer, facilitator: ScriptedFacilitator
) -> None:
    header = signed(router, facilitator, "upto")
    facilitator.on("/settle", status(500), status(500))
    answer = router.request("POST", "/v1/chat/completions", BODY, header)
    assert (answer.status, answer.error["name"]) == (503, "settlement_unknown")
    wait_for(lambda: facilitator.calls("/verify")[1:] or None, "the question what became of it")
    assert len(facilitator.calls("/settle")) == 2
    assert facilitator.transfers == []
    (payment,) = payments(router)
    assert (payment.state, payment.served_nusd) == ("settling", None)


class _Forgetful:
    """Payments whose confirmation is lost on the way, so many times."""

    def __init__(self, payments: Any, losses: int) -> None:
        self._payments = payments
        self._losses = losses

    def __getattr__(self, name: str) -> Any:
        return getattr(self._payments, name)

    async def settling(self, key: str, taken: int, taken_nusd: int, *, now: str) -> bool:
        done: bool = await self._payments.settling(key, taken, taken_nusd, now=now)
        if self._losses:
            self._losses -= 1
            raise Unavailable("the answer was lost", retry_after_s=1)
        return done


class _Honest:
    """A method and its settler; `asked` are the amounts that it moved."""

    protocol = "x402"
    available = True

    def __init__(self) -> None:
        self.asked: list[int] = []

    def settlers(self) -> list[Any]:
        return [self]

    def settler_of(self, _: Any) -> Any:
        return self

    async def settle(self, _: Any, amount: int) -> Settled:
        self.asked.append(amount)
        return Settled("0x" + "1" * 64, amount)


def settling_over(ledger: Any, losses: int) -> tuple[Settling, _Honest]:
    """Return a settling whose notes are written, and not confirmed so many times."""
    method, seller = _Honest(), Seller(unit_nusd=1, floor_nusd=0)
    seller.sell_by([method])  # type: ignore[list-item]  # as much of one as is used
    kept: Any = SimpleNamespace(payments=_Forgetful(ledger.payments, losses))
    return Settling(seller, kept, books_now, lambda *_: None, pause=lambda _: asyncio.sleep(0)), method


def books_now() -> Any:
    return datetime(2026, 11, 1, 12, tzinfo=UTC)


def test_a_note_that_was_written_and_not_confirmed_is_settled_all_the_same(books: Books) -> None:
    ledger = books.open()

    async def serve() -> list[int]:
        settling, method = settling_over(ledger, losses=1)
        await ledger.hold(paying(1))
        await ledger.settle(metered(1))
        settling.collect(claim(1), 4_000, 4)
        await settling.close(5.0)
        return method.asked

    with running(ledger) as runner:
        assert runner.run(serve()) == [4_000]
    found = stored(books)
    assert found is not None
    assert (found.state, found.taken) == ("settled", 4_000)


def test_a_note_that_was_not_confirmed_is_taken_back_where_nothing_was_served(books: Books) -> None:
    ledger = books.open()

    async def refuse() -> list[int]:
        settling, method = settling_over(ledger, losses=1)
        await ledger.hold(paying(1))
        with pytest.raises(Unavailable):
            await settling.take(claim(1), 4_000, 4, owed=False)
        await ledger.settle(Release("req-1"))
        await settling.close(5.0)
        return method.asked

    with running(ledger) as runner:
        assert runner.run(refuse()) == []
    assert stored(books) is None
