"""Settling on Tempo: what a node says, what is believed of it, and what is said when it cannot be known."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

import msgspec
import pytest

from router.access.mpp_tempo import Order
from router.access.rpc import Node
from router.access.tempo import LOOKS, TRANSFER, TRANSFER_WITH_MEMO, Tempo
from router.access.terms import Away, Refused, Settled, Unknown
from router.ledger.payments import PaymentClaim
from tests.mpp_wallet import MppWallet, Wire, encode, memo_of
from tests.rpc_node import RpcNode, elsewhere, error, hang_up, long_answer, page, result

WALLET = MppWallet("0x" + "01" * 32)
TOKEN = "0x20c0000000000000000000000000000000000000"
PAY_TO = "0x" + "ab" * 20
ENDS = 1_800_000_025
CHALLENGE: Wire = {
    "id": "x5uE3GoxkWR8mcvvWb_lzBCKmX9Wxgf961qeLX7ifWw",
    "realm": "router.example",
    "expires": "2027-01-15T08:00:25Z",
    "request": encode(
        msgspec.json.encode(
            {
                "amount": "5000",
                "currency": TOKEN,
                "recipient": PAY_TO,
                "methodDetails": {"chainId": 4217},
            }
        )
    ),
}
RAW = "0x" + WALLET.transaction(CHALLENGE).hex()
HASH = "0x" + "5e" * 32
PULL = Order(HASH, "router.example", RAW)
PUSH = Order(HASH, "router.example")
DONE = Settled(HASH, 5000)
RECEIPT, SYNC, SEND = "eth_getTransactionReceipt", "eth_sendRawTransactionSync", "eth_sendRawTransaction"
KNOWN = "eth_getTransactionByHash"
T = TypeVar("T")


def claim(order: Order = PULL) -> PaymentClaim:
    return PaymentClaim(
        key=f"tempo:eip155:4217:{TOKEN}:{HASH}",
        challenge=CHALLENGE["id"],
        protocol="mpp",
        scheme="tempo/charge",
        network="eip155:4217",
        asset=TOKEN,
        payer=WALLET.address.lower(),
        pay_to=PAY_TO,
        amount=5000,
        expires_at=ENDS,
        order=msgspec.json.encode(order),
    )


def word(address: str) -> str:
    return "0x" + address[2:].lower().rjust(64, "0")


def event(*, memo: str | None = "0x" + memo_of(CHALLENGE, b"ten bytes!").hex(), **changes: Any) -> Wire:
    said = {"address": TOKEN, "sender": WALLET.address, "recipient": PAY_TO, "amount": 5000, **changes}
    kind = [TRANSFER] if memo is None else [TRANSFER_WITH_MEMO]
    topics = [*kind, word(said["sender"]), word(said["recipient"]), *([] if memo is None else [memo])]
    return {"address": said["address"], "topics": topics, "data": f"0x{said['amount']:064x}"}


def receipt(*logs: Wire, **changes: Any) -> Wire:
    found = list(logs) or [event(memo=None), event()]
    return {"transactionHash": HASH, "status": "0x1", "logs": found, "blockNumber": "0x7", **changes}


@pytest.fixture
def node() -> Iterator[RpcNode]:
    with RpcNode() as made:
        made.on("eth_chainId", result("0x1079"))
        made.on(RECEIPT, result(None))
        made.on(KNOWN, result(None))
        yield made


def run(url: str, work: Callable[[Tempo], Awaitable[T]]) -> T:
    async def at_once(_: float) -> None:
        """Look again without waiting."""

    async def main() -> T:
        tempo = Tempo(Node(url), 4217, wait=at_once)
        try:
            return await work(tempo)
        finally:
            await tempo.aclose()

    return asyncio.run(main())


def settle(node: RpcNode, order: Order = PULL) -> Settled:
    return run(node.url, lambda tempo: tempo.settle(claim(order), 5000))


def verify(node: RpcNode, order: Order = PULL) -> None:
    run(node.url, lambda tempo: tempo.verify(claim(order)))


def moved(node: RpcNode, order: Order = PULL) -> Settled | None:
    return run(node.url, lambda tempo: tempo.moved(claim(order)))


@pytest.fixture
def nobody() -> str:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}/"


def test_it_starts_on_the_chain_that_was_set(node: RpcNode) -> None:
    async def work(tempo: Tempo) -> None:
        assert not tempo.available
        await tempo.start()
        assert tempo.available

    run(node.url, work)
    assert node.methods() == ["eth_chainId"]


def test_another_chain_is_refused_at_the_start_by_name(node: RpcNode) -> None:
    node.on("eth_chainId", result("0xa5bf"))
    with pytest.raises(Refused, match=r"serves chain 42431, ROUTER_MPP_TEMPO_CHAIN_ID says 4217"):
        run(node.url, lambda tempo: tempo.start())


@pytest.mark.parametrize("reply", [page(), page(200), error(-32000), result(4217), result("0x"), hang_up])
def test_a_node_that_does_not_say_its_chain_is_away(node: RpcNode, reply: Any) -> None:
    node.on("eth_chainId", reply)
    with pytest.raises(Away):
        run(node.url, lambda tempo: tempo.start())


def test_a_transfer_is_tried_as_its_payer_before_anything_is_served(node: RpcNode) -> None:
    node.on("eth_call", result("0x" + "0" * 63 + "1"))
    verify(node)
    ((method, (call, block)),) = node.asked
    assert (method, block) == ("eth_call", "latest")
    assert (call["from"], call["to"]) == (WALLET.address.lower(), TOKEN)
    assert call["data"].startswith("0x95777d59")


def test_a_transfer_that_would_fail_is_refused(node: RpcNode) -> None:
    node.on("eth_call", error(3))
    with pytest.raises(Refused) as caught:
        verify(node)
    assert (caught.value.reason, caught.value.problem) == ("simulation_failed", "payment-insufficient")
    assert caught.value.fresh


@pytest.mark.parametrize("reply", [error(-32005), error(-32603), page(), hang_up, elsewhere, long_answer])
def test_a_node_that_cannot_try_a_transfer_is_away(node: RpcNode, reply: Any) -> None:
    node.on("eth_call", reply)
    with pytest.raises(Away):
        verify(node)


def test_what_cannot_be_tried_alone_is_never_taken_for_good(node: RpcNode) -> None:
    raw = WALLET.transaction(CHALLENGE, calls=[[bytes(20), 0, b""], [bytes(20), 0, b""]])
    with pytest.raises(Away):
        verify(node, Order(HASH, "router.example", "0x" + raw.hex()))
    assert node.asked == []


def test_a_transaction_is_sent_once_and_its_receipt_believed(node: RpcNode) -> None:
    node.on(SYNC, result(receipt()))
    assert settle(node) == DONE
    assert node.asked == [(SYNC, [RAW])]


def test_a_node_without_the_waiting_call_is_asked_for_the_receipt(node: RpcNode) -> None:
    node.on(SYNC, error(-32601))
    node.on(SEND, result(HASH))
    node.on(RECEIPT, result(None), result(None), result(receipt()))
    assert settle(node) == DONE
    assert node.methods() == [SYNC, SEND, RECEIPT, RECEIPT, RECEIPT]


@pytest.mark.parametrize("reply", [hang_up, page(), page(200), long_answer, elsewhere, result(None)])
def test_an_answer_that_got_lost_is_looked_for_on_the_chain(node: RpcNode, reply: Any) -> None:
    node.on(SYNC, reply)
    node.on(RECEIPT, result(None), hang_up, result(receipt()))
    assert settle(node) == DONE


@pytest.mark.parametrize("reply", [hang_up, page(), result(None)])
def test_what_cannot_be_found_after_it_was_sent_is_unknown(node: RpcNode, reply: Any) -> None:
    node.on(SYNC, reply)
    with pytest.raises(Unknown):
        settle(node)
    assert node.methods() == [SYNC, *[RECEIPT] * LOOKS]


def test_a_node_that_goes_away_after_it_got_the_transaction_leaves_it_unknown(node: RpcNode) -> None:
    node.on(SYNC, hang_up)
    node.on(RECEIPT, hang_up)
    with pytest.raises(Unknown):
        settle(node)


def test_a_transaction_that_the_node_refuses_and_does_not_know_has_moved_nothing(node: RpcNode) -> None:
    node.on(SYNC, error(-32000))
    with pytest.raises(Refused, match="transaction_refused"):
        settle(node)


@pytest.mark.parametrize("code", [4, -32000])
def test_a_refused_transaction_that_waits_all_the_same_is_waited_for(node: RpcNode, code: int) -> None:
    node.on(SYNC, error(code))
    node.on(KNOWN, result({"hash": HASH}))
    node.on(RECEIPT, result(None), result(None), result(receipt()))
    assert settle(node) == DONE
    node.on(RECEIPT, result(None))
    with pytest.raises(Unknown):
        settle(node)


def test_a_refused_transaction_that_is_in_a_block_was_paid(node: RpcNode) -> None:
    node.on(SYNC, error(-32000))
    node.on(RECEIPT, result(receipt()))
    assert settle(node) == DONE


def test_a_refusal_that_cannot_be_checked_is_unknown(node: RpcNode) -> None:
    node.on(SYNC, error(-32000))
    node.on(KNOWN, error(-32005))
    with pytest.raises(Unknown):
        settle(node)


def test_what_could_not_be_sent_is_said_to_be_unsent(nobody: str) -> None:
    with pytest.raises(Away):
        run(nobody, lambda tempo: tempo.settle(claim(), 5000))


def test_only_what_was_signed_can_be_charged(node: RpcNode) -> None:
    with pytest.raises(ValueError, match="5000 cannot become one of 4999"):
        run(node.url, lambda tempo: tempo.settle(claim(), 4999))
    assert node.asked == []


WRONG = {
    "another token": receipt(event(address="0x" + "11" * 20)),
    "another payer": receipt(event(sender="0x" + "11" * 20)),
    "another recipient": receipt(event(recipient="0x" + "11" * 20)),
    "less": receipt(event(amount=4999)),
    "more": receipt(event(amount=5001)),
    "another challenge": receipt(event(memo="0x" + memo_of({**CHALLENGE, "id": "other"}).hex())),
    "another realm": receipt(event(memo="0x" + memo_of({**CHALLENGE, "realm": "other"}).hex())),
    "no memo's form": receipt(event(memo="0x12")),
    "no event": {**receipt(), "logs": []},
    "an odd event": receipt({"address": TOKEN, "topics": [], "data": "0x"}),
    "a failure": receipt(status="0x0"),
    "another transaction": receipt(transactionHash="0x" + "11" * 32),
}


@pytest.mark.parametrize("order", [PULL, PUSH], ids=["pull", "push"])
@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_a_receipt_for_anything_else_is_no_payment(node: RpcNode, wrong: Wire, order: Order) -> None:
    node.on(SYNC, result(wrong))
    node.on(RECEIPT, result(wrong))
    with pytest.raises(Refused):
        settle(node, order)
    assert moved(node, order) is None


@pytest.mark.parametrize("odd", [{}, [], "0x1", {"transactionHash": HASH}, receipt(logs=None)])
def test_a_receipt_that_cannot_be_read_says_nothing(node: RpcNode, odd: Any) -> None:
    node.on(SYNC, result(odd))
    node.on(RECEIPT, result(odd))
    with pytest.raises(Unknown):
        settle(node)
    with pytest.raises(Unknown):
        moved(node)


def test_a_plain_event_is_enough_only_where_the_memo_was_read_in_the_transaction(node: RpcNode) -> None:
    plain = result(receipt(event(memo=None)))
    node.on(SYNC, plain)
    node.on(RECEIPT, plain)
    assert settle(node) == DONE
    with pytest.raises(Refused):
        settle(node, PUSH)


def test_what_a_client_sent_is_looked_up_and_not_sent(node: RpcNode) -> None:
    node.on(RECEIPT, result(None), result(receipt()))
    verify(node, PUSH)
    assert settle(node, PUSH) == DONE
    assert set(node.methods()) == {RECEIPT}


def test_what_a_client_says_to_have_sent_and_nobody_finds_brings_no_new_offer(node: RpcNode) -> None:
    with pytest.raises(Refused) as caught:
        verify(node, PUSH)
    assert (caught.value.reason, caught.value.fresh) == ("transaction_not_found", False)


def test_a_stranger_cannot_show_what_another_one_paid(node: RpcNode) -> None:
    node.on(RECEIPT, result(receipt(event(sender="0x" + "11" * 20))))
    with pytest.raises(Refused):
        verify(node, PUSH)


def at(seconds: int) -> Any:
    return result({"timestamp": hex(seconds), "number": "0x7"})


def test_after_a_crash_the_chain_says_what_moved(node: RpcNode) -> None:
    node.on(RECEIPT, result(receipt()))
    assert moved(node) == DONE
    assert node.methods() == [RECEIPT]


def test_nothing_has_moved_only_when_it_cannot_any_more(node: RpcNode) -> None:
    for now in (ENDS - 100, ENDS, ENDS + 10):
        node.on("eth_getBlockByNumber", at(now))
        with pytest.raises(Unknown):
            moved(node)
    node.on("eth_getBlockByNumber", at(ENDS + 11))
    assert moved(node) is None


def test_what_comes_between_two_looks_is_seen(node: RpcNode) -> None:
    node.on("eth_getBlockByNumber", at(ENDS + 11))
    node.on(RECEIPT, result(None), result(receipt()))
    assert moved(node) == DONE


@pytest.mark.parametrize("reply", [hang_up, page(), error(-32000), result({}), result(None)])
def test_while_the_chain_says_nothing_it_is_unknown(node: RpcNode, reply: Any) -> None:
    node.on("eth_getBlockByNumber", reply)
    with pytest.raises(Unknown):
        moved(node)


def test_a_node_that_fails_in_a_row_rests(node: RpcNode) -> None:
    now = 100.0

    async def main() -> None:
        nonlocal now
        tempo = Tempo(Node(node.url, clock=lambda: now), 4217)
        await tempo.start()
        node.on("eth_chainId", page())
        for _ in range(5):
            assert tempo.available
            with pytest.raises(Away):
                await tempo.start()
        assert not tempo.available
        now += 10
        assert tempo.available
        node.on("eth_chainId", error(-32000))  # it says no, but it answers
        with pytest.raises(Away):
            await tempo.start()
        node.on("eth_chainId", page())
        with pytest.raises(Away):
            await tempo.start()
        assert tempo.available
        await tempo.aclose()

    asyncio.run(main())


def test_no_word_of_the_node_and_no_address_gets_out(node: RpcNode, nobody: str) -> None:
    seen: list[BaseException] = []
    for reply in (error(3), error(-32000), error(-32005), page(), hang_up, long_answer):
        for method in ("eth_chainId", "eth_call", SYNC, RECEIPT, KNOWN):
            node.on(method, reply)
        for url in (node.url, nobody):
            for work in ("start", "verify", "settle", "moved"):
                arguments: list[Any] = [] if work == "start" else [claim()]
                if work == "settle":
                    arguments.append(5000)
                with pytest.raises((Refused, Away, Unknown)) as caught:
                    run(url, lambda tempo, work=work, arguments=arguments: getattr(tempo, work)(*arguments))
                seen.append(caught.value)
    assert len(seen) == 48
    for fault in seen:
        assert not any(word in repr(fault) for word in ("127.0.0.1", "secret", "key-of-ours", "reverted"))
        assert fault.__cause__ is None
        assert fault.__suppress_context__ or fault.__context__ is None
    assert "key-of-ours" not in repr(Node(node.url))
