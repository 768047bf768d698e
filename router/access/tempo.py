"""Settle MPP's `tempo/charge` on the chain: send what was signed, look up what was sent.

What comes back is believed only as far as the receipt goes: status 1, and an event of the token that names
the payer, us, the exact amount and this challenge. Source: draft-tempo-charge; TIP-20's events.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from router.access import reasons
from router.access.mpp_tempo import Order, is_memo
from router.access.rpc import NO_SUCH_METHOD, Node, NodeAway, NodeRefused
from router.access.tempo_transaction import read_transaction
from router.access.terms import Away, Refused, Settled, Unknown
from router.ledger.payments import PaymentClaim

ASK_S = 5.0
SEND_S = 15.0
"""How long the node may take to send a transaction and wait for its receipt."""
LOOKS = 10
LOOK_EVERY_S = 0.5
"""A block takes about half a second: how often, and how long between, a receipt is looked for."""
CLOCK_S = 10
"""How far past a transaction's end the chain's clock must be before we say that it will not come."""
TRANSFER = "0xddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef"
TRANSFER_WITH_MEMO = "0x57bc7354aa85aed339e000bccffabbc529466af35f0772c8f8ee1145927de7f0"
_REVERTED = frozenset((3, -32000, -32003))  # reverted, invalid input, transaction rejected
_WORD = re.compile(r"0x[0-9a-fA-F]{64}", re.ASCII)
_QUANTITY = re.compile(r"0x[0-9a-fA-F]{1,64}", re.ASCII)

_T = TypeVar("_T")


class _Log(Struct, frozen=True, gc=False):
    address: str
    topics: list[str]
    data: str


class _Receipt(Struct, frozen=True, gc=False, rename="camel"):
    transaction_hash: str
    status: str
    logs: list[_Log]


class _Block(Struct, frozen=True, gc=False):
    timestamp: str


class Tempo:
    """Settle on one chain of Tempo; implements `Settler`.

    `wait` sleeps so many seconds, between two looks for a receipt.
    """

    def __init__(self, node: Node, chain_id: int, *, wait: Callable[[float], Any] = asyncio.sleep) -> None:
        self._node = node
        self._chain_id = chain_id
        self._wait = wait
        self._started = False

    @property
    def available(self) -> bool:
        """Tell whether offers can be made: it is the right chain, and its node does not rest."""
        return self._started and self._node.available

    async def start(self) -> None:
        """Make sure of the chain. Raises Refused when it is another one than was set, Away."""
        try:
            found = _number(await self._node.call("eth_chainId", [], timeout_s=ASK_S))
        except (NodeRefused, NodeAway, ValueError):
            raise Away("the chain (ROUTER_MPP_TEMPO_RPC) does not answer eth_chainId") from None
        if found != self._chain_id:
            raise Refused(
                f"ROUTER_MPP_TEMPO_RPC serves chain {found}, ROUTER_MPP_TEMPO_CHAIN_ID says {self._chain_id}",
                fresh=False,
            )
        self._started = True

    async def verify(self, claim: PaymentClaim) -> None:
        """Try a signed transfer without sending it, or look for one that was sent. Raises Refused, Away."""
        order = _order(claim)
        try:
            if order.raw is None:
                await self._pushed(claim, order)
            else:
                await self._try(claim, order.raw)
        except (NodeAway, ValueError):
            raise Away from None

    async def settle(self, claim: PaymentClaim, amount: int) -> Settled:
        """Have the signed transfer done, for exactly what was asked.

        Raises Refused when nothing moved for sure, Unknown, and Away when nothing was sent.
        """
        if amount != claim.amount:
            raise ValueError(f"a transfer of {claim.amount} cannot become one of {amount}")
        order = _order(claim)
        try:
            if order.raw is None:
                return await self._pushed(claim, order)
            return _paid(await self._send(order.raw, order.hash), claim, order)
        except (NodeAway, NodeRefused, ValueError):
            raise Unknown from None

    async def moved(self, claim: PaymentClaim) -> Settled | None:
        """Say whether the transfer was done; None only when it cannot be any more. Raises Unknown."""
        order = _order(claim)
        try:
            receipt = await self._receipt(order.hash)
            if receipt is None:
                # The clock first, then the receipt anew: what is in no block by then will be in none.
                block = await self._node.call("eth_getBlockByNumber", ["latest", False], timeout_s=ASK_S)
                over = _number(_converted(block, _Block).timestamp) > claim.expires_at + CLOCK_S
                receipt = await self._receipt(order.hash)
                if receipt is None and not over:
                    raise Unknown
            return None if receipt is None else _paid(receipt, claim, order)
        except Refused:
            return None
        except (NodeAway, NodeRefused, ValueError):
            raise Unknown from None

    async def aclose(self) -> None:
        """Close the connections."""
        await self._node.aclose()

    async def _pushed(self, claim: PaymentClaim, order: Order) -> Settled:
        """Return the transfer of a client that sent it by itself; no new offer where it cannot be found."""
        try:
            receipt = await self._look(order.hash)
        except NodeRefused:
            raise NodeAway(sent=False) from None
        if receipt is None:
            raise Refused(reasons.NOT_FOUND, fresh=False)
        return _paid(receipt, claim, order)

    async def _try(self, claim: PaymentClaim, raw: str) -> None:
        """Run a transfer as its sender, without sending it: it fails where the sender's balance does not do.

        Raises Refused, NodeAway, and ValueError for what is not one call, which no claim is made of.
        """
        (call,) = read_transaction(bytes.fromhex(raw[2:])).calls
        asked = {"from": claim.payer, "to": call.to, "data": "0x" + call.data.hex()}
        try:
            await self._node.call("eth_call", [asked, "latest"], timeout_s=ASK_S)
        except NodeRefused as fault:
            if fault.code not in _REVERTED:
                raise NodeAway(sent=False) from None
            raise Refused(reasons.SIMULATION, problem="payment-insufficient") from None

    async def _send(self, raw: str, hash_: str) -> _Receipt:
        """Send a transaction and return its receipt; to send it twice changes nothing.

        Raises Away when it could not be sent, Refused when it is in no block and in no queue; NodeAway,
        NodeRefused and ValueError when nobody can say.
        """
        refused = False
        try:
            try:
                answer = await self._node.call("eth_sendRawTransactionSync", [raw], timeout_s=SEND_S)
                if isinstance(answer, dict):
                    return _converted(answer, _Receipt)
            except NodeRefused as fault:
                if fault.code != NO_SUCH_METHOD:
                    raise
                await self._node.call("eth_sendRawTransaction", [raw], timeout_s=SEND_S)
        except NodeAway as fault:
            if not fault.sent:
                raise Away from None
        except NodeRefused:
            refused = True
        receipt = await self._receipt(hash_) if refused else await self._look(hash_)
        if receipt is None and refused:
            # It may be queued from before, or the node only stopped waiting: then it is not over.
            if await self._node.call("eth_getTransactionByHash", [hash_], timeout_s=ASK_S) is None:
                raise Refused(reasons.TRANSACTION_REFUSED)
            receipt = await self._look(hash_)
        if receipt is None:
            raise NodeAway(sent=True)
        return receipt

    async def _look(self, hash_: str) -> _Receipt | None:
        """Look for a receipt for some blocks' time; a fault of the node does not end it. Raises NodeAway."""
        for left in range(LOOKS - 1, -1, -1):
            try:
                receipt = await self._receipt(hash_)
            except NodeAway:
                if not left:
                    raise
                receipt = None
            if receipt is not None or not left:
                return receipt
            await self._wait(LOOK_EVERY_S)
        return None

    async def _receipt(self, hash_: str) -> _Receipt | None:
        answer = await self._node.call("eth_getTransactionReceipt", [hash_], timeout_s=ASK_S)
        return None if answer is None else _converted(answer, _Receipt)


def _paid(receipt: _Receipt, claim: PaymentClaim, order: Order) -> Settled:
    """Return the transfer that a receipt proves. Raises Refused.

    One transfer with a memo writes both events. The plain one counts only where we have read the memo in the
    transaction itself.
    """
    if receipt.transaction_hash.lower() != order.hash or receipt.status != "0x1":
        raise Refused(reasons.TRANSACTION)
    if not any(_pays(log, claim, order) for log in receipt.logs):
        raise Refused(reasons.TRANSFER)
    return Settled(order.hash, claim.amount)


def _pays(log: _Log, claim: PaymentClaim, order: Order) -> bool:
    """Say whether an event is the transfer that a claim is for; raises nothing on odd ones."""
    kind = log.topics[0].lower() if log.topics else ""
    parties = [topic.lower() for topic in log.topics[1:3]]
    if parties != [_word(claim.payer), _word(claim.pay_to)] or log.address.lower() != claim.asset:
        return False
    if log.data.lower() != f"0x{claim.amount:064x}":
        return False
    if kind == TRANSFER_WITH_MEMO and len(log.topics) == 4:
        memo = log.topics[3]
        return _WORD.fullmatch(memo) is not None and is_memo(
            bytes.fromhex(memo[2:]), order.realm, claim.challenge or ""
        )
    return kind == TRANSFER and len(log.topics) == 3 and order.raw is not None


def _word(address: str) -> str:
    """Return an address as an event's topic writes it."""
    return "0x" + address[2:].lower().rjust(64, "0")


def _order(claim: PaymentClaim) -> Order:
    return msgspec.json.decode(claim.order, type=Order)


def _converted(answer: object, kind: type[_T]) -> _T:
    """Return an answer as what it should be. Raises ValueError."""
    try:
        return msgspec.convert(answer, kind)
    except msgspec.ValidationError:
        raise ValueError("not the form of an answer") from None


def _number(answer: object) -> int:
    """Return the number that a quantity writes. Raises ValueError."""
    if not isinstance(answer, str) or _QUANTITY.fullmatch(answer) is None:
        raise ValueError("not a quantity")
    return int(answer, 16)
